package presence_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/shared"
)

// crowdSizes are those of one topic; what a thing costs is to be seen beside each other.
var crowdSizes = []int{1000, 10_000}

func member(n int) (key string, value json.RawMessage) {
	key = fmt.Sprint("user:", n)
	return key, json.RawMessage(`{"id":"` + key + `","name":"Somebody Else","color":"#aabbcc"}`)
}

// benchServer is one server's rosters on a Redis.
func benchServer(b *testing.B, redis *redistest.Redis, name string) (*presence.Rosters, *shared.Store) {
	b.Helper()
	r, err := shared.Open(&shared.Options{URL: redis.URL})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	relay, store := r.Relay(), r.Store("presence", name, time.Minute)
	rosters := presence.NewRosters(&presence.Options{Kind: "presence", Server: name, TTL: time.Minute, Store: store, Relay: relay.Kind("presence")})
	for _, run := range []func(context.Context) error{r.Run, relay.Run, rosters.Run} {
		done.Go(func() { _ = run(ctx) })
	}
	b.Cleanup(func() { cancel(); done.Wait() })
	return rosters, store
}

// fill has members join a topic, as many at a time as there are sessions that ask.
func fill(b *testing.B, r *presence.Rosters, topic string, members int) {
	b.Helper()
	var next atomic.Int64
	var done sync.WaitGroup
	for range 256 {
		done.Go(func() {
			for n := int(next.Add(1)); n <= members; n = int(next.Add(1)) {
				key, value := member(n)
				if err := r.Put(context.Background(), topic, key, value, 0); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	done.Wait()
}

// BenchmarkRoster measures one topic of two servers on a Redis of their own: a join that
// waits until it is so everywhere, with 256 at a time; the list; one heartbeat's round trip;
// reading the topic anew; and a change from one server to a client of the other.
func BenchmarkRoster(b *testing.B) {
	redis := redistest.Start(b)
	for _, members := range crowdSizes {
		one, store := benchServer(b, redis, fmt.Sprint("one-", members))
		two, _ := benchServer(b, redis, fmt.Sprint("two-", members))
		topic := fmt.Sprint("room:", members)
		b.Run(fmt.Sprint("join/", members), func(b *testing.B) {
			for n := range b.N {
				fill(b, one, fmt.Sprint(topic, ":", n), members)
			}
			b.ReportMetric(float64(members*b.N)/b.Elapsed().Seconds(), "joins/s")
			b.ReportMetric(0, "ns/op")
		})
		fill(b, one, topic, members)
		b.Run(fmt.Sprint("list/", members), func(b *testing.B) {
			v := two.View(topic, plain, "", func(*presence.View) {})
			defer v.Close()
			for b.Loop() {
				list, err := two.List(context.Background(), topic)
				if err != nil || len(list) != members {
					b.Fatalf("%d, %v", len(list), err)
				}
			}
		})
		b.Run(fmt.Sprint("beat/", members), func(b *testing.B) {
			for b.Loop() {
				if s := store.Beat(context.Background(), []presence.Hold{{Topic: topic, Held: members}}); s[0].Err != nil || s[0].Held != members {
					b.Fatalf("%+v", s)
				}
			}
		})
		b.Run(fmt.Sprint("read/", members), func(b *testing.B) {
			for b.Loop() {
				if s := store.Read(context.Background(), []string{topic}); s[0].Err != nil || len(s[0].Peers) != 1 {
					b.Fatalf("%v", s[0].Err)
				}
			}
		})
		b.Run(fmt.Sprint("change/", members), func(b *testing.B) {
			seen := make(chan int, 1000)
			size := &presence.Dialect{Encode: func(c presence.Changes) [][]byte {
				if !c.Whole {
					seen <- len(c.Set) + len(c.Removed)
				}
				return nil
			}}
			v := two.View(topic, size, "", func(v *presence.View) { go v.Pull() })
			defer v.Close()
			if _, err := two.List(context.Background(), topic); err != nil {
				b.Fatal(err)
			}
			for i := 0; b.Loop(); i++ {
				key, _ := member(1)
				one.Post(topic, key, json.RawMessage(fmt.Sprint(i)))
				<-seen
			}
		})
	}
	// A server of many topics says in one round trip that it is there.
	_, store := benchServer(b, redis, "many")
	holds := make([]presence.Hold, 1000)
	for i := range holds {
		holds[i] = presence.Hold{Topic: fmt.Sprint("topic:", i)}
	}
	b.Run("beat of 1000 topics", func(b *testing.B) {
		for b.Loop() {
			if s := store.Beat(context.Background(), holds); s[0].Err != nil {
				b.Fatal(s[0].Err)
			}
		}
	})
}
