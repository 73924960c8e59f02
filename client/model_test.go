package client

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/coder/websocket"
	"pgregory.net/rapid"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// world is a client and a model of the server, with everything between them in the
// test's hands: when a frame is read or a subscription pulled, when the wire is cut.
type world struct {
	c   *Client
	log []pgcast.Event // position n is at n-1

	// One connection.
	inbox  []wire.Frame         // from the client
	outbox []wire.ServerFrame   // to the client
	subs   []*modelSubscription // in order

	seen  []pgcast.Event   // what the app got
	first map[string]int64 // after which it wants all events of a subscription
	deny  bool             // the next subscribe
	lost  uint64           // events the server forgot
}

type modelSubscription struct {
	key     string
	pattern *pgcast.Pattern
	start   int64
	place   int // index into the log of what it has not looked at
}

func (s *modelSubscription) number(e pgcast.Event) int64 {
	if s.pattern != nil {
		return int64(e.Position)
	}
	return int64(e.Seq)
}

func (s *modelSubscription) selects(e pgcast.Event) bool {
	if s.pattern != nil {
		return s.pattern.Match(e.Topic)
	}
	return s.key == e.Topic
}

func (w *world) write(topic string) {
	seq := pgcast.Seq(1)
	for _, e := range w.log {
		if e.Topic == topic {
			seq++
		}
	}
	n := len(w.log) + 1
	w.log = append(w.log, pgcast.Event{Topic: topic, Name: "e", Seq: seq, Position: pgcast.Position(n), ID: pgcast.ID(fmt.Sprint(n))})
}

func (w *world) connect() {
	w.inbox, w.outbox, w.subs = nil, nil, nil
	w.c.connected(new(websocket.Conn), "")
}

func (w *world) cut() {
	w.c.disconnected(nil)
	w.connect()
}

// send moves what the client has queued to the server's inbox.
func (w *world) send() {
	for _, o := range w.c.queue {
		f, err := wire.Parse(o.text)
		if err != nil {
			panic(err)
		}
		w.inbox = append(w.inbox, f)
	}
	w.c.queue = nil
}

// pull lets one subscription look at the next event of the log.
func (w *world) pull(s *modelSubscription) bool {
	if s.place >= len(w.log) {
		return false
	}
	e := w.log[s.place]
	s.place++
	if !s.selects(e) || s.number(e) <= s.start || w.covered(s, e) {
		return true
	}
	if s.pattern == nil {
		e.Position = 0
	}
	// The client gets what went over the wire.
	text := wire.AppendEventEnd(wire.AppendEventBody(nil, e), e.Position)
	f, err := wire.ParseServer(text)
	if err != nil {
		panic(err)
	}
	w.outbox = append(w.outbox, f)
	return true
}

// covered is the protocol's rule on events that several subscriptions select.
func (w *world) covered(s *modelSubscription, e pgcast.Event) bool {
	if s.pattern == nil {
		return false
	}
	for i, o := range w.subs {
		switch {
		case o == s:
		case o.pattern == nil && o.key == e.Topic && int64(e.Seq) > o.start:
			return true
		case o.pattern != nil && i < slices.Index(w.subs, s) && int64(e.Position) > o.start && o.pattern.Match(e.Topic):
			return true
		}
	}
	return false
}

// settle brings all subscriptions to the head before their set changes.
func (w *world) settle() {
	for _, s := range w.subs {
		for w.pull(s) {
		}
	}
}

func (w *world) remove(key string) {
	w.subs = slices.DeleteFunc(w.subs, func(s *modelSubscription) bool { return s.key == key })
}

// serve takes one frame of the client.
func (w *world) serve() {
	f := w.inbox[0]
	w.inbox = w.inbox[1:]
	switch f.Type {
	case wire.Subscribe:
		w.subscribe(wire.Place{Topic: f.Topic, After: f.After, ID: f.ID}, f.Ref)
	case wire.SubscribeBatch:
		for _, p := range f.Topics {
			w.subscribe(p, f.Ref)
		}
	case wire.Unsubscribe:
		w.settle()
		w.remove(f.Topic)
		if f.Ref != nil {
			w.outbox = append(w.outbox, wire.ServerFrame{Type: wire.Unsubscribed, Topic: f.Topic, Ref: f.Ref})
		}
	}
}

func (w *world) subscribe(p wire.Place, ref []byte) {
	if w.deny {
		w.deny = false
		w.outbox = append(w.outbox, wire.ServerFrame{Type: wire.SubscribeDenied, Topic: p.Topic, Ref: ref, Reason: wire.ReasonInternal})
		return
	}
	w.settle()
	w.remove(p.Topic)
	s := &modelSubscription{key: p.Topic}
	if pgcast.IsPattern(p.Topic) {
		pattern, err := pgcast.ParsePattern(p.Topic)
		if err != nil {
			panic(err)
		}
		s.pattern = &pattern
	}
	if p.After != nil {
		s.start = *p.After
	} else {
		for _, e := range w.log {
			if s.pattern != nil || s.key == e.Topic {
				s.start = s.number(e)
			}
		}
	}
	w.subs = append(w.subs, s)
	w.outbox = append(w.outbox, wire.ServerFrame{Type: wire.Subscribed, Topic: p.Topic, Ref: ref, Seq: s.start})
}

// deliver hands the client one frame.
func (w *world) deliver(t *rapid.T) {
	f := w.outbox[0]
	w.outbox = w.outbox[1:]
	items, err := w.c.handle(&f)
	if err != nil {
		if f.Type != wire.SubscribeDenied && w.lost == 0 {
			t.Fatalf("the client gave up: %v", err)
		}
		w.cut()
	}
	for _, it := range items {
		switch it := it.(type) {
		case Event:
			w.seen = append(w.seen, it.Event)
		case Subscribed:
			if _, ok := w.first[it.Topic]; !ok {
				w.first[it.Topic] = it.Seq
			}
		default:
			t.Fatalf("the app got %#v", it)
		}
	}
}

// turn does the next thing there is to do, and reports whether there was any.
func (w *world) turn(t *rapid.T) bool {
	w.send()
	switch {
	case len(w.inbox) > 0:
		w.serve()
	case len(w.outbox) > 0:
		w.deliver(t)
	default:
		var more []*modelSubscription
		for _, s := range w.subs {
			if s.place < len(w.log) {
				more = append(more, s)
			}
		}
		if len(more) == 0 {
			return false
		}
		w.pull(rapid.SampledFrom(more).Draw(t, "pulled"))
	}
	return true
}

// drain lets everything come to rest.
func (w *world) drain(t *rapid.T) {
	for w.turn(t) {
	}
}

var (
	modelTopics = []string{"a:1", "a:2", "b:1", "a"}
	modelKeys   = []string{"a:1", "a:2", "b:1", "a:*", "*:1", "**", "a:**"}
)

// TestOnceAndInOrder lets a client with overlapping subscriptions lose its connection
// at any point, while the app subscribes and unsubscribes, and the server refuses a
// subscribe or forgets an event: every event of the subscriptions that stay is
// delivered, none twice, and each topic's in order.
func TestOnceAndInOrder(t *testing.T) {
	for range 20 {
		rapid.Check(t, once)
	}
}

func once(t *rapid.T) {
	w := &world{c: New("ws://x", &Options{Logger: slog.New(slog.DiscardHandler)}), first: map[string]int64{}}
	subscribe := func(key string, from *From) {
		delete(w.first, key)
		if from != nil {
			w.first[key] = from.After
		}
		if err := w.c.Subscribe(key, from); err != nil {
			t.Fatal(err)
		}
	}
	for range rapid.IntRange(0, 5).Draw(t, "written before") {
		w.write(rapid.SampledFrom(modelTopics).Draw(t, "topic"))
	}
	for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom(modelKeys), 1, 4, rapid.ID).Draw(t, "first subscriptions") {
		var from *From
		if rapid.Bool().Draw(t, "from 0") {
			from = &From{After: 0}
		}
		subscribe(key, from)
	}
	w.connect()
	t.Repeat(map[string]func(*rapid.T){
		"write": func(t *rapid.T) {
			for range rapid.IntRange(1, 4).Draw(t, "events") {
				w.write(rapid.SampledFrom(modelTopics).Draw(t, "topic"))
			}
		},
		"send": func(t *rapid.T) { w.send() },
		"serve": func(t *rapid.T) {
			if w.send(); len(w.inbox) == 0 {
				t.Skip()
			}
			w.serve()
		},
		"pull": func(t *rapid.T) {
			if len(w.subs) == 0 {
				t.Skip()
			}
			s := rapid.SampledFrom(w.subs).Draw(t, "subscription")
			for range rapid.IntRange(1, 5).Draw(t, "events") {
				w.pull(s)
			}
		},
		"deliver": func(t *rapid.T) {
			for range rapid.IntRange(1, 4).Draw(t, "frames") {
				if len(w.outbox) == 0 {
					t.Skip()
				}
				w.deliver(t)
			}
		},
		"flow": func(t *rapid.T) {
			for range rapid.IntRange(1, 20).Draw(t, "turns") {
				w.turn(t)
			}
		},
		"trouble": func(t *rapid.T) {
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0, 1:
				w.cut()
			case 2:
				w.deny = true
			}
		},
		"lose": func(t *rapid.T) {
			// Only a topic's events, and not the last one: that is what a client can see.
			at := slices.IndexFunc(w.outbox, func(f wire.ServerFrame) bool {
				return f.Type == wire.Event && f.Events[0].Position == 0
			})
			if at < 0 || !slices.ContainsFunc(w.outbox[at+1:], func(f wire.ServerFrame) bool {
				return f.Type == wire.Event && f.Events[0].Topic == w.outbox[at].Events[0].Topic && f.Events[0].Position == 0
			}) {
				t.Skip()
			}
			w.outbox = slices.Delete(w.outbox, at, at+1)
			w.lost++
		},
		"subscribe": func(t *rapid.T) {
			key := rapid.SampledFrom(modelKeys).Draw(t, "key")
			if w.c.subs[key] == nil {
				subscribe(key, nil)
			}
		},
		"move": func(t *rapid.T) {
			key := rapid.SampledFrom(modelKeys).Draw(t, "key")
			if w.c.subs[key] != nil {
				subscribe(key, nil)
			}
		},
		"unsubscribe": func(t *rapid.T) {
			key := rapid.SampledFrom(modelKeys).Draw(t, "key")
			delete(w.first, key)
			w.c.Unsubscribe(key)
		},
	})
	w.drain(t)
	w.check(t)
}

func (w *world) check(t *rapid.T) {
	type place struct {
		topic string
		seq   pgcast.Seq
	}
	got := map[place]int{}
	last := map[string]pgcast.Seq{}
	for _, e := range w.seen {
		got[place{e.Topic, e.Seq}]++
		if e.Seq <= last[e.Topic] {
			t.Fatalf("%s: %d came after %d", e.Topic, e.Seq, last[e.Topic])
		}
		last[e.Topic] = e.Seq
	}
	for _, e := range w.log {
		n := got[place{e.Topic, e.Seq}]
		wanted := false
		for key, first := range w.first {
			s := w.c.subs[key]
			if s == nil || s.ending || !s.live {
				t.Fatalf("%s is not subscribed to", key)
			}
			wanted = wanted || s.pattern == nil && key == e.Topic && int64(e.Seq) > first ||
				s.pattern != nil && s.pattern.Match(e.Topic) && int64(e.Position) > first
		}
		if wanted && n != 1 || n > 1 {
			t.Fatalf("%s %d (position %d) was delivered %d times, wanted: %v", e.Topic, e.Seq, e.Position, n, wanted)
		}
	}
	if s := w.c.stats; s.Holes > w.lost || s.Duplicates != 0 {
		t.Fatalf("a server that forgot %d events is said to have made %d holes and %d duplicates", w.lost, s.Holes, s.Duplicates)
	}
	if len(w.c.retired) > 0 && len(w.c.patterns) == 0 {
		t.Fatalf("%d retired subscriptions are kept for nobody", len(w.c.retired))
	}
}
