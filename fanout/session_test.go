package fanout

import (
	"bytes"
	"errors"
	"strconv"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

func after(n int64) *int64 { return &n }

// must subscribes and waits for the answer.
func (p *peer) must(t testing.TB, r Request) *Notice {
	t.Helper()
	return p.mustAs(t, request{Request: r})
}

func (p *peer) mustAs(t testing.TB, r request) (answer *Notice) {
	t.Helper()
	if err := p.subscribe(r); err != nil {
		t.Fatal(err)
	}
	ref := strconv.Itoa(len(p.asked) - 1)
	await(t, "subscribed to "+r.Topic, func() bool {
		for _, n := range p.sink.notices(Subscribed) {
			if string(n.Ref) == ref {
				answer = n
			}
		}
		return answer != nil
	})
	return answer
}

// newPeer is a session that ends with the test.
func (s *server) newPeer(t testing.TB) *peer {
	p := s.hub.peer()
	t.Cleanup(func() {
		p.sink.release()
		p.session.End(nil)
		p.sink.ended(t)
	})
	return p
}

// came waits until the hub has everything that was written so far.
func (s *server) came(t testing.TB) {
	t.Helper()
	s.sequenced(t)
	await(t, "the hub has everything", func() bool {
		return s.hub.Position() == pgcast.Position(pgtest.Value[int64](t, s.db, "select coalesce(max(position), 0) from public.archive"))
	})
}

// A session that stalls falls behind, reads the log, and is live again at its end.
func TestBehindAndBack(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{Ring: 4})
	p := s.newPeer(t)
	p.must(t, Request{Topic: "a"})
	s.mustPublish(t, 3, 10, "a")
	await(t, "the live events", func() bool { return p.sink.events() == 3 })
	if n := s.reads.pages.Load(); n != 0 {
		t.Errorf("%d pages were read for a live subscription", n)
	}

	p.sink.hold()
	s.mustPublish(t, 500, 10, "a")
	s.came(t)
	p.sink.release()
	s.settled(t, "a", p)
	if n := s.reads.pages.Load(); n < 3 || n > 6 {
		t.Errorf("%d pages were read for 500 events", n)
	}
	await(t, "live again", func() bool { return s.metric(t, "subscriptions_behind") == 0 })

	read := s.reads.pages.Load()
	s.mustPublish(t, 2, 10, "a")
	s.settled(t, "a", p)
	if n := s.reads.pages.Load(); n != read {
		t.Errorf("%d pages were read for a subscription that is live again", n-read)
	}
}

// Subscribed means subscribed, also when the session is busy meanwhile and the ring has
// forgotten by then what came since the request.
func TestOpenWhileTheRingMovesOn(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{Ring: 2})
	s.mustPublish(t, 3, 10, "a:1")
	s.came(t)
	for _, other := range []string{"a:*", "b:*"} {
		p := s.newPeer(t)
		p.must(t, Request{Topic: other})
		p.sink.hold()
		s.mustPublish(t, 1, 10, "a:0", "b:0") // the session is now in the middle of a write
		s.came(t)
		if err := p.subscribe(request{Request: Request{Topic: "a:1"}}); err != nil {
			t.Fatal(err)
		}
		s.mustPublish(t, 20, 10, "a:1")
		s.came(t)
		p.sink.release()
		s.mustPublish(t, 1, 10, "a:1")
		s.settled(t, "", p)
	}
}

// Who subscribes again without a place gets nothing twice, though events were sent between
// the look at the head and the answer.
func TestSubscribeAgain(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{})
	p := s.newPeer(t)
	p.must(t, Request{Topic: "a"})
	again := Request{Topic: "a", Ref: []byte("1")}
	p.asked = append(p.asked, request{Request: again})
	o := p.session.Ask(again)
	s.mustPublish(t, 5, 10, "a")
	s.settled(t, "a", p)
	if err := p.session.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	await(t, "subscribed again", func() bool { return len(p.sink.notices(Subscribed)) == 2 })
	s.mustPublish(t, 5, 10, "a")
	s.settled(t, "a", p)
}

// The log can be ahead of the hub. What was read there is not repeated through another
// subscription.
func TestReadAheadOfTheHub(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{Ring: 4})
	p := s.newPeer(t)
	p.must(t, Request{Topic: "a"})
	p.must(t, Request{Topic: "**"})
	p.sink.hold()
	s.mustPublish(t, 1, 10, "a")
	s.came(t)
	s.mustPublish(t, 19, 10, "a")
	s.came(t)
	s.reads.shut.Store(true)
	s.mustPublish(t, 5, 10, "a")
	s.sequenced(t)
	p.sink.release()
	await(t, "what is not in the hub has come", func() bool { return p.sink.events() == 25 })
	p.unsubscribe("a")
	s.reads.shut.Store(false)
	s.mustPublish(t, 5, 10, "a")
	s.settled(t, "a", p)

	// Nor does a pattern begin before the places that topics were given.
	s.came(t)
	s.reads.shut.Store(true)
	q := s.newPeer(t)
	s.mustPublish(t, 5, 10, "b")
	s.sequenced(t)
	if n := q.must(t, Request{Topic: "b"}); n.Seq != 5 {
		t.Errorf("b: subscribed from %d", n.Seq)
	}
	if err := q.subscribe(request{Request: Request{Topic: "**"}}); err != nil {
		t.Fatal(err)
	}
	s.reads.shut.Store(false)
	s.mustPublish(t, 1, 10, "b")
	s.settled(t, "b", q)
	if n := q.sink.events(); n != 1 {
		t.Errorf("%d events of b came, 1 after its place", n)
	}
}

// What retention trims before the hub comes to it is told as a gap to whom it concerns,
// and nobody is cut off.
func TestTrimmedBeforeTheHub(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.server(t, HubOptions{})
	s.mustPublish(t, 1, 10, "a:1", "b:1")
	s.came(t)
	w.db.Exec(t, "select pgcast.retain('a:*', max_count => 1)")
	topic, quiet, pattern, other := s.newPeer(t), s.newPeer(t), s.newPeer(t), s.newPeer(t)
	topic.must(t, Request{Topic: "a:1"})
	quiet.must(t, Request{Topic: "b:1"})
	pattern.must(t, Request{Topic: "a:*"})
	other.must(t, Request{Topic: "b:*"})

	s.reads.shut.Store(true)
	s.mustPublish(t, 1, 10, "b:1") // so that the hole is not where the hub reads on
	s.mustPublish(t, 30, 10, "a:1")
	s.sequenced(t)
	await(t, "trimmed", func() bool {
		return pgtest.Value[int64](t, w.db, "select count(*) from pgcast.replay where topic_id = (select id from pgcast.topic where name = 'a:1')") == 1
	})
	s.reads.shut.Store(false)
	s.settled(t, "", topic, quiet, pattern, other)
	for _, p := range []*peer{topic, pattern} {
		if n := len(p.sink.notices(Gap)); n == 0 || p.sink.events() == 0 {
			t.Errorf("%d gaps and %d events came, want some of both:\n%s", n, p.sink.events(), transcript(p.sink.items()))
		}
	}
	for _, p := range []*peer{quiet, other} {
		if n := len(p.sink.notices(Gap)); n != 0 || p.sink.events() != 1 {
			t.Errorf("%d gaps and %d events came, want 0 and 1:\n%s", n, p.sink.events(), transcript(p.sink.items()))
		}
	}
	if n := s.metric(t, "notices_total"); n < 2 {
		t.Errorf("notices_total is %v", n)
	}
}

// Finish sends what is ready, in order, and closes with its reason.
func TestFinish(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{})
	p := s.newPeer(t)
	p.must(t, Request{Topic: "a"})
	p.sink.hold()
	s.mustPublish(t, 1, 10, "a")
	s.came(t)
	if err := p.subscribe(request{Request: Request{Topic: "b"}}); err != nil {
		t.Fatal(err)
	}
	p.session.Finish(errBroken)
	s.mustPublish(t, 200, 10, "a", "b")
	s.came(t)
	p.sink.release()
	if err := p.sink.ended(t); err != errBroken {
		t.Errorf("ended with %v", err)
	}
	s.settled(t, "", p)
	if n := p.sink.events(); n != 401 {
		t.Errorf("%d events were sent of 401", n)
	}
}

// Answers wait for a client that does not take them, in order, and the end of the session
// ends the waiting.
func TestControlIsBounded(t *testing.T) {
	t.Parallel()
	h := NewHub(nil, nil, HubOptions{})
	out := newSink()
	session := h.NewSession(out)
	out.hold()
	var sent []string
	done := make(chan bool)
	go func() {
		for i := 0; session.Send([]byte(strconv.Itoa(i))); i++ {
			sent = append(sent, strconv.Itoa(i))
			if i == 3*maxControl {
				break
			}
		}
		done <- true
	}()
	full := func() bool {
		session.mu.Lock()
		defer session.mu.Unlock()
		return len(session.control) == maxControl
	}
	await(t, "no more is taken", full)
	out.release()
	<-done
	await(t, "all is sent", func() bool { return len(out.items()) == len(sent) })
	for i, item := range out.items() {
		if string(item.Raw) != sent[i] {
			t.Fatalf("item %d is %s", i, item.Raw)
		}
	}
	await(t, "idle", session.Idle)

	out.hold()
	go func() {
		for session.Send(bytes.Repeat([]byte{'x'}, maxControlBytes/3)) {
		}
		done <- true
	}()
	await(t, "no more bytes are taken", func() bool {
		session.mu.Lock()
		defer session.mu.Unlock()
		return session.bytes > maxControlBytes
	})
	session.End(errBroken)
	<-done
	session.End(errors.New("too late"))
	out.release()
	if err := out.ended(t); err != errBroken {
		t.Errorf("ended with %v", err)
	}
	if session.Idle() {
		t.Error("a session that has ended is not idle")
	}
}

// Who has ended gets no subscription, and leaves no feed.
func TestSubscribeAfterTheEnd(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{})
	p := s.hub.peer()
	p.session.Deny("a", []byte("7"), "FORBIDDEN")
	await(t, "denied", func() bool { return len(p.sink.notices(Denied)) == 1 })
	p.session.End(nil)
	p.sink.ended(t)
	for _, topic := range []string{"a", "a:*"} {
		if err := p.session.Subscribe(t.Context(), Request{Topic: topic}); err != nil {
			t.Error(err)
		}
	}
	if err := p.session.Subscribe(t.Context(), Request{Topic: "a:**:b"}); !errors.Is(err, pgcast.ErrInvalidTopic) {
		t.Errorf("a bad pattern: %v", err)
	}
	if feeds, sessions := s.left(); feeds+sessions > 0 {
		t.Errorf("%d feeds and %d sessions are left", feeds, sessions)
	}
}
