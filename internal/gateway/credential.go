package gateway

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
)

// The subprotocols of a handshake: the one that is answered, and what is before a token in one
// that carries it, for browsers, which can set no other header.
const (
	subprotocol      = "pgcast"
	tokenSubprotocol = "pgcast.token."
)

// ticketParameter is the only credential that may stand in a URL, since it can be used once
// and not for long.
const ticketParameter = "ticket"

// maxTicket bounds a ticket before anybody is asked about it.
const maxTicket = 256

// asking is who makes a request.
type asking struct {
	claims *auth.Claims // nil: nobody knows, and he has yet to say so
	since  int64        // revocations when it was found out
	checks int64        // and rechecks
}

// askingKey is where a request's context has its asking.
type askingKey struct{}

// asker tells who makes a request of no session.
func (g *Gateway) asker(r *http.Request) (*auth.Claims, error) {
	if g.opts.Access == nil {
		return auth.Everybody, nil
	}
	if a := askingOf(r); a.claims != nil {
		return a.claims, nil
	}
	return nil, auth.ErrUnauthenticated
}

func askingOf(r *http.Request) asking {
	a, _ := r.Context().Value(askingKey{}).(asking)
	return a
}

func (a asking) of(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), askingKey{}, a))
}

// guarded serves a request of a page that may ask, once it is known who does.
func (g *Gateway) guarded(carriers carrier, serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !g.admitPage(w, r) {
			return
		}
		a, r, err := g.identify(w, r, carriers)
		if err == nil && a.claims == nil {
			err = auth.ErrUnauthenticated
		}
		if err == nil {
			err = g.allow(r.Context(), a.claims, auth.Connect, "")
		}
		if err != nil {
			g.metrics.refused.Inc()
			g.refuseStream(w, r, err) // if it is one that is asked for
			return
		}
		serve(w, a.of(r))
	}
}

// carrier is what a credential may come in, beside Authorization.
type carrier int

const (
	byTicket carrier = 1 << iota // in the query
	byCookie                     // a ticket's
	bySubprotocol
)

// identify finds out who makes a request: by what it shows, or else as nobody in particular
// where that is allowed. Claims are nil where nothing is shown and something has to be. The
// request it gives back has no ticket any more.
func (g *Gateway) identify(w http.ResponseWriter, r *http.Request, carriers carrier) (a asking, _ *http.Request, err error) {
	access := g.opts.Access
	ticket, r, err := cutTicket(r, access != nil || carriers&bySubprotocol == 0)
	if err != nil {
		return a, r, err
	}
	if access == nil {
		a.claims = auth.Everybody
		return a, r, nil
	}
	a.since, a.checks = g.revocations(), g.rechecks()
	token, err := bearer(r)
	if err == nil && token == "" && carriers&bySubprotocol != 0 {
		token, err = offeredToken(r)
	}
	switch {
	case err != nil:
	case token != "":
		a.claims, err = g.verify(r.Context(), token)
	case ticket != "" && carriers&byTicket != 0:
		a.claims, err = g.redeem(r.Context(), ticket)
	default:
		if carriers&byCookie != 0 {
			a.claims, err = g.redeemCookie(w, r)
		}
		if a.claims == nil && err == nil {
			a.claims = access.Anonymous
		}
	}
	return a, r, err
}

// verify tells who shows a token or an API key.
func (g *Gateway) verify(ctx context.Context, token string) (*auth.Claims, error) {
	return force(g.opts.Access.Authenticator.Authenticate(ctx, token))
}

// force gives claims that have not expired.
func force(claims *auth.Claims, err error) (*auth.Claims, error) {
	switch {
	case err != nil:
		return nil, err
	case claims == nil:
		return nil, auth.ErrUnauthenticated
	case claims.Expired(time.Now()):
		return nil, errExpiredToken
	}
	return claims, nil
}

var (
	errExpiredToken = &pgcast.Error{Code: pgcast.CodeUnauthenticated, Message: "the token has expired", Hint: "come back with a new one"}
	errNoBearer     = &pgcast.Error{Code: pgcast.CodeUnauthenticated, Message: "the header Authorization has no bearer token",
		Hint: "send Authorization: Bearer …, once"}
	errTwoTokens = &pgcast.Error{Code: pgcast.CodeUnauthenticated, Message: "there are two tokens", Hint: "send one"}
	errTokenURL  = &pgcast.Error{Code: pgcast.CodeInvalid, Message: "a token or a key stands in the URL, where others can read it",
		Hint: "send Authorization: Bearer …, or a ticket of POST /tickets as ticket=; and have this one revoked"}
)

// bearer gives the token of a request's Authorization.
func bearer(r *http.Request) (string, error) {
	values := r.Header["Authorization"]
	if len(values) == 0 {
		return "", nil
	}
	scheme, token, _ := strings.Cut(strings.TrimSpace(values[0]), " ")
	token = strings.TrimSpace(token)
	if len(values) > 1 || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", errNoBearer
	}
	return token, nil
}

// offeredToken gives the token among the subprotocols that a handshake offers.
func offeredToken(r *http.Request) (token string, err error) {
	for _, line := range r.Header["Sec-Websocket-Protocol"] {
		for name := range strings.SplitSeq(line, ",") {
			t, is := strings.CutPrefix(strings.TrimSpace(name), tokenSubprotocol)
			switch {
			case !is || t == "":
			case token != "":
				return "", errTwoTokens
			default:
				token = t
			}
		}
	}
	return token, nil
}

// secretNames are parameters that nobody uses for anything but what may not stand in a URL.
var secretNames = []string{"token", "access_token", "id_token", "refresh_token", "jwt", "auth", "authorization", "bearer",
	"api_key", "apikey", "api-key", "password", "secret", "client_secret"}

// secretValue is what a JWT or an API key looks like.
var secretValue = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.|\bpgk_[A-Za-z0-9]+_[A-Za-z0-9]{8}`)

// cutTicket gives a request's ticket, and the request without it. If it is strict, what else
// could be a secret is refused, before a message can repeat it.
func cutTicket(r *http.Request, strict bool) (string, *http.Request, error) {
	if r.URL.RawQuery == "" {
		return "", r, nil
	}
	q, _ := url.ParseQuery(r.URL.RawQuery) // who reads the rest says what is wrong with it
	for name, values := range q {
		if strict && (slices.Contains(secretNames, strings.ToLower(name)) || secretValue.MatchString(name) || slices.ContainsFunc(values, secretValue.MatchString)) {
			return "", r, errTokenURL
		}
	}
	tickets, there := q[ticketParameter]
	if !there {
		return "", r, nil
	}
	if strict && len(tickets) > 1 {
		return "", r, errTwoTokens
	}
	rest := slices.DeleteFunc(strings.Split(r.URL.RawQuery, "&"), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		return err == nil && name == ticketParameter
	})
	u := *r.URL
	u.RawQuery = strings.Join(rest, "&")
	r = r.WithContext(r.Context())
	r.URL, r.RequestURI = &u, u.RequestURI()
	return tickets[0], r, nil
}

// redeem gives the claims of a ticket, which is used up.
func (g *Gateway) redeem(ctx context.Context, ticket string) (*auth.Claims, error) {
	if len(ticket) > maxTicket || g.opts.Access.Tickets == nil {
		return nil, auth.ErrTicket
	}
	ctx, release, err := among(ctx, g.tickets)
	if err != nil {
		return nil, err
	}
	defer release()
	return force(g.opts.Access.Tickets.Redeem(ctx, ticket))
}

// browser tells whether it is one that makes a handshake. To them an answer that refuses it
// is a failure like any other, and so they come back for ever.
func browser(r *http.Request) bool {
	for _, name := range []string{"Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode"} {
		if r.Header.Get(name) != "" {
			return true
		}
	}
	return false
}
