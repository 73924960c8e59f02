package fanout

import (
	"sync"
	"testing"
	"time"
)

// seen is a view that counts how often it is pulled.
type seen struct {
	mu    sync.Mutex
	pulls int
}

func (v *seen) Pull() [][]byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pulls++
	return [][]byte{[]byte("seen")}
}

func (v *seen) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.pulls
}

// stuck is a session whose pump waits for a peer that reads nothing.
func stuck(t *testing.T) (*Session, *sink) {
	t.Helper()
	w := newWorld(t)
	out := newSink()
	out.hold()
	s := w.server(t, HubOptions{}).hub.NewSession(out)
	s.Send([]byte("first"))
	await(t, "the pump is at it", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.running && len(s.control) == 0
	})
	t.Cleanup(func() {
		out.release()
		s.End(nil)
		_ = out.ended(t)
	})
	return s, out
}

// A session keeps no views that are over, although nothing is sent; those that are not are
// pulled once, however often that was asked for.
func TestForgottenViews(t *testing.T) {
	t.Parallel()
	s, out := stuck(t)
	over, open := &seen{}, &seen{}
	for range 100 {
		s.Pull(over)
		s.Pull(open)
		s.Forget(over)
		v := &seen{}
		s.Pull(v)
		s.Forget(v)
	}
	s.mu.Lock()
	if n := len(s.views); n != 1 {
		t.Errorf("%d views are kept; want 1", n)
	}
	s.mu.Unlock()
	out.release()
	await(t, "the open view is sent", func() bool { return len(out.items()) == 2 })
	await(t, "nothing is left", s.Idle)
	if over.count() != 0 || open.count() != 1 {
		t.Errorf("pulled %d times and %d times; want 0 and 1", over.count(), open.count())
	}
}

// Who offers something waits for nobody, however many do so at once: one that carries for
// all must not be held up by one peer that reads nothing.
func TestOffersDoNotWait(t *testing.T) {
	t.Parallel()
	s, _ := stuck(t)
	text := make([]byte, maxControlBytes/3) // four are more than Send lets by
	var offers sync.WaitGroup
	begin := make(chan struct{})
	for range 64 {
		offers.Go(func() {
			<-begin
			s.Offer(text)
		})
	}
	close(begin)
	done := make(chan struct{})
	go func() { offers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("an offer waits for the peer")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if most := maxControlBytes/2 + len(text); s.bytes > most {
		t.Errorf("%d bytes are kept of offers; want at most %d", s.bytes, most)
	}
}
