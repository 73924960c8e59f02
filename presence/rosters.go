package presence

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
)

// Options of rosters; the zero value of each field stands for its default.
type Options struct {
	Kind   string // of the metrics' label: presence, cursor, group
	Server string // this server's name among those that share the store; needed with one
	// Store and Relay share the rosters between servers; without them there is one server.
	Store Store
	Relay Relay
	// TTL is for how long the entries of a server that is gone are still there; default
	// 90 s. Beat is how often a server says that it is not; default a third of TTL.
	TTL, Beat time.Duration
	// Every is how often a client is told of changes, at most; default 20 ms.
	Every time.Duration
	// Pace, if not 0, is for what changes all the time: what is posted and dropped is shown
	// here at once, whether others can be told or not, and they are told at most so often.
	Pace       time.Duration
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // default slog.Default()
}

// Rosters keeps the rosters of one kind that anybody here has to do with.
type Rosters struct {
	opts    Options
	metrics *metrics
	wake    chan struct{} // there is work for Run

	mu      sync.Mutex
	rosters map[string]*roster
	pending []*put
	queued  map[place]*put // the newest put of each entry that nobody waits for
	due     bool           // a beat is wanted now
}

// place is an entry's.
type place struct{ topic, key string }

// put is a change on its way to the store.
type put struct {
	roster *roster
	Change
	had  bool       // the entry was there before
	done chan error // nil: nobody waits, and what fails is made good later
}

// Errors of Put.
var (
	// ErrFull says that the roster has as many entries as it may have.
	ErrFull = &pgcast.Error{Code: pgcast.CodeTooMany, Message: "no room", Hint: "try again when somebody has left"}
	// ErrUnavailable says that the other servers cannot be told or asked right now. Nothing was done.
	ErrUnavailable = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "live state is not shared right now", Hint: "try again in a moment"}
)

// NewRosters makes rosters; Run shares them.
func NewRosters(options *Options) *Rosters {
	o := Options{}
	if options != nil {
		o = *options
	}
	if o.TTL <= 0 {
		o.TTL = 90 * time.Second
	}
	if o.Beat <= 0 {
		o.Beat = o.TTL / 3
	}
	if o.Every <= 0 {
		o.Every = 20 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Rosters{opts: o, metrics: newMetrics(o.Registerer, o.Kind), wake: make(chan struct{}, 1),
		rosters: map[string]*roster{}, queued: map[place]*put{}}
}

// Put adds or changes an entry of this server's and waits until all servers have it. It is
// there or it is not: after an error all is as it was before. max, if not 0, is how many keys the topic
// may have in all. Errors: ErrFull, ErrUnavailable, and ctx's.
func (r *Rosters) Put(ctx context.Context, topic, key string, value json.RawMessage, max int) error {
	p := &put{Change: Change{Key: key, Value: value, Max: max}, done: make(chan error, 1)}
	r.submit(topic, p)
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
	}
	if !p.had {
		// It may be on its way; taking it back goes the same way, behind it.
		r.Drop(topic, key)
	}
	return fmt.Errorf("put %s on %s: %w", key, topic, ctx.Err())
}

// Post is Put for those who do not wait: while the others cannot be told it is an entry of
// this server alone, and they are told as soon as they can be.
func (r *Rosters) Post(topic, key string, value json.RawMessage) {
	r.submit(topic, &put{Change: Change{Key: key, Value: value}})
}

// Drop takes an entry of this server's away, as soon as it can be.
func (r *Rosters) Drop(topic, key string) { r.submit(topic, &put{Change: Change{Key: key}}) }

func (r *Rosters) submit(topic string, p *put) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.roster = r.hold(topic)
	_, p.had = p.roster.mine[p.Key]
	if r.opts.Store == nil {
		r.settle(p, p.Max > 0 && !p.roster.shows(p.Key) && p.roster.board.count() >= p.Max, nil)
		return
	}
	if p.done == nil && r.opts.Pace > 0 {
		p.roster.ahead[p.Key] = p.Value
		p.roster.show(p.Key)
	}
	if p.done != nil {
		delete(r.queued, place{topic, p.Key})
	} else if before := r.queued[place{topic, p.Key}]; before != nil {
		before.Value = p.Value // the last value wins
		r.release(p.roster)
		return
	} else {
		r.queued[place{topic, p.Key}] = p
	}
	r.pending = append(r.pending, p)
	r.poke()
}

// settle ends a put whose fate in the store is known, or unknown with an error.
func (r *Rosters) settle(p *put, full bool, err error) {
	ro, answer := p.roster, error(nil)
	switch {
	case full:
		answer = ErrFull
		r.metrics.full.Inc()
	case err != nil && p.done != nil:
		// The store may have it or not; it is put right with the next beat.
		ro.uncertain, answer = true, ErrUnavailable
	default:
		ro.uncertain = ro.uncertain || err != nil
		if r.queued[place{ro.topic, p.Key}] == nil {
			delete(ro.ahead, p.Key) // else a newer one is shown already
		}
		ro.give(p.Key, p.Value)
	}
	if p.done != nil {
		p.done <- answer
	}
	r.release(ro)
}

// View opens a view of a topic, which is told through kick when there is something to
// pull: at first the whole of it. The entry with key hide is not shown to it. Close must
// follow.
func (r *Rosters) View(topic string, d *Dialect, hide string, kick func(*View)) *View {
	r.mu.Lock()
	defer r.mu.Unlock()
	ro := r.hold(topic)
	v := ro.board.view(topic, d, hide, kick)
	v.release = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.release(ro)
	}
	if ro.known {
		kick(v)
	}
	return v
}

// List gives the entries of a topic on all servers. Errors: ErrUnavailable, and ctx's.
func (r *Rosters) List(ctx context.Context, topic string) ([]Entry, error) {
	var list []Entry
	err := r.look(ctx, topic, func(b *board) { list = b.entries() })
	return list, err
}

// Count gives the number of entries of a topic on all servers. Errors like List.
func (r *Rosters) Count(ctx context.Context, topic string) (n int, err error) {
	err = r.look(ctx, topic, func(b *board) { n = b.count() })
	return n, err
}

func (r *Rosters) look(ctx context.Context, topic string, f func(*board)) error {
	r.mu.Lock()
	ro := r.hold(topic)
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.release(ro)
	}()
	select {
	case <-ro.read:
	case <-ctx.Done():
		return fmt.Errorf("look at %s: %w", topic, ctx.Err())
	}
	r.mu.Lock()
	certain := ro.certain
	r.mu.Unlock()
	if !certain {
		return ErrUnavailable
	}
	f(ro.board)
	return nil
}

// hold finds or opens a topic's roster; release must follow.
func (r *Rosters) hold(topic string) *roster {
	ro := r.rosters[topic]
	if ro == nil {
		ro = newRoster(topic, r.opts.Every)
		r.rosters[topic] = ro
		r.metrics.rosters.Inc()
		if r.opts.Store == nil {
			ro.understood(true)
		} else {
			ro.stop = r.opts.Relay.Watch(topic, func(m Message) { r.hear(ro, m) }, func() { r.stale(ro) })
		}
	}
	ro.refs++
	return ro
}

func (r *Rosters) release(ro *roster) {
	if ro.refs--; ro.refs > 0 || len(ro.mine) > 0 || ro.uncertain {
		return
	}
	delete(r.rosters, ro.topic)
	r.metrics.rosters.Dec()
	if ro.stop != nil {
		ro.stop()
	}
}

func (r *Rosters) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Refresh has everything compared with the store now: it may have lost or missed something.
func (r *Rosters) Refresh() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due = true
	r.poke()
}
