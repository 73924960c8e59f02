package roles_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/roles"
)

// names gives a database's roles names of their own: roles are the cluster's.
func names(db *pgtest.DB) roles.Options {
	return roles.Options{Owner: db.Name + "_owner", Server: db.Name + "_server", Writer: db.Name + "_writer"}
}

// apply makes the roles, and takes them away when the test ends.
func apply(t testing.TB, db *pgtest.DB, o roles.Options) {
	t.Helper()
	conn := db.Conn(t)
	sections, err := roles.Script(t.Context(), conn, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sections {
		for _, sql := range s.Statements {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
	}
}

func forget(t testing.TB, db *pgtest.DB, list ...string) {
	t.Cleanup(func() {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, db.URL)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(ctx)
		for _, name := range list {
			for _, sql := range []string{"reassign owned by %s to current_user", "drop owned by %s cascade", "drop role if exists %s"} {
				if _, err := conn.Exec(ctx, fmt.Sprintf(sql, pgx.Identifier{name}.Sanitize())); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func setUp(t testing.TB, db *pgtest.DB, o roles.Options) {
	t.Helper()
	forget(t, db, o.Owner, o.Server, o.Writer)
	apply(t, db, o)
}

func list(t testing.TB, conn *pgx.Conn, sql string, args ...any) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return got
}

var (
	call = regexp.MustCompile(`pgcast\.([a-z_]+) ?\(`)
	text = regexp.MustCompile(`--[^\n]*|'(?:[^']|'')*'`) // what is said, and statements for others
)

// Whatever a server calls can call what it needs: what it calls in turn, but for what runs with
// the owner's rights.
func TestCallsAreWhole(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	rows, err := conn.Query(t.Context(), `select p.proname::text, pg_get_functiondef(p.oid), p.prosecdef from pg_proc p where p.pronamespace = 'pgcast'::regnamespace order by 1`)
	if err != nil {
		t.Fatal(err)
	}
	type proc struct {
		Name, Text string
		Definer    bool
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[proc])
	if err != nil {
		t.Fatal(err)
	}
	for _, wal := range []bool{false, true} {
		o := names(db)
		o.WAL = wal
		if wal {
			apply(t, db, o)
		} else {
			setUp(t, db, o)
		}
		may := list(t, conn, `select p.proname::text from pg_proc p where p.pronamespace = 'pgcast'::regnamespace and has_function_privilege($1, p.oid, 'execute')`, o.Server)
		for _, p := range all {
			if p.Definer || !slices.Contains(may, p.Name) {
				continue
			}
			_, body, _ := strings.Cut(p.Text, "\n")
			for _, m := range call.FindAllStringSubmatch(text.ReplaceAllString(body, ""), -1) {
				if !slices.Contains(may, m[1]) && slices.ContainsFunc(all, func(p proc) bool { return p.Name == m[1] }) {
					t.Errorf("wal=%v: %s calls %s, which the server may not", wal, p.Name, m[1])
				}
			}
		}
		t.Logf("wal=%v: the server may call %d of %d functions", wal, len(may), len(all))
	}
}
