package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// Clients that named the capability get batch frames, the others single ones, and both
// the same events.
func TestBatchCapability(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	plain, batched := w.dial(t), w.dial(t, "batch", "something-new")
	plain.subscribe("a", nil, "")
	batched.subscribe("a", nil, "")
	const n = 100
	w.publish(t, "a", n, 10)
	var first []pgcast.Event
	for range n {
		f := plain.want(wire.Event)
		first = append(first, f.Events...)
	}
	var second []pgcast.Event
	batches := 0
	for len(second) < n {
		f := batched.next()
		if f.Type == wire.Batch {
			batches++
		}
		second = append(second, f.Events...)
	}
	if batches == 0 {
		t.Error("there was no batch")
	}
	for i := range n {
		if a, b := first[i], second[i]; a.Seq != pgcast.Seq(i+1) || a.Seq != b.Seq || a.ID != b.ID || string(a.Data) != string(b.Data) {
			t.Fatalf("event %d: %+v and %+v", i, a, b)
		}
	}
	// The last hello counts.
	batched.send(wire.Frame{Type: wire.Hello})
	batched.quiet()
	w.publish(t, "a", 20, 10)
	for range 20 {
		batched.want(wire.Event)
	}
}

// Batch frames stay far from the size clients drop, also through a pattern, and no
// event is lost at a cut.
func TestBatchSize(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a", 12, 100_000)
	w.publish(t, "a", 200, 1_000)
	w.sequenced(t)
	for _, topic := range []string{"a", "*"} {
		p := w.dial(t, "batch")
		p.subscribe(topic, at(0), "")
		seen := 0
		for seen < 212 {
			text := p.text()
			if len(text) > maxBatch+1000 {
				t.Errorf("a frame of %d bytes", len(text))
			}
			f, err := wire.ParseServer([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range f.Events {
				if seen++; e.Seq != pgcast.Seq(seen) {
					t.Fatalf("got seq %d; want %d", e.Seq, seen)
				}
				if (e.Position != 0) != (topic == "*") {
					t.Fatalf("through %s came %+v", topic, e)
				}
			}
		}
		p.quiet()
	}
}

// An event that matches several subscriptions comes once, and through a pattern with its
// position.
func TestPattern(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.dial(t)
	p.subscribe("room:*", nil, "")
	p.subscribe("**", nil, "")
	p.subscribe("room:1", nil, "")
	w.publish(t, "room:1", 1, 1)
	w.publish(t, "room:2", 1, 1)
	w.publish(t, "room:2:x", 1, 1)
	got := map[string]pgcast.Event{}
	for _, e := range p.events(3) {
		got[e.Topic] = e
	}
	p.quiet()
	for topic, position := range map[string]pgcast.Position{"room:1": 0, "room:2": 2, "room:2:x": 3} {
		if e := got[topic]; e.Position != position || e.Seq != 1 || e.ID == "" {
			t.Errorf("%s came as %+v; want position %d", topic, e, position)
		}
	}
}

// Rows of an attached table come as the events of the protocol's samples.
func TestRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.db.Exec(t, `create table todo (id int primary key, list int, body text);
		select pgcast.attach('todo', topic => 'list:{list}')`)
	p := w.dial(t)
	p.subscribe("list:1", nil, "")
	w.db.Exec(t, `insert into todo values (7, 1, 'a'); update todo set body = 'b'; update todo set list = 2; delete from todo`)
	var got []string
	for _, e := range p.events(3) {
		var data struct{ Body string }
		_ = json.Unmarshal(e.Data, &data)
		got = append(got, fmt.Sprint(e.Name, " ", data.Body, " ", e.Old != nil))
	}
	if want := "created a false, updated b true, deleted  true"; strings.Join(got, ", ") != want {
		t.Errorf("got %s; want %s", strings.Join(got, ", "), want)
	}
}

// An event over the limit comes without its data, live, from the log and in history, and
// harms nothing.
func TestOversize(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.log.MaxEvent = 1000 })
	p := w.dial(t)
	p.subscribe("a", nil, "")
	w.publish(t, "a", 1, 2000)
	w.publish(t, "a", 1, 20)
	w.publish(t, "b", 1, 5_000_000)
	check := func(how string, events []pgcast.Event) {
		t.Helper()
		if big := events[0]; !big.Oversize || big.Data != nil || big.Seq != 1 || big.ID == "" {
			t.Errorf("%s: the large one came as %+v", how, big)
		}
		if small := events[1]; small.Oversize || small.Data == nil || small.Seq != 2 {
			t.Errorf("%s: the small one came as %+v", how, small)
		}
	}
	check("live", p.events(2))
	w.sequenced(t)
	p.subscribe("a", at(0), "")
	check("from the log", p.events(2))
	p.raw(`{"type":"history","topic":"a"}`)
	check("in history", p.want(wire.History).Events)
	p.raw(`{"type":"history","topic":"*","after":2}`)
	if e := p.want(wire.History).Events; len(e) != 1 || !e[0].Oversize || e[0].Position != 3 {
		t.Errorf("history of a pattern: %+v", e)
	}
	p.quiet()
}

// The largest event that is not oversize still fits into a frame, also as a deletion,
// which has its row twice.
func TestLargestEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.db.Exec(t, `create table wide (id int primary key, body text);
		select pgcast.attach('wide', topic => 'wide', old => true)`)
	p := w.dial(t, "batch")
	p.subscribe("wide", nil, "")
	p.subscribe("*", at(0), "")
	for _, n := range []int{490_000, 499_900, 999_900} {
		w.db.Exec(t, `insert into wide values (1, repeat('x', $1))`, n)
		w.db.Exec(t, `delete from wide`)
	}
	for seen := 0; seen < 6; {
		text := p.text()
		if len(text) > wire.MaxServerFrame {
			t.Errorf("a frame of %d bytes", len(text))
		}
		f, err := wire.ParseServer([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range f.Events {
			seen++
			if e.Oversize || len(e.Data) < 490_000 {
				t.Errorf("event %d: %s of %d bytes, oversize %v", e.Seq, e.Name, len(e.Data), e.Oversize)
			}
		}
	}
	p.raw(`{"type":"history","topic":"wide"}`)
	if text := p.text(); len(text) > wire.MaxServerFrame || !strings.Contains(text, `"history"`) {
		t.Errorf("history is a frame of %d bytes", len(text))
	}
}

// History is read in pages, cut by limit and by the frame's size, to its end.
func TestHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "room:1", 250, 10)
	w.publish(t, "other", 30, 10)
	w.publish(t, "room:2", 30, 90_000)
	w.publish(t, "room:3", 1100, 10)
	w.sequenced(t)
	p := w.dial(t)
	for _, c := range []struct {
		topic       string
		limit, most int
		want        int
	}{
		{"room:1", 0, 100, 250}, {"room:1", 7, 7, 250}, {"room:1", 5000, 1000, 250}, {"room:2", 1000, 12, 30},
		{"room:3", 999_999, 1000, 1100}, {"room:*", 400, 400, 1380}, {"room:*", 0, 100, 1380}, {"nobody", 5, 0, 0}, {"nobody:**", 5, 0, 0},
	} {
		pattern := pgcast.IsPattern(c.topic)
		head := int64(c.want)
		if pattern {
			head = 1410
		}
		seen, after, pages := 0, int64(0), 0
		for {
			p.send(wire.Frame{Type: wire.History, Ref: json.RawMessage(`"h"`), Topic: c.topic, After: &after, Limit: c.limit})
			f := p.want(wire.History)
			if f.Topic != c.topic || string(f.Ref) != `"h"` || f.Tail != 1 || f.Head != head || len(f.Events) > c.most {
				t.Fatalf("%s after %d: %d events, tail %d, head %d, ref %s", c.topic, after, len(f.Events), f.Tail, f.Head, f.Ref)
			}
			if len(f.Events) == 0 {
				break
			}
			pages++
			for _, e := range f.Events {
				seen++
				place := int64(e.Seq)
				if pattern {
					place = int64(e.Position)
				}
				if place <= after || !pattern && place != after+1 || e.Topic == "other" {
					t.Fatalf("%s: %+v after %d", c.topic, e, after)
				}
				after = place
			}
		}
		if seen != c.want {
			t.Errorf("%s by %d: %d events on %d pages; want %d", c.topic, c.limit, seen, pages, c.want)
		}
	}
}
