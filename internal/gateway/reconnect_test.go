package gateway

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// Under writers, streams of several topics and patterns, and readers who wait, are cut
// off at any moment and come back with nothing but what a browser keeps. Nobody misses
// an event, or gets one twice or out of order, though the ring holds next to nothing.
func TestReconnectsUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.hub.Ring = 8 })
	const topics, batches, readers = 6, 150, 6
	name := func(i int) string { return fmt.Sprintf("%c:%d", 'a'+i%3, i) }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	heads := map[string]int64{}
	var writers, all sync.WaitGroup
	for i := range topics {
		heads[name(i)] = 3 * batches
		writers.Go(func() {
			for range batches {
				w.publish(t, name(i), 3, rand.IntN(2000))
			}
		})
	}
	var cuts, events atomic.Int64
	// One topic by name, another one's pattern, and a pattern of all the rest.
	selections := [][]string{{"a:0", "b:*", "c:2"}, {"b:1", "a:*", "c:5", "b:4"}, {"**"}}
	for k := range readers {
		list := selections[k%len(selections)]
		all.Go(func() {
			got, last, want := map[string]int64{}, "", expected(list, heads)
			for rounds := 0; !same(got, want) && ctx.Err() == nil; rounds++ {
				// The first of all comes from the beginning, as the others would from a page.
				if last == "" {
					last = zeros(len(list))
				}
				s := w.sse(t, list[0], query(list[1:]), last)
				for n := rand.IntN(40); n >= 0 && !same(got, want); n-- {
					e := s.next()
					if e.Event != "" {
						continue
					}
					f, err := wire.ParseServer([]byte(e.Data))
					if err != nil {
						t.Error(err)
						return
					}
					events.Add(1)
					if ev := f.Events[0]; int64(ev.Seq) != got[ev.Topic]+1 {
						t.Errorf("%v: %s has %d after %d (%s)", list, ev.Topic, ev.Seq, got[ev.Topic], last)
						return
					}
					got[f.Events[0].Topic]++
				}
				last = s.last
				_ = s.conn.Close()
				cuts.Add(1)
			}
		})
	}
	for _, topic := range []string{"a:0", "b:*", "**"} {
		all.Go(func() {
			got, want, next, id := map[string]int64{}, expected([]string{topic}, heads), int64(0), ""
			for !same(got, want) && ctx.Err() == nil {
				e := w.get(t, topic, fmt.Sprintf("after=%d&id=%s&wait=2&limit=%d", next, id, 1+rand.IntN(30)))
				for _, text := range e.Events {
					f, err := wire.ParseServer(text)
					if err != nil {
						t.Error(err)
						return
					}
					ev := f.Events[0]
					if int64(ev.Seq) != got[ev.Topic]+1 {
						t.Errorf("%s, waiting: %s has %d after %d", topic, ev.Topic, ev.Seq, got[ev.Topic])
						return
					}
					got[ev.Topic]++
					events.Add(1)
					id = string(ev.ID)
				}
				if len(e.Events) == 0 && e.Next != next {
					id = ""
				}
				next = e.Next
			}
		})
	}
	writers.Wait()
	all.Wait()
	t.Logf("%d events over %d cut connections", events.Load(), cuts.Load())
	if cuts.Load() < 50 {
		t.Errorf("only %d connections were cut", cuts.Load())
	}
}

func query(topics []string) string {
	v := url.Values{}
	for _, name := range topics {
		v.Add("topic", name)
	}
	return v.Encode()
}

func zeros(n int) (s string) {
	for range n - 1 {
		s += "0,"
	}
	return s + "0"
}

// expected gives the heads of the topics that a list selects.
func expected(list []string, heads map[string]int64) map[string]int64 {
	want := map[string]int64{}
	for _, text := range list {
		p, err := pgcast.ParsePattern(text)
		if err != nil {
			panic(err)
		}
		for topic, head := range heads {
			if p.Match(topic) {
				want[topic] = head
			}
		}
	}
	return want
}

func same(got, want map[string]int64) bool {
	for topic, head := range want {
		if got[topic] != head {
			return false
		}
	}
	return true
}
