package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgcast/pgcast/internal/wire"
)

// tokens gives a new token each time, and counts them.
type tokens struct{ n atomic.Int64 }

func (k *tokens) next(context.Context) (string, error) { return fmt.Sprint("t", k.n.Add(1)), nil }

// meet waits for the client to connect and show a token; it is taken.
func (p *peer) meet(token string) *peerConn {
	p.t.Helper()
	c := p.greeted(token)
	c.send(`{"type":"welcome","sessionId":"s"}`)
	return c
}

func (p *peer) greeted(token string) *peerConn {
	p.t.Helper()
	c := <-p.conns
	p.open = append(p.open, c)
	c.want(`{"type":"hello","caps":["batch","reset"],"token":"` + token + `"}`)
	return c
}

// A client is asked for a token before each connection.
func TestTokenForEachConnection(t *testing.T) {
	var k tokens
	run(t, &Options{Token: k.next}, func(t *testing.T, c *Client, p *peer) {
		p.meet("t1").end()
		p.meet("t2").end()
		p.meet("t3")
	})
	run(t, &Options{Token: StaticToken("pgk_1_x")}, func(t *testing.T, c *Client, p *peer) {
		p.meet("pgk_1_x").end()
		p.meet("pgk_1_x")
	})
}

// Told that its token expires, it shows a new one on the same connection.
func TestTokenIsRenewed(t *testing.T) {
	var k tokens
	run(t, &Options{Token: k.next}, func(t *testing.T, c *Client, p *peer) {
		conn := p.meet("t1")
		for i := 2; i < 5; i++ {
			conn.send(`{"type":"token-expiring","expiresIn":30000}`)
			conn.want(fmt.Sprintf(`{"type":"auth","ref":%d,"token":"t%d"}`, i-1, i))
			conn.send(fmt.Sprintf(`{"type":"authenticated","ref":%d,"expiresIn":60000}`, i-1))
		}
		// What the server refuses is tried again, with another.
		conn.send(`{"type":"token-expiring","expiresIn":30000}`)
		conn.want(`{"type":"auth","ref":4,"token":"t5"}`)
		conn.send(`{"type":"error","ref":4,"code":"unavailable","message":"later"}`)
		conn.want(`{"type":"auth","ref":5,"token":"t6"}`)
		conn.send(`{"type":"authenticated","ref":5}`)
		synctest.Wait()
		if n := c.Stats().Connects; n != 1 {
			t.Errorf("it has connected %d times", n)
		}
	})
}

// A token of which another connection was told is not renewed.
func TestTokenIsNotRenewedForNothing(t *testing.T) {
	var k tokens
	run(t, &Options{Token: k.next}, func(t *testing.T, c *Client, p *peer) {
		conn := p.meet("t1")
		conn.send(`{"type":"token-expiring","expiresIn":30000}`)
		conn.want(`{"type":"auth","ref":1,"token":"t2"}`)
		conn.end()
		conn = p.meet("t3")
		next := make(chan error, 1)
		go func() {
			_, err := c.History(t.Context(), "a", 0, 1)
			next <- err
		}()
		conn.want(`{"type":"history","ref":2,"topic":"a","after":0,"limit":1}`)
		conn.send(`{"type":"history","ref":2,"topic":"a","events":[],"tail":1,"head":0}`)
		if err := <-next; err != nil {
			t.Error(err)
		}
	})
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept() // without a token there is none to renew
		conn.send(`{"type":"token-expiring","expiresIn":30000}`, `{"type":"welcome","sessionId":"s"}`)
		conn.end()
		p.accept()
	})
}

// When its token has expired it comes back at once with a new one, and goes on.
func TestTokenHasExpired(t *testing.T) {
	var k tokens
	run(t, &Options{Token: k.next, MinBackoff: time.Hour, MaxBackoff: time.Hour}, func(t *testing.T, c *Client, p *peer) {
		if err := c.Subscribe("a", &From{After: 4}); err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			at := time.Now()
			conn := p.meet(fmt.Sprint("t", i+1))
			if waited := time.Since(at); waited > time.Second {
				t.Errorf("it comes back after %s", waited)
			}
			conn.want(fmt.Sprintf(`{"type":"subscribe-batch","ref":%d,"topics":[{"topic":"a","after":4}]}`, i+1))
			conn.quit(wire.CloseUnauthenticated, wire.ReasonExpired+": come back with a new one, and resume")
		}
	})
}

// What else the server has against it is final, and so is a new token that has expired again
// and again.
func TestTokenIsRefused(t *testing.T) {
	var k tokens
	ends := func(t *testing.T, c *Client, code int) {
		t.Helper()
		_, err := c.Next(t.Context())
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Code != code {
			t.Errorf("it ends with %v", err)
		}
	}
	for reason, code := range map[string]int{"the token has been revoked": wire.CloseUnauthenticated, "this is not allowed": wire.CloseForbidden,
		"who are you?": wire.CloseUnauthenticated} {
		run(t, &Options{Token: k.next}, func(t *testing.T, c *Client, p *peer) {
			conn := p.greeted(fmt.Sprint("t", k.n.Load()+1))
			conn.quit(code, reason)
			ends(t, c, code)
		})
	}
	run(t, &Options{Token: StaticToken("old"), MinBackoff: time.Second, MaxBackoff: time.Second}, func(t *testing.T, c *Client, p *peer) {
		for range maxLapses + 1 {
			p.greeted("old").quit(wire.CloseUnauthenticated, wire.ReasonExpired)
		}
		ends(t, c, wire.CloseUnauthenticated)
	})
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		p.accept().quit(wire.CloseUnauthenticated, wire.ReasonExpired)
		ends(t, c, wire.CloseUnauthenticated)
	})
}

// A handshake that is refused because the token has expired is tried again with a new one.
func TestTokenHasExpiredInHandshake(t *testing.T) {
	var k, refusals tokens
	long := strings.Repeat("x", maxHelloToken+1)
	refuse := func(w http.ResponseWriter) bool {
		if refusals.n.Add(1) > 2 {
			return false
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":{"code":"unauthenticated","message":"the token has expired"}}`))
		return true
	}
	give := func(ctx context.Context) (string, error) {
		_, _ = k.next(ctx)
		return long, nil
	}
	runRefusing(t, &Options{Token: give}, refuse, func(t *testing.T, c *Client, p *peer) {
		p.accept() // the token is too long for the hello
		if n := k.n.Load(); n != 3 {
			t.Errorf("it was asked for %d tokens", n)
		}
	})
	always := func(w http.ResponseWriter) bool {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":{"code":"unauthenticated","message":"the API key is not valid"}}`))
		return true
	}
	runRefusing(t, &Options{Token: give}, always, func(t *testing.T, c *Client, p *peer) {
		_, err := c.Next(t.Context())
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Code != http.StatusUnauthorized || refused.Reason != "the API key is not valid" {
			t.Errorf("it ends with %v", err)
		}
	})
}

// While there is no token to be had the client waits, and it ends when the app says that
// there will be none.
func TestTokenIsNotToBeHad(t *testing.T) {
	var n atomic.Int64
	give := func(context.Context) (string, error) {
		switch n.Add(1) {
		case 1, 2, 3:
			return "", errors.New("the identity provider does not answer")
		case 4:
			return "t", nil
		}
		return "", &RefusedError{http.StatusUnauthorized, "signed out"}
	}
	run(t, &Options{Token: give}, func(t *testing.T, c *Client, p *peer) {
		p.meet("t").end()
		_, err := c.Next(t.Context())
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Reason != "signed out" {
			t.Errorf("it ends with %v", err)
		}
	})
}
