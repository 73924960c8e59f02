package gateway

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/auth/authtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// requests are one of each kind that is answered over HTTP.
var requests = []struct {
	method, path, body string
	header             http.Header
	status             int
}{
	{"GET", "/topics/room:1/events", "", nil, http.StatusOK},
	{"GET", "/topics/room:1/events?after=0&wait=0", "", nil, http.StatusOK},
	{"POST", "/topics/room:1/events", "{}", http.Header{"Content-Type": {"application/json"}, EventHeader: {"said"}}, http.StatusCreated},
	{"GET", "/topics/room:1/snapshot", "", nil, http.StatusOK},
	{"GET", "/topics/room:1/sse", "", nil, http.StatusOK},
}

// with adds one header to others.
func with(h http.Header, name string, values ...string) http.Header {
	all := http.Header{}
	for n, v := range h {
		all[n] = v
	}
	all[name] = values
	return all
}

// Every request over HTTP is asked who makes it, and whether he may connect at all.
func TestCredentialsOverHTTP(t *testing.T) {
	t.Parallel()
	d := newDoor(t, nil)
	d.rules.deny("mallory", auth.Connect, "")
	good, stranger := d.token(t, "ann"), authtest.Fresh(t, "ES256").Token(t, map[string]any{"sub": "ann"})
	for _, r := range requests {
		for _, c := range []struct {
			authorization []string
			status        int
			code          pgcast.Code
			challenge     string
		}{
			{nil, http.StatusUnauthorized, pgcast.CodeUnauthenticated, "Bearer"},
			{[]string{"Bearer " + good}, r.status, "", ""},
			{[]string{"bearer  " + good}, r.status, "", ""},
			{[]string{"Bearer"}, http.StatusUnauthorized, pgcast.CodeUnauthenticated, `Bearer error="invalid_token"`},
			{[]string{"Bearer nonsense"}, http.StatusUnauthorized, pgcast.CodeUnauthenticated, `Bearer error="invalid_token"`},
			{[]string{"Basic YW5uOmFubg=="}, http.StatusUnauthorized, pgcast.CodeUnauthenticated, `Bearer error="invalid_token"`},
			{[]string{"Bearer " + good, "Bearer " + good}, http.StatusUnauthorized, pgcast.CodeUnauthenticated, `Bearer error="invalid_token"`},
			{[]string{"Bearer " + stranger}, http.StatusUnauthorized, pgcast.CodeUnauthenticated, `Bearer error="invalid_token"`},
			{[]string{"Bearer " + d.token(t, "ann", lasting(-time.Minute))}, http.StatusUnauthorized, pgcast.CodeUnauthenticated, `Bearer error="invalid_token"`},
			{[]string{"Bearer " + d.token(t, "mallory")}, http.StatusForbidden, pgcast.CodeForbidden, ""},
		} {
			h := r.header
			if c.authorization != nil {
				h = with(h, "Authorization", c.authorization...)
			}
			res, _ := d.answered(t, r.method, r.path, h, r.body, c.status, c.code)
			if got := res.Header.Get("Www-Authenticate"); got != c.challenge {
				t.Errorf("%s %s with %.20q is challenged by %q; want %q", r.method, r.path, c.authorization, got, c.challenge)
			}
		}
		// A ticket is good once, and stands with other parameters.
		ticket := "ticket=" + d.ticket(t, good)
		path := r.path + "?" + ticket
		if strings.Contains(r.path, "?") {
			path = r.path + "&" + ticket
		}
		d.answered(t, r.method, path, r.header, r.body, r.status, "")
		d.answered(t, r.method, path, r.header, r.body, http.StatusUnauthorized, pgcast.CodeUnauthenticated)
	}
}

// Who shows nothing is nobody in particular where that is allowed; who shows what is not valid
// is nobody at all.
func TestAnonymous(t *testing.T) {
	t.Parallel()
	d := newDoor(t, func(s *setup) { anonymous(t, s) })
	for _, r := range requests {
		d.answered(t, r.method, r.path, r.header, r.body, r.status, "")
		d.answered(t, r.method, r.path, with(r.header, "Authorization", "Bearer nonsense"), r.body, http.StatusUnauthorized, pgcast.CodeUnauthenticated)
	}
	p := d.enter(t, "", nil)
	p.want(wire.Welcome)
	p.send(wire.Frame{Type: wire.Hello, Ref: []byte("1"), Token: d.token(t, "ann")})
	if f := p.want(wire.Authenticated); f.ExpiresIn == nil || string(f.Ref) != "1" {
		t.Errorf("got %+v", f)
	}
	// From now on it is ann, and nobody else.
	p.send(wire.Frame{Type: wire.Auth, Ref: []byte("2"), Token: d.token(t, "bob")})
	p.wantError(pgcast.CodeForbidden)
	p.send(wire.Frame{Type: wire.Auth, Ref: []byte("3"), Token: "nonsense"})
	p.wantError(pgcast.CodeUnauthenticated)
	p.subscribe("room:1", nil, "")
}

// A handshake carries a token in Authorization or as a subprotocol, or a ticket.
func TestCredentialsOfHandshakes(t *testing.T) {
	t.Parallel()
	d := newDoor(t, nil)
	d.rules.deny("mallory", auth.Connect, "")
	good := d.token(t, "ann")
	d.as(t, good).subscribe("room:1", nil, "")
	for _, protocols := range [][]string{{"pgcast", "pgcast.token." + good}, {"pgcast.token." + good, "pgcast"}} {
		p, res, err := d.knock(t, "", nil, protocols...)
		if err != nil {
			t.Fatal(err)
		}
		p.want(wire.Welcome)
		if got := res.Header.Values("Sec-WebSocket-Protocol"); len(got) != 1 || got[0] != "pgcast" {
			t.Errorf("the subprotocol is %q", got)
		}
	}
	ticket := "?ticket=" + d.ticket(t, good)
	d.enter(t, ticket, nil).want(wire.Welcome)
	// What is no browser is told so by the answer.
	for _, c := range []struct {
		status    int
		query     string
		header    http.Header
		protocols []string
	}{
		{http.StatusUnauthorized, ticket, nil, nil},
		{http.StatusUnauthorized, "", bearing("nonsense"), nil},
		{http.StatusUnauthorized, "", bearing(d.token(t, "ann", lasting(-time.Minute))), nil},
		{http.StatusUnauthorized, "", nil, []string{"pgcast", "pgcast.token.nonsense"}},
		{http.StatusUnauthorized, "", nil, []string{"pgcast.token." + good, "pgcast.token." + good}},
		{http.StatusForbidden, "", bearing(d.token(t, "mallory")), nil},
		{http.StatusBadRequest, "?token=" + good, nil, nil},
		{http.StatusBadRequest, "?x=" + good, bearing(good), nil},
	} {
		d.shut(t, c.status, c.query, c.header, c.protocols...)
	}
	// A browser would take that for a failure that passes, and come back for ever.
	page := http.Header{"Origin": {d.http.URL}}
	p := d.enter(t, ticket, page)
	p.wantClosed(wire.CloseUnauthenticated)
	p = d.enter(t, "", page, "pgcast", "pgcast.token.nonsense")
	p.wantClosed(wire.CloseUnauthenticated)
	p = d.enter(t, "", with(page, "Authorization", "Bearer "+d.token(t, "mallory")))
	p.wantClosed(wire.CloseForbidden)
	await(t, "nobody waits", func() bool {
		d.gate.mu.Lock()
		defer d.gate.mu.Unlock()
		return d.gate.waiting[""] == 0 && len(d.gate.waiting) == 1
	})
}

// A token or a key in a URL is refused, whatever it is called, and not repeated.
func TestTokenInURL(t *testing.T) {
	t.Parallel()
	d := newDoor(t, nil)
	good := d.token(t, "ann")
	key := "pgk_abc_0123456789abcdef"
	for _, query := range []string{"token=" + good, "access_token=x", "jwt=x", "auth=x", "Authorization=Bearer+x", "api_key=" + key,
		"after=" + good, "id=" + key, "x=Bearer%20" + good, good, "after=1&limit=" + good, "wait=" + key} {
		for _, path := range []string{"/topics/room:1/events", "/topics/room:1/sse", "/topics/room:1/snapshot", "/topics/room:1/presence", "/groups/a"} {
			_, text := d.answered(t, "GET", path+"?"+query, bearing(good), "", http.StatusBadRequest, pgcast.CodeInvalid)
			if strings.Contains(text, good[:20]) || strings.Contains(text, key[:12]) {
				t.Errorf("%s?%.20s: the answer repeats it: %s", path, query, text)
			}
		}
		for _, path := range []string{"/tickets", "/__ws/auth"} {
			d.answered(t, "POST", path+"?"+query, with(bearing(good), "X-Requested-With", "XMLHttpRequest"), "", http.StatusBadRequest, pgcast.CodeInvalid)
		}
	}
}

// Where there is no access control a token that is shown is passed over.
func TestTokensInOpenMode(t *testing.T) {
	t.Parallel()
	d := &door{world: newWorld(t, nil), key: authtest.New(t, "HS256")}
	for _, r := range requests {
		d.answered(t, r.method, r.path, with(r.header, "Authorization", "Bearer nonsense"), r.body, r.status, "")
	}
	p := d.enter(t, "?token=x&ticket=y", bearing("nonsense"), "pgcast", "pgcast.token.x")
	p.want(wire.Welcome)
	p.send(wire.Frame{Type: wire.Hello, Token: "nonsense"})
	p.quiet()
	p.send(wire.Frame{Type: wire.Auth, Ref: []byte("1"), Token: "nonsense"})
	if f := p.want(wire.Authenticated); f.ExpiresIn != nil {
		t.Errorf("it expires in %d ms", *f.ExpiresIn)
	}
	d.answered(t, "POST", "/tickets", bearing("x"), "", http.StatusNotFound, pgcast.CodeNotFound)
	if res, _ := d.ask(t, "POST", "/__ws/auth", http.Header{"X-Requested-With": {requestedWith}}, ""); res.StatusCode != http.StatusNoContent || len(res.Cookies()) > 0 {
		t.Errorf("the preflight is answered with %s and %v", res.Status, res.Cookies())
	}
}
