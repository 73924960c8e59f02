package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"iter"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// PublishOptions of [Topic.Publish].
type PublishOptions struct {
	// Key makes it idempotent over several calls, and processes: the same topic and key again
	// within 24 hours adds nothing and gives the first event's id. At most 256 bytes. Empty: one
	// of its own for each call.
	Key string
}

// Publish adds an event to the topic and gives its id once it is committed. data is
// marshalled, unless it is a json.RawMessage; nil is null. It waits while there is no
// connection, and is sent again with the same key after one that broke, so that the event is
// there exactly once. The server's refusals are *[pgcast.Error]; after one of code
// unavailable, and when ctx ends, the event may exist: with a Key of one's own it can be
// published again. opts may be nil.
func (t *Topic) Publish(ctx context.Context, event string, data any, opts *PublishOptions) (pgcast.ID, error) {
	if t.err != nil {
		return "", t.err
	}
	text, err := marshal(data)
	if err != nil {
		return "", fmt.Errorf("publish to %q: %w", t.name, err)
	}
	var key string
	if opts != nil {
		key = opts.Key
	}
	if key == "" {
		key = rand.Text()
	}
	return t.c.Publish(ctx, t.name, event, text, key)
}

func marshal(data any) (json.RawMessage, error) {
	if raw, ok := data.(json.RawMessage); ok {
		return raw, nil
	}
	if data == nil {
		return nil, nil
	}
	text, err := json.Marshal(data)
	if err != nil {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalidEvent, Message: fmt.Sprintf("the data cannot be written as JSON: %v", err)}
	}
	return text, nil
}

// Page is a part of a topic's history. For a pattern all numbers are positions.
type Page struct {
	Events []Event // in order
	// Tail and Head are the topic's. Tail > after + 1 says that events in between are trimmed
	// away.
	Tail, Head int64
	Next       int64 // what to ask after next time
	Last       bool  // there was no more at that time
}

// Page asks for at most limit events after a place, through the topic's filter; 0 asks for
// as many as the server gives without a limit (100), more than 1000 for 1000. There may be
// fewer although more exist.
func (t *Topic) Page(ctx context.Context, after int64, limit int) (Page, error) {
	if t.err != nil {
		return Page{}, t.err
	}
	f, err := t.c.call(ctx, &call{frame: wire.Frame{Type: wire.History, Topic: t.name, After: &after, Limit: limit, Filter: t.filter}, again: true})
	if err != nil {
		return Page{}, fmt.Errorf("read the history of %q after %d: %w", t.name, after, err)
	}
	p := Page{Tail: f.Tail, Head: f.Head, Next: after}
	for _, e := range f.Events {
		p.Events = append(p.Events, Event{Event: e, Through: t.name})
		p.Next = p.Events[len(p.Events)-1].From().After
	}
	p.Last = len(f.Events) == 0
	if t.filter != nil {
		p.Next = max(p.Next, f.Next)
		p.Last = p.Next >= p.Head
	}
	return p, nil
}

// History gives the events after a place up to the head of when it began, page by page, without
// subscribing. That some of them are trimmed away is told by a [Gap] as the error, after which
// it goes on if the caller does; other errors end it.
func (t *Topic) History(ctx context.Context, after int64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		head := int64(-1)
		for {
			p, err := t.Page(ctx, after, 1000)
			if err != nil {
				yield(Event{}, err)
				return
			}
			if head < 0 {
				head = p.Head
			}
			if p.Tail > after+1 && !yield(Event{}, Gap{t.name, after, p.Tail, p.Head}) {
				return
			}
			for _, e := range p.Events {
				if e.From().After > head || !yield(e, nil) {
					return
				}
			}
			if after = p.Next; p.Last || after >= head {
				return
			}
		}
	}
}
