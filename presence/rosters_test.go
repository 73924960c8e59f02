package presence_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/presence"
)

// A view begins with everything, follows each change, and does not show what is hidden.
func TestView(t *testing.T) {
	each(t, presence.Options{}, func(t *testing.T, w *world) {
		s := w.server()
		w.put(s, "room:1", "ann", `{"n":1}`)
		all, bob := s.watch("room:1", ""), s.watch("room:1", "bob")
		sees(t, all, "ann")
		w.put(s, "room:1", "bob", `{}`)
		w.put(s, "room:2", "eve", `{}`)
		sees(t, all, "ann", "bob")
		s.Drop("room:1", "ann")
		sees(t, all, "bob")
		sees(t, bob)
		n, err := s.Count(t.Context(), "room:1")
		if n != 1 || err != nil {
			t.Fatalf("count %d, %v; want 1", n, err)
		}
		list, err := s.List(t.Context(), "room:2")
		if err != nil || len(list) != 1 || list[0].Key != "eve" {
			t.Fatalf("list %v, %v", list, err)
		}
	})
}

// What many servers do at once all of them and all clients end up with.
func TestServersAgree(t *testing.T) {
	shares(t, presence.Options{}, func(t *testing.T, w *world) {
		const servers, keys, rounds = 3, 8, 60
		var all []*server
		var clients []*client
		for range servers {
			s := w.server()
			all, clients = append(all, s), append(clients, s.watch("room:1", ""))
		}
		var done sync.WaitGroup
		for i, s := range all {
			done.Go(func() {
				for round := range rounds {
					key := fmt.Sprintf("user%d", (round*7+i)%keys)
					if round%3 == 2 {
						s.Drop("room:1", key)
					} else {
						s.Post("room:1", key, json.RawMessage(fmt.Sprintf(`"%d/%d"`, i, round)))
					}
				}
				for k := range keys {
					if k%servers != i {
						s.Drop("room:1", fmt.Sprintf("user%d", k))
					}
				}
				w.put(s, "room:1", fmt.Sprintf("user%d", i), `"last"`)
			})
		}
		done.Wait()
		until(t, "all see the same", func() bool {
			for _, c := range clients {
				if fmt.Sprint(c.sees()) != fmt.Sprint(clients[0].sees()) || len(c.sees()) < servers {
					return false
				}
			}
			list, err := all[0].List(t.Context(), "room:1")
			return err == nil && len(list) == len(clients[0].sees())
		})
	})
}

// One user on several servers is there once, and goes when the last one lets go.
func TestOnceEverywhere(t *testing.T) {
	shares(t, presence.Options{}, func(t *testing.T, w *world) {
		a, b, c := w.server(), w.server(), w.server()
		watcher := c.watch("room:1", "")
		w.put(a, "room:1", "ann", `{}`)
		w.put(b, "room:1", "ann", `{}`)
		w.put(b, "room:1", "mark", `{}`)
		sees(t, watcher, "ann", "mark")
		a.Drop("room:1", "ann")
		b.Drop("room:1", "mark")
		sees(t, watcher, "ann")
		if joins, parts := watcher.counts("ann"); joins != 1 || parts != 0 {
			t.Fatalf("ann came %d and went %d times; want once and never", joins, parts)
		}
		b.Drop("room:1", "ann")
		sees(t, watcher)
	})
}

// A server that dies without a word is gone after one TTL, and not before.
func TestServerDies(t *testing.T) {
	shares(t, presence.Options{TTL: 2 * time.Second}, func(t *testing.T, w *world) {
		a, b := w.server(), w.server()
		watcher := b.watch("room:1", "")
		w.put(a, "room:1", "ann", `{}`)
		w.put(b, "room:1", "bob", `{}`)
		sees(t, watcher, "ann", "bob")
		a.kill()
		died := time.Now()
		sees(t, watcher, "bob")
		// Its last beat was at most a third of a TTL before.
		if took := time.Since(died); took < time.Second || took > 6*time.Second {
			t.Errorf("ann went %v after her server; want about 2 s", took)
		}
		if list, err := b.List(t.Context(), "room:1"); err != nil || len(list) != 1 {
			t.Errorf("list %v, %v", list, err)
		}
	})
}

// No more than the limit get in, however many try on however many servers.
func TestLimit(t *testing.T) {
	each(t, presence.Options{}, func(t *testing.T, w *world) {
		const limit, tries = 50, 200
		servers := []*server{w.server()}
		if w.redis != nil {
			servers = append(servers, w.server())
		}
		for round := range 10 {
			topic := fmt.Sprintf("group%d", round)
			var in, full atomic.Int64
			var done sync.WaitGroup
			for i := range tries {
				done.Go(func() {
					err := servers[i%len(servers)].Put(t.Context(), topic, fmt.Sprintf("user%d", i), json.RawMessage(`{}`), limit)
					switch {
					case err == nil:
						in.Add(1)
					case errors.Is(err, presence.ErrFull):
						full.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			done.Wait()
			n, err := servers[0].Count(t.Context(), topic)
			if in.Load() != limit || full.Load() != tries-limit || err != nil {
				t.Fatalf("%d in, %d refused, %v; want %d and %d", in.Load(), full.Load(), err, limit, tries-limit)
			}
			until(t, "the count is the limit", func() bool { n, err = servers[0].Count(t.Context(), topic); return err == nil && n == limit })
		}
	})
}

// While Redis is away this server's own are there, waiting fails at once, and what came
// and went meanwhile is right for all when it is back, empty or not.
func TestRedisAway(t *testing.T) {
	for name, away := range map[string]func(w *world) (back func()){
		"frozen":  func(w *world) func() { w.redis.Pause(); return w.redis.Resume },
		"killed":  func(w *world) func() { w.redis.Kill(); return w.redis.Restart },
		"flushed": func(w *world) func() { w.redis.Flush(); return func() {} },
	} {
		t.Run(name, func(t *testing.T) {
			shares(t, presence.Options{TTL: 5 * time.Second}, func(t *testing.T, w *world) {
				a, b := w.server(), w.server()
				at, bt := a.watch("room:1", ""), b.watch("room:1", "")
				w.put(a, "room:1", "ann", `{}`)
				w.put(a, "room:1", "amy", `{}`)
				w.put(b, "room:1", "bob", `{}`)
				sees(t, at, "amy", "ann", "bob")
				sees(t, bt, "amy", "ann", "bob")
				back := away(w)
				a.Post("room:1", "abe", json.RawMessage(`{}`))
				a.Drop("room:1", "ann")
				sees(t, at, "abe", "amy", "bob")
				if name != "flushed" {
					until(t, "a join that waits fails", func() bool {
						ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
						defer cancel()
						err := a.Put(ctx, "room:1", "ada", json.RawMessage(`{}`), 0)
						return errors.Is(err, pgcast.ErrUnavailable)
					})
				}
				back()
				sees(t, bt, "abe", "amy", "bob")
				sees(t, at, "abe", "amy", "bob")
				for _, c := range []*client{at, bt} {
					for _, key := range []string{"amy", "bob"} {
						if joins, parts := c.counts(key); joins != 1 || parts != 0 {
							t.Errorf("%s came %d and went %d times; want once and never", key, joins, parts)
						}
					}
				}
				late := w.server().watch("room:1", "")
				sees(t, late, "abe", "amy", "bob")
			})
		})
	}
}

// A server that says goodbye leaves its users for a while: they may come to another.
func TestLeaveWithGrace(t *testing.T) {
	shares(t, presence.Options{}, func(t *testing.T, w *world) {
		a, b := w.server(), w.server()
		watcher := b.watch("room:1", "")
		w.put(a, "room:1", "ann", `{}`)
		w.put(a, "room:1", "amy", `{}`)
		sees(t, watcher, "amy", "ann")
		if err := a.Depart(t.Context(), 2*time.Second); err != nil {
			t.Fatal(err)
		}
		a.kill()
		w.put(b, "room:1", "ann", `{}`)
		sees(t, watcher, "ann")
		if joins, parts := watcher.counts("ann"); joins != 1 || parts != 0 {
			t.Errorf("ann came %d and went %d times; want once and never", joins, parts)
		}
	})
}

// A store that has been emptied has no more room than before.
func TestLimitAfterFlush(t *testing.T) {
	shares(t, presence.Options{}, func(t *testing.T, w *world) {
		const limit = 10
		a, b, c := w.server(), w.server(), w.server()
		watchers := []*client{a.watch("g", ""), b.watch("g", ""), c.watch("g", "")}
		var all []string
		for i := range limit - 1 {
			key := fmt.Sprintf("user%d", i)
			all = append(all, key)
			if err := a.Put(t.Context(), "g", key, json.RawMessage(`{}`), limit); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range watchers {
			sees(t, c, all...)
		}
		w.redis.Flush()
		in := 0
		for i, s := range []*server{b, c, b, c} {
			switch err := s.Put(t.Context(), "g", fmt.Sprintf("xtra%d", i), json.RawMessage(`{}`), limit); {
			case err == nil:
				in++
			case !errors.Is(err, presence.ErrFull):
				t.Fatal(err)
			}
		}
		if in != 1 {
			t.Errorf("%d were let in; want 1", in)
		}
		a.Refresh()
		for _, c := range watchers {
			sees(t, c, append(all[:len(all):len(all)], "xtra0")...)
		}
	})
}

// weak is a store that cannot give more than so many topics at a time.
type weak struct {
	presence.Store
	most int
	read atomic.Int64 // topics, of calls that were answered
}

func (w *weak) Read(ctx context.Context, topics []string) []presence.State {
	if len(topics) <= w.most {
		w.read.Add(int64(len(topics)))
		return w.Store.Read(ctx, topics)
	}
	<-time.After(time.Second) // as long as a call may take
	states := make([]presence.State, len(topics))
	for i := range states {
		states[i].Err = pgcast.ErrUnavailable
	}
	return states
}

// What is too much to be read at once is read in parts; a topic that is new to all is no
// message lost.
func TestReadInParts(t *testing.T) {
	shares(t, presence.Options{}, func(t *testing.T, w *world) {
		a := w.server()
		const topics = 20
		for i := range topics {
			w.put(a, fmt.Sprint("room:", i), "ann", `{}`)
		}
		until(t, "all has been read", func() bool {
			for i := range topics {
				if n, err := a.Count(t.Context(), fmt.Sprint("room:", i)); err != nil || n != 1 {
					return false
				}
			}
			return true
		})
		if n := w.figure("missed_total"); n != 0 {
			t.Errorf("%v messages count as missed", n)
		}
		slow := &weak{most: 1}
		w.store = func(s presence.Store) presence.Store { slow.Store = s; return slow }
		b := w.server()
		var watchers []*client
		for i := range topics {
			watchers = append(watchers, b.watch(fmt.Sprint("room:", i), ""))
		}
		for _, c := range watchers {
			sees(t, c, "ann")
		}
		if n := slow.read.Load(); n < topics {
			t.Errorf("%d topics were read; there are %d", n, topics)
		}
	})
}
