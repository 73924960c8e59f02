package gateway

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// offered makes a connection that can be written to at once, and its far end.
func offered(t *testing.T) (c *conn, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close() })
	c = &conn{Conn: near, timeout: within}
	if c.ready(); c.raw == nil {
		t.Fatal("a TCP connection is not written to at once")
	}
	return c, far
}

// What an offer finds no room for comes with the next write, in its place, and nothing
// gets into the middle of a frame that an offer has begun.
func TestOffer(t *testing.T) {
	c, far := offered(t)
	// A deadline that has passed belongs to a write long ago.
	_ = c.Conn.SetWriteDeadline(time.Now().Add(-time.Hour))

	frame := func(n int) []byte { return bytes.Repeat([]byte{byte('a' + n%26)}, 100_000) }
	var want []byte
	n := 0
	for done := true; done; n++ {
		if n > 1000 {
			t.Fatal("a peer that reads nothing takes everything")
		}
		var err error
		if done, err = c.offer(frame(n)); err != nil {
			t.Fatal(err)
		}
		want = append(want, frame(n)...)
	}
	torn := c.rest != nil // else there was room for nothing of it
	if got := c.writing(); got != torn {
		t.Errorf("within a frame is %v, writing is %v", torn, got)
	}
	if torn && c.nudge([]byte("x")) {
		t.Error("something got into a frame")
	}
	if done, err := c.offer(frame(n)); done || err != nil {
		t.Errorf("an offer behind what is left: %v, %v", done, err)
	}
	want = append(want, frame(n)...)
	pong := append([]byte{0x80 | opPong, 1}, 'p')
	if torn {
		c.answer([]byte("p"))
	}
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(append(c.finish(), frame(n+1)...))
		written <- err
	}()
	want = append(want, frame(n+1)...)
	if torn {
		want = append(want, pong...)
	}
	got := make([]byte, len(want))
	_ = far.SetReadDeadline(time.Now().Add(within))
	if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v, as it was written: %v", err, bytes.Equal(got, want))
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	if done, err := c.offer([]byte("z")); !done || err != nil {
		t.Errorf("an offer to a peer that has read everything: %v, %v", done, err)
	}
	_ = c.Conn.Close()
	if _, err := c.offer([]byte("z")); err == nil {
		t.Error("a closed connection took an offer")
	}
}

// A pong that came to be owed while an offer held the connection is not waited for either:
// those who offer serve other peers too. The write that follows sends it.
func TestOfferOwesPong(t *testing.T) {
	c, far := offered(t)
	pong, got := []byte{0x80 | opPong, 0}, make([]byte, 3)
	c.pong.Store(&pong)
	if done, err := c.offer([]byte("a")); done || err != nil {
		t.Errorf("an offer that leaves a pong owed: %v, %v", done, err)
	}
	if _, err := c.Write(c.finish()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, got); err != nil || string(got) != "a\x8a\x00" {
		t.Errorf("%q, %v", got, err)
	}

	for left := []byte(nil); left == nil; { // until there is no room, without having begun a frame
		if err := c.raw.Control(func(fd uintptr) { left, _ = writeNow(fd, make([]byte, 1<<20)) }); err != nil {
			t.Fatal(err)
		}
	}
	c.pong.Store(&pong)
	offered := make(chan bool, 1)
	go func() {
		done, _ := c.offer([]byte("b"))
		offered <- done
	}()
	select {
	case done := <-offered:
		if done {
			t.Error("a peer that reads nothing takes everything")
		}
	case <-time.After(within / 4):
		t.Error("an offer waits for a peer that reads nothing")
		_ = c.Conn.Close()
		<-offered
	}
}

// A pong is not forgotten because somebody asked just then whether a write is under way.
func TestAskedWhileOwingPong(t *testing.T) {
	c, far := offered(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				c.writing()
			}
		}
	}()
	_ = far.SetReadDeadline(time.Now().Add(within))
	for range 20_000 {
		c.answer(nil)
		if _, err := io.ReadFull(far, make([]byte, 2)); err != nil {
			t.Error("a pong was forgotten")
			break
		}
	}
	close(stop)
	<-stopped
}

// What is offered never reaches another connection: the one it was for may be closed at any
// time, by either end, and its number given to the next.
func TestOfferAfterClose(t *testing.T) {
	for round := range 100 {
		c, far := offered(t)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				if _, err := c.offer([]byte("stray")); err != nil {
					return
				}
				c.finish()
			}
		}()
		if round%2 == 0 {
			_ = c.Conn.Close()
		} else {
			_ = far.(*net.TCPConn).SetLinger(0)
			_ = far.Close()
		}
		var next [4]struct {
			c   *conn
			far net.Conn
		}
		for i := range next {
			next[i].c, next[i].far = offered(t)
		}
		for _, n := range next {
			if done, err := n.c.offer([]byte("own")); !done || err != nil {
				t.Fatal(done, err)
			}
			_ = n.c.Conn.Close()
			if got, err := io.ReadAll(n.far); err != nil || string(got) != "own" {
				t.Fatalf("round %d: the next connection got %.20q, %v", round, got, err)
			}
		}
		select {
		case <-ended:
		case <-time.After(within):
			t.Fatal("a closed connection takes offers")
		}
	}
}
