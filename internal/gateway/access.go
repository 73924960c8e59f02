package gateway

import (
	"context"
	"time"

	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
)

// Authenticator tells who shows a credential.
type Authenticator interface {
	// Authenticate verifies a token or an API key. Errors are *[pgcast.Error] with code
	// unauthenticated, for what is not valid, or unavailable.
	Authenticate(ctx context.Context, credential string) (*auth.Claims, error)
}

// Authorizer decides what callers may do.
type Authorizer interface {
	// Decide gives for each ask nil, [auth.ErrForbidden], or an error with code unavailable,
	// which allows nothing either; for [auth.Connect] also one with code unauthenticated, where
	// the claims are no longer what was shown.
	Decide(ctx context.Context, claims *auth.Claims, asks []auth.Ask) []error
}

// Tickets stand for a caller's claims once, for a short while.
type Tickets interface {
	// Issue gives a new ticket.
	Issue(ctx context.Context, claims *auth.Claims) (ticket string, err error)
	// Redeem gives the claims of a ticket, which is then used up. The error has code
	// unauthenticated where there is no such ticket.
	Redeem(ctx context.Context, ticket string) (*auth.Claims, error)
}

// Access says who may do what.
type Access struct {
	Authenticator Authenticator
	Authorizer    Authorizer
	Tickets       Tickets
	// TicketTTL is for how long a ticket can be used, as callers are told; default 30 s.
	TicketTTL time.Duration
	// Anonymous are the claims of those who show nothing; nil: they are not let in.
	Anonymous *auth.Claims
	// Cookie is the name of the app's cookie that holds a token, for the preflight of
	// browsers; empty: there is none.
	Cookie string
	// DecisionTTL is for how long a session goes on as it was while what it is doing cannot be
	// decided on anew; default 30 s.
	DecisionTTL time.Duration
	// Revoked tells whether claims that were verified do not count any more, in a session by
	// the key that others may know it by; nil: it is never asked.
	Revoked func(claims *auth.Claims, session string) bool
	// Lens gives how a topic's, or a pattern's, rows are shown to a caller; nil, or giving
	// nil: as they are.
	Lens func(claims *auth.Claims, topic string) fanout.Lens
}

// allow tells why claims do not allow something, or returns nil.
func (g *Gateway) allow(ctx context.Context, claims *auth.Claims, verb auth.Verb, topic string) error {
	if g.opts.Access == nil {
		return nil
	}
	return g.allowEach(ctx, claims, []auth.Ask{{Verb: verb, Topic: topic}})[0]
}

// allowEach decides on several asks at once.
func (g *Gateway) allowEach(ctx context.Context, claims *auth.Claims, asks []auth.Ask) []error {
	if g.opts.Access == nil || len(asks) == 0 || claims == auth.Operators {
		return make([]error, len(asks))
	}
	return g.opts.Access.Authorizer.Decide(ctx, claims, asks)
}

// allow tells why the client may not do something, or returns nil.
func (c *client) allow(ctx context.Context, verb auth.Verb, topic string) error {
	return c.g.allow(ctx, c.claims.Load(), verb, topic)
}

// lens gives how a topic or pattern is shown to a caller.
func (g *Gateway) lens(claims *auth.Claims, topic string) fanout.Lens {
	if g.opts.Access == nil || g.opts.Access.Lens == nil || claims == auth.Operators {
		return nil
	}
	return g.opts.Access.Lens(claims, topic)
}
