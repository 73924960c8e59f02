package ratelimit_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// A ban denies everything there is a rule for at once, on all servers, and the rest as soon
// as they hear of it; it ends when it is lifted.
func TestBan(t *testing.T) {
	each(t, "publish session 100/1s, subscribe ip 1/168h burst 5", func(t *testing.T, w *world) {
		a, b := w.two()
		for _, c := range []struct {
			kind ratelimit.Kind
			key  string
			by   ratelimit.Caller
			on   string
		}{
			{ratelimit.Session, "s1", ann, ""}, {ratelimit.IP, "192.0.2.1", ann, ""}, {ratelimit.Subject, "cleo", cleo, "a"},
			{ratelimit.Topic, "room:1", ann, "room:1"}, {ratelimit.IP, "192.0.2.3", cleo, ""},
		} {
			w.must(a.Ban(t.Context(), c.kind, c.key, time.Hour))
			for _, s := range []*server{a, b} {
				began := time.Now()
				wait := w.denies(s, ratelimit.Publish, c.by, one(c.on))
				if wait > time.Hour || wait < 59*time.Minute-time.Since(began) {
					t.Errorf("%s %s is banned for %v", c.kind, c.key, wait)
				}
				until(t, "it counts for what has no rule", func() bool { return s.Allow(t.Context(), ratelimit.Cursor, c.by, one(c.on)) != nil })
				until(t, "it is listed", func() bool { return len(s.Bans()) == 1 && s.Bans()[0].Name == string(c.kind)+":"+c.key })
			}
			w.allows(b, ratelimit.Publish, ratelimit.Caller{IP: "192.0.2.200", Session: "else"}, one("elsewhere"))
			w.must(b.Unban(t.Context(), c.kind, c.key))
			for _, s := range []*server{a, b} {
				w.allows(s, ratelimit.Publish, c.by, one(c.on))
				until(t, "it is over for what has no rule", func() bool { return s.Allow(t.Context(), ratelimit.Cursor, c.by, one(c.on)) == nil })
			}
		}

		// It ends by itself, and a new one takes its place.
		w.must(a.Ban(t.Context(), ratelimit.Session, "s1", time.Hour))
		w.must(b.Ban(t.Context(), ratelimit.Session, "s1", time.Second))
		wait := w.denies(a, ratelimit.Publish, ann, one("a"))
		if wait > time.Second {
			t.Errorf("banned for %v", wait)
		}
		<-time.After(wait)
		w.allows(a, ratelimit.Publish, ann, one("a"))
		until(t, "it is over everywhere", func() bool {
			return a.Allow(t.Context(), ratelimit.Cursor, ann, one("a")) == nil && b.Allow(t.Context(), ratelimit.Cursor, ann, one("a")) == nil && len(a.Bans())+len(b.Bans()) == 0
		})

		// A banned call is charged nothing.
		w.must(a.Ban(t.Context(), ratelimit.Topic, "room:1", time.Hour))
		for range 20 {
			w.denies(b, ratelimit.Subscribe, ann, one("room:1"))
		}
		for range 5 {
			w.allows(b, ratelimit.Subscribe, ann, one("room:2"))
		}
		w.denies(b, ratelimit.Subscribe, ann, one("room:2"))
	})
}

// An address is banned with all of its network, however it is written.
func TestBanAddress(t *testing.T) {
	each(t, "publish ip 100/1s", func(t *testing.T, w *world) {
		a, b := w.two()
		six := ratelimit.Caller{IP: "2001:db8:1:2::/64"}
		w.must(a.Ban(t.Context(), ratelimit.IP, "2001:DB8:1:2:3::4", time.Hour))
		w.denies(b, ratelimit.Publish, six, one("a"))
		w.must(a.Unban(t.Context(), ratelimit.IP, "2001:db8:1:2::ffff"))
		w.allows(b, ratelimit.Publish, six, one("a"))
		w.must(b.Ban(t.Context(), ratelimit.IP, "::ffff:192.0.2.1", time.Hour))
		w.denies(a, ratelimit.Publish, ann, one("a"))
	})
}

// A reset fills a key's buckets and ends its blocks, and nobody else's; bans stay.
func TestReset(t *testing.T) {
	each(t, "publish session 1/168h burst 2 block 24h, history session 1/168h, cursor session 1/168h", func(t *testing.T, w *world) {
		a, b := w.two()
		for _, by := range []ratelimit.Caller{ann, bob} {
			w.allows(a, ratelimit.Publish, by, ratelimit.Ask{Cost: 2})
			w.denies(b, ratelimit.Publish, by, one("a"))
			w.allows(b, ratelimit.History, by, one("a"))
			w.allows(a, ratelimit.Cursor, by, one("a"))
		}
		until(t, "the servers hear of each other", func() bool { // what is lost meanwhile concerns cursors only
			w.must(b.Reset(t.Context(), ratelimit.Session, "s1"))
			return a.Allow(t.Context(), ratelimit.Cursor, ann, one("a")) == nil
		})
		w.allows(a, ratelimit.Publish, ann, ratelimit.Ask{Cost: 2})
		w.allows(a, ratelimit.History, ann, one("a"))
		w.denies(a, ratelimit.Publish, bob, one("a"))
		w.denies(a, ratelimit.History, bob, one("a"))
		w.denies(a, ratelimit.Cursor, bob, one("a"))

		w.must(a.Ban(t.Context(), ratelimit.Session, "s1", time.Hour))
		w.must(a.Reset(t.Context(), ratelimit.Session, "s1"))
		w.denies(b, ratelimit.Publish, ann, one("a"))
	})
}

// What makes no sense is refused.
func TestOrders(t *testing.T) {
	each(t, "", func(t *testing.T, w *world) {
		a, _ := w.two()
		for _, c := range []struct {
			kind ratelimit.Kind
			key  string
			d    time.Duration
		}{
			{"user", "x", time.Hour}, {ratelimit.Session, "", time.Hour}, {ratelimit.Session, strings.Repeat("x", 257), time.Hour},
			{ratelimit.IP, "example.com", time.Hour}, {ratelimit.IP, "10.0.0.0/8", time.Hour},
			{ratelimit.Session, "x", 0}, {ratelimit.Session, "x", -time.Hour}, {ratelimit.Session, "x", 2 * ratelimit.MaxBan},
		} {
			var e *pgcast.Error
			if err := a.Ban(t.Context(), c.kind, c.key, c.d); !errors.As(err, &e) || e.Code != pgcast.CodeInvalid || e.Hint == "" {
				t.Errorf("ban %s %.20s %v: %v", c.kind, c.key, c.d, err)
			}
		}
		if err := a.Reset(t.Context(), "user", "x"); err == nil {
			t.Error("there is no such kind")
		}
		w.must(a.Unban(t.Context(), ratelimit.Session, "who was never banned"))
		w.must(a.Ban(t.Context(), ratelimit.Session, "x", time.Hour))
		w.denies(a, ratelimit.Publish, ratelimit.Caller{IP: "192.0.2.1", Session: "x"}, one("a")) // without any rule
	})
}
