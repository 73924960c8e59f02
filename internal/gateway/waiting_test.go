package gateway

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
)

// untouched makes sure that nobody has asked for anything.
func (d *door) untouched(t *testing.T) {
	t.Helper()
	await(t, "all are gone", func() bool { return d.clients() == 0 && len(d.hub.Sessions()) == 0 })
	d.gate.mu.Lock()
	left := len(d.gate.waiting)
	d.gate.mu.Unlock()
	d.rules.mu.Lock()
	defer d.rules.mu.Unlock()
	if left > 1 || d.rules.asked > 0 || d.counter(t, "published_total") > 0 {
		t.Errorf("%d addresses wait, %d decisions were asked for", left-1, d.rules.asked)
	}
}

// S3: a socket whose client has not said who it is says nothing, does nothing, takes little
// and ends soon.
func TestS3UnauthenticatedSocket(t *testing.T) {
	t.Parallel()
	if signInWithin != 5*time.Second || maxSignIn != 4<<10 {
		t.Errorf("it has %v and %d bytes", signInWithin, maxSignIn)
	}
	t.Run("idle", func(t *testing.T) {
		t.Parallel()
		d := newDoor(t, func(s *setup) { s.signIn = 300 * time.Millisecond })
		began := time.Now()
		p := d.enter(t, "", nil)
		text, err := p.read()
		if websocket.CloseStatus(err) != wire.CloseUnauthenticated {
			t.Errorf("it is sent %q, %v", text, err)
		}
		if took := time.Since(began); took < 300*time.Millisecond || took > signInWithin {
			t.Errorf("it was closed after %v", took)
		}
		d.untouched(t)
	})
	t.Run("drip", func(t *testing.T) {
		t.Parallel()
		d := newDoor(t, func(s *setup) { s.signIn, s.closeWait = 300*time.Millisecond, 300*time.Millisecond })
		l := d.line(t, 0)
		hello := masked(opText, []byte(`{"type":"hello","token":"`+d.token(t, "ann")+`"}`))
		done := make(chan int, 1)
		go func() { done <- l.ended() }()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; {
			select {
			case code := <-done:
				if code != wire.CloseUnauthenticated {
					t.Errorf("closed with %d", code)
				}
				d.untouched(t)
				return
			case <-tick.C:
				if n < len(hello)-1 {
					_, _ = l.Write(hello[n : n+1])
					n++
				}
			}
		}
	})
	t.Run("flood", func(t *testing.T) {
		t.Parallel()
		d := newDoor(t, nil)
		for name, flood := range map[string][]byte{
			"pings":           bytes.Repeat(masked(opPing, make([]byte, 100)), 10_000),
			"a long frame":    masked(opText, bytes.Repeat([]byte(" "), 200_000)),
			"a frame of 1 GB": {0x81, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4},
			"empty fragments": bytes.Repeat([]byte{0x00, 0x80, 1, 2, 3, 4}, 100_000),
		} {
			l := d.line(t, 0)
			if name == "empty fragments" {
				l.write([]byte{0x01, 0x80, 1, 2, 3, 4})
			}
			_, _ = l.Write(flood)
			if name == "a frame of 1 GB" {
				_, _ = l.Write(bytes.Repeat([]byte("x"), 100_000))
			}
			began := time.Now()
			if code := l.ended(); code != wire.CloseUnauthenticated && code != 0 { // a reset connection takes the close frame back
				t.Errorf("%s: closed with %d", name, code)
			}
			if took := time.Since(began); took > signInWithin-time.Second {
				t.Errorf("%s: it took %v", name, took)
			}
		}
		d.untouched(t)
	})
	t.Run("anything but a hello with a token", func(t *testing.T) {
		t.Parallel()
		d := newDoor(t, nil)
		good := d.token(t, "ann")
		for _, text := range []string{
			`{"type":"hello","caps":["batch"]}`,
			`{"type":"hello","token":""}`,
			`{"type":"hello","token":5}`,
			`{"type":"hello","token":"nonsense"}`,
			`{"type":"hello","token":"` + good + `","pad":"` + strings.Repeat("x", 4<<10) + `"}`,
			`{"type":"auth","token":"` + good + `"}`,
			`{"type":"resume","sessionId":"x","lastSeenSeqs":{"room:1":1}}`,
			`{"type":"subscribe","topic":"room:1","ref":1}`,
			`{"type":"subscribe-batch","topics":["room:1"],"ref":1}`,
			`{"type":"publish","topic":"room:1","event":"said","ref":1}`,
			`{"type":"history","topic":"room:1","ref":1}`,
			`{"type":"replay","topic":"room:1","reqId":1}`,
			`{"type":"presence","topic":"room:1","op":"join"}`,
			`{"type":"group","group":"g","op":"list"}`,
			`nonsense`, `[]`, ``, "\xff",
		} {
			p := d.enter(t, "", nil)
			p.raw(text)
			if got, err := p.read(); websocket.CloseStatus(err) != wire.CloseUnauthenticated {
				t.Errorf("%.60s: it is sent %q, %v", text, got, err)
			}
		}
		d.untouched(t)
	})
	t.Run("many", func(t *testing.T) {
		t.Parallel()
		d := newDoor(t, func(s *setup) { s.signIn = time.Hour })
		var all []*peer
		for range waitingAddress {
			all = append(all, d.enter(t, "", nil))
		}
		if res := d.shut(t, http.StatusTooManyRequests, "", nil); res.Header.Get("Retry-After") == "" {
			t.Error("it does not say when to come back")
		}
		d.as(t, d.token(t, "ann")).quiet() // who says who he is has room
		all[0].send(wire.Frame{Type: wire.Hello, Token: d.token(t, "bob")})
		all[0].want(wire.Welcome)
		p := d.enter(t, "", nil)
		d.gate.mu.Lock()
		d.gate.waiting[""] += waitingAll
		d.gate.mu.Unlock()
		_ = p.ws.CloseNow()
		await(t, "one has gone", func() bool { return d.clients() == waitingAddress+1 })
		d.shut(t, http.StatusTooManyRequests, "", nil)
		d.gate.mu.Lock()
		d.gate.waiting[""] -= waitingAll
		d.gate.mu.Unlock()
		d.enter(t, "", nil)
	})
}

// The first frame says who it is; what comes behind it in the same breath is served.
func TestSignInByHello(t *testing.T) {
	t.Parallel()
	d := newDoor(t, nil)
	d.rules.deny("mallory", auth.Connect, "")
	hello := func(token string) []byte {
		return masked(opText, fmt.Appendf(nil, `{"type":"hello","ref":1,"caps":["batch","reset"],"token":%q}`, token))
	}
	l := d.line(t, 0, append(hello(d.token(t, "ann")), masked(opText, []byte(`{"type":"subscribe","topic":"room:1","ref":2}`))...)...)
	for _, kind := range []wire.Type{wire.Welcome, wire.Authenticated, wire.Subscribed} {
		l.patience(within)
		_, text, err := l.frame()
		if err != nil {
			t.Fatal(err)
		}
		if f, err := wire.ParseServer(text); err != nil || f.Type != kind {
			t.Fatalf("got %s, %v; want %s", text, err, kind)
		}
	}
	for token, code := range map[string]int{
		"nonsense":            wire.CloseUnauthenticated,
		d.token(t, "mallory"): wire.CloseForbidden,
		d.token(t, "ann", lasting(-2*time.Second)):    wire.CloseUnauthenticated,
		strings.Repeat(".", 3<<10):                    wire.CloseUnauthenticated,
		d.token(t, "ann", map[string]any{"nbf": 9e9}): wire.CloseUnauthenticated,
	} {
		p := d.enter(t, "", nil)
		p.send(wire.Frame{Type: wire.Hello, Token: token})
		if reason := p.wantClosed(code); strings.Contains(reason, token) {
			t.Errorf("the close reason repeats the token: %s", reason)
		}
	}
	p := d.as(t, d.token(t, "ann"))
	p.send(wire.Frame{Type: wire.Auth, Ref: []byte("4"), Token: d.token(t, "mallory")})
	p.wantError(pgcast.CodeForbidden)
	p.quiet()
}
