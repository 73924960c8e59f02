package ratelimit_test

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// While Redis does not answer the fallback decides, soon without waiting for it; when it
// does again, what it had counted before counts.
func TestFallbacks(t *testing.T) {
	t.Parallel()
	for _, fallback := range []ratelimit.Fallback{ratelimit.Local, ratelimit.Open, ratelimit.Closed} {
		t.Run(string(fallback), func(t *testing.T) {
			t.Parallel()
			w := shares(t, "publish session 1/168h burst 3")
			reg := prometheus.NewRegistry()
			w.opts.Fallback, w.opts.Registerer = fallback, reg
			a := w.server()
			w.must(a.Ban(t.Context(), ratelimit.Session, "s2", time.Hour))
			w.allows(a, ratelimit.Publish, ann, one("a"))
			w.redis.Pause()
			through := 0
			for range 10 {
				err := a.Allow(t.Context(), ratelimit.Publish, ann, one("a"))
				var e *pgcast.Error
				switch {
				case err == nil:
					through++
				case !errors.As(err, &e) || e.RetryAfter <= 0:
					t.Fatal(err)
				case fallback == ratelimit.Closed && !errors.Is(err, pgcast.ErrUnavailable):
					t.Errorf("closed says %v", err)
				case fallback == ratelimit.Local && e.Code != pgcast.CodeRateLimited:
					t.Errorf("local says %v", err)
				}
			}
			if want := map[ratelimit.Fallback]int{ratelimit.Local: 3, ratelimit.Open: 10, ratelimit.Closed: 0}[fallback]; through != want {
				t.Errorf("%d came through; want %d", through, want)
			}
			if fallback != ratelimit.Closed { // the bans it knows of hold
				w.denies(a, ratelimit.Publish, bob, one("a"))
			}
			if counted(t, reg, "pgcast_ratelimit_fallbacks_total") < 10 {
				t.Error("the fallbacks were not counted")
			}
			// The circuit is open by now.
			began := time.Now()
			for range 100 {
				_ = a.Allow(t.Context(), ratelimit.Publish, cleo, one("a"))
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("100 calls took %v", took)
			}
			w.redis.Resume()
			until(t, "Redis counts again", func() bool {
				before := counted(t, reg, "pgcast_ratelimit_fallbacks_total")
				err := a.Allow(t.Context(), ratelimit.Publish, ratelimit.Caller{Session: "other" + time.Now().String()}, one("a"))
				return err == nil && counted(t, reg, "pgcast_ratelimit_fallbacks_total") == before
			})
			through = 0
			for range 10 {
				if a.Allow(t.Context(), ratelimit.Publish, ann, one("a")) == nil {
					through++
				}
			}
			if through > 2 { // a call Redis had got, but not answered, may have been charged
				t.Errorf("%d came through of the two that were left", through)
			}
		})
	}
}

// A ban that Redis could not be told of is this server's alone, and so says the answer.
func TestBanWithoutRedis(t *testing.T) {
	t.Parallel()
	w := shares(t, "publish session 100/1s")
	a := w.server()
	w.redis.Kill()
	if err := a.Ban(t.Context(), ratelimit.Session, "s1", time.Hour); !errors.Is(err, pgcast.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	w.denies(a, ratelimit.Publish, ann, one("a"))
	w.redis.Restart()
	until(t, "Redis, which knows nothing, decides again", func() bool {
		a.Refresh()
		return a.Allow(t.Context(), ratelimit.Publish, ann, one("a")) == nil && len(a.Bans()) == 0
	})
}

// A server that comes later knows the bans; an emptied Redis has forgotten everything.
func TestLateAndFlushed(t *testing.T) {
	t.Parallel()
	w := shares(t, "publish session 1/168h")
	a := w.server()
	w.must(a.Ban(t.Context(), ratelimit.Session, "s2", time.Hour))
	w.allows(a, ratelimit.Publish, ann, one("a"))
	b := w.server()
	until(t, "it knows of the ban", func() bool { return b.Allow(t.Context(), ratelimit.Cursor, bob, one("a")) != nil })
	w.redis.Flush()
	w.allows(b, ratelimit.Publish, ann, one("a"))
	w.allows(b, ratelimit.Publish, bob, one("a"))
	for _, s := range []*server{a, b} {
		s.Refresh()
		until(t, "the ban is forgotten", func() bool { return s.Allow(t.Context(), ratelimit.Cursor, bob, one("a")) == nil })
	}
}

// A call is one round trip, whatever it is charged to; cursors cost none. What is full
// again, and bans that are over, do not stay in Redis.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	w := shares(t, "publish session 1000/1s, publish ip 1000/1s, publish topic 1000/1s block 1s, subscribe session 1000/1s, subscribe topic 1000/1s, cursor session 1/1s")
	a := w.server()
	w.allows(a, ratelimit.Publish, ann, one("a")) // Redis knows the script now
	calls := func(of string) int {
		n := 0
		w.must(a.redis.Do(t.Context(), func(ctx context.Context, c *redis.Client) error {
			text, err := c.Info(ctx, "commandstats").Result()
			for _, m := range regexp.MustCompile("cmdstat_"+of+`:calls=(\d+)`).FindAllStringSubmatch(text, -1) {
				calls, _ := strconv.Atoi(m[1])
				n += calls
			}
			return err
		}))
		return n
	}
	until(t, "the bans have been read twice, as they are at first", func() bool { return calls("zremrangebyscore") == 2 })
	before := calls("eval(?:sha)?")
	for range 10 {
		w.allows(a, ratelimit.Publish, cleo, one("a"))
	}
	var asks []ratelimit.Ask
	for i := range 256 {
		asks = append(asks, one("t:"+strconv.Itoa(i)))
	}
	if errs := a.AllowEach(t.Context(), ratelimit.Subscribe, ann, asks); errs != nil {
		t.Error(errs)
	}
	for range 100 {
		_ = a.Allow(t.Context(), ratelimit.Cursor, ann, one("a"))
	}
	if n := calls("eval(?:sha)?") - before; n != 11 {
		t.Errorf("11 calls made %d round trips", n)
	}
	w.must(a.Ban(t.Context(), ratelimit.Session, "s9", time.Second))
	until(t, "Redis is empty again", func() bool {
		a.Refresh()
		return w.redis.Do("DBSIZE") == ":0"
	})
}

func counted(t testing.TB, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func BenchmarkAllow(b *testing.B) {
	bench := func(b *testing.B, w *world, verb ratelimit.Verb) {
		s := w.server()
		b.ReportAllocs()
		for b.Loop() {
			_ = s.Allow(b.Context(), verb, ann, one("a"))
		}
	}
	const rules = "publish session 1000000/1s, publish ip 1000000/1s"
	b.Run("norule", func(b *testing.B) { bench(b, &world{TB: b, opts: options(b, rules)}, ratelimit.History) })
	b.Run("memory", func(b *testing.B) { bench(b, &world{TB: b, opts: options(b, rules)}, ratelimit.Publish) })
	b.Run("redis", func(b *testing.B) { bench(b, shares(b, rules), ratelimit.Publish) })
}
