package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence"
)

// What a socket may cost that has yet to say whose it is.
const (
	signInWithin   = 5 * time.Second
	maxSignIn      = 4 << 10 // bytes of the frame that says it
	signInBytes    = maxSignIn + 1024
	waitingAddress = 256  // such sockets of one address
	waitingAll     = 4096 // and of all
)

var (
	errUnknown = closeError{wire.CloseUnauthenticated, "who are you? The first frame must be a hello with a token"}
	errFlood   = errors.New("more comes than a hello takes")

	errManyWaiting = &pgcast.Error{Code: pgcast.CodeRateLimited, Message: "too many connections have yet to say whose they are",
		Hint: "send a token with the handshake", RetryAfter: time.Second}
)

// wait notes a socket that has yet to say whose it is, or that will be told that it may not
// connect.
func (g *Gateway) wait(c *client, address string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting[""] >= waitingAll || g.waiting[address] >= waitingAddress {
		return errManyWaiting
	}
	g.waiting[""]++
	g.waiting[address]++
	c.waits = address
	return nil
}

// unwait notes that it has, or has gone; mu is held.
func (g *Gateway) unwait(c *client) {
	if c.waits == "" {
		return
	}
	g.waiting[""]--
	if g.waiting[c.waits]--; g.waiting[c.waits] == 0 {
		delete(g.waiting, c.waits)
	}
	c.waits = ""
}

// signIn reads the frame that says whose the session is, and nothing else before.
func (c *client) signIn() (wire.Frame, error) {
	timer := time.AfterFunc(c.g.signIn, func() { c.g.end(connected{c, c.session}, errUnknown) })
	defer timer.Stop()
	c.conn.allowance = signInBytes + 1
	f, size, err := c.readHello()
	c.conn.allowance = 0
	if err != nil {
		return f, err
	}
	if !timer.Stop() {
		return f, errUnknown // it came too late
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	since, checks := c.g.revocations(), c.g.rechecks()
	var claims *auth.Claims
	err = apart(func() (err error) {
		if claims, err = c.verify(ctx, f.Token); err == nil {
			err = c.limitSubject(ctx, claims)
		}
		if err == nil {
			err = c.g.allow(ctx, claims, auth.Connect, "")
		}
		if err == nil {
			err = c.g.belong(c, claims)
		}
		return err
	})
	if err != nil {
		c.refuse(size)
		if closing := refusal(err); closing != nil {
			return f, closing
		}
		return f, closeError{int(websocket.StatusTryAgainLater), "it cannot be told who you are right now; try again"}
	}
	c.take(claims)
	c.g.settle(c, c.session, since)
	if c.rights != nil && c.g.rechecks() != checks {
		c.g.doubt(c.rights)
	}
	c.g.mu.Lock()
	c.g.unwait(c)
	c.g.mu.Unlock()
	return f, nil
}

func (c *client) readHello() (f wire.Frame, size int, err error) {
	kind, r, err := c.ws.Reader(context.Background())
	if err == nil {
		c.message = r
		var text []byte
		if text, err = io.ReadAll(io.LimitReader(r, maxSignIn+1)); err == nil && kind == websocket.MessageText && len(text) <= maxSignIn {
			size = len(text)
			if f, err = wire.Parse(text); err == nil && f.Type == wire.Hello && f.Token != "" {
				return f, size, nil
			}
			err = errUnknown
		} else if err == nil {
			err = errUnknown
		}
	}
	var closed websocket.CloseError
	if errors.As(err, &closed) {
		return f, size, err // it went by itself
	}
	return f, size, errUnknown
}

// greetBack answers the hello that said whose the session is.
func (c *client) greetBack(f wire.Frame) {
	c.session.Send(authenticated(f.Ref, c.claims.Load()))
	f.Token = ""
	c.hello(f)
}

// identity is who the session is to others. Of a subject that has shown a token it is what
// that says; anybody else may say what is shown of him, but not that he is somebody.
func (c *client) identity(session string, said json.RawMessage) presence.User {
	of, claims := c.g.opts.Live.Identity, c.claims.Load()
	switch {
	case c.g.opts.Access == nil:
		return of.Of(nil, said, publicKey(session))
	case subjectOf(claims) != "":
		return of.Of(claims.Raw, nil, publicKey(session))
	}
	var all map[string]json.RawMessage
	if said != nil && json.Unmarshal(said, &all) == nil {
		for _, name := range []string{"id", "sub", of.Key} {
			delete(all, name)
		}
		said, _ = json.Marshal(all) // what was read as JSON always can be
	}
	return of.Of(nil, said, publicKey(session))
}
