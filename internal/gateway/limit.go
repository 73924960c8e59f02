package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// maxDenied is how many calls of a session in a row may be denied; then it is closed, to
// come back slowly. Moves of cursors do not count.
const maxDenied = 100

// addressOf is the key of a request's address.
func (g *Gateway) addressOf(r *http.Request) string {
	return ratelimit.AddressKey(ratelimit.Address(r.RemoteAddr, r.Header["X-Forwarded-For"], g.opts.TrustedProxies))
}

// limitRequest decides on a request of no session.
func (g *Gateway) limitRequest(r *http.Request, verb ratelimit.Verb, asks ...ratelimit.Ask) error {
	l := g.opts.Limits
	if l == nil || !l.Limits(verb) {
		return nil
	}
	return l.Allow(r.Context(), verb, ratelimit.Caller{IP: g.addressOf(r), Subject: subjectOf(askingOf(r).claims)}, asks...)
}

// limitStream decides on a stream: the connection, and all of its subscriptions together.
func (g *Gateway) limitStream(r *http.Request, marks []mark) error {
	if err := g.limitRequest(r, ratelimit.Connect, ratelimit.Ask{Cost: 1}); err != nil {
		return err
	}
	asks := make([]ratelimit.Ask, len(marks))
	for i, m := range marks {
		asks[i] = ratelimit.Ask{Topic: m.name, Cost: 1}
	}
	if err := g.limitRequest(r, ratelimit.Subscribe, asks...); err != nil {
		return err
	}
	asks = asks[:0]
	for _, m := range marks {
		if m.snapshot {
			asks = append(asks, ratelimit.Ask{Topic: m.name, Cost: snapshotCost})
		}
	}
	if len(asks) == 0 {
		return nil
	}
	return g.limitRequest(r, ratelimit.History, asks...)
}

// historyCost is what reading up to so many events costs.
func historyCost(limit int) int {
	if limit == 0 {
		limit = wire.DefaultHistory
	}
	return (min(limit, wire.MaxHistory) + wire.DefaultHistory - 1) / wire.DefaultHistory
}

// retryAfter is when to try again, in a header: in whole seconds.
func retryAfter(e *pgcast.Error) string {
	return strconv.FormatInt(max(1, int64((e.RetryAfter+time.Second-1)/time.Second)), 10)
}

// limited is a client's part in limits. Owned by its reader.
type limited struct {
	caller ratelimit.Caller
	denied int  // calls in a row
	still  bool // the newest move of a cursor was denied
}

// caller is who calls; of one session it stays the same, whatever the client says later, but
// for the subject of its token.
func (c *client) caller() ratelimit.Caller {
	if c.limited == nil {
		c.limited = &limited{caller: ratelimit.Caller{IP: ratelimit.AddressKey(ratelimit.Address(c.conn.RemoteAddr().String(), nil, nil))}}
	}
	if c.limited.caller.Session == "" {
		c.limited.caller.Session = publicKey(c.id)
	}
	c.limited.caller.Subject = subjectOf(c.claims.Load())
	return c.limited.caller
}

// limitSubject decides on a client that says, after its handshake, who it is: for the handshake
// its address was counted, and its subject was not.
func (c *client) limitSubject(ctx context.Context, claims *auth.Claims) error {
	l, subject := c.g.opts.Limits, subjectOf(claims)
	if l == nil || subject == "" || subject == subjectOf(c.claims.Load()) {
		return nil
	}
	return l.Allow(ctx, ratelimit.Connect, ratelimit.Caller{Subject: subject}, ratelimit.Ask{Cost: 1})
}

// known notes the address of a client that comes through a proxy.
func (c *client) known(r *http.Request) {
	if g := c.g; g.opts.Limits != nil && len(g.opts.TrustedProxies) > 0 {
		c.limited = &limited{caller: ratelimit.Caller{IP: g.addressOf(r)}}
	}
}

// limit decides on a call.
func (c *client) limit(ctx context.Context, verb ratelimit.Verb, topic string, cost int) error {
	l := c.g.opts.Limits
	if l == nil || !l.Limits(verb) || c.operators != nil {
		return nil
	}
	err := l.Allow(ctx, verb, c.caller(), ratelimit.Ask{Topic: topic, Cost: cost})
	if verb != ratelimit.Cursor {
		c.note(err)
	}
	return err
}

// note counts denials in a row.
func (c *client) note(err error) {
	if err == nil {
		c.limited.denied = 0
		return
	}
	c.refuse(0)
	if errors.Is(err, pgcast.ErrRateLimited) {
		c.limited.denied++
	}
}

// limitEach decides on subscriptions. It gives nil if all are allowed, else an error or nil
// for each.
func (c *client) limitEach(ctx context.Context, places []wire.Place) []error {
	l := c.g.opts.Limits
	if l == nil || !l.Limits(ratelimit.Subscribe) || c.operators != nil {
		return nil
	}
	asks := make([]ratelimit.Ask, len(places))
	for i, p := range places {
		asks[i] = ratelimit.Ask{Topic: p.Topic, Cost: 1}
	}
	errs := l.AllowEach(ctx, ratelimit.Subscribe, c.caller(), asks)
	if errs == nil || slices.Contains(errs, nil) {
		c.note(nil)
	} else {
		c.note(errs[0])
	}
	return errs
}

// turnAway answers a subscription that was denied.
func (c *client) turnAway(topic string, ref json.RawMessage, err error) {
	reason := wire.ReasonRateLimited
	if !errors.Is(err, pgcast.ErrRateLimited) {
		reason = wire.ReasonInternal
	}
	c.session.Deny(topic, ref, reason)
}

// longest gives the denial with the longest wait, or nil.
func longest(errs []error) (denial *pgcast.Error) {
	for _, err := range errs {
		var e *pgcast.Error
		if errors.As(err, &e) && (denial == nil || e.RetryAfter > denial.RetryAfter) {
			denial = e
		}
	}
	return denial
}

// mayMove decides on a move of a cursor. There are many, so only the first denied one in a
// row is answered, and those that ask for an answer.
func (c *client) mayMove(ctx context.Context, f wire.Frame) bool {
	if f.Op == wire.OpLeave {
		return true
	}
	err := c.limit(ctx, ratelimit.Cursor, f.Topic, 1)
	if c.limited == nil {
		return true
	}
	if err != nil {
		c.refuse(0)
		if f.Ref != nil || !c.limited.still {
			c.fail(f.Ref, err)
		}
	}
	c.limited.still = err != nil
	return err == nil
}
