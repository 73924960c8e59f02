package group_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/presence/group"
	"github.com/pgcast/pgcast/replay"
)

// Who looks at a group and has gone before there was anything to see leaves nothing behind,
// nor does who looks twice.
func TestGoneBeforeSeen(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		reg := prometheus.NewRegistry()
		s := w.server(func(o *group.Options) { o.Registerer = reg })
		for i := range 50 {
			c := s.open(fmt.Sprintf("group%d", i))
			if i%2 == 0 {
				c.Show()
			}
			c.End(true)
		}
		until(t, "nothing is left of what was looked at", func() bool {
			return gauge(t, reg, "pgcast_live_topics") == 0 && gauge(t, reg, "pgcast_groups") == 0
		})
	})
}

func gauge(t testing.TB, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name {
				found = true
				sum += m.GetGauge().GetValue()
			}
		}
	}
	if !found {
		t.Fatalf("there is no %s", name)
	}
	return sum
}

// restless is a log whose groups change whenever they are read.
type restless struct {
	*replay.Log
	w *world
}

func (l restless) Group(ctx context.Context, name string) (pgcast.Group, error) {
	defer l.w.tell(name)
	return l.Log.Group(ctx, name)
}

// Whoever says all the time that a group has changed, as anybody can who may publish, keeps
// nobody from joining.
func TestChangedAllTheTime(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.facts = restless{w.log, w}
		s := w.server(nil)
		w.create("lobby", 0)
		one := s.open("lobby")
		for i := range 20 {
			if _, err := one.try(fmt.Sprintf("user%d", i), ""); err != nil {
				t.Fatalf("join %d: %v", i, err)
			}
		}
	})
}

// A hook that takes its time holds up neither who joins nor the end of a group, and who
// knocks meanwhile does not pile up.
func TestSlowHook(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		called, going := make(chan struct{}, 2), make(chan struct{})
		var fulls atomic.Int64
		s := w.server(func(o *group.Options) {
			o.Hooks.Join = func(string, group.Member) { called <- struct{}{}; <-going }
			o.Hooks.Full = func(string, group.Member) { fulls.Add(1) }
		})
		defer close(going)
		w.create("lobby", 1)
		w.create("game", 0)
		one, two, three := s.open("lobby"), s.open("lobby"), s.open("game")
		one.join("ann", "")
		<-called
		for range 1100 {
			if _, err := two.try("bob", ""); err == nil {
				t.Fatal("bob found room")
			}
		}
		three.join("bob", "")
		if err := w.log.ChangeGroup(t.Context(), "lobby", pgcast.GroupChange{Close: true}); err != nil {
			t.Fatal(err)
		}
		w.tell("lobby")
		one.hears("close")
		going <- struct{}{} // the one that was waiting
		going <- struct{}{} // and that of game
		until(t, "the others were called", func() bool { return fulls.Load() > 900 })
		if n := fulls.Load(); n > 1000 {
			t.Errorf("%d calls were waiting", n)
		}
	})
}

// What cannot be sent because Redis is away says so, and not that the log is.
func TestSendError(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Start(t))
	w.create("lobby", 0)
	one := w.server(nil).open("lobby")
	one.join("ann", "")
	w.redis.Pause()
	defer w.redis.Resume()
	err := one.send(group.Message{Event: "x", Role: "member"})
	own, is := err.(*pgcast.Error) // as the gateway tells it from what it explains itself
	if !is || !errors.Is(err, pgcast.ErrUnavailable) || !strings.Contains(own.Hint, "may have got it") {
		t.Errorf("got %v", err)
	}
}

// What is sent to many is made into a text once on each server.
func TestSentToMany(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := w.pair(nil)
		w.create("lobby", 0)
		var all []*client
		for i := range 20 {
			c := []*server{a, b}[i%2].unseen("lobby")
			c.join(fmt.Sprintf("user%d", i), "")
			all = append(all, c)
		}
		if err := all[0].send(group.Message{Event: "x", Data: json.RawMessage(`1`), Role: "member"}); err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			c.hears("x 1")
		}
		if n := a.encoded.Load(); n != 1 || b.encoded.Load() != 1 {
			t.Errorf("it was encoded %d times here and %d times there", n, b.encoded.Load())
		}
	})
}
