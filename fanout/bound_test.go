package fanout

import (
	"fmt"
	"strings"
	"testing"
)

// A session whose peer reads nothing keeps a bounded amount of answers, however long the
// names are that were asked for: whoever asks has to wait.
func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.server(t, HubOptions{})
	for name, ask := range map[string]func(*Session, string){
		"deny":        func(s *Session, topic string) { s.Deny(topic, nil, "INVALID_TOPIC") },
		"unsubscribe": func(s *Session, topic string) { s.Unsubscribe(topic, []byte("1")) },
		"send":        func(s *Session, topic string) { s.Send([]byte(topic)) },
	} {
		t.Run(name, func(t *testing.T) {
			out := newSink()
			out.hold()
			session := s.hub.NewSession(out)
			const asks, long = 100, 100_000
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := range asks {
					ask(session, fmt.Sprintf("%03d", i)+strings.Repeat("x", long))
				}
			}()
			await(t, "the asker waits", func() bool {
				session.mu.Lock()
				defer session.mu.Unlock()
				select {
				case <-done:
					t.Fatalf("nobody waited: %d answers are kept", len(session.control))
				default:
				}
				return session.bytes > maxControlBytes
			})
			out.release()
			<-done
			await(t, "all are answered", func() bool { return len(out.items()) == asks })
			session.mu.Lock()
			if session.bytes != 0 {
				t.Errorf("%d bytes are counted although nothing is kept", session.bytes)
			}
			session.mu.Unlock()
			session.End(nil)
			_ = out.ended(t)
		})
	}
}
