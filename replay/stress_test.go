package replay

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
	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// TestStress does all at once what the property test does one after the other: writers of
// every kind, two sequencers that steal the term from each other all the time and whose
// sessions are terminated at any moment, and a look at the whole order again and again.
func TestStress(t *testing.T) {
	t.Parallel()
	for _, kind := range []pgtest.Kind{pgtest.Doorbell, pgtest.TwoPhase} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			enough := 80
			if long() {
				enough = 5_000
			}
			w := newWorld(t, kind)
			w.batch = 20
			stress(t, w, kind, enough)
		})
	}
}

// stress goes on until the sequencers have made enough steps, and enough has befallen them:
// where the blows fall is a matter of chance.
func stress(t *testing.T, w *world, kind pgtest.Kind, enough int) {
	const writers = 4
	began := time.Now()
	clock := func() int { return int(time.Since(began)) + 1 }
	var scribes []*scribe
	for i := range writers {
		scribes = append(scribes, &scribe{conn: w.connect(), other: w.connect(), clock: clock, prepares: kind == pgtest.TwoPhase && i < 3,
			gid: fmt.Sprintf("%s_%d", w.db.Name, i), next: (i + 1) * 1_000_000})
	}
	killer := w.connect()
	writing, stopWriting := context.WithCancel(t.Context())
	defer stopWriting()
	var mu sync.Mutex // guards the world's facts
	wg, ctx := errgroup.WithContext(t.Context())
	for _, s := range scribes {
		wg.Go(func() error {
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				w.txs = append(w.txs, s.txs...)
			}()
			for writing.Err() == nil {
				if err := s.transaction(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}

	seqs, ctx2 := errgroup.WithContext(t.Context())
	ctx2, stop := context.WithCancel(ctx2)
	defer stop()
	var pids [2]atomic.Uint32
	var steps, terms, ends atomic.Int64
	// soon waits for some steps more, so that on any machine there are some between one
	// blow and the next; but not for ever, if both sequencers wait for the other's.
	soon := func(atMost int, patience time.Duration) error {
		until, last := steps.Load()+1+rand.Int64N(int64(atMost)), time.Now().Add(patience)
		for {
			if err := sleep(ctx2, rand.N(2*time.Millisecond)); err != nil || steps.Load() >= until || time.Now().After(last) {
				return err
			}
		}
	}
	for i := range pids {
		seqs.Go(func() error {
			for ctx2.Err() == nil {
				err := sequenceForAWhile(ctx2, w, &pids[i], &steps)
				if terms.Add(1); terms.Load() > 1 && soon(20, 300*time.Millisecond) != nil {
					return nil
				}
				if err != nil && !errors.Is(err, errDeposed) {
					ends.Add(1)
				}
			}
			return nil
		})
	}
	seqs.Go(func() error {
		for soon(40, time.Hour) == nil {
			if _, err := killer.Exec(ctx2, "select pg_terminate_backend($1)", pids[rand.N(2)].Load()); err != nil && ctx2.Err() == nil {
				return err
			}
		}
		return nil
	})
	looks := 0
	stressed := func() bool { return int(steps.Load()) >= enough && terms.Load() >= 5 && ends.Load() > 0 }
	for ; !stressed() && ctx.Err() == nil && time.Since(began) < 10*within; looks++ {
		whole(t, w.admin, -1)
	}
	stopWriting()
	if err := wg.Wait(); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := seqs.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, x := range w.txs {
		for _, f := range x.facts {
			w.facts[f.n] = f
		}
	}
	if err := w.finale(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events written, %d steps in %d terms, %d sessions ended, %d looks", len(w.facts), steps.Load(), terms.Load(), ends.Load(), looks)
	if !stressed() || len(w.facts) < 100 {
		t.Error("that was no stress")
	}
}

// sequenceForAWhile takes the term and steps until it is deposed, killed, or has had
// enough, which it does not tell anybody.
func sequenceForAWhile(ctx context.Context, w *world, pid *atomic.Uint32, steps *atomic.Int64) error {
	conn, err := pgx.Connect(ctx, w.db.URL)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	pid.Store(conn.PgConn().PID())
	term, err := takeTerm(ctx, conn, false, discard)
	if err != nil {
		return err
	}
	st := newStepper(conn, term, w.batch)
	for range 1 + rand.N(200) {
		if _, err := st.run(ctx, rand.N(20) == 0); err != nil {
			return err
		}
		steps.Add(1)
	}
	return nil
}

// scribe is a writer with a clock: an event counts as written when the statement is about
// to be sent, a transaction as committed when the answer is here.
type scribe struct {
	conn, other *pgx.Conn
	clock       func() int
	prepares    bool
	gid         string
	next        int
	txs         []*tx
}

func (s *scribe) transaction(ctx context.Context) error {
	x := &tx{}
	s.txs = append(s.txs, x)
	exec := func(sql string, args ...any) error {
		_, err := s.conn.Exec(ctx, sql, args...)
		return err
	}
	err := exec("begin isolation level " + []string{"read committed", "repeatable read", "serializable"}[rand.N(3)])
	if err == nil && rand.N(2) == 0 {
		err = exec("set local synchronous_commit = off")
	}
	if err == nil && rand.N(3) == 0 {
		err = exec("select pg_current_xact_id()")
	}
	for range rand.N(6) {
		if err == nil && rand.N(8) == 0 {
			err = sleep(ctx, rand.N(40*time.Millisecond))
		}
		if err == nil {
			err = s.write(x, exec)
		}
	}
	if err != nil {
		return err
	}
	switch {
	case rand.N(8) == 0:
		return exec("rollback")
	case s.prepares && rand.N(3) == 0:
		if err := exec("prepare transaction '" + s.gid + "'"); err != nil {
			return err
		}
		if rand.N(4) == 0 {
			_, err := s.other.Exec(ctx, "rollback prepared '"+s.gid+"'")
			return err
		}
		_, err = s.other.Exec(ctx, "commit prepared '"+s.gid+"'")
	default:
		err = exec("commit")
	}
	if err == nil {
		x.ended = s.clock()
	}
	return err
}

// write adds one event, some, or many, maybe inside a savepoint, which may be taken back.
func (s *scribe) write(x *tx, exec func(string, ...any) error) error {
	save := rand.N(3) == 0
	if save {
		if err := exec("savepoint s"); err != nil {
			return err
		}
	}
	n := 1
	if rand.N(10) == 0 {
		n = rand.N(50)
	}
	topic, before := fmt.Sprint("t:", rand.N(5)), len(x.facts)
	for i := range n {
		x.facts = append(x.facts, &fact{n: s.next + i, topic: topic, at: s.clock(), tx: x})
	}
	err := exec("select pgcast.publish($1, 'e', jsonb_build_object('n', n)) from generate_series($2::int, $3) n", topic, s.next, s.next+n-1)
	s.next += n
	if err != nil || !save {
		return err
	}
	if rand.N(2) == 0 {
		return exec("release savepoint s")
	}
	x.facts = x.facts[:before]
	return exec("rollback to savepoint s")
}
