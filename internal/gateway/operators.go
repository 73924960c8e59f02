package gateway

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
)

// operators is the door of those who run the server.
type operators struct {
	// shown tells whether a token is theirs; nil: none is needed.
	shown func(token string) bool
}

var errNotOperator = &pgcast.Error{Code: pgcast.CodeUnauthenticated, Message: "this is not the admin token", Hint: "the one that the server was started with, as admin-token"}

// Operators serves, over WebSocket, the sessions of those who run the server: no rule is asked
// about them, no limit is theirs, they see rows as they are, and count for no user. They show
// a token as all sessions may (Authorization, a subprotocol, the first hello) that shown
// knows; where shown is nil they need none, so the handler is only for a listener that nobody
// else can reach. Of web pages only those of the request's own host may connect, whatever
// Options.Origins has.
func (g *Gateway) Operators(shown func(token string) bool) http.Handler {
	op := &operators{shown}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ownPage(r) {
			g.metrics.refused.Inc()
			g.refuse(w, &pgcast.Error{Code: pgcast.CodeForbidden, Message: "pages of other origins may not connect",
				Hint: "open the console at the address of the admin listener"})
			return
		}
		a, err := op.identify(r)
		g.upgrade(w, a.of(r), a, err, op)
	})
}

// ownPage tells whether a request comes from a page of its own host, or from no page.
func ownPage(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// identify tells who makes a handshake: an operator, or nobody yet.
func (op *operators) identify(r *http.Request) (a asking, err error) {
	if op.shown == nil {
		a.claims = auth.Operators
		return a, nil
	}
	token, err := bearer(r)
	if err == nil && token == "" {
		token, err = offeredToken(r)
	}
	if err == nil && token != "" {
		a.claims, err = op.verify(token)
	}
	return a, err
}

func (op *operators) verify(token string) (*auth.Claims, error) {
	if op.shown != nil && !op.shown(token) {
		return nil, errNotOperator
	}
	return auth.Operators, nil
}

// verify tells who shows a token in a session.
func (c *client) verify(ctx context.Context, token string) (*auth.Claims, error) {
	if c.operators != nil {
		return c.operators.verify(token)
	}
	return c.g.verify(ctx, token)
}

// origins are the pages that the websocket library lets in, beside those of the own host.
func (c *client) origins() []string {
	if c.operators != nil {
		return nil
	}
	return c.g.opts.Origins
}
