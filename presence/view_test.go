package presence_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pgcast/pgcast/presence"
)

// A client that knows no keys and only adds and takes away values, as that of the peer
// protocol's groups, is right after each pull, however many changes one has.
func TestViewWithoutKeys(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rosters := presence.NewRosters(nil)
		type client struct {
			view *presence.View
			has  []string
		}
		var clients []*client
		now := map[string]string{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch what := rapid.IntRange(0, 3).Draw(t, "what"); {
			case len(clients) == 0 || what == 0 && len(clients) < 4:
				c := &client{}
				d := &presence.Dialect{Encode: func(in presence.Changes) [][]byte {
					if in.Whole || in.Unclear {
						c.has = nil
						in.Set, in.Removed = in.All(), nil
					}
					for _, e := range in.Removed {
						at := slices.Index(c.has, string(e.Value))
						if at < 0 {
							t.Fatalf("%v goes, and is not there: %v", e, c.has)
						}
						c.has = slices.Delete(c.has, at, at+1)
					}
					for _, e := range in.Set {
						c.has = append(c.has, string(e.Value))
					}
					if in.Count != len(c.has) {
						t.Fatalf("count is %d, and there are %v", in.Count, c.has)
					}
					return nil
				}}
				c.view = rosters.View("room:1", d, "", func(*presence.View) {})
				clients = append(clients, c)
			case what == 1:
				c := clients[rapid.IntRange(0, len(clients)-1).Draw(t, "who")]
				_ = c.view.Pull()
				var want []string
				for _, v := range now {
					want = append(want, v)
				}
				slices.Sort(want)
				if got := slices.Sorted(slices.Values(c.has)); !slices.Equal(got, want) {
					t.Fatalf("a client has %v; there are %v", got, want)
				}
			default:
				key := fmt.Sprintf("key%d", rapid.IntRange(0, 3).Draw(t, "key"))
				if rapid.Bool().Draw(t, "set") {
					value := fmt.Sprintf(`"%d"`, rapid.IntRange(0, 1).Draw(t, "value"))
					now[key] = value
					rosters.Post("room:1", key, json.RawMessage(value))
				} else {
					delete(now, key)
					rosters.Drop("room:1", key)
				}
			}
		}
	})
}
