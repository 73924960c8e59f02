package replay

import (
	"context"
	"errors"
	"fmt"
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
	left := 40
	failpoint := func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		met[step]++
		// The first time at each step, and then now and then.
		if left == 0 || met[step] > 3 && rand.N(40) > 0 {
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
			for range 60 {
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
