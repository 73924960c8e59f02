package gateway

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/pgcast/pgcast/presence"
)

// BenchmarkPresenceChange measures what one change of a topic with 10,000 members costs its
// watchers on one server, and what one who comes costs, who is told of all: CPU of the
// process, and bytes of all frames together.
func BenchmarkPresenceChange(b *testing.B) {
	for _, members := range []int{100, 1000, 10_000} {
		rosters := presence.NewRosters(&presence.Options{Every: 1})
		add := func(n, round int) {
			key := fmt.Sprint("user:", n)
			rosters.Post("room:1", key, json.RawMessage(fmt.Sprintf(`{"id":%q,"name":"Somebody Else","color":"#%06x"}`, key, round)))
		}
		for n := range members {
			add(n, 0)
		}
		for _, watchers := range []int{1, 1000} {
			b.Run(fmt.Sprintf("members=%d/watchers=%d", members, watchers), func(b *testing.B) {
				var views []*presence.View
				for range watchers {
					v := rosters.View("room:1", stateDialect, "", func(*presence.View) {})
					v.Pull()
					views = append(views, v)
					defer v.Close()
				}
				size := 0
				for round := 1; b.Loop(); round++ {
					add(members/2, round)
					for _, v := range views {
						for _, text := range v.Pull() {
							size += len(text)
						}
					}
				}
				b.ReportMetric(float64(size)/float64(b.N), "B/change")
			})
		}
		b.Run(fmt.Sprintf("members=%d/newcomer", members), func(b *testing.B) {
			size := 0
			for round := 1; b.Loop(); round++ {
				add(members/2, round) // itself
				v := rosters.View("room:1", stateDialect, "", func(*presence.View) {})
				for _, text := range v.Pull() {
					size += len(text)
				}
				defer v.Close()
			}
			b.ReportMetric(float64(size)/float64(b.N), "B/join")
		})
	}
}
