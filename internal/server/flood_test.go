package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

func heap() int64 {
	runtime.GC()
	runtime.GC() // what pools held is gone after the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// latencies publishes n events, one after the other, and gives how long the subscriber
// waits for each, sorted.
func (p *peer) latencies(n int) []time.Duration {
	p.t.Helper()
	list := make([]time.Duration, n)
	for i := range list {
		began := time.Now()
		p.send(`{"type":"publish","topic":"healthy","event":"said"}`)
		p.want(wire.Event)
		list[i] = time.Since(began)
	}
	slices.Sort(list)
	return list
}

// S20: connections that send their header byte by byte, or nothing at all, are gone after
// the time that a header has, and a healthy client does not notice them. Headers that are
// too large are refused.
func TestS20SlowLoris(t *testing.T) {
	const drips = 5000
	db := pgtest.New(t, nil)
	r := start(t, db.URL, nil).awaitReady(t)
	p := r.dial(t)
	p.send(`{"type":"subscribe","topic":"healthy"}`)
	p.want(wire.Subscribed)
	p.latencies(50)
	alone := p.latencies(300)

	before := heap()
	conns := make([]net.Conn, drips)
	for i := range conns {
		c, err := net.Dial("tcp", r.listen)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
	}
	stop, dripping := make(chan struct{}), sync.WaitGroup{}
	began := time.Now()
	each := (heap() - before) / drips
	dripping.Go(func() {
		pace := time.NewTicker(200 * time.Millisecond) // of the attacker
		defer pace.Stop()
		header := "GET /ws HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + strings.Repeat("x", 1000)
		for i := range len(header) {
			for _, c := range conns {
				select {
				case <-stop:
					return
				default:
				}
				_, _ = c.Write([]byte{header[i]}) // ends with the connection
			}
			select {
			case <-stop:
				return
			case <-pace.C:
			}
		}
	})
	beside := p.latencies(300)
	p99 := func(list []time.Duration) time.Duration { return list[len(list)*99/100] }
	t.Logf("p99 alone %v, beside %d dripping connections %v; each costs %d bytes, both ends counted", p99(alone), drips, p99(beside), each)
	if p99(beside) > 10*p99(alone)+500*time.Millisecond {
		t.Error("a healthy client notices")
	}
	if each > 64<<10 {
		t.Errorf("a connection that waits costs %d bytes", each)
	}
	for _, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(within))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a connection stays")
		}
	}
	t.Logf("all were gone after %v", time.Since(began))
	close(stop)
	dripping.Wait()

	c, err := net.Dial("tcp", r.listen)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Large: "+strings.Repeat("x", 64<<10))
	}()
	_ = c.SetReadDeadline(time.Now().Add(within))
	if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of 64 KiB gives %v, %v", res, err)
	}
}

// S21: of 20,000 connections from one address those beyond the cap are refused at once, with
// 429, and cost nothing; the others are served.
func TestS21ConnectionFlood(t *testing.T) {
	const dials, most = 20_000, 500
	db := pgtest.New(t, nil)
	r := start(t, db.URL, func(o *Options) { o.MaxSessionsPerAddress = most }).awaitReady(t)
	before := heap()
	began := time.Now()
	var held, refused atomic.Int64
	var mu sync.Mutex
	var open []net.Conn
	work := make(chan struct{})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range work {
				c, err := net.Dial("tcp", r.listen)
				if err != nil {
					t.Error(err)
					return
				}
				if held.Load() < most-32 { // so that none is waited for that is held
					held.Add(1)
					mu.Lock()
					open = append(open, c)
					mu.Unlock()
					continue
				}
				_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				switch {
				case err == nil && res.StatusCode == http.StatusTooManyRequests && res.Header.Get("Retry-After") != "":
					refused.Add(1)
					_ = c.Close()
				case errors.Is(err, os.ErrDeadlineExceeded): // it waits for a request
					held.Add(1)
					mu.Lock()
					open = append(open, c)
					mu.Unlock()
				default:
					t.Errorf("got %v, %v", res, err)
				}
			}
		})
	}
	for range dials {
		work <- struct{}{}
	}
	close(work)
	all.Wait()
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	grown := heap() - before
	t.Logf("%d dials: %d held, %d refused with 429; %d bytes more in memory, %d for each that is held, both ends counted",
		dials, held.Load(), refused.Load(), grown, grown/max(1, held.Load()))
	// Those held end after the time that a header has, and make room for others.
	if may := int64(most * (2 + time.Since(began)/headerTimeout)); refused.Load() < dials-may {
		t.Errorf("only %d of %d were refused; %d may have been let in", refused.Load(), dials, may)
	}
	if grown > 64<<20 {
		t.Errorf("it cost %d bytes", grown)
	}
	// The admin listener is another door, and tells.
	_, text := get(t, "http://"+r.admin+"/metrics")
	if !strings.Contains(text, `pgcast_connections_refused_total{listener="public"}`) {
		t.Error("the refused are not counted")
	}
	for _, c := range open {
		_ = c.Close()
	}
	r.dial(t)
}

// dialFrom opens a session through a proxy that says where it comes from, and gives the
// status of a refusal.
func (r *running) dialFrom(t testing.TB, forwarded ...string) (*peer, int, http.Header) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, "ws://"+r.listen+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"X-Forwarded-For": forwarded}})
	if err != nil {
		if res == nil {
			t.Fatal(err)
		}
		return nil, res.StatusCode, res.Header
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &peer{t, ws}, http.StatusSwitchingProtocols, nil
}

// S21, S22: sessions are counted by address, which is what the right-most hop says that no
// trusted proxy has; what a client writes before it does not evade the cap, and all of a /64
// count as one. A session that ends makes room.
func TestS22SessionsOfAnAddress(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	const most = 3
	r := start(t, db.URL, func(o *Options) {
		o.MaxSessionsPerAddress = most
		o.Live.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	}).awaitReady(t)
	first := []*peer{}
	for i := range most {
		p, status, _ := r.dialFrom(t, fmt.Sprintf("198.51.100.%d, 203.0.113.7, 10.0.0.%d", i, i))
		if p == nil {
			t.Fatalf("session %d: %d", i+1, status)
		}
		first = append(first, p)
	}
	for _, forged := range []string{"203.0.113.7", "1.2.3.4, 203.0.113.7", "203.0.113.7, 10.1.1.1", "garbage, 203.0.113.7", "::ffff:203.0.113.7", "203.0.113.7:1234", "9.9.9.9,203.0.113.7,10.0.0.1,127.0.0.1"} {
		if p, status, h := r.dialFrom(t, forged); p != nil || status != http.StatusTooManyRequests || h.Get("Retry-After") == "" {
			t.Errorf("%s evades the cap: %d %v", forged, status, h)
		}
	}
	if p, status, _ := r.dialFrom(t, "1.2.3.4", "203.0.113.7"); p != nil {
		t.Errorf("two headers evade the cap: %d", status)
	}
	// Streams and polls are sessions too.
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.listen+"/topics/a/sse", nil)
	req.Header.Set("X-Forwarded-For", "203.0.113.7")
	if res, err := http.DefaultClient.Do(req); err != nil || res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a stream evades the cap: %v, %v", res, err)
	} else {
		_ = res.Body.Close()
	}
	for i := range most + 1 {
		p, status, _ := r.dialFrom(t, fmt.Sprintf("2001:db8:1:2::%x", i+1))
		if (p != nil) != (i < most) {
			t.Errorf("address %d of a /64: %d", i+1, status)
		}
	}
	if p, status, _ := r.dialFrom(t, "2001:db8:1:3::1"); p == nil {
		t.Errorf("another /64 is refused: %d", status)
	}
	_ = first[0].ws.CloseNow()
	await(t, "there is room again", func() bool { p, _, _ := r.dialFrom(t, "203.0.113.7"); return p != nil })
}

// S24, S25: subscriptions to a million topics (in the long test, else a tenth of that), over some connections, are denied
// beyond the cap of each before they cost the database anything or memory stays; and the
// metrics have as many series as before.
func TestS24MillionSubscribes(t *testing.T) {
	const most = 50
	connections, each := 10, 10_000
	if os.Getenv("PGCAST_TEST_LONG") == "1" {
		connections = 100 // who is denied much is read slowly, so it takes its time
	}
	db := pgtest.New(t, nil)
	r := start(t, db.URL, func(o *Options) {
		o.MaxSubscriptions = most
		o.Live.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}).awaitReady(t)
	flood := func(connections, each int) (denied int64) {
		var n atomic.Int64
		var all sync.WaitGroup
		for c := range connections {
			p, status, _ := r.dialFrom(t, fmt.Sprintf("203.0.%d.%d", c/250, c%250))
			if p == nil {
				t.Fatalf("connection %d: %d", c, status)
			}
			all.Go(func() {
				defer p.ws.CloseNow()
				all.Go(func() {
					for i := 0; i < each; i += wire.MaxBatchTopics {
						var b strings.Builder
						for j := i; j < min(i+wire.MaxBatchTopics, each); j++ {
							fmt.Fprintf(&b, `,"c%d:%d"`, c, j)
						}
						ctx, cancel := context.WithTimeout(context.Background(), within)
						err := p.ws.Write(ctx, websocket.MessageText, []byte(`{"type":"subscribe-batch","topics":[`+b.String()[1:]+`]}`))
						cancel()
						if err != nil {
							t.Error(err)
							return
						}
					}
				})
				ctx, cancel := context.WithTimeout(context.Background(), 5*within)
				defer cancel()
				for got := 0; got < each; {
					_, text, err := p.ws.Read(ctx)
					switch {
					case err != nil:
						t.Error(err)
						return
					case bytes.HasPrefix(text, []byte(`{"type":"subscribed"`)):
						got++
					case bytes.HasPrefix(text, []byte(`{"type":"subscribe-denied"`)):
						got++
						if !bytes.Contains(text, []byte(wire.ReasonTooMany)) {
							t.Errorf("got %s", text)
						}
						n.Add(1)
					}
				}
			})
		}
		all.Wait()
		await(t, "their sessions have ended", func() bool { return r.hub.Count() == 0 })
		return n.Load()
	}
	flood(2, 100) // so that every kind of series is there
	series := func() (n int) {
		families, err := r.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				n += 1 + len(m.GetHistogram().GetBucket())
			}
		}
		return n
	}
	wasSeries, wasHeap, wasAsked := series(), heap(), r.pool.Stat().AcquireCount()
	began := time.Now()
	denied := flood(connections, each)
	took, asked, grown := time.Since(began), r.pool.Stat().AcquireCount()-wasAsked, heap()-wasHeap
	t.Logf("%d subscribes over %d connections in %v: %d denied, %d uses of a connection to the database, %d bytes more in memory, %d series",
		connections*each, connections, took.Round(time.Millisecond), denied, asked, grown, series())
	if want := int64(connections * (each - most)); denied != want {
		t.Errorf("%d were denied; want %d", denied, want)
	}
	// The follower's own looks go on meanwhile, some tens a second.
	if most := int64(connections*most) + int64(took/(10*time.Millisecond)) + 1000; asked > most {
		t.Errorf("the database was asked %d times; at most %d are for what was allowed", asked, most)
	}
	if grown > 16<<20 {
		t.Errorf("%d bytes stay", grown)
	}
	if now := series(); now != wasSeries {
		t.Errorf("%d series have become %d", wasSeries, now)
	}
}
