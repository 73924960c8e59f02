package replay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

// shot is a snapshot that was read.
type shot struct {
	at    pgcast.Snapshot
	lines []string
}

func shoot(log *Log, topic string) (s shot, err error) {
	err = log.Snapshot(context.Background(), topic, func(at pgcast.Snapshot) error { s.at = at; return nil },
		func(r pgcast.Row) error {
			line := fmt.Sprintf("%s %s %s", r.Table, r.Data, r.Key)
			if e := r.Event; e != nil {
				line = fmt.Sprintf("%d %s %s %s %v %s", e.Seq, e.Name, e.Data, e.Old, e.Oversize, e.ID)
			}
			s.lines = append(s.lines, line)
			return nil
		})
	return s, err
}

const rooms = `create table public.m (id int primary key, room_id int, body text); create index on public.m (room_id);
	select pgcast.attach('public.m', topic => 'room:{room_id}');`

// sequence gives places to everything that was written.
func sequence(t *testing.T, d *pgtest.DB) *Log {
	t.Helper()
	pool := d.Pool(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := NewSequencer(d.URL, pool, nil)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return NewLog(pool, &LogOptions{MaxEvent: 1000})
}

func settled(t *testing.T, d *pgtest.DB) {
	t.Helper()
	awaitFor(t, time.Minute, "all is sequenced", func() bool {
		return pgtest.Value[bool](t, d, `select not exists (select from pgcast.event_log e where not exists (select from pgcast.replay r where r.event_id = e.id))`)
	})
}

// waitsFor waits until somebody waits for a lock of a mode.
func waitsFor(t *testing.T, d *pgtest.DB, mode string) {
	t.Helper()
	awaitFor(t, time.Minute, "somebody waits for an "+mode, func() bool {
		return pgtest.Value[bool](t, d, "select exists (select from pg_locks where not granted and mode = $1)", mode)
	})
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	d.Exec(t, rooms+`insert into public.m values (1, 1, 'a'), (2, 1, repeat('x', 2000)), (3, 2, 'c')`)
	d.Exec(t, `create table public.other (id bigint, room int); select pgcast.attach('public.other', topic => 'room:{room}', numbers => 'text'); insert into public.other values (9007199254740993, 1)`)
	log := sequence(t, d)
	settled(t, d)
	s, err := shoot(log, "room:1")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`public.m {"id":1,"room_id":1,"body":"a"} `, `public.m  {"id":2}`, `public.other {"id":"9007199254740993","room":1} `}
	if fmt.Sprint(s.lines) != fmt.Sprint(want) || s.at.Seq != 3 || s.at.Position != 4 || s.at.AsOf.IsZero() {
		t.Errorf("%q at %+v, want %q", s.lines, s.at, want)
	}
	is, err := log.Identity(t.Context())
	if err != nil || s.at.AsOf.Cluster != is {
		t.Errorf("cluster %q, want %q (%v)", s.at.AsOf.Cluster, is, err)
	}
	page, err := log.Page(t.Context(), "room:1", 0, 10)
	if err != nil || len(page.Events) != 3 {
		t.Fatal(page, err)
	}
	for _, e := range page.Events {
		if !s.at.AsOf.Holds(e.XID) {
			t.Errorf("it does not hold the transaction of event %d", e.Seq)
		}
	}
	d.Exec(t, `insert into public.m values (4, 1, 'd')`)
	settled(t, d)
	if page, err = log.Page(t.Context(), "room:1", 3, 10); err != nil || len(page.Events) != 1 || s.at.AsOf.Holds(page.Events[0].XID) {
		t.Errorf("it holds what came after it: %v (%v)", page.Events, err)
	}
	// A topic of no table.
	d.Exec(t, `select pgcast.publish('plain', 'set', '{"id":1,"n":1}'), pgcast.publish('plain', 'set', '{"id":1,"n":2}'), pgcast.publish('plain', 'huge', to_jsonb(repeat('x', 2000)))`)
	settled(t, d)
	if page, err = log.Page(t.Context(), "plain", 0, 10); err != nil || len(page.Events) != 3 {
		t.Fatal(page, err)
	}
	s, err = shoot(log, "plain")
	want = []string{fmt.Sprintf(`2 set {"n": 2, "id": 1}  false %s`, page.Events[1].ID), fmt.Sprintf(`3 huge   true %s`, page.Events[2].ID)}
	if err != nil || fmt.Sprint(s.lines) != fmt.Sprint(want) || s.at.Seq != 3 || !s.at.AsOf.IsZero() {
		t.Errorf("%q at %+v (%v), want %q", s.lines, s.at, err, want)
	}
	if s, err = shoot(log, "nothing"); err != nil || len(s.lines) > 0 || s.at.Seq != 0 {
		t.Errorf("nothing: %+v, %v", s, err)
	}
	// What the caller says ends the read and comes back as it was.
	mine := errors.New("mine")
	if err := log.Snapshot(t.Context(), "room:1", func(pgcast.Snapshot) error { return nil }, func(pgcast.Row) error { return mine }); err != mine {
		t.Errorf("take's error: %v", err)
	}
	if err := log.Snapshot(t.Context(), "room:1", func(pgcast.Snapshot) error { return mine }, nil); err != mine {
		t.Errorf("begin's error: %v", err)
	}
	if n := log.pool.Stat().AcquiredConns(); n > 0 {
		t.Errorf("%d connections were kept", n)
	}
}

// What a snapshot shows is durable, also what its writer has not waited for: else a crash
// would take it back, and nothing would tell the client.
func TestSnapshotIsDurable(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, &devpg.Options{Settings: map[string]string{"wal_writer_delay": "10s"}})
	d := &pgtest.DB{Name: "postgres", URL: c.URL("postgres")}
	if err := migrations.Up(t.Context(), d.URL); err != nil {
		t.Fatal(err)
	}
	d.Exec(t, rooms)
	log := NewLog(d.Pool(t), nil)
	writer := d.Conn(t)
	if _, err := writer.Exec(t.Context(), "set synchronous_commit = off"); err != nil {
		t.Fatal(err)
	}
	open := 0
	for i := range 20 {
		var committed string
		if _, err := writer.Exec(t.Context(), "insert into public.m values ($1, 1, 'a')", i); err != nil {
			t.Fatal(err)
		}
		if err := writer.QueryRow(t.Context(), "select pg_current_wal_insert_lsn()::text").Scan(&committed); err != nil {
			t.Fatal(err)
		}
		if !pgtest.Value[bool](t, d, fmt.Sprintf("select pg_current_wal_flush_lsn() >= '%s'", committed)) {
			open++
		}
		var durable bool
		err := log.Snapshot(t.Context(), "room:1", func(pgcast.Snapshot) error {
			return writer.QueryRow(t.Context(), "select pg_current_wal_flush_lsn() >= $1::text::pg_lsn", committed).Scan(&durable)
		}, func(pgcast.Row) error { return nil })
		if err != nil || !durable {
			t.Fatalf("trial %d: it shows what is not durable (%v)", i, err)
		}
	}
	if open == 0 {
		t.Error("no commit was still to be flushed")
	}
}

// Who waits for the table's lock is not kept waiting, for others would wait behind him.
func TestSnapshotGivesWay(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	d.Exec(t, rooms+`insert into public.m select i, 1, 'x' from generate_series(1, 5000) i`)
	log := sequence(t, d)
	conn := d.Conn(t)
	altered := make(chan error, 1)
	taken := 0
	err := log.Snapshot(t.Context(), "room:1", func(pgcast.Snapshot) error {
		go func() {
			_, err := conn.Exec(context.Background(), "alter table public.m add column more text")
			altered <- err
		}()
		return nil
	}, func(pgcast.Row) error {
		if taken++; taken == 1 {
			waitsFor(t, d, "AccessExclusiveLock")
			time.Sleep(snapshotLook) // the next look is due only then
		}
		return nil
	})
	if !errors.Is(err, pgcast.ErrUnavailable) || !strings.Contains(err.Error(), "somebody waits") || taken == 5000 {
		t.Errorf("after %d rows: %v", taken, err)
	}
	if err := <-altered; err != nil {
		t.Error(err)
	}
	if s, err := shoot(log, "room:1"); err != nil || len(s.lines) != 5000 || !strings.Contains(s.lines[0], `"more":null`) {
		t.Errorf("afterwards: %d rows, %v", len(s.lines), err)
	}
}

// Also while one FETCH takes long: here a column's own cast does; else a table of which few
// rows are the topic's.
func TestSnapshotGivesWayWithinAFetch(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	d.Exec(t, `create type public.slow as enum ('a');
		create function public.slow_json(public.slow) returns json language plpgsql as $$ begin perform pg_catalog.pg_sleep(case when pg_catalog.current_setting('row_security') = 'off' then 60 else 0 end); return '{}'; end $$;
		create cast (public.slow as json) with function public.slow_json(public.slow);
		create table public.m (id int primary key, room_id int, s public.slow); select pgcast.attach('public.m', topic => 'room:{room_id}');
		insert into public.m values (1, 1, 'a')`)
	log := NewLog(d.Pool(t), nil)
	conn := d.Conn(t)
	altered := make(chan error, 1)
	began := time.Now()
	err := log.Snapshot(t.Context(), "room:1", func(pgcast.Snapshot) error {
		go func() {
			_, err := conn.Exec(context.Background(), "alter table public.m add column more text")
			altered <- err
		}()
		return nil
	}, func(pgcast.Row) error { return nil })
	if !errors.Is(err, pgcast.ErrUnavailable) || !strings.Contains(err.Error(), "somebody waits") {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if err := <-altered; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("ALTER TABLE was kept waiting for %v", took)
	}
}

// To the snapshot of a transaction that began before a TRUNCATE the table would be empty:
// the lock comes first.
func TestSnapshotAndTruncate(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	d.Exec(t, rooms+`insert into public.m values (1, 1, 'old')`)
	log := sequence(t, d)
	tx, err := d.Conn(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `truncate public.m; insert into public.m values (2, 1, 'new')`); err != nil {
		t.Fatal(err)
	}
	type result struct {
		shot
		err error
	}
	done := make(chan result, 1)
	go func() { s, err := shoot(log, "room:1"); done <- result{s, err} }()
	waitsFor(t, d, "AccessShareLock")
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.err != nil || len(r.lines) != 1 || !strings.Contains(r.lines[0], "new") {
		t.Errorf("%q, %v", r.lines, r.err)
	}
}

// Row security is not obeyed silently: rows would be missing.
func TestSnapshotUnderRowSecurity(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	role := pgx.Identifier{d.Name}.Sanitize()
	d.Exec(t, rooms+`insert into public.m values (1, 1, 'a'), (2, 1, 'b'); alter table public.m enable row level security; create policy p on public.m using (id = 1);
		create role `+role+` login; grant usage on schema pgcast to `+role+`; grant select on all tables in schema pgcast to `+role+`; grant execute on all functions in schema pgcast to `+role+`;
		grant execute on function pg_control_system to `+role)
	own := *d
	own.URL += "&options=-c%20role%3D" + d.Name
	log := NewLog(own.Pool(t), nil)
	_, err := shoot(log, "room:1")
	if !errors.Is(err, &pgcast.Error{Code: pgcast.CodeForbidden}) || !strings.Contains(err.Error(), "grant select on public.m to") {
		t.Errorf("without the right: %v", err)
	}
	d.Exec(t, `grant select on public.m to `+role)
	refused, err := shoot(log, "room:1")
	if !refused.at.AsOf.IsZero() {
		t.Error("it was said to begin")
	}
	if !errors.Is(err, &pgcast.Error{Code: pgcast.CodeForbidden}) || !strings.Contains(err.Error(), "row-level security") || !strings.Contains(err.Error(), "bypassrls") {
		t.Errorf("under row security: %v", err)
	}
	d.Exec(t, `alter table public.m disable row level security`)
	if s, err := shoot(log, "room:1"); err != nil || len(s.lines) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	log.pool.Close()
	d.Exec(t, `drop owned by `+role+`; drop role `+role)
}
