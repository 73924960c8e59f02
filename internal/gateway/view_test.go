package gateway

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
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
