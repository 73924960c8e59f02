package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/wire"
)

// Much more than the kernel takes for a peer that reads nothing, where buffers are small.
const flood, floodSize = 40, 30_000

// smallWindow is the receive buffer of slow peers.
const smallWindow = 64 << 10

func subscription(topic string) []byte {
	return masked(opText, fmt.Appendf(nil, `{"type":"subscribe","ref":1,"topic":"%s"}`, topic))
}

// subscribed reads until the line's subscription has been answered.
func (l *line) subscribed() {
	l.t.Helper()
	for {
		_, text, err := l.frame()
		if err != nil {
			l.t.Fatal(err)
		}
		if bytes.Contains(text, []byte(`"subscribed"`)) {
			return
		}
	}
}

// A peer that reads nothing is ended after the write timeout, and nobody else waits for
// it.
func TestStalledPeer(t *testing.T) {
	w := newWorld(t, func(s *setup) {
		s.small = true
		s.WriteTimeout = 3 * time.Second // the healthy client reads only while the machine lets it
		s.closeWait = 300 * time.Millisecond
	})
	healthy := w.dial(t)
	healthy.subscribe("a", nil, "")
	var stalled []*line
	for range 5 {
		l := w.line(t, smallWindow, subscription("a")...)
		l.subscribed()
		stalled = append(stalled, l)
	}
	began := time.Now()
	w.publish(t, "a", flood, floodSize)
	healthy.stream("a", 1, flood)
	t.Logf("the healthy client had everything after %v", time.Since(began))
	await(t, "only the healthy client is left", func() bool { return w.clients() == 1 && len(w.hub.Sessions()) == 1 })
	healthy.quiet()
	for _, l := range stalled {
		// What was on its way arrives, and ends within a frame or with the close frame.
		if code := l.ended(); code != 0 && code != wire.CloseStalled {
			t.Errorf("closed with %d", code)
		}
	}
}

// A peer that reads slowly gets everything, however long it takes: longer than the write
// timeout, and than the time in which its answer to a ping gets through.
func TestSlowPeer(t *testing.T) {
	w := newWorld(t, func(s *setup) {
		s.small = true
		s.WriteTimeout = 2 * time.Second
		s.PingInterval = time.Second
	})
	const n = 150
	w.publish(t, "a", n, floodSize)
	w.sequenced(t)
	l := w.line(t, smallWindow, masked(opText, []byte(`{"type":"subscribe","topic":"a","after":0}`))...)
	var all bytes.Buffer
	began, pings := time.Now(), 0
	for events := 0; events < n; {
		l.patience(within)
		opcode, text, err := l.frame()
		switch {
		case err != nil:
			t.Fatalf("cut off after %v and %d events: %v", time.Since(began), events, err)
		case opcode == opPing:
			pings++
			l.write(masked(opPong, text))
		case bytes.Contains(text, []byte(`"seq"`)) && !bytes.Contains(text, []byte(`"subscribed"`)):
			events++
			if !bytes.Contains(text, fmt.Appendf(nil, `"seq":%d,`, events)) {
				t.Fatalf("event %d is %.100s…%s", events, text, text[len(text)-60:])
			}
		}
		all.Write(text)
		<-time.After(20 * time.Millisecond)
	}
	t.Logf("read %d bytes and %d pings in %v", all.Len(), pings, time.Since(began))
}

// A client's ping that comes while it is written to is answered after that write; that
// a write takes long ends nothing.
func TestPingWhileBlocked(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	c := &conn{Conn: near, timeout: within}
	written := make(chan error, 1)
	go func() { _, err := c.Write(bytes.Repeat([]byte("x"), 1000)); written <- err }()
	piece := make([]byte, 100)
	if _, err := io.ReadFull(far, piece); err != nil {
		t.Fatal(err)
	}
	c.answer([]byte("one")) // the write holds the connection: neither may wait for it
	c.answer([]byte("two"))
	c.ping()
	c.beat(heartbeat)
	if c.lastPing.Load() != 0 {
		t.Error("a peer that is written to was pinged")
	}
	if _, err := io.ReadFull(far, make([]byte, 900)); err != nil {
		t.Fatal(err)
	}
	pong := make([]byte, 5)
	if _, err := io.ReadFull(far, pong); err != nil || string(pong) != "\x8a\x03two" {
		t.Errorf("after the write came %q, %v", pong, err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// Who takes what is written is not silent, though its pong is late: that stands behind
// all it has not read yet.
func TestLatePong(t *testing.T) {
	w := newWorld(t, nil)
	near, far := net.Pipe()
	defer far.Close()
	c := &client{g: w.gate, conn: &conn{Conn: near, timeout: within}}
	c.session = w.hub.NewSession(c)
	check := func() {
		if err := c.check(time.Now()); err != nil {
			connected{c, c.session}.kill(err)
		}
	}
	late := func() {
		c.conn.lastHeard.Store(time.Now().Add(-time.Hour).UnixNano())
		c.conn.lastPing.Store(time.Now().Add(-time.Minute).UnixNano())
	}
	late()
	written := make(chan error, 1)
	go func() { _, err := c.conn.Write(make([]byte, 1000)); written <- err }()
	await(t, "it is being written to", c.conn.writing)
	check()
	<-time.After(2 * blocked)
	if _, err := io.ReadFull(far, make([]byte, 1000)); err != nil {
		t.Fatalf("dropped while it was written to: %v", err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	c.conn.lastWrite.Store(time.Now().UnixNano())
	check()
	if !c.session.Send([]byte("x")) {
		t.Fatal("dropped although it had just made room")
	}
	if _, err := io.ReadFull(far, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	late()
	await(t, "nothing is written", func() bool { return !c.conn.writing() })
	check()
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a silent peer: %v", err)
	}
}

// Behind a frame that was cut off there is nothing, not even a close frame.
func TestTornFrame(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	c := &conn{Conn: near, timeout: 50 * time.Millisecond}
	go func() { _, _ = io.ReadFull(far, make([]byte, 10)) }()
	if n, err := c.Write(make([]byte, 100)); n != 10 || err != errStalled {
		t.Fatalf("wrote %d, %v", n, err)
	}
	c.closeFrame(1001, "")
	if c.nudge([]byte("x")) {
		t.Error("something was sent behind half a frame")
	}
	if _, err := c.Write([]byte("x")); err != errStalled {
		t.Errorf("writing on: %v", err)
	}
	c.answer(nil)
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer read on: %v", err)
	}
}

// A peer that never answers pings is dropped, one that does is not; neither says
// anything else.
func TestHalfOpenPeer(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.PingInterval = time.Second })
	polite := w.dial(t)
	polite.subscribe("a", nil, "")
	received := make(chan string, 1)
	go func() { // reading is what answers the pings
		text, _ := polite.read()
		received <- text
	}()
	gone := w.line(t, 0)
	gone.patience(within)
	pings := 0
	for {
		opcode, _, err := gone.frame()
		if err != nil {
			break
		}
		if opcode == opPing {
			pings++
		}
	}
	if pings != 1 {
		t.Errorf("%d pings before the end; want 1", pings)
	}
	await(t, "the half-open peer is gone", func() bool { return w.clients() == 1 && len(w.hub.Sessions()) == 1 })
	// The other one has answered some by now.
	c := w.gate.all()[0].transport.(*client)
	last := c.conn.lastPing.Load()
	await(t, "two more pings were answered", func() bool {
		if now := c.conn.lastPing.Load(); now > last {
			last = now
			pings++
		}
		return pings >= 3 && c.conn.lastHeard.Load() > last
	})
	w.publish(t, "a", 1, 1)
	if text := <-received; !bytes.Contains([]byte(text), []byte(`"seq":1`)) {
		t.Errorf("got %q", text)
	}
}

// A connection on which nothing happens gets hb, one on which something does needs none.
func TestHeartbeat(t *testing.T) {
	w := newWorld(t, func(s *setup) {
		s.heartbeat = 100 * time.Millisecond
		s.PingInterval = 250 * time.Millisecond
	})
	p := w.dial(t)
	for range 3 {
		text, err := p.read()
		if err != nil || text != wire.Heartbeat {
			t.Fatalf("got %s, %v", text, err)
		}
	}
	p.quiet()
	c := w.gate.all()[0].transport.(*client)
	before := c.conn.lastWrite.Load()
	if err := c.check(time.Unix(0, before).Add(90 * time.Millisecond)); err != nil {
		t.Error(err)
	}
	if got := c.conn.lastWrite.Load(); got != before {
		t.Error("hb came although something had been sent just before")
	}

	// A client that pings gets it too: the answer to a ping is no frame of the protocol.
	l := w.line(t, 0)
	for beats := 0; beats < 3; {
		l.write(masked(opPing, nil))
		switch opcode, text, err := l.frame(); {
		case err != nil:
			t.Fatalf("%d times hb, then %v", beats, err)
		case opcode == opText && string(text) == wire.Heartbeat:
			beats++
		}
	}
}

// What a client sends behind its handshake, in the same segment, is not lost, also when
// it ends within a frame.
func TestEarlyData(t *testing.T) {
	w := newWorld(t, nil)
	w.publish(t, "a", 2, 1)
	w.sequenced(t)
	for _, n := range []int{1, 20, 60} {
		var early []byte
		for i := range n {
			early = append(early, masked(opText, fmt.Appendf(nil, `{"type":"unsubscribe","ref":%d,"topic":"a"}`, i))...)
		}
		for _, cut := range []int{len(early), len(early) - 1, len(early)/2 + 3, 1} {
			l := w.line(t, 0, early[:cut]...)
			l.write(early[cut:])
			if _, text, err := l.frame(); err != nil || !bytes.Contains(text, []byte(`"welcome"`)) {
				t.Fatalf("got %s, %v", text, err)
			}
			for i := range n {
				_, text, err := l.frame()
				if err != nil || !bytes.Contains(text, fmt.Appendf(nil, `"ref":%d}`, i)) {
					t.Fatalf("%d early frames cut at %d: the answer to %d is %s, %v", n, cut, i, text, err)
				}
			}
			_ = l.Close()
		}
	}
}
