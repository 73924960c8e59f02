package fanout

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgcast/pgcast"
)

// Lens is how a subscription sees its topic: some of its events and rows only, or others in
// their place.
type Lens interface {
	// Key names it: lenses with the same key see the same of a topic, and are asked once for
	// all.
	Key() string
	// Look gives for each event what is seen of it: the event itself, another one in its
	// place, with the same topic, seq, position and id, or nil. It may wait, as for the
	// database; after an error the same events are looked at again.
	Look(ctx context.Context, events []*pgcast.Event) ([]*pgcast.Event, error)
	// Snapshot reads what is seen of what a topic holds; see [Snapshots].
	Snapshot(ctx context.Context, topic string, begin func(pgcast.Snapshot) error, take func(pgcast.Row) error) error
}

// QuickLens is a Lens that can mostly look without waiting for anything.
type QuickLens interface {
	// Try is Look if it need not wait for anybody, and false otherwise.
	Try(events []*pgcast.Event) (seen []*pgcast.Event, ok bool)
}

// lookFresh is for how long what a lens has seen serves all others with the same key. What
// decides may be elsewhere, and may change.
const lookFresh = time.Second

// What bounds the events whose look is kept: of one sight, and of all.
const (
	maxLooked      = 1024
	maxLookedBytes = 1 << 20
	maxAllLooked   = 16 << 20
)

// sight is what is seen of one feed through the lenses of one key.
type sight struct {
	users atomic.Int32  // changed under sights.mu
	turn  chan struct{} // held by who looks; the others then find it looked at

	// Owned by who has the turn.
	at    time.Time
	seen  map[*Frame]*Frame // nil: nothing is seen
	bytes int64             // about what seen keeps in memory
}

// sights are all there are.
type sights struct {
	bytes atomic.Int64 // of all

	mu    sync.Mutex
	all   map[string]*sight
	swept time.Time
}

// keyOf names what is seen of a topic or pattern through a lens.
func keyOf(topic string, lens Lens) string {
	if lens == nil {
		return topic
	}
	return topic + "\x00" + lens.Key() // no name has a zero byte
}

func (v *sights) acquire(topic string, lens Lens) *sight {
	if lens == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	key := keyOf(topic, lens)
	w := v.all[key]
	if w == nil {
		w = &sight{turn: make(chan struct{}, 1), seen: map[*Frame]*Frame{}}
		if v.all == nil {
			v.all = map[string]*sight{}
		}
		v.all[key] = w
	}
	w.users.Add(1)
	return w
}

func (v *sights) release(topic string, lens Lens) {
	if lens == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	key := keyOf(topic, lens)
	if w := v.all[key]; w != nil {
		if w.users.Add(-1) == 0 {
			delete(v.all, key)
			v.forget(w) // nobody has the turn
		}
	}
}

// forget lets go of what was looked at. It is called by who has the turn.
func (v *sights) forget(w *sight) {
	v.bytes.Add(-w.bytes)
	if w.bytes = 0; len(w.seen) > 16 {
		w.seen = map[*Frame]*Frame{} // a map that has grown does not shrink
		return
	}
	clear(w.seen)
}

// sweep lets go of what nobody has come to look at for a while, now and then.
func (v *sights) sweep(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now.Sub(v.swept) < lookFresh {
		return
	}
	v.swept = now
	for _, w := range v.all {
		select {
		case w.turn <- struct{}{}:
			if now.Sub(w.at) > lookFresh {
				v.forget(w)
			}
			<-w.turn
		default:
		}
	}
}

// look gives what is seen of frames, with nil where that is nothing, and has looked at once
// what many ask for at about the same time.
func (s *Session) look(ctx context.Context, sub *Subscription, frames []*Frame) ([]*Frame, error) {
	v := sub.sight
	select {
	case v.turn <- struct{}{}:
		defer func() { <-v.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	unseen := s.hub.sights.unseen(v, frames)
	if len(unseen) > 0 {
		events := eventsOf(unseen)
		list, err := sub.lens.Look(ctx, events)
		if err != nil {
			s.hub.metrics.errors.Inc()
			return nil, fmt.Errorf("look at %d events: %w", len(events), err)
		}
		s.hub.keep(v, unseen, events, list)
	}
	return s.seenOf(v, frames), nil
}

// glance is look where nothing has to be waited for; else it gives false.
func (s *Session) glance(sub *Subscription, frames []*Frame) ([]*Frame, bool) {
	v := sub.sight
	select {
	case v.turn <- struct{}{}:
		defer func() { <-v.turn }()
	default:
		return nil, false
	}
	if unseen := s.hub.sights.unseen(v, frames); len(unseen) > 0 {
		quick, is := sub.lens.(QuickLens)
		if !is {
			return nil, false
		}
		events := eventsOf(unseen)
		list, ok := quick.Try(events)
		if !ok {
			return nil, false
		}
		s.hub.keep(v, unseen, events, list)
	}
	return s.seenOf(v, frames), true
}

// unseen gives those of frames that are to be looked at. It is called by who has the turn.
func (v *sights) unseen(w *sight, frames []*Frame) (list []*Frame) {
	if now := time.Now(); now.Sub(w.at) > lookFresh || len(w.seen) > maxLooked || w.bytes > maxLookedBytes {
		v.forget(w)
		w.at = now
	}
	for _, fr := range frames {
		if _, known := w.seen[fr]; !known {
			list = append(list, fr)
		}
	}
	return list
}

// seenOf gives what is seen of frames that have been looked at.
func (s *Session) seenOf(v *sight, frames []*Frame) []*Frame {
	list := s.seen[:0]
	for _, fr := range frames {
		list = append(list, v.seen[fr])
	}
	s.seen = list[:0]
	all := &s.hub.sights
	full := all.bytes.Load() > maxAllLooked
	if full || v.users.Load() == 1 { // else others are to find it looked at
		all.forget(v)
	}
	if full {
		all.sweep(time.Now())
	}
	return list
}

func eventsOf(frames []*Frame) []*pgcast.Event {
	events := make([]*pgcast.Event, len(frames))
	for i, fr := range frames {
		events[i] = &fr.Event
	}
	return events
}

// keep keeps what a lens has seen of frames, encoded. It is called by who has the turn.
func (h *Hub) keep(v *sight, frames []*Frame, events, list []*pgcast.Event) {
	before := v.bytes
	for i, e := range list {
		fr := frames[i]
		v.bytes += int64(fr.size()) + frameBytes // the ring, or the page, may have let go of it
		switch {
		case e == nil:
			v.seen[fr] = nil
		case e == events[i]:
			v.seen[fr] = fr
		default:
			other := newFrame(*e, h.opts.Encode)
			v.seen[fr] = other
			v.bytes += int64(other.size()) + frameBytes
		}
	}
	h.sights.bytes.Add(v.bytes - before)
}

// Refocus ends, with [ErrResume], the sessions that have a subscription whose lens is stale;
// see HubOptions. Their clients come back and are given another one.
func (h *Hub) Refocus() {
	if h.opts.Stale == nil {
		return
	}
	h.mu.Lock()
	feeds := make([]*feed, 0, len(h.feeds)+len(h.patterns))
	for _, all := range []map[string]*feed{h.feeds, h.patterns} {
		for _, f := range all {
			feeds = append(feeds, f)
		}
	}
	h.mu.Unlock()
	for _, f := range feeds {
		f.mu.Lock()
		members := slices.Clone(f.members)
		f.mu.Unlock()
		for _, sub := range members {
			if h.stale(sub) {
				sub.session.End(ErrResume)
			}
		}
	}
}

// stale reports whether a subscription is seen otherwise than it was asked for.
func (h *Hub) stale(sub *Subscription) bool {
	return h.opts.Stale != nil && !sub.own && h.opts.Stale(sub.feed.key, sub.lens)
}
