package bench

import (
	"math"
	"os"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		list  []float64
		share float64
		want  float64
	}{
		{nil, 0.5, 0}, {[]float64{3}, 0.99, 3}, {[]float64{3, 1, 2}, 0.5, 2}, {[]float64{4, 1, 2, 3}, 0.5, 2.5},
		{[]float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 0.99, 10}, {[]float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 0.9, 10},
	} {
		if got := quantile(c.list, c.share); got != c.want {
			t.Errorf("quantile %v of %v is %v, not %v", c.share, c.list, got, c.want)
		}
	}
}

// A figure is the median of its rounds, and is held against its target on the right side.
func TestRow(t *testing.T) {
	rounds := []float64{5, 1, 3}
	for _, c := range []struct {
		target *Target
		met    bool
	}{{atLeast(3), true}, {atLeast(3.1), false}, {atMost(3), true}, {atMost(2.9), false}} {
		if r := row("", "", "", rounds, c.target); r.Figure != 3 || r.Met == nil || *r.Met != c.met {
			t.Errorf("%v against %s: %+v", rounds, c.target, r)
		}
	}
	if r := row("", "", "", rounds, nil); r.Met != nil {
		t.Errorf("met without a target: %+v", r)
	}
	if r := ratios([]float64{1, 1}, []float64{2, 0}); r[0] != 0.5 || math.IsInf(r[1], 0) {
		t.Errorf("ratios %v", r)
	}
}

// The operating system's figures are there, and move.
func TestProcess(t *testing.T) {
	pid := os.Getpid()
	if _, err := os.Stat("/proc/self/smaps_rollup"); err != nil {
		t.Skip("no /proc here")
	}
	before, err := cpuOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	for end, x := time.Now().Add(time.Minute), 0.0; ; x++ {
		if after, err := cpuOf(pid); err != nil || after > before {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("a busy minute used no processor time (%v)", x)
		}
	}
	if family, err := cpuOfFamily(pid); err != nil || family < before {
		t.Errorf("with its children: %v, %v", family, err)
	}
	size, err := residentOf(pid)
	if err != nil || size < 1<<20 || size > 1<<36 {
		t.Errorf("resident: %d, %v", size, err)
	}
	if n := filesOf(pid); n < 10 {
		t.Errorf("%d open files allowed", n)
	}
}

func TestFigure(t *testing.T) {
	const text = "# HELP a_total x\na_total 3\na_total{kind=\"x\"} 4\na_totals 100\nb{kind=\"follow\"} 2e+03\n"
	for name, want := range map[string]float64{"a_total": 7, "b": 2000, `b{kind="follow"}`: 2000, "c": 0} {
		if got := figure(text, name); got != want {
			t.Errorf("%s is %v, not %v", name, got, want)
		}
	}
}
