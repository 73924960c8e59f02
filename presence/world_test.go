package presence_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast/internal/breaker"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/shared"
)

// world is servers that share rosters, or one that has them for itself.
type world struct {
	t     *testing.T
	redis *redistest.Redis // nil: one server
	opts  presence.Options
	names int
	store func(presence.Store) presence.Store // what stands between servers and Redis; nil: nothing
	all   *prometheus.Registry                // of the first server
}

// figure reads a metric of the first server.
func (w *world) figure(name string) (sum float64) {
	families, err := w.all.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "pgcast_live_"+name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// each runs a test with one server of its own and with servers that share a Redis.
func each(t *testing.T, opts presence.Options, f func(t *testing.T, w *world)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		f(t, &world{t: t, opts: opts})
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		f(t, &world{t: t, opts: opts, redis: redistest.Start(t)})
	})
}

// shares runs a test with servers that share a Redis.
func shares(t *testing.T, opts presence.Options, f func(t *testing.T, w *world)) {
	t.Parallel()
	f(t, &world{t: t, opts: opts, redis: redistest.Start(t)})
}

// server is one server's rosters.
type server struct {
	*presence.Rosters
	name  string
	stop  func() // Run
	kill  func() // without a word
	redis *shared.Redis
}

// loser has a server lose messages while it is told to.
type loser struct {
	on   atomic.Bool
	lost atomic.Int64
}

// lossy is a relay with a loser.
type lossy struct {
	presence.Relay
	*loser
}

func (l lossy) Watch(topic string, f func(presence.Message), ready func()) (stop func()) {
	return l.Relay.Watch(topic, func(m presence.Message) {
		if l.on.Load() {
			l.lost.Add(1)
			return
		}
		f(m)
	}, ready)
}

// server starts one; in memory there is only ever one.
func (w *world) server() *server { return w.lossyServer(new(loser)) }

func (w *world) lossyServer(loses *loser) *server {
	w.t.Helper()
	w.names++
	o := w.opts
	o.Kind, o.Server = "presence", fmt.Sprintf("server%d", w.names)
	if w.all == nil {
		w.all = prometheus.NewRegistry()
		o.Registerer = w.all
	}
	ctx, cancel := context.WithCancel(context.Background())
	own, stop := context.WithCancel(ctx)
	var done, ran sync.WaitGroup
	s := &server{name: o.Server, stop: func() { stop(); ran.Wait() }, kill: func() { cancel(); ran.Wait(); done.Wait() }}
	if w.redis != nil {
		var err error
		s.redis, err = shared.Open(&shared.Options{URL: w.redis.URL, OnState: func(to breaker.State) {
			if to == breaker.Healthy {
				s.Refresh()
			}
		}})
		if err != nil {
			w.t.Fatal(err)
		}
		relay := s.redis.Relay()
		ttl := o.TTL
		if ttl == 0 {
			ttl = 90 * time.Second
		}
		o.Store, o.Relay = s.redis.Store(o.Kind, o.Server, ttl), lossy{relay.Kind(o.Kind), loses}
		if w.store != nil {
			o.Store = w.store(o.Store)
		}
		done.Go(func() { _ = s.redis.Run(ctx) })
		done.Go(func() { _ = relay.Run(ctx) })
	}
	s.Rosters = presence.NewRosters(&o)
	ran.Go(func() { _ = s.Run(own) })
	w.t.Cleanup(s.kill)
	return s
}

// client folds what it is sent of one topic.
type client struct {
	view *presence.View

	mu    sync.Mutex
	has   map[string]string
	joins map[string]int // how often each key came
	parts map[string]int // and went
	pulls int
}

var plain = &presence.Dialect{Encode: func(c presence.Changes) [][]byte {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return [][]byte{b}
}}

// watch opens a view that is pulled as soon as there is something.
func (s *server) watch(topic, hide string) *client {
	c := &client{has: map[string]string{}, joins: map[string]int{}, parts: map[string]int{}}
	c.view = s.View(topic, plain, hide, func(v *presence.View) { go c.pull(v) })
	return c
}

func (c *client) pull(v *presence.View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pulls++
	for _, text := range v.Pull() {
		var in presence.Changes
		if err := json.Unmarshal(text, &in); err != nil {
			panic(err)
		}
		before := maps.Clone(c.has)
		if in.Whole {
			clear(c.has)
		}
		for _, e := range in.Removed {
			delete(c.has, e.Key)
		}
		for _, e := range in.Set {
			c.has[e.Key] = string(e.Value)
		}
		for key := range c.has {
			if _, there := before[key]; !there {
				c.joins[key]++
			}
		}
		for key := range before {
			if _, there := c.has[key]; !there {
				c.parts[key]++
			}
		}
	}
}

func (c *client) sees() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.has))
}

func (c *client) counts(key string) (joins, parts int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.joins[key], c.parts[key]
}

// forget counts from now on.
func (c *client) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.joins)
	clear(c.parts)
}

// until waits for something that should be so within a moment.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("not within 30 s: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func (w *world) put(s *server, topic, key, value string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	if err := s.Put(ctx, topic, key, json.RawMessage(value), 0); err != nil {
		w.t.Fatalf("put %s: %v", key, err)
	}
}

func sees(t *testing.T, c *client, keys ...string) {
	t.Helper()
	until(t, fmt.Sprintf("a client sees %v", keys), func() bool { return slices.Equal(c.sees(), keys) })
}
