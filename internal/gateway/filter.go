package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/filter"
	"github.com/pgcast/pgcast/internal/wire"
)

// maxUnseen is how many pages of the log one request has looked at in search of something
// that its filter lets through.
const maxUnseen = 10

// attached looks up the attached tables for filters, as one of the requests under way.
func (g *Gateway) attached(ctx context.Context) ([]pgcast.Table, error) {
	ctx, release, err := g.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	return g.opts.Tables(ctx)
}

// view gives how a topic or pattern is seen through a filter, or, where that is nil, as a
// caller's lens shows it. Errors have code invalid where the filter does not fit.
func (g *Gateway) view(ctx context.Context, inner fanout.Lens, topic string, f *filter.Filter) (fanout.Lens, error) {
	if f == nil {
		return inner, nil
	}
	p, err := pgcast.ParsePattern(topic)
	if err != nil {
		return nil, err
	}
	if err := g.tables.Check(ctx, f, p); err != nil {
		return nil, g.discreet(err)
	}
	return filter.Lens(f, inner, g.hub.Source(), g.tables), nil
}

// discreet keeps from callers how a table is attached where there is access control: that names
// columns which they may not know of. Whoever runs the server finds it in the log.
func (g *Gateway) discreet(err error) error {
	var e *pgcast.Error
	if g.opts.Access == nil || !errors.As(err, &e) || e.Code != pgcast.CodeInvalid {
		return err
	}
	g.opts.Logger.Warn("gateway: a filter needs old values that are not captured", "error", err)
	return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "the filter needs old values of rows, which are not captured",
		Hint: "filter by the row's key, or ask whoever runs the server: its log says how to attach the table"}
}

// narrowed reads the filter of a request; nil: it has none.
func narrowed(q url.Values) (*filter.Filter, error) {
	if !q.Has("filter") {
		return nil, nil
	}
	return filter.Parse(q.Get("filter"))
}

// through gives what is seen of events through a lens.
func (g *Gateway) through(ctx context.Context, lens fanout.Lens, events []pgcast.Event) ([]pgcast.Event, error) {
	if lens == nil || len(events) == 0 {
		return events, nil
	}
	asked := make([]*pgcast.Event, len(events))
	for i := range events {
		asked[i] = &events[i]
	}
	list, err := lens.Look(ctx, asked)
	if err != nil {
		return nil, fmt.Errorf("look at %d events: %w", len(events), err)
	}
	seen := make([]pgcast.Event, 0, len(events))
	for _, e := range list {
		if e != nil {
			seen = append(seen, *e)
		}
	}
	return seen, nil
}

// narrow reads the filter of a subscription, and tells how its topic is then seen.
func (c *client) narrow(ctx context.Context, p wire.Place) (*filter.Filter, fanout.Lens, error) {
	inner := c.g.lens(c.claims.Load(), p.Topic)
	var f *filter.Filter
	if p.Filter != nil {
		var err error
		if f, err = filter.Read(p.Filter); err != nil {
			return nil, nil, err
		}
	}
	if err := c.fitsBeside(p.Topic, f != nil); err != nil {
		return nil, nil, err
	}
	lens, err := c.g.view(ctx, inner, p.Topic, f)
	return f, lens, err
}

// fitsBeside tells why a subscription may not stand beside the others, or returns nil: an event is
// sent once, and may not be seen through one and not through another.
func (c *client) fitsBeside(topic string, filtered bool) error {
	if !filtered && len(c.filters) == 0 {
		return nil
	}
	hint := "use another session for one of them"
	if filtered && c.hearsOwn(topic) {
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%q is the topic of a group of which this session hears everything, and cannot be filtered", topic), Hint: hint}
	}
	p, err := pgcast.ParsePattern(topic)
	if err != nil {
		return err
	}
	pattern := pgcast.IsPattern(topic)
	overlaps := func(other string) error {
		if other == topic || !pattern && !pgcast.IsPattern(other) {
			return nil
		}
		if o, err := pgcast.ParsePattern(other); err != nil || !o.Overlaps(p) {
			return nil
		}
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%q and %q select the same topics, and one of them has a filter", other, topic), Hint: hint}
	}
	if !filtered {
		for other := range c.filters {
			if err := overlaps(other); err != nil {
				return err
			}
		}
		return nil
	}
	for other := range c.names {
		if err := overlaps(other); err != nil {
			return err
		}
	}
	return nil
}

// hearsWhole tells why a session may not have everything of a group's topic under the server's own
// name, or returns nil: it has subscribed to a part of it.
func (c *client) hearsWhole(topic string) error {
	if c.filters[topic] != nil {
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%q has a filter in this session, and would be heard in part only", topic), Hint: "use another session for one of them"}
	}
	return c.fitsBeside(topic, false)
}

// keepFilter notes through which filter a subscription is seen; nil: none.
func (c *client) keepFilter(topic string, f *filter.Filter) {
	switch {
	case f == nil:
		delete(c.filters, topic)
	case c.filters == nil:
		c.filters = map[string]*filter.Filter{topic: f}
	default:
		c.filters[topic] = f
	}
}

// sought reads on, page by page, until a lens lets something through or there is no more; ask
// gives a page and where the next one begins. What is missing is told of all of them.
func (g *Gateway) sought(ctx context.Context, lens fanout.Lens, after int64, ask func(after int64) (page pgcast.Page, next int64, err error)) (pgcast.Page, int64, error) {
	tail := pgcast.Seq(0)
	for n := 1; ; n++ {
		page, next, err := ask(after)
		if err != nil {
			return page, next, err
		}
		tail = max(tail, page.Tail)
		page.Tail = tail
		read := len(page.Events)
		if page.Events, err = g.through(ctx, lens, page.Events); err != nil {
			return page, next, err
		}
		if lens == nil || read == 0 || len(page.Events) > 0 || n == maxUnseen {
			return page, next, nil
		}
		after = next
	}
}

// pageThrough reads a topic or a pattern for a history frame, and tells up to where it has
// looked.
func (g *Gateway) pageThrough(ctx context.Context, f wire.Frame, lens fanout.Lens, after int64, limit int) (page pgcast.Page, next int64, err error) {
	return g.sought(ctx, lens, after, func(after int64) (pgcast.Page, int64, error) {
		page, err := g.page(ctx, g.history, f.Topic, after, limit)
		page.Events = fitting(page.Events)
		return page, nextOf(page, after, pgcast.IsPattern(f.Topic)), err
	})
}

// nextOf is up to where a page has looked that was read after a place.
func nextOf(page pgcast.Page, after int64, pattern bool) int64 {
	n := len(page.Events)
	switch {
	case n > 0 && pattern:
		return int64(page.Events[n-1].Position)
	case n > 0:
		return int64(page.Events[n-1].Seq)
	case pattern:
		// The place may have been seen at another server, before this one came to it.
		return max(int64(page.Head), after)
	}
	return max(after, int64(page.Tail)-1)
}

// filterOf reads the filter of a history frame.
func filterOf(raw json.RawMessage) (*filter.Filter, error) {
	if raw == nil {
		return nil, nil
	}
	return filter.Read(raw)
}
