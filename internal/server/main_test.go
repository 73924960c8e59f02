package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/pgcast/pgcast/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is how long a test waits for what it knows will come; long, because the machine
// may be busy.
const within = time.Minute

// await waits until the condition holds.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: still not so after %v", what, within)
		case <-tick.C:
		}
	}
}

var discard = slog.New(slog.DiscardHandler)

// running is a server that runs until the test ends.
type running struct {
	*Server
	listen, admin string
	stop          func() error // and wait
}

// start runs a server on free ports; change may be nil.
func start(t testing.TB, databaseURL string, change func(*Options)) *running {
	t.Helper()
	type addresses struct{ listen, admin string }
	ready := make(chan addresses, 1)
	o := Options{DatabaseURL: databaseURL, Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", Logger: discard,
		// Clients read, and answer pings, only while a test does, which may be slow.
		WriteTimeout: 5 * time.Minute, PingInterval: 5 * time.Minute,
		OnReady: func(listen, admin string) { ready <- addresses{listen, admin} }}
	if change != nil {
		change(&o)
	}
	s, err := New(&o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r := &running{Server: s, stop: sync.OnceValue(func() error { cancel(); return <-done })}
	t.Cleanup(func() { _ = r.stop() })
	select {
	case a := <-ready:
		r.listen, r.admin = a.listen, a.admin
	case <-time.After(within):
		t.Fatal("the server does not listen")
	}
	return r
}

// get asks for a page and gives its status and text; status 0 is no answer.
func get(t testing.TB, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func (r *running) ready(t testing.TB) bool {
	status, _ := get(t, "http://"+r.admin+"/readyz")
	return status == http.StatusOK
}

func (r *running) awaitReady(t testing.TB) *running {
	t.Helper()
	await(t, "the server is ready", func() bool { return r.ready(t) })
	return r
}

// peer is a client.
type peer struct {
	t  testing.TB
	ws *websocket.Conn
}

func (r *running) dial(t testing.TB) *peer {
	t.Helper()
	return r.dialBy(t, http.DefaultClient)
}

// dialSmall makes a client whose kernel takes little for it while it does not read.
func (r *running) dialSmall(t testing.TB) *peer {
	t.Helper()
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		return conn, err
	}
	return r.dialBy(t, &http.Client{Transport: &http.Transport{DialContext: dial}})
}

func (r *running) dialBy(t testing.TB, by *http.Client) *peer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+r.listen+"/ws", &websocket.DialOptions{HTTPClient: by})
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(2 << 20)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &peer{t, ws}
}

func (p *peer) send(text string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := p.ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) read() (wire.ServerFrame, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	_, text, err := p.ws.Read(ctx)
	if err != nil {
		return wire.ServerFrame{}, err
	}
	return wire.ParseServer(text)
}

// want reads on to the next frame of a type; what the server says of itself is no event.
func (p *peer) want(kind wire.Type) wire.ServerFrame {
	p.t.Helper()
	for {
		f, err := p.read()
		if err != nil {
			p.t.Fatalf("while waiting for %q: %v", kind, err)
		}
		if f.Type == kind && (kind != wire.Event || f.Events[0].Topic != wire.System) {
			return f
		}
	}
}

// closed reads until the connection ends and gives the close code and reason.
func (p *peer) closed() (code int, reason string) {
	for {
		if _, err := p.read(); err != nil {
			var ce websocket.CloseError
			if errors.As(err, &ce) {
				return int(ce.Code), ce.Reason
			}
			return -1, err.Error()
		}
	}
}
