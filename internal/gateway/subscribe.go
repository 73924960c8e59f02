package gateway

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/wire"
)

// subscribe asks the log for all places at once, but for few snapshots, and answers them in
// their order.
func (c *client) subscribe(ctx context.Context, places []wire.Place, ref json.RawMessage) {
	asked, errs := make([]func(), len(places)), c.limitEach(ctx, places)
	verdicts := c.judge(ctx, places, errs)
	answered, snapshots := 0, 0
	answer := func(upto int) {
		for ; answered < upto; answered++ {
			asked[answered]()
		}
	}
	for i, p := range places {
		if errs != nil && errs[i] != nil {
			asked[i] = func() { c.turnAway(p.Topic, ref, errs[i]) }
			continue
		}
		if p.Snapshot {
			if snapshots++; snapshots > snapshotsAtOnce {
				answer(i)
				snapshots = 1
			}
		}
		asked[i] = c.ask(ctx, p, ref, verdicts.of(i))
	}
	answer(len(places))
	if denial := longest(errs); denial != nil && ref != nil {
		c.fail(ref, denial) // says when to try again
	}
}

// ask begins a subscription; what it returns waits for the log and answers.
func (c *client) ask(ctx context.Context, p wire.Place, ref json.RawMessage, v verdict) (answer func()) {
	_, there := c.names[p.Topic]
	if strings.HasPrefix(p.Topic, "__") && c.attends(p.Topic) {
		if v.no != nil {
			return func() { c.deny(p.Topic, ref, v) }
		}
		c.attend(ctx, p.Topic, ref)
		return func() {}
	}
	if _, err := pgcast.ParsePattern(p.Topic); err != nil {
		c.refuse(0)
		return func() { c.session.Deny(p.Topic, ref, wire.ReasonInvalidTopic) }
	}
	if !there && len(c.names) >= c.g.opts.MaxSubscriptions {
		c.refuse(0)
		c.release(p.Topic)
		return func() { c.session.Deny(p.Topic, ref, wire.ReasonTooMany) }
	}
	if v.no != nil && !(p.Snapshot && pgcast.IsPattern(p.Topic)) {
		return func() { c.deny(p.Topic, ref, v) }
	}
	if err := c.mayBegin(ctx, p); err != nil {
		c.release(p.Topic)
		return func() { c.turnAwayAt(p, ref, err) }
	}
	narrowed, lens, err := c.narrow(ctx, p)
	if err != nil {
		c.refuse(0)
		c.release(p.Topic)
		return func() { c.turnAwayAt(p, ref, err) }
	}
	was := c.filters[p.Topic]
	req := fanout.Request{Topic: p.Topic, Ref: ref, After: p.After, ID: p.ID, Snapshot: p.Snapshot, AsOf: p.AsOf, Foreign: c.g.foreign(p.AsOf), Lens: lens, Own: c.operators != nil}
	seq, seen := c.seen[p.Topic]
	if p.Snapshot {
		delete(c.seen, p.Topic)
	}
	if seen = seen && p.After == nil && !p.Snapshot; seen {
		after := int64(seq)
		req.After, req.Doubted = &after, c.doubted
		delete(c.seen, p.Topic) // a later subscribe to it starts at the head
	}
	req.Barred = v.barred && req.After != nil
	req.Keep = req.After == nil && !p.Snapshot && c.hearsOwn(p.Topic)
	c.names[p.Topic] = struct{}{}
	c.keepFilter(p.Topic, narrowed)
	c.alias(p.Topic)
	opening := c.session.Ask(req)
	return func() {
		err := c.session.Open(ctx, opening)
		if err == nil {
			c.names[p.Topic] = struct{}{}
			c.keepFilter(p.Topic, narrowed)
			c.rights.kept(p.Topic, c.judged)
			c.arrive(p.Topic, v)
			if v.member {
				c.arriveGroup(ctx, p.Topic)
			}
			if req.After != nil {
				c.g.metrics.resumes.Inc()
			}
			return
		}
		if _, told := err.(*pgcast.Error); !told { // else it was not even tried, and why has been logged
			c.g.opts.Logger.Warn("gateway: subscribe failed", "error", err)
		}
		c.session.Deny(p.Topic, ref, reasonOf(err))
		if c.keepFilter(p.Topic, was); !there {
			delete(c.names, p.Topic)
			c.alias(p.Topic)
			c.release(p.Topic)
		}
		if seen {
			c.seen[p.Topic] = seq
		}
	}
}
