package cursor_test

import (
	"fmt"
	"testing"
	"time"
)

type has = map[string]string

// A cursor is seen by all but its own session, on this server and others, follows each
// move to the last, and goes with leave and with its session.
func TestCursors(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := w.server(), w.server()
		ann, bob := a.Pointer(), b.Pointer()
		fromA, fromB := a.look(t, "board", ann.Key()), b.look(t, "board", bob.Key())
		all, elsewhere := b.look(t, "board", ""), b.look(t, "board:2", "")
		for i := range 200 {
			move(t, ann, fmt.Sprint(i))
			move(t, bob, fmt.Sprint(-i))
		}
		sees(t, fromA, has{bob.Key(): "-199"})
		sees(t, fromB, has{ann.Key(): "199"})
		sees(t, all, has{ann.Key(): "199", bob.Key(): "-199"})
		sees(t, a.look(t, "board", ""), has{ann.Key(): "199", bob.Key(): "-199"}) // who comes later
		ann.Leave("board")
		sees(t, fromB, has{})
		move(t, ann, "1")
		sees(t, fromB, has{ann.Key(): "1"})
		ann.Close()
		sees(t, fromB, has{})
		sees(t, all, has{bob.Key(): "-199"})
		bob.Close()
		sees(t, fromA, has{})
		sees(t, elsewhere, has{})
	})
}

// Of a cursor that stands still nothing is left after a while, anywhere; a server's whole
// roster goes with it.
func TestIdleEverywhere(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.opts.Idle = time.Second
		a, b := w.server(), w.server()
		ann, bob := a.Pointer(), b.Pointer()
		defer ann.Close()
		defer bob.Close()
		l := b.look(t, "board", "")
		move(t, ann, "1")
		sees(t, l, has{ann.Key(): "1"})
		sees(t, l, has{})
		move(t, bob, "2")
		sees(t, a.look(t, "board", ""), has{bob.Key(): "2"})
	})
}

// A server that dies takes its cursors with it within one TTL; one that leaves, at once.
func TestServerGone(t *testing.T) {
	for name, leave := range map[string]bool{"dies": false, "leaves": true} {
		t.Run(name, func(t *testing.T) {
			shares(t, func(t *testing.T, w *world) {
				if w.ttl = 2 * time.Second; leave {
					w.ttl = 10 * time.Minute
				}
				a, b := w.server(), w.server()
				ann, bob := a.Pointer(), b.Pointer()
				l := b.look(t, "board", "")
				move(t, ann, "1")
				move(t, bob, "2")
				sees(t, l, has{ann.Key(): "1", bob.Key(): "2"})
				if leave {
					a.stop()
					if err := a.Depart(t.Context(), 0); err != nil {
						t.Fatal(err)
					}
				}
				a.kill()
				sees(t, l, has{bob.Key(): "2"})
				bob.Close()
			})
		})
	}
}

// While Redis is away, cursors go on among a server's own sessions, also on topics nobody
// knew; when it is back, empty or not, all see the newest.
func TestRedisAway(t *testing.T) {
	for name, away := range map[string]func(w *world) (back func()){
		"frozen":  func(w *world) func() { w.redis.Pause(); return w.redis.Resume },
		"killed":  func(w *world) func() { w.redis.Kill(); return w.redis.Restart },
		"flushed": func(w *world) func() { w.redis.Flush(); return func() {} },
	} {
		t.Run(name, func(t *testing.T) {
			shares(t, func(t *testing.T, w *world) {
				w.ttl, w.opts.Idle = 5*time.Second, time.Hour
				a, b := w.server(), w.server()
				ann, bob := a.Pointer(), b.Pointer()
				fromA, fromB := a.look(t, "board", ""), b.look(t, "board", "")
				move(t, ann, "1")
				move(t, bob, "1")
				sees(t, fromA, has{ann.Key(): "1", bob.Key(): "1"})
				sees(t, fromB, has{ann.Key(): "1", bob.Key(): "1"})
				back := away(w)
				eve := a.Pointer()
				for i := range 100 {
					move(t, ann, fmt.Sprint(i))
					move(t, eve, fmt.Sprint(i))
				}
				bob.Close()
				if err := eve.Move("new", nil, []byte(`1`)); err != nil {
					t.Fatal(err)
				}
				until := func(l *looker, key, data string) {
					t.Helper()
					for begin := time.Now(); ; <-time.After(2 * time.Millisecond) {
						l.mu.Lock()
						now := l.has[key]
						l.mu.Unlock()
						if now == data {
							return
						}
						if time.Since(begin) > 30*time.Second {
							t.Fatalf("after 30 s %s is at %q; want %q", key, now, data)
						}
					}
				}
				until(fromA, ann.Key(), "99")
				until(fromA, eve.Key(), "99")
				until(fromB, bob.Key(), "")
				until(a.look(t, "new", ""), eve.Key(), "1")
				back()
				sees(t, fromA, has{ann.Key(): "99", eve.Key(): "99"})
				sees(t, fromB, has{ann.Key(): "99", eve.Key(): "99"})
				sees(t, b.look(t, "new", ""), has{eve.Key(): "1"})
				ann.Close()
				eve.Close()
				sees(t, fromB, has{})
			})
		})
	}
}

// While Redis is away for long, other servers' cursors go when they would have gone had
// those servers died; they are back when it is.
func TestRedisAwayForLong(t *testing.T) {
	shares(t, func(t *testing.T, w *world) {
		w.ttl, w.opts.Idle = 2*time.Second, time.Hour
		a, b := w.server(), w.server()
		ann, bob := a.Pointer(), b.Pointer()
		l := b.look(t, "board", "")
		move(t, ann, "1")
		move(t, bob, "1")
		sees(t, l, has{ann.Key(): "1", bob.Key(): "1"})
		w.redis.Pause()
		move(t, bob, "2")
		sees(t, l, has{bob.Key(): "2"})
		w.redis.Resume()
		sees(t, l, has{ann.Key(): "1", bob.Key(): "2"})
		ann.Close()
		bob.Close()
		sees(t, l, has{})
	})
}
