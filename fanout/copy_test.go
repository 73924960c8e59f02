package fanout

import (
	"errors"
	"fmt"
	"testing"
)

// Another copy of the log is noticed also by a follower that has handed on no event: of
// what it found at its start, or passed over while nobody was subscribed, sessions have
// read too.
func TestAnotherCopyBeforeAnyEvent(t *testing.T) {
	t.Parallel()
	for _, idle := range []bool{false, true} {
		t.Run(fmt.Sprintf("passed over %t", idle), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if !idle {
				w.mustPublish(t, 10, 10, "a")
				w.sequenced(t)
			}
			s := w.server(t, HubOptions{})
			if idle {
				s.mustPublish(t, 10, 10, "a")
				s.came(t)
			}
			p := s.newPeer(t)
			p.must(t, Request{Topic: "a", After: after(0)})
			await(t, "it has everything", func() bool { return p.sink.events() == 10 })

			s.reads.shut.Store(true)
			w.db.Exec(t, fmt.Sprintf(rewind, 5))
			s.mustPublish(t, 20, 10, "a")
			s.sequenced(t)
			if _, err := w.pen.Exec(t.Context(), cutReaders); err != nil {
				t.Fatal(err)
			}
			s.reads.shut.Store(false)
			if err := p.sink.ended(t); !errors.Is(err, ErrResume) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}
