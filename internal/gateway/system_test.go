package gateway

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// saidOf is what a session is to be told of a backend.
func saidOf(backend, event string) string {
	return fmt.Sprintf(`{"topic":"__system","event":%q,"data":{"backend":%q}}`, event, backend)
}

// Every session is told of each change once; one that comes later, behind its welcome, of
// what is degraded then.
func TestAnnounce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	a, b := w.dial(t), w.dial(t)
	tell := func(p *peer, want ...string) {
		t.Helper()
		for _, text := range want {
			if got := p.text(); got != text {
				t.Errorf("told %s; want %s", got, text)
			}
		}
		p.quiet()
	}
	w.gate.Announce("redis", false) // as it was
	w.gate.Announce("redis", true)
	w.gate.Announce("redis", true)
	tell(a, saidOf("redis", "degraded"))
	tell(b, saidOf("redis", "degraded"))
	w.gate.Announce("postgres", true)
	tell(a, saidOf("postgres", "degraded"))
	late := w.dial(t)
	tell(late, saidOf("postgres", "degraded"), saidOf("redis", "degraded"))
	w.gate.Announce("redis", false)
	for _, p := range []*peer{a, late} {
		tell(p, saidOf("redis", "recovered"))
	}
	tell(b, saidOf("postgres", "degraded"), saidOf("redis", "recovered"))
	w.gate.Announce("postgres", false)
	tell(w.dial(t))
	tell(a, saidOf("postgres", "recovered"))
}

// A backend may change while clients connect: each is told how it stands.
func TestAnnounceWhileConnecting(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	done := make(chan struct{})
	var changes sync.WaitGroup
	changes.Go(func() {
		for degraded := false; ; degraded = !degraded {
			select {
			case <-done:
				w.gate.Announce("redis", true)
				return
			default:
				w.gate.Announce("redis", degraded)
			}
		}
	})
	var peers []*peer
	for range 100 {
		peers = append(peers, w.dial(t))
	}
	close(done)
	changes.Wait()
	for _, p := range peers {
		last := ""
		for range 2 { // with the first answer, or before it, all is told
			p.raw(`{"type":"unsubscribe","ref":1,"topic":"none"}`)
			for text := p.text(); !strings.Contains(text, `"unsubscribed"`); text = p.text() {
				last = text
			}
		}
		if last != saidOf("redis", "degraded") {
			t.Errorf("the last it was told is %q", last)
		}
	}
}

// A session that reads nothing is told, when it reads again, how things stand then, however
// often they changed.
func TestAnnounceToSlow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.small = true })
	l := w.line(t, smallWindow, subscription("a")...)
	l.subscribed()
	w.publish(t, "a", flood, floodSize)
	w.sequenced(t)
	for range 1000 {
		w.gate.Announce("redis", true)
		w.gate.Announce("redis", false)
	}
	w.gate.Announce("redis", true)
	degraded, events := 0, 0
	for last := ""; events < flood || last != saidOf("redis", "degraded"); {
		_, text, err := l.frame()
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.Contains(string(text), `"__system"`):
			last = string(text)
			if degraded++; degraded > 100 {
				t.Fatal("it is told of everything that has passed")
			}
		case strings.Contains(string(text), `"topic":"a"`):
			events++
		}
	}
}
