package gateway

import (
	"context"
	"encoding/json"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/filter"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

func (c *client) publish(ctx context.Context, f wire.Frame) {
	err := pgcast.CheckTopic(f.Topic)
	if err == nil {
		err = pgcast.CheckEventName(f.Event)
	}
	if err == nil {
		err = c.limit(ctx, ratelimit.Publish, f.Topic, 1)
	}
	if err == nil {
		err = c.allow(ctx, auth.Publish, f.Topic)
	}
	var id pgcast.ID
	if err == nil {
		id, err = c.g.add(ctx, f.Topic, f.Event, f.Data, f.Key)
	}
	if err != nil {
		c.turnDown(f.Ref, err)
		return
	}
	c.session.Send(wire.AppendPublished(nil, f.Ref, id))
}

// replay answers on the topic's private one. The browser client drops what comes live until
// the end of the answer, so there always is one, and what cannot be replayed counts as
// truncated.
func (c *client) replay(ctx context.Context, f wire.Frame) {
	reqID, after := f.ReqID, int64(0)
	if reqID == nil {
		reqID = json.RawMessage("null")
	}
	if f.After != nil {
		after = *f.After
	}
	err := pgcast.CheckTopic(f.Topic)
	if err == nil {
		err = c.limit(ctx, ratelimit.History, f.Topic, 1)
	}
	if err == nil {
		err = c.allow(ctx, auth.History, f.Topic)
	}
	if err == nil {
		var lens fanout.Lens
		if lens, err = c.g.view(ctx, c.g.lens(c.claims.Load(), f.Topic), f.Topic, c.filters[f.Topic]); err == nil {
			err = c.session.Replay(ctx, fanout.Request{Topic: f.Topic, After: &after, Ref: reqID, Lens: lens, Own: c.operators != nil})
		}
	}
	if err != nil {
		c.turnDown(f.Ref, err)
		c.session.Send(wire.AppendReplayEnd(nil, f.Topic, reqID, true))
	}
}

// add publishes an event whose names have been checked.
func (g *Gateway) add(ctx context.Context, topic, event string, data json.RawMessage, key string) (pgcast.ID, error) {
	ctx, release, err := g.slot(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	id, err := g.publish.Publish(ctx, topic, event, data, key)
	if err == nil {
		g.metrics.published.Inc()
	}
	return id, err
}

func (c *client) history(ctx context.Context, f wire.Frame) {
	limit, after := f.Limit, int64(0)
	if limit == 0 {
		limit = wire.DefaultHistory
	}
	if f.After != nil {
		after = *f.After
	}
	_, err := pgcast.ParsePattern(f.Topic)
	if err == nil {
		err = c.limit(ctx, ratelimit.History, f.Topic, historyCost(limit))
	}
	if err == nil {
		err = c.allow(ctx, auth.History, f.Topic)
	}
	narrow, lens := (*filter.Filter)(nil), fanout.Lens(nil)
	if err == nil {
		narrow, err = filterOf(f.Filter)
	}
	if err == nil {
		lens, err = c.g.view(ctx, c.g.lens(c.claims.Load(), f.Topic), f.Topic, narrow)
	}
	page, next := pgcast.Page{}, int64(0)
	if err == nil {
		page, next, err = c.g.pageThrough(ctx, f, lens, after, min(limit, wire.MaxHistory))
	}
	if err != nil {
		c.turnDown(f.Ref, err)
		return
	}
	if narrow == nil {
		next = 0 // which the events say: a lens leaves none out
	}
	c.session.Send(wire.AppendHistory(nil, f.Ref, f.Topic, page.Events, int64(page.Tail), int64(page.Head), next))
}

// page reads a topic or a pattern.
func (g *Gateway) page(ctx context.Context, h Historian, topic string, after int64, limit int) (pgcast.Page, error) {
	pattern, err := pgcast.ParsePattern(topic)
	if err != nil {
		return pgcast.Page{}, err
	}
	ctx, release, err := g.slot(ctx)
	if err != nil {
		return pgcast.Page{}, err
	}
	defer release()
	if pgcast.IsPattern(topic) {
		return g.scan(ctx, h, pattern, after, limit)
	}
	return h.Page(ctx, topic, pgcast.Seq(after), limit)
}

// scan reads on until it has an event or the end of the log.
func (g *Gateway) scan(ctx context.Context, h Historian, p pgcast.Pattern, after int64, limit int) (page pgcast.Page, err error) {
	head := g.hub.Position()
	page = pgcast.Page{Tail: 1, Head: pgcast.Seq(head)}
	for next := pgcast.Position(after); next < head && len(page.Events) == 0; {
		if page.Events, next, err = h.Scan(ctx, p, next, head, limit); err != nil {
			return page, err
		}
	}
	gap, err := h.ScanGap(ctx, p, pgcast.Position(after))
	if gap > 0 {
		page.Tail = pgcast.Seq(gap) + 1
	}
	return page, err
}

// fitting gives the leading events that fit into one frame: a client that wants the rest
// asks again after the last.
func fitting(events []pgcast.Event) []pgcast.Event {
	size := 512
	for i, e := range events {
		size += len(e.Topic) + len(e.Name) + 2*len(e.Old) + len(e.Data) + 160
		if i > 0 && size > wire.MaxServerFrame {
			return events[:i]
		}
	}
	return events
}
