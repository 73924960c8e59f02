package replay

import (
	"testing"
	"time"
)

// TestBreathing: only steps without an end between them are spaced out, and only while that
// makes them larger.
func TestBreathing(t *testing.T) {
	t.Parallel()
	few, many, large := stepped{events: 1}, stepped{events: 20}, stepped{events: largeStep}
	dense := func() (b breathing) {
		for range denseSteps {
			if d := b.after(many, time.Millisecond); d != 0 {
				t.Fatalf("a breath of %v after step %d", d, b.steps)
			}
		}
		return b
	}
	for _, tt := range []struct {
		name string
		done stepped
		took time.Duration
		want time.Duration
	}{
		{"a quick step", many, 100 * time.Microsecond, shortBreath},
		{"a step", many, time.Millisecond, breathShare * time.Millisecond},
		{"a slow step", many, time.Second, longBreath},
		{"a large step", large, time.Millisecond, 0},
		{"a chunk", stepped{events: 20, more: true}, time.Millisecond, 0},
		{"nothing gained", few, time.Millisecond, 0},
	} {
		b := dense()
		if d := b.after(tt.done, tt.took); d != tt.want {
			t.Errorf("%s: a breath of %v, want %v", tt.name, d, tt.want)
		}
	}
	b := dense()
	b.after(few, time.Millisecond)
	for range denseSteps {
		if d := b.after(few, time.Millisecond); d != 0 {
			t.Fatalf("events that come alone wait %v", d)
		}
	}
}
