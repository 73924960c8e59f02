package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// captureSteps are the places between which capture may die.
var captureSteps = []string{"begin", "written", "committed", "confirmed", "staged", "undone", "stream commit", "moved"}

// TestCaptureExactlyOnce ends capture between any two of its steps, in all ways, while three
// writers write.
func TestCaptureExactlyOnce(t *testing.T) {
	t.Parallel()
	d := twins(t, pgtest.Logical)
	conn, killer := d.Conn(t), d.Conn(t)
	var mu sync.Mutex
	met, ended := map[string]int{}, map[string]int{}
	left := 24
	failpoint := func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		met[step]++
		// The first time at each step, and then now and then.
		if ended[step] > 0 && (left <= 0 || met[step] > 2 && rand.N(40) > 0) {
			return nil
		}
		left--
		ended[step]++
		switch rand.N(3) {
		case 0:
			return errors.New("broken off by the test at " + step)
		case 1: // the session that writes
			_, err := killer.Exec(context.Background(), `select pg_terminate_backend(pid) from pg_stat_activity
				where application_name = 'pgcast capture' and datname = current_database() and backend_type = 'client backend'`)
			return err
		default:
			_, err := killer.Exec(context.Background(), `select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = pgcast.slot_name() and active`)
			return err
		}
	}
	r := capturing(t, d, failpoint)
	g, ctx := errgroup.WithContext(t.Context())
	pairs := make([]*pair, 3)
	for i := range pairs {
		p := &pair{conn: d.Conn(t), rnd: rand.New(rand.NewPCG(uint64(i), 7)), keys: 6, base: i * 1000}
		pairs[i] = p
		g.Go(func() error {
			for range 40 {
				if err := p.transaction(ctx); err != nil {
					return fmt.Errorf("write: %w", err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	// Another server takes over in the middle of it.
	r.stop()
	capturing(t, d, failpoint)
	for _, p := range pairs {
		heard(t, conn, p)
	}
	alike(t, conn)
	mu.Lock()
	defer mu.Unlock()
	t.Logf("met %v, ended at %v", met, ended)
	for _, step := range captureSteps {
		if ended[step] == 0 {
			t.Errorf("capture was never ended at %q", step)
		}
	}
}

// TestCaptureInAllModes compares the twins where prepared transactions are allowed, with
// SERIALIZABLE ones among the writers.
func TestCaptureInAllModes(t *testing.T) {
	t.Parallel()
	d := twins(t, pgtest.TwoPhase)
	conn := d.Conn(t)
	capturing(t, d, nil)
	g, ctx := errgroup.WithContext(t.Context())
	pairs := make([]*pair, 2)
	for i := range pairs {
		p := &pair{conn: d.Conn(t), rnd: rand.New(rand.NewPCG(uint64(i), 9)), keys: 5, base: i * 1000}
		pairs[i] = p
		g.Go(func() error {
			for n := range 30 {
				if err := p.transaction(ctx); err != nil {
					return err
				}
				said, gid := p.said, fmt.Sprintf("%s_%d_%d", d.Name, i, n)
				if _, err := p.conn.Exec(ctx, "begin"); err != nil {
					return err
				}
				if err := p.fill(ctx); err != nil {
					return err
				}
				if _, err := p.conn.Exec(ctx, "prepare transaction '"+gid+"'"); err != nil {
					return err
				}
				end := "commit"
				if n%4 == 3 {
					end, p.said = "rollback", said
				}
				if _, err := p.conn.Exec(ctx, end+" prepared '"+gid+"'"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs {
		heard(t, conn, p)
	}
	alike(t, conn)
}

// TestTwoCaptures: one is frozen before its commit, and another goes on from the same place.
func TestTwoCaptures(t *testing.T) {
	for name, evicts := range map[string]bool{"the first is ended": true, "the first commits": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := logical(t, "create table a (id int primary key)", "select pgcast.attach('a', capture => 'wal')")
			conn := d.Conn(t)
			frozen, thaw := make(chan struct{}, 1), make(chan struct{})
			first := captureAlone(t, d, func(step string) error {
				if step == "written" {
					select {
					case frozen <- struct{}{}:
						<-thaw
					default:
					}
				}
				return nil
			})
			first.shared = true // or its own start would do what the test does
			ends := start(t, first)
			d.Exec(t, "insert into a values (1), (2)")
			<-frozen
			// Its WAL sender goes, or the second could not begin.
			await(t, "the slot is free", func() bool {
				return one[bool](t, conn, `select not active from pg_replication_slots where slot_name = pgcast.slot_name()`) ||
					!one[bool](t, conn, `select coalesce(pg_terminate_backend(active_pid), false) from pg_replication_slots where slot_name = pgcast.slot_name()`)
			})
			writing := make(chan struct{}, 1)
			second := captureAlone(t, d, func(step string) error {
				if step == "written" {
					select {
					case writing <- struct{}{}:
					default:
					}
				}
				return nil
			})
			second.shared = !evicts
			start(t, second)
			<-writing // the same changes, and waits for the first if that is still there
			close(thaw)
			await(t, "both have stored what they could", func() bool {
				return one[int](t, conn, "select count(*)::int from pgcast.event_log") >= 2 && one[bool](t, conn, "select max(step) > 1 from pgcast.captured")
			})
			d.Exec(t, "insert into a values (3)")
			await(t, "it goes on", func() bool {
				return one[int](t, conn, "select count(*)::int from pgcast.event_log where data->>'id' = '3'") > 0
			})
			if n := one[int](t, conn, "select count(*)::int from pgcast.event_log"); n != 3 {
				t.Errorf("%d events of 3 rows", n)
			}
			ends()
		})
	}
}

// captureAlone is capture without a sequencer.
func captureAlone(t *testing.T, d *pgtest.DB, failpoint func(string) error) *capture {
	t.Helper()
	s := NewSequencer(d.URL, d.Pool(t), &SequencerOptions{failpoint: failpoint, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	return s.capture(pgtest.Value[int64](t, d, "select term from pgcast.sequencer"), false)
}

func start(t *testing.T, c *capture) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.run(ctx) }()
	var once sync.Once
	end = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("capture ended: %v", err)
			}
		})
	}
	t.Cleanup(end)
	return end
}
