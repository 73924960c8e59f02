package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
)

// A ticket is had for a token or an API key only, is good once, and does not outlive the token.
func TestTickets(t *testing.T) {
	t.Parallel()
	d := newDoor(t, func(s *setup) { anonymous(t, s) })
	d.rules.deny("mallory", auth.Connect, "")
	for _, c := range []struct {
		header http.Header
		status int
		code   pgcast.Code
	}{
		{nil, http.StatusUnauthorized, pgcast.CodeUnauthenticated}, // nobody in particular has none
		{http.Header{"Cookie": {"session=" + d.token(t, "ann")}, "Origin": {d.http.URL}}, http.StatusUnauthorized, pgcast.CodeUnauthenticated},
		{bearing("nonsense"), http.StatusUnauthorized, pgcast.CodeUnauthenticated},
		{bearing(d.token(t, "mallory")), http.StatusForbidden, pgcast.CodeForbidden},
		{with(bearing(d.token(t, "ann")), "Origin", "https://evil.example"), http.StatusForbidden, pgcast.CodeForbidden},
		{bearing(d.token(t, "ann")), http.StatusCreated, ""},
		{with(bearing(d.token(t, "ann")), "Origin", d.http.URL), http.StatusCreated, ""},
	} {
		res, _ := d.answered(t, "POST", "/tickets", c.header, "", c.status, c.code)
		if res.Header.Get("Cache-Control") != "no-store" {
			t.Error("a ticket may be kept")
		}
	}
	d.answered(t, "POST", "/tickets?ticket="+d.ticket(t, d.token(t, "ann")), nil, "", http.StatusUnauthorized, pgcast.CodeUnauthenticated)

	ticket := d.ticket(t, d.token(t, "ann", lasting(1500*time.Millisecond)))
	p := d.enter(t, "?ticket="+ticket, nil)
	p.want(wire.Welcome)
	p.wantClosed(wire.CloseUnauthenticated) // with the token
	ticket = d.ticket(t, d.token(t, "ann"))
	s, res := d.request(t, "room:1", "ticket="+ticket+"&after=0", "")
	if res.StatusCode != http.StatusOK {
		t.Fatalf("the stream is answered with %s", res.Status)
	}
	s.want("subscribed")
	if _, res := d.request(t, "room:1", "ticket="+ticket+"&after=0", ""); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("a used ticket is answered with %s", res.Status)
	}
	d.answered(t, "GET", "/topics/room:1/events?ticket=a&ticket=b", nil, "", http.StatusUnauthorized, pgcast.CodeUnauthenticated)
	d.answered(t, "GET", "/topics/room:1/events?ticket="+strings.Repeat("x", 1000), nil, "", http.StatusUnauthorized, pgcast.CodeUnauthenticated)
}

// cookieOf gives the ticket's cookie that an answer sets.
func cookieOf(t testing.TB, res *http.Response) *http.Cookie {
	t.Helper()
	if all := res.Cookies(); len(all) != 1 || !strings.Contains(all[0].Name, ticketCookie) || all[0].Value == "" {
		t.Fatalf("%s sets %v", res.Status, all)
	}
	return res.Cookies()[0]
}

// The client of the peer protocol, version 0.5, with connect({auth: true}): before each
// connection it asks the preflight, with the app's cookie.
func TestPreflightOfPeerClient(t *testing.T) {
	t.Parallel()
	d := newDoor(t, nil)
	d.rules.deny("mallory", auth.Connect, "")
	page := func(token string) http.Header {
		return http.Header{"Origin": {d.http.URL}, "Sec-Fetch-Site": {"same-origin"}, "X-Requested-With": {requestedWith}, "Cookie": {"theme=dark; session=" + token}}
	}
	good := d.token(t, "ann")
	connect := func(cookie *http.Cookie, resume string) *peer {
		t.Helper()
		p, res, err := d.knock(t, "", http.Header{"Origin": {d.http.URL}, "Cookie": {"theme=dark; session=" + good + "; " + cookie.Name + "=" + cookie.Value}})
		if err != nil {
			t.Fatal(err)
		}
		if set := res.Cookies(); len(set) != 1 || set[0].Name != cookie.Name || set[0].MaxAge >= 0 {
			t.Errorf("the handshake sets %v", set)
		}
		p.want(wire.Welcome)
		p.raw(`{"type":"hello","caps":["batch"]}`)
		if resume != "" {
			p.raw(resume)
			p.want(wire.Resumed)
		}
		p.raw(`{"type":"subscribe-batch","topics":["room:2","room:1"],"ref":1}`)
		p.want(wire.Subscribed)
		p.want(wire.Subscribed)
		return p
	}
	res, _ := d.ask(t, "POST", "/__ws/auth", page(good), "")
	cookie := cookieOf(t, res)
	if res.StatusCode != http.StatusNoContent || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Secure || cookie.MaxAge < 1 || cookie.MaxAge > 30 {
		t.Errorf("%s sets %v", res.Status, cookie)
	}
	p := connect(cookie, "")
	d.publish(t, "room:1", 2, 10)
	p.events(2)
	session := p.session
	_ = p.ws.CloseNow()
	d.publish(t, "room:1", 1, 10)
	d.sequenced(t)
	// The ticket is used; without another one nobody knows whose page it is.
	used := d.enter(t, "", http.Header{"Origin": {d.http.URL}, "Cookie": {cookie.Name + "=" + cookie.Value + "; session=" + good}})
	used.raw(`{"type":"hello","caps":["batch"]}`)
	used.wantClosed(wire.CloseUnauthenticated)
	res, _ = d.ask(t, "POST", "/__ws/auth", page(good), "")
	p = connect(cookieOf(t, res), fmt.Sprintf(`{"type":"resume","sessionId":%q,"lastSeenSeqs":{"room:1":2}}`, session))
	p.stream("room:1", 3, 3)

	// Several pages at once take each their own, or each other's.
	var jar []string
	for range 4 {
		res, _ := d.ask(t, "POST", "/__ws/auth", page(good), "")
		c := cookieOf(t, res)
		jar = append(jar, c.Name+"="+c.Value)
	}
	all := http.Header{"Origin": {d.http.URL}, "Cookie": {strings.Join(jar, "; ")}}
	for range 4 {
		d.enter(t, "", all).want(wire.Welcome)
	}
	d.enter(t, "", all).raw(`{}`)
	// A stream takes one as well.
	res, _ = d.ask(t, "POST", "/__ws/auth", page(good), "")
	c := cookieOf(t, res)
	same := http.Header{"Sec-Fetch-Site": {"same-origin"}, "Cookie": {c.Name + "=" + c.Value}}
	d.answered(t, "GET", "/topics/room:1/sse", same, "", http.StatusOK, "")
	d.answered(t, "GET", "/topics/room:1/sse", same, "", http.StatusUnauthorized, pgcast.CodeUnauthenticated)
	// What is neither takes none, nor the app's cookie.
	res, _ = d.ask(t, "POST", "/__ws/auth", page(good), "")
	c = cookieOf(t, res)
	d.answered(t, "GET", "/topics/room:1/events", with(same, "Cookie", c.Name+"="+c.Value+"; session="+good), "", http.StatusUnauthorized, pgcast.CodeUnauthenticated)

	for _, c := range []struct {
		name, method string
		header       http.Header
		body         string
		status       int
	}{
		{"GET", "GET", page(good), "", http.StatusMethodNotAllowed},
		{"PUT", "PUT", page(good), "", http.StatusMethodNotAllowed},
		{"no cookie", "POST", with(page(good), "Cookie", "theme=dark"), "", http.StatusUnauthorized},
		{"a bad cookie", "POST", page("nonsense"), "", http.StatusUnauthorized},
		{"an expired cookie", "POST", page(d.token(t, "ann", lasting(-time.Minute))), "", http.StatusUnauthorized},
		{"may not connect", "POST", page(d.token(t, "mallory")), "", http.StatusForbidden},
		{"64 KiB", "POST", page(good), strings.Repeat("x", 64<<10), http.StatusNoContent},
		{"more", "POST", page(good), strings.Repeat("x", 64<<10+1), http.StatusRequestEntityTooLarge},
		{"no page", "POST", http.Header{"Cookie": {"session=" + good}}, "", http.StatusForbidden},
		{"another header", "POST", http.Header{"Cookie": {"session=" + good}, "X-Requested-With": {"curl"}}, "", http.StatusForbidden},
		{"of the same origin", "POST", http.Header{"Cookie": {"session=" + good}, "Sec-Fetch-Site": {"same-origin"}}, "", http.StatusNoContent},
		{"of the same site", "POST", http.Header{"Cookie": {"session=" + good}, "Sec-Fetch-Site": {"same-site"}}, "", http.StatusForbidden},
		{"XMLHttpRequest", "POST", http.Header{"Cookie": {"session=" + good}, "X-Requested-With": {"XMLHttpRequest"}}, "", http.StatusNoContent},
		{"the client's header", "POST", http.Header{"Cookie": {"session=" + good}, "X-Requested-With": {requestedWith}}, "", http.StatusNoContent},
		{"the page's origin", "POST", http.Header{"Cookie": {"session=" + good}, "Origin": {d.http.URL}}, "", http.StatusNoContent},
		{"a token", "POST", with(bearing(good), "X-Requested-With", requestedWith), "", http.StatusNoContent},
	} {
		res, _ := d.ask(t, c.method, "/__ws/auth", c.header, c.body)
		if res.StatusCode != c.status || len(res.Cookies()) > 0 != (c.status == http.StatusNoContent) {
			t.Errorf("%s: %s, %v; want %d", c.name, res.Status, res.Cookies(), c.status)
		}
	}
	forwarded := with(page(good), "X-Forwarded-Proto", "https")
	// A page that came without TLS is not the one of the same host that came with it.
	d.answered(t, "POST", "/__ws/auth", forwarded, "", http.StatusForbidden, pgcast.CodeForbidden)
	res, _ = d.ask(t, "POST", "/__ws/auth", with(forwarded, "Origin", strings.Replace(d.http.URL, "http:", "https:", 1)), "")
	if c := cookieOf(t, res); !c.Secure || !strings.HasPrefix(c.Name, hostCookie) {
		t.Errorf("with TLS it sets %v", c)
	}
}

// Who need not say who he is has no ticket, and needs none.
func TestPreflightOfAnybody(t *testing.T) {
	t.Parallel()
	d := newDoor(t, func(s *setup) { anonymous(t, s) })
	page := http.Header{"Origin": {d.http.URL}, "X-Requested-With": {requestedWith}}
	if res, _ := d.ask(t, "POST", "/__ws/auth", page, ""); res.StatusCode != http.StatusNoContent || len(res.Cookies()) > 0 {
		t.Errorf("%s, %v", res.Status, res.Cookies())
	}
	d.answered(t, "POST", "/__ws/auth", with(page, "Cookie", "session=nonsense"), "", http.StatusUnauthorized, pgcast.CodeUnauthenticated)
	// A ticket that is used makes nobody of somebody who may be anybody.
	d.enter(t, "", with(page, "Cookie", ticketCookie+"abc=used")).want(wire.Welcome)
}

// S1: a page of another origin gets nothing by its visitor's cookies, neither a connection,
// nor a stream, nor a ticket.
func TestS1CrossSite(t *testing.T) {
	t.Parallel()
	d := newDoor(t, func(s *setup) {
		anonymous(t, s)
		s.Origins = []string{"friend.example", "*.wide.example"}
	})
	const host = "app.com"
	good := d.token(t, "ann")
	for _, c := range []struct {
		origin  string
		allowed bool
	}{
		{"http://app.com", true},
		{"http://APP.com", true},
		{"https://friend.example", true},
		{"https://a.wide.example", true},
		{"null", false},
		{"https://evil.example", false},
		{"https://evil-app.com", false},
		{"https://app.com.evil.example", false},
		{"https://app.com:8443", false},
		{"https://friend.example:8443", false},
		{"https://xn--pp-7ka.com", false}, // äpp.com, much like it
		{"https://аpp.com", false},        // with a Cyrillic а
		{"https://app.com@evil.example", false},
		{"https://wide.example", false},
		{"file://", false},
	} {
		ticket := d.ticket(t, good)
		name := ticketCookie + "abc"
		if strings.HasPrefix(c.origin, "https:") {
			name = hostCookie + name
		}
		h := http.Header{"Host": {host}, "Origin": {c.origin}, "Cookie": {name + "=" + ticket + "; session=" + good}}
		p, res, err := d.knock(t, "", h)
		if !c.allowed {
			if err == nil || res.StatusCode != http.StatusForbidden {
				t.Errorf("origin %s: the handshake gave %v, %v", c.origin, res.Status, err)
			}
		} else if err != nil {
			t.Errorf("origin %s: %v", c.origin, err)
		} else {
			p.want(wire.Welcome)
			p.send(wire.Frame{Type: wire.Auth, Token: d.token(t, "bob")})
			p.wantError(pgcast.CodeForbidden) // it is ann
		}
		for _, path := range []string{"/topics/room:1/sse", "/topics/room:1/events"} {
			res, _ := d.ask(t, "GET", path, h, "")
			if want := map[bool]int{true: http.StatusOK, false: http.StatusForbidden}[c.allowed]; res.StatusCode != want {
				t.Errorf("origin %s: GET %s gave %s", c.origin, path, res.Status)
			}
			if got := res.Header.Get("Access-Control-Allow-Origin"); (got != "") != c.allowed || res.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("origin %s: GET %s is let in as %q", c.origin, path, got)
			}
		}
		for method, want := range map[string]int{"POST": http.StatusNoContent, "OPTIONS": http.StatusNoContent} {
			if !c.allowed {
				want = http.StatusForbidden
			}
			res, _ := d.ask(t, method, "/__ws/auth", with(h, "X-Requested-With", requestedWith), "")
			if res.StatusCode != want || !c.allowed && len(res.Cookies()) > 0 {
				t.Errorf("origin %s: the preflight gave %s, %v", c.origin, res.Status, res.Cookies())
			}
			if got := res.Header.Get("Access-Control-Allow-Credentials"); (got == "true") != c.allowed {
				t.Errorf("origin %s: %s lets credentials in: %q", c.origin, method, got)
			}
		}
		res, _ = d.ask(t, "OPTIONS", "/topics/room:1/events", h, "")
		if c.allowed != strings.Contains(res.Header.Get("Access-Control-Allow-Headers"), "Authorization") || res.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("origin %s: the preflight allows %q", c.origin, res.Header.Get("Access-Control-Allow-Headers"))
		}
	}
	// What says nothing of where it is from has no cookies.
	p := d.enter(t, "", http.Header{"Cookie": {ticketCookie + "abc=" + d.ticket(t, good)}})
	p.want(wire.Welcome)
	p.send(wire.Frame{Type: wire.Auth, Token: d.token(t, "bob")})
	p.want(wire.Authenticated) // it was nobody
}

// Where any page may connect, none may use its visitor's cookies.
func TestAnyOriginWithoutCookies(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{"*", "https://*", "*:*", "*.*"} {
		d := newDoor(t, func(s *setup) { s.Origins = []string{pattern} })
		origin := "https://evil.example"
		if pattern == "*:*" {
			origin += ":8443"
		}
		h := http.Header{"Origin": {origin}, "X-Requested-With": {requestedWith}, "Cookie": {"session=" + d.token(t, "ann")}}
		d.answered(t, "POST", "/__ws/auth", h, "", http.StatusForbidden, pgcast.CodeForbidden)
		p := d.enter(t, "", with(h, "Cookie", hostCookie+ticketCookie+"abc="+d.ticket(t, d.token(t, "ann"))))
		p.send(wire.Frame{Type: wire.Hello})
		p.wantClosed(wire.CloseUnauthenticated)
	}
}

// Those who bring tickets that they have made up take no room from those who are known.
func TestMadeUpTickets(t *testing.T) {
	t.Parallel()
	d := newDoor(t, nil)
	for range cap(d.gate.slots) { // requests that are known are waiting for the database
		d.gate.slots <- struct{}{}
	}
	d.answered(t, "GET", "/topics/room:1/events?ticket=madeup", nil, "", http.StatusUnauthorized, pgcast.CodeUnauthenticated)
	for range cap(d.gate.slots) {
		<-d.gate.slots
	}
	for range cap(d.gate.tickets) {
		d.gate.tickets <- struct{}{}
	}
	d.answered(t, "GET", "/topics/room:1/events", bearing(d.token(t, "ann")), "", http.StatusOK, "")
	for range cap(d.gate.tickets) {
		<-d.gate.tickets
	}
}
