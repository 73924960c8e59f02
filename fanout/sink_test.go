package fanout

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"
)

// sink is a peer as a session sees it. It keeps what it takes, and can stop taking
// anything, take its time, or break.
type sink struct {
	mu     sync.Mutex
	got    []Item
	writes int
	offers int
	kept   []Item        // of an offer, for the next write
	held   chan struct{} // closed when Write may go on; nil while it need not wait
	pause  time.Duration
	broken error

	closed chan struct{}
	reason error // owned by the closer until closed
}

func newSink() *sink { return &sink{closed: make(chan struct{})} }

var errBroken = errors.New("the peer has gone")

func (s *sink) Write(items []Item) error {
	s.mu.Lock()
	held, pause := s.held, s.pause
	s.mu.Unlock()
	if held != nil {
		<-held
	}
	if pause > 0 {
		<-time.After(pause)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	s.got = append(append(s.got, s.kept...), items...)
	s.kept = nil
	s.writes++
	return nil
}

// Offer takes what Write would take at once, except that every third time there is room for
// half of it only.
func (s *sink) Offer(items []Item) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offers++
	room := len(items)
	switch {
	case s.broken != nil:
		return false, s.broken
	case s.held != nil || s.pause > 0:
		room = 0
	case s.offers%3 == 0:
		room /= 2
	}
	s.got = append(s.got, items[:room]...)
	s.kept = slices.Clone(items[room:])
	s.writes++
	return len(s.kept) == 0, nil
}

func (s *sink) Close(reason error) {
	s.reason = reason
	close(s.closed)
}

// hold makes the peer read nothing until release.
func (s *sink) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		s.held = make(chan struct{})
	}
}

func (s *sink) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil {
		close(s.held)
		s.held = nil
	}
}

func (s *sink) slow(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pause = d
}

// snap makes the next write fail, and all after it.
func (s *sink) snap() {
	s.mu.Lock()
	s.broken = errBroken
	s.mu.Unlock()
	s.release()
}

func (s *sink) items() []Item {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// events counts the events taken so far.
func (s *sink) events() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, i := range s.got {
		if i.Frame != nil {
			n++
		}
	}
	return n
}

// notices are those of a kind that the sink has taken, in order.
func (s *sink) notices(kind NoticeKind) []*Notice {
	var list []*Notice
	for _, i := range s.items() {
		if i.Notice != nil && i.Notice.Kind == kind {
			list = append(list, i.Notice)
		}
	}
	return list
}

// ended waits for the session's end and gives its reason.
func (s *sink) ended(t testing.TB) error {
	t.Helper()
	await(t, "the session has ended", func() bool {
		select {
		case <-s.closed:
			return true
		default:
			return false
		}
	})
	return s.reason
}

// syncBuffer is a log to look into.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
