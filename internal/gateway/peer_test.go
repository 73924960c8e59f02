package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// peer is a well-behaved client that reads only when the test does.
type peer struct {
	t       testing.TB
	ws      *websocket.Conn
	session string // of the newest welcome
}

// dial connects and takes the welcome; caps are told in a hello, if there are any.
func (w *world) dial(t testing.TB, caps ...string) *peer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, w.http.URL+"/ws", nil)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	ws.SetReadLimit(2 << 20)
	p := &peer{t: t, ws: ws}
	t.Cleanup(func() { _ = ws.CloseNow() })
	if f := p.next(); f.Type != wire.Welcome {
		t.Fatalf("the first frame is %+v, not welcome", f)
	}
	if len(caps) > 0 {
		p.send(wire.Frame{Type: wire.Hello, Caps: caps})
	}
	return p
}

// refused tries to connect and gives the answer's status.
func (w *world) refused(t testing.TB, header http.Header) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, w.http.URL+"/ws", &websocket.DialOptions{HTTPHeader: header})
	if err == nil {
		_ = ws.CloseNow()
		t.Fatal("the handshake was not refused")
	}
	if res == nil {
		t.Fatalf("no answer to the handshake: %v", err)
	}
	return res
}

func (p *peer) send(f wire.Frame) { p.t.Helper(); p.raw(string(wire.AppendFrame(nil, &f))) }

func (p *peer) raw(text string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := p.ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		p.t.Fatalf("send %.80s: %v", text, err)
	}
}

func (p *peer) read() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	kind, text, err := p.ws.Read(ctx)
	if err == nil && kind != websocket.MessageText {
		p.t.Errorf("the server sent a message of type %v", kind)
	}
	return string(text), err
}

// text gives the next frame as it is, heartbeats left out.
func (p *peer) text() string {
	p.t.Helper()
	for {
		text, err := p.read()
		if err != nil {
			p.t.Fatalf("read: %v", err)
		}
		if text != wire.Heartbeat {
			return text
		}
	}
}

func (p *peer) next() wire.ServerFrame {
	p.t.Helper()
	f, err := wire.ParseServer([]byte(p.text()))
	if err != nil {
		p.t.Fatal(err)
	}
	if f.Type == wire.Welcome {
		p.session = f.SessionID
	}
	return f
}

// want takes the next frame, which must be of a type.
func (p *peer) want(kind wire.Type) wire.ServerFrame {
	p.t.Helper()
	f := p.next()
	if f.Type != kind {
		p.t.Fatalf("got %+v; want a frame of type %q", f, kind)
	}
	return f
}

// wantError takes the next frame, which must be an error with a code, and gives its ref.
func (p *peer) wantError(code pgcast.Code) string {
	p.t.Helper()
	f := p.want(wire.Error)
	if f.Code != code {
		p.t.Fatalf("got error %s: %s; want %s", f.Code, f.Message, code)
	}
	return string(f.Ref)
}

// subscribe subscribes and gives the place the subscription starts from.
func (p *peer) subscribe(topic string, after *int64, id pgcast.ID) int64 {
	p.t.Helper()
	p.send(wire.Frame{Type: wire.Subscribe, Ref: json.RawMessage(`"s"`), Topic: topic, After: after, ID: id})
	f := p.want(wire.Subscribed)
	if f.Topic != topic || string(f.Ref) != `"s"` {
		p.t.Fatalf("subscribed to %s: %+v", topic, f)
	}
	return f.Seq
}

// events takes n events, single or in batches.
func (p *peer) events(n int) []pgcast.Event {
	p.t.Helper()
	var list []pgcast.Event
	for len(list) < n {
		f := p.next()
		if f.Type != wire.Event && f.Type != wire.Batch {
			p.t.Fatalf("got %+v; want an event (%d of %d so far)", f, len(list), n)
		}
		list = append(list, f.Events...)
	}
	if len(list) > n {
		p.t.Fatalf("got %d events; want %d", len(list), n)
	}
	return list
}

// stream takes the events of a topic with the seqs from first to last and nothing else.
func (p *peer) stream(topic string, first, last int64) {
	p.t.Helper()
	for i, e := range p.events(int(last - first + 1)) {
		if e.Topic != topic || int64(e.Seq) != first+int64(i) {
			p.t.Fatalf("got %s %d; want %s %d", e.Topic, e.Seq, topic, first+int64(i))
		}
	}
}

// quiet makes sure that nothing is on its way: the answer to a question comes next.
func (p *peer) quiet() {
	p.t.Helper()
	p.send(wire.Frame{Type: wire.Unsubscribe, Ref: json.RawMessage(`"quiet"`), Topic: "nobody-is-here"})
	if f := p.want(wire.Unsubscribed); string(f.Ref) != `"quiet"` {
		p.t.Fatalf("got %+v", f)
	}
}

// closed reads until the connection ends, and gives the close code (-1 without one) and
// reason.
func (p *peer) closed() (websocket.StatusCode, string) {
	p.t.Helper()
	for {
		if _, err := p.read(); err != nil {
			var ce websocket.CloseError
			if errors.Is(err, context.DeadlineExceeded) {
				p.t.Fatal("the connection is still open")
			}
			if !errors.As(err, &ce) {
				p.t.Logf("the connection ended without a close frame: %v", err)
				return -1, ""
			}
			return ce.Code, ce.Reason
		}
	}
}

func (p *peer) wantClosed(code int) string {
	p.t.Helper()
	got, reason := p.closed()
	if int(got) != code {
		p.t.Fatalf("closed with %d %q; want %d", got, reason, code)
	}
	return reason
}

func at(n int64) *int64 { return &n }
