package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/cursor"
)

// newBoards is a world that serves cursors; those on topics board:… come with a
// subscription.
func newBoards(t testing.TB, change func(*setup)) *world {
	t.Helper()
	on, err := pgcast.ParsePattern("board:*")
	if err != nil {
		t.Fatal(err)
	}
	return newWorld(t, func(s *setup) {
		s.Live = Live{Cursors: quick(), CursorOn: []pgcast.Pattern{on}}
		if change != nil {
			change(s)
		}
	})
}

// quick makes cursors that a test need not wait for.
func quick() *cursor.Cursors {
	rosters := presence.NewRosters(&presence.Options{Kind: "cursor", Every: time.Millisecond})
	return cursor.New(rosters, &cursor.Options{Throttle: time.Millisecond})
}

// cursorFrame takes the next frame, which must be an event of a topic's cursors.
func (p *peer) cursorFrame(topic string) (event string, data json.RawMessage) {
	p.t.Helper()
	f := p.want(wire.Event)
	if e := f.Events[0]; e.Topic == wire.CursorOf+topic && e.Seq == 0 && e.ID == "" {
		return e.Name, e.Data
	}
	p.t.Fatalf("got %+v; want an event of the cursors on %s", f, topic)
	return "", nil
}

// pointed is one cursor as it is told.
type pointed struct {
	Key  string
	User json.RawMessage
	Data json.RawMessage
}

func (p *peer) wantCursors(topic, event string) (list []pointed) {
	p.t.Helper()
	got, data := p.cursorFrame(topic)
	var err error
	if event == "update" || event == "remove" {
		list = make([]pointed, 1)
		err = json.Unmarshal(data, &list[0])
	} else {
		err = json.Unmarshal(data, &list)
	}
	if got != event || err != nil {
		p.t.Fatalf("got %s %s; want %s", got, data, event)
	}
	return list
}

// cursorAt waits until a cursor is told to be somewhere, and gives it.
func (p *peer) cursorAt(topic, data string) pointed {
	p.t.Helper()
	for {
		c := p.wantCursors(topic, "update")[0]
		if string(c.Data) == data {
			return c
		}
	}
}

// The frames of a client of the 0.5 generation: it asks for a snapshot, or is told with
// its subscription, moves, and is never told of itself.
func TestCursor(t *testing.T) {
	t.Parallel()
	w := newBoards(t, nil)
	ann, bob := w.dial(t, "batch"), w.dial(t, "batch")
	ann.raw(`{"type":"hello","caps":["batch"],"user":{"id":"ann","name":"Ann","secret":"x"}}`)
	ann.raw(`{"type":"cursor-snapshot","topic":"board:1"}`)
	if list := ann.wantCursors("board:1", "snapshot"); len(list) != 0 {
		t.Errorf("there is %v", list)
	}
	bob.subscribe("board:1", nil, "")
	bob.wantCursors("board:1", "snapshot")

	ann.raw(`{"type":"cursor","topic":"board:1","data":{"x":1,"y":2}}`)
	c := bob.cursorAt("board:1", `{"x":1,"y":2}`)
	if string(c.User) != `{"id":"ann","name":"Ann"}` || c.Key == "" {
		t.Errorf("told %+v", c)
	}
	ann.raw(`{"type":"cursor","topic":"board:1","position":[3]}`)
	bob.cursorAt("board:1", `[3]`)
	ann.quiet()

	// Moving is enough to be told of the others, and of both tabs of one user.
	tab := w.dial(t)
	tab.raw(`{"type":"hello","user":{"id":"ann","name":"Ann"}}`)
	tab.raw(`{"type":"cursor","topic":"board:1","data":4}`)
	if list := tab.wantCursors("board:1", "snapshot"); len(list) != 1 || list[0].Key != c.Key {
		t.Errorf("there is %v", list)
	}
	second := bob.cursorAt("board:1", `4`)
	if second.Key == c.Key || string(second.User) != string(c.User) {
		t.Errorf("two tabs are %+v and %+v", c, second)
	}
	if got := ann.cursorAt("board:1", `4`); got.Key != second.Key {
		t.Errorf("told %+v; want %s", got, second.Key)
	}
	bob.raw(`{"type":"cursor-snapshot","topic":"board:1"}`)
	if list := bob.wantCursors("board:1", "snapshot"); len(list) != 2 {
		t.Errorf("there is %v", list)
	}

	gone := func(of *peer, key string) {
		t.Helper()
		if got := of.wantCursors("board:1", "remove"); got[0].Key != key || got[0].Data != nil {
			t.Fatalf("gone is %+v; want %s", got, key)
		}
	}
	ann.raw(`{"type":"cursor","topic":"board:1","op":"leave"}`)
	gone(bob, c.Key)
	gone(tab, c.Key)
	ann.quiet() // it is not told of that either
	_ = tab.ws.CloseNow()
	gone(bob, second.Key)
	gone(ann, second.Key)

	// What came with a subscription goes with it, what was asked for does not.
	eve := w.dial(t, "batch")
	eve.subscribe("board:1", nil, "")
	eve.wantCursors("board:1", "snapshot")
	eve.raw(`{"type":"cursor","topic":"board:1","data":5}`)
	third := bob.cursorAt("board:1", `5`)
	ann.cursorAt("board:1", `5`)
	eve.send(wire.Frame{Type: wire.Unsubscribe, Topic: "board:1"})
	gone(bob, third.Key)
	gone(ann, third.Key)
	bob.send(wire.Frame{Type: wire.Unsubscribe, Topic: "board:1"}) // it has asked for a snapshot
	bob.quiet()
	ann.raw(`{"type":"cursor","topic":"board:1","data":6}`)
	bob.cursorAt("board:1", `6`)
	eve.quiet()
	bob.send(wire.Frame{Type: wire.Unsubscribe, Topic: "__cursor:board:1"})
	bob.quiet()
	ann.raw(`{"type":"cursor","topic":"board:1","data":7}`)
	ann.quiet()
	bob.quiet()
}

// Clients of the 0.3 generation subscribe to the cursors themselves and know no snapshot.
func TestCursorOld(t *testing.T) {
	t.Parallel()
	w := newBoards(t, nil)
	bob, old := w.dial(t), w.dial(t)
	bob.raw(`{"type":"cursor","topic":"canvas","data":1}`)
	bob.wantCursors("canvas", "snapshot")
	old.raw(`{"type":"subscribe","topic":"__cursor:canvas"}`)
	first := old.wantCursors("canvas", "bulk")
	if len(first) != 1 || string(first[0].Data) != "1" {
		t.Errorf("told %v", first)
	}
	bob.raw(`{"type":"cursor","topic":"canvas","position":2}`)
	old.cursorAt("canvas", "2")
	// Whichever comes first, its cursor or its subscription: it is told in its own words.
	late := w.dial(t)
	late.raw(`{"type":"cursor","topic":"canvas","position":3}`)
	late.wantCursors("canvas", "snapshot")
	late.raw(`{"type":"subscribe","topic":"__cursor:canvas","ref":1}`)
	late.want(wire.Subscribed)
	if list := late.wantCursors("canvas", "bulk"); len(list) != 1 {
		t.Errorf("told %v", list)
	}
	mine := old.cursorAt("canvas", "3")
	late.send(wire.Frame{Type: wire.Unsubscribe, Topic: "__cursor:canvas"})
	if gone := old.wantCursors("canvas", "remove"); gone[0].Key != mine.Key {
		t.Errorf("gone is %v; want %s", gone, mine.Key)
	}
	late.quiet()
	old.raw(`{"type":"subscribe","topic":"__cursor:empty","ref":1}`)
	old.want(wire.Subscribed)
	old.quiet() // there is nothing to say
	old.raw(`{"type":"subscribe","topic":"__cursor:a:*","ref":2}`)
	old.want(wire.SubscribeDenied)
}

// What cannot be served is answered, and changes nothing.
func TestCursorErrors(t *testing.T) {
	t.Parallel()
	const most = 3
	w := newBoards(t, func(s *setup) { s.MaxSubscriptions = most })
	p, watcher := w.dial(t), w.dial(t)
	watcher.raw(`{"type":"cursor-snapshot","topic":"a"}`)
	watcher.wantCursors("a", "snapshot")
	for i, c := range []struct {
		frame string
		code  pgcast.Code
	}{
		{`"type":"cursor"`, pgcast.CodeBadFrame},
		{`"type":"cursor","topic":"a"`, pgcast.CodeInvalid},
		{`"type":"cursor","topic":"a","data":null`, pgcast.CodeInvalid},
		{`"type":"cursor","topic":"a","op":"join","data":1`, pgcast.CodeBadFrame},
		{`"type":"cursor","topic":"a:*","data":1`, pgcast.CodeInvalidTopic},
		{`"type":"cursor","topic":"__cursor:a","data":1`, pgcast.CodeInvalidTopic},
		{`"type":"cursor","topic":"a","data":"` + strings.Repeat("x", cursor.MaxData) + `"`, pgcast.CodeTooLarge},
		{`"type":"cursor-snapshot"`, pgcast.CodeBadFrame},
		{`"type":"cursor-snapshot","topic":"**"`, pgcast.CodeInvalidTopic},
	} {
		p.raw(fmt.Sprintf(`{"ref":%d,%s}`, i, c.frame))
		if ref := p.wantError(c.code); ref != fmt.Sprint(i) {
			t.Errorf("%.60s: ref %s", c.frame, ref)
		}
	}
	p.raw(`{"type":"cursor","topic":"a","op":"leave"}`) // where it has none
	p.quiet()
	for i := range most {
		p.raw(fmt.Sprintf(`{"type":"cursor","topic":"t%d","data":1}`, i))
		p.wantCursors(fmt.Sprint("t", i), "snapshot")
	}
	p.raw(`{"type":"cursor","topic":"a","data":1,"ref":1}`)
	p.wantError(pgcast.CodeTooMany)
	p.raw(`{"type":"cursor-snapshot","topic":"a","ref":2}`)
	p.wantError(pgcast.CodeTooMany)
	p.raw(`{"type":"subscribe","topic":"__cursor:a","ref":3}`)
	if f := p.want(wire.SubscribeDenied); f.Reason != wire.ReasonTooMany {
		t.Errorf("denied because of %s", f.Reason)
	}
	p.raw(`{"type":"cursor","topic":"t0","data":2}`)
	p.quiet()
	watcher.quiet()

	full := w.dial(t) // who looks at as much as is allowed shows nothing elsewhere either
	for i := range most {
		full.raw(fmt.Sprintf(`{"type":"cursor-snapshot","topic":"full%d"}`, i))
		full.wantCursors(fmt.Sprint("full", i), "snapshot")
	}
	full.raw(`{"type":"cursor","topic":"a","data":1,"ref":1}`)
	full.wantError(pgcast.CodeTooMany)
	watcher.quiet()
}

// A server without live state says so.
func TestNoCursors(t *testing.T) {
	t.Parallel()
	p := newWorld(t, nil).dial(t)
	p.raw(`{"type":"cursor","topic":"a","data":1,"ref":1}`)
	p.wantError(pgcast.CodeUnsupported)
	p.raw(`{"type":"subscribe","topic":"__cursor:a","ref":2}`)
	p.want(wire.SubscribeDenied)
}

// A client that reads nothing for a while gets the newest of each cursor when it does, not
// all that was in between, and costs no memory meanwhile.
func TestCursorSlowClient(t *testing.T) {
	const movers, moves = 20, 400
	w := newBoards(t, func(s *setup) { s.small = true })
	slow := w.line(t, smallWindow, masked(opText, []byte(`{"type":"cursor-snapshot","topic":"a"}`))...)
	p := w.dial(t)
	p.raw(`{"type":"cursor-snapshot","topic":"a"}`)
	p.wantCursors("a", "snapshot")
	pad := strings.Repeat("x", 3000)
	sent, last := 0, map[string]int{}
	before := heap()
	done := make(chan struct{})
	var all []*cursor.Pointer
	for range movers {
		all = append(all, w.gate.opts.Live.Cursors.Pointer())
	}
	go func() {
		defer close(done)
		for i := range moves {
			for _, m := range all {
				if err := m.Move("a", nil, fmt.Appendf(nil, `[%d,"%s"]`, i, pad)); err != nil {
					t.Error(err)
				}
			}
			<-time.After(time.Millisecond)
		}
	}()
	// The one that reads has all of them at their last place, however little it was told.
	fold := func(event string, data json.RawMessage) {
		var list []pointed
		if event == "update" {
			list = make([]pointed, 1)
			_ = json.Unmarshal(data, &list[0])
		} else if err := json.Unmarshal(data, &list); err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			var at []any
			if err := json.Unmarshal(c.Data, &at); err != nil {
				t.Fatal(err)
			}
			last[c.Key] = int(at[0].(float64))
		}
	}
	there := func() bool {
		for _, n := range last {
			if n != moves-1 {
				return false
			}
		}
		return len(last) == movers
	}
	for !there() {
		fold(p.cursorFrame("a"))
	}
	<-done
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	clear(last)
	for !there() {
		_, text, err := slow.frame()
		if err != nil {
			t.Fatal(err)
		}
		f, err := wire.ParseServer(text)
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Events) == 1 && f.Events[0].Topic == "__cursor:a" {
			sent += len(text)
			fold(f.Events[0].Name, f.Events[0].Data)
		}
	}
	for _, m := range all {
		m.Close()
	}
	t.Logf("the slow client was sent %d KB of %d KB", sent>>10, movers*moves*len(pad)>>10)
	if sent > movers*moves*len(pad)/4 {
		t.Errorf("the slow client was sent %d bytes", sent)
	}
}
