package group_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/presence"
)

// What one join costs on two servers that share a Redis: of 200 at once for the 50 places
// of a group, and of those that find a large group full.
func BenchmarkJoin(b *testing.B) {
	b.Run("200 for 50", func(b *testing.B) {
		w := newWorld(b, redistest.Start(b))
		one, two := w.server(nil), w.server(nil)
		round := 0
		for b.Loop() {
			name := fmt.Sprintf("group%d", round)
			round++
			w.create(name, 50)
			if in := crowd(b, []*server{one, two}, name, 0, 200); in != 50 {
				b.Fatalf("%d are in", in)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(200*b.N), "µs/join")
	})
	b.Run("200 for none of 10000", func(b *testing.B) {
		const n = 10_000
		w := newWorld(b, redistest.Start(b))
		one, two := w.server(nil), w.server(nil)
		w.create("lobby", n)
		if in := crowd(b, []*server{one, two}, "lobby", 0, n); in != n {
			b.Fatalf("%d are in", in)
		}
		for b.Loop() {
			if in := crowd(b, []*server{one, two}, "lobby", n, 200); in != 0 {
				b.Fatalf("%d are in that there was no room for", in)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(200*b.N), "µs/join")
	})
}

// crowd has n users join at once, and tells how many got in.
func crowd(b *testing.B, servers []*server, name string, from, n int) int64 {
	var in atomic.Int64
	var done sync.WaitGroup
	for i := range n {
		done.Go(func() {
			_, err := servers[i%len(servers)].unseen(name).try(fmt.Sprintf("user%d", from+i), "")
			switch {
			case err == nil:
				in.Add(1)
			case !errors.Is(err, presence.ErrFull):
				b.Error(err)
			}
		})
	}
	done.Wait()
	return in.Load()
}
