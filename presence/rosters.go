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

	mu       sync.Mutex
	rosters  map[string]*roster
	pending  []*put
	queued   map[place]*put // the newest put of each entry that nobody waits for
	due      bool           // a beat is wanted now
	lapse    time.Time      // before which no other server's lease ends
	stale    map[*roster]struct{}
	doubtful map[*roster]struct{}
	warned   time.Time // when an error was last logged
}

// place is an entry's.
type place struct{ topic, key string }

// put is a change on its way to the store.
type put struct {
	roster *roster
	Change
	done chan error // nil: nobody waits, and what fails is made good later
	// What became of it: taken to the store, or withdrawn before that.
	taken, withdrawn bool
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
		rosters: map[string]*roster{}, queued: map[place]*put{}, lapse: time.Now().Add(o.TTL),
		stale: map[*roster]struct{}{}, doubtful: map[*roster]struct{}{}}
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
	if r.withdraw(p) {
		return fmt.Errorf("put %s on %s: %w", key, topic, ctx.Err())
	}
	return <-p.done // it is with the store, which has its own bounds
}

// withdraw takes back a put, unless it is too late for that.
func (r *Rosters) withdraw(p *put) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.taken || p.withdrawn {
		return false
	}
	p.withdrawn = true
	p.roster.puts--
	r.release(p.roster)
	return true
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
	at := place{topic, p.Key}
	if r.opts.Store == nil {
		p.roster.puts++
		r.settle(p, p.Max > 0 && !p.roster.shows(p.Key) && p.roster.board.count() >= p.Max, nil)
		return
	}
	if p.done == nil {
		before := r.queued[at]
		if before == nil && p.roster.puts == 0 && p.roster.has(p.Key, p.Value) {
			r.release(p.roster) // all is as it should be
			return
		}
		if r.opts.Pace > 0 {
			p.roster.ahead[p.Key] = p.Value
			p.roster.show(p.Key)
		}
		if before != nil {
			before.Value = p.Value // the last value wins
			r.release(p.roster)
			return
		}
		r.queued[at] = p
	} else {
		delete(r.queued, at) // what comes after it is not to go before it
	}
	p.roster.puts++
	r.pending = append(r.pending, p)
	r.poke()
}

// settle ends a put whose fate in the store is known, or unknown with an error.
func (r *Rosters) settle(p *put, full bool, err error) {
	ro, answer := p.roster, error(nil)
	p.taken = true
	switch {
	case full:
		answer = ErrFull
		r.metrics.full.Inc()
	case err != nil && p.done != nil:
		// The store may have it or not; it is put right as soon as it can be.
		answer = ErrUnavailable
	default:
		if r.queued[place{ro.topic, p.Key}] == nil {
			delete(ro.ahead, p.Key) // else a newer one is shown already
		}
		before := len(ro.mine)
		ro.give(p.Key, p.Value)
		r.metrics.entries.Add(float64(len(ro.mine) - before))
	}
	if err != nil {
		r.doubt(ro)
	}
	if p.done != nil {
		p.done <- answer
	}
	ro.puts--
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
			ro.stop = r.opts.Relay.Watch(topic, func(m Message) { r.hear(ro, m) }, func() { r.miss(ro) })
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
	delete(r.stale, ro)
	r.metrics.rosters.Dec()
	if ro.stop != nil {
		ro.stop()
	}
}

// outdated has a roster read from the store, not before a time.
func (r *Rosters) outdated(ro *roster, at time.Time) {
	if r.rosters[ro.topic] != ro {
		return // it has been let go of, and the relay has not heard of it yet
	}
	ro.stale, ro.readAt = true, at
	r.stale[ro] = struct{}{}
	r.poke()
}

// doubt has the store told everything this server has on a topic.
func (r *Rosters) doubt(ro *roster) {
	if r.rosters[ro.topic] != ro {
		return
	}
	ro.uncertain = true
	r.doubtful[ro] = struct{}{}
	r.poke()
}

func (r *Rosters) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// pulse has the views that want it told who is still there.
func (r *Rosters) pulse() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ro := range r.rosters {
		ro.board.pulse()
	}
}

// Refresh has everything compared with the store now: it may have lost or missed something.
func (r *Rosters) Refresh() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due = true
	r.poke()
}
