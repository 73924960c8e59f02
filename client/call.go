package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// ErrUncertain says that the connection broke between a publish and its answer: the
// event may or may not exist. With a key, Publish asks again instead.
var ErrUncertain = errors.New("the connection broke before the answer: the event may or may not have been published")

// Publish adds an event to a topic and returns its id once it is committed; the server's
// refusals are *[pgcast.Error]. With a key, the same topic and key again within 24 hours
// adds nothing and returns the first event's id. It waits while there is no connection.
func (c *Client) Publish(ctx context.Context, topic, event string, data json.RawMessage, key string) (pgcast.ID, error) {
	if len(data) > 0 && !(json.Valid(data) && utf8.Valid(data)) {
		// It would break the frame around it, or the connection.
		return "", &pgcast.Error{Code: pgcast.CodeInvalidEvent, Message: fmt.Sprintf("publish to %q: the data is not JSON", topic)}
	}
	f, err := c.call(ctx, &call{frame: wire.Frame{Type: wire.Publish, Topic: topic, Event: event, Data: data, Key: key}, again: key != ""})
	if err != nil {
		return "", fmt.Errorf("publish to %q: %w", topic, err)
	}
	return f.ID, nil
}

// History asks for at most limit events of a topic after a seq, or of a pattern after a
// position; 0 asks for as many as the server gives without a limit. For a pattern the
// page's Tail and Head are positions.
func (c *Client) History(ctx context.Context, topic string, after int64, limit int) (pgcast.Page, error) {
	f, err := c.call(ctx, &call{frame: wire.Frame{Type: wire.History, Topic: topic, After: &after, Limit: limit}, again: true})
	if err != nil {
		return pgcast.Page{}, fmt.Errorf("read the history of %q after %d: %w", topic, after, err)
	}
	return pgcast.Page{Tail: pgcast.Seq(f.Tail), Head: pgcast.Seq(f.Head), Events: f.Events}, nil
}

// call is a request that waits for its answer.
type call struct {
	frame  wire.Frame
	again  bool // may be sent again after the connection broke
	answer chan answer

	// Guarded by Client.mu.
	sent bool
}

type answer struct {
	frame wire.ServerFrame
	err   error
}

func (c *Client) call(ctx context.Context, k *call) (wire.ServerFrame, error) {
	k.answer = make(chan answer, 1)
	c.mu.Lock()
	ref := c.newRef()
	k.frame.Ref = refText(ref)
	c.calls[ref] = k
	signal(c.moved) // the answer may stand behind what the app has not taken
	if c.conn != nil {
		c.enqueue(&k.frame, k)
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.calls, ref)
		k.sent = true // if it is still in the queue, it is not to be sent
		c.mu.Unlock()
	}()
	select {
	case a := <-k.answer:
		return a.frame, a.err
	case <-c.done:
		return wire.ServerFrame{}, c.err
	case <-ctx.Done():
		return wire.ServerFrame{}, ctx.Err()
	}
}

// answer gives a frame to the call that waits for it, if there is one.
func (c *Client) answer(f *wire.ServerFrame) bool {
	ref := refOf(f)
	k := c.calls[ref]
	if k == nil {
		return false
	}
	delete(c.calls, ref)
	a := answer{frame: *f}
	if f.Type == wire.Error {
		a.err = &pgcast.Error{Code: f.Code, Message: f.Message, RetryAfter: time.Duration(f.RetryAfter) * time.Millisecond}
	}
	k.answer <- a
	return true
}

// outgoing is a frame on its way to the writer.
type outgoing struct {
	text  []byte
	call  *call         // nil if nobody waits
	fresh func() []byte // instead of text: gives it when it is sent, nil for nothing; mu is held
}

func (c *Client) enqueue(f *wire.Frame, k *call) {
	c.queue = append(c.queue, outgoing{text: wire.AppendFrame(nil, f), call: k})
	signal(c.wake)
}

// writeTimeout bounds one write: a server that reads nothing for so long is gone.
const writeTimeout = 30 * time.Second

// write sends what is queued until the connection ends.
func (c *Client) write(ctx context.Context, conn *websocket.Conn) {
	for {
		c.mu.Lock()
		var next outgoing
		if len(c.queue) > 0 {
			next, c.queue = c.queue[0], c.queue[1:]
			if next.fresh != nil {
				next.text = next.fresh()
			}
			if k := next.call; k != nil {
				if k.sent {
					next.text = nil // its caller has given up
				}
				k.sent = true
			}
		} else {
			c.queue = nil
		}
		idle := c.queue == nil
		c.mu.Unlock()
		switch {
		case next.text != nil:
			ctx, cancel := context.WithTimeout(ctx, writeTimeout)
			err := conn.Write(ctx, websocket.MessageText, next.text)
			cancel()
			if err != nil {
				return // the reader learns of it: a failed write closes the connection
			}
		case idle:
			select {
			case <-c.wake:
			case <-ctx.Done():
				return
			}
		}
	}
}

// connected begins a connection: everything the server has to know again is queued.
func (c *Client) connected(conn *websocket.Conn, token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	c.stats.Connects++
	select {
	case <-c.expiring: // that was the token of the connection before
	default:
	}
	c.enqueue(&wire.Frame{Type: wire.Hello, Caps: []string{wire.CapBatch, wire.CapReset}, Token: token, User: c.opts.User}, nil)
	c.askAll()
	for _, l := range c.lives {
		l.ask()
	}
	for _, k := range c.calls {
		c.enqueue(&k.frame, k)
	}
}

// disconnected ends a connection. Calls that can wait for the next one do.
func (c *Client) disconnected(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.queue = nil, nil
	for _, k := range c.cursors {
		k.waiting = false
	}
	for _, s := range c.subs {
		s.ref, s.endRef, s.beginRef, s.live, s.resetting, s.heals = 0, 0, 0, false, false, 0
		if s.ending && !(s.known && c.shared(s) && c.heir("") != nil) {
			c.ended(s)
		}
	}
	tooLarge := websocket.CloseStatus(err) == websocket.StatusMessageTooBig
	for ref, k := range c.calls {
		if k.sent && (tooLarge || !k.again) {
			a := answer{err: ErrUncertain}
			if tooLarge {
				// One of those that were sent; trying again would only end the next connection.
				a.err = &pgcast.Error{Code: pgcast.CodeTooLarge, Message: "the server closed the connection over a frame that is too large"}
			}
			delete(c.calls, ref)
			k.answer <- a
		}
		k.sent = false
	}
}

func (c *Client) newRef() int64 {
	c.lastRef++
	return c.lastRef
}

func refText(ref int64) json.RawMessage { return strconv.AppendInt(nil, ref, 10) }

// refOf gives the ref of a server's frame, 0 if it is none of ours.
func refOf(f *wire.ServerFrame) int64 {
	ref, err := strconv.ParseInt(string(f.Ref), 10, 64)
	if err != nil {
		return 0
	}
	return ref
}
