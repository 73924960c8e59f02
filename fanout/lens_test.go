package fanout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// halves sees every second event of a topic only, and of those that can be divided by four
// nothing but that they are gone.
type halves struct {
	looks  *atomic.Int64 // events
	broken *atomic.Bool
}

func (halves) Key() string { return "halves" }

func (h halves) Look(_ context.Context, events []*pgcast.Event) ([]*pgcast.Event, error) {
	if h.broken.Load() {
		return nil, errors.New("it cannot be seen right now")
	}
	h.looks.Add(int64(len(events)))
	seen := make([]*pgcast.Event, len(events))
	for i, e := range events {
		switch {
		case e.Seq%4 == 0:
			gone := *e
			gone.Name, gone.Data, gone.Old = "gone", nil, json.RawMessage(`{"id":1}`)
			seen[i] = &gone
		case e.Seq%2 == 0:
			seen[i] = e
		}
	}
	return seen, nil
}

func (h halves) Snapshot(context.Context, string, func(pgcast.Snapshot) error, func(pgcast.Row) error) error {
	return errNoSnapshots
}

// quickHalves need not wait, but now and then.
type quickHalves struct {
	halves
	tries *atomic.Int64
}

func (h quickHalves) Try(events []*pgcast.Event) ([]*pgcast.Event, bool) {
	if h.tries.Add(1)%3 == 0 {
		return nil, false
	}
	seen, err := h.Look(context.Background(), events)
	return seen, err == nil
}

// What is sent goes through a subscription's lens, live and from the log, and is looked at
// once for all who see the same; while it cannot be seen they wait, and miss nothing.
func TestLens(t *testing.T) {
	t.Parallel()
	t.Run("waiting", func(t *testing.T) {
		t.Parallel()
		lens := halves{new(atomic.Int64), new(atomic.Bool)}
		testLens(t, lens, lens)
	})
	t.Run("quick", func(t *testing.T) {
		t.Parallel()
		lens := quickHalves{halves{new(atomic.Int64), new(atomic.Bool)}, new(atomic.Int64)}
		testLens(t, lens, lens.halves)
		if lens.tries.Load() == 0 {
			t.Error("it was not tried to look without waiting")
		}
	})
}

func testLens(t *testing.T, through Lens, lens halves) {
	s := newWorld(t).server(t, HubOptions{Ring: 8})
	var peers []*peer
	for range 20 {
		p := s.newPeer(t)
		p.must(t, Request{Topic: "a", After: after(0), Lens: through})
		peers = append(peers, p)
	}
	whole := s.newPeer(t)
	whole.must(t, Request{Topic: "a", After: after(0)})
	want := func(upto int) (list []string) {
		for seq := 2; seq <= upto; seq += 2 {
			list = append(list, fmt.Sprintf("%d %t", seq, seq%4 == 0))
		}
		return list
	}
	got := func(p *peer) (list []string) {
		for _, i := range p.sink.items() {
			if i.Frame != nil {
				_, name := wire.EventName(i.Frame.Text())
				list = append(list, fmt.Sprintf("%d %t", i.Frame.Seq, string(name) == "gone"))
			}
		}
		return list
	}
	saw := func(upto int) {
		t.Helper()
		for n, p := range peers {
			await(t, fmt.Sprintf("peer %d has seen up to %d", n, upto), func() bool { return slices.Equal(got(p), want(upto)) })
		}
	}
	s.mustPublish(t, 40, 10, "a") // more than the ring has: most is read from the log
	saw(40)
	if n := lens.looks.Load(); n > 10*40 {
		t.Errorf("20 sessions that see the same had %d events looked at, of 40", n)
	}
	lens.broken.Store(true)
	peers[3].sink.hold()
	s.mustPublish(t, 40, 10, "a")
	await(t, "whoever sees everything has got it", func() bool { return whole.sink.events() == 80 })
	saw(40)
	lens.broken.Store(false)
	peers[3].sink.release()
	saw(80)
}

// What is to be seen otherwise by now ends its session, whenever that becomes so, but not what
// the server itself looks at.
func TestStale(t *testing.T) {
	t.Parallel()
	var stale atomic.Bool
	s := newWorld(t).server(t, HubOptions{Stale: func(topic string, l Lens) bool { return stale.Load() && l == nil && topic == "a" }})
	before, own, other := s.newPeer(t), s.newPeer(t), s.newPeer(t)
	before.must(t, Request{Topic: "a"})
	own.must(t, Request{Topic: "a", Own: true})
	other.must(t, Request{Topic: "b"})
	stale.Store(true)
	s.hub.Refocus()
	after := s.newPeer(t)
	if err := after.session.Subscribe(t.Context(), Request{Topic: "a"}); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*peer{"before": before, "after": after} {
		if err := p.sink.ended(t); !errors.Is(err, ErrResume) {
			t.Errorf("whoever came %s ends with %v", name, err)
		}
	}
	own.must(t, Request{Topic: "a", Own: true})
	s.mustPublish(t, 1, 1, "a")
	s.mustPublish(t, 1, 1, "b")
	await(t, "the others go on", func() bool { return own.sink.events() == 1 && other.sink.events() == 1 })
}
