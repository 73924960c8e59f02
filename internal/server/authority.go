package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/breaker"
	"github.com/pgcast/pgcast/internal/gateway"
	"github.com/pgcast/pgcast/replay"
)

// authority is what says who may do what, where there is access control.
type authority struct {
	opts        AccessOptions
	store       accessStore
	chain       *auth.Chain
	authorizer  *auth.Authorizer
	revocations *auth.Revocations
	anonymous   *auth.Claims
	watch       *accessWatch
	security    *security
}

// accessConns are the connections kept for access, beside those of everything else: who asks
// for something has one of those already, maybe, and strangers must not take them up. Three
// are for deciding, two for looking up API keys, two for redeeming tickets, and one for what
// the watch and orders do.
const accessConns = 8

var (
	_ gateway.Authenticator = (*authority)(nil)
	_ gateway.Tickets       = (*authority)(nil)
)

func (s *Server) newAuthority(broken *breaker.Breaker) (*authority, error) {
	o := s.opts.Access
	setDefault(&o.Timeout, time.Second)
	setDefault(&o.DecisionTTL, 30*time.Second)
	setDefault(&o.TicketTTL, 30*time.Second)
	a := &authority{opts: o, security: s.security, revocations: new(auth.Revocations),
		store: accessStore{replay.NewAccess(s.pool, &replay.AccessOptions{Role: o.Role, Timeout: o.Timeout}), broken}}
	var err error
	if a.chain, err = newAuthenticator(&o, a.store, s.registry, s.opts.Logger); err != nil {
		return nil, err
	}
	if o.Anonymous != nil {
		if a.anonymous, err = anonymous(o.Anonymous); err != nil {
			return nil, err
		}
	}
	// Long enough for some that take all the time they may.
	a.authorizer = auth.NewAuthorizer(a.store, &auth.AuthorizerOptions{TTL: o.DecisionTTL, Decisions: o.Decisions, Timeout: 4 * o.Timeout,
		Revocations: a.revocations, Keys: a.chain.Keys, Registerer: s.registry})
	a.authorizer.Halt(true) // until the watch has begun
	a.watch = &accessWatch{authority: a, hub: s.hub, every: o.DecisionTTL, logger: s.opts.Logger}
	return a, nil
}

// anonymous makes the claims of those who show nothing.
func anonymous(raw json.RawMessage) (*auth.Claims, error) {
	c, err := auth.NewClaims(auth.Anonymous, raw)
	if err != nil {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "anonymous: " + err.Error(), Hint: `write an object, as {"role":"anonymous"}`}
	}
	var known struct {
		Sub string `json:"sub"`
	}
	if err := json.Unmarshal(raw, &known); err != nil {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "anonymous: sub is not a text"}
	}
	c.Subject = known.Sub
	return c, nil
}

// run keeps what is known up to date until ctx ends.
func (a *authority) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.chain.Run(ctx) })
	g.Go(func() error { return a.watch.run(ctx) })
	return g.Wait()
}

// gateway gives what the gateway goes by.
func (a *authority) gateway() *gateway.Access {
	return &gateway.Access{Authenticator: a, Authorizer: a.authorizer, Tickets: a, Anonymous: a.anonymous, Revoked: a.revocations.Revoked, Cookie: a.opts.Cookie,
		TicketTTL: a.opts.TicketTTL, DecisionTTL: a.opts.DecisionTTL, Lens: a.security.lens}
}

var (
	errNotYet = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "who may do what is not known here yet",
		Hint: "try again in a moment", RetryAfter: time.Second}
	errRevoked = &pgcast.Error{Code: pgcast.CodeUnauthenticated, Message: "the token has been revoked", Hint: "sign in again"}
)

// Authenticate implements [gateway.Authenticator].
func (a *authority) Authenticate(ctx context.Context, credential string) (*auth.Claims, error) {
	if a.authorizer.Halted() {
		return nil, errNotYet
	}
	claims, err := a.chain.Authenticate(ctx, credential)
	if err != nil {
		return nil, err
	}
	if a.revocations.Revoked(claims, "") {
		return nil, errRevoked
	}
	return claims, nil
}

// Issue implements [gateway.Tickets].
func (a *authority) Issue(ctx context.Context, claims *auth.Claims) (string, error) {
	text, err := claims.Stored()
	if err != nil {
		return "", err
	}
	ttl := a.opts.TicketTTL
	if !claims.Expires.IsZero() {
		ttl = min(ttl, time.Until(claims.Expires))
	}
	ticket := rand.Text()
	return ticket, a.store.IssueTicket(ctx, ticket, text, ttl)
}

const maxTicket = 64 // bytes

// Redeem implements [gateway.Tickets].
func (a *authority) Redeem(ctx context.Context, ticket string) (*auth.Claims, error) {
	if a.authorizer.Halted() {
		return nil, errNotYet
	}
	if ticket == "" || len(ticket) > maxTicket {
		return nil, auth.ErrTicket
	}
	text, err := a.store.RedeemTicket(ctx, ticket)
	if err != nil {
		return nil, err
	}
	claims, err := auth.Restore(text)
	switch {
	case err != nil:
		return nil, err
	case claims.Expired(time.Now()):
		return nil, auth.ErrTicket
	case a.revocations.Revoked(claims, ""):
		return nil, errRevoked
	}
	return claims, nil
}

// accessStore asks the database for the authorizer and for the keys.
type accessStore struct {
	*replay.Access
	breaker *breaker.Breaker
}

var (
	_ auth.Store    = accessStore{}
	_ auth.KeyStore = accessStore{}
)

// Decide implements [auth.Store].
func (s accessStore) Decide(ctx context.Context, questions []auth.Question) (allowed []bool, errs []error) {
	if s.breaker.State() != breaker.Healthy {
		errs = make([]error, len(questions))
		for i := range errs {
			errs[i] = errBroken
		}
		return make([]bool, len(questions)), errs
	}
	var claims []json.RawMessage
	places := map[string]int{} // by hash
	list := make([]replay.Question, len(questions))
	for i, q := range questions {
		who, known := places[q.Claims.Hash()]
		if !known {
			who = len(claims)
			places[q.Claims.Hash()] = who
			claims = append(claims, q.Claims.Decided())
		}
		list[i] = replay.Question{Who: who, Verb: string(q.Verb), Topic: q.Topic}
	}
	return s.Access.Decide(ctx, claims, list)
}

// Key implements [auth.KeyStore].
func (s accessStore) Key(ctx context.Context, id string) (auth.KeyRecord, error) {
	if s.breaker.State() != breaker.Healthy {
		return auth.KeyRecord{}, errBroken
	}
	k, err := s.Access.Key(ctx, id)
	if err != nil {
		return auth.KeyRecord{}, err
	}
	scope, err := auth.ParseScope(k.Verbs, k.Topics)
	if err != nil {
		return auth.KeyRecord{}, errors.Join(&pgcast.Error{Code: pgcast.CodeNotFound, Message: "the API key is for what is no topic"}, err)
	}
	return auth.KeyRecord{Name: k.Name, Hash: k.Hash, Claims: k.Claims, Scopes: []auth.Scope{scope}, Expires: k.Expires, Revoked: k.Revoked}, nil
}

// KeyUsed implements [auth.KeyStore].
func (s accessStore) KeyUsed(ctx context.Context, id string) error { return s.Used(ctx, id) }
