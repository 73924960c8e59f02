package fanout

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgcast/pgcast"
)

// What the log had before the hub began to follow it, or has since it is another one, has not
// happened here.
func TestFiguresCountWhatCame(t *testing.T) {
	t.Parallel()
	h := NewHub(nil, nil, HubOptions{})
	come := func(step string, events int64, position pgcast.Position) {
		t.Helper()
		if f := h.Figures(); f.Events != events || f.Position != position {
			t.Errorf("%s: %d events, at %d; want %d, at %d", step, f.Events, f.Position, events, position)
		}
	}
	come("before it follows", 0, 0)
	h.start(27_000)
	come("it begins", 0, 27_000)
	h.Append([]pgcast.Event{{Position: 27_001, Topic: "a"}, {Position: 27_002, Topic: "b"}})
	come("two events", 2, 27_002)
	if !h.skip(27_010) {
		t.Fatal("somebody listens")
	}
	come("eight that nobody listened to", 10, 27_010)
	h.pass(27_011)
	come("one that was trimmed", 11, 27_011)
	h.Restart(40, ErrResume)
	come("another log, which is shorter", 11, 40)
	h.Restart(90_000, ErrResume)
	come("another log, which is longer", 11, 90_000)
	h.Append([]pgcast.Event{{Position: 90_001, Topic: "a"}})
	come("it goes on", 12, 90_001)
}

// A bin is no wider than an eighth of what it counts, and the one that a duration is counted in
// is the one that says so.
func TestLatencyBins(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "d"))
		upper := latencyOf(latencyBin(d))
		if upper <= d.Truncate(time.Microsecond) || upper > d+d/8+2*time.Microsecond {
			t.Fatalf("%v is counted as %v", d, upper)
		}
	})
	if latencyBin(time.Hour) != latencyBins-1 || latencyBin(-time.Second) != 0 {
		t.Error("what is out of range has another bin than the last and the first")
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	var before, l Latency
	if _, ok := l.Quantile(0.5); ok {
		t.Error("there is a median of nothing")
	}
	before[latencyBin(time.Second)] = 1000
	l = before
	for i := range 100 {
		l[latencyBin(time.Duration(i+1)*time.Millisecond)]++
	}
	since := l.Since(&before)
	for share, want := range map[float64]time.Duration{0.5: 50 * time.Millisecond, 0.99: 99 * time.Millisecond, 0: time.Millisecond, 1: 100 * time.Millisecond} {
		if got, ok := since.Quantile(share); !ok || got < want || got > want+want/8+time.Microsecond {
			t.Errorf("quantile %v is %v, want %v", share, got, want)
		}
	}
}

// How far a session is behind is counted from its places, whatever holds it up.
func TestBeyond(t *testing.T) {
	t.Parallel()
	topic := &feed{known: true, floor: 10, head: 14}
	for place, want := range map[int64]int64{3: 11, 10: 4, 14: 0, 20: 0} {
		if got := topic.beyond(place); got != want {
			t.Errorf("after %d of a topic there are %d, want %d", place, got, want)
		}
	}
	all, err := pgcast.ParsePattern("**")
	if err != nil {
		t.Fatal(err)
	}
	pattern := &feed{pattern: &all, known: true, floor: 10, head: 20}
	for _, at := range []pgcast.Position{11, 13, 17} {
		pattern.frames = append(pattern.frames, &Frame{Event: pgcast.Event{Position: at}})
	}
	for place, want := range map[int64]int64{3: 10, 10: 3, 11: 2, 12: 2, 13: 1, 16: 1, 17: 0, 20: 0} {
		if got := pattern.beyond(place); got != want {
			t.Errorf("after %d of a pattern there are %d, want %d", place, got, want)
		}
	}
	if got := (&feed{head: 7}).beyond(0); got != 0 {
		t.Errorf("of a feed that knows nothing: %d", got)
	}
}
