package presence_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcast/pgcast/presence"
)

// slow is a store whose changes wait until they may go on.
type slow struct {
	presence.Store
	gate  chan struct{} // closed: open
	calls atomic.Int64
}

func (s *slow) Apply(ctx context.Context, batches []presence.Batch) []presence.Applied {
	s.calls.Add(1)
	select {
	case <-s.gate:
	case <-ctx.Done():
	}
	return s.Store.Apply(ctx, batches)
}

// What is posted at a pace is shown here before the store has answered, and others are
// told the newest of it in few calls.
func TestPace(t *testing.T) {
	shares(t, presence.Options{Pace: 50 * time.Millisecond}, func(t *testing.T, w *world) {
		b := w.server()
		there := b.watch("board:1", "")
		s := &slow{gate: make(chan struct{})}
		w.store = func(store presence.Store) presence.Store { s.Store = store; return s }
		a := w.server()
		here := a.watch("board:1", "")
		until(t, "the topic has been read", func() bool {
			_, err := a.List(t.Context(), "board:1")
			return err == nil
		})
		const moves = 1000
		for i := range moves {
			a.Post("board:1", "ann", json.RawMessage(fmt.Sprint(i)))
			a.Post("board:1", "amy", json.RawMessage(fmt.Sprint(i)))
		}
		a.Drop("board:1", "amy")
		newest := func(c *client) func() bool {
			return func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return len(c.has) == 1 && c.has["ann"] == fmt.Sprint(moves-1)
			}
		}
		until(t, "the newest is shown here", newest(here))
		if keys := there.sees(); len(keys) > 0 {
			t.Errorf("others see %v, which the store has not been told", keys)
		}
		close(s.gate)
		until(t, "the newest is shown there", newest(there))
		// One call took what was there when the loop first came by, a second one the rest.
		if n := s.calls.Load(); n > 4 {
			t.Errorf("%d calls", n)
		}
		a.Drop("board:1", "ann")
		sees(t, here)
		sees(t, there)
		a.Post("board:1", "ann", json.RawMessage(`1`))
		sees(t, there, "ann")
	})
}

// A topic that nobody knew before Redis froze is shown with what this server has.
func TestFrozenNewTopic(t *testing.T) {
	shares(t, presence.Options{Pace: time.Millisecond}, func(t *testing.T, w *world) {
		a := w.server()
		w.put(a, "room:1", "ann", `{}`)
		w.redis.Pause()
		a.Post("room:2", "ann", json.RawMessage(`{}`))
		sees(t, a.watch("room:2", ""), "ann")
		w.redis.Resume()
		b := w.server()
		sees(t, b.watch("room:2", ""), "ann")
	})
}
