package client

import (
	"context"
	"iter"

	"github.com/pgcast/pgcast"
)

// Item is one thing the server tells: an [Event], or a notice about a subscription in
// its place in the stream: [Subscribed], [Gap], [Reset] or [Denied].
type Item interface{ item() }

// Event is an event of a subscription. Its CreatedAt is not set. Data and Old belong
// to the frame they came in; copy what is to be kept of a large one.
type Event struct {
	pgcast.Event
	Through string // the topic or pattern that was subscribed to
}

// From gives the place of the event, to go on from there.
func (e Event) From() From {
	if e.Position != 0 {
		return From{After: int64(e.Position), ID: e.ID}
	}
	return From{After: int64(e.Seq), ID: e.ID}
}

// Subscribed says that from here on every event after Seq is delivered. It comes again
// after each reconnect.
type Subscribed struct {
	Topic   string // or pattern
	Seq     int64  // or position, for a pattern
	Resumed bool   // it goes on from a place the client knew
}

// Gap says that events after After and before Tail are trimmed away. For a pattern the
// numbers are positions, and some events in between may still follow.
type Gap struct {
	Topic             string // or pattern
	After, Tail, Head int64
}

// Reset says that the history the app has seen of a topic or pattern no longer exists,
// and that the stream goes on after Head.
type Reset struct {
	Topic string // or pattern
	Head  int64
}

// Denied says that the server ended or never began a subscription, and why.
type Denied struct {
	Topic  string // or pattern
	Reason string // one of the protocol's reasons, or an error's code
}

func (Event) item()      {}
func (Subscribed) item() {}
func (Gap) item()        {}
func (Reset) item()      {}
func (Denied) item()     {}

// Next waits for the next item. It fails when ctx ends, and when Run has returned. One
// goroutine at a time may call it. While nobody does, the client stops reading; after
// some 40 s of that the server cuts it off, and it resumes.
func (c *Client) Next(ctx context.Context) (Item, error) {
	if len(c.rest) == 0 {
		select {
		case c.rest = <-c.items:
		case <-c.done:
			return nil, c.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	it := c.rest[0]
	c.rest[0] = nil
	c.rest = c.rest[1:]
	return it, nil
}

// Items gives the items one by one, until the caller breaks or, with an error as the
// last, ctx ends or Run returns.
func (c *Client) Items(ctx context.Context) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for {
			it, err := c.Next(ctx)
			if !yield(it, err) || err != nil {
				return
			}
		}
	}
}
