package gateway

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence"
)

// A peer that reads nothing cannot have views kept that are over: it begins and ends to look
// on, without a ref, so that no answer makes it wait.
func TestViewsAreBounded(t *testing.T) { // not beside others, for the heap's sake
	w := newWorld(t, func(s *setup) {
		withPresence(t, 0)(s)
		s.small = true
	})
	l := w.line(t, smallWindow, subscription("a")...)
	l.subscribed()
	w.publish(t, "a", flood, floodSize) // what it does not read keeps its pump busy
	w.sequenced(t)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	did := func(mark string) {
		t.Helper()
		l.write(masked(opText, fmt.Appendf(nil, `{"type":"presence","topic":"%s","op":"join"}`, mark)))
		await(t, mark, func() bool {
			_, text := w.present(t, mark, "?count=true")
			return strings.Contains(text, `"count":1`)
		})
	}
	did("begun")
	before := heap()
	const times = 40_000
	pair := append(masked(opText, []byte(`{"type":"presence","topic":"b","op":"sync"}`)), masked(opText, []byte(`{"type":"presence","topic":"b","op":"unsync"}`))...)
	for range times / 1000 {
		var many []byte
		for range 1000 {
			many = append(many, pair...)
		}
		l.write(many)
	}
	did("done")
	if grown := int64(heap()) - int64(before); grown > 400*times {
		t.Errorf("the heap has grown by %d bytes, %d for each view that is over", grown, grown/times)
	}
}

// Who says over and over to be somebody else is read more slowly, and is who it said last.
func TestRenamedOverAndOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) {
		withPresence(t, 0)(s)
		s.MaxSubscriptions = 10
	})
	p := w.dial(t)
	join := func(topic string) {
		t.Helper()
		p.raw(`{"type":"presence","topic":"` + topic + `","op":"join"}`)
		for !strings.Contains(p.text(), `"type":"presence"`) {
		}
	}
	for n := range 10 {
		join(fmt.Sprint("room:", n))
	}
	const times = 50
	began := time.Now()
	for n := range times {
		p.raw(fmt.Sprintf(`{"type":"hello","user":{"id":"user%d"}}`, n))
	}
	join("room:0")
	if took, least := time.Since(began), (10*(times-1)-refusedFree)*refusedPause; took < least {
		t.Errorf("%d changes on 10 topics took %v; must take at least %v", times, took, least)
	}
	for n := range 10 {
		if _, text := w.present(t, fmt.Sprint("room:", n), ""); text != `{"count":1,"users":{"user49":{"id":"user49"}}}` {
			t.Errorf("on topic %d are %s", n, text)
		}
	}
}

// Frames are no larger than clients take also where the keys are of what JSON must escape.
func TestFramesOfHardKeys(t *testing.T) {
	t.Parallel()
	for _, c := range []string{"<", "\x00", "\"", "\u2028", "\xff", "é", "\x7f"} {
		if n := len(quoted(c)); quotedLen(c) < n {
			t.Errorf("%q takes %d bytes; at most %d were expected", c, n, quotedLen(c))
		}
	}
	rosters := presence.NewRosters(nil)
	const crowd = 5000
	for n := range crowd {
		rosters.Post("room:1", fmt.Sprintf("%05d", n)+strings.Repeat("<", presence.MaxKey-5), json.RawMessage(`{}`))
	}
	for _, d := range []*presence.Dialect{stateDialect, listDialect} {
		v := rosters.View("room:1", d, "", func(*presence.View) {})
		defer v.Close()
		for _, text := range v.Pull() {
			if len(text) > wire.MaxServerFrame {
				t.Errorf("a frame of %d bytes", len(text))
			}
		}
	}
}
