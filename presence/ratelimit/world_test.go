package ratelimit_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/presence/ratelimit"
	"github.com/pgcast/pgcast/presence/shared"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is servers that count together, or one that counts for itself.
type world struct {
	testing.TB
	redis *redistest.Redis // nil: one server
	opts  ratelimit.Options
}

// each runs a test with a server of its own and with servers that share a Redis.
func each(t *testing.T, rules string, f func(t *testing.T, w *world)) {
	t.Parallel()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		f(t, &world{TB: t, opts: options(t, rules)})
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		f(t, shares(t, rules))
	})
}

func shares(t testing.TB, rules string) *world {
	return &world{TB: t, opts: options(t, rules), redis: redistest.Start(t)}
}

func options(t testing.TB, rules string) ratelimit.Options {
	return ratelimit.Options{Rules: parse(t, rules), Logger: slog.New(slog.DiscardHandler)}
}

func parse(t testing.TB, text string) []ratelimit.Rule {
	t.Helper()
	rules, err := ratelimit.ParseRules(text)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// server is one server's limiter, and its way to Redis.
type server struct {
	*ratelimit.Limiter
	redis *shared.Redis
}

func (w *world) server() *server {
	w.Helper()
	s, o := &server{}, w.opts
	if w.redis != nil {
		var err error
		if s.redis, err = shared.Open(&shared.Options{URL: w.redis.URL, Logger: o.Logger}); err != nil {
			w.Fatal(err)
		}
		relay := s.redis.Relay()
		limits := s.redis.Limits(relay)
		o.Store, o.Relay = limits, limits
		running(w, s.redis.Run)
		running(w, relay.Run)
	}
	s.Limiter = ratelimit.New(&o)
	running(w, s.Run)
	return s
}

// running runs something until the test ends.
func running(t testing.TB, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = run(ctx) })
	t.Cleanup(func() { cancel(); done.Wait() })
}

// two are two servers that share, or one twice.
func (w *world) two() (a, b *server) {
	if a = w.server(); w.redis == nil {
		return a, a
	}
	return a, w.server()
}

// until waits for something that should be so within a moment.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); {
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("not within 30 s: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func (w *world) allows(s *server, verb ratelimit.Verb, by ratelimit.Caller, asks ...ratelimit.Ask) {
	w.Helper()
	if err := s.Allow(w.Context(), verb, by, asks...); err != nil {
		w.Fatalf("%s by %+v: %v", verb, by, err)
	}
}

// denies gives how long to wait.
func (w *world) denies(s *server, verb ratelimit.Verb, by ratelimit.Caller, asks ...ratelimit.Ask) time.Duration {
	w.Helper()
	return w.wait(s.Allow(w.Context(), verb, by, asks...))
}

func (w *world) wait(err error) time.Duration {
	w.Helper()
	var e *pgcast.Error
	if !errors.As(err, &e) || e.Code != pgcast.CodeRateLimited || e.RetryAfter <= 0 || e.RetryAfter%time.Millisecond != 0 {
		w.Fatalf("got %+v; want rate_limited, and when to try again", err)
	}
	return e.RetryAfter
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

var (
	ann  = ratelimit.Caller{IP: "192.0.2.1", Session: "s1"}
	bob  = ratelimit.Caller{IP: "192.0.2.1", Session: "s2"}
	cleo = ratelimit.Caller{IP: "192.0.2.3", Session: "s3", Subject: "cleo"}
)

// one costs one, on a topic.
func one(topic string) ratelimit.Ask { return ratelimit.Ask{Topic: topic, Cost: 1} }
