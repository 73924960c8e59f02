package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// limitedWorld is a world with rules.
func limitedWorld(t testing.TB, rules string, change func(*setup)) *world {
	t.Helper()
	list, err := ratelimit.ParseRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	return newWorld(t, func(s *setup) {
		s.Limits = ratelimit.New(&ratelimit.Options{Rules: list, Logger: discard})
		if change != nil {
			change(s)
		}
	})
}

// wantLimited takes the next frame, which must say when to try again.
func (p *peer) wantLimited(ref string) {
	p.t.Helper()
	f := p.want(wire.Error)
	if f.Code != pgcast.CodeRateLimited || string(f.Ref) != ref || f.RetryAfter <= 0 || f.RetryAfter > (7*24*time.Hour).Milliseconds() || !strings.Contains(f.Message, "too many ") {
		p.t.Fatalf("got %+v", f)
	}
}

// Frames that come too often are answered with when to try again; they do nothing, and the
// session goes on.
func TestLimitedFrames(t *testing.T) {
	t.Parallel()
	w := limitedWorld(t, "publish session 2/168h, history session 5/168h, publish topic 3/168h", nil)
	p := w.dial(t)
	for i := range 4 {
		p.raw(fmt.Sprintf(`{"type":"publish","ref":%d,"topic":"a","event":"said"}`, i))
		if i < 2 {
			p.want(wire.Published)
		} else {
			p.wantLimited(strconv.Itoa(i))
		}
	}
	p.raw(`{"type":"publish","ref":9,"topic":"a:*","event":"said"}`) // what is wrong anyway
	p.wantError(pgcast.CodeInvalidTopic)
	q := w.dial(t)
	q.raw(`{"type":"publish","ref":1,"topic":"a","event":"said"}`)
	q.want(wire.Published)
	q.raw(`{"type":"publish","ref":2,"topic":"a","event":"said"}`)
	q.wantLimited("2")
	if n := w.counter(t, "published_total"); n != 3 {
		t.Errorf("%v events were published", n)
	}

	w.sequenced(t)
	p.raw(`{"type":"history","ref":1,"topic":"a","limit":301}`) // costs 4
	p.want(wire.History)
	p.raw(`{"type":"history","ref":2,"topic":"a","limit":101}`)
	p.wantLimited("2")
	p.raw(`{"type":"history","ref":3,"topic":"a"}`)
	p.want(wire.History)
	p.raw(`{"type":"replay","ref":4,"topic":"a","since":0,"reqId":7}`)
	p.wantLimited("4")
	if text := p.text(); text != `{"topic":"__replay:a","event":"end","data":{"reqId":7,"truncated":true}}` {
		t.Errorf("the replay ends with %s", text)
	}
	p.subscribe("a", at(0), "")
	p.stream("a", 1, 3)
	p.quiet()
}

// Of a batch as many are subscribed as may be; the others are denied one by one.
func TestLimitedSubscribes(t *testing.T) {
	t.Parallel()
	w := limitedWorld(t, "subscribe session 3/168h, subscribe topic 2/168h", nil)
	p := w.dial(t)
	p.raw(`{"type":"subscribe-batch","ref":1,"topics":["a","b","a","b*","c"]}`)
	for _, topic := range []string{"a", "b", "a"} {
		if f := p.want(wire.Subscribed); f.Topic != topic {
			t.Errorf("got %+v; want %s", f, topic)
		}
	}
	for _, topic := range []string{"b*", "c"} {
		if f := p.want(wire.SubscribeDenied); f.Topic != topic || f.Reason != wire.ReasonRateLimited || string(f.Ref) != "1" {
			t.Errorf("got %+v; want %s", f, topic)
		}
	}
	p.wantLimited("1")
	p.raw(`{"type":"subscribe","topic":"d"}`)
	if f := p.want(wire.SubscribeDenied); f.Reason != wire.ReasonRateLimited {
		t.Errorf("got %+v", f)
	}
	p.quiet() // nobody asked for an answer

	q := w.dial(t)
	q.raw(`{"type":"subscribe","ref":1,"topic":"a"}`)
	q.want(wire.SubscribeDenied)
	q.wantLimited("1")
	q.raw(`{"type":"subscribe","ref":2,"topic":"b"}`)
	q.want(wire.Subscribed)
	w.publish(t, "b", 1, 10)
	p.stream("b", 1, 1)
	q.stream("b", 1, 1)
}

// Who goes on asking after a hundred denials in a row is closed, to come back slowly.
func TestLimitedOverAndOver(t *testing.T) {
	t.Parallel()
	w := limitedWorld(t, "publish session 1/168h, history session 1000/1ms", func(s *setup) { s.closeWait = 300 * time.Millisecond })
	p := w.dial(t)
	p.raw(`{"type":"publish","topic":"a","event":"said"}`)
	p.want(wire.Published)
	for range maxDenied {
		p.raw(`{"type":"publish","topic":"a","event":"said"}`)
		p.wantLimited("")
	}
	p.raw(`{"type":"history","topic":"a"}`)
	p.want(wire.History)
	for range maxDenied {
		p.raw(`{"type":"publish","topic":"a","event":"said"}`)
		p.wantLimited("")
	}
	p.raw(`{"type":"publish","topic":"a","event":"said"}`)
	p.wantClosed(wire.CloseThrottled)
}

// Of a cursor's moves that are too many only the first is answered, and those that ask for
// it.
func TestLimitedCursor(t *testing.T) {
	t.Parallel()
	w := limitedWorld(t, "cursor session 2/168h", nil)
	p := w.dial(t)
	for range 2 {
		p.raw(`{"type":"cursor","topic":"a","data":1}`)
		p.wantError(pgcast.CodeUnsupported) // this world has none
	}
	for range 2 * maxDenied {
		p.raw(`{"type":"cursor","topic":"a","data":1}`)
	}
	p.wantLimited("")
	p.quiet()
	p.raw(`{"type":"cursor","ref":1,"topic":"a","data":1}`)
	p.wantLimited("1")
	p.raw(`{"type":"cursor","topic":"a","op":"leave"}`)
	p.wantError(pgcast.CodeUnsupported) // to go costs nothing
}

// wantTooMany checks an answer that says when to come back.
func wantTooMany(t testing.TB, res *http.Response) {
	t.Helper()
	text := body(t, res)
	var p problem
	if err := json.Unmarshal([]byte(text), &p); err != nil || res.StatusCode != http.StatusTooManyRequests {
		t.Fatalf("got %s %s, %v; want 429", res.Status, text, err)
	}
	seconds, err := strconv.Atoi(res.Header.Get("Retry-After"))
	if err != nil || seconds < 1 || p.Error.Code != pgcast.CodeRateLimited || p.Error.RetryAfter <= 0 || int64(seconds-1)*1000 >= p.Error.RetryAfter || int64(seconds)*1000 < p.Error.RetryAfter {
		t.Errorf("Retry-After: %s, and in the body %s", res.Header.Get("Retry-After"), text)
	}
}

// Requests that come too often are answered with 429, before anything is done for them.
func TestLimitedRequests(t *testing.T) {
	t.Parallel()
	w := limitedWorld(t, "connect ip 2/168h, publish session 1/168h, history ip 3/168h, subscribe topic 1/168h", nil)
	post := func() *http.Response {
		return w.call(t, http.MethodPost, "a", "", `{}`, "Content-Type", "application/json", EventHeader, "said")
	}
	if res := post(); res.StatusCode != http.StatusCreated {
		t.Errorf("publish: %s", body(t, res))
	}
	wantTooMany(t, post()) // it has no session, and so its address counts
	w.sequenced(t)
	w.get(t, "a", "limit=200")
	w.get(t, "a", "after=0&wait=1")
	wantTooMany(t, w.call(t, http.MethodGet, "a", "after=1&wait=30", ""))

	w.sse(t, "a", "topic=b", "")
	_, res := w.request(t, "c", "topic=a", "")
	wantTooMany(t, res) // one of its topics
	_, res = w.request(t, "c", "", "")
	wantTooMany(t, res)
	res = w.refused(t, nil)
	wantTooMany(t, res)
	if n := w.clients(); n != 1 {
		t.Errorf("%d clients are there", n)
	}
}

// An EventSource, which would never come back after a 429, is told when to.
func TestLimitedEventSource(t *testing.T) {
	t.Parallel()
	w := limitedWorld(t, "connect ip 1/10m", nil)
	w.sse(t, "a", "", "")
	conn, err := net.Dial("tcp", w.address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /topics/a/sse HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: text/event-stream\r\n\r\n")
	_ = conn.SetReadDeadline(time.Now().Add(within))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	retry := regexp.MustCompile(`^retry: (\d+)\n`).FindSubmatch(text)
	if err != nil || res.StatusCode != http.StatusOK || retry == nil {
		t.Fatalf("%s %q, %v", res.Status, text, err)
	}
	if ms, _ := strconv.Atoi(string(retry[1])); ms < 500_000 || ms > 605_000 {
		t.Errorf("it is to come back after %d ms", ms)
	}
}

// Behind a proxy that is trusted each client has its own address; others cannot choose one.
func TestForwardedFor(t *testing.T) {
	t.Parallel()
	rules := "connect ip 1/168h, publish ip 1/168h, history ip 1/168h"
	near := limitedWorld(t, rules, func(s *setup) { s.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	for _, from := range []string{"203.0.113.1", "203.0.113.2", "2001:db8::1", "6.6.6.6, 2001:db8:0:1::1"} {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		header := http.Header{"X-Forwarded-For": {from}}
		ws, _, err := websocket.Dial(ctx, near.http.URL+"/ws", &websocket.DialOptions{HTTPHeader: header})
		if err != nil {
			t.Fatalf("%s: %v", from, err)
		}
		p := &peer{t: t, ws: ws}
		t.Cleanup(func() { _ = ws.CloseNow() })
		p.want(wire.Welcome)
		p.raw(`{"type":"publish","ref":1,"topic":"a","event":"said"}`)
		p.want(wire.Published)
		p.raw(`{"type":"publish","ref":2,"topic":"a","event":"said"}`)
		p.wantLimited("2")
		wantTooMany(t, near.refused(t, header))
		if res := near.call(t, http.MethodGet, "a", "", "", "X-Forwarded-For", from); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", from, body(t, res))
		}
		wantTooMany(t, near.call(t, http.MethodGet, "a", "", "", "X-Forwarded-For", "1.2.3.4, "+from))
	}
	wantTooMany(t, near.refused(t, http.Header{"X-Forwarded-For": {"2001:db8:0:0:ffff::1"}})) // of a network that has had its own

	far := limitedWorld(t, rules, nil)
	far.dial(t)
	wantTooMany(t, far.refused(t, http.Header{"X-Forwarded-For": {"203.0.113.1"}}))
}

// A session of a server that limits nothing has nothing about it in memory.
func TestNothingIsLimited(t *testing.T) {
	t.Parallel()
	w := limitedWorld(t, "connect ip 1000/1s", nil)
	p := w.dial(t)
	p.subscribe("a", nil, "")
	p.raw(`{"type":"history","ref":1,"topic":"a"}`)
	p.want(wire.History)
	p.raw(`{"type":"publish","ref":1,"topic":"b","event":"said"}`)
	p.want(wire.Published)
	w.gate.mu.Lock()
	defer w.gate.mu.Unlock()
	for c := range w.gate.clients {
		if c.(*client).limited != nil {
			t.Error("something was noted")
		}
	}
}

// A ban reaches sessions that are there already, and who it is not on goes on.
func TestBannedSession(t *testing.T) {
	t.Parallel()
	w := limitedWorld(t, "", nil)
	p, q := w.dial(t), w.dial(t)
	own, _, _ := strings.Cut(p.session, ".")
	if err := w.gate.opts.Limits.Ban(t.Context(), ratelimit.Session, publicKey(own), time.Hour); err != nil {
		t.Fatal(err)
	}
	p.raw(`{"type":"publish","ref":1,"topic":"a","event":"said"}`)
	if ref := p.wantError(pgcast.CodeRateLimited); ref != "1" {
		t.Errorf("ref %s", ref)
	}
	q.raw(`{"type":"publish","ref":1,"topic":"a","event":"said"}`)
	q.want(wire.Published)
	if err := w.gate.opts.Limits.Ban(t.Context(), ratelimit.IP, "127.0.0.1", time.Hour); err != nil {
		t.Fatal(err)
	}
	q.raw(`{"type":"subscribe","ref":1,"topic":"a"}`)
	q.want(wire.SubscribeDenied)
	if res := w.refused(t, nil); res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
		t.Errorf("connecting is answered with %s", res.Status)
	}
}
