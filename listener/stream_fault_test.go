package listener

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

// pour runs a stream; its end is sent on the channel.
func pour(t *testing.T, url string, opts StreamOptions) (*Stream, <-chan error) {
	t.Helper()
	s, err := OpenStream(t.Context(), url, opts)
	ok(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		ended <- s.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-done
		s.Close()
	})
	return s, ended
}

// inserts counts the inserts of the next batch.
func inserts(batch []Message) (n int) {
	for _, m := range batch {
		if _, ok := m.Message.(*pglogrepl.InsertMessageV2); ok {
			n++
		}
	}
	return n
}

// private makes a migrated cluster of the test's own.
func private(t *testing.T, settings map[string]string) (c *devpg.Cluster, url string, admin *pgx.Conn) {
	t.Helper()
	c = pgtest.Private(t, &devpg.Options{Settings: settings})
	url = c.URL("postgres")
	ok(t, migrations.Up(t.Context(), url))
	return c, url, dial(t, url).Conn()
}

func execute(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%.100s: %v", sql, err)
	}
}

// TestStreamOutlivesAConsumerThatStandsStill for many times wal_sender_timeout, while more is
// written than fits on the way: nothing is lost, and the connection is the same.
func TestStreamOutlivesAConsumerThatStandsStill(t *testing.T) {
	t.Parallel()
	const timeout, still, rows = time.Second, 10 * time.Second, 60_000
	d := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	d.Exec(t, fmt.Sprintf("alter database %s set wal_sender_timeout = '%s'", d.Name, timeout))
	s, ended := pour(t, d.URL, StreamOptions{Publications: []string{"pgcast_wake"}})
	if s.silence != timeout {
		t.Fatalf("wal_sender_timeout is %v", s.silence)
	}
	d.Exec(t, "insert into pgcast.event_log (topic, event, data) select 'a', 'e', json_build_object('a', repeat('x', 500)) from generate_series(1, $1::int)", rows)
	<-time.After(still)
	select {
	case err := <-ended:
		t.Fatalf("it has ended: %v", err)
	default:
	}
	if len(s.batches) != batchesAhead {
		t.Errorf("only %d batches were on the way", len(s.batches))
	}
	got := 0
	for got < rows {
		select {
		case batch, open := <-s.Batches():
			if !open {
				t.Fatalf("it ended after %d rows: %v", got, <-ended)
			}
			got += inserts(batch)
		case <-time.After(within):
			t.Fatalf("%d rows", got)
		}
	}
	if n := pgtest.Value[int](t, d, "select count(*)::int from pg_stat_replication where pid = $1", int(s.PID())); n != 1 || got != rows {
		t.Errorf("%d rows; %d of the connections are the first", got, n)
	}
}

// TestStreamConfirms soon, also where nothing else happens, and answers what it is asked.
func TestStreamConfirms(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	s, _ := pour(t, d.URL, StreamOptions{Publications: []string{"pgcast_wake"}})
	d.Exec(t, "select pgcast.publish('a', 'e')")
	var end pglogrepl.LSN
	for n := 0; n == 0; {
		batch := <-s.Batches()
		n, end = inserts(batch), batch[len(batch)-1].End
	}
	began := time.Now()
	s.Confirm(end)
	s.Confirm(end - 1) // never back
	awaitFor := func(what string, is func() bool) {
		t.Helper()
		await(t, what, is)
		if d := time.Since(began); d > statusEvery/2 {
			t.Errorf("%s: after %v", what, d)
		}
	}
	awaitFor("the slot may forget", func() bool {
		return pgtest.Value[bool](t, d, "select confirmed_flush_lsn >= $1::text::pg_lsn from pg_replication_slots where slot_name = $2", end.String(), s.Slot())
	})
	for len(s.batches) > 0 {
		<-s.batches
	}
	began = time.Now()
	s.Ask()
	awaitFor("it answers", func() bool {
		select {
		case batch := <-s.Batches():
			return batch[0].Message == nil
		default:
			return false
		}
	})
}

// TestStreamNoticesSilence: packets are lost, both ways or one, and no error tells.
func TestStreamNoticesSilence(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	for name, freeze := range map[string]func(*pgtest.Proxy){"both": (*pgtest.Proxy).Freeze, "answers": (*pgtest.Proxy).FreezeAnswers} {
		proxy := pgtest.NewProxy(t, d.URL)
		s, ended := pour(t, proxy.URL, StreamOptions{Publications: []string{"pgcast_wake"}, Timeout: 2 * time.Second})
		go func() {
			for range s.Batches() {
			}
		}()
		<-time.After(3 * time.Second) // idle for longer than that is no silence: it is asked
		select {
		case err := <-ended:
			t.Fatalf("%s: an idle stream ended: %v", name, err)
		default:
		}
		began := time.Now()
		freeze(proxy)
		select {
		case err := <-ended:
			if !errors.Is(err, ErrSilent) || time.Since(began) > within/6 {
				t.Errorf("%s: after %v: %v", name, time.Since(began), err)
			}
		case <-time.After(within):
			t.Errorf("%s: not noticed", name)
		}
	}
}

// TestStreamReasons: why there can be no stream is told apart.
func TestStreamReasons(t *testing.T) {
	t.Parallel()
	c, address, admin := private(t, map[string]string{"max_replication_slots": "8", "max_wal_senders": "4"})
	open := func(url string, opts StreamOptions) error {
		if opts.Publications == nil {
			opts.Publications = []string{"pgcast_wake"}
		}
		s, err := OpenStream(t.Context(), url, opts)
		if err == nil {
			s.Close()
		}
		return err
	}
	senders := func() (n int) {
		ok(t, admin.QueryRow(t.Context(), "select count(*) from pg_stat_activity where backend_type = 'walsender'").Scan(&n))
		return n
	}
	want := func(what string, err, reason error) {
		t.Helper()
		if !errors.Is(err, reason) {
			t.Errorf("%s: %v", what, err)
		}
	}
	execute(t, admin, "create role app login")
	execute(t, admin, "create database other")
	execute(t, admin, "select pg_create_logical_replication_slot('held', 'pgoutput'), pg_create_physical_replication_slot('physical')")
	as := func(role, database string) string {
		u, err := url.Parse(address)
		ok(t, err)
		u.User, u.Path = url.User(role), "/"+database
		return u.String()
	}
	want("a role without the right", open(as("app", "postgres"), StreamOptions{}), ErrNotAllowed)
	want("a publication that is not there", open(address, StreamOptions{Publications: []string{"pgcast_wake", "none'\"of"}}), ErrNoPublication)
	want("a slot that is not there", open(address, StreamOptions{Slot: "none"}), ErrSlotMissing)
	want("a physical slot", open(address, StreamOptions{Slot: "physical"}), ErrSlotMissing)
	want("another database's slot", open(as("postgres", "other"), StreamOptions{Slot: "held", Publications: []string{}}), ErrSlotMissing)

	s, ended := pour(t, address, StreamOptions{Slot: "held", Publications: []string{"pgcast_wake"}})
	want("a slot in use", open(address, StreamOptions{Slot: "held"}), ErrSlotInUse)
	var full error
	for n := 0; full == nil && n < 5; n++ {
		var more *Stream
		if more, full = OpenStream(t.Context(), address, StreamOptions{Publications: []string{"pgcast_wake"}}); full == nil {
			defer more.Close()
			await(t, "no process of before is left", func() bool { return senders() == n+2 })
		}
	}
	want("no WAL sender", full, ErrNoSlots)
	// Taken by another process: the one before is cut off, and told why there is none.
	execute(t, admin, fmt.Sprintf("select pg_terminate_backend(%d)", s.PID()))
	if err := <-ended; err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("cut off: %v", err)
	}
	execute(t, admin, "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'walsender'")
	await(t, "all have ended", func() bool { return senders() == 0 })
	for n := 0; full != nil && n < 10; n++ {
		if _, err := admin.Exec(t.Context(), fmt.Sprintf("select pg_create_physical_replication_slot('more%d')", n)); err != nil {
			full = nil
		}
	}
	want("no slot", open(address, StreamOptions{}), ErrNoSlots)
	execute(t, admin, "select pg_drop_replication_slot('held')")
	want("a slot that was dropped", open(address, StreamOptions{Slot: "held"}), ErrSlotMissing)

	// Lines for replication in pg_hba.conf are for physical replication only.
	var hba string
	ok(t, admin.QueryRow(t.Context(), "show hba_file").Scan(&hba))
	if !strings.HasPrefix(hba, c.Dir()) {
		t.Fatal(hba)
	}
	for _, hbas := range []struct {
		lines  string
		reason error
	}{
		{"host replication all all reject\nhost postgres all all trust\n", nil},
		{"host replication all all trust\nhost postgres app all reject\nhost other all all trust\n", ErrNotAllowed},
	} {
		lines, reason := hbas.lines, hbas.reason
		ok(t, os.WriteFile(hba, []byte(lines+"host all postgres all trust\n"), 0o600))
		execute(t, admin, "select pg_reload_conf()")
		await(t, "pg_hba.conf is read", func() bool {
			conn, err := pgx.Connect(t.Context(), as("app", "postgres"))
			if err == nil {
				ok(t, conn.Close(t.Context()))
			}
			return (err == nil) == (reason == nil)
		})
		if reason == nil {
			execute(t, admin, "alter role app replication")
		}
		if err := open(as("app", "postgres"), StreamOptions{}); !errors.Is(err, reason) {
			t.Errorf("pg_hba.conf %q: %v", lines, err)
		}
	}

	_, replica, _ := private(t, map[string]string{"wal_level": "replica"})
	want("no logical WAL", open(replica, StreamOptions{}), ErrNotLogical)
	if _, err := OpenStream(t.Context(), "postgres://%zz", StreamOptions{}); err == nil || !strings.Contains(err.Error(), "URL") {
		t.Error(err)
	}
}

// TestStreamOfALostSlot: the WAL that a slot needs is removed, while nobody reads it and
// while somebody reads and confirms nothing.
func TestStreamOfALostSlot(t *testing.T) {
	t.Parallel()
	_, address, admin := private(t, map[string]string{"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "64MB"})
	execute(t, admin, "create table much (t text)")
	opts := StreamOptions{Slot: "held", Publications: []string{"pgcast_wake"}}
	for _, active := range []bool{false, true} {
		execute(t, admin, "select pg_create_logical_replication_slot('held', 'pgoutput')")
		var ended <-chan error
		if active {
			var s *Stream
			s, ended = pour(t, address, opts)
			go func() {
				for range s.Batches() { // and confirms nothing
				}
			}()
		}
		await(t, "the slot is lost", func() (lost bool) {
			execute(t, admin, "insert into much select repeat('x', 1000) from generate_series(1, 2000)")
			execute(t, admin, "select pg_switch_wal()")
			execute(t, admin, "checkpoint")
			ok(t, admin.QueryRow(t.Context(), "select wal_status = 'lost' from pg_replication_slots where slot_name = 'held'").Scan(&lost))
			return lost
		})
		if active {
			if err := <-ended; err == nil {
				t.Error("the stream of a lost slot ended without an error")
			}
		}
		if _, err := OpenStream(t.Context(), address, opts); !errors.Is(err, ErrSlotLost) {
			t.Errorf("active %v: %v", active, err)
		}
		execute(t, admin, "select pg_drop_replication_slot('held')")
	}
}

// TestStreamEndsWithTheServer, and Commits begins anew once it is back.
func TestStreamEndsWithTheServer(t *testing.T) {
	t.Parallel()
	c, address, _ := private(t, nil)
	_, ended := pour(t, address, StreamOptions{Publications: []string{"pgcast_wake"}})
	told := make(chan string, 100)
	begun := make(chan bool, 100)
	ctx, stop := context.WithCancel(t.Context())
	commits := NewCommits(address, "pgcast_wake", CommitsOptions{Committed: func(_ uint32, id string) { told <- id }, Follows: func() { begun <- true }})
	run := make(chan error, 1)
	go func() { run <- commits.Run(ctx) }()
	for i, mode := range []devpg.Mode{devpg.Immediate, devpg.Fast} {
		<-begun
		_, err := dial(t, address).Conn().Exec(t.Context(), "select pgcast.publish('a', 'e')")
		ok(t, err)
		if id := <-told; id == "" {
			t.Error("no id was told")
		}
		ok(t, c.Restart(t.Context(), mode))
		if i == 0 {
			if err := <-ended; err == nil {
				t.Error("a stream outlives its server")
			}
		}
	}
	<-begun
	stop()
	if err := <-run; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
