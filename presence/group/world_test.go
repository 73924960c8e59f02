package group_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgcast/pgcast/internal/breaker"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/group"
	"github.com/pgcast/pgcast/presence/shared"
	"github.com/pgcast/pgcast/replay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is servers that share groups, or one that has them for itself; what is durable is
// in a real Postgres.
type world struct {
	t     testing.TB
	db    *pgtest.DB
	log   *replay.Log
	facts group.Facts
	redis *redistest.Redis // nil: one server
	ttl   time.Duration
	names int

	mu      sync.Mutex
	watched map[string][]func() // by group: what is to be called after a change
}

// each runs a test with one server of its own and with servers that share a Redis.
func each(t *testing.T, f func(t *testing.T, w *world)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		f(t, newWorld(t, nil))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		f(t, newWorld(t, redistest.Start(t)))
	})
}

func newWorld(t testing.TB, redis *redistest.Redis) *world {
	db := pgtest.New(t, nil)
	log := replay.NewLog(db.Pool(t), nil)
	return &world{t: t, db: db, log: log, facts: log, redis: redis, ttl: 90 * time.Second, watched: map[string][]func(){}}
}

// watch notes who is to be told of a group; tell tells them.
func (w *world) watch(name string, changed func()) (stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watched[name] = append(w.watched[name], changed)
	go changed()
	return func() {}
}

// tell has all servers look what has become of a group.
func (w *world) tell(name string) {
	w.mu.Lock()
	list := slices.Clone(w.watched[name])
	w.mu.Unlock()
	for _, changed := range list {
		changed()
	}
}

// server is one server's groups.
type server struct {
	*group.Groups
	rosters *presence.Rosters
	w       *world
	kill    func() // without a word
	encoded atomic.Int64

	mu    sync.Mutex
	hooks []string
}

// server starts one; in memory it is always the same.
func (w *world) server(change func(*group.Options)) *server {
	w.t.Helper()
	w.names++
	s := &server{w: w}
	note := func(what string) func(string, group.Member) {
		return func(name string, m group.Member) { s.note(fmt.Sprintf("%s %s %s %s", what, name, m.Key, m.Role)) }
	}
	o := &group.Options{Watch: w.watch, Grace: -1, Logger: slog.New(slog.DiscardHandler), Hooks: group.Hooks{
		Join: note("join"), Leave: note("leave"), Full: note("full"), Close: func(name string) { s.note("close " + name) }}}
	ro := &presence.Options{Kind: "group", Server: fmt.Sprintf("server%d", w.names), TTL: w.ttl, Every: time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	s.kill = sync.OnceFunc(func() { cancel(); done.Wait() })
	if w.redis != nil {
		r, err := shared.Open(&shared.Options{URL: w.redis.URL, Logger: o.Logger, OnState: func(to breaker.State) {
			if to == breaker.Healthy {
				s.Refresh()
			}
		}})
		if err != nil {
			w.t.Fatal(err)
		}
		relay := r.Relay()
		ro.Store, ro.Relay, o.Relay = r.Store(ro.Kind, ro.Server, w.ttl), relay.Kind(ro.Kind), relay.Said(ro.Kind)
		done.Go(func() { _ = r.Run(ctx) })
		done.Go(func() { _ = relay.Run(ctx) })
	}
	if change != nil {
		change(o)
	}
	ro.Registerer = o.Registerer
	s.rosters = presence.NewRosters(ro)
	s.Groups = group.New(s.rosters, w.facts, o)
	done.Go(func() { _ = s.Run(ctx) })
	w.t.Cleanup(s.kill)
	return s
}

// pair gives two servers, or in memory twice the same.
func (w *world) pair(change func(*group.Options)) (a, b *server) {
	a = w.server(change)
	if w.redis == nil {
		return a, a
	}
	return a, w.server(change)
}

func (s *server) note(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks = append(s.hooks, text)
}

func (s *server) noted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.hooks)
}

// create makes a group.
func (w *world) create(name string, max int) {
	w.t.Helper()
	if _, err := w.log.CreateGroup(context.Background(), name, max, nil); err != nil {
		w.t.Fatal(err)
	}
}

// client is a session with a place in a group. It folds what it is told.
type client struct {
	*group.Place
	t testing.TB

	mu    sync.Mutex
	has   map[string]string // role by key
	heard []string          // events sent to it, and the end
}

var plain = &presence.Dialect{Encode: func(c presence.Changes) [][]byte {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return [][]byte{b}
}}

// open gives a session a place, and shows it the members.
func (s *server) open(name string) *client {
	s.w.t.Helper()
	c := s.unseen(name)
	c.Show()
	return c
}

// unseen gives a session a place from which it does not look.
func (s *server) unseen(name string) *client {
	s.w.t.Helper()
	c := &client{t: s.w.t, has: map[string]string{}}
	p, err := s.Open(name, group.Teller{Dialect: plain, Closed: []byte(`"closed"`),
		Kick: func(p *group.Place) { go c.pull(p) },
		Encode: func(event string, data json.RawMessage) []byte {
			s.encoded.Add(1)
			return []byte(event + " " + string(data))
		},
		Offer: func(text []byte) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.heard = append(c.heard, string(text))
		}})
	if err != nil {
		s.w.t.Fatal(err)
	}
	c.Place = p
	return c
}

func (c *client) pull(p *group.Place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, text := range p.Pull() {
		if string(text) == `"closed"` {
			clear(c.has)
			c.heard = append(c.heard, "close")
			continue
		}
		var in presence.Changes
		if err := json.Unmarshal(text, &in); err != nil {
			panic(err)
		}
		if in.Whole {
			clear(c.has)
		}
		for _, m := range group.Members(in.Removed) {
			delete(c.has, m.Key)
		}
		for _, m := range group.Members(in.Set) {
			c.has[m.Key] = m.Role
		}
	}
}

// join has a user join, or fails the test.
func (c *client) join(key, role string) group.Member {
	c.t.Helper()
	m, err := c.try(key, role)
	if err != nil {
		c.t.Fatalf("%s joins: %v", key, err)
	}
	return m
}

func (c *client) try(key, role string) (group.Member, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	m, _, err := c.Join(ctx, presence.User{Key: key, Data: json.RawMessage(`{}`)}, role)
	return m, err
}

func (c *client) send(m group.Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return c.Send(ctx, m)
}

// sees waits until the client sees members, each as key:role, in order.
func (c *client) sees(want ...string) {
	c.t.Helper()
	until(c.t, fmt.Sprintf("a client sees %v", want), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		var got []string
		for key, role := range c.has {
			got = append(got, key+":"+role)
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	})
}

// hears waits until the client has been told exactly these.
func (c *client) hears(want ...string) {
	c.t.Helper()
	until(c.t, fmt.Sprintf("a client hears %v", want), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return slices.Equal(c.heard, want)
	})
}

// until waits for something that should be so within a moment.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("not within 30 s: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// is fails the test unless the error matches.
func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v; want %v", err, want)
	}
}
