package pgcast_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
)

func TestAsOf(t *testing.T) {
	a, err := pgcast.MakeAsOf("1f.1", "7:12:8,10")
	if err != nil || a.String() != "1f.1/7:12:8,10" || a.Cluster != "1f.1" || a.IsZero() {
		t.Fatalf("%q, %v", a, err)
	}
	for xid, want := range []bool{false, true, true, true, true, true, true, true, false, true, false, true, false, false} {
		if a.Holds(uint64(xid)) != want {
			t.Errorf("it holds %d: %v, want %v", xid, !want, want)
		}
	}
	if z := (pgcast.AsOf{}); !z.IsZero() || z.String() != "" || z.Holds(1) {
		t.Error("the zero value holds something")
	}
	open := make([]string, 1000)
	for i := range open {
		open[i] = strconv.Itoa(1000 + i)
	}
	if _, err := pgcast.MakeAsOf("1f.1", "1000:2000:"+strings.Join(open, ",")); err == nil || !strings.Contains(err.Error(), "too many transactions") {
		t.Errorf("a thousand open transactions: %v", err)
	}
	for _, text := range []string{"", "1.1", "1.1/", "1.1/7", "1.1/7:7", "1.1/0:0:", "1.1/9:7:", "1.1/7:9:9", "1.1/7:9:6", "1.1/7:9:8,7", "1.1/7:9:7,", "1.1/07:9:", "1.1/+7:9:",
		"1.1/7:18446744073709551616:", "1.1/7:9::", strings.Repeat("a", 65) + "/7:9:"} {
		if a, err := pgcast.ParseAsOf(text); err == nil {
			t.Errorf("%q was read as %v", text, a)
		}
	}
}

// FuzzAsOf: what a stranger sends is refused, or is written again as it was and holds
// nothing from its end on.
func FuzzAsOf(f *testing.F) {
	for _, s := range []string{"", "1f.1/7:12:8,10", "/1:1:", "a/1:2:1", "1.1/7:18446744073709551615:7"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := pgcast.ParseAsOf(text)
		if err == nil && (a.String() != text || a.Holds(0) || a.Holds(1<<64-1)) {
			t.Errorf("%q became %q", text, a)
		}
	})
}
