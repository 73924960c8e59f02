package judge

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
)

const rooms = 5

// Rooms are the topics of the table item.
func Rooms() []string { return []string{"room:0", "room:1", "room:2", "room:3", "room:4"} }

// Table is the table that Writers write to. The judge knows it.
const Table = "create table item (id bigint generated always as identity primary key, room int not null, n int not null, note text);"

// Schema makes the table, attached by triggers.
const Schema = Table + `
select pgcast.attach('item', topic => 'room:{room}');`

// Database gives a migrated database with the table item, on a shared cluster.
func Database(t testing.TB, opts *pgtest.Options) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t, opts)
	db.Exec(t, Schema)
	return db
}

// Cluster is Database on a cluster of its own, durable, in its database postgres.
func Cluster(t testing.TB, opts *devpg.Options) (*devpg.Cluster, string) {
	t.Helper()
	return Doorbell.Cluster(t, opts)
}

// Exec runs SQL, or fails the test.
func Exec(t testing.TB, url, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	conn := Connect(t, url)
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		t.Fatalf("%.200s: %v", sql, err)
	}
}

// Value gives the one value that a query finds, or fails the test.
func Value[T any](t testing.TB, url, sql string, args ...any) (v T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	conn := Connect(t, url)
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, sql, args...).Scan(&v); err != nil {
		t.Fatalf("%.200s: %v", sql, err)
	}
	return v
}

// Connect opens a connection that is closed when the test ends.
func Connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // the test may have broken it on purpose
	})
	return conn
}
