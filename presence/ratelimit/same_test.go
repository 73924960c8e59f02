package ratelimit_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/presence/ratelimit"
	"github.com/pgcast/pgcast/presence/shared"
)

// Whatever the rules and the calls, Redis decides as this process does.
func TestRedisDecidesAlike(t *testing.T) {
	t.Parallel()
	client, err := shared.Open(&shared.Options{URL: redistest.Start(t).URL})
	if err != nil {
		t.Fatal(err)
	}
	running(t, client.Run)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++ // keys of its own
		var rules []string
		for i, kind := range rapid.SliceOfN(rapid.SampledFrom([]string{"ip", "session", "subject", "topic"}), 1, 4).Draw(rt, "kinds") {
			r := fmt.Sprintf("publish %s %d/%dh burst %d", kind, rapid.IntRange(1, 5).Draw(rt, "count"), 24+i, rapid.IntRange(1, 12).Draw(rt, "burst"))
			if block := rapid.IntRange(0, 3).Draw(rt, "block"); block > 0 {
				r += fmt.Sprintf(" block %dh", 10*block)
			}
			rules = append(rules, r)
		}
		text := strings.Join(rules, ",")
		alone := ratelimit.New(&ratelimit.Options{Rules: parse(t, text)})
		shared := ratelimit.New(&ratelimit.Options{Rules: parse(t, text), Store: client.Limits(nil)})
		key := rapid.Custom(func(rt *rapid.T) string {
			return fmt.Sprintf("%d.%d", round, rapid.IntRange(0, 2).Draw(rt, "key"))
		})
		for range rapid.IntRange(1, 25).Draw(rt, "calls") {
			by := ratelimit.Caller{IP: key.Draw(rt, "ip"), Session: key.Draw(rt, "session")}
			if rapid.Bool().Draw(rt, "signed in") {
				by.Subject = key.Draw(rt, "subject")
			}
			var asks []ratelimit.Ask
			for range rapid.IntRange(1, 3).Draw(rt, "asks") {
				asks = append(asks, ratelimit.Ask{Topic: key.Draw(rt, "topic"), Cost: rapid.IntRange(1, 5).Draw(rt, "cost")})
			}
			if rapid.Bool().Draw(rt, "together") {
				same(rt, text, alone.Allow(t.Context(), ratelimit.Publish, by, asks...), shared.Allow(t.Context(), ratelimit.Publish, by, asks...))
				continue
			}
			a, b := alone.AllowEach(t.Context(), ratelimit.Publish, by, asks), shared.AllowEach(t.Context(), ratelimit.Publish, by, asks)
			if len(a) != len(b) {
				rt.Fatalf("%s: %v; Redis: %v", text, a, b)
			}
			for i := range a {
				same(rt, text, a[i], b[i])
			}
		}
	})
}

func same(rt *rapid.T, rules string, a, b error) {
	if (a == nil) != (b == nil) {
		rt.Fatalf("%s: %v; Redis: %v", rules, a, b)
	}
	if a == nil {
		return
	}
	x, y := a.(*pgcast.Error).RetryAfter, b.(*pgcast.Error).RetryAfter
	// The clocks went on between the two; the longest of several waits may be another one.
	if d := (x - y).Abs(); d > time.Minute {
		rt.Fatalf("%s: %v; Redis: %v", rules, a, b)
	}
}
