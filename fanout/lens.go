package fanout

import (
	"context"
	"fmt"
	"slices"
	"sync"
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

// lookFresh is for how long what a lens has seen serves all others with the same key. What
// decides may be elsewhere, and may change.
const lookFresh = time.Second

// maxLooked bounds the events whose look is kept.
const maxLooked = 1024

// sight is what is seen of one feed through the lenses of one key.
type sight struct {
	users int           // guarded by sights.mu
	turn  chan struct{} // held by who looks; the others then find it looked at

	// Owned by who has the turn.
	at   time.Time
	seen map[*Frame]*Frame // nil: nothing is seen
}

// sights are all there are.
type sights struct {
	mu  sync.Mutex
	all map[string]*sight
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
	w.users++
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
		if w.users--; w.users == 0 {
			delete(v.all, key)
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
	if now := time.Now(); now.Sub(v.at) > lookFresh || len(v.seen) > maxLooked {
		clear(v.seen)
		v.at = now
	}
	var unseen []*Frame
	for _, fr := range frames {
		if _, known := v.seen[fr]; !known {
			unseen = append(unseen, fr)
		}
	}
	if err := s.hub.lookAt(ctx, sub.lens, unseen, v.seen); err != nil {
		return nil, err
	}
	list := make([]*Frame, len(frames))
	for i, fr := range frames {
		list[i] = v.seen[fr]
	}
	return list, nil
}

// lookAt asks a lens about frames.
func (h *Hub) lookAt(ctx context.Context, lens Lens, frames []*Frame, seen map[*Frame]*Frame) error {
	if len(frames) == 0 {
		return nil
	}
	events := make([]*pgcast.Event, len(frames))
	for i, fr := range frames {
		events[i] = &fr.event
	}
	list, err := lens.Look(ctx, events)
	if err != nil {
		h.metrics.errors.Inc()
		return fmt.Errorf("look at %d events: %w", len(events), err)
	}
	for i, e := range list {
		switch {
		case e == nil:
			seen[frames[i]] = nil
		case e == events[i]:
			seen[frames[i]] = frames[i]
		default:
			seen[frames[i]] = newFrame(*e, h.opts.Encode)
		}
	}
	return nil
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
	return h.opts.Stale != nil && h.opts.Stale(sub.feed.key, sub.lens)
}
