package presence_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/presence"
)

func (w *world) join(u *presence.Users, topic, key string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	if err := u.Join(ctx, topic, guest(key)); err != nil {
		w.t.Fatalf("join %s: %v", key, err)
	}
}

// A user with many sessions, on many servers, comes once and goes with the last of them;
// at once if all meant to go, else after the grace period; and who comes back within that
// never went.
func TestUsers(t *testing.T) {
	each(t, presence.Options{Every: time.Millisecond}, func(t *testing.T, w *world) {
		const grace = time.Second
		s := w.server()
		here := presence.NewUsers(s.Rosters, grace)
		there := here
		if w.redis != nil {
			there = presence.NewUsers(w.server().Rosters, grace)
		}
		c := s.watch("room:1", "")
		w.join(here, "room:1", "ann")
		w.join(here, "room:1", "ann")
		w.join(there, "room:1", "ann")
		there.Enter("room:1", guest("bob"))
		sees(t, c, "ann", "bob")
		here.Leave("room:1", "ann", true)
		there.Leave("room:1", "ann", true)
		there.Leave("room:1", "bob", true)
		sees(t, c, "ann")

		began := time.Now()
		here.Leave("room:1", "ann", false)
		w.join(here, "room:1", "ann") // a reload
		here.Leave("room:1", "ann", false)
		here.Enter("room:1", guest("ann"))
		here.Leave("room:1", "ann", true) // one tab says goodbye while another is reloaded
		w.join(here, "room:1", "cleo")
		sees(t, c, "ann", "cleo")
		sees(t, c, "cleo")
		if took := time.Since(began); took < grace {
			t.Errorf("ann went after %v; her grace period is %v", took, grace)
		}
		if joins, parts := c.counts("ann"); joins != 1 || parts != 1 {
			t.Errorf("ann came %d and went %d times; want once each", joins, parts)
		}
		here.Leave("room:1", "nobody", true)
		here.Leave("room:1", "cleo", true)
		sees(t, c)
		c.view.Close()
		until(t, "nothing is kept", func() bool { return w.figure("topics") == 0 && w.figure("entries") == 0 })
	})
}

// A join that fails is nowhere, and takes nobody with it who came meanwhile.
func TestJoinFails(t *testing.T) {
	shares(t, presence.Options{TTL: 20 * time.Second, Beat: 10 * time.Second}, func(t *testing.T, w *world) {
		a, b := w.server(), w.server()
		users := presence.NewUsers(a.Rosters, -1)
		c := b.watch("room:1", "")
		w.join(users, "room:1", "ann")
		sees(t, c, "ann")
		w.redis.Pause()
		// Asked for while Redis does not answer: not there, and soon nobody thinks so.
		if err := users.Join(t.Context(), "room:1", guest("bob")); !errors.Is(err, pgcast.ErrUnavailable) {
			t.Errorf("join: %v; want unavailable", err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := users.Join(gone, "room:1", guest("cleo")); err == nil {
			t.Error("a join that was broken off has succeeded")
		}
		users.Enter("room:1", guest("dan"))
		w.redis.Resume()
		sees(t, c, "ann", "dan")
		began := time.Now()
		w.join(users, "room:1", "cleo")
		sees(t, c, "ann", "cleo", "dan")
		if took := time.Since(began); took > 9*time.Second {
			t.Errorf("it took %v: what failed was only put right by a beat", took)
		}
		if joins, _ := c.counts("bob"); joins > 1 {
			t.Errorf("bob, who was refused, came %d times", joins)
		}
		for _, key := range []string{"ann", "cleo", "dan"} {
			users.Leave("room:1", key, true)
		}
		sees(t, c)
	})
}

// Redis is away for longer than a TTL. Nobody who stayed is said to have gone when it is
// back, empty, whoever of the servers finds it first; whose server died meanwhile is gone
// within a TTL.
func TestLongOutage(t *testing.T) {
	shares(t, presence.Options{TTL: 3 * time.Second, Every: time.Millisecond}, func(t *testing.T, w *world) {
		a, b, dying := w.server(), w.server(), w.server()
		at, bt := a.watch("room:1", ""), b.watch("room:1", "")
		w.put(a, "room:1", "ann", `{}`)
		w.put(b, "room:1", "bob", `{}`)
		w.put(dying, "room:1", "dan", `{}`)
		sees(t, at, "ann", "bob", "dan")
		sees(t, bt, "ann", "bob", "dan")
		w.redis.Kill()
		dying.kill()
		<-time.After(2 * 3 * time.Second)
		sees(t, at, "ann", "bob", "dan")
		w.redis.Restart()
		back := time.Now()
		sees(t, at, "ann", "bob")
		sees(t, bt, "ann", "bob")
		if took := time.Since(back); took > 5*3*time.Second {
			t.Errorf("dan went %v after Redis was back; want about a TTL", took)
		}
		for name, c := range map[string]*client{"a": at, "b": bt} {
			for _, key := range []string{"ann", "bob"} {
				if joins, parts := c.counts(key); joins != 1 || parts != 0 {
					t.Errorf("at %s, %s came %d and went %d times; want once and never", name, key, joins, parts)
				}
			}
		}
	})
}

// What Redis says to one topic is no harm to the others: here somebody else's key stands in
// the way of one.
func TestForeignKey(t *testing.T) {
	shares(t, presence.Options{TTL: 2 * time.Second}, func(t *testing.T, w *world) {
		if got := w.redis.Do("SET", "pgcast:presence:{bad}:servers", "mine"); got != "+OK" {
			t.Fatal(got)
		}
		a, b := w.server(), w.server()
		good, bad := b.watch("good", ""), a.watch("bad", "")
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := a.Put(ctx, "bad", "ann", json.RawMessage(`{}`), 0); !errors.Is(err, pgcast.ErrUnavailable) {
			t.Errorf("put: %v; want unavailable", err)
		}
		a.Post("bad", "amy", json.RawMessage(`{}`))
		sees(t, bad, "amy")
		w.put(a, "good", "ann", `{}`)
		sees(t, good, "ann")
		lived := time.Now()
		until(t, "some beats have passed", func() bool { return time.Since(lived) > 4*time.Second })
		sees(t, good, "ann")
		if state := a.redis.State(); state != "healthy" {
			t.Errorf("Redis is %s", state)
		}
		w.redis.Do("DEL", "pgcast:presence:{bad}:servers")
		sees(t, b.watch("bad", ""), "amy")
	})
}

// A Redis that answers and cannot serve, full or a replica, is as good as none, and all is
// put right when it can.
func TestRedisRefuses(t *testing.T) {
	for name, c := range map[string]struct{ on, off []string }{
		"full":    {[]string{"CONFIG", "SET", "maxmemory", "1"}, []string{"CONFIG", "SET", "maxmemory", "0"}},
		"replica": {[]string{"REPLICAOF", "127.0.0.1", "1"}, []string{"REPLICAOF", "NO", "ONE"}},
	} {
		t.Run(name, func(t *testing.T) {
			shares(t, presence.Options{TTL: 20 * time.Second}, func(t *testing.T, w *world) {
				a, b := w.server(), w.server()
				at, bt := a.watch("room:1", ""), b.watch("room:1", "")
				w.put(a, "room:1", "ann", `{}`)
				sees(t, bt, "ann")
				if got := w.redis.Do(c.on...); got != "+OK" {
					t.Fatal(got)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				if err := a.Put(ctx, "room:1", "bob", json.RawMessage(`{}`), 0); !errors.Is(err, pgcast.ErrUnavailable) {
					t.Errorf("put: %v; want unavailable", err)
				}
				a.Post("room:1", "cleo", json.RawMessage(`{}`))
				sees(t, at, "ann", "cleo")
				if got := w.redis.Do(c.off...); got != "+OK" {
					t.Fatal(got)
				}
				sees(t, bt, "ann", "cleo")
				if joins, parts := bt.counts("ann"); joins != 1 || parts != 0 {
					t.Errorf("ann came %d and went %d times; want once and never", joins, parts)
				}
			})
		})
	}
}

// Views that want it are told with each beat who is still there, while those are not too
// many.
func TestPulse(t *testing.T) {
	each(t, presence.Options{TTL: time.Second, Beat: 100 * time.Millisecond}, func(t *testing.T, w *world) {
		s := w.server()
		beats := make(chan []string, 1000)
		d := &presence.Dialect{Encode: func(presence.Changes) [][]byte { return nil }, Pulse: func(topic string, keys []string) []byte {
			slices.Sort(keys)
			beats <- append([]string{topic}, keys...)
			return []byte("{}")
		}}
		w.put(s, "room:1", "ann", `{}`)
		w.put(s, "room:1", "bob", `{}`)
		pulled := make(chan [][]byte, 1000)
		v := s.View("room:1", d, "", func(v *presence.View) {
			go func() {
				if texts := v.Pull(); len(texts) > 0 {
					pulled <- texts
				}
			}()
		})
		for range 3 {
			if got := <-beats; !slices.Equal(got, []string{"room:1", "ann", "bob"}) {
				t.Fatalf("a beat told of %v", got)
			}
			if texts := <-pulled; string(texts[0]) != "{}" {
				t.Fatalf("it was told as %s", texts)
			}
		}
		for n := range presence.MaxPulse - 1 {
			s.Post("room:1", fmt.Sprint("user", n), json.RawMessage(`{}`))
		}
		until(t, "all are there", func() bool { n, err := s.Count(t.Context(), "room:1"); return err == nil && n == presence.MaxPulse+1 })
		until(t, "the beats stop", func() bool {
			for len(beats) > 0 {
				<-beats
			}
			quiet := time.Now()
			until(t, "a few beats pass", func() bool { return time.Since(quiet) > 500*time.Millisecond })
			return len(beats) == 0
		})
		v.Close()
		if texts := v.Pull(); texts != nil {
			t.Errorf("a view that is closed gave %s", texts)
		}
	})
}

// A server with very many topics keeps them alive, and reads them all again when its
// connection broke.
func TestManyTopics(t *testing.T) {
	shares(t, presence.Options{TTL: 6 * time.Second}, func(t *testing.T, w *world) {
		const topics = 6000
		a, b := w.server(), w.server()
		name := func(n int) string { return fmt.Sprint("room:", n) }
		for n := range topics {
			a.Post(name(n), "ann", json.RawMessage(`{}`))
		}
		list := []*client{b.watch(name(0), ""), b.watch(name(topics/2), ""), b.watch(name(topics-1), "")}
		for _, c := range list {
			sees(t, c, "ann")
		}
		if got := w.redis.Do("CLIENT", "KILL", "TYPE", "pubsub"); got != ":2" {
			t.Fatalf("CLIENT KILL: %s", got)
		}
		a.Drop(name(0), "ann")
		a.Post(name(topics-1), "bob", json.RawMessage(`{}`))
		sees(t, list[0])
		sees(t, list[2], "ann", "bob")
		lived := time.Now()
		until(t, "more than a TTL has passed", func() bool { return time.Since(lived) > 9*time.Second })
		sees(t, list[1], "ann")
		if joins, parts := list[1].counts("ann"); joins != 1 || parts != 0 {
			t.Errorf("ann came %d and went %d times; want once and never", joins, parts)
		}
	})
}

// slowRead is a store whose answers to Read take as long as a test wants.
type slowRead struct {
	presence.Store
	after func() // what happens between Redis's answer and its being taken
}

func (s slowRead) Read(ctx context.Context, topics []string) []presence.State {
	states := s.Store.Read(ctx, topics)
	s.after()
	return states
}

// What is missed while a topic is being read is read again.
func TestMissedWhileRead(t *testing.T) {
	shares(t, presence.Options{}, func(t *testing.T, w *world) {
		a, b := w.server(), w.server()
		loses := new(loser)
		w.put(a, "room:1", "ann", `{}`)
		var ready func()
		relay := b.redis.Relay()
		relays, stop := context.WithCancel(context.Background())
		var done sync.WaitGroup
		done.Go(func() { _ = relay.Run(relays) })
		defer done.Wait()
		defer stop()
		o := w.opts
		o.Server = "late"
		o.Relay = tapped{lossy{relay.Kind("presence"), loses}, func(f func()) { ready = f }}
		o.Store = slowRead{b.redis.Store("presence", "late", 90*time.Second), sync.OnceFunc(func() {
			loses.on.Store(true)
			w.put(a, "room:1", "bob", `{}`)
			until(t, "it is missed", func() bool { return loses.lost.Load() > 0 })
			ready()
			loses.on.Store(false)
		})}
		late := presence.NewRosters(&o)
		done.Go(func() { _ = late.Run(relays) })
		sees(t, (&server{Rosters: late}).watch("room:1", ""), "ann", "bob")
	})
}

// tapped tells of the function that says that messages may have been missed.
type tapped struct {
	presence.Relay
	tell func(ready func())
}

func (r tapped) Watch(topic string, f func(presence.Message), ready func()) (stop func()) {
	r.tell(ready)
	return r.Relay.Watch(topic, f, ready)
}

// A store may be back as it was on an earlier day: with as many entries of a server's, and
// others. What is wrong in it is put right when the connection has been lost.
func TestEarlierDay(t *testing.T) {
	shares(t, presence.Options{}, func(t *testing.T, w *world) {
		a, b := w.server(), w.server()
		c := b.watch("room:1", "")
		w.put(a, "room:1", "ann", `{}`)
		sees(t, c, "ann")
		own := "pgcast:presence:{room:1}:at:" + a.name
		if got := w.redis.Do("HDEL", own, "ann") + w.redis.Do("HSET", own, "old", "{}") + w.redis.Do("CLIENT", "KILL", "TYPE", "pubsub"); got != ":1:1:2" {
			t.Fatal(got)
		}
		until(t, "it is put right", func() bool { return w.redis.Do("HEXISTS", own, "old") == ":0" })
		sees(t, c, "ann")
		sees(t, w.server().watch("room:1", ""), "ann")
	})
}
