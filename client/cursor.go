package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// maxCursor is the longest a cursor's data may be, in bytes.
const maxCursor = 4 << 10

// Cursor is a cursor of somebody else.
type Cursor struct {
	Key  string          // the session's, as long as it is connected
	User json.RawMessage // what others may see of its user; nil if nothing
	Data json.RawMessage
}

// Cursors are the cursors of a topic, by session key; one's own is not among them. See
// docs/cursors.md.
type Cursors struct {
	c     *Client
	topic string
	err   error
	live  *feed
	moved state[string, Cursor]

	// Guarded by Client.mu.
	data    json.RawMessage // where our own is; nil if nowhere
	waiting bool            // a frame in the queue will say it
}

// Cursors gives the cursors of the topic: the same for all handles of a topic. A pattern has
// none.
func (t *Topic) Cursors() *Cursors {
	c := t.c
	c.mu.Lock()
	defer c.mu.Unlock()
	own := wire.CursorOf + t.name
	if k := c.cursors[own]; k != nil {
		return k
	}
	k := &Cursors{c: c, topic: t.name, err: pgcast.CheckTopic(t.name)}
	k.live = &feed{own: own, enter: k.enter, take: k.take, lost: func() { k.moved.replace(nil) }}
	if k.err == nil {
		c.follows(k.live)
		c.cursors[own] = k
	}
	return k
}

func (k *Cursors) enter() (wire.Frame, bool) {
	if k.data != nil { // whoever moves is told of the others, too
		return wire.Frame{Type: wire.Cursor, Topic: k.topic, Data: k.data}, true
	}
	return wire.Frame{Type: wire.CursorSnapshot, Topic: k.topic}, k.live.watched > 0
}

func (k *Cursors) take(event string, data json.RawMessage) {
	var one Cursor
	var some []Cursor
	switch event {
	case "snapshot":
		if json.Unmarshal(data, &some) != nil {
			return
		}
		all := map[string]Cursor{}
		for _, o := range some {
			all[o.Key] = o
		}
		k.moved.replace(all)
	case "bulk":
		if json.Unmarshal(data, &some) == nil {
			for _, o := range some {
				k.moved.set(o.Key, o)
			}
		}
	case "update":
		if json.Unmarshal(data, &one) == nil {
			k.moved.set(one.Key, one)
		}
	case "remove":
		if json.Unmarshal(data, &one) == nil {
			k.moved.remove(one.Key)
		}
	}
}

// Move moves the client's own cursor: any JSON but null, at most 4 KiB. It waits for nothing
// and may be called as often as one likes: the newest place is sent as soon as can be, and
// said again after a reconnect. The server shows others the newest of each 50 ms. It takes a
// cursor away that has not moved for 30 s; move it to where it is to keep it.
func (k *Cursors) Move(data any) error {
	text, err := marshal(data)
	if err == nil {
		err = k.err
	}
	switch {
	case err != nil:
		return fmt.Errorf("move the cursor on %q: %w", k.topic, err)
	case !json.Valid(text) || string(text) == "null" || len(text) > maxCursor:
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("move the cursor on %q: the data is not JSON of at most 4 KiB, or null", k.topic),
			Hint: "Leave takes it away"}
	}
	c := k.c
	c.mu.Lock()
	defer c.mu.Unlock()
	first := k.data == nil
	k.data = text
	switch {
	case first || c.conn == nil:
		k.live.ask()
	case !k.waiting:
		k.waiting = true
		c.queue = append(c.queue, outgoing{fresh: k.fresh})
		signal(c.wake)
	}
	return nil
}

// fresh gives the frame that says where the cursor is when it is sent.
func (k *Cursors) fresh() []byte {
	k.waiting = false
	if k.data == nil {
		return nil
	}
	return wire.AppendFrame(nil, &wire.Frame{Type: wire.Cursor, Topic: k.topic, Data: k.data})
}

// Leave takes the client's own cursor away.
func (k *Cursors) Leave() {
	c := k.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.data == nil {
		return
	}
	k.data = nil
	if c.conn == nil {
		return
	}
	c.enqueue(&wire.Frame{Type: wire.Cursor, Topic: k.topic, Op: wire.OpLeave}, nil)
	if k.live.watched == 0 {
		k.live.forget(k.exit()) // to look no more
	}
}

// All are the cursors of the others as far as is known now: while Changes is iterated, or
// one's own has moved. While there is no connection it is where they were.
func (k *Cursors) All() map[string]Cursor { return k.moved.all() }

// Changes gives the cursors of the others, and then what moves, comes and goes, until the
// caller breaks, or, with an error as the last, ctx ends, Run returns or the server does not
// let us know. A slow caller is told the newest place of each. Any number may iterate.
func (k *Cursors) Changes(ctx context.Context) iter.Seq2[Change[string, Cursor], error] {
	return follow(ctx, k.live, k.err, &k.moved, k.exit())
}

func (k *Cursors) exit() *wire.Frame {
	return &wire.Frame{Type: wire.Unsubscribe, Topic: wire.CursorOf + k.topic}
}
