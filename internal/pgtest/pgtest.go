// Package pgtest gives tests a real Postgres: a database for each test, cloned from a
// migrated template in a cluster that all test processes of a run share.
//
//	db := pgtest.New(t, nil)
//	pool := db.Pool(t)
//
// The first process that needs the cluster starts it, and it stops by itself some seconds
// after the last one has gone. LISTEN channels, advisory locks and schemas belong to one
// database, so parallel tests do not meet there; roles, replication slots and prepared
// transactions' names belong to the whole cluster: derive them from [DB.Name].
//
// Three variables of the environment matter. PGCAST_PG_BIN names the directory of the
// Postgres binaries to use; PGCAST_TEST_PG is the only major version to use, found or loaded
// as package devpg does; and PGCAST_TEST_SKIP_PG=1 skips every test that needs Postgres.
//
// Tests of package migrations, which this package uses, are of package migrations_test.
package pgtest

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast/internal/devpg"
)

// Kind is what the cluster allows.
type Kind int

// The kinds.
const (
	Doorbell Kind = iota // no prepared transactions, so capture rings the doorbell
	TwoPhase             // prepared transactions, so capture does not ring
	Logical              // like Doorbell, for tests with replication slots: to make one waits for everybody's open transactions
)

func (k Kind) String() string {
	switch k {
	case TwoPhase:
		return "twophase"
	case Logical:
		return "logical"
	}
	return "doorbell"
}

// Options for New.
type Options struct {
	Kind  Kind
	Empty bool // no migration has run
}

// patience is what starting a cluster or cleaning up after a test may take.
const patience = 2 * time.Minute

// DB is a database of one test's own.
type DB struct {
	URL  string
	Name string // also fit for a role or a replication slot
}

// New makes a database that is dropped when the test ends, whoever is still connected.
func New(t testing.TB, opts *Options) *DB {
	t.Helper()
	skip(t)
	var o Options
	if opts != nil {
		o = *opts
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := join(ctx, o.Kind)
	if err != nil {
		t.Fatalf("pgtest: get the shared Postgres: %v", err)
	}
	template := "template0"
	if !o.Empty {
		if template, err = s.migrated(ctx); err != nil {
			t.Fatalf("pgtest: make the migrated template: %v", err)
		}
	}
	name := s.databaseName(t.Name())
	if err := s.create(ctx, name, template); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := drop(ctx, s.url, name); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return &DB{URL: s.url(name), Name: name}
}

// Conn opens a connection that is closed when the test ends.
func (db *DB) Conn(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatalf("pgtest: connect: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = conn.Close(ctx) // the test may have broken it on purpose
	})
	return conn
}

// Pool opens a pool that is closed when the test ends.
func (db *DB) Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	// Not the test's own context: the pool keeps it for its connections.
	pool, err := pgxpool.New(context.Background(), db.URL)
	if err != nil {
		t.Fatalf("pgtest: open pool: %v", err)
	}
	t.Cleanup(func() {
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			pool.Close()
		}()
		select {
		case <-closed:
		case <-time.After(10 * time.Second):
			t.Errorf("pgtest: %d connections of a pool are still in use after the test: release them", pool.Stat().AcquiredConns())
		}
	})
	return pool
}

// Exec runs SQL on a connection of its own, or fails the test. Without arguments it may
// be several statements.
func (db *DB) Exec(t testing.TB, sql string, args ...any) pgconn.CommandTag {
	t.Helper()
	conn := db.once(t)
	defer conn.Close(t.Context())
	tag, err := conn.Exec(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("pgtest: exec %s: %v", sql, err)
	}
	return tag
}

// Value gives the one value that a query finds, or fails the test.
func Value[T any](t testing.TB, db *DB, sql string, args ...any) T {
	t.Helper()
	conn := db.once(t)
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("pgtest: query %s: %v", sql, err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("pgtest: query %s: %v", sql, err)
	}
	return v
}

func (db *DB) once(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatalf("pgtest: connect: %v", err)
	}
	return conn
}

// Private runs a cluster of the test's own, with fsync on: to crash it. It is empty; run
// migrations.Up on one of its databases.
func Private(t testing.TB, opts *devpg.Options) *devpg.Cluster {
	t.Helper()
	var o devpg.Options
	if opts != nil {
		o = *opts
	}
	o.Durable = true
	if o.Binaries.Dir == "" {
		o.Binaries = Binaries(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := devpg.Start(ctx, &o)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last that Postgres said:\n%s", tail(c.LogFile()))
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.Stop(ctx); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return c
}

// Binaries are the Postgres that tests use; the test fails with what to do about it when
// there is none.
func Binaries(t testing.TB) devpg.Binaries {
	t.Helper()
	skip(t)
	b, err := binaries()
	if err != nil {
		t.Fatalf("pgtest: %v\n  without a Postgres         PGCAST_TEST_SKIP_PG=1 skips the tests that need one", err)
	}
	return b
}

var binaries = sync.OnceValues(func() (devpg.Binaries, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // it may have to be loaded
	defer cancel()
	version := 0
	if text := os.Getenv("PGCAST_TEST_PG"); text != "" {
		var err error
		if version, err = strconv.Atoi(text); err != nil {
			return devpg.Binaries{}, fmt.Errorf("PGCAST_TEST_PG: %w", err)
		}
	}
	return devpg.Find(ctx, &devpg.FindOptions{
		BinDir: os.Getenv("PGCAST_PG_BIN"), Version: version,
		Say: func(line string) { fmt.Fprintln(os.Stderr, "pgtest:", line) },
	})
})

func skip(t testing.TB) {
	t.Helper()
	if os.Getenv("PGCAST_TEST_SKIP_PG") == "1" {
		t.Skip("pgtest: PGCAST_TEST_SKIP_PG=1 skips tests that need Postgres")
	}
}

func tail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}
