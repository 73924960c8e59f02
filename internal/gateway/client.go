package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/filter"
	"github.com/pgcast/pgcast/internal/wire"
)

// client is one WebSocket connection: it reads frames and asks its session for what they
// want. Its goroutine is the only one that reads; the session's is the only one that
// writes data.
type client struct {
	g       *Gateway
	conn    *conn
	ws      *websocket.Conn
	session *fanout.Session
	system  system
	claims  atomic.Pointer[auth.Claims]     // nil until it is known who it is
	public  atomic.Pointer[string]          // what others may know id by, once it is known who it is
	waits   string                          // for who it is, from this address; guarded by the gateway's mu
	refusal error                           // why it may not connect
	shown   atomic.Pointer[json.RawMessage] // what others are shown of its user; nil: nothing
	// operators is the door that an operator came in by, nil for everybody else: nothing of
	// what he does is decided on, limited or seen through a lens.
	operators *operators

	// Told by the client, read by the session's goroutine.
	said, batch, reset, resumed atomic.Bool
	aliases                     atomic.Pointer[map[string]bool] // see renames

	state sync.Mutex // held while a frame is served, and while rights are decided on anew

	// Owned by run, and guarded by state.
	seen    map[string]pgcast.Seq     // by resume: where topics stood
	doubted bool                      // seen comes from another cluster or timeline
	bad     int32                     // frames; beside doubted it takes no room
	names   map[string]struct{}       // subscriptions asked for; the session may not have come to them
	filters map[string]*filter.Filter // of those that have one
	message io.Reader                 // the newest
	id      string                    // of the session; its owner's secret
	live    live
	rights  *rights       // nil where there is no access control
	judged  int           // rounds of rights when the frame at hand was decided on
	limited *limited      // nil until something is
	lease   *lease        // nil while nothing ends it
	refused int           // frames, and places of a subscribe-batch, in all
	debt    time.Duration // for which nothing is read, for what was refused
}

// freshMark in a session id says that there is no history to resume.
const freshMark = "fresh"

// sessionID names a session, and the cluster whose seqs its client will have seen.
func (g *Gateway) sessionID(own string, fresh bool) string {
	id := own + "." + g.opts.Identity()
	if fresh {
		id += "." + freshMark
	}
	return id
}

// run reads frames until the connection ends.
func (c *client) run() {
	defer c.g.forget(c)
	defer func() { _ = c.conn.Close() }()
	defer c.rights.close()
	defer c.endLease()
	err := c.refusal
	var hello wire.Frame
	if err == nil && c.claims.Load() == nil {
		hello, err = c.signIn()
	}
	if err == nil {
		c.begin(hello)
		defer func() {
			c.state.Lock()
			defer c.state.Unlock()
			c.endLive()
		}()
		err = c.read()
	}
	var ce closeError
	if !errors.As(err, &ce) {
		c.session.End(nil) // the peer or the connection has ended it; the library has answered
		return
	}
	c.session.End(err)
	// The close frame is on its way. Read on until the peer's comes: closing a connection
	// with something unread in it would take back what the peer has not read yet.
	c.readOn()
}

// begin welcomes the client, whoever it is by now.
func (c *client) begin(hello wire.Frame) {
	c.state.Lock()
	defer c.state.Unlock()
	c.knownAs(c.id, nil)
	c.session.Send(wire.AppendWelcome(nil, c.g.sessionID(c.id, false)))
	c.greet()
	if hello.Token != "" {
		c.greetBack(hello)
	}
}

func (c *client) read() error {
	limit := int64(c.g.opts.MaxFrame)
	for {
		c.conn.heard() // while this server was busy it could not hear
		kind, r, err := c.ws.Reader(context.Background())
		if err != nil {
			return err
		}
		c.message = r
		text, err := io.ReadAll(io.LimitReader(r, limit+1))
		switch {
		case err != nil:
			return err
		case int64(len(text)) > limit:
			return closeError{int(websocket.StatusMessageTooBig), fmt.Sprintf("a frame may have %d bytes", limit)}
		}
		err = apart(func() error {
			c.state.Lock()
			defer c.state.Unlock()
			return c.handle(kind, text)
		})
		if err != nil {
			return err
		}
		if c.debt > 0 {
			time.Sleep(min(c.debt, refusedMost))
			c.debt = 0
		}
	}
}

// refuse notes that a frame, or a part of one, of this many bytes came for nothing. Who sends
// that over and over is read more slowly: its connection fills up, and the sender waits
// instead of the other sessions.
func (c *client) refuse(bytes int) {
	if c.refused++; c.refused > refusedFree {
		c.debt += refusedPause * time.Duration(1+bytes>>10)
	}
}

// check pings a silent client, has one cut that does not answer, and keeps a quiet
// connection warm. What it writes it writes in goroutines of their own.
func (c *client) check(now time.Time) error {
	since := func(nanos int64) time.Duration { return now.Sub(time.Unix(0, nanos)) }
	heard, wrote, pinged := c.conn.lastHeard.Load(), c.conn.lastWrite.Load(), c.conn.lastPing.Load()
	switch interval := c.g.opts.PingInterval; {
	case pinged > heard && since(pinged) > min(pongWait, interval) && !c.conn.writing():
		return errSilent
	case pinged <= heard && since(heard) > interval:
		go c.conn.ping()
	case since(wrote) > c.g.heartbeat:
		go c.conn.beat(heartbeat)
	}
	return nil
}

// apart runs f in a goroutine of its own and waits for it. What a frame leads to, down to
// the database, takes a deep stack, and one that has grown does not shrink again under a
// reader that waits for the next frame: it would be half of what an idle session costs.
func apart(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return <-done
}

// handle does what a frame asks for. An error ends the session.
func (c *client) handle(kind websocket.MessageType, text []byte) error {
	switch {
	case kind != websocket.MessageText:
		c.refuse(len(text))
		c.fail(nil, &pgcast.Error{Code: pgcast.CodeUnsupported, Message: "binary frames are not supported", Hint: "send JSON text"})
		return nil
	case !utf8.Valid(text):
		return closeError{int(websocket.StatusInvalidFramePayloadData), "text frames must be UTF-8"}
	}
	f, err := wire.Parse(text)
	if err != nil {
		c.refuse(len(text))
		if c.bad++; c.bad > badFrames {
			return closeError{wire.ClosePolicy, "too many frames that cannot be read"}
		}
		c.fail(f.Ref, err)
		return nil
	}
	if expired(c.claims.Load()) {
		return errExpired
	}
	if c.serve(f, len(text)); c.limited != nil && c.limited.denied > maxDenied {
		return closeError{wire.CloseThrottled, "too many calls in a row that had to be denied"}
	}
	return nil
}

func (c *client) cut() { _ = c.conn.Conn.Close() }

// serve does what a frame of this many bytes asks for.
func (c *client) serve(f wire.Frame, bytes int) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	if (f.Type == wire.Cursor || f.Type == wire.CursorSnapshot) && !c.mayMove(ctx, f) {
		return
	}
	switch f.Type {
	case wire.Hello:
		if f.Token != "" {
			c.authenticate(ctx, f, bytes)
		}
		c.hello(f)
	case wire.Auth:
		c.authenticate(ctx, f, bytes)
	case wire.Resume:
		c.resume(f)
	case wire.Subscribe:
		c.subscribe(ctx, []wire.Place{{Topic: f.Topic, After: f.After, ID: f.ID, Snapshot: f.Snapshot, AsOf: f.AsOf, Filter: f.Filter}}, f.Ref)
	case wire.SubscribeBatch:
		c.subscribe(ctx, f.Topics, f.Ref)
	case wire.Unsubscribe:
		c.leave(f.Topic, f.Ref)
	case wire.Publish:
		c.publish(ctx, f)
	case wire.History:
		c.history(ctx, f)
	case wire.Replay:
		c.replay(ctx, f)
	case wire.Presence:
		c.presence(ctx, f)
	case wire.Cursor, wire.CursorSnapshot:
		c.cursor(ctx, f)
	case wire.Group:
		c.group(ctx, f)
	default:
		c.refuse(bytes)
		c.fail(f.Ref, &pgcast.Error{Code: pgcast.CodeUnsupported, Message: "this server does not serve frames of type " + quote(string(f.Type))})
	}
}

// leave ends a subscription, and what comes with it.
func (c *client) leave(topic string, ref json.RawMessage) {
	delete(c.names, topic)
	delete(c.filters, topic)
	c.unwatch(topic)
	c.depart(topic)
	c.unsubscribe(topic, ref)
	c.dismissGroup(topic)
	c.departGroup(topic)
}

func (c *client) hello(f wire.Frame) {
	c.said.Store(true)
	if f.User != nil {
		c.knownAs(c.id, f.User)
	}
	c.batch.Store(slices.Contains(f.Caps, wire.CapBatch))
	c.reset.Store(slices.Contains(f.Caps, wire.CapReset))
}

func (c *client) resume(f wire.Frame) {
	c.resumed.Store(true)
	c.seen, c.doubted = f.LastSeenSeqs, false
	// The id is own.identity or own.identity.fresh, and identity has one dot itself.
	own, rest, _ := strings.Cut(f.SessionID, ".")
	switch identity := c.g.opts.Identity(); {
	case rest == identity+"."+freshMark:
		c.seen = nil
	case rest != identity:
		c.doubted = true
	}
	c.session.Send(wire.AppendResumed(nil))
	if c.g.opts.Live.Presence != nil && len(own) == len(c.id) && len(c.live.joined)+len(c.live.seats) == 0 {
		// To others it is who it was, and stays it the next time.
		c.id = own
		c.named()
		if c.g.revokedAt(c.whose()) { // it comes back as the session that was
			c.g.end(connected{c, c.session}, errRevoked)
			return
		}
		c.knownAs(own, c.live.said)
		c.session.Send(wire.AppendWelcome(nil, c.g.sessionID(own, false)))
	}
}

// turnDown answers a frame with an error, and notes it if it was not allowed.
func (c *client) turnDown(ref json.RawMessage, err error) {
	if err == auth.ErrForbidden {
		c.refuse(0)
	}
	c.fail(ref, err)
}

// fail answers a frame with an error.
func (c *client) fail(ref json.RawMessage, err error) {
	e := c.g.explain(err)
	c.session.Send(wire.AppendError(nil, ref, e.Code, e.Error(), e.RetryAfter.Milliseconds()))
}

// explain makes of an error what a client may be told, and counts it. What is not the
// client's doing is logged, and told without its inner workings.
func (g *Gateway) explain(err error) *pgcast.Error {
	told := &pgcast.Error{Code: pgcast.CodeInternal, Message: "the server could not do this"}
	switch own, ok := err.(*pgcast.Error); {
	case ok:
		told = own // of the gateway itself
	case errors.Is(err, context.Canceled):
		// The client has gone, and will not be told anything.
		return &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "the request was broken off"}
	case errors.Is(err, pgcast.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		told = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "the log cannot be reached right now; try again"}
		g.opts.Logger.Warn("gateway: request failed", "error", err)
	case errors.As(err, &told):
	default:
		g.opts.Logger.Error("gateway: request failed", "error", err)
	}
	g.metrics.errors.WithLabelValues(string(told.Code)).Inc()
	return told
}

func quote(s string) string {
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	b, _ := json.Marshal(s) // a string always can be
	return string(b)
}
