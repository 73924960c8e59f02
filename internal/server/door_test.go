package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// ask makes a request and gives its answer and the body; header has names and values in turn.
func (g *guarded) ask(t *testing.T, method, path string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+g.listen+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

// knock makes a handshake; header has names and values in turn.
func (g *guarded) knock(t *testing.T, query string, header ...string) (*peer, *http.Response) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	ws, res, err := websocket.Dial(ctx, "ws://"+g.listen+"/ws"+query, &websocket.DialOptions{HTTPHeader: h})
	if err != nil {
		if res == nil {
			t.Fatal(err)
		}
		return nil, res
	}
	ws.SetReadLimit(2 << 20)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &peer{t, ws}, res
}

// What one server gives a ticket for, another takes it for, once; so it is with the cookie of a
// preflight.
func TestTicketsOfOtherServers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `select pgcast.allow('{subscribe}', 'user:{sub}')`)
	servers := guard(t, db, 2, func(o *Options) { o.Access.Cookie = "session" })
	a, b := servers[0], servers[1]
	bearer := "Bearer " + a.token(t, "ann")
	ticket := func() string {
		res, text := a.ask(t, "POST", "/tickets", "Authorization", bearer)
		var got struct{ Ticket string }
		if err := json.Unmarshal([]byte(text), &got); err != nil || res.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s", res.Status, text)
		}
		return got.Ticket
	}
	enter := func(p *peer, res *http.Response) {
		t.Helper()
		if p == nil {
			t.Fatalf("the handshake was answered with %s", res.Status)
		}
		p.want(wire.Welcome)
		p.send(`{"type":"subscribe","topic":"user:ann","ref":1}`)
		p.want(wire.Subscribed)
		p.send(`{"type":"subscribe","topic":"user:bob","ref":2}`)
		p.want(wire.SubscribeDenied)
	}
	first := ticket()
	p, res := b.knock(t, "?ticket="+first)
	enter(p, res)
	for _, g := range servers {
		if p, res := g.knock(t, "?ticket="+first); p != nil || res.StatusCode != http.StatusUnauthorized {
			t.Errorf("a used ticket gave %s", res.Status)
		}
	}
	if res, text := b.ask(t, "GET", "/topics/user:ann/events?ticket="+ticket()); res.StatusCode != http.StatusForbidden { // which is history
		t.Errorf("%s %s", res.Status, text)
	}
	// The browser's page is at both servers' origin, a proxy's.
	page := []string{"Origin", "https://app.example", "X-Forwarded-Host", "app.example"}
	res, _ = a.ask(t, "POST", "/__ws/auth", append(page, "X-Requested-With", "svelte-adapter-uws", "Cookie", "session="+a.token(t, "ann"))...)
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("a page of another origin is answered with %s", res.Status)
	}
	origin := "http://" + b.listen
	res, _ = b.ask(t, "POST", "/__ws/auth", "Origin", origin, "X-Requested-With", "svelte-adapter-uws", "Cookie", "session="+a.token(t, "ann"))
	if len(res.Cookies()) != 1 {
		t.Fatalf("%s %v", res.Status, res.Cookies())
	}
	cookie := res.Cookies()[0].Name + "=" + res.Cookies()[0].Value
	p, res = a.knock(t, "", "Origin", "http://"+a.listen, "Cookie", cookie)
	enter(p, res)
	// What is revoked while its ticket is out is revoked.
	late := ticket()
	db.Exec(t, `select pgcast.revoke(sub => 'ann')`)
	await(t, "it is revoked everywhere", func() bool {
		for _, g := range servers {
			if res, _ := g.ask(t, "GET", "/topics/user:ann/events", "Authorization", bearer); res.StatusCode != http.StatusUnauthorized {
				return false
			}
		}
		return true
	})
	if p, res := b.knock(t, "?ticket="+late); p != nil || res.StatusCode != http.StatusUnauthorized {
		t.Errorf("a revoked one's ticket gave %s", res.Status)
	}
}

// S7: a session whose token has expired gets nothing more, comes back with a new one, on
// another server, and has missed nothing.
func TestResumeAfterExpiry(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `select pgcast.allow('{subscribe,history}', 'room:*')`)
	servers := guard(t, db, 2, func(o *Options) { o.Access.Leeway = 0 })
	stop := make(chan struct{})
	written := make(chan int64, 1)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		n := int64(0)
		for {
			select {
			case <-stop:
				written <- n
				return
			case <-tick.C:
				db.Exec(t, `select pgcast.publish('room:1', 'said', jsonb_build_object('at', $1::bigint))`, time.Now().UnixMilli())
				n++
			}
		}
	}()
	after, id, seen := int64(0), "", 0
	round := func(i int, last int64) {
		exp := time.Now().Add(1200 * time.Millisecond).Truncate(time.Second).Add(time.Second)
		p, res := servers[i%2].knock(t, "", "Authorization", "Bearer "+servers[0].token(t, "ann", "exp", exp.Unix()))
		if p == nil {
			t.Fatalf("the handshake was answered with %s", res.Status)
		}
		p.want(wire.Welcome)
		place := fmt.Sprintf(`"after":%d`, after)
		if id != "" {
			place += fmt.Sprintf(`,"id":%q`, id)
		}
		p.send(`{"type":"hello","caps":["batch","reset"]}`)
		p.send(`{"type":"subscribe","topic":"room:1","ref":1,` + place + `}`)
		for last == 0 || after < last {
			f, err := p.read()
			if err != nil {
				if websocket.CloseStatus(err) != wire.CloseUnauthenticated || time.Now().Before(exp) {
					t.Errorf("%v before expiry: %v", time.Until(exp), err)
				}
				return
			}
			if f.Type == wire.Gap || f.Type == wire.Reset || f.Type == wire.SubscribeDenied || f.Type == wire.Error {
				t.Fatalf("got %+v", f)
			}
			for _, e := range f.Events {
				if e.Topic != "room:1" { // the server's own
					continue
				}
				var data struct{ At int64 }
				if err := json.Unmarshal(e.Data, &data); err != nil {
					t.Fatal(err)
				}
				if int64(e.Seq) != after+1 || time.UnixMilli(data.At).After(exp) {
					t.Fatalf("after %d came %d, written %v after expiry", after, e.Seq, time.UnixMilli(data.At).Sub(exp))
				}
				after, id = int64(e.Seq), string(e.ID)
				seen++
			}
		}
	}
	for i := range 3 {
		round(i, 0)
	}
	close(stop)
	n := <-written
	round(3, n)
	if int64(seen) != n {
		t.Errorf("%d of %d events came", seen, n)
	}
	t.Logf("%d events over 4 tokens, each once; none after its token had expired", seen)
}

// Nothing but what answers is on the public port, and nobody gets anything who shows nothing.
func TestNothingWithoutCredentials(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `select pgcast.allow('{subscribe,history,snapshot,publish,presence,cursor,group}', '**')`)
	g := guard(t, db, 1, nil)[0]
	for _, path := range []string{"/topics/a/events", "/topics/a/events?wait=1", "/topics/a/sse", "/topics/a/snapshot", "/topics/a/presence", "/groups/a",
		"/topics/%2A%2A/events", "/topics/__access/events", "/topics/a/events?ticket=", "/topics/a/sse?topic=b"} {
		for _, method := range []string{"GET", "HEAD"} {
			if res, text := g.ask(t, method, path); res.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%s %s: %s %s", method, path, res.Status, text)
			}
		}
	}
	if res, text := g.ask(t, "POST", "/topics/a/events", "Content-Type", "application/json", "Pgcast-Event", "said"); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("POST: %s %s", res.Status, text)
	}
}
