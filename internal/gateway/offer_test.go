package gateway

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// What an offer finds no room for comes with the next write, in its place, and nothing
// gets into the middle of a frame that an offer has begun.
func TestOffer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	c := &conn{Conn: near, timeout: within}
	if c.ready(); c.raw == nil {
		t.Fatal("a TCP connection is not written to at once")
	}
	// A deadline that has passed belongs to a write long ago.
	_ = near.SetWriteDeadline(time.Now().Add(-time.Hour))

	frame := func(n int) []byte { return bytes.Repeat([]byte{byte('a' + n%26)}, 100_000) }
	var want []byte
	n := 0
	for done := true; done; n++ {
		if n > 1000 {
			t.Fatal("a peer that reads nothing takes everything")
		}
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
