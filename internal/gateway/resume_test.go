package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// What the server makes of after and id: the table in docs/protocol.md.
func TestAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a", 10, 1)
	w.sequenced(t)
	id4, id5 := w.idOf(t, "a", 4), w.idOf(t, "a", 5)
	for _, c := range []struct {
		topic string
		after *int64
		id    pgcast.ID
		seq   int64
		reset bool
	}{
		{"a", nil, "", 10, false},
		{"a", at(0), "", 0, false},
		{"a", at(0), "nonsense", 0, false},
		{"a", at(4), "", 4, false},
		{"a", at(4), id4, 4, false},
		{"a", at(10), "", 10, false},
		{"a", at(11), "", 10, true},
		{"a", at(1<<63 - 1), "", 10, true},
		{"a", at(4), id5, 10, true},
		{"a", at(4), "2a-1", 10, true},
		{"a", at(4), "not an id", 10, true},
		{"nobody", at(0), "", 0, false},
		{"nobody", at(1), "", 0, true},
		{"*", nil, "", 10, false},
		{"*", at(0), "", 0, false},
		{"*", at(4), id4, 4, false},
		{"*", at(4), id5, 10, true},
		{"*", at(11), "", 10, true},
	} {
		name := fmt.Sprintf("%s after %v id %s", c.topic, c.after, c.id)
		p := w.dial(t, "reset", "batch")
		if seq := p.subscribe(c.topic, c.after, c.id); seq != c.seq {
			t.Errorf("%s: starts at %d; want %d", name, seq, c.seq)
		}
		if c.reset {
			if f := p.want(wire.Reset); f.Topic != c.topic || f.Head != c.seq {
				t.Errorf("%s: %+v", name, f)
			}
		}
		if n := int(10 - c.seq); n > 0 && !strings.HasPrefix(c.topic, "n") {
			p.stream("a", c.seq+1, 10)
		}
		p.quiet()
	}
}

// Trimmed events are announced, where they would be.
func TestGap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a:1", 10, 1)
	w.sequenced(t)
	id2, id6 := w.idOf(t, "a:1", 2), w.idOf(t, "a:1", 6)
	w.db.Exec(t, `select pgcast.retain('a:*', max_count => 4)`)
	await(t, "six events are trimmed", func() bool {
		return pgtest.Value[int64](t, w.db, `select count(*) from pgcast.event_log`) == 4
	})
	p := w.dial(t, "reset")
	for _, c := range []struct {
		after int64
		id    pgcast.ID
		gap   bool
	}{{0, "", true}, {2, "", true}, {2, id2, true}, {5, "", true}, {6, "", false}, {6, id6, false}, {9, "", false}} {
		if seq := p.subscribe("a:1", &c.after, c.id); seq != c.after {
			t.Fatalf("after %d: starts at %d", c.after, seq)
		}
		first := c.after + 1
		if c.gap {
			if f := p.want(wire.Gap); f.Topic != "a:1" || f.After != c.after || f.Tail != 7 || f.Head != 10 {
				t.Fatalf("after %d: %+v", c.after, f)
			}
			first = 7
		}
		p.stream("a:1", first, 10)
	}
	p.quiet()
	q := w.dial(t)
	q.subscribe("a:*", at(3), "")
	if f := q.want(wire.Gap); f.Topic != "a:*" || f.After != 3 || f.Tail != 7 || f.Head != 10 {
		t.Errorf("pattern: %+v", f)
	}
	q.stream("a:1", 7, 10)
	q.raw(`{"type":"history","topic":"a:1","after":1}`)
	if f := q.want(wire.History); f.Tail != 7 || f.Head != 10 || len(f.Events) != 4 {
		t.Errorf("history: tail %d, head %d, %d events", f.Tail, f.Head, len(f.Events))
	}
	q.raw(`{"type":"history","topic":"a:**","after":1}`)
	if f := q.want(wire.History); f.Tail != 7 || f.Head != 10 || len(f.Events) != 4 {
		t.Errorf("history of a pattern: tail %d, head %d, %d events", f.Tail, f.Head, len(f.Events))
	}
}

// resume sends the resume of a client that keeps its seqs in one place.
func (p *peer) resume(session string, seen map[string]pgcast.Seq) {
	p.t.Helper()
	p.send(wire.Frame{Type: wire.Resume, SessionID: session, LastSeenSeqs: seen})
	p.want(wire.Resumed)
}

// A client of the 0.5 generation gets exactly what it missed, and only once.
func TestResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.dial(t, "batch")
	p.raw(`{"type":"subscribe-batch","topics":["a","b","c"],"ref":1}`)
	for range 3 {
		p.want(wire.Subscribed)
	}
	w.publish(t, "a", 3, 1)
	p.stream("a", 1, 3)
	w.publish(t, "b", 2, 1)
	p.stream("b", 1, 2)
	_ = p.ws.CloseNow()
	w.publish(t, "a", 4, 1)
	w.publish(t, "c", 1, 1)
	w.sequenced(t)

	q := w.dial(t, "batch")
	before := w.counter(t, "reconnects_total")
	q.resume(p.session, map[string]pgcast.Seq{"a": 3, "b": 2, "gone": 0})
	q.raw(`{"type":"subscribe-batch","topics":["a","b","c"],"ref":1}`)
	places, events := map[string]int64{}, map[string][]int64{}
	for len(places) < 3 || len(events["a"]) < 4 {
		switch f := q.next(); f.Type {
		case wire.Subscribed:
			places[f.Topic] = f.Seq
		case wire.Event, wire.Batch:
			for _, e := range f.Events {
				events[e.Topic] = append(events[e.Topic], int64(e.Seq))
			}
		default:
			t.Fatalf("got %+v", f)
		}
	}
	q.quiet()
	if got := fmt.Sprint(places, events); got != "map[a:3 b:2 c:1] map[a:[4 5 6 7]]" {
		t.Errorf("got %s", got)
	}
	if n := w.counter(t, "reconnects_total") - before; n != 2 {
		t.Errorf("%v resumed subscriptions were counted", n)
	}
	// Its place in the map is used once; after and id go before it.
	if seq := q.subscribe("a", nil, ""); seq != 7 {
		t.Errorf("subscribing again starts at %d", seq)
	}
	if seq := q.subscribe("gone", at(0), ""); seq != 0 {
		t.Errorf("a place of its own: starts at %d", seq)
	}
}

// A client that cannot understand reset gets an id that stands for no history, and
// starts anew with that.
func TestBeginAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a", 5, 1)
	w.sequenced(t)
	p := w.dial(t, "batch")
	old := p.session
	p.resume(old, map[string]pgcast.Seq{"a": 9}) // it has seen what does not exist
	p.raw(`{"type":"subscribe","topic":"a","ref":1}`)
	p.want(wire.Subscribed)
	p.want(wire.Welcome)
	if p.session == old || len(p.session) > wire.MaxSessionID {
		t.Errorf("the id was %s and is now %s", old, p.session)
	}
	if reason := p.wantClosed(wire.CloseStalled); reason != "resume" {
		t.Errorf("the reason is %q", reason)
	}
	q := w.dial(t, "batch")
	q.resume(p.session, map[string]pgcast.Seq{"a": 9})
	if seq := q.subscribe("a", nil, ""); seq != 5 {
		t.Errorf("it starts at %d; want the head, 5", seq)
	}
	w.publish(t, "a", 1, 1)
	q.stream("a", 6, 6)
}

// Who understands reset is told; so is who never sent resume.
func TestResetIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.dial(t, "reset")
	p.resume(p.session, map[string]pgcast.Seq{"a": 9})
	p.subscribe("a", nil, "")
	p.want(wire.Reset)
	q := w.dial(t)
	q.subscribe("a", at(9), "")
	q.want(wire.Reset)
	q.quiet()
}

// A seq from another cluster proves nothing, an id does.
func TestDoubtedIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a", 5, 1)
	w.sequenced(t)
	p := w.dial(t, "reset")
	old := p.session
	for _, id := range []string{"7423950021478312.2", "7423950021478313.1", "74239500214783.12.1"} {
		w.setIdentity(id)
		q := w.dial(t, "reset")
		q.resume(old, map[string]pgcast.Seq{"a": 3, "b": 0})
		if seq := q.subscribe("a", nil, ""); seq != 5 {
			t.Errorf("%s: starts at %d", id, seq)
		}
		q.want(wire.Reset)
		q.resume(old, map[string]pgcast.Seq{"a": 3})
		if seq := q.subscribe("a", at(3), w.idOf(t, "a", 3)); seq != 3 {
			t.Errorf("%s: with the event's id it starts at %d", id, seq)
		}
		q.stream("a", 4, 5)
		q.quiet()
	}
	for _, id := range []string{"", "x", "x.7423950021478312", "x.7423950021478312.1x", "x.7423950021478312.1.freshest", "uuid-of-another-server"} {
		w.setIdentity("7423950021478312.1")
		q := w.dial(t, "reset")
		text, _ := json.Marshal(id)
		q.raw(`{"type":"resume","sessionId":` + string(text) + `,"lastSeenSeqs":{"a":3}}`)
		q.want(wire.Resumed)
		q.subscribe("a", nil, "")
		q.want(wire.Reset)
	}
	// The same cluster again: believed.
	q := w.dial(t, "reset")
	q.resume(old, map[string]pgcast.Seq{"a": 3})
	q.subscribe("a", nil, "")
	q.stream("a", 4, 5)
}
