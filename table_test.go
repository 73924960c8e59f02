package pgcast_test

import (
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
)

func TestTableFeeds(t *testing.T) {
	long := "room:" + strings.Repeat("x", 186) + "~" + strings.Repeat("a", 64)
	for _, c := range []struct {
		literals string // with ? for each value
		short    bool
		selects  string
		want     bool
	}{
		{"orders", true, "orders", true}, {"orders", true, "order", false}, {"orders", true, "*", true}, {"orders", true, "**", true}, {"orders", true, "a:*", false},
		{"room:?", true, "room:1", true}, {"room:?", true, "room:~null", true}, {"room:?", true, "room:1:a", false}, {"room:?", true, "room", false}, {"room:?", true, "room:*", true},
		{"room:?", true, "*:1", true}, {"room:?", true, "hall:*", false}, {"room:?", true, "room:*:a", false}, {"room:?", true, "room:**", true}, {"room:?", true, "room:*:**", false},
		{"room:?:a", true, "room:*:b", false}, {"room:?:a", true, "room:**", true}, {"room:?:a", true, "room:1:a", true}, {"room:?:a", true, "*:*:*", true},
		{"?", true, "x", true}, {"?", true, "a:b", false}, {"?", false, "~empty", true}, {"x?y", true, "xy", true}, {"x?y", true, "x", false}, {"x?y", true, "x1y", true}, {"?-?", true, "a-b", true},
		{"_?", true, "%5F_a", true}, {"_?", true, "_a", true}, {"_?", true, "a", false},
		{"room:?", false, long, true}, {"room:?", true, long, true}, {"room:?:a", true, long, false}, {"room:?:a", false, long, true}, {"hall:?:a", false, long, false}, {"a?:b", false, "room:*", true},
		{"room:?:a", false, "room:*", true}, {"room:?:a", false, "hall:*", false}, {"room:?:a", false, "room", false}, {"a:b:?", false, "a:*", false}, {"a:b:?", false, "a:**", true},
	} {
		p, err := pgcast.ParsePattern(c.selects)
		if err != nil {
			t.Fatal(err)
		}
		table := pgcast.Table{Literals: strings.Split(c.literals, "?"), Short: c.short}
		if got := table.Feeds(p); got != c.want {
			t.Errorf("%s (short %t), %.40s: %t", c.literals, c.short, c.selects, got)
		}
	}
}
