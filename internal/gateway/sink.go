package gateway

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/wire"
)

// Several events go into one frame only for clients that said they understand it, and
// never so many that the frame comes near the size clients drop.
const maxBatch = 256 << 10

var heartbeat = append(appendHeader(nil, len(wire.Heartbeat)), wire.Heartbeat...)

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// errBegunAnew ends a session whose client would not understand reset.
var errBegunAnew = errors.New("the client's history no longer exists")

// Write makes frames of a session's items and sends them in one write, behind what an
// offer has left.
func (c *client) Write(items []fanout.Item) error {
	_, err := c.send(items, func(b []byte) (bool, error) {
		if held := c.conn.finish(); held != nil {
			b = append(held, b...)
		}
		_, err := c.conn.Write(b)
		return true, err
	})
	return err
}

// Offer sends a session's items as far as the peer has room for them.
func (c *client) Offer(items []fanout.Item) (bool, error) { return c.send(items, c.conn.offer) }

func (c *client) send(items []fanout.Item, write func([]byte) (bool, error)) (done bool, err error) {
	if expired(c.claims.Load()) {
		return true, errExpired
	}
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	b := (*p)[:0]
	for len(items) > 0 && err == nil {
		if n := c.batchable(items); n > 1 {
			b, items = appendBatch(b, items[:n]), items[n:]
			continue
		}
		b, err = c.appendItem(b, items[0])
		items = items[1:]
	}
	if cap(b) <= 128<<10 { // one huge event is not to stay in the pool
		*p = b
	}
	done, werr := write(b)
	return done, cmp.Or(werr, err)
}

// batchable gives the number of leading items that go into one batch frame.
func (c *client) batchable(items []fanout.Item) int {
	if !c.batch.Load() {
		return 0
	}
	n, size := 0, 0
	for n < len(items) && items[n].Frame != nil && items[n].Replay == nil {
		if size += len(items[n].Frame.Text()) + 32; n > 0 && size > maxBatch {
			break
		}
		if renamed, _ := c.renames(items[n].Frame.Topic); renamed {
			break
		}
		n++
	}
	return n
}

func text(i fanout.Item) []byte {
	if i.Pattern {
		return i.Frame.Positioned()
	}
	return i.Frame.Text()
}

func appendBatch(b []byte, items []fanout.Item) []byte {
	n := len(wire.BatchOpen) + len(wire.BatchClose) + len(items) - 1
	for _, i := range items {
		n += len(text(i))
	}
	b = append(appendHeader(b, n), wire.BatchOpen...)
	for k, i := range items {
		if k > 0 {
			b = append(b, ',')
		}
		b = append(b, text(i)...)
	}
	return append(b, wire.BatchClose...)
}

func (c *client) appendItem(b []byte, i fanout.Item) ([]byte, error) {
	switch {
	case i.Replay != nil:
		t := wire.AppendReplayed(nil, i.Frame.Topic, i.Replay, i.Frame.Text())
		return append(appendHeader(b, len(t)), t...), nil
	case i.Frame != nil:
		t := text(i)
		if renamed, both := c.renames(i.Frame.Topic); renamed && !i.Pattern {
			if b = appendRenamed(b, t); !both {
				return b, nil
			}
		}
		return append(appendHeader(b, len(t)), t...), nil
	case i.Snapshot != nil:
		return append(appendHeader(b, len(i.Snapshot.Text)), i.Snapshot.Text...), nil
	case i.Raw != nil:
		return append(appendHeader(b, len(i.Raw)), i.Raw...), nil
	}
	var t []byte
	var err error
	n := i.Notice
	if renamed, both := c.renames(n.Topic); renamed && !both {
		own := *n
		own.Topic, n = "__"+n.Topic, &own
	}
	switch n.Kind {
	case fanout.Subscribed:
		t = wire.AppendSubscribed(nil, n.Topic, n.Ref, n.Seq)
	case fanout.Unsubscribed:
		t = wire.AppendUnsubscribed(nil, n.Topic, n.Ref)
	case fanout.Denied:
		t = wire.AppendDenied(nil, n.Topic, n.Ref, n.Reason)
	case fanout.Replayed:
		t = wire.AppendReplayEnd(nil, n.Topic, n.Ref, n.Truncated)
	case fanout.Gap:
		t = wire.AppendGap(nil, n.Topic, n.After, n.Tail, n.Head)
	case fanout.Reset:
		t = wire.AppendReset(nil, n.Topic, n.Head)
		if c.resumed.Load() && !c.reset.Load() {
			// It would not understand. With a session id that stands for no history it
			// comes back and starts at the head.
			t, err = wire.AppendWelcome(nil, c.g.sessionID(rand.Text(), true)), errBegunAnew
		}
	}
	return append(appendHeader(b, len(t)), t...), err
}

// Close ends the connection with the close code that fits the reason.
func (c *client) Close(reason error) {
	code, text := 0, ""
	switch {
	case errors.Is(reason, errDraining):
		code, text = wire.CloseGoingAway, fmt.Sprintf("retry=%d", c.g.comeBack().Milliseconds())
	case errors.Is(reason, fanout.ErrResume), errors.Is(reason, errBegunAnew), errors.Is(reason, errStalled):
		code, text = wire.CloseStalled, "resume"
	case errors.As(reason, new(closeError)):
		var e closeError
		errors.As(reason, &e)
		code, text = e.code, e.reason
	}
	if code == 0 {
		_ = c.conn.Close()
		return
	}
	c.conn.closeFrame(code, text)
	// The client answers with a close frame of its own, on which the reader ends.
	time.AfterFunc(c.g.closeWait, func() { _ = c.conn.Close() })
}

// closeError ends a session with a close code.
type closeError struct {
	code   int
	reason string
}

func (e closeError) Error() string { return e.reason }
