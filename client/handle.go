package client

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// maxHeals is how often a hole is mended in place before the connection is given up.
const maxHeals = 3

// errGaveUp says that we ended a connection that works: an early new one would not do
// better.
var errGaveUp = errors.New("gave the connection up")

// handle takes a frame in and gives the items it means to the app, unless they go to
// topics. An error ends the connection; everything is asked for again in the next one.
func (c *Client) handle(f *wire.ServerFrame) ([]Item, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	items, err := c.items(f)
	if c.use == byTopics {
		// Before anybody can end a subscription that they are of.
		c.hand(items, len(f.Events) > 1 && f.Type == wire.Batch)
		return nil, err
	}
	return items, err
}

func (c *Client) items(f *wire.ServerFrame) ([]Item, error) {
	switch f.Type {
	case wire.Event, wire.Batch:
		return c.events(f.Events)
	case wire.Subscribed:
		return c.subscribed(f), nil
	case wire.SubscribeDenied:
		if s := c.subs[f.Topic]; s != nil && (s.ref == refOf(f) || s.beginRef != 0 && s.beginRef == refOf(f)) {
			return c.denied(s, f.Reason, f.Reason == wire.ReasonInternal || f.Reason == wire.ReasonRateLimited)
		}
		c.entryFailed(f)
	case wire.Unsubscribed:
		if s := c.subs[f.Topic]; s != nil && s.endRef != 0 && s.endRef == refOf(f) {
			c.ended(s)
		}
	case wire.Snapshot:
		if s := c.subs[f.Topic]; s != nil && s.live && s.beginRef != 0 {
			return c.snapshot(s, f)
		}
	case wire.Gap:
		if s := c.subs[f.Topic]; s != nil && s.live {
			return c.gap(s, f)
		}
	case wire.Reset:
		if s := c.subs[f.Topic]; s != nil && s.live {
			return c.reset(s, f), nil
		}
	case wire.History, wire.Published, wire.Authenticated, wire.Presence, wire.Group:
		c.answer(f)
	case wire.Welcome:
		c.welcome, c.lapses = true, 0
		if c.status.State != Online {
			c.is(Status{State: Online})
		}
	case wire.TokenExpiring:
		if c.opts.Token != nil {
			signal(c.expiring)
		}
	case wire.Error:
		if !c.answer(f) && !c.entryFailed(f) {
			return c.failed(f)
		}
	}
	return nil, nil
}

func (c *Client) events(events []pgcast.Event) (items []Item, err error) {
	items = make([]Item, 0, len(events))
	for _, e := range events {
		if items, err = c.event(items, e); err != nil {
			break
		}
	}
	return items, err
}

func (c *Client) event(items []Item, e pgcast.Event) ([]Item, error) {
	if isOwn(e.Topic) {
		c.own(e)
		return items, nil
	}
	s, n := c.through(e)
	switch {
	case s == nil:
		return items, nil // of a subscription that has ended or is asked for again
	case s.resetting:
		c.stats.Holes++
		return items, fmt.Errorf("%w: %q went from %d to %d without a reset", errGaveUp, s.key, s.place, n)
	case n <= s.place:
		c.stats.Duplicates++
		return items, nil
	case s.pattern == nil && n != s.place+1 && !s.sparse():
		return items, c.heal(s, n)
	}
	seen := s.pattern != nil && c.seen(e, s)
	s.place, s.id, s.heals = n, e.ID, 0
	if s.pattern != nil {
		c.prune(e)
	}
	through := s.key
	if s.ending {
		heir := c.heir(e.Topic)
		if heir == nil {
			return items, nil
		}
		through = heir.key
	}
	if seen {
		return items, nil
	}
	c.stats.Events++
	return append(items, Event{e, through, s.asOf}), nil
}

// through finds the subscription an event came through, by the server's own rule, and
// the event's place there.
func (c *Client) through(e pgcast.Event) (*subscription, int64) {
	if e.Position == 0 {
		if s := c.subs[e.Topic]; s != nil && s.live {
			return s, int64(e.Seq)
		}
		return nil, 0
	}
	n := int64(e.Position)
	for _, s := range c.patterns {
		if s.live && n > s.start && s.pattern.Match(e.Topic) {
			return s, n
		}
	}
	return nil, 0
}

// seen reports whether the app has the event already, through a subscription that comes
// before the pattern s: the server brings it through s only because that one has gone on
// from a place behind it.
func (c *Client) seen(e pgcast.Event, s *subscription) bool {
	by := func(o *subscription) bool {
		switch {
		case o == s:
			return false
		case o.pattern == nil:
			return o.key == e.Topic && o.known && o.first < int64(e.Seq) && int64(e.Seq) <= o.place
		}
		return o.order < s.order && o.known && o.first < int64(e.Position) && int64(e.Position) <= o.place &&
			o.pattern.Match(e.Topic)
	}
	if t := c.subs[e.Topic]; t != nil && by(t) {
		return true
	}
	return slices.ContainsFunc(c.patterns, by) || slices.ContainsFunc(c.retired, by)
}

// prune forgets retired subscriptions that no pattern can bring events of any more.
func (c *Client) prune(e pgcast.Event) {
	c.retired = slices.DeleteFunc(c.retired, func(r *subscription) bool {
		if r.pattern == nil {
			return r.key == e.Topic && r.place < int64(e.Seq)
		}
		return !slices.ContainsFunc(c.patterns, func(p *subscription) bool { return p.place < r.place })
	})
}

// heal asks again for what is missing before n.
func (c *Client) heal(s *subscription, n int64) error {
	c.stats.Holes++
	if s.heals++; s.heals > maxHeals || s.ending {
		return fmt.Errorf("%w: %q went from %d to %d", errGaveUp, s.key, s.place, n)
	}
	c.opts.Logger.Error("pgcast client: events are missing, asking again", "topic", s.key, "after", s.place, "before", n)
	c.ask(s)
	return nil
}

func (c *Client) subscribed(f *wire.ServerFrame) []Item {
	s := c.subs[f.Topic]
	if s == nil || s.ref == 0 || s.ref != refOf(f) {
		return nil
	}
	c.healthy = true
	resumed, ref := s.known, s.ref
	s.ref, s.live, s.start = 0, true, f.Seq
	if !s.answered {
		c.order++
		s.answered, s.order = true, c.order
		slices.SortFunc(c.patterns, func(a, b *subscription) int { return a.order - b.order })
	}
	if s.known {
		// Another place than the one we asked for: a reset follows. Until it is here we
		// keep the old place, so that losing the connection now cannot hide it.
		s.resetting = f.Seq != s.place
	} else if s.snapshot {
		s.beginRef, s.begun = ref, false
	} else {
		s.known, s.first, s.place = true, f.Seq, f.Seq
	}
	if s.ending {
		return nil
	}
	return []Item{Subscribed{s.key, f.Seq, resumed}}
}

// snapshot takes a part of a snapshot. Only with the last one there is a place to go on
// from.
func (c *Client) snapshot(s *subscription, f *wire.ServerFrame) ([]Item, error) {
	it := Snapshot{Topic: s.key, Table: f.Table, Rows: f.Rows, Oversize: f.Oversize, Events: f.Events, First: !s.begun, Last: !f.More}
	s.begun = true
	if it.Last {
		if f.AsOf != "" {
			if _, err := pgcast.ParseAsOf(f.AsOf); err != nil {
				return nil, err
			}
			s.asOf = f.AsOf
		}
		s.beginRef, s.known, s.first, s.place, s.id = 0, true, f.Seq, f.Seq, ""
		it.From = From{After: f.Seq, AsOf: f.AsOf}
	}
	if s.ending {
		return nil, nil
	}
	return []Item{it}, nil
}

// anew begins a subscription with a snapshot once more, what the app has being incomplete.
func (c *Client) anew(s *subscription) {
	if s.snapshot {
		s.known, s.asOf = false, ""
		c.ask(s)
	}
}

// denied ends a subscription, or the connection when it is worth trying again: in a new
// connection, because there all subscriptions are made in their order.
func (c *Client) denied(s *subscription, reason string, temporary bool) ([]Item, error) {
	if temporary {
		return nil, fmt.Errorf("%w: the server cannot serve %q right now: %s", errGaveUp, s.key, reason)
	}
	if s.ending {
		c.ended(s)
		return nil, nil
	}
	c.remove(s)
	return []Item{Denied{s.key, reason}}, nil
}

// failed takes an error frame that answers no call.
func (c *Client) failed(f *wire.ServerFrame) (items []Item, err error) {
	ref := refOf(f)
	temporary := f.Code == pgcast.CodeUnavailable || f.Code == pgcast.CodeInternal
	found := false
	for _, s := range c.subs {
		if ref != 0 && s.ref == ref {
			found = true
			more, derr := c.denied(s, string(f.Code), temporary)
			items, err = append(items, more...), errors.Join(err, derr)
		}
	}
	if !found {
		c.opts.Logger.Warn("pgcast client: the server answered with an error", "code", f.Code, "message", f.Message)
	}
	return items, err
}

func (c *Client) gap(s *subscription, f *wire.ServerFrame) ([]Item, error) {
	g := Gap{s.key, s.place, f.Tail, f.Head}
	switch {
	case s.pattern != nil && f.Tail > s.told:
		// Its place stays, so after a reconnect the server tells this gap again.
		s.told = f.Tail
	case s.pattern == nil && f.After > s.place && !s.sparse():
		return nil, c.heal(s, f.After+1)
	case s.pattern == nil && f.Tail-1 > s.place:
		s.place, s.id = f.Tail-1, ""
	default:
		return nil, nil
	}
	if s.ending {
		return nil, nil
	}
	c.stats.Gaps++
	c.anew(s)
	return []Item{g}, nil
}

func (c *Client) reset(s *subscription, f *wire.ServerFrame) []Item {
	s.first, s.place, s.id, s.asOf, s.resetting, s.told = f.Head, f.Head, "", "", false, 0
	// These places were in the history that is gone.
	c.retired = nil
	if s.ending {
		return nil
	}
	c.stats.Resets++
	c.anew(s)
	return []Item{Reset{s.key, f.Head}}
}
