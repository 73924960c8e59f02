package pgtest_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/goleak"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
)

func TestKinds(t *testing.T) {
	for kind, want := range map[pgtest.Kind]string{pgtest.Doorbell: "0", pgtest.TwoPhase: "10"} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, &pgtest.Options{Kind: kind})
			if got := pgtest.Value[string](t, db, "select current_setting('max_prepared_transactions')"); got != want {
				t.Errorf("max_prepared_transactions is %s, want %s", got, want)
			}
			if got := pgtest.Value[string](t, db, "select current_database()::text"); got != db.Name {
				t.Errorf("the database is %s, want %s", got, db.Name)
			}
			if got := pgtest.Value[bool](t, db, "select to_regclass('pgcast.event_log') is not null"); !got {
				t.Error("no migration has run")
			}
		})
	}
}

func TestEmpty(t *testing.T) {
	db := pgtest.New(t, &pgtest.Options{Empty: true})
	if got := pgtest.Value[int](t, db, "select count(*)::int from pg_namespace where nspname = 'pgcast'"); got != 0 {
		t.Error("migrations have run")
	}
}

func TestDatabasesAreApart(t *testing.T) {
	a, b := pgtest.New(t, nil), pgtest.New(t, nil)
	a.Exec(t, "create table here (n int); insert into here values (1)")
	if tag := a.Exec(t, "insert into here select generate_series($1::int, 4)", 2); tag.RowsAffected() != 3 {
		t.Errorf("inserted %d rows", tag.RowsAffected())
	}
	if got := pgtest.Value[bool](t, b, "select to_regclass('here') is null"); !got {
		t.Error("one test's table is in another's database")
	}
	var n int
	if err := a.Pool(t).QueryRow(t.Context(), "select count(*) from here").Scan(&n); err != nil || n != 4 {
		t.Errorf("through the pool: %d rows, %v", n, err)
	}
	if err := a.Conn(t).QueryRow(t.Context(), "select count(*) from here").Scan(&n); err != nil || n != 4 {
		t.Errorf("through a connection: %d rows, %v", n, err)
	}
}

// TestDatabaseGoesWithItsTest leaves behind all that keeps a database from being dropped.
func TestDatabaseGoesWithItsTest(t *testing.T) {
	outside := pgtest.New(t, &pgtest.Options{Kind: pgtest.TwoPhase, Empty: true})
	var name string
	t.Run("inner", func(t *testing.T) {
		db := pgtest.New(t, &pgtest.Options{Kind: pgtest.TwoPhase, Empty: true})
		name = db.Name
		follow(t, db) // first: a new slot waits for open transactions
		db.Exec(t, "create table held (n int)")
		busy, err := pgconn.Connect(context.Background(), db.URL) // not closed when the database goes
		if err != nil {
			t.Fatal(err)
		}
		if err := busy.Exec(t.Context(), "begin; lock table held").Close(); err != nil {
			t.Fatal(err)
		}
		db.Exec(t, "create table other (n int)")
		conn := db.Conn(t)
		for _, sql := range []string{"begin", "insert into other values (1)", "prepare transaction 'it''s " + db.Name + "'"} {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
	})
	const sql = `select (select count(*) from pg_database where datname = $1)
		+ (select count(*) from pg_prepared_xacts where database = $1)
		+ (select count(*) from pg_replication_slots where database = $1)`
	if got := pgtest.Value[int64](t, outside, sql, name); got != 0 {
		t.Errorf("%d things are left of %s", got, name)
	}
}

// follow leaves an active logical replication slot.
func follow(t *testing.T, db *pgtest.DB) {
	t.Helper()
	conn, err := pgconn.Connect(context.Background(), db.URL+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"CREATE_REPLICATION_SLOT " + db.Name + " LOGICAL pgoutput",
		"START_REPLICATION SLOT " + db.Name + " LOGICAL 0/0 (proto_version '1', publication_names 'none')",
	} {
		conn.Frontend().Send(&pgproto3.Query{String: sql})
		if err := conn.Frontend().Flush(); err != nil {
			t.Fatal(err)
		}
		for done := false; !done; {
			msg, err := conn.ReceiveMessage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			switch msg := msg.(type) {
			case *pgproto3.ErrorResponse:
				t.Fatalf("%s: %s", sql, msg.Message)
			case *pgproto3.ReadyForQuery, *pgproto3.CopyBothResponse:
				done = true
			}
		}
	}
}

func TestNoGoroutinesStay(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("inner", func(t *testing.T) {
		db := pgtest.New(t, nil)
		db.Exec(t, "select 1")
		if err := db.Pool(t).Ping(t.Context()); err != nil {
			t.Error(err)
		}
		db.Conn(t)
	})
}

func TestNamesFitEverywhere(t *testing.T) {
	t.Run("Ünïcode, spaces & a name that is much longer than any identifier may be in Postgres", func(t *testing.T) {
		db := pgtest.New(t, &pgtest.Options{Empty: true})
		if len(db.Name) > 63 || strings.Trim(db.Name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			t.Errorf("the name is %q", db.Name)
		}
		db.Exec(t, "select pg_create_logical_replication_slot($1, 'pgoutput')", db.Name)
	})
}

func TestPrivateSurvivesACrash(t *testing.T) {
	c := pgtest.Private(t, &devpg.Options{Settings: map[string]string{"max_connections": "20"}})
	db := &pgtest.DB{URL: c.URL("postgres"), Name: "postgres"}
	for name, want := range map[string]string{"fsync": "on", "full_page_writes": "on", "max_connections": "20"} {
		if got := pgtest.Value[string](t, db, "select current_setting($1)", name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	db.Exec(t, "create table kept (n int); insert into kept values (1)")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Restart(ctx, devpg.Immediate); err != nil {
		t.Fatal(err)
	}
	if got := pgtest.Value[int](t, db, "select n from kept"); got != 1 {
		t.Errorf("found %d", got)
	}
}

func TestSkip(t *testing.T) {
	t.Setenv("PGCAST_TEST_SKIP_PG", "1")
	skipped := false
	t.Run("inner", func(t *testing.T) {
		defer func() { skipped = t.Skipped() }()
		pgtest.New(t, nil)
	})
	if !skipped {
		t.Error("the test ran on")
	}
}

func BenchmarkNew(b *testing.B) {
	pgtest.New(b, nil) // starts what has to be started
	for b.Loop() {
		pgtest.New(b, nil)
	}
}

// A free address can be listened on, and is none that the system gives to others.
func TestFreeAddress(t *testing.T) {
	addr := pgtest.FreeAddress(t)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if port := l.Addr().(*net.TCPAddr).Port; port < 10_000 || port >= 15_000 {
		t.Errorf("port %d", port)
	}
}
