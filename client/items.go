package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"

	"github.com/pgcast/pgcast"
)

// Item is one thing the server tells: an [Event], or a notice about a subscription in
// its place in the stream: [Subscribed], [Snapshot], [Gap], [Reset] or [Denied].
type Item interface{ item() }

// Event is an event of a subscription. Its CreatedAt is not set. Data and Old belong
// to the frame they came in; copy what is to be kept of a large one.
type Event struct {
	pgcast.Event
	Through string // the topic or pattern that was subscribed to
	AsOf    string // of the snapshot the subscription began with; empty if with none
}

// From gives the place of the event, to go on from there.
func (e Event) From() From {
	if e.Position != 0 {
		return From{After: int64(e.Position), ID: e.ID}
	}
	return From{After: int64(e.Seq), ID: e.ID, AsOf: e.AsOf}
}

// Subscribed says that from here on every event after Seq is delivered. It comes again
// after each reconnect.
type Subscribed struct {
	Topic   string // or pattern
	Seq     int64  // or position, for a pattern
	Resumed bool   // it goes on from a place the client knew
}

// Snapshot is a part of what a topic held when the subscription began: rows of one table,
// in no order, or, of a topic that no table makes events of, the newest event of each key,
// in order. The parts come behind Subscribed and before the first event, which joins them
// exactly. They belong to the frame they came in.
type Snapshot struct {
	Topic    string
	Table    string            // with its schema
	Rows     []json.RawMessage // as the events of their table have them
	Oversize []json.RawMessage // keys of rows that are larger than the server's limit
	Events   []pgcast.Event
	// First says that it begins, or begins anew because the connection broke before the
	// last part, or after a gap or reset: what the app has of the topic is to be thrown away.
	First bool
	Last  bool
	From  From // of the last part: where the events follow
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

// Error makes a Gap the error that [Topic.Events] tells of it by.
func (g Gap) Error() string {
	return fmt.Sprintf("events of %q after %d and before %d are trimmed away", g.Topic, g.After, g.Tail)
}

// Error makes a Reset the error that [Topic.Events] tells of it by.
func (r Reset) Error() string {
	return fmt.Sprintf("the history of %q that was seen exists no longer; it goes on after %d", r.Topic, r.Head)
}

// Error makes a Denied the error that [Topic.Events] ends with.
func (d Denied) Error() string {
	return fmt.Sprintf("the server denied the subscription to %q: %s", d.Topic, d.Reason)
}

func (Event) item()      {}
func (Subscribed) item() {}
func (Snapshot) item()   {}
func (Gap) item()        {}
func (Reset) item()      {}
func (Denied) item()     {}

// maxInbox is how many bytes of items are read ahead for the sake of an answer that stands
// behind them.
const maxInbox = 16 << 20

// deliver puts items into the inbox and waits until the app has taken them, which in the
// end makes the server wait: it keeps our places, so nothing piles up on either side. An
// app that waits for the answer to a call may take nothing until that is read.
func (c *Client) deliver(ctx context.Context, items []Item) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, it := range items {
		c.size += 200
		switch it := it.(type) {
		case Event:
			c.size += len(it.Data) + len(it.Old)
		case Snapshot:
			c.size += 64 << 10
		}
	}
	c.inbox = append(c.inbox, items...)
	if len(items) > 0 {
		signal(c.filled)
	}
	for len(c.inbox) > 0 && (len(c.calls) == 0 || c.size > maxInbox) {
		c.mu.Unlock()
		var err error
		select {
		case <-c.moved:
		case <-ctx.Done():
			err = ctx.Err()
		}
		c.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take empties the inbox.
func (c *Client) take() []Item {
	c.mu.Lock()
	defer c.mu.Unlock()
	items := c.inbox
	c.inbox, c.size = nil, 0
	if len(items) > 0 {
		signal(c.moved)
	}
	return items
}

// Next waits for the next item. It fails when ctx ends, and when Run has returned and
// there is none left. One goroutine at a time may call it; the same one may call Publish
// and History. While nobody calls any of them, the client stops reading; after some 40 s
// of that the server cuts it off, and it resumes. It fails for a client whose topics are
// iterated ([Client.Topic]).
func (c *Client) Next(ctx context.Context) (Item, error) {
	c.mu.Lock()
	err := c.claim(byItems)
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for len(c.rest) == 0 {
		if c.rest = c.take(); len(c.rest) > 0 {
			break
		}
		select {
		case <-c.filled:
		case <-c.done:
			if c.rest = c.take(); len(c.rest) == 0 {
				return nil, c.err
			}
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
