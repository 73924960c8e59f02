package fanout

import (
	"strings"
	"testing"
)

// The oracle catches a server that is wrong in the one way that is easiest to be: after a
// reconnect it says that it goes on where the client was, and begins one event later.
func TestDropAtReconnect(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"a", "a:*"} {
		for _, skip := range []int64{0, 1} {
			w := newWorld(t)
			s := w.server(t, HubOptions{})
			p := s.newPeer(t)
			p.must(t, Request{Topic: topic})
			name := strings.TrimSuffix(topic, "*") + strings.Repeat("1", strings.Count(topic, "*"))
			s.mustPublish(t, 10, 10, name)
			s.settled(t, "a", p)

			// It comes back after the fifth, while more is written.
			facts, err := w.facts("a")
			if err != nil {
				t.Fatal(err)
			}
			place := facts[4].seq + skip
			back := s.newPeer(t)
			back.must(t, Request{Topic: topic, After: &place})
			s.mustPublish(t, 10, 10, name)
			s.came(t)
			await(t, "everything has come", func() bool { return back.sink.events() == int(15-skip) })
			items := back.sink.items()
			items[0].Notice.Seq -= skip
			*back.asked[0].After -= skip

			r, err := w.record("a")
			if err != nil {
				t.Fatal(err)
			}
			_, missing, err := back.hear(r, items)
			caught := err != nil || len(missing) > 0
			if caught != (skip > 0) {
				t.Errorf("%s, %d skipped: missing %v, error %v", topic, skip, missing, err)
			}
			s.stop()
		}
	}
}
