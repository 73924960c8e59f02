package fanout

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// The table of docs/protocol.md, "What the server makes of after and id", from the ring
// and from the log.
func TestPlaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mustPublish(t, 30, 10, "a", "b")
	w.sequenced(t)
	w.db.Exec(t, "select pgcast.retain('a', max_count => 20)")
	await(t, "trimmed", func() bool {
		tails, err := w.tails()
		return err == nil && tails["a"] == 11
	})
	facts, err := w.facts("a")
	if err != nil {
		t.Fatal(err)
	}
	id := func(seq int) pgcast.ID { return facts[seq-1].id }
	head := facts[29].position
	type answer struct {
		seq        int64
		reset, gap bool
	}
	for name, c := range map[string]struct {
		Request
		want answer
	}{
		"no after":                     {Request{}, answer{30, false, false}},
		"0":                            {Request{After: after(0), ID: "nonsense"}, answer{0, false, true}},
		"its id":                       {Request{After: after(25), ID: id(25)}, answer{25, false, false}},
		"no id":                        {Request{After: after(25)}, answer{25, false, false}},
		"another id":                   {Request{After: after(25), ID: id(24)}, answer{30, true, false}},
		"the head":                     {Request{After: after(30), ID: id(30)}, answer{30, false, false}},
		"beyond the head":              {Request{After: after(31)}, answer{30, true, false}},
		"beyond with an id":            {Request{After: after(31), ID: id(30)}, answer{30, true, false}},
		"the newest trimmed":           {Request{After: after(10), ID: id(10)}, answer{10, false, false}},
		"another id there":             {Request{After: after(10), ID: id(9)}, answer{30, true, false}},
		"trimmed":                      {Request{After: after(5), ID: id(5)}, answer{5, false, true}},
		"another cluster":              {Request{After: after(25), Doubted: true}, answer{30, true, false}},
		"another cluster, with its id": {Request{After: after(25), ID: id(25), Doubted: true}, answer{25, false, false}},
		"another cluster, no after":    {Request{Doubted: true}, answer{30, false, false}},

		"pattern, no after":         {Request{Topic: "a:*"}, answer{head, false, false}},
		"pattern, 0":                {Request{Topic: "**", After: after(0)}, answer{0, false, true}},
		"pattern, its id":           {Request{Topic: "**", After: after(facts[24].position), ID: id(25)}, answer{facts[24].position, false, false}},
		"pattern, no id":            {Request{Topic: "**", After: after(facts[24].position)}, answer{facts[24].position, false, false}},
		"pattern, another id":       {Request{Topic: "**", After: after(facts[24].position), ID: id(24)}, answer{head, true, false}},
		"pattern, beyond":           {Request{Topic: "**", After: after(head + 1000)}, answer{head, true, false}},
		"pattern, trimmed":          {Request{Topic: "**", After: after(facts[4].position), ID: id(5)}, answer{facts[4].position, false, true}},
		"pattern, another cluster":  {Request{Topic: "**", After: after(facts[24].position), Doubted: true}, answer{head, true, false}},
		"pattern of what never was": {Request{Topic: "c:*", After: after(facts[0].position), ID: id(1)}, answer{facts[0].position, false, false}},
	} {
		t.Run(name, func(t *testing.T) {
			// The log's last event is b's.
			head := pgtest.Value[int64](t, w.db, "select max(position) from public.archive")
			if c.Topic == "" {
				c.Topic = "a"
			} else if c.want.seq == facts[29].position {
				c.want.seq = head
			}
			s := w.server(t, HubOptions{})
			defer s.stop()
			for range 2 { // the second time the feed is there
				p := s.newPeer(t)
				n := p.must(t, c.Request)
				got := answer{seq: n.Seq}
				poll(func() bool {
					got.reset, got.gap = len(p.sink.notices(Reset)) > 0, len(p.sink.notices(Gap)) > 0
					return got.reset == c.want.reset && got.gap == c.want.gap && p.session.Idle()
				})
				if got != c.want {
					t.Errorf("got %+v, want %+v", got, c.want)
				}
			}
		})
	}
}

// A look at the log that takes too long is given up by who asked for it.
func TestImpatientAsks(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{Reads: 1})
	p := s.newPeer(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	release, err := s.hub.reads.slot(t.Context()) // nobody else can look now
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []Request{{Topic: "a"}, {Topic: "**", After: after(1000), ID: "1-1"}, {Topic: "**", After: after(1000)}} {
		if err := p.session.Subscribe(ctx, r); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", r.Topic, err)
		}
	}
	release()
	if got := p.must(t, Request{Topic: "a"}); got.Seq != 0 {
		t.Errorf("subscribed from %d", got.Seq)
	}
	if !slices.ContainsFunc(p.sink.items(), func(i Item) bool { return i.Notice != nil }) {
		t.Error("nothing came")
	}
}
