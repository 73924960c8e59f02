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

// Pages of the log in which there is nothing take room too: patterns that select nothing
// are cheap to think of.
func TestEmptyPagesAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.server(t, HubOptions{CacheBytes: 20_000})
	w.mustPublish(t, 10, 1, "a")
	out := newSink()
	session := s.hub.NewSession(out)
	const patterns = 200
	await(t, "the hub has them", func() bool { return s.hub.Position() == 10 })
	zero := int64(0)
	for i := range patterns {
		topic := fmt.Sprintf("nobody%d:*", i)
		if err := session.Subscribe(t.Context(), Request{Topic: topic, After: &zero}); err != nil {
			t.Fatal(err)
		}
		await(t, "it is subscribed and has read the log", func() bool {
			return len(out.notices(Subscribed)) == i+1 && session.Idle()
		})
		session.Unsubscribe(topic, nil)
	}
	s.hub.reads.mu.Lock()
	kept := len(s.hub.reads.pages)
	s.hub.reads.mu.Unlock()
	if scans := s.reads.scans.Load(); scans < patterns {
		t.Errorf("%d patterns made only %d reads", patterns, scans)
	}
	if kept > patterns/2 {
		t.Errorf("%d empty pages are kept", kept)
	}
	session.End(nil)
	_ = out.ended(t)
}
