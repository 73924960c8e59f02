package server

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
)

// Memory is given back once after many sessions came or went, when no more do.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counts := []int{0, 400, 499, 2000, 5000, 5010, 5000, 5400, 6100, 6200, 6100, 100, 90, 80, 0, 0}
		ctx, cancel := context.WithCancel(t.Context())
		look := -1
		var freed []int
		err := rest(ctx, func() int {
			if look++; look == len(counts)-1 {
				cancel()
			}
			return counts[look]
		}, func() { freed = append(freed, look) })
		if want := []int{5, 8, 12}; !slices.Equal(freed, want) || err == nil {
			t.Errorf("freed at the looks %v instead of %v; %v", freed, want, err)
		}
	})
}
