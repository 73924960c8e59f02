package doctor

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/listener"
	"github.com/pgcast/pgcast/replay"
)

// sequence runs a sequencer until the test ends, or until it is stopped.
func sequence(t testing.TB, db *pgtest.DB) (stop func()) {
	t.Helper()
	return sequenceBy(t, db, replay.WakeAuto)
}

func sequenceBy(t testing.TB, db *pgtest.DB, wake replay.Wake) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := replay.NewSequencer(db.URL, db.Pool(t), &replay.SequencerOptions{Wake: wake, Logger: slog.New(slog.DiscardHandler)})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx) // it ends with the context
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func TestSequencer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	names := []string{"sequencer", "lag", "cluster-identity"}
	rs := examine(t, db.URL, nil, names...)
	rs.want(t, "sequencer", Warn, "no server sequences", "pgcast serve")
	rs.want(t, "lag", OK, "0 in all")
	rs.want(t, "cluster-identity", OK, "not been sequenced yet")

	db.Exec(t, "select pgcast.publish('a', 'b')")
	soon := func(d *Doctor) { d.limits.lagWarn, d.limits.lagFail = time.Millisecond, time.Hour }
	rs = examine(t, db.URL, soon, names...)
	rs.want(t, "sequencer", Fail, "no server sequences, and events have waited for", "pgcast serve")
	rs.want(t, "lag", Warn, "has waited for")
	examine(t, db.URL, func(d *Doctor) { d.limits.lagFail = time.Millisecond }, names...).want(t, "lag", Fail, "has waited for")

	writer := begin(t, db, "select pgcast.publish('a', 'b')")
	stop := sequence(t, db)
	until(t, "it is kept awake", func() bool {
		return examine(t, db.URL, nil, "sequencer").has("sequencer", OK, "kept awake by 1 session")
	})
	run(t, writer, "rollback")
	until(t, "the event has its place, and the sequencer sleeps", func() bool {
		rs = examine(t, db.URL, soon, names...)
		return rs.has("lag", OK, "1 in all") && rs.has("sequencer", OK, "(pgcast at 127.0.0.1) sequences, asleep", "0 other servers following")
	})
	rs.want(t, "cluster-identity", OK, "last sequenced on")

	stop()

	db.Exec(t, "update pgcast.sequencer set timeline = timeline + 1")
	examine(t, db.URL, nil, "cluster-identity").want(t, "cluster-identity", Note, "failover or restore")
	db.Exec(t, "update pgcast.sequencer set system_identifier = 1")
	examine(t, db.URL, nil, "cluster-identity").want(t, "cluster-identity", Note, "another cluster", "re-based")

	// A sequencer that does nothing any more, and one that left its lock to a zombie.
	frozen := db.Conn(t)
	line, err := listener.Dial(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	for _, lock := range []listener.Lock{listener.Lead, listener.Asleep} {
		if got, err := line.TryLock(t.Context(), lock, false); !got || err != nil {
			t.Fatal(got, err)
		}
	}
	db.Exec(t, "select pgcast.publish('a', 'b')")
	until(t, "it has been silent", func() bool {
		rs = examine(t, db.URL, func(d *Doctor) { d.limits.frozen = 10 * time.Millisecond }, "sequencer")
		return rs.has("sequencer", Fail, "has asked for nothing for", "select pg_terminate_backend(")
	})
	if err := line.Unlock(t.Context(), listener.Lead, false); err != nil {
		t.Fatal(err)
	}
	rs = examine(t, db.URL, nil, "sequencer")
	rs.want(t, "sequencer", Warn, "holds the sequencer's lock ASLEEP and does not sequence", "pg_terminate_backend")

	run(t, frozen, "delete from pgcast.progress")
	rs = examine(t, db.URL, nil, "lag")
	rs.want(t, "lag", Fail, "pgcast.progress is empty")
	rs.mends(t, frozen, "lag")
	examine(t, db.URL, soon, "lag").want(t, "lag", Warn)
}

func TestQueue(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	examine(t, db.URL, nil, "notify-queue").want(t, "notify-queue", OK, "% full")
	holder := db.Conn(t)
	run(t, holder, "listen x")
	run(t, holder, "begin")
	run(t, holder, "select 1")
	some := func(d *Doctor) { d.limits.queueWarn = 1e-9 }
	until(t, "the queue holds something", func() bool { // other tests' sessions end their part at any time
		db.Exec(t, "select pg_notify('x', repeat('x', 7000) || g) from generate_series(1, 10) g")
		return examine(t, db.URL, some, "notify-queue").has("notify-queue", Warn, "select pg_terminate_backend(", "holds it if it listens")
	})
	examine(t, db.URL, func(d *Doctor) { d.limits.queueWarn, d.limits.queueFail = 1e-9, 1e-9 }, "notify-queue").
		want(t, "notify-queue", Fail, "nobody rings any more")
}

func TestLongTransactions(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	examine(t, db.URL, nil, "long-transactions").want(t, "long-transactions", OK, "5m0s")
	holder := begin(t, db, "select 1")
	rs := examine(t, db.URL, func(d *Doctor) { d.limits.transaction = 0 }, "long-transactions")
	rs.want(t, "long-transactions", Warn, "idle in transaction", "postgres in "+db.Name, "select pg_terminate_backend(")
	rs.mends(t, db.Conn(t), "long-transactions")
	if err := holder.Ping(t.Context()); err == nil {
		t.Error("the mend did not end the session")
	}
}

// Servers that the WAL wakes keep nothing awake by an open writer, and are counted like others.
func TestSequencerByWAL(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	for range 2 {
		sequenceBy(t, db, replay.WakeWAL)
	}
	begin(t, db, "select pgcast.publish('a', 'b')")
	until(t, "one sequences and one follows", func() bool {
		return examine(t, db.URL, wakes(replay.WakeWAL), "sequencer").has("sequencer", OK, "sequences, awake, or waiting for the WAL", "1 other server following")
	})
}

func TestPrepared(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.TwoPhase})
	rs := examine(t, db.URL, nil, "prepared-transactions", "left-prepared")
	rs.want(t, "prepared-transactions", Note, "is 10: writers do not ring", "max_prepared_transactions = 0")
	rs.want(t, "left-prepared", OK)
	examine(t, db.URL, func(d *Doctor) { d.opts.Wake = replay.WakeNotify }, "prepared-transactions").want(t, "prepared-transactions", Fail, "wake=notify")

	gid := db.Name + "'s"
	db.Exec(t, "begin; select pgcast.publish('a', 'b'); prepare transaction '"+strings.ReplaceAll(gid, "'", "''")+"'")
	examine(t, db.URL, nil, "left-prepared").want(t, "left-prepared", OK)
	rs = examine(t, db.URL, func(d *Doctor) { d.limits.prepared = 0 }, "left-prepared")
	rs.want(t, "left-prepared", Warn, "was prepared", "rollback prepared '"+db.Name+"''s'")
	rs.mends(t, db.Conn(t), "left-prepared")
	examine(t, db.URL, func(d *Doctor) { d.limits.prepared = 0 }, "left-prepared").want(t, "left-prepared", OK)

	bell := pgtest.New(t, nil)
	examine(t, bell.URL, nil, "prepared-transactions").want(t, "prepared-transactions", OK)
}
