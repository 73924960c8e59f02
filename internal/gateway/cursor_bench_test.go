package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/cursor"
)

// BenchmarkCursors is what an interval of moves costs a server without the writing to
// connections: movers move, and each of those who look pulls its texts. Movers look too.
func BenchmarkCursors(b *testing.B) {
	for _, c := range []struct{ movers, lookers int }{{1, 100}, {100, 100}, {1, 10_000}} {
		b.Run(fmt.Sprintf("%dx%d", c.movers, c.lookers), func(b *testing.B) {
			all := cursor.New(presence.NewRosters(&presence.Options{Kind: "cursor", Every: time.Nanosecond}),
				&cursor.Options{Throttle: time.Nanosecond})
			var movers []*cursor.Pointer
			var views []*presence.View
			for i := range c.lookers {
				p := all.Pointer()
				if i < c.movers {
					movers = append(movers, p)
				}
				views = append(views, all.View("board:1", cursorDialect, p.Key(), func(*presence.View) {}))
			}
			user := []byte(`{"id":"user1","name":"Ann Other","color":"#aabbcc"}`)
			b.ReportAllocs()
			texts, n := 0, 0
			for i := 0; b.Loop(); i++ {
				n++
				for _, m := range movers {
					if err := m.Move("board:1", user, fmt.Appendf(nil, `{"x":%d,"y":%d}`, i%1920, i%1080)); err != nil {
						b.Fatal(err)
					}
				}
				for _, v := range views {
					texts += len(v.Pull())
				}
			}
			b.ReportMetric(float64(texts)/float64(n), "texts/op")
			for _, v := range views {
				v.Close()
			}
			for _, m := range movers {
				m.Close()
			}
		})
	}
}
