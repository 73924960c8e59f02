package gateway

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// How a browser carries a ticket: in a cookie of its own for each, so that pages that connect
// at the same time do not take each other's. With TLS the name's prefix keeps other hosts of
// the same site from setting one.
const (
	ticketCookie = "pgcast-ticket-"
	hostCookie   = "__Host-"
	maxCookies   = 8 // tickets of a request that are tried
)

const (
	maxPreflight  = 64 << 10 // bytes of a preflight's body
	requestedWith = "svelte-adapter-uws"
)

var errNoAccess = &pgcast.Error{Code: pgcast.CodeNotFound, Message: "there are no tickets: this server asks nobody who he is", Hint: "connect without one"}

// SignIn serves how callers change a token for a ticket: POST /tickets, and the preflight of
// browsers, POST /__ws/auth.
func (g *Gateway) SignIn() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /tickets", g.postTicket)
	mux.HandleFunc("OPTIONS /tickets", g.preflight)
	mux.HandleFunc("/__ws/auth", g.preconnect)
	return mux
}

// postTicket answers with a ticket for who shows a token or an API key.
func (g *Gateway) postTicket(w http.ResponseWriter, r *http.Request) {
	if !g.admitPage(w, r) {
		return
	}
	ticket, ttl, err := g.ticketFor(r)
	if err != nil {
		g.refuse(w, err)
		return
	}
	g.answer(w, http.StatusCreated, fmt.Appendf(nil, `{"ticket":%s,"expiresIn":%d}`, quoted(ticket), ttl.Milliseconds()))
}

func (g *Gateway) ticketFor(r *http.Request) (string, time.Duration, error) {
	_, r, err := cutTicket(r, true)
	if err == nil {
		_, err = parameters(r, "")
	}
	if err == nil && g.opts.Access == nil {
		err = errNoAccess
	}
	var token string
	if err == nil {
		token, err = bearer(r)
	}
	if err == nil && token == "" {
		err = auth.ErrUnauthenticated
	}
	var claims *auth.Claims
	if err == nil {
		claims, err = g.verify(r.Context(), token)
	}
	if err == nil {
		err = g.allow(r.Context(), claims, auth.Connect, "")
	}
	if err != nil {
		return "", 0, err
	}
	return g.issue(r, claims)
}

// issue makes a ticket, which does not outlive the claims it stands for. It costs what
// connecting does.
func (g *Gateway) issue(r *http.Request, claims *auth.Claims) (string, time.Duration, error) {
	if g.opts.Access.Tickets == nil {
		return "", 0, errNoAccess
	}
	if err := g.limitRequest(asking{claims: claims}.of(r), ratelimit.Connect, ratelimit.Ask{Cost: 1}); err != nil {
		return "", 0, err
	}
	ttl := g.opts.Access.TicketTTL
	if !claims.Expires.IsZero() {
		ttl = min(ttl, time.Until(claims.Expires))
	}
	ctx, release, err := g.slot(r.Context())
	if err != nil {
		return "", 0, err
	}
	defer release()
	ticket, err := g.opts.Access.Tickets.Issue(ctx, claims)
	return ticket, ttl, err
}

// preconnect serves the peer protocol's POST /__ws/auth, by which a browser says before each
// connection whose it will be: the app's cookie, or a token, becomes a ticket in a cookie that
// the handshake redeems.
func (g *Gateway) preconnect(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	switch r.Method {
	case http.MethodPost:
	case http.MethodOptions:
		if g.trusted(r) {
			g.letCredentials(w, r)
		}
		g.preflight(w, r)
		return
	default:
		h.Set("Allow", "POST, OPTIONS")
		http.Error(w, "the preflight is a POST", http.StatusMethodNotAllowed)
		return
	}
	if !g.admitPage(w, r) {
		return
	}
	if g.trusted(r) {
		g.letCredentials(w, r)
	} else if with := r.Header.Get("X-Requested-With"); r.Header.Get("Origin") != "" || with != requestedWith && !strings.EqualFold(with, "XMLHttpRequest") {
		g.refuse(w, &pgcast.Error{Code: pgcast.CodeForbidden, Message: "it cannot be told that a page of yours asks",
			Hint: "send X-Requested-With: XMLHttpRequest, and name the page's origin in --allowed-origins"})
		return
	}
	if err := g.sendTicket(w, r); err != nil {
		g.refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// letCredentials tells a browser that a page of another origin may send its user's cookies.
func (g *Gateway) letCredentials(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") != "" {
		w.Header().Set("Access-Control-Allow-Credentials", "true")
	}
}

// sendTicket sets the cookie of a preflight; none for who need not say who he is.
func (g *Gateway) sendTicket(w http.ResponseWriter, r *http.Request) error {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(g.opts.WriteTimeout))
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxPreflight)); err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return &pgcast.Error{Code: pgcast.CodeTooLarge, Message: "a preflight's body may have 64 KiB"}
		}
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "the body did not arrive"}
	}
	_ = c.SetReadDeadline(time.Time{})
	access := g.opts.Access
	_, r, err := cutTicket(r, true)
	if err != nil || access == nil {
		return err
	}
	token, err := bearer(r)
	if err != nil {
		return err
	}
	if token == "" && access.Cookie != "" {
		if cookie, err := r.Cookie(access.Cookie); err == nil {
			token = cookie.Value
		}
	}
	claims := access.Anonymous
	if token != "" {
		claims, err = g.verify(r.Context(), token)
	}
	switch {
	case err != nil:
		return err
	case claims == nil:
		return auth.ErrUnauthenticated
	}
	if err := g.allow(r.Context(), claims, auth.Connect, ""); err != nil || token == "" {
		return err
	}
	ticket, ttl, err := g.issue(r, claims)
	if err != nil {
		return err
	}
	name := ticketCookie + strings.ToLower(rand.Text()[:8])
	if secure(r) {
		name = hostCookie + name
	}
	g.setCookie(w, r, name, ticket, max(1, int(ttl/time.Second)))
	return nil
}

func (g *Gateway) setCookie(w http.ResponseWriter, r *http.Request, name, value string, age int) {
	http.SetCookie(w, &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: age, HttpOnly: true, Secure: secure(r), SameSite: http.SameSiteStrictMode})
}

// secure tells whether the browser talks TLS, with this server or with a proxy before it. Who
// says so falsely has himself to blame: his cookies only come with TLS.
func secure(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") || strings.HasPrefix(r.Header.Get("Origin"), "https://")
}

// redeemCookie gives the claims of the newest ticket among a request's cookies that is still
// good, and takes its cookie back; nil if there is none. They count for pages that may use
// their user's cookies only.
func (g *Gateway) redeemCookie(w http.ResponseWriter, r *http.Request) (*auth.Claims, error) {
	if len(r.Header["Cookie"]) == 0 || !g.trusted(r) {
		return nil, nil
	}
	cookies := slices.DeleteFunc(r.Cookies(), func(c *http.Cookie) bool {
		name, host := strings.CutPrefix(c.Name, hostCookie)
		return !strings.HasPrefix(name, ticketCookie) || secure(r) && !host
	})
	slices.Reverse(cookies) // browsers send the oldest first
	for _, c := range cookies[:min(len(cookies), maxCookies)] {
		claims, err := g.redeem(r.Context(), c.Value)
		switch {
		case err == nil:
			g.setCookie(w, r, c.Name, "", -1)
			return claims, nil
		case errors.Is(err, pgcast.ErrUnauthenticated):
			// used by another page, or too old
		default:
			return nil, err
		}
	}
	return nil, nil
}

// challenge is what an answer with 401 asks for, as of RFC 6750.
func challenge(err error) string {
	if err == auth.ErrUnauthenticated { // nothing was shown
		return "Bearer"
	}
	return `Bearer error="invalid_token"`
}
