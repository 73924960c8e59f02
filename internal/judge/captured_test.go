package judge

import (
	"slices"
	"testing"
)

// A change that was read from the WAL twice, left out or misplaced is found; a row that moves
// to another topic, and a table that begins anew, are not taken for one.
func TestChangeMutants(t *testing.T) {
	n := func(n int64) *int64 { return &n }
	right := []change{
		{"1", "created", 10, n(1)}, {"2", "created", 10, n(1)},
		{"1", "updated", 11, n(2)},
		{"1", "deleted", 13, nil}, {"1", "created", 13, n(3)}, // moved
		{"2", "updated", 12, n(2)}, {"2", "updated", 12, n(3)},
		{"2", "deleted", 14, nil},
		{"", "truncated", 15, nil}, {"", "truncated", 15, nil},
		{"3", "created", 16, n(1)},
	}
	for _, c := range []struct {
		name   string
		mutate func(l []change) []change
		want   Verdict
	}{
		{"right", func(l []change) []change { return l }, Verdict{}},
		{"an insert twice", func(l []change) []change { return slices.Insert(l, 1, l[0]) }, Verdict{Doubled: 1}},
		{"an update twice", func(l []change) []change { return slices.Insert(l, 2, l[2]) }, Verdict{Doubled: 1}},
		{"a delete twice", func(l []change) []change { return slices.Insert(l, 8, l[7]) }, Verdict{Doubled: 1}},
		{"an update left out", func(l []change) []change { return slices.Delete(l, 2, 3) }, Verdict{Lost: 1}},
		{"an insert left out", func(l []change) []change { return slices.Delete(l, 0, 1) }, Verdict{Lost: 1}},
		{"half of a move left out", func(l []change) []change { return slices.Delete(l, 3, 4) }, Verdict{Lost: 1}},
		{"a transaction parted", func(l []change) []change { l[5], l[7] = l[7], l[5]; l[6].xid = 13; return l[:7] }, Verdict{Reordered: 1, Lost: 1}},
		{"a row without its number", func(l []change) []change { l[2].n = nil; return l[:3] }, Verdict{Lost: 1}},
	} {
		checkVerdict(t, c.name, checkChanges(c.mutate(slices.Clone(right))), c.want)
	}
}
