package fanout

import (
	"math/rand/v2"
	"testing"
)

// A walk comes by every member that stays from its kick on, whoever joins and leaves
// meanwhile, and a kick during a walk makes another one.
func TestWalk(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		f, c := &feed{key: "a"}, newCrew(nil)
		c.most = 0 // walked by hand
		members, owed := map[*Subscription]bool{}, map[*Subscription]bool{}
		join := func() {
			sub := &Subscription{feed: f}
			f.join(sub)
			members[sub] = true
		}
		for range 3 * share {
			join()
		}
		walk := func() bool {
			subs, more := f.walk(make([]*Subscription, 0, 1+r.IntN(share)))
			for _, sub := range subs {
				if !members[sub] {
					t.Fatalf("seed %d: came by one that had left", seed)
				}
				delete(owed, sub)
			}
			return more
		}
		for range 300 {
			switch r.IntN(4) {
			case 0:
				join()
			case 1:
				for sub := range members {
					f.leave(sub)
					delete(members, sub)
					delete(owed, sub)
					break
				}
			case 2:
				f.kick(c)
				for sub := range members {
					owed[sub] = true
				}
			case 3:
				if f.walking {
					walk()
				}
			}
		}
		for f.walking {
			walk()
		}
		if len(owed) > 0 {
			t.Fatalf("seed %d: %d of %d members were left out", seed, len(owed), len(members))
		}
	}
}
