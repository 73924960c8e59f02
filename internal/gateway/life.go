package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
)

// warnBefore is when a client is told that its token expires, or a quarter of its life before
// if that is later.
const warnBefore = 30 * time.Second

// authEvery is how often a client may say who it is; more often it is read more slowly.
const authEvery = time.Second

// Why a session that had begun ends.
var (
	errExpired = closeError{wire.CloseUnauthenticated, "the token has expired: come back with a new one, and resume"}
	errRevoked = closeError{wire.CloseUnauthenticated, "the token has been revoked"}

	errEndedToken = &pgcast.Error{Code: pgcast.CodeUnauthenticated, Message: "the token has expired or was revoked", Hint: "come back with a new one"}
	errOtherUser  = &pgcast.Error{Code: pgcast.CodeForbidden, Message: "the token is another subject's", Hint: "connect anew to be somebody else"}
)

// expired tells whether claims have lost their force.
func expired(claims *auth.Claims) bool {
	return claims != nil && !claims.Expires.IsZero() && claims.Expired(time.Now())
}

// subjectOf gives who it is that claims are of, if they say so of one caller only.
func subjectOf(claims *auth.Claims) string {
	if claims == nil || claims.Source == auth.Anonymous {
		return ""
	}
	return claims.Subject
}

// lease ends a session with its claims.
type lease struct {
	warning, end *time.Timer
	asked        time.Time // when the client last said who it is
}

// take makes claims those of the session from now on.
func (c *client) take(claims *auth.Claims) {
	c.named()
	c.claims.Store(claims)
	if claims.Expires.IsZero() || c.g.opts.Access == nil {
		c.endLease()
		return
	}
	left, session := time.Until(claims.Expires), c.session
	c.endLease()
	if c.lease == nil {
		c.lease = &lease{}
	}
	c.lease.warning = time.AfterFunc(left-min(warnBefore, left/4), func() {
		if c.claims.Load() == claims {
			session.Send(wire.AppendTokenExpiring(nil, max(0, time.Until(claims.Expires).Milliseconds())))
		}
	})
	c.lease.end = time.AfterFunc(left, func() {
		if c.claims.Load() == claims {
			c.g.end(connected{c, session}, errExpired)
		}
	})
}

func (c *client) endLease() {
	if c.lease != nil && c.lease.end != nil {
		c.lease.warning.Stop()
		c.lease.end.Stop()
	}
}

// named notes by what others may know the session.
func (c *client) named() {
	if c.g.opts.Access != nil {
		key := publicKey(c.id)
		c.public.Store(&key)
	}
}

func (c *client) whose() (*auth.Claims, string) {
	if key := c.public.Load(); key != nil {
		return c.claims.Load(), *key
	}
	return c.claims.Load(), ""
}

// end closes a session with a reason that its client is told, whether or not it reads what
// else it is sent.
func (g *Gateway) end(c connected, reason error) {
	c.session.End(reason)
	time.AfterFunc(g.closeWait, c.cut)
}

// expire ends a session with its claims; what it gives back is to be called when that has
// ended otherwise.
func (g *Gateway) expire(t transport, session *fanout.Session) (stop func()) {
	claims, _ := t.whose()
	if claims == nil || claims.Expires.IsZero() {
		return func() {}
	}
	timer := time.AfterFunc(time.Until(claims.Expires), func() { g.end(connected{t, session}, errExpired) })
	return func() { timer.Stop() }
}

// authenticate answers a token, in an auth frame or a hello: the session goes on as whose it
// is, if that is the subject it has already or it has none.
func (c *client) authenticate(ctx context.Context, f wire.Frame, bytes int) {
	if c.g.opts.Access == nil || c.operators != nil { // who has come in has shown all there is to show
		if f.Type == wire.Auth { // in a hello it is passed over
			c.session.Send(wire.AppendAuthenticated(nil, f.Ref, -1))
		}
		return
	}
	if c.lease == nil {
		c.lease = &lease{}
	}
	if now := time.Now(); now.Sub(c.lease.asked) < authEvery {
		c.refuse(bytes)
	} else {
		c.lease.asked = now
	}
	old := c.claims.Load()
	if err := c.renew(ctx, f.Token); err != nil {
		c.refuse(bytes)
		c.fail(f.Ref, err)
		return
	}
	if c.seesOtherwise(old) {
		c.session.End(fanout.ErrResume) // what it is being sent is seen as with the old claims
		return
	}
	c.session.Send(authenticated(f.Ref, c.claims.Load()))
	c.recheck(ctx)
}

// seesOtherwise tells whether the client has subscriptions in which other rows are seen now
// than with the claims it had.
func (c *client) seesOtherwise(old *auth.Claims) bool {
	now := c.claims.Load()
	otherwise := func(topic string) bool {
		was, is := c.g.lens(old, topic), c.g.lens(now, topic)
		return was != nil && is != nil && was.Key() != is.Key()
	}
	for topic := range c.names {
		if otherwise(topic) {
			return true
		}
	}
	for name, s := range c.live.seats {
		if s.own && otherwise(pgcast.GroupTopic(name)) {
			return true
		}
	}
	return false
}

// renew takes a token in the place of what the session has shown before.
func (c *client) renew(ctx context.Context, token string) error {
	since, old := c.g.revocations(), c.claims.Load()
	claims, err := c.g.verify(ctx, token)
	if err != nil {
		return err
	}
	if old.Source != auth.Anonymous && (old.Source != claims.Source || old.Subject != claims.Subject) {
		return errOtherUser
	}
	if err := c.limitSubject(ctx, claims); err != nil {
		return err
	}
	if err := c.g.allow(ctx, claims, auth.Connect, ""); err != nil {
		return err
	}
	if err := c.g.belong(c, claims); err != nil {
		return err
	}
	c.take(claims)
	c.g.settle(c, c.session, since)
	c.knownAs(c.id, c.live.said)
	return nil
}

// authenticated is the answer to a token that is taken.
func authenticated(ref json.RawMessage, claims *auth.Claims) []byte {
	left := int64(-1)
	if !claims.Expires.IsZero() {
		left = max(0, time.Until(claims.Expires).Milliseconds())
	}
	return wire.AppendAuthenticated(nil, ref, left)
}

// refusal is how somebody who may not connect is told so on a connection that had to be made
// for that; nil where an answer to the handshake says it as well.
func refusal(err error) error {
	var e *pgcast.Error
	if !errors.As(err, &e) {
		return nil
	}
	text := e.Message
	if len(text) > 120 { // what fits into a close frame
		text = strings.ToValidUTF8(text[:120], "")
	}
	switch e.Code {
	case pgcast.CodeUnauthenticated:
		return closeError{wire.CloseUnauthenticated, text}
	case pgcast.CodeForbidden:
		return closeError{wire.CloseForbidden, text}
	case pgcast.CodeRateLimited:
		return closeError{wire.CloseThrottled, text}
	}
	return nil
}

// revocation ends the sessions of somebody.
type revocation struct {
	n     int64
	at    time.Time
	match func(*auth.Claims, string) bool
}

// revokedKept is for how long a revocation counts for those who were about to connect when it
// came. Handshakes take no longer.
const revokedKept = time.Minute

// Revoke ends all sessions that match, by their claims and by the key that others may know
// the session by, which is empty where it has none; those that are just being opened as well.
func (g *Gateway) Revoke(match func(claims *auth.Claims, session string) bool) {
	now := time.Now()
	g.mu.Lock()
	g.revokes++
	g.revoked = slices.DeleteFunc(g.revoked, func(r revocation) bool { return now.Sub(r.at) > revokedKept })
	g.revoked = append(g.revoked, revocation{g.revokes, now, match})
	g.mu.Unlock()
	for _, c := range g.all() {
		if claims, session := c.whose(); claims != nil && match(claims, session) {
			g.end(c, errRevoked)
		}
	}
}

// revokedAt tells whether claims, shown in a session, were revoked at some time.
func (g *Gateway) revokedAt(claims *auth.Claims, session string) bool {
	a := g.opts.Access
	return a != nil && a.Revoked != nil && claims != nil && a.Revoked(claims, session)
}

// revocations counts them.
func (g *Gateway) revocations() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.revokes
}

// settle ends a session, which Revoke knows by now, if it was revoked while it was being
// opened: after so many revocations its claims were verified.
func (g *Gateway) settle(t transport, session *fanout.Session, since int64) {
	g.mu.Lock()
	var missed []revocation
	if g.revokes > since {
		for _, r := range g.revoked {
			if r.n > since {
				missed = append(missed, r)
			}
		}
	}
	g.mu.Unlock()
	claims, key := t.whose()
	if claims != nil && slices.ContainsFunc(missed, func(r revocation) bool { return r.match(claims, key) }) {
		g.end(connected{t, session}, errRevoked)
	}
}
