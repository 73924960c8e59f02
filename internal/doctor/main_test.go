package doctor

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// results are what one run found.
type results []Result

// examine makes the named checks, or all, after the connection's. change may be nil.
func examine(t testing.TB, url string, change func(*Doctor), names ...string) results {
	t.Helper()
	d := New(&Options{DatabaseURL: url, CheckTimeout: time.Minute}) // machines that run tests are busy
	d.limits.roundTrip, d.limits.clockSkew = time.Hour, time.Hour
	if names != nil {
		d.checks = nil
		for _, c := range catalogue {
			for _, n := range append([]string{"connection"}, names...) {
				if c.name == n {
					d.checks = append(d.checks, c)
				}
			}
		}
		if len(d.checks) != len(names)+1 {
			t.Fatalf("not all of %v are checks", names)
		}
	}
	if change != nil {
		change(d)
	}
	var rs results
	if err := d.Run(t.Context(), func(r Result) error {
		rs = append(rs, r)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, r := range rs {
		if r.Name == "" || r.Found == "" || r.Why == "" || (r.Mend == "") != (r.With == "") {
			t.Errorf("a result is not whole: %+v", r)
		}
		if r.Mend == "" && r.State != OK && r.State != Skip && !strings.HasPrefix(r.Found, "and ") {
			t.Errorf("nothing is told to mend: %+v", r)
		}
		if r.State == OK && r.Mend != "" {
			t.Errorf("there is nothing to mend: %+v", r)
		}
	}
	return rs
}

// has tells whether there is a result of a check that holds all texts.
func (rs results) has(name string, state State, texts ...string) bool {
next:
	for _, r := range rs {
		if r.Name != name || r.State != state {
			continue
		}
		for _, text := range texts {
			if !strings.Contains(r.Found+"\n"+r.Mend, text) {
				continue next
			}
		}
		return true
	}
	return false
}

// want fails the test unless there is such a result.
func (rs results) want(t testing.TB, name string, state State, texts ...string) {
	t.Helper()
	if rs.has(name, state, texts...) {
		return
	}
	t.Errorf("want %s to be %s with %q; it is:", name, state, texts)
	for _, r := range rs {
		if r.Name == name {
			t.Errorf("  %s: %s | %s", r.State, r.Found, r.Mend)
		}
	}
}

// mends does what each result of a check says, and checks that it was SQL.
func (rs results) mends(t testing.TB, conn *pgx.Conn, check string) {
	t.Helper()
	for _, r := range rs {
		if r.Name != check || r.Mend == "" {
			continue
		}
		if r.With != SQL {
			t.Errorf("%s is mended by %s, which is not SQL", check, r.Mend)
		} else if _, err := conn.Exec(t.Context(), r.Mend); err != nil {
			t.Errorf("%s: %s: %v", check, r.Mend, err)
		}
	}
}

const patience = 60 * time.Second

// until waits until something is so.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", patience, what)
		case <-tick.C:
		}
	}
}

// begin leaves a transaction open that has run a statement, until the test ends.
func begin(t testing.TB, db *pgtest.DB, sql string) *pgx.Conn {
	t.Helper()
	conn := db.Conn(t)
	run(t, conn, "begin")
	run(t, conn, sql)
	return conn
}

func run(t testing.TB, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// role makes a role that can log in and gives the database's URL for it.
func role(t testing.TB, db *pgtest.DB, options string) (name, url string) {
	t.Helper()
	name = db.Name + "_r"
	db.Exec(t, "create role "+name+" login "+options)
	t.Cleanup(func() { // before the database goes, and what was granted in it
		conn, err := pgx.Connect(context.Background(), db.URL)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		_, err1 := conn.Exec(context.Background(), "drop owned by "+name+" cascade")
		_, err2 := conn.Exec(context.Background(), "drop role "+name)
		if err := errors.Join(err1, err2); err != nil {
			t.Error(err)
		}
	})
	return name, strings.Replace(db.URL, "postgres@", name+"@", 1)
}
