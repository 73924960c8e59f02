package client

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// From is a place to go on from.
type From struct {
	After int64     // a seq, or a position for a pattern; 0 is before the first event
	ID    pgcast.ID // of the event that was seen there; empty if it is not known
	AsOf  string    // of the snapshot that came before it; empty if none did
}

// subscription is the app's interest in one topic or pattern.
type subscription struct {
	key     string
	pattern *pgcast.Pattern // nil for a topic
	order   int             // of the first answer; before that, of subscribing

	// What the app has seen: everything that came through here after first, up to place.
	known        bool // there is a place
	first, place int64
	id           pgcast.ID       // of the event at place
	asOf         string          // of the snapshot before: events that it holds do not come
	snapshot     bool            // it begins with one
	filter       json.RawMessage // nil: everything is wanted
	answered     bool            // the server has agreed to it before
	told         int64           // tail of the newest gap of a pattern

	// In this connection.
	ref       int64 // of the subscribe to be answered; 0 for none
	live      bool  // it was answered
	start     int64 // with this place
	resetting bool  // and a reset must follow
	heals     int   // holes since the last event
	beginRef  int64 // of the subscribe whose snapshot is on its way; 0 for none
	begun     bool  // the app has a part of it

	// The app wants it no more, but events that the server has assigned to it are still
	// to come through it, for a pattern that selects them too.
	ending bool
	endRef int64
	again  *request // to be subscribed to anew after that
}

// request is what Subscribe was called with.
type request struct {
	from     *From
	snapshot bool
	filter   json.RawMessage
}

// Subscribe begins to deliver the events of a topic or pattern: those after from, or,
// if it is nil, those after the head at the time the server answers. It does not wait
// for the answer, which comes as an item: [Subscribed] or [Denied]. Subscribing again
// moves the place: what follows the new one is delivered, also what was seen before.
//
// An event that several subscriptions select is delivered once. It is delivered again
// only where from asks for it.
func (c *Client) Subscribe(topic string, from *From) error {
	return c.SubscribeWith(topic, SubscribeOptions{From: from})
}

// SubscribeOptions say what is wanted of a topic or pattern; the zero value of each field
// stands for nothing special.
type SubscribeOptions struct {
	From     *From // nil: the head, or what Snapshot says
	Snapshot bool  // as of [Client.SubscribeSnapshot]; not together with From
	// Filter is a condition on the data of events and rows; empty for everything. A row
	// that comes into it is an event named entered, one that goes out of it an event gone, with
	// its key in Old. A subscription with a filter may not select the same topics as another
	// one of the same client: the server denies it.
	Filter string
}

// SubscribeWith is Subscribe for more than a place. It fails for a client whose topics are
// iterated ([Client.Topic]).
func (c *Client) SubscribeWith(topic string, o SubscribeOptions) error {
	p, r, err := checked(topic, o)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.claim(byItems); err != nil {
		return err
	}
	c.begin(p, r)
	return nil
}

// checked reads what a subscription is to be.
func checked(topic string, o SubscribeOptions) (pgcast.Pattern, request, error) {
	p, err := pgcast.ParsePattern(topic)
	if err != nil {
		return p, request{}, err
	}
	if o.Snapshot {
		if err = pgcast.CheckTopic(topic); err == nil && o.From != nil {
			err = &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("subscribe to %q: a snapshot and a place stand together", topic), Hint: "a snapshot begins anew"}
		}
		if err != nil {
			return p, request{}, err
		}
	}
	from := o.From
	if from != nil {
		asOf, err := pgcast.AsOf{}, error(nil)
		if from.AsOf != "" {
			asOf, err = pgcast.ParseAsOf(from.AsOf)
		}
		if from.After < 0 || len(from.ID) > wire.MaxID || err != nil || !asOf.IsZero() && pgcast.IsPattern(topic) {
			return p, request{}, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("subscribe to %q: %d, %.70q is not a place", topic, from.After, from.ID),
				Hint: "use what Event.From gives"}
		}
		from = &From{from.After, from.ID, from.AsOf}
	}
	r := request{from: from, snapshot: o.Snapshot}
	if o.Filter != "" {
		r.filter, _ = json.Marshal(o.Filter) // a string always can be
	}
	return p, r, nil
}

// SubscribeSnapshot is Subscribe for a topic of which the app wants what it holds now, too:
// it comes first, as [Snapshot] items, and after a gap or a reset it comes anew.
func (c *Client) SubscribeSnapshot(topic string) error {
	return c.SubscribeWith(topic, SubscribeOptions{Snapshot: true})
}

func (c *Client) begin(p pgcast.Pattern, r request) {
	if old := c.subs[p.String()]; old != nil {
		if c.end(old); old.ending {
			old.again = &r
			return
		}
	}
	c.add(p, r)
}

// Unsubscribe ends a subscription. No more items of it are delivered, but for those the
// app has not taken yet.
func (c *Client) Unsubscribe(topic string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.subs[topic]; s != nil && c.use != byTopics {
		c.end(s)
		s.again = nil
	}
}

func (c *Client) add(p pgcast.Pattern, r request) {
	c.order++
	s := &subscription{key: p.String(), order: c.order, snapshot: r.snapshot, filter: r.filter}
	if from := r.from; from != nil {
		s.known, s.first, s.place, s.id = true, from.After, from.After, from.ID
		s.asOf = from.AsOf
	}
	c.subs[s.key] = s
	if pgcast.IsPattern(s.key) {
		s.pattern = &p
		c.patterns = append(c.patterns, s)
	}
	if c.conn != nil {
		c.ask(s)
	}
}

// end ends a subscription, at once if nobody else needs what is still to come through it.
func (c *Client) end(s *subscription) {
	switch {
	case s.ending:
		return
	case !c.shared(s), !s.known && s.ref == 0:
		if c.conn != nil {
			c.enqueue(&wire.Frame{Type: wire.Unsubscribe, Topic: s.key}, nil)
		}
		c.remove(s)
	default:
		s.ending = true
		if c.conn != nil {
			c.askEnd(s)
		}
	}
}

// shared reports whether another pattern may select what comes through s.
func (c *Client) shared(s *subscription) bool {
	return slices.ContainsFunc(c.patterns, func(p *subscription) bool {
		return p != s && overlap(p.key, s.key)
	})
}

// heir finds a pattern that wants the events of a topic that come through a
// subscription that is ending.
func (c *Client) heir(topic string) *subscription {
	i := slices.IndexFunc(c.patterns, func(p *subscription) bool {
		return p.known && !p.ending && (topic == "" || p.pattern.Match(topic))
	})
	if i < 0 {
		return nil
	}
	return c.patterns[i]
}

// remove forgets a subscription, except for what patterns may bring once more after a
// reconnect, because their own places are older.
func (c *Client) remove(s *subscription) {
	delete(c.subs, s.key)
	c.patterns = slices.DeleteFunc(c.patterns, func(p *subscription) bool { return p == s })
	if len(c.patterns) == 0 {
		c.retired = nil
	}
	if s.known && s.place > s.first && c.shared(s) {
		// An app that changes its mind often is not to make this list long.
		for _, r := range c.retired {
			if r.key == s.key && r.place == s.first && !c.between(r, s) {
				r.place = s.place
				return
			}
		}
		c.retired = append(c.retired, s)
	}
}

// between reports whether a pattern's order lies between those of two others.
func (c *Client) between(a, b *subscription) bool {
	return a.pattern != nil && slices.ContainsFunc(c.patterns, func(p *subscription) bool {
		return a.order < p.order && p.order < b.order
	})
}

// ask sends the subscribe of one subscription.
func (c *Client) ask(s *subscription) {
	s.ref, s.live, s.resetting, s.beginRef = c.newRef(), false, false, 0
	p := s.request()
	c.enqueue(&wire.Frame{Type: wire.Subscribe, Ref: refText(s.ref), Topic: p.Topic, After: p.After, ID: p.ID, Snapshot: p.Snapshot, AsOf: p.AsOf, Filter: p.Filter}, nil)
}

func (c *Client) askEnd(s *subscription) {
	s.endRef = c.newRef()
	c.enqueue(&wire.Frame{Type: wire.Unsubscribe, Ref: refText(s.endRef), Topic: s.key}, nil)
}

// sparse reports whether seqs may be missing: of what its snapshot holds, and of what its
// filter leaves out.
func (s *subscription) sparse() bool { return s.asOf != "" || s.filter != nil }

func (s *subscription) request() wire.Place {
	p := wire.Place{Topic: s.key, Snapshot: s.snapshot && !s.known, Filter: s.filter}
	if s.known {
		after := s.place
		p.After, p.ID = &after, s.id
		p.AsOf, _ = pgcast.ParseAsOf(s.asOf) // it was read before it was kept
	}
	return p
}

// Bounds of one subscribe-batch; some proxies do not like long messages.
const (
	batchItems = 200
	batchBytes = 8000
)

// askAll sends the subscribes of all subscriptions.
func (c *Client) askAll() {
	all := slices.SortedFunc(maps.Values(c.subs), func(a, b *subscription) int {
		return cmp.Or(a.rank()-b.rank(), a.order-b.order)
	})
	for len(all) > 0 {
		ref, size, n := c.newRef(), 0, 0
		f := wire.Frame{Type: wire.SubscribeBatch, Ref: refText(ref)}
		for n < len(all) && n < batchItems && size < batchBytes {
			s := all[n]
			s.ref = ref
			f.Topics = append(f.Topics, s.request())
			size += len(s.key) + len(s.id) + len(s.asOf) + len(s.filter) + 50
			n++
		}
		c.enqueue(&f, nil)
		all = all[n:]
	}
	for _, s := range c.subs {
		if s.ending {
			c.askEnd(s)
		}
	}
}

// rank orders the subscribes of a new connection. Through which subscription an event
// comes must be decided as it was in the connection before, so topics go before
// patterns, and patterns keep the order in which they were first answered. What begins
// at the head goes last: first comes what others have to bring from before it.
func (s *subscription) rank() int {
	switch {
	case !s.known:
		return 3
	case s.pattern == nil:
		return 0
	case s.answered:
		return 1
	}
	return 2
}

// ended finishes what end began.
func (c *Client) ended(s *subscription) {
	c.remove(s)
	if s.again != nil {
		if p, err := pgcast.ParsePattern(s.key); err == nil {
			c.add(p, *s.again)
		}
	}
}
