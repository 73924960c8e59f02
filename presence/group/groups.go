// Package group is capped presence: named rosters with a limit that holds over all servers,
// roles, and an end. Who is a member is live state; which groups there are, how large they
// may be and whether they are closed is durable, and read through [Facts].
package group

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/presence"
)

// Facts keeps what is durable about groups. Errors are *[pgcast.Error]: not_found where
// there is no such group, closed, or what matches [pgcast.ErrUnavailable].
type Facts interface {
	Group(ctx context.Context, name string) (pgcast.Group, error)
	// CreateGroup tells whether there was none of that name.
	CreateGroup(ctx context.Context, name string, max int, meta json.RawMessage) (bool, error)
	ChangeGroup(ctx context.Context, name string, c pgcast.GroupChange) error
}

// Relay carries what is said in a group between servers, at most once.
type Relay interface {
	// Tell hands a text to all servers that listen.
	Tell(ctx context.Context, group string, text []byte) error
	// Listen has f called with each text, and calls ready once texts arrive, or cannot. Both
	// are called by other goroutines, which they do not hold up.
	Listen(group string, f func(text []byte), ready func()) (stop func())
}

// Member is one of a group's.
type Member struct {
	Key  string          `json:"key"`
	Role string          `json:"role"`
	User json.RawMessage `json:"user,omitempty"` // public; nil if there is nothing
}

// Hooks are called on the server where something happens, one after the other, by one
// goroutine of Run's: while one takes its time the others wait, and nobody else does. A
// member whose server has died is told of as gone, but no hook is called for him.
type Hooks struct {
	// Join is called when the first session of a user on this server has joined.
	Join func(group string, m Member)
	// Leave is called when the last one has left, or has been gone for the grace period.
	Leave func(group string, m Member)
	// Full is called when somebody found no room; not while a thousand calls wait, for whoever
	// knocks can do that as often as he likes.
	Full func(group string, m Member)
	// Close is called on each server that has to do with the group, once all are out.
	Close func(group string)
}

// Options of groups; the zero value of each field stands for its default.
type Options struct {
	Relay Relay // nil: there is one server
	// Watch has changed called, by another goroutine, as soon as it is certain that it will be
	// called after each change of a group, and then after each. Without one, only changes
	// made here are seen.
	Watch func(name string, changed func()) (stop func())
	// Grace is for how long a user whose last session has ended keeps the place; 0 stands for
	// presence.DefaultGrace, less for none.
	Grace      time.Duration
	Hooks      Hooks
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // default slog.Default()
}

// Groups keeps the groups that sessions here have to do with.
type Groups struct {
	rosters *presence.Rosters
	facts   Facts
	opts    Options
	server  string // this one's name
	metrics *metrics
	wake    chan struct{} // there may be something stale
	due     chan struct{} // there is something in calls

	mu     sync.Mutex
	groups map[string]*group
	calls  []func() // hooks, and what else may take its time
}

// group is one that somebody here has to do with. Guarded by Groups.mu.
type group struct {
	name   string
	refs   int
	stop   []func()
	heard  chan struct{} // closed once what others say is heard, or cannot be
	info   pgcast.Group  // if known
	known  bool
	stale  bool      // it may have changed
	asked  *question // under way
	closed bool      // all are out
	places map[*Place]struct{}
	stays  map[string]*stay // by the user's key
	full   time.Time        // when it was last told that it is
}

// question is one that Facts was asked.
type question struct {
	done chan struct{}
	err  error
}

const (
	askTimeout = 10 * time.Second       // for Facts to answer
	askAgain   = 500 * time.Millisecond // after it could not
	fullEvery  = time.Second            // that members are told of who found no room, at most
)

// New makes groups of rosters; Run shares them.
func New(rosters *presence.Rosters, facts Facts, options *Options) *Groups {
	o := Options{}
	if options != nil {
		o = *options
	}
	if o.Grace == 0 {
		o.Grace = presence.DefaultGrace
	}
	o.Grace = max(o.Grace, 0)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Groups{rosters: rosters, facts: facts, opts: o, server: rand.Text(), metrics: newMetrics(o.Registerer), wake: make(chan struct{}, 1),
		due: make(chan struct{}, 1), groups: map[string]*group{}}
}

// Run shares the groups, follows what becomes of them and calls the hooks, until ctx ends.
func (g *Groups) Run(ctx context.Context) error {
	var rest sync.WaitGroup
	defer rest.Wait()
	rest.Go(func() { _ = g.rosters.Run(ctx) })
	rest.Go(func() { g.call(ctx) }) // apart: a group is closed here however long a hook takes
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-g.wake:
		}
		g.mu.Lock()
		for _, gr := range g.groups {
			if gr.stale && !gr.closed {
				g.ask(gr)
			}
		}
		g.mu.Unlock()
	}
}

// call calls what is due, in order, until ctx ends.
func (g *Groups) call(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.due:
		}
		g.mu.Lock()
		calls := g.calls
		g.calls = nil
		g.mu.Unlock()
		for _, call := range calls {
			call()
		}
	}
}

func (g *Groups) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// later has f called by Run's goroutine; mu is held.
func (g *Groups) later(f func()) {
	g.calls = append(g.calls, f)
	select {
	case g.due <- struct{}{}:
	default:
	}
}

// hold finds or opens a group; release must follow. mu is held.
func (g *Groups) hold(name string) *group {
	gr := g.groups[name]
	if gr == nil {
		gr = &group{name: name, heard: make(chan struct{}), places: map[*Place]struct{}{}, stays: map[string]*stay{}}
		g.groups[name] = gr
		g.metrics.groups.Inc()
		if g.opts.Watch != nil {
			gr.stop = append(gr.stop, g.opts.Watch(name, func() { g.changed(gr) }))
		}
		if g.opts.Relay != nil {
			gr.stop = append(gr.stop, g.opts.Relay.Listen(name, func(text []byte) { g.hear(gr, text) }, sync.OnceFunc(func() { close(gr.heard) })))
		} else {
			close(gr.heard)
		}
	}
	gr.refs++
	return gr
}

func (g *Groups) release(gr *group) {
	if gr.refs--; gr.refs > 0 {
		return
	}
	delete(g.groups, gr.name)
	g.metrics.groups.Dec()
	for _, stop := range gr.stop {
		stop()
	}
}

func (g *Groups) changed(gr *group) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gr.stale = true
	g.poke()
}

// ask has Facts asked, unless it is being asked; mu is held.
func (g *Groups) ask(gr *group) *question {
	if gr.asked != nil {
		return gr.asked
	}
	q := &question{done: make(chan struct{})}
	gr.asked, gr.stale = q, false
	gr.refs++
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		defer cancel()
		info, err := g.facts.Group(ctx, gr.name)
		g.mu.Lock()
		defer g.mu.Unlock()
		gr.asked, q.err = nil, err
		switch {
		case err == nil:
			gr.info, gr.known = info, true
			if info.Closed {
				g.shut(gr)
			}
		case errors.Is(err, pgcast.ErrUnavailable) || ctx.Err() != nil:
			gr.stale = true // what is known may be out of date, and is not relied on
			time.AfterFunc(askAgain, g.poke)
		default:
			gr.known = false
		}
		close(q.done)
		g.release(gr)
	}()
	return q
}

// info gives what is known of a group, and asks where nothing is, or where it may have
// changed. What was asked after the call began is good enough, whatever may have changed
// since: else whoever has the group change over and over would keep all others waiting.
func (g *Groups) info(ctx context.Context, gr *group) (pgcast.Group, error) {
	for fresh := false; ; {
		g.mu.Lock()
		if gr.closed || gr.known && (fresh || !gr.stale && gr.asked == nil) {
			defer g.mu.Unlock()
			return gr.info, nil
		}
		fresh = gr.asked == nil
		q := g.ask(gr)
		g.mu.Unlock()
		select {
		case <-q.done:
			if q.err != nil {
				return pgcast.Group{}, q.err
			}
		case <-ctx.Done():
			return pgcast.Group{}, fmt.Errorf("ask for group %q: %w", gr.name, ctx.Err())
		}
	}
}

// shut ends all memberships of a group here; mu is held. The others do the same.
func (g *Groups) shut(gr *group) {
	if gr.closed {
		return
	}
	gr.closed = true
	g.metrics.closed.Inc()
	for p := range gr.places {
		p.shut()
	}
	for key, s := range gr.stays {
		if s.leaving != nil {
			s.leaving.Stop()
		}
		g.remove(gr, key)
	}
	if f := g.opts.Hooks.Close; f != nil {
		g.later(func() { f(gr.name) })
	}
}

// Create makes a group of at most max members, 0 for no limit, and tells whether there was
// none of that name. meta is a JSON object, or nil. Errors like those of [Facts].
func (g *Groups) Create(ctx context.Context, name string, max int, meta json.RawMessage) (created bool, err error) {
	if err := pgcast.CheckGroup(name); err != nil {
		return false, err
	}
	created, err = g.facts.CreateGroup(ctx, name, max, meta)
	if err == nil {
		err = g.renew(ctx, name)
	}
	return created, err
}

// Change changes a group. Closing it, all members are out when it returns, on this server,
// and in a moment on all. Errors like those of [Facts].
func (g *Groups) Change(ctx context.Context, name string, c pgcast.GroupChange) error {
	if err := pgcast.CheckGroup(name); err != nil {
		return err
	}
	if err := g.facts.ChangeGroup(ctx, name, c); err != nil {
		return err
	}
	return g.renew(ctx, name)
}

// renew reads again what has become of a group, if anybody here has to do with it. It is
// done whether that can be read or not.
func (g *Groups) renew(ctx context.Context, name string) error {
	g.mu.Lock()
	gr := g.groups[name]
	if gr == nil {
		g.mu.Unlock()
		return nil
	}
	gr.refs++
	gr.stale = true
	g.mu.Unlock()
	if _, err := g.info(ctx, gr); err != nil {
		g.opts.Logger.Warn("groups: read again what has changed", "error", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.release(gr)
	return nil
}

// List gives a group and its members on all servers, in no order. Errors like those of [Facts], and those of [presence.Rosters.List].
func (g *Groups) List(ctx context.Context, name string) (pgcast.Group, []Member, error) {
	if err := pgcast.CheckGroup(name); err != nil {
		return pgcast.Group{}, nil, err
	}
	info, err := g.look(ctx, name)
	if err != nil || info.Closed {
		return info, nil, err
	}
	entries, err := g.rosters.List(ctx, name)
	return info, Members(entries), err
}

func (g *Groups) look(ctx context.Context, name string) (pgcast.Group, error) {
	g.mu.Lock()
	gr := g.groups[name]
	if gr == nil {
		g.mu.Unlock()
		return g.facts.Group(ctx, name)
	}
	gr.refs++
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.release(gr)
	}()
	return g.info(ctx, gr)
}

// Refresh has everything compared with the shared store now.
func (g *Groups) Refresh() { g.rosters.Refresh() }

// Depart tells the others that this server is going; its members keep their places for the
// grace period. Run must have ended.
func (g *Groups) Depart(ctx context.Context) error {
	return g.rosters.Depart(ctx, max(g.opts.Grace, time.Second))
}
