package client

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/pgcast/pgcast"
)

// peer is a WebSocket server whose frames the test writes, on pipes, so that it runs in
// a synctest bubble: the clock is the test's, and every goroutine has to end.
type peer struct {
	t      *testing.T
	pipes  chan net.Conn
	conns  chan *peerConn
	refuse func(http.ResponseWriter) bool // answers the handshake instead, if it returns true
	closed chan struct{}
	open   []*peerConn // owned by the test
}

type peerConn struct {
	*websocket.Conn
	t    *testing.T
	at   time.Time
	out  chan string // what is sent and not yet read; pipes hold nothing themselves
	done chan struct{}
}

func (p *peer) Accept() (net.Conn, error) {
	select {
	case c := <-p.pipes:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *peer) Close() error   { close(p.closed); return nil }
func (p *peer) Addr() net.Addr { return &net.IPAddr{} }

func (p *peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.refuse != nil && p.refuse(w) {
		return
	}
	if r.URL.Path != "/ws" {
		p.t.Errorf("the client asked for %s", r.URL.Path)
	}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		p.t.Errorf("accept: %v", err)
		return
	}
	c := &peerConn{ws, p.t, time.Now(), make(chan string, 100), make(chan struct{})}
	p.conns <- c
	for {
		select {
		case text := <-c.out:
			// Fails when the connection has ended, which the test learns when it reads.
			_ = ws.Write(context.Background(), websocket.MessageText, []byte(text))
		case <-c.done:
			_ = ws.CloseNow()
			return
		}
	}
}

// run tests a client against a peer in a bubble. The client runs until test returns.
func run(t *testing.T, opts *Options, test func(t *testing.T, c *Client, p *peer)) {
	t.Helper()
	runRefusing(t, opts, nil, test)
}

func runRefusing(t *testing.T, opts *Options, refuse func(http.ResponseWriter) bool, test func(t *testing.T, c *Client, p *peer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &peer{t: t, pipes: make(chan net.Conn), conns: make(chan *peerConn, 1), closed: make(chan struct{}), refuse: refuse}
		server := &http.Server{Handler: p, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
		served := make(chan error, 1)
		go func() { served <- server.Serve(p) }()
		var o Options
		if opts != nil {
			o = *opts
		}
		o.Logger = slog.New(slog.DiscardHandler)
		transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			select {
			case p.pipes <- theirs:
				return ours, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
		o.HTTPClient = &http.Client{Transport: transport}
		c := New("ws://server", &o)
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- c.Run(ctx) }()
		test(t, c, p)
		cancel()
		err := <-ran
		var refused *RefusedError
		if !errors.Is(err, context.Canceled) && !errors.As(err, &refused) {
			t.Errorf("Run returned %v", err)
		}
		_ = server.Close()
		<-served
		synctest.Wait()
		for len(p.conns) > 0 {
			p.open = append(p.open, <-p.conns)
		}
		for _, conn := range p.open {
			conn.drop()
		}
	})
}

// accept waits for the client to connect and takes its hello.
func (p *peer) accept() *peerConn {
	p.t.Helper()
	c := <-p.conns
	p.open = append(p.open, c)
	c.want(`{"type":"hello","caps":["batch","reset"]}`)
	c.send(`{"type":"welcome","sessionId":"s"}`)
	return c
}

// end drops the connection, without a close frame, when the client has read all.
func (c *peerConn) end() {
	synctest.Wait()
	c.drop()
}

func (c *peerConn) drop() {
	select {
	case <-c.done:
	default:
		_ = c.CloseNow()
		close(c.done)
	}
}

// quit closes the connection with a code.
func (c *peerConn) quit(code int, reason string) {
	synctest.Wait()
	_ = c.Close(websocket.StatusCode(code), reason)
	c.drop()
}

func (c *peerConn) want(texts ...string) {
	c.t.Helper()
	for _, want := range texts {
		_, got, err := c.Read(c.t.Context())
		if err != nil {
			c.t.Fatalf("the client sent nothing, want %s: %v", want, err)
		}
		if d := cmp.Diff(want, string(got)); d != "" {
			c.t.Fatalf("the client's frame: (-want +got)\n%s", d)
		}
	}
}

func (c *peerConn) send(texts ...string) {
	c.t.Helper()
	for _, text := range texts {
		select {
		case c.out <- text:
		default:
			c.t.Fatalf("the client does not read: %d frames are waiting for it", len(c.out))
		}
	}
}

// next wants the app's next items.
func next(t *testing.T, c *Client, want ...Item) {
	t.Helper()
	for _, w := range want {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		got, err := c.Next(ctx)
		cancel()
		if err != nil {
			t.Fatalf("no item, want %#v: %v", w, err)
		}
		if d := cmp.Diff(w, got); d != "" {
			t.Fatalf("item: (-want +got)\n%s", d)
		}
	}
}

// nothing checks that the app is given nothing for a second.
func nothing(t *testing.T, c *Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if it, err := c.Next(ctx); err == nil {
		t.Fatalf("the app got %#v", it)
	}
}

// ev makes an event frame and the item it becomes; position 0 is left out.
func ev(topic string, seq int, position int, through string) (string, Event) {
	e := pgcast.Event{Topic: topic, Name: "e", Seq: pgcast.Seq(seq), Position: pgcast.Position(position),
		ID: pgcast.ID("i" + itoa(seq))}
	text := `{"topic":"` + topic + `","event":"e","data":null,"seq":` + itoa(seq) + `,"id":"` + string(e.ID) + `"`
	if position != 0 {
		text += `,"position":` + itoa(position)
	}
	return text + "}", Event{Event: e, Through: through}
}

func itoa(n int) string { return string(refText(int64(n))) }

// live subscribes to a topic, or a pattern, at a place.
func live(t *testing.T, c *Client, conn *peerConn, key string, ref, at int) {
	t.Helper()
	if err := c.Subscribe(key, nil); err != nil {
		t.Fatal(err)
	}
	conn.want(`{"type":"subscribe","ref":` + itoa(ref) + `,"topic":"` + key + `"}`)
	conn.send(subscribed(key, ref, at))
	next(t, c, Subscribed{Topic: key, Seq: int64(at)})
}

func subscribed(key string, ref, at int) string {
	return `{"type":"subscribed","topic":"` + key + `","ref":` + itoa(ref) + `,"seq":` + itoa(at) + `}`
}

// flow sends events of a topic and takes them as items.
func flow(t *testing.T, c *Client, conn *peerConn, topic string, from, to int) {
	t.Helper()
	for seq := from; seq <= to; seq++ {
		text, item := ev(topic, seq, 0, topic)
		conn.send(text)
		next(t, c, item)
	}
}

func batch(texts ...string) string {
	return `{"type":"batch","events":[` + strings.Join(texts, ",") + `]}`
}
