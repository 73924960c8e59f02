package group_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/group"
)

// Members are seen by all, with their roles; one user with several sessions is one member
// and leaves with the last of them.
func TestMembers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := w.pair(nil)
		w.create("lobby", 3)
		watcher, one, two, three := b.open("lobby"), a.open("lobby"), b.open("lobby"), a.open("lobby")
		if m := one.join("ann", ""); m.Role != "member" {
			t.Errorf("ann is %+v", m)
		}
		two.join("bob", "viewer")
		for _, c := range []*client{watcher, one, two} {
			c.sees("ann:member", "bob:viewer")
		}
		three.join("ann", "admin") // the newest role counts
		watcher.sees("ann:admin", "bob:viewer")
		one.Leave(true)
		three.sees("ann:admin", "bob:viewer")
		info, list, err := a.List(t.Context(), "lobby")
		if err != nil || info.Max != 3 || len(list) != 2 {
			t.Errorf("%+v, %+v, %v", info, list, err)
		}
		three.End(true)
		watcher.sees("bob:viewer")
		two.join("bea", "") // another user of the same session
		watcher.sees("bea:member")

		_, err = one.try("ann", "king")
		if e := new(pgcast.Error); !errors.As(err, &e) || e.Code != pgcast.CodeInvalid {
			t.Errorf("a role that there is not: %v", err)
		}
		_, err = a.open("nowhere").try("ann", "")
		if e := new(pgcast.Error); !errors.As(err, &e) || e.Code != pgcast.CodeNotFound {
			t.Errorf("a group that there is not: %v", err)
		}
		watcher.sees("bea:member")
	})
}

// No more than the limit get in, however many try on however many servers, and those who
// are told so are in.
func TestLimit(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const limit, tries = 50, 200
		rounds := 100
		if testing.Short() {
			rounds = 10
		}
		a, b := w.pair(nil)
		for round := range rounds {
			name := fmt.Sprintf("group%d", round)
			w.create(name, limit)
			places := make([]*client, tries)
			for i := range places {
				places[i] = []*server{a, b}[i%2].unseen(name)
			}
			var in, full atomic.Int64
			var done sync.WaitGroup
			for i, c := range places {
				done.Go(func() {
					switch _, err := c.try(fmt.Sprintf("user%d", i), ""); {
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
			if in.Load() != limit || full.Load() != tries-limit {
				t.Fatalf("round %d: %d in, %d refused; want %d and %d", round, in.Load(), full.Load(), limit, tries-limit)
			}
			for _, s := range []*server{a, b} {
				until(t, "all servers count the same", func() bool {
					_, list, err := s.List(t.Context(), name)
					return err == nil && len(list) == limit
				})
			}
			for _, c := range places {
				c.End(true)
			}
		}
	})
}

// Who left has left room; a second session of a member needs none; and a limit that is
// changed counts at once.
func TestRoom(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := w.pair(nil)
		w.create("lobby", 1)
		one, two := a.open("lobby"), b.open("lobby")
		one.join("ann", "")
		two.sees("ann:member")
		_, err := two.try("bob", "")
		is(t, err, presence.ErrFull)
		one.hears(`full {"role":"member","count":1}`)
		two.join("ann", "")
		one.Leave(true)
		two.sees("ann:member")
		two.Leave(true)
		one.sees()
		two.sees()
		one.join("bob", "")
		two.sees("bob:member")

		wider := 2
		if err := a.Change(t.Context(), "lobby", pgcast.GroupChange{Max: &wider, Meta: json.RawMessage(`{"a":1}`)}); err != nil {
			t.Fatal(err)
		}
		w.tell("lobby")
		two.join("cid", "")
		one.sees("bob:member", "cid:member")
		if info, _, err := b.List(t.Context(), "lobby"); err != nil || info.Max != 2 || string(info.Meta) != `{"a": 1}` {
			t.Errorf("%+v, %v", info, err)
		}
	})
}

// Closing ends all memberships on all servers, for ever, and all are told.
func TestClose(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := w.pair(nil)
		w.create("lobby", 0)
		one, two, watcher := a.open("lobby"), b.open("lobby"), b.open("lobby")
		one.join("ann", "")
		two.join("bob", "")
		one.sees("ann:member", "bob:member")
		if err := a.Change(t.Context(), "lobby", pgcast.GroupChange{Close: true}); err != nil {
			t.Fatal(err)
		}
		if _, is := one.Member(); is {
			t.Error("ann is a member of a closed group")
		}
		w.tell("lobby")
		for _, c := range []*client{one, two, watcher} {
			c.hears("close")
			c.sees()
		}
		_, err := two.try("bob", "")
		is(t, err, pgcast.ErrClosed)
		is(t, one.send(group.Message{Event: "x", Role: "member"}), pgcast.ErrClosed)
		late := b.open("lobby")
		late.hears("close")
		_, err = late.try("cid", "")
		is(t, err, pgcast.ErrClosed)
		is(t, a.Change(t.Context(), "lobby", pgcast.GroupChange{Close: true}), pgcast.ErrClosed)
		if info, list, err := b.List(t.Context(), "lobby"); err != nil || !info.Closed || len(list) != 0 {
			t.Errorf("%+v, %v, %v", info, list, err)
		}
		for _, c := range []*client{one, two, watcher, late} {
			c.End(false)
		}
		if created, err := a.Create(t.Context(), "lobby", 1, nil); created || err != nil {
			t.Errorf("a closed group was made again: %v, %v", created, err)
		}
	})
}

// A group that is closed while many join has nobody in it in the end.
func TestCloseWhileJoining(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := w.pair(nil)
		for round := range 20 {
			name := fmt.Sprintf("group%d", round)
			w.create(name, 0)
			var places []*client
			for i := range 40 {
				places = append(places, []*server{a, b}[i%2].open(name))
			}
			var done sync.WaitGroup
			for i, c := range places {
				done.Go(func() {
					if _, err := c.try(fmt.Sprintf("user%d", i%30), ""); err != nil && !errors.Is(err, pgcast.ErrClosed) {
						t.Error(err)
					}
				})
			}
			done.Go(func() {
				if err := b.Change(context.Background(), name, pgcast.GroupChange{Close: true}); err != nil {
					t.Error(err)
				}
				w.tell(name)
			})
			done.Wait()
			for _, c := range places {
				c.hears("close")
				if _, is := c.Member(); is {
					t.Error("a member of a closed group")
				}
				c.End(false)
			}
		}
		for _, s := range []*server{a, b} {
			for round := range 20 {
				until(t, "nobody is left", func() bool {
					n, err := s.rosters.Count(t.Context(), fmt.Sprintf("group%d", round))
					return err == nil && n == 0
				})
			}
		}
	})
}

// Messages to a role or a member reach those, on all servers, and nobody else.
func TestSend(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := w.pair(nil)
		w.create("lobby", 0)
		ann, bob, cid, watcher := a.open("lobby"), b.open("lobby"), b.open("lobby"), b.open("lobby")
		ann.join("ann", "admin")
		bob.join("bob", "admin")
		cid.join("cid", "viewer")
		for _, c := range []struct {
			m    group.Message
			code pgcast.Code
		}{
			{group.Message{Event: "x"}, pgcast.CodeInvalid},
			{group.Message{Event: "x", Role: "a", Member: "b"}, pgcast.CodeInvalid},
			{group.Message{Event: "", Role: "a"}, pgcast.CodeInvalidEvent},
			{group.Message{Event: "members", Role: "a"}, pgcast.CodeInvalidEvent},
		} {
			if e := new(pgcast.Error); !errors.As(ann.send(c.m), &e) || e.Code != c.code {
				t.Errorf("%+v: %v; want %s", c.m, e, c.code)
			}
		}
		is(t, watcher.send(group.Message{Event: "x", Role: "admin"}), &pgcast.Error{Code: pgcast.CodeForbidden})
		for _, m := range []group.Message{
			{Event: "one", Data: json.RawMessage(`{"a":1}`), Role: "admin"},
			{Event: "two", Member: "cid"},
			{Event: "three", Role: "viewer"},
		} {
			if err := ann.send(m); err != nil {
				t.Fatal(err)
			}
		}
		ann.hears(`one {"a":1}`)
		bob.hears(`one {"a":1}`)
		cid.hears("two null", "three null")
		watcher.hears()
	})
}

// A session that ends keeps the place for the grace period, and one that comes back
// within it is announced neither as gone nor as come.
func TestGrace(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := w.pair(func(o *group.Options) { o.Grace = time.Second })
		w.create("lobby", 1)
		one, watcher := a.open("lobby"), b.open("lobby")
		one.join("ann", "")
		watcher.sees("ann:member")
		one.End(false)
		back := a.open("lobby")
		back.join("ann", "")
		_, err := watcher.try("bob", "")
		is(t, err, presence.ErrFull)
		back.End(false)
		watcher.sees()
		watcher.join("bob", "")
		until(t, "the hooks were called", func() bool { return slices.Contains(b.noted(), "join lobby bob member") })
		want := []string{"join lobby ann member", "leave lobby ann member"}
		got := a.noted()
		if w.redis == nil {
			want = []string{want[0], "full lobby bob member", want[1], "join lobby bob member"}
		}
		if !slices.Equal(got, want) {
			t.Errorf("hooks were %q; want %q", got, want)
		}
	})
}

// Hooks are called in order, and for each user once.
func TestHooks(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		s := w.server(nil)
		w.create("lobby", 1)
		one, two, bob := s.open("lobby"), s.open("lobby"), s.open("lobby")
		one.join("ann", "")
		two.join("ann", "admin")
		_, err := bob.try("bob", "viewer")
		is(t, err, presence.ErrFull)
		one.Leave(true)
		two.Leave(true)
		bob.join("bob", "")
		if err := s.Change(t.Context(), "lobby", pgcast.GroupChange{Close: true}); err != nil {
			t.Fatal(err)
		}
		want := []string{"join lobby ann member", "full lobby bob viewer", "leave lobby ann admin", "join lobby bob member", "close lobby"}
		until(t, "all hooks were called", func() bool { return len(s.noted()) >= len(want) })
		if got := s.noted(); !slices.Equal(got, want) {
			t.Errorf("hooks were %q; want %q", got, want)
		}
	})
}

// Members of a server that died are gone after one TTL, and have left room.
func TestServerDies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Start(t))
	w.ttl = 2 * time.Second
	a, b := w.server(nil), w.server(nil)
	w.create("lobby", 1)
	watcher := b.open("lobby")
	a.open("lobby").join("ann", "")
	watcher.sees("ann:member")
	_, err := watcher.try("bob", "")
	is(t, err, presence.ErrFull)
	a.kill()
	watcher.sees()
	watcher.join("bob", "")
}

// While Redis is away nobody joins, members stay, and a group can be closed.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Start(t))
	a, b := w.server(nil), w.server(nil)
	w.create("lobby", 0)
	w.create("game", 0)
	one, two, three := a.open("lobby"), b.open("lobby"), a.open("game")
	one.join("ann", "")
	two.join("bob", "")
	three.join("ann", "")
	one.sees("ann:member", "bob:member")
	w.redis.Pause()
	until(t, "a join fails", func() bool {
		_, err := a.open("lobby").try("cid", "")
		return errors.Is(err, pgcast.ErrUnavailable)
	})
	is(t, one.send(group.Message{Event: "x", Role: "member"}), pgcast.ErrUnavailable)
	one.sees("ann:member", "bob:member")
	if err := b.Change(t.Context(), "lobby", pgcast.GroupChange{Close: true}); err != nil {
		t.Fatal(err)
	}
	w.tell("lobby")
	one.hears("close")
	two.hears("close")
	w.redis.Resume()
	until(t, "a join succeeds", func() bool {
		_, err := b.open("game").try("bob", "")
		return err == nil
	})
	three.sees("ann:member", "bob:member")
}

// While Postgres is away who is known to be welcome joins; whether a group that may have
// changed is open nobody can tell.
func TestPostgresAway(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		s := w.server(nil)
		w.create("lobby", 0)
		one := s.open("lobby")
		one.join("ann", "")
		until(t, "what is known is fresh", func() bool {
			_, _, err := s.List(t.Context(), "lobby")
			return err == nil
		})
		w.db.Exec(t, "alter table pgcast.group_info rename to away")
		s.open("lobby").join("bob", "")
		w.tell("lobby")
		two := s.open("lobby")
		_, err := two.try("cid", "")
		is(t, err, pgcast.ErrUnavailable)
		w.db.Exec(t, "alter table pgcast.away rename to group_info")
		two.join("cid", "")
		one.sees("ann:member", "bob:member", "cid:member")
	})
}
