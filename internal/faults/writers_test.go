package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/internal/pgtest"
)

func TestFault17LongTransaction(t *testing.T) {
	inModes(t, sources, func(t *testing.T, m judge.Mode) {
		r := beginIn(t, m, "17", "a transaction stays open, 100 short ones write the same topic")
		db := m.Database(t)
		s := stage(t, db.URL, 1, m.Flags()...)
		short := judge.Connect(t, db.URL)
		write := func() (took []time.Duration) {
			for range 100 {
				began := time.Now()
				if _, err := short.Exec(t.Context(), "insert into item (room, n) values (0, 1)"); err != nil {
					t.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			return took
		}
		write() // warm
		before := write()
		tx, err := judge.Connect(t, db.URL).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.Background())
		began := time.Now()
		if _, err := tx.Exec(t.Context(), "insert into item (room, n) values (0, 1)"); err != nil {
			t.Fatal(err)
		}
		beside := write()
		come := probes(t, db.URL, s.topics[0], "room:0", 20)
		judge.Pause(t.Context(), time.Duration(trials(0, 5, 60))*time.Second-time.Since(began))
		n := s.topics[0].Events()
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		judge.Await(t, "its own event comes at its commit", 10*time.Second, func() bool { return s.topics[0].Events() == n+1 })
		s.end(r)
		r.latency("from a short one's commit to the client, beside the open one", come, 250*time.Millisecond)
		a, b := percentile(before, 0.99), percentile(beside, 0.99)
		r.figure("short writers' p99 without and with it", fmt.Sprint(round(a), ", ", round(b)), "within 10 %", float64(b) <= 1.1*float64(a))
	})
}

// Transactions with nested savepoints, some rolled back in part or whole.
func TestFault18RollbacksLeaveNothing(t *testing.T) {
	inModes(t, sources, func(t *testing.T, m judge.Mode) {
		r := beginIn(t, m, "18", "rolled back transactions and savepoints, nested at random")
		r.trials = trials(60, 500, 5000)
		db := m.Database(t)
		s := stage(t, db.URL, 1, m.Flags()...)
		random := random(t)
		conn := judge.Connect(t, db.URL)
		for range r.trials {
			tx, err := conn.Begin(t.Context())
			if err == nil {
				err = nest(t.Context(), tx, random, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		s.end(r)
		gaps := judge.Value[int](t, db.URL, `select coalesce(sum(head - n), 0)::int from (
			select max(seq) as head, count(*) as n from pgcast.replay group by topic_id) x`)
		r.count("seqs without an event", gaps, 0)
	})
}

// nest ends tx, one way or the other.
func nest(ctx context.Context, tx pgx.Tx, r *rand.Rand, depth int) error {
	for range 1 + r.IntN(3) {
		if err := judge.Write(ctx, tx, r); err != nil {
			return err
		}
		if depth < 4 && r.IntN(2) == 0 {
			inner, err := tx.Begin(ctx)
			if err != nil {
				return err
			}
			if err := nest(ctx, inner, r, depth+1); err != nil {
				return err
			}
		}
	}
	if r.IntN(3) == 0 {
		return tx.Rollback(ctx)
	}
	return tx.Commit(ctx)
}

// Whoever looks at the log while 16 writers race sees each topic begin at 1 and end where it
// ends, without a hole.
func TestFault19And21Race(t *testing.T) {
	inModes(t, sources, func(t *testing.T, m judge.Mode) {
		r := beginIn(t, m, "19", "writers race for 5 topics, touching them in random order")
		db := m.Database(t)
		s := stage(t, db.URL, 1, m.Flags()...)
		writers, each := trials(8, 16, 64), trials(30, 150, 1000)
		r.trials = writers * each
		codes := newTally()
		var wg sync.WaitGroup
		for i := range writers {
			conn := judge.Connect(t, db.URL)
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			wg.Go(func() {
				for range each {
					codes.add(pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
						for _, room := range random.Perm(5) {
							if _, err := tx.Exec(t.Context(), "insert into item (room, n) values ($1, 1)", room); err != nil {
								return err
							}
						}
						return nil
					}))
				}
			})
		}
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		looks, holes := lookForHoles(t, db.URL, done)
		s.end(r)
		r.count(fmt.Sprintf("holes seen by %d looks at the log, one each 3 ms", looks), holes, 0)
		r = beginIn(t, m, "21", "transactions touch several topics in opposite orders (the same run)")
		r.trials = writers * each
		r.count("deadlocks (40P01)", codes.of("40P01"), 0)
		if n := codes.total(); n > 0 {
			t.Errorf("writers failed: %v", codes.codes)
		}
	})
}

func lookForHoles(t *testing.T, url string, done <-chan struct{}) (looks, holes int) {
	conn := judge.Connect(t, url)
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for {
		var n int
		err := conn.QueryRow(t.Context(), `select count(*) from (select max(seq) as head, count(*) as n from pgcast.replay group by topic_id) x where head <> n`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		holes += n
		looks++
		select {
		case <-done:
			return looks, holes
		case <-tick.C:
		}
	}
}

// tally counts SQLSTATEs.
type tally struct {
	mu    sync.Mutex
	codes map[string]int
}

func newTally() *tally { return &tally{codes: map[string]int{}} }

func (y *tally) add(err error) {
	if err == nil {
		return
	}
	code := err.Error()
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		code = pg.Code
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.codes[code]++
}

func (y *tally) of(code string) int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.codes[code]
}

func (y *tally) total() (n int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, c := range y.codes {
		n += c
	}
	return n
}

// Writers whose role has lock_timeout or statement_timeout of 10 ms. The second may hit any
// statement on a busy machine; then nothing of the transaction may have been captured.
func TestFault22Timeouts(t *testing.T) {
	r := begin(t, "22", "8 writers with lock_timeout, 8 with statement_timeout of 10 ms")
	db := judge.Database(t, nil)
	s := stage(t, db.URL, 1)
	locks := judge.StartWriters(t, db.URL+"&lock_timeout=10", 8, seed)
	statements := judge.StartWriters(t, db.URL+"&statement_timeout=10", 8, seed+1)
	judge.Await(t, "transactions commit", time.Minute, func() bool { return locks.Committed.Load() > int64(trials(100, 1000, 10_000)) })
	locks.Stop()
	statements.Stop()
	r.trials = int(locks.Committed.Load() + statements.Committed.Load())
	s.end(r)
	t.Logf("lock_timeout: %d committed, failed %v; statement_timeout: %d committed, failed %v",
		locks.Committed.Load(), locks.Codes(), statements.Committed.Load(), statements.Codes())
	r.count("transactions that lock_timeout of 10 ms ended within capture (55P03)", locks.Codes()["55P03"+judge.InCapture], 0)
	r.count("half-captured transactions, of those that statement_timeout ended too", r.Missed+r.Phantom, 0)
}

// Writers of one topic under REPEATABLE READ and SERIALIZABLE, against the same without capture.
func TestFault23IsolationLevels(t *testing.T) {
	later(t)
	r := begin(t, "23", "64 REPEATABLE READ and SERIALIZABLE writers on one topic")
	db := judge.Database(t, nil)
	db.Exec(t, "create table bare (like item including all)")
	s := stage(t, db.URL, 1)
	failed := map[string]int{}
	for _, table := range []string{"bare", "item"} {
		codes := newTally()
		var wg sync.WaitGroup
		for i := range 64 {
			level := []string{"serializable", "repeatable read"}[i%2]
			conn := judge.Connect(t, db.URL+"&default_transaction_isolation="+map[string]string{"serializable": "serializable", "repeatable read": "repeatable%20read"}[level])
			wg.Go(func() {
				for range trials(5, 20, 200) {
					codes.add(pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
						_, err := tx.Exec(t.Context(), "insert into "+table+" (room, n) values (0, 1)")
						return err
					}))
				}
			})
		}
		wg.Wait()
		failed[table] = codes.total()
		t.Logf("%s: failed %v", table, codes.codes)
	}
	r.trials = 64 * trials(5, 20, 200)
	s.end(r)
	r.figure("serialization failures without and with capture", fmt.Sprint(failed["bare"], ", ", failed["item"]), "0 more", failed["item"] <= failed["bare"])
	if failed["item"] > failed["bare"] {
		t.Errorf("capture added serialization failures: %v", failed)
	}
}

func TestFault24PreparedTransactions(t *testing.T) {
	inModes(t, judge.Modes, func(t *testing.T, m judge.Mode) {
		r := beginIn(t, m, "24", "two-phase commits, some held for a while, some rolled back")
		r.trials = trials(60, 400, 4000)
		db := m.DatabaseOn(t, pgtest.TwoPhase)
		s := stage(t, db.URL, 1, m.Flags()...)
		s.write(2)
		var failed atomic.Int64
		var wg sync.WaitGroup
		const writers = 4
		for i := range writers {
			conn := judge.Connect(t, db.URL)
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			wg.Go(func() {
				for n := range r.trials / writers {
					if err := prepared(t.Context(), conn, random, fmt.Sprintf("%s_%d_%d", db.Name, i, n)); err != nil {
						failed.Add(1)
						t.Errorf("two-phase commit: %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		s.end(r)
		r.count("errors of writers", int(failed.Load()+s.writers.Failed.Load()), 0)
	})
}

// prepared is one transaction in two phases.
func prepared(ctx context.Context, conn *pgx.Conn, r *rand.Rand, name string) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	for range 1 + r.IntN(3) {
		if err := judge.Write(ctx, tx, r); err != nil {
			return err
		}
	}
	if _, err := conn.Exec(ctx, "prepare transaction '"+name+"'"); err != nil {
		return err
	}
	if r.IntN(3) == 0 {
		judge.Pause(ctx, time.Duration(r.IntN(20))*time.Millisecond)
	}
	end := "commit"
	if r.IntN(4) == 0 {
		end = "rollback"
	}
	_, err = conn.Exec(ctx, end+" prepared '"+name+"'")
	return err
}
