package fanout

import (
	"fmt"
	"slices"
	"testing"
)

// told is what a peer got, in order.
func (p *peer) told() (list []string) {
	for _, i := range p.sink.items() {
		switch n := i.Notice; {
		case i.Frame != nil && i.Pattern:
			list = append(list, fmt.Sprintf("%s@%d", i.Frame.Topic, i.Frame.Position))
		case i.Frame != nil:
			list = append(list, fmt.Sprintf("%s#%d", i.Frame.Topic, i.Frame.Seq))
		case n != nil && n.Kind == Gap:
			list = append(list, fmt.Sprintf("gap %s %d %d %d", n.Topic, n.After, n.Tail, n.Head))
		case n != nil:
			list = append(list, fmt.Sprintf("%d %s %d", n.Kind, n.Topic, n.Seq+n.Head))
		}
	}
	return list
}

// To whom the past is barred, the subscription begins at the head, wherever he says he was,
// and he is told what he does not get.
func TestBarred(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		req  Request
		want []string
	}{
		"resumed":           {Request{Topic: "a:1", After: after(3), ID: "1-1"}, []string{"1 a:1 3", "gap a:1 3 11 10", "a:1#11"}},
		"from the first":    {Request{Topic: "a:1", After: after(0)}, []string{"1 a:1 0", "gap a:1 0 11 10", "a:1#11"}},
		"at the head":       {Request{Topic: "a:1", After: after(10)}, []string{"1 a:1 10", "a:1#11"}},
		"beyond it":         {Request{Topic: "a:1", After: after(99)}, []string{"1 a:1 10", fmt.Sprintf("%d a:1 10", Reset), "a:1#11"}},
		"of elsewhere":      {Request{Topic: "a:1", After: after(3), Doubted: true}, []string{"1 a:1 10", fmt.Sprintf("%d a:1 10", Reset), "a:1#11"}},
		"a pattern":         {Request{Topic: "a:*", After: after(3)}, []string{"1 a:* 3", "gap a:* 3 11 10", "a:1@11"}},
		"a pattern, at 0":   {Request{Topic: "a:*", After: after(0)}, []string{"1 a:* 0", "gap a:* 0 11 10", "a:1@11"}},
		"a pattern, beyond": {Request{Topic: "a:*", After: after(99)}, []string{"1 a:* 10", fmt.Sprintf("%d a:* 10", Reset), "a:1@11"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, warm := range []bool{false, true} { // the feed knows nothing, or all
				s := newWorld(t).server(t, HubOptions{Ring: 4})
				if warm {
					s.newPeer(t).must(t, Request{Topic: "a:1"})
				}
				s.mustPublish(t, 10, 10, "a:1")
				s.came(t)
				p := s.newPeer(t)
				c.req.Barred = true
				p.must(t, c.req)
				s.mustPublish(t, 1, 10, "a:1")
				await(t, "the next event", func() bool { return p.sink.events() > 0 })
				if got := p.told(); !slices.Equal(got, c.want) {
					t.Errorf("warm %t: it was told %q, not %q", warm, got, c.want)
				}
			}
		})
	}
}

// What is forbidden ends at once, also while the session is in the middle of a write, and
// though it is asked for again behind it.
func TestForbid(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{Ring: 4})
	p := s.newPeer(t)
	for _, topic := range []string{"a", "b"} {
		p.must(t, Request{Topic: topic})
	}
	p.sink.hold()
	s.mustPublish(t, 1, 10, "b")
	s.came(t) // the session is now in the middle of a write
	if err := p.subscribe(request{Request: Request{Topic: "a", After: after(0)}}); err != nil {
		t.Fatal(err)
	}
	p.session.Forbid("a", "none")
	s.mustPublish(t, 20, 10, "a", "b")
	s.came(t)
	p.sink.release()
	await(t, "the other topic goes on", func() bool { return slices.Contains(p.told(), "b#21") })
	got := p.told()
	if slices.ContainsFunc(got, func(text string) bool { return text[0] == 'a' }) {
		t.Errorf("events of what is forbidden: %q", got)
	}
	if n := len(p.sink.notices(Denied)); n != 2 {
		t.Errorf("%d denials for a subscription and one asked for, in %q", n, got)
	}
	if n := p.must(t, Request{Topic: "a"}); n.Seq != 20 {
		t.Errorf("allowed again, it begins at %d", n.Seq)
	}
	s.mustPublish(t, 1, 10, "a")
	await(t, "it is sent again", func() bool { return slices.Contains(p.told(), "a#21") })
}

// What is still sent of the past is known for as long as it is.
func TestPast(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{Ring: 4})
	s.mustPublish(t, 500, 10, "a:1", "b")
	s.came(t)
	p := s.newPeer(t)
	p.must(t, Request{Topic: "c"})
	p.sink.hold()
	for _, r := range []Request{{Topic: "a:1", After: after(0)}, {Topic: "a:*", After: after(0)}, {Topic: "b"}, {Topic: "d", Snapshot: true}} {
		if err := p.subscribe(request{Request: r}); err != nil {
			t.Fatal(err)
		}
	}
	s.mustPublish(t, 10, 10, "b") // the session is in the middle of a write
	await(t, "what is past is known", func() bool { return p.session.Past() != nil })
	p.sink.release()
	await(t, "all is sent", func() bool { return slices.Contains(p.told(), "a:1#500") && slices.Contains(p.told(), "b#510") })
	await(t, "nothing is past any more", func() bool { return p.session.Past() == nil })
	s.mustPublish(t, 1000, 10, "a:1") // to catch up with what came later is not
	await(t, "all is sent", func() bool { return slices.Contains(p.told(), "a:1#1500") })
	if past := p.session.Past(); past != nil {
		t.Errorf("past is %v", past)
	}
}

// Where a pattern selects what is forbidden as a topic of its own, it sends that from where
// the topic has ended: each event once.
func TestForbidBesidePattern(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{})
	p := s.newPeer(t)
	p.must(t, Request{Topic: "a:1"})
	p.must(t, Request{Topic: "a:*"})
	for range 20 {
		s.mustPublish(t, 3, 10, "a:1")
	}
	p.session.Forbid("a:1")
	for range 20 {
		s.mustPublish(t, 3, 10, "a:1")
	}
	s.came(t)
	await(t, "all events", func() bool { return p.sink.events() >= 120 })
	var seqs []int
	for _, i := range p.sink.items() {
		if i.Frame != nil {
			seqs = append(seqs, int(i.Frame.Seq))
		}
	}
	for i, seq := range seqs {
		if seq != i+1 {
			t.Fatalf("event %d came as number %d of %v", seq, i+1, seqs)
		}
	}
	if n := len(p.sink.notices(Denied)); n != 1 {
		t.Errorf("%d denials", n)
	}
}

// A subscription that still gets its snapshot ends as well.
func TestForbidWhileItBegins(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{})
	p := s.newPeer(t)
	s.mustPublish(t, 50, 10, "a")
	s.came(t)
	p.sink.hold()
	p.session.Send([]byte("busy"))
	if err := p.subscribe(request{Request: Request{Topic: "a", Snapshot: true}}); err != nil {
		t.Skip("a topic of no tables: ", err)
	}
	p.session.Forbid("a")
	p.session.Send([]byte("end"))
	p.sink.release()
	await(t, "the end", func() bool {
		items := p.sink.items()
		return len(items) > 0 && string(items[len(items)-1].Raw) == "end"
	})
	for _, i := range p.sink.items() {
		if i.Frame != nil || i.Snapshot != nil {
			t.Errorf("it was sent %+v", i)
		}
	}
}
