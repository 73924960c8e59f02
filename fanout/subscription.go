package fanout

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/pgcast/pgcast"
)

// Request asks for a subscription.
type Request struct {
	Topic string // a topic or a pattern
	Ref   []byte // echoed in the answer; nil if there is none
	// After is the place to go on from: a seq, or a position for a pattern. Nil starts
	// at the head.
	After *int64
	ID    pgcast.ID // of the event the client saw at After; empty if it does not know
	// Doubted says that After comes from another cluster or timeline: without an ID that
	// proves it, the subscription is reset.
	Doubted bool
	// Snapshot has what the topic holds sent first; After must be nil then. Not of a pattern.
	Snapshot bool
	// AsOf is of the snapshot that the client began with, whatever it holds being left out
	// of what follows. Foreign says that it is of another cluster or timeline: then nobody can
	// tell, and the subscription is reset.
	AsOf    pgcast.AsOf
	Foreign bool
	// Barred says that what is past is not for the client: it begins at the head, and a gap
	// tells of what lies between After, which must not be nil, and there.
	Barred bool
	// Lens is how the topic is seen; nil: as it is.
	Lens Lens
	// Own says that it is this server itself that looks, or who runs it: they never have to see
	// otherwise.
	Own bool
	// Keep leaves a subscription that there is already where it is, and has it answered with
	// its place.
	Keep bool
}

// Subscription is one session's place in one topic or pattern.
type Subscription struct {
	session *Session
	feed    *feed
	order   int          // of creation, within the session
	sent    atomic.Int64 // place, for others to read
	lens    Lens
	sight   *sight // through lens
	own     bool   // it is never stale

	// Guarded by session.mu.
	queued bool

	at int // among the feed's members; guarded by feed.mu

	// Owned by the session's pump.
	start   int64 // the place it started from: it covers everything after
	place   int64 // everything up to here has been sent
	page    int64 // where the page of the log begins that it is in, while behind
	behind  bool
	gap     int64 // of a pattern: the newest trimmed position already told
	retries int
	due     time.Time    // when the log is to be read again, after it could not be; else zero
	gone    bool         // it has ended, though it may still be queued
	over    bool         // nothing behind place is sent any more; see Forbid
	past    bool         // it still sends what was there before it; see Session.Past
	asOf    *pgcast.AsOf // events that it holds are left out; nil: none
	begin   *beginning   // the snapshot that is still to be sent; else nil
}

const everything = pgcast.Position(math.MaxInt64)

// bounds of one pull: many events in one write when a session lags, but never so many
// that its other subscriptions starve.
const (
	pullEvents = 128
	pullBytes  = 64 << 10
)

// Opening is a subscription that is being opened: a request, and what the log says to it.
type Opening struct {
	req   Request
	err   error // of the request itself; feed is nil then
	feed  *feed
	asked *asked // nil: found, or it is a pattern
	found bool   // the ring knew, or a page in memory
	place int64
	at    pgcast.Position // the log's position when place was read from it
	reset bool
	spool *spool // of a snapshot; then asOf is its
	asOf  pgcast.AsOf
}

// Locate tells where a request would start from, without subscribing: at place, or there
// after a reset.
func (h *Hub) Locate(ctx context.Context, req Request) (place int64, reset bool, err error) {
	o := &Opening{req: req}
	if o.feed, err = h.feed(req.Topic); err != nil {
		return 0, false, err
	}
	defer h.release(o.feed)
	h.ask(o)
	err = h.resolve(ctx, o)
	return o.place, o.reset, err
}

// feed acquires the feed of a topic or pattern.
func (h *Hub) feed(name string) (*feed, error) {
	if !pgcast.IsPattern(name) {
		return h.acquire(name, nil), nil
	}
	p, err := pgcast.ParsePattern(name)
	if err != nil {
		return nil, err
	}
	return h.acquire(name, &p), nil
}

// ask finds the place a request starts from in the ring, or in a page that others had read
// who came back to the same place; or it has the log asked for a topic's.
func (h *Hub) ask(o *Opening) {
	req := o.req
	if req.Snapshot {
		return // its own read tells
	}
	o.asOf = req.AsOf
	if req.Barred {
		if o.place, o.found = o.feed.lookup(nil, ""); o.found && !req.Foreign && !req.Doubted && *req.After <= o.place {
			return
		}
		o.found = false
	} else if !req.Foreign && (req.After == nil || !req.Doubted || req.ID != "") {
		if o.place, o.found = o.feed.lookup(req.After, req.ID); o.found {
			return
		}
		if o.at, o.found = h.reads.has(o.feed, req.After, req.ID); o.found {
			o.place = *req.After
			return
		}
	}
	if o.feed.pattern == nil {
		ask := pgcast.Ask{Topic: o.feed.key}
		if req.After != nil && !req.Barred {
			ask.ID = req.ID
			ask.After = pgcast.Seq(*req.After)
		}
		o.asked = h.reads.ask(ask)
	}
}

// resolve waits for what ask could not answer. It runs in the session's reading goroutine,
// before the subscription exists.
func (h *Hub) resolve(ctx context.Context, o *Opening) error {
	switch {
	case o.found:
		return nil
	case o.req.Snapshot:
		return h.resolveSnapshot(ctx, o)
	case o.feed.pattern != nil:
		return h.resolvePattern(ctx, o)
	}
	place, position, err := o.asked.wait(ctx)
	if err != nil {
		return err
	}
	req := o.req
	o.feed.learn(int64(place.Head))
	o.at = position
	o.place = int64(place.Head)
	switch {
	case req.After == nil:
	case req.Foreign:
		o.reset, o.asOf = true, pgcast.AsOf{}
	case req.Barred:
		if o.reset = req.Doubted || *req.After > int64(place.Head); o.reset {
			o.asOf = pgcast.AsOf{}
		}
	case *req.After == 0:
		o.place = 0 // before the first event there is nothing that could differ
	case *req.After > int64(place.Head),
		req.ID != "" && !place.Known && *req.After >= int64(place.Tail)-1,
		req.ID == "" && req.Doubted:
		o.reset, o.asOf = true, pgcast.AsOf{}
	default:
		o.place = *req.After
	}
	return nil
}

func (h *Hub) resolvePattern(ctx context.Context, o *Opening) error {
	after := o.req.After
	o.place = int64(h.Position())
	o.at = pgcast.Position(o.place)
	switch {
	case after == nil, o.req.Barred && !o.req.Doubted && *after <= o.place:
		return nil
	case *after == 0 && !o.req.Barred:
		o.place = 0
		return nil
	case o.req.ID != "" && !o.req.Barred:
		known, err := h.reads.knows(ctx, o.feed, pgcast.Position(*after), o.req.ID)
		if err != nil {
			return err
		}
		o.reset = !known
	default:
		// Positions this process has not come to yet may have been seen elsewhere.
		_, newest, err := h.reads.ask(pgcast.Ask{Topic: o.feed.key}).wait(ctx)
		if err != nil {
			return err
		}
		o.at = max(o.at, newest)
		o.reset = *after > int64(newest) || o.req.Doubted
	}
	if !o.reset && !o.req.Barred {
		o.place = *after
	}
	return nil
}

// pull takes the next items of a subscription, not beyond position limit. more says that
// there is more to take right now; retry, if not 0, when to ask again.
func (s *Session) pull(ctx context.Context, sub *Subscription, limit pgcast.Position) (items []Item, more bool, retry time.Duration) {
	if s.barred.Load() && s.bar(sub) {
		return nil, false, 0
	}
	if sub.begin != nil {
		return s.pullSnapshot(sub)
	}
	frames, behind, floor, more := sub.feed.after(sub.place, limit, pullEvents, pullBytes, s.frames[:0])
	s.setBehind(sub, behind)
	if !behind {
		if items, err := s.itemsOf(ctx, sub, frames); err == nil {
			sub.retries = 0
			if !more {
				s.caughtUp(sub)
			}
			return items, more, 0
		}
		return nil, false, sub.again()
	}
	p, err := s.hub.reads.page(ctx, sub.feed, sub.page, sub.place, floor)
	if err != nil {
		if ctx.Err() == nil {
			s.hub.metrics.errors.Inc()
		}
		return nil, false, sub.again()
	}
	sub.page = p.key.after
	defer func() { sub.sent.Store(sub.place) }()
	items = s.gapOf(sub, p)
	size, whole, beyond := 0, true, false
	for _, fr := range p.frames {
		if sub.feed.number(fr) <= sub.place {
			continue
		}
		if beyond = fr.Position > limit; beyond || len(frames) >= pullEvents || size >= pullBytes {
			whole = false
			break
		}
		frames, size = append(frames, fr), size+fr.size()
		s.read = max(s.read, fr.Position) // may be ahead of the hub
	}
	seen, err := s.itemsOf(ctx, sub, frames)
	if err != nil {
		return items, false, sub.again()
	}
	sub.retries = 0
	items = append(items, seen...)
	if !whole {
		return items, !beyond, 0
	}
	if p.next <= sub.place && len(items) == 0 && len(frames) == 0 {
		// Nothing there although the ring begins later: the feed learned of its first
		// event, or lost its ring, while we looked. The hub comes to it in a moment.
		return nil, false, 20 * time.Millisecond
	}
	sub.place = max(sub.place, p.next)
	return items, true, 0
}

// again is when to ask once more what could not be answered.
func (sub *Subscription) again() time.Duration {
	sub.retries++
	return min(100*time.Millisecond<<min(sub.retries, 5), 2*time.Second)
}

// gapOf tells of what is trimmed between the subscription's place and the page, once.
func (s *Session) gapOf(sub *Subscription, p *page) []Item {
	n := &Notice{Kind: Gap, Topic: sub.feed.key, After: sub.place}
	switch {
	case sub.feed.pattern == nil && p.tail > sub.place+1:
		n.Tail, n.Head = p.tail, p.head
		sub.place = p.tail - 1
	case sub.feed.pattern != nil && p.gap > max(sub.gap, sub.place):
		n.Tail, n.Head = p.gap+1, int64(s.hub.Position())
		sub.gap = p.gap
	default:
		return nil
	}
	return []Item{{Notice: n}}
}

// itemsOf makes items of frames and moves the place behind them. An event that another
// subscription of the session covers is left to that one. Only through a lens it may have to
// wait, or fail; the place is where it was then.
func (s *Session) itemsOf(ctx context.Context, sub *Subscription, frames []*Frame) ([]Item, error) {
	if sub.lens == nil || len(frames) == 0 {
		return s.taken(sub, frames, frames), nil
	}
	seen, err := s.look(ctx, sub, frames)
	if err != nil {
		return nil, err
	}
	return s.taken(sub, frames, seen), nil
}

// taken makes items of what is seen of frames, and moves the place behind them.
func (s *Session) taken(sub *Subscription, frames, seen []*Frame) []Item {
	items := s.items[:0]
	pattern := sub.feed.pattern != nil
	for i, fr := range frames {
		sub.place = sub.feed.number(fr)
		if seen[i] == nil || sub.asOf != nil && sub.asOf.Holds(fr.XID) || pattern && s.covered(sub, fr) {
			continue
		}
		items = append(items, Item{Frame: seen[i], Pattern: pattern})
	}
	sub.sent.Store(sub.place)
	s.frames, s.items = frames[:0], items
	return items
}

// covered tells whether another subscription delivers the event: the exact topic's
// before any pattern's, and an older pattern's before a younger one's.
func (s *Session) covered(sub *Subscription, fr *Frame) bool {
	if len(s.subs) == 1 {
		return false
	}
	if t := s.subs[fr.Topic]; t != nil && t.sends(int64(fr.Seq)) {
		return true
	}
	for _, p := range s.subs {
		if p.order < sub.order && p.feed.pattern != nil && p.sends(int64(fr.Position)) && p.feed.pattern.Match(fr.Topic) {
			return true
		}
	}
	return false
}

// sends tells whether a subscription sends what is at a place, or has sent it.
func (sub *Subscription) sends(at int64) bool {
	return at > sub.start && (!sub.over || at <= sub.place)
}

func (s *Session) setBehind(sub *Subscription, behind bool) {
	if sub.behind == behind {
		return
	}
	sub.behind = behind
	if behind {
		s.hub.metrics.behind.Add(1)
	} else {
		s.hub.metrics.behind.Add(-1)
	}
}
