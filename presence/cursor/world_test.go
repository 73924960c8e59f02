package cursor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgcast/pgcast/internal/breaker"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/cursor"
	"github.com/pgcast/pgcast/presence/shared"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is servers that share cursors, or one that has them for itself.
type world struct {
	t     *testing.T
	redis *redistest.Redis // nil: one server
	ttl   time.Duration    // of the rosters
	opts  cursor.Options
	names int
	first *server
}

// each runs a test with one server of its own and with servers that share a Redis.
func each(t *testing.T, f func(t *testing.T, w *world)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		f(t, &world{t: t})
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		f(t, &world{t: t, redis: redistest.Start(t)})
	})
}

// shares runs a test with servers that share a Redis.
func shares(t *testing.T, f func(t *testing.T, w *world)) {
	t.Parallel()
	f(t, &world{t: t, redis: redistest.Start(t)})
}

// server is one server's cursors.
type server struct {
	*cursor.Cursors
	stop func() // only Run
	kill func() // without a word
}

// server starts one; in memory there is only ever one.
func (w *world) server() *server {
	w.t.Helper()
	if w.redis == nil && w.first != nil {
		return w.first
	}
	w.names++
	if w.ttl == 0 {
		w.ttl = cursor.RosterTTL
	}
	every := cursor.Every(w.opts.Throttle)
	o := presence.Options{Kind: "cursor", Server: fmt.Sprintf("server%d", w.names), TTL: w.ttl, Every: every, Pace: every}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	s := &server{}
	s.kill = func() { cancel(); s.stop(); done.Wait() }
	if w.redis != nil {
		redis, err := shared.Open(&shared.Options{URL: w.redis.URL, OnState: func(to breaker.State) {
			if to == breaker.Healthy {
				s.Refresh()
			}
		}})
		if err != nil {
			w.t.Fatal(err)
		}
		relay := redis.Relay()
		o.Store, o.Relay = redis.Store(o.Kind, o.Server, o.TTL), relay.Kind(o.Kind)
		done.Go(func() { _ = redis.Run(ctx) })
		done.Go(func() { _ = relay.Run(ctx) })
	}
	s.Cursors = cursor.New(presence.NewRosters(&o), &w.opts)
	running, stop := context.WithCancel(ctx)
	var ran sync.WaitGroup
	ran.Go(func() { _ = s.Run(running) })
	s.stop = func() { stop(); ran.Wait() }
	w.t.Cleanup(s.kill)
	w.first = s
	return s
}

// looker folds what it is sent of one topic.
type looker struct {
	mu  sync.Mutex
	has map[string]string // data by key
}

// look opens a view that is pulled as soon as there is something, without the cursor with
// key hide.
func (s *server) look(t *testing.T, topic, hide string) *looker {
	l := &looker{has: map[string]string{}}
	v := s.View(topic, plain, hide, func(v *presence.View) { go l.pull(v) })
	t.Cleanup(v.Close)
	return l
}

func (l *looker) pull(v *presence.View) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, text := range v.Pull() {
		var in presence.Changes
		if err := json.Unmarshal(text, &in); err != nil {
			panic(err)
		}
		if in.Whole {
			clear(l.has)
		}
		for _, e := range in.Removed {
			delete(l.has, e.Key)
		}
		for _, e := range in.Set {
			var entry struct{ Data json.RawMessage }
			if err := json.Unmarshal(e.Value, &entry); err != nil {
				panic(err)
			}
			l.has[e.Key] = string(entry.Data)
		}
	}
}

// sees waits until a looker sees exactly these cursors.
func sees(t *testing.T, l *looker, want map[string]string) {
	t.Helper()
	for begin := time.Now(); ; <-time.After(2 * time.Millisecond) {
		l.mu.Lock()
		has := maps.Clone(l.has)
		l.mu.Unlock()
		if maps.Equal(has, want) {
			return
		}
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("after 30 s somebody sees %v; want %v", has, want)
		}
	}
}
