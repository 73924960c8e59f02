package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// Draining sends what is ready, tells every client when to come back, each another time,
// and lets nobody in.
func TestDrain(t *testing.T) {
	w := newWorld(t, nil)
	const n = 40
	peers := make([]*peer, n)
	for i := range peers {
		peers[i] = w.dial(t)
		peers[i].subscribe("a", nil, "")
	}
	w.publish(t, "a", 50, 100)
	for _, p := range peers {
		p.stream("a", 1, 10) // the rest is ready by now, or on its way
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- w.gate.Drain(ctx) }()
	var mu sync.Mutex
	hints := map[int]int{}
	var wg sync.WaitGroup
	for _, p := range peers {
		wg.Go(func() {
			events := 10
			for {
				text, err := p.read()
				if err == nil {
					events += bytes.Count([]byte(text), []byte(`"seq"`))
					continue
				}
				hint := regexp.MustCompile(`status = StatusGoingAway and reason = "retry=(\d+)"`).FindStringSubmatch(err.Error())
				if hint == nil || events != 50 {
					t.Errorf("%d events, then %v", events, err)
					return
				}
				ms, _ := strconv.Atoi(hint[1])
				mu.Lock()
				hints[ms]++
				mu.Unlock()
				return
			}
		})
	}
	wg.Wait()
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if len(hints) < n/2 {
		t.Errorf("%d clients were given only %d different times", n, len(hints))
	}
	for ms := range hints {
		if ms < 0 || time.Duration(ms)*time.Millisecond >= drainJitter {
			t.Errorf("retry=%d", ms)
		}
	}
	if res := w.refused(t, nil); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("a handshake while draining got %d", res.StatusCode)
	}
}

// Clients too slow to be told are cut off when the time is over.
func TestDrainCutsOff(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.small = true })
	quick := w.dial(t)
	for range 3 {
		l := w.line(t, smallWindow, subscription("a")...)
		l.subscribed()
	}
	w.publish(t, "a", flood, floodSize)
	await(t, "three are being written to", func() bool {
		busy := 0
		for _, c := range w.gate.all() {
			if c.transport.(*client).conn.writing() {
				busy++
			}
		}
		return busy == 3
	})
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	told := make(chan int, 1)
	go func() { code, _ := quick.closed(); told <- int(code) }()
	began := time.Now()
	err := w.gate.Drain(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !bytes.Contains([]byte(err.Error()), []byte("3 sessions had to be cut off")) {
		t.Errorf("Drain returned %v", err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	if code := <-told; code != wire.CloseGoingAway {
		t.Errorf("the quick one was closed with %d", code)
	}
	await(t, "all are gone", func() bool { return w.clients() == 0 })
}

// A session whose handshake ends after draining has begun is told like the others.
func TestDrainDuringHandshake(t *testing.T) {
	w := newWorld(t, nil)
	near, far := net.Pipe()
	defer far.Close()
	c := &client{g: w.gate, conn: &conn{Conn: near, timeout: within}}
	if err := w.gate.admit(c, "192.0.2.1", nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- w.gate.Drain(ctx) }()
	await(t, "draining has begun", func() bool {
		w.gate.mu.Lock()
		defer w.gate.mu.Unlock()
		return w.gate.draining
	})
	w.gate.open(c, c) // as ServeHTTP does after the handshake
	head := make([]byte, 4)
	if _, err := io.ReadFull(far, head); err != nil || head[0] != 0x80|opClose || binary.BigEndian.Uint16(head[2:]) != wire.CloseGoingAway {
		t.Errorf("got % x, %v", head, err)
	}
	w.gate.forget(c)
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// broken is a log that cannot be asked.
type broken struct{ err error }

func (b *broken) Publish(context.Context, string, string, json.RawMessage, string) (pgcast.ID, error) {
	return "", b.err
}

func (b *broken) Page(context.Context, string, pgcast.Seq, int) (pgcast.Page, error) {
	return pgcast.Page{}, b.err
}

func (b *broken) Scan(context.Context, pgcast.Pattern, pgcast.Position, pgcast.Position, int) ([]pgcast.Event, pgcast.Position, error) {
	return nil, 0, b.err
}

func (b *broken) ScanGap(context.Context, pgcast.Pattern, pgcast.Position) (pgcast.Position, error) {
	return 0, b.err
}

// What fails on this side is told without its inner workings.
func TestFailures(t *testing.T) {
	b := &broken{}
	w := newWorld(t, nil)
	w.publish(t, "a", 1, 1)
	w.sequenced(t)
	w.gate.publish, w.gate.history = b, b
	p := w.dial(t)
	for _, c := range []struct {
		err  error
		code pgcast.Code
	}{
		{errors.Join(errors.New("secret"), pgcast.ErrUnavailable), pgcast.CodeUnavailable},
		{context.DeadlineExceeded, pgcast.CodeUnavailable},
		{errors.New("secret"), pgcast.CodeInternal},
		{&pgcast.Error{Code: pgcast.CodeInvalidEvent, Message: "it is odd", Hint: "make it even"}, pgcast.CodeInvalidEvent},
	} {
		b.err = c.err
		for _, frame := range []string{`{"type":"publish","ref":1,"topic":"a","event":"e"}`,
			`{"type":"history","ref":1,"topic":"a"}`, `{"type":"history","ref":1,"topic":"**"}`} {
			p.raw(frame)
			f := p.want(wire.Error)
			if f.Code != c.code || string(f.Ref) != "1" || bytes.Contains([]byte(f.Message), []byte("secret")) {
				t.Errorf("%v: %+v", c.err, f)
			}
		}
	}
	if n := w.counter(t, "client_errors_total"); n != 12 {
		t.Errorf("client_errors_total is %v", n)
	}
}

// A subscription about which the log cannot be asked is denied, and can be tried again.
func TestSubscribeUnavailable(t *testing.T) {
	w := newWorld(t, nil)
	p := w.dial(t)
	w.db.Exec(t, `alter table pgcast.topic rename to hidden`)
	p.raw(`{"type":"subscribe","ref":1,"topic":"a"}`)
	if f := p.want(wire.SubscribeDenied); f.Reason != wire.ReasonInternal {
		t.Errorf("denied: %+v", f)
	}
	w.db.Exec(t, `alter table pgcast.hidden rename to topic`)
	p.subscribe("a", nil, "")

	// Where a client resumes is not forgotten meanwhile.
	w.publish(t, "b", 5, 1)
	w.sequenced(t)
	p.send(wire.Frame{Type: wire.Resume, SessionID: p.session, LastSeenSeqs: map[string]pgcast.Seq{"b": 3}})
	p.want(wire.Resumed)
	w.db.Exec(t, `alter table pgcast.topic rename to hidden`)
	p.raw(`{"type":"subscribe","ref":1,"topic":"b"}`)
	p.want(wire.SubscribeDenied)
	w.db.Exec(t, `alter table pgcast.hidden rename to topic`)
	if seq := p.subscribe("b", nil, ""); seq != 3 {
		t.Errorf("b goes on after %d, not 3", seq)
	}
	p.stream("b", 4, 5)
}
