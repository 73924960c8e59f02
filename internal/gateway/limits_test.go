package gateway

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// A frame over the limit ends the connection with 1009, however long it is, and the
// client gets to know.
func TestFrameTooLarge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.MaxFrame = 4 << 10; s.closeWait = 300 * time.Millisecond })
	p := w.dial(t)
	frame := func(n int) string {
		f := `{"type":"unsubscribe","ref":1,"topic":"a","pad":"`
		return f + strings.Repeat("x", n-len(f)-2) + `"}`
	}
	p.raw(frame(4 << 10))
	p.want(wire.Unsubscribed)
	p.raw(frame(4<<10 + 1))
	p.wantClosed(1009)

	for _, n := range []int{8 << 10, 100 << 10, 3 << 20} {
		// Sent to its end, whatever comes back meanwhile: only then is there a look at it.
		l := w.line(t, 0)
		_, _ = l.Write(masked(opText, []byte(frame(n))))
		if code := l.ended(); code != 1009 {
			t.Errorf("a frame of %d bytes: closed with %d; want 1009", n, code)
		}
	}
}

func TestNotUTF8(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.closeWait = 300 * time.Millisecond })
	for _, text := range [][]byte{{0xff}, []byte("{\"type\":\"hello\",\"token\":\"\xc3\x28\"}"), {0xed, 0xa0, 0x80}, {0xf4, 0x90, 0x80, 0x80}} {
		l := w.line(t, 0)
		l.write(masked(opText, text))
		if code := l.ended(); code != 1007 {
			t.Errorf("% x: closed with %d; want 1007", text, code)
		}
	}
}

func TestBinaryFrames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	l := w.line(t, 0, masked(2, []byte(`{"type":"hello"}`))...)
	for _, want := range []string{`"type":"welcome"`, `"code":"unsupported"`} {
		if op, text, err := l.frame(); err != nil || op != opText || !bytes.Contains(text, []byte(want)) {
			t.Fatalf("got %d %s, %v; want %s", op, text, err, want)
		}
	}
	l.write(masked(opText, []byte(`{"type":"unsubscribe","ref":7,"topic":"a"}`)))
	if _, text, err := l.frame(); err != nil || !bytes.Contains(text, []byte(`"ref":7`)) {
		t.Fatalf("the session did not go on: %s, %v", text, err)
	}
}

// Who is refused over and over is read more slowly, by how much it sends for nothing; each
// frame is answered all the same. No more is asserted than that it takes its time.
func TestRefusedIsReadSlowly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.dial(t)
	refused := func(n, pad int) time.Duration {
		began := time.Now()
		for i := range n {
			p.raw(fmt.Sprintf(`{"type":"no such","ref":%d,"pad":"%s"}`, i, strings.Repeat("x", pad)))
			p.wantError(pgcast.CodeUnsupported)
		}
		p.raw(`{"type":"unsubscribe","ref":1,"topic":"a"}`)
		p.want(wire.Unsubscribed)
		return time.Since(began)
	}
	free := refused(refusedFree, 0)
	if took, least := refused(200, 0), 200*refusedPause; took < least {
		t.Errorf("200 refused frames took %v; must take at least %v (the first %d took %v)", took, least, refusedFree, free)
	}
	if took, least := refused(20, 50<<10), 20*50*refusedPause; took < least {
		t.Errorf("20 refused frames of 50 KiB took %v; must take at least %v", took, least)
	}
}

// After 100 frames that cannot be read a session is closed with 1008, and gets to know
// although it goes on sending.
func TestUnreadableFrames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.closeWait = 300 * time.Millisecond })
	p := w.dial(t)
	for range badFrames {
		p.raw(`{"type":`)
		p.wantError(pgcast.CodeBadFrame)
	}
	p.quiet()
	p.raw(`{"type":`)
	p.wantClosed(1008)

	l := w.line(t, 0)
	_, _ = l.Write(bytes.Repeat(masked(opText, []byte(`{"type":`)), 5000))
	if code := l.ended(); code != 1008 {
		t.Errorf("closed with %d; want 1008", code)
	}
}

// What breaks the WebSocket protocol itself is ended.
func TestBrokenWebSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.closeWait = 300 * time.Millisecond })
	hello := []byte(`{"type":"hello"}`)
	continued := masked(opText, hello)
	continued[0] &^= 0x80
	for name, bytes := range map[string][]byte{
		"unmasked":                  append([]byte{0x81, byte(len(hello))}, hello...),
		"reserved bit":              append([]byte{0xc1}, masked(opText, hello)[1:]...),
		"unknown opcode":            masked(3, hello),
		"continuation of nothing":   masked(0, hello),
		"text within a text":        append(continued, masked(opText, hello)...),
		"long ping":                 masked(opPing, make([]byte, 126)),
		"close with one byte":       masked(opClose, []byte{3}),
		"close with code 1005":      masked(opClose, []byte{3, 0xed}),
		"length over all numbers":   {0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
		"the beginning of a header": {0x81},
	} {
		t.Run(name, func(t *testing.T) {
			l := w.line(t, 0)
			l.write(bytes)
			if name == "the beginning of a header" {
				_ = l.Close()
			} else {
				l.ended()
			}
			await(t, "the session is gone", func() bool { return len(w.hub.Sessions()) == 0 && w.clients() == 0 })
		})
	}
	w.dial(t).quiet()
}

// A message in several fragments, with a ping between, is one message.
func TestFragments(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	l := w.line(t, 0)
	text := []byte(`{"type":"unsubscribe","ref":7,"topic":"é"}`)
	for i := range text {
		opcode := byte(opText)
		if i > 0 {
			opcode = 0
		}
		f := masked(opcode, text[i:i+1])
		if i < len(text)-1 {
			f[0] &^= 0x80
		}
		l.write(append(f, masked(opPing, []byte("are you there"))...))
	}
	pongs := 0
	for {
		opcode, payload, err := l.frame()
		if err != nil {
			t.Fatal(err)
		}
		if opcode == 10 && string(payload) == "are you there" {
			pongs++
		}
		if bytes.Contains(payload, []byte(`"ref":7`)) {
			break
		}
	}
	if pongs == 0 {
		t.Error("no ping was answered")
	}
}

// The limit counts what the client has asked for, in its order.
func TestSubscriptionLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.MaxSubscriptions = 3 })
	p := w.dial(t)
	for _, topic := range []string{"a", "b:*", "c"} {
		p.subscribe(topic, nil, "")
	}
	p.raw(`{"type":"subscribe","ref":1,"topic":"d"}`)
	if f := p.want(wire.SubscribeDenied); f.Reason != wire.ReasonTooMany || f.Topic != "d" || string(f.Ref) != "1" {
		t.Errorf("denied: %+v", f)
	}
	// Moving the place of one that is there needs no more room.
	if seq := p.subscribe("a", at(0), ""); seq != 0 {
		t.Errorf("moved to %d", seq)
	}
	// One that goes makes room for the next, also without waiting for the answer.
	for i := range 50 {
		p.raw(fmt.Sprintf(`{"type":"unsubscribe","topic":"%s"}`, []string{"c", "d"}[i%2]))
		p.raw(fmt.Sprintf(`{"type":"subscribe","ref":2,"topic":"%s"}`, []string{"d", "c"}[i%2]))
	}
	for range 50 {
		p.want(wire.Subscribed)
	}
	p.quiet()
}

func TestSessionLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.MaxSessions = 2 })
	a, b := w.dial(t), w.dial(t)
	res := w.refused(t, nil)
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("the third session got %d with Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
	if n := w.counter(t, "connects_refused_total"); n != 1 {
		t.Errorf("connects_refused_total is %v", n)
	}
	b.quiet()
	_ = a.ws.CloseNow()
	await(t, "there is room again", func() bool { return w.clients() < 2 })
	w.dial(t).quiet()
	// What is no handshake takes no room for long.
	for range 5 {
		res, err := http.Get(w.http.URL + "/ws")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("a request without upgrade, while full, got %d", res.StatusCode)
		}
	}
}
