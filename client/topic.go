package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/pgcast/pgcast"
)

// Defaults and bounds of what a topic may have waiting for its consumer.
const (
	defaultBuffer   = 1000
	minBuffer       = 16 // what answers a subscription must not fill it
	bufferBytes     = 4 << 20
	defaultSnapshot = 64 << 20
	chunk           = 64 // items that a consumer takes at a time
)

// TopicOptions say how the subscription of a [Topic] begins, what it selects, and how much
// may wait for its consumer; the zero value of each field stands for its default.
type TopicOptions struct {
	// From is where the first iteration begins; nil: what follows from now on, or what Snapshot
	// says. A place that Options.Places has comes before it.
	From *From
	// Snapshot has what the topic holds come first, as [Snapshot] items, and anew after a gap or
	// a reset. Not together with From, nor for a pattern.
	Snapshot bool
	// Filter is a condition on the data of events and rows, as in docs/filters.md.
	Filter string
	// Buffer is how many items may wait for the consumer, default 1000, at least 16; in bytes they
	// are at most 4 MiB, and a frame (1 MiB) more. With more the topic stops its subscription, and goes
	// on from its place when a quarter is left: the server keeps the log, so nothing is missed.
	Buffer int
	// SnapshotBytes is how much of a snapshot may wait, default 64 MiB: it cannot be stopped and
	// gone on with. With more the iteration ends with an error of code too_large.
	SnapshotBytes int
	// PlaceName is what its place is called in Options.Places; default the topic's name. Two
	// consumers of one topic need two names.
	PlaceName string
	// Manual leaves Options.Places to Commit: nothing is stored otherwise, and a topic with
	// Snapshot has a stored place too.
	Manual bool
}

// Topic is a handle of one topic or pattern: what it tells, publishing, history, and live
// state. Each handle is iterated by one goroutine at a time, several handles by several. One
// whose consumer is slow holds up none of the others.
//
// A client is used either by its topics or by Subscribe, Next and Items; the second way then
// answers with an error. The topics of one client that are iterated at the same time may not
// select the same events: use another Client for that.
type Topic struct {
	c       *Client
	name    string
	pattern pgcast.Pattern
	opts    TopicOptions
	filter  json.RawMessage // nil: everything
	err     error           // of its name or options: each use gives it
	filled  chan struct{}   // has room for one; tells next of the queue

	mu   sync.Mutex
	here reached // after the newest item that was handed over

	// Owned by the iteration.
	rest   []Item
	done   reached // after the newest item that the consumer has done with
	dirty  bool    // it is not stored yet
	stored time.Time

	// Guarded by Client.mu.
	busy   bool          // it is iterated
	sub    *subscription // nil while it has stopped
	queue  []Item
	size   int     // of the queue in bytes
	ahead  reached // after the newest item of the queue
	told   int64   // tail of the newest gap of a pattern
	ending error   // what the iteration ends with, after the queue
}

// Topic makes a handle of a topic or pattern. opts may be nil. A name or options that cannot
// be used are told by what the handle is used for first.
func (c *Client) Topic(name string, opts *TopicOptions) *Topic {
	t := &Topic{c: c, name: name, filled: make(chan struct{}, 1)}
	if opts != nil {
		t.opts = *opts
	}
	if t.opts.Buffer <= 0 {
		t.opts.Buffer = defaultBuffer
	}
	t.opts.Buffer = max(t.opts.Buffer, minBuffer)
	if t.opts.SnapshotBytes <= 0 {
		t.opts.SnapshotBytes = defaultSnapshot
	}
	if t.opts.PlaceName == "" {
		t.opts.PlaceName = name
	}
	var r request
	t.pattern, r, t.err = checked(name, SubscribeOptions{From: t.opts.From, Snapshot: t.opts.Snapshot, Filter: t.opts.Filter})
	t.opts.From, t.filter = r.from, r.filter
	return t
}

// Name gives the name of the topic, or the pattern.
func (t *Topic) Name() string { return t.name }

// Place gives the place after the newest item that was handed over, and false before there
// is one: before the first answer, and while a snapshot is not complete.
func (t *Topic) Place() (From, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.here.From, t.here.known
}

// Items subscribes, and gives everything that the topic tells, in order: [Subscribed],
// [Snapshot], [Event], [Gap], [Reset] and, as the last, [Denied]. It ends when the caller
// breaks, and, with an error, when ctx ends or Run has returned. That ends the subscription;
// iterating again goes on after the newest item that was handed over.
func (t *Topic) Items(ctx context.Context) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		if err := t.begin(ctx); err != nil {
			yield(nil, err)
			return
		}
		defer t.end(ctx)
		for {
			it, err := t.next(ctx)
			if err != nil {
				yield(nil, err)
				return
			}
			t.mu.Lock()
			t.here.pass(it, t.opts.Snapshot, t.isPattern())
			here := t.here
			t.mu.Unlock()
			if !yield(it, nil) {
				return
			}
			t.finished(ctx, here)
			if _, denied := it.(Denied); denied {
				return
			}
		}
	}
}

// Events is Items for a consumer that wants the events alone. What it must not miss comes as
// an error: a [Gap] or a [Reset], after which the iteration goes on if the caller does; and
// as the last one a [Denied], or what ends Items. A topic with Snapshot is for Items.
func (t *Topic) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if t.err == nil && t.opts.Snapshot {
			yield(Event{}, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("the events of %q: it begins with a snapshot", t.name),
				Hint: "iterate Items, which has the snapshot too"})
			return
		}
		for it, err := range t.Items(ctx) {
			var e Event
			switch it := it.(type) {
			case Event:
				e = it
			case Gap:
				err = it
			case Reset:
				err = it
			case Denied:
				err = it
			case Subscribed:
				continue
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func (t *Topic) isPattern() bool { return pgcast.IsPattern(t.name) }

// begin subscribes.
func (t *Topic) begin(ctx context.Context) error {
	if t.err != nil {
		return t.err
	}
	if err := t.c.hold(t); err != nil {
		return err
	}
	t.mu.Lock()
	here := t.here
	t.mu.Unlock()
	if !here.known {
		var err error
		if here, err = t.load(ctx); err != nil {
			t.c.release(t)
			return err
		}
	}
	if !here.known && t.opts.From != nil {
		here = reached{*t.opts.From, true}
	}
	t.mu.Lock()
	t.here = here
	t.mu.Unlock()
	t.rest, t.done, t.dirty, t.stored = nil, here, false, time.Now()
	t.c.open(t, here)
	return nil
}

// end ends the subscription. What waits in the queue has not been handed over and comes again.
func (t *Topic) end(ctx context.Context) {
	t.c.release(t)
	t.rest = nil
	if t.dirty {
		// ctx may have ended, which is how most iterations do.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer cancel()
		t.store(ctx)
	}
}

// next waits for the next item.
func (t *Topic) next(ctx context.Context) (Item, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(t.rest) > 0 {
			it := t.rest[0]
			t.rest[0] = nil
			t.rest = t.rest[1:]
			return it, nil
		}
		var err error
		if t.rest, err = t.c.takeOf(t); err != nil {
			return nil, err
		}
		if len(t.rest) > 0 {
			continue
		}
		if err := t.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// wait waits until there may be something in the queue, and stores the place meanwhile.
func (t *Topic) wait(ctx context.Context) error {
	var due <-chan time.Time
	if t.dirty {
		timer := time.NewTimer(time.Until(t.stored.Add(placesEvery)))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-t.filled:
	case <-due:
		t.store(ctx)
	case <-t.c.done:
		if items, err := t.c.takeOf(t); err != nil || len(items) == 0 {
			return t.c.err
		} else {
			t.rest = items
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// reached is a place, if known.
type reached struct {
	From
	known bool
}

// pass goes past an item of a topic or pattern that began with a snapshot, or did not.
func (r *reached) pass(it Item, snapshot, pattern bool) {
	switch it := it.(type) {
	case Event:
		*r = reached{it.From(), true}
	case Subscribed:
		if !it.Resumed && !snapshot {
			*r = reached{From{After: it.Seq}, true}
		}
	case Snapshot:
		*r = reached{it.From, it.Last}
	case Gap:
		switch {
		case snapshot:
			*r = reached{} // it comes anew
		case !pattern && it.Tail-1 > r.After:
			r.After, r.ID = it.Tail-1, ""
		}
	case Reset:
		*r = reached{From{After: it.Head}, true}
		if snapshot {
			*r = reached{}
		}
	}
}
