package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcast/pgcast"
)

// use is how the app uses a client.
type use int8

const (
	byNobody use = iota
	byItems      // Subscribe, Next and Items
	byTopics     // Topic
)

// claim settles how the client is used. The caller holds mu.
func (c *Client) claim(by use) error {
	if c.use == byNobody {
		c.use = by
	}
	switch {
	case c.use == by:
		return nil
	case by == byItems:
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "this client's topics are iterated, so that Subscribe, Next and Items have nothing to give",
			Hint: "iterate Topic(name).Items, or make another client"}
	}
	return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "this client is used by Subscribe, Next and Items, so that its topics cannot be iterated",
		Hint: "use Topic for all subscriptions, or make another client"}
}

// hold reserves a topic for an iteration.
func (c *Client) hold(t *Topic) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.claim(byTopics); err != nil {
		return err
	}
	for _, other := range c.held {
		if other == t || overlap(other.name, t.name) {
			return &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%q cannot be iterated: %q is, by this client, and may select the same events", t.name, other.name),
				Hint: "iterate one of them, or make another client"}
		}
	}
	t.busy = true
	c.held[t.name] = t
	return nil
}

// open begins the subscription of a topic that is held.
func (c *Client) open(t *Topic, here reached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-t.filled: // of the iteration before
	default:
	}
	t.queue, t.size, t.ahead, t.ending = nil, 0, here, nil
	c.resume(t)
}

// resume subscribes for a topic, at the end of its queue.
func (c *Client) resume(t *Topic) {
	r := request{snapshot: t.opts.Snapshot, filter: t.filter}
	if t.ahead.known {
		from := t.ahead.From
		r.from = &from
	}
	c.add(t.pattern, r)
	t.sub = c.subs[t.pattern.String()]
	t.sub.told = t.told
}

// release ends the subscription of a topic, and the iteration.
func (c *Client) release(t *Topic) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop(t)
	t.busy, t.queue, t.size = false, nil, 0
	delete(c.held, t.name)
}

// stop ends the subscription of a topic, which may go on later.
func (c *Client) stop(t *Topic) {
	if t.sub == nil {
		return
	}
	t.told = t.sub.told
	// No other one selects what this one does, so it ends at once, and nothing of it that is
	// still on its way is taken for something of the next one.
	if c.subs[t.sub.key] == t.sub {
		c.end(t.sub)
		c.unsubscribed(t.name)
	}
	t.sub = nil
}

// hand gives items to the topics that they are of. shared says that several have come in
// one frame, which would be kept as a whole by each.
func (c *Client) hand(items []Item, shared bool) {
	var last *Topic
	for _, it := range items {
		var key string
		switch it := it.(type) {
		case Event:
			key = it.Through
		case Subscribed:
			key = it.Topic
		case Snapshot:
			key = it.Topic
		case Gap:
			key = it.Topic
		case Reset:
			key = it.Topic
		case Denied:
			key = it.Topic
		}
		if last == nil || last.name != key {
			c.pause(last)
			if last = c.held[key]; last == nil {
				continue
			}
		}
		if e, ok := it.(Event); ok && shared {
			e.Data, e.Old = bytes.Clone(e.Data), bytes.Clone(e.Old)
			it = e
		}
		last.queue = append(last.queue, it)
		last.size += weight(it)
		last.ahead.pass(it, last.opts.Snapshot, last.isPattern())
		if _, denied := it.(Denied); denied {
			last.sub = nil // the subscription has ended
		}
		signal(last.filled)
	}
	c.pause(last)
}

// pause stops a topic whose queue is full.
func (c *Client) pause(t *Topic) {
	switch {
	case t == nil || t.sub == nil || len(t.queue) < t.opts.Buffer && t.size < bufferBytes:
	case t.ahead.known:
		c.opts.Logger.Debug("pgcast client: a consumer is slow, its topic stops and goes on later", "topic", t.name, "after", t.ahead.After)
		c.stop(t)
		c.stats.Pauses++
	case t.size > t.opts.SnapshotBytes:
		c.stop(t)
		t.queue, t.size = nil, 0
		t.ending = &pgcast.Error{Code: pgcast.CodeTooLarge,
			Message: fmt.Sprintf("the snapshot of %q: more than %d bytes of it wait for its consumer", t.name, t.opts.SnapshotBytes),
			Hint:    "take its parts faster, or raise TopicOptions.SnapshotBytes"}
		signal(t.filled)
	}
}

// takeOf takes some items of a topic's queue, and has a topic that has stopped go on when
// its queue has run low. An error ends the iteration.
func (c *Client) takeOf(t *Topic) ([]Item, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(t.queue), chunk)
	items := slices.Clone(t.queue[:n])
	clear(t.queue[:n])
	if t.queue = t.queue[n:]; len(t.queue) == 0 {
		t.queue = nil
	}
	for _, it := range items {
		t.size -= weight(it)
	}
	if n == 0 && t.ending != nil {
		return nil, t.ending
	}
	denied := n > 0 && isDenied(items[n-1])
	if t.busy && t.sub == nil && t.ending == nil && !denied && t.ahead.known &&
		len(t.queue) <= t.opts.Buffer/4 && t.size <= bufferBytes/4 && !slices.ContainsFunc(t.queue, isDenied) {
		c.resume(t)
	}
	return items, nil
}

func isDenied(it Item) bool {
	_, denied := it.(Denied)
	return denied
}

// weight is what an item takes in memory, in bytes, roughly.
func weight(it Item) int {
	n := 200
	switch it := it.(type) {
	case Event:
		n += len(it.Data) + len(it.Old)
	case Snapshot:
		for _, rows := range [][]json.RawMessage{it.Rows, it.Oversize} {
			for _, row := range rows {
				n += 24 + len(row)
			}
		}
		for _, e := range it.Events {
			n += 200 + len(e.Data) + len(e.Old)
		}
	}
	return n
}

// overlap reports whether there can be a topic that two patterns select.
func overlap(a, b string) bool {
	as, bs := strings.Split(a, ":"), strings.Split(b, ":")
	for i := range min(len(as), len(bs)) {
		x, y := as[i], bs[i]
		switch {
		case i == len(as)-1 && x == "**", i == len(bs)-1 && y == "**":
			return true
		case x != y && x != "*" && y != "*":
			return false
		}
	}
	return len(as) == len(bs)
}
