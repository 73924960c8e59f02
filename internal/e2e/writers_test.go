package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// 8 writers whose transactions touch several topics in random order, with subscribers
// listening: none waits for another, and none is told of a deadlock.
func TestWritersNeverWait(t *testing.T) {
	db := judge.Database(t, nil)
	s := judge.StartServer(t, db.URL)
	s.WaitReady()
	readers := []*judge.Reader{judge.StartReader(t, s, "topics", judge.Rooms()...), judge.StartReader(t, s, "pattern", "room:*")}
	const writers, each = 8, 150
	var wg sync.WaitGroup
	for i := range writers {
		conn := db.Conn(t)
		r := rand.New(rand.NewPCG(uint64(i), 2))
		wg.Go(func() {
			for range each {
				if err := touchTopics(t.Context(), conn, r); err != nil {
					t.Errorf("writer %d: %v", i, err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	looks, waits := lookForWaits(t, db, done)
	n := judge.Judge(t, db.URL, readers...).Events
	t.Logf("%d transactions of %d writers, %d events: 0 deadlocks, %d waits for locks in %d looks", writers*each, writers, n, waits, looks)
	if waits > 0 {
		t.Errorf("writers were seen waiting for locks %d times", waits)
	}
}

// touchTopics writes to all rooms, in an order of its own, by rows and by publish.
func touchTopics(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, room := range r.Perm(len(judge.Rooms())) {
			sql := "insert into item (room, n) select $1, g from generate_series(1, 2) g"
			if r.IntN(3) == 0 {
				sql = "select pgcast.publish('room:' || $1::int, 'note', '1')"
			}
			if _, err := tx.Exec(ctx, sql, room); err != nil {
				return err
			}
		}
		return nil
	})
}

// lookForWaits counts the locks that somebody waits for, again and again. Growing a table's
// file takes its turns too; that has nothing to do with us.
func lookForWaits(t *testing.T, db *pgtest.DB, done <-chan struct{}) (looks, waits int) {
	t.Helper()
	conn := db.Conn(t)
	for ; ; looks++ {
		var n int
		err := conn.QueryRow(t.Context(), `select count(*) from pg_locks l join pg_stat_activity a using (pid)
			where a.datname = current_database() and not l.granted and l.locktype <> 'extend'`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		waits += n
		select {
		case <-done:
			return looks, waits
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// A transaction that stays open delays its own events and nobody else's.
func TestOpenTransaction(t *testing.T) {
	db := judge.Database(t, nil)
	s := judge.StartServer(t, db.URL)
	s.WaitReady()
	r := judge.StartReader(t, s, "topics", judge.Rooms()...)
	open, other := db.Conn(t), db.Conn(t)
	tx, err := open.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write := func(c interface {
		Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	}) {
		t.Helper()
		if _, err := c.Exec(t.Context(), "insert into item (room, n) values (0, 1), (1, 1)"); err != nil {
			t.Fatal(err)
		}
	}
	write(tx)
	var took []time.Duration
	for range 50 {
		before := r.Events()
		write(other)
		took = append(took, judge.Await(t, "the events of others come", 10*time.Second, func() bool { return r.Events() == before+2 }))
	}
	write(tx)
	if n := r.Events(); n != 100 {
		t.Errorf("%d events came, 4 of them uncommitted", n)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	judge.Judge(t, db.URL, r)
	t.Logf("beside an open transaction: from before the write to the client in %v (median)", median(took))
}

// Database sessions, ours and the writers', are ended at random: nothing is lost, doubled
// or reordered.
func TestBackendsTerminated(t *testing.T) {
	db := judge.Database(t, nil)
	servers := []*judge.Server{judge.StartServer(t, db.URL), judge.StartServer(t, db.URL)}
	var readers []*judge.Reader
	for i, s := range servers {
		s.WaitReady()
		readers = append(readers, judge.StartReader(t, s, fmt.Sprint("topics ", i), judge.Rooms()...), judge.StartReader(t, s, fmt.Sprint("pattern ", i), "**"))
	}
	w := judge.StartWriters(t, db.URL, 3, 1)
	conn := db.Conn(t)
	ended := 0
	for range 40 {
		var n int
		before := readers[0].Events()
		err := conn.QueryRow(t.Context(), `select count(pg_terminate_backend(pid)) from (
			select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
			order by random() limit 2) a`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		ended += n
		judge.Await(t, "events flow on", 30*time.Second, func() bool { return readers[0].Events() > before })
	}
	w.Stop()
	n := judge.Judge(t, db.URL, readers...).Events
	t.Logf("%d database sessions ended, %d transactions, %d events", ended, w.Committed.Load(), n)
}
