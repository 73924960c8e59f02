package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
)

func everybody(*auth.Claims) bool { return true }

// What is no longer allowed ends at once, and nothing else does, whoever writes meanwhile. S10.
func TestS10Recheck(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, nil)
	rules.let("ann subscribe,history a:*", "bob subscribe,history a:*", "ann presence,cursor,group,subscribe on:*", "ann group,subscribe group:g", "eve presence,cursor on:1")
	ann, bob, eve := w.dialBy(t, "ann"), w.dialBy(t, "bob"), w.dialBy(t, "eve")
	for _, p := range []*peer{ann, bob} {
		p.subscribe("a:1", nil, "")
		p.subscribe("a:2", nil, "")
	}
	ann.raw(`{"type":"subscribe","topic":"on:1","ref":1}`)
	ann.hears(`"__cursor:on:1"`)
	ann.raw(`{"type":"cursor","topic":"on:1","data":7}`)
	ann.try(`{"type":"group","group":"g","op":"create","ref":1}`)
	ann.try(`{"type":"group","group":"g","op":"join","ref":1}`)
	eve.raw(`{"type":"presence","topic":"on:1","op":"sync"}`)
	eve.hears(`"presence_state"`)
	eve.raw(`{"type":"cursor-snapshot","topic":"on:1"}`)
	eve.hears(`"__cursor:on:1"`, `"data":7`)

	rules.forbid("ann subscribe,history a:*")
	rules.let("ann subscribe a:2")
	w.gate.Recheck(func(c *auth.Claims) bool { return c.Subject == "ann" })
	ann.hears(`{"type":"subscribe-denied","topic":"a:1","reason":"FORBIDDEN"}`)
	w.publish(t, "a:1", 3, 10)
	w.publish(t, "a:2", 1, 10)
	ann.hears(`"a:2"`, `"seq":1`)
	ann.quiet()
	bob.events(4)

	rules.forbid("ann presence on:*")
	w.gate.Recheck(everybody)
	ann.hears(`"subscribe-denied"`, `"__presence:on:1"`)
	eve.hears(`"presence_diff"`, `"leaves":{"`)
	rules.forbid("ann cursor on:*")
	w.gate.Recheck(everybody)
	ann.hears(`"subscribe-denied"`, `"__cursor:on:1"`)
	eve.hears(`"__cursor:on:1"`, `"remove"`)
	rules.forbid("ann group group:g")
	w.gate.Recheck(everybody)
	ann.hears(`"subscribe-denied"`, `"__group:g"`)
	rules.let("eve group group:g")
	eve.raw(`{"type":"group","group":"g","op":"list","ref":2}`)
	eve.hears(`"ref":2`, `"members":[]`)
	ann.quiet() // on:1 itself goes on
	w.publish(t, "on:1", 1, 10)
	ann.stream("on:1", 1, 1)

	rules.ban("bob")
	w.gate.Recheck(everybody)
	bob.wantClosed(wire.CloseForbidden)
	rules.let("ann subscribe a:1")
	if got := ann.subscribe("a:1", nil, ""); got != 3 {
		t.Errorf("allowed again, it begins at %d", got)
	}
}

// Streams and polls end as well.
func TestRecheckOfRequests(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, nil)
	rules.let("ann subscribe,history a:*")
	s, res := w.requestAs(t, "a:1", "topic=a:2", "", bearing("ann"))
	if res.StatusCode != http.StatusOK {
		t.Fatal(res.Status)
	}
	s.next()
	s.next()
	var polls sync.WaitGroup
	for range 3 {
		polls.Go(func() {
			if got := w.is(t, "ann", "GET", "/topics/a:1/events?wait=60"); got != http.StatusForbidden {
				t.Errorf("a poll that may go on no more: %d", got)
			}
		})
	}
	await(t, "all are there", func() bool { return len(w.hub.Sessions()) == 4 })
	await(t, "all wait", func() bool { return w.counter(t, "subscriptions") == 5 })
	rules.forbid("ann subscribe a:*")
	rules.let("ann subscribe a:2")
	w.gate.Recheck(everybody)
	if e := s.next(); e.Event != "denied" || e.Data != `{"type":"subscribe-denied","topic":"a:1","reason":"FORBIDDEN"}` {
		t.Errorf("the stream is told %+v", e)
	}
	if e, err := s.read(); err == nil {
		t.Errorf("it goes on with %+v", e)
	}
	polls.Wait()
}

// While nothing can be decided all goes on, for a while; then it counts as no.
func TestRecheckThatCannotBe(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, nil)
	rules.let("ann subscribe a:1", "ann subscribe a:2")
	ann := w.dialBy(t, "ann")
	ann.subscribe("a:1", nil, "")
	ann.subscribe("a:2", nil, "")
	rules.set(func() { rules.down = true })
	w.gate.Recheck(everybody)
	tried := 0
	await(t, "it was tried again", func() bool { tried += len(rules.questions()); return tried > 9 })
	w.publish(t, "a:1", 1, 10)
	ann.stream("a:1", 1, 1)
	if got := ann.try(`{"type":"subscribe","topic":"a:3","ref":1}`); got != "subscribe-denied INTERNAL_ERROR" {
		t.Errorf("a new one is answered with %s", got)
	}
	if got := w.is(t, "ann", "GET", "/topics/a:1/events"); got != http.StatusServiceUnavailable {
		t.Errorf("a request: %d", got)
	}
	rules.forbid("ann subscribe a:2")
	rules.set(func() { rules.down = false })
	ann.hears(`"subscribe-denied"`, `"a:2"`)
	w.publish(t, "a:1", 1, 10)
	ann.stream("a:1", 2, 2)

	hasty, rules := guarded(t, func(s *setup) { s.Access.DecisionTTL = 300 * time.Millisecond })
	rules.let("ann subscribe a:1")
	ann = hasty.dialBy(t, "ann")
	ann.subscribe("a:1", nil, "")
	rules.set(func() { rules.down = true })
	hasty.gate.Recheck(everybody)
	ann.wantClosed(wire.CloseStalled) // to come back
}

// A client that reads nothing loses its rights all the same.
func TestRecheckOfTheSlow(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, func(s *setup) { s.small = true })
	rules.let("ann subscribe a:*", "ann publish a:1", "bob subscribe a:*")
	ann := w.dialBy(t, "ann")
	ann.subscribe("a:1", nil, "")
	const big = 100
	w.publish(t, "a:1", big, 100_000) // more than its connection takes
	w.sequenced(t)
	for range 50 {
		ann.raw(`{"type":"subscribe","topic":"a:1","after":0,"ref":1}`) // which all wait
	}
	rules.forbid("ann subscribe a:*")
	w.gate.Recheck(everybody)
	await(t, "it has no subscription", func() bool {
		w.gate.mu.Lock()
		defer w.gate.mu.Unlock()
		for r := range w.gate.rights {
			r.mu.Lock()
			n := len(r.topics) - len(r.lost())
			r.mu.Unlock()
			if n > 0 {
				return false
			}
		}
		return true
	})
	w.publish(t, "a:1", 20, 10)
	w.sequenced(t)
	for denied := 0; denied == 0; {
		text := ann.text()
		for seq := big + 1; seq <= big+20; seq++ {
			if strings.Contains(text, fmt.Sprintf(`"seq":%d,`, seq)) {
				t.Fatalf("it was sent %.80s", text)
			}
		}
		if strings.Contains(text, `"FORBIDDEN"`) && !strings.Contains(text, `"ref"`) {
			denied++
		}
	}
}

// While grants come and go, and somebody writes all the time, nobody sees what was written
// while he had no right.
func TestRecheckUnderAWriter(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, nil)
	const sessions, rounds = 8, 15
	rules.let("ann subscribe a:1")
	var peers []*peer
	for range sessions {
		peers = append(peers, w.dialBy(t, "ann"))
	}
	for round := range rounds {
		for _, p := range peers {
			p.subscribe("a:1", nil, "")
		}
		w.publish(t, "a:1", 10, 10)
		rules.forbid("ann subscribe a:1")
		w.gate.Recheck(everybody)
		for _, p := range peers {
			p.hears(`"subscribe-denied"`) // behind what was written before
		}
		w.publish(t, "a:1", 10, 10)
		w.sequenced(t)
		for _, p := range peers {
			p.quiet()
		}
		if got := peers[round%sessions].try(`{"type":"subscribe","topic":"a:1","ref":1}`); got != "subscribe-denied FORBIDDEN" {
			t.Fatalf("round %d: %s", round, got)
		}
		rules.let("ann subscribe a:1")
	}
}

// Subscriptions that are asked for while rights come and go are in the end as the rules say.
func TestRecheckRaces(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, nil)
	rules.let("ann subscribe a:*")
	p := w.dialBy(t, "ann")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 200 {
			rule := fmt.Sprintf("ann subscribe a:%d", n%5)
			if n%5 == 0 {
				rule = "ann subscribe a:*"
			}
			if n%2 == 0 {
				rules.forbid(rule)
			} else {
				rules.let(rule)
			}
			w.gate.Recheck(everybody)
		}
	}()
	for n := range 300 {
		p.raw(fmt.Sprintf(`{"type":"subscribe-batch","topics":["a:%d","a:%d"],"ref":1}`, n%5, (n+1)%5))
		if n%7 == 0 {
			p.raw(fmt.Sprintf(`{"type":"unsubscribe","topic":"a:%d"}`, n%3))
		}
	}
	<-done
	rules.forbid("ann subscribe a:*", "ann subscribe a:1", "ann subscribe a:2", "ann subscribe a:3", "ann subscribe a:4")
	w.gate.Recheck(everybody)
	p.raw(`{"type":"subscribe-batch","topics":["a:0","a:1","a:2","a:3","a:4"],"ref":"end"}`)
	for n := 0; n < 5; {
		if strings.Contains(p.text(), `"ref":"end"`) {
			n++
		}
	}
	await(t, "none is left", func() bool { return w.counter(t, "subscriptions") == 0 })
	for topic := range 5 {
		w.publish(t, fmt.Sprintf("a:%d", topic), 1, 10)
	}
	w.sequenced(t)
	p.raw(`{"type":"unsubscribe","topic":"x","ref":"over"}`)
	for text := ""; !strings.Contains(text, `"over"`); text = p.text() {
		if strings.Contains(text, `"event":"said"`) {
			t.Fatalf("it was sent %s", text)
		}
	}
}
