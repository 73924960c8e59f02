package fanout

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
)

// Topics reads single topics of the log.
type Topics interface {
	// Page gives at most max events after a seq, with the topic's bounds in one look.
	Page(ctx context.Context, topic string, after pgcast.Seq, max int) (pgcast.Page, error)
	// Places answers asks in order, and tells the log's position at that look.
	Places(ctx context.Context, asks []pgcast.Ask) ([]pgcast.Place, pgcast.Position, error)
}

// Patterns reads the log by pattern.
type Patterns interface {
	// Scan gives matching events after one position and up to another, and the position
	// up to which it has looked.
	Scan(ctx context.Context, p pgcast.Pattern, after, upto pgcast.Position, max int) ([]pgcast.Event, pgcast.Position, error)
	// ScanGap gives the position of the newest trimmed matching event after a position.
	ScanGap(ctx context.Context, p pgcast.Pattern, after pgcast.Position) (pgcast.Position, error)
	// Knows tells whether the event at a position has an id, or may have had it before it
	// was trimmed.
	Knows(ctx context.Context, at pgcast.Position, id pgcast.ID) (bool, error)
}

// Hub joins topics and patterns to the sessions subscribed to them.
type Hub struct {
	opts    HubOptions
	reads   *reads
	shots   *snapshots
	crew    *crew
	sights  sights
	metrics *metrics

	mu       sync.Mutex
	position pgcast.Position    // everything up to here has been appended
	began    pgcast.Position    // where position would be, had the log had no event before this hub
	feeds    map[string]*feed   // topics
	patterns map[string]*feed   // patterns
	matching map[string][]*feed // topic name to the patterns that select it; a cache
	sessions map[*Session]struct{}
	moved    chan struct{} // closed when position moves; nil while nobody waits
}

// HubOptions; Encode is required.
type HubOptions struct {
	Encode Encode
	// Ring is the number of frames kept per live topic; a pattern keeps 8 times as many.
	// Default 256.
	Ring int
	// RingBytes bounds the bytes of one ring, if it holds more than one frame. Default 256 KiB.
	RingBytes int
	// Reads is the number of reads of the log under way at once. Default 4.
	Reads int
	// CacheBytes bounds the pages of the log kept for others who come back. Default 16 MiB.
	CacheBytes int
	Snapshots  SnapshotOptions
	// Stale tells whether a topic or pattern has to be seen otherwise by now than through a
	// lens, which may be nil; nil: never. It is called often, and must not wait.
	Stale      func(topic string, lens Lens) bool
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // default slog.Default()
}

const maxMatching = 100_000

// NewHub makes a hub that reads what its rings no longer hold through topics and patterns.
func NewHub(topics Topics, patterns Patterns, opts HubOptions) *Hub {
	if opts.Ring <= 0 {
		opts.Ring = 256
	}
	if opts.RingBytes <= 0 {
		opts.RingBytes = 256 << 10
	}
	if opts.Reads <= 0 {
		opts.Reads = 4
	}
	if opts.CacheBytes <= 0 {
		opts.CacheBytes = 16 << 20
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	h := &Hub{opts: opts, feeds: map[string]*feed{}, patterns: map[string]*feed{}, matching: map[string][]*feed{},
		sessions: map[*Session]struct{}{}}
	h.metrics = newMetrics(opts.Registerer)
	h.crew = newCrew(h.metrics)
	h.reads = newReads(topics, patterns, opts, h.metrics)
	h.shots = newSnapshots(opts, h.metrics)
	return h
}

// acquire finds or makes the feed of a topic or pattern. From here on it collects.
func (h *Hub) acquire(key string, pattern *pgcast.Pattern) *feed {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.feeds
	if pattern != nil {
		all = h.patterns
	}
	f := all[key]
	if f == nil {
		f = &feed{key: key, pattern: pattern, maxCount: h.opts.Ring, maxBytes: h.opts.RingBytes}
		if pattern != nil {
			f.maxCount, f.maxBytes = 8*f.maxCount, 8*f.maxBytes
			f.begin(int64(h.position))
			clear(h.matching)
		}
		all[key] = f
	}
	f.users++
	return f
}

func (h *Hub) release(f *feed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.users--; f.users > 0 {
		return
	}
	all := h.feeds
	if f.pattern != nil {
		all = h.patterns
	}
	if all[f.key] == f { // not one that Restart has left behind
		delete(all, f.key)
		if f.pattern != nil {
			clear(h.matching)
		}
	}
}

// Append takes the next events of the log in position order, encodes those somebody is
// subscribed to and wakes their sessions. Positions may be missing: retention can trim
// events before the hub comes to them.
func (h *Hub) Append(events []pgcast.Event) {
	if len(events) == 0 {
		return
	}
	h.noteAge(events)
	grown := map[*feed]struct{}{}
	h.mu.Lock()
	for i := range events {
		e := &events[i]
		if e.Position != h.position+1 {
			h.skipped(e.Position-1, grown)
		}
		h.position = e.Position
		topic, patterns := h.feeds[e.Topic], h.selecting(e.Topic)
		if topic == nil && len(patterns) == 0 {
			continue
		}
		fr := newFrame(*e, h.opts.Encode)
		if topic != nil {
			topic.append(fr)
			grown[topic] = struct{}{}
		}
		for _, p := range patterns {
			p.append(fr)
			grown[p] = struct{}{}
		}
	}
	for _, p := range h.patterns {
		p.passed(h.position)
	}
	h.announce()
	h.mu.Unlock()
	for f := range grown {
		f.kick(h.crew)
	}
}

// pass notes that the log has nothing left up to a position: retention has trimmed it
// before the hub came to it.
func (h *Hub) pass(position pgcast.Position) {
	grown := map[*feed]struct{}{}
	h.mu.Lock()
	if position > h.position {
		h.skipped(position, grown)
		h.position = position
		h.announce()
	}
	h.mu.Unlock()
	for f := range grown {
		f.kick(h.crew)
	}
}

// skipped notes that events up to a position are missing. Nobody here knows whose they
// were, so every subscription looks at the log, which knows the gaps. h.mu is held.
func (h *Hub) skipped(upto pgcast.Position, grown map[*feed]struct{}) {
	for _, f := range h.feeds {
		f.lose()
		grown[f] = struct{}{}
	}
	for _, p := range h.patterns {
		p.begin(int64(upto))
		grown[p] = struct{}{}
	}
}

func (h *Hub) selecting(topic string) []*feed {
	if len(h.patterns) == 0 {
		return nil
	}
	list, ok := h.matching[topic]
	if !ok {
		for _, p := range h.patterns {
			if p.pattern.Match(topic) {
				list = append(list, p)
			}
		}
		if len(h.matching) >= maxMatching {
			clear(h.matching)
		}
		h.matching[topic] = list
	}
	return list
}

// start sets the position from which Append goes on. What is before it has not come to pass
// here: Figures counts on from what it had counted.
func (h *Hub) start(position pgcast.Position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.began += position - h.position
	h.position = position
	h.announce()
	for _, p := range h.patterns {
		p.begin(int64(position))
	}
}

// skip moves to a position without reading what is in between; refused as soon as
// anybody is subscribed to anything.
func (h *Hub) skip(position pgcast.Position) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.feeds)+len(h.patterns) > 0 || position < h.position {
		return false
	}
	h.position = position
	h.announce()
	return true
}

// Restart drops everything the hub has, ends all sessions with the reason and goes on
// from a position: what the rings hold does not join what follows.
func (h *Hub) Restart(position pgcast.Position, reason error) {
	h.mu.Lock()
	// The feeds of the ending sessions live on until those are gone, and collect nothing.
	h.feeds, h.patterns, h.matching = map[string]*feed{}, map[string]*feed{}, map[string][]*feed{}
	h.mu.Unlock()
	h.reads.forget()
	h.shots.forget()
	h.start(position)
	for _, s := range h.Sessions() {
		s.End(reason)
	}
}

// Position is the newest position the hub has taken.
func (h *Hub) Position() pgcast.Position {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.position
}

// wait waits until the hub has come to a position and gives the one it has come to.
func (h *Hub) wait(ctx context.Context, position pgcast.Position) (pgcast.Position, error) {
	for {
		h.mu.Lock()
		at := h.position
		if h.moved == nil {
			h.moved = make(chan struct{})
		}
		moved := h.moved
		h.mu.Unlock()
		if at >= position {
			return at, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return at, ctx.Err()
		}
	}
}

// announce tells those who wait that position has moved; h.mu is held.
func (h *Hub) announce() {
	if h.moved != nil {
		close(h.moved)
		h.moved = nil
	}
}

// idle reports whether nobody is subscribed to anything.
func (h *Hub) idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.feeds)+len(h.patterns) == 0
}

// Count is the number of sessions there are now.
func (h *Hub) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.sessions)
}

// Sessions gives the sessions there are now.
func (h *Hub) Sessions() []*Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*Session, 0, len(h.sessions))
	for s := range h.sessions {
		list = append(list, s)
	}
	return list
}
