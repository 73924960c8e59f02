package ratelimit_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcast/pgcast/presence/ratelimit"
)

// A bucket of N lets exactly N through, whoever asks where and how many at a time.
func TestExactlyN(t *testing.T) {
	const n, callers = 300, 64
	each(t, "publish topic 1/168h burst 300", func(t *testing.T, w *world) {
		a, b := w.two()
		var through, denied atomic.Int64
		var all sync.WaitGroup
		for i := range callers {
			s := a
			if i%2 == 1 {
				s = b
			}
			all.Go(func() {
				for range 10 {
					if err := s.Allow(t.Context(), ratelimit.Publish, ann, one("a")); err != nil {
						w.wait(err)
						denied.Add(1)
					} else {
						through.Add(1)
					}
				}
			})
		}
		all.Wait()
		if through.Load() != n || denied.Load() != 10*callers-n {
			t.Errorf("%d came through and %d were denied; want %d and %d", through.Load(), denied.Load(), n, 10*callers-n)
		}
	})
}

// A denied call is told when there is enough again: no later than it must be, and then
// there is.
func TestRetryAfter(t *testing.T) {
	each(t, "publish session 1/1h burst 3, subscribe session 5/1s burst 1, history session 7/1h", func(t *testing.T, w *world) {
		a, b := w.two()
		began := time.Now()
		for range 3 {
			w.allows(a, ratelimit.Publish, ann, one("a"))
		}
		wait := w.denies(b, ratelimit.Publish, ann, one("a"))
		if took := time.Since(began); wait > time.Hour || wait < time.Hour-took-time.Millisecond {
			t.Errorf("after %v the next is in %v", took, wait)
		}
		wait = w.denies(b, ratelimit.Publish, ann, ratelimit.Ask{Cost: 2})
		if took := time.Since(began); wait > 2*time.Hour || wait < 2*time.Hour-took-time.Millisecond {
			t.Errorf("after %v two are there in %v", took, wait)
		}

		// A token that is a fraction of the clock's unit: none is lost by rounding.
		for range 7 {
			w.allows(a, ratelimit.History, ann, one("a"))
		}
		w.denies(a, ratelimit.History, ann, one("a"))

		// However slow this machine is, it is not too early then.
		for range 5 {
			for w.Context().Err() == nil {
				if err := a.Allow(t.Context(), ratelimit.Subscribe, ann, one("a")); err != nil {
					wait = w.wait(err)
					break
				}
			}
			if wait > 200*time.Millisecond {
				t.Errorf("a fifth of a second takes %v", wait)
			}
			<-time.After(wait)
			w.allows(b, ratelimit.Subscribe, ann, one("a"))
		}
	})
}

// What costs more takes more; what costs more than there ever is takes everything.
func TestCost(t *testing.T) {
	each(t, "history session 1/168h burst 10", func(t *testing.T, w *world) {
		a, b := w.two()
		w.allows(a, ratelimit.History, ann, ratelimit.Ask{Topic: "a", Cost: 7})
		w.denies(b, ratelimit.History, ann, ratelimit.Ask{Topic: "a", Cost: 4})
		w.allows(b, ratelimit.History, ann, ratelimit.Ask{Topic: "b", Cost: 3})
		w.denies(a, ratelimit.History, ann, one("a"))

		w.allows(a, ratelimit.History, bob, ratelimit.Ask{Topic: "a", Cost: 1000})
		w.denies(b, ratelimit.History, bob, one("a"))
		w.allows(a, ratelimit.History, cleo, one("a"))
		w.denies(b, ratelimit.History, cleo, ratelimit.Ask{Topic: "a", Cost: 1000})
	})
}

// A call that one rule denies is not charged by the others, and hears of the longest wait.
func TestAllOrNothing(t *testing.T) {
	each(t, "publish session 1/1h burst 5, publish topic 1/2h burst 1, publish ip 1/24h burst 100", func(t *testing.T, w *world) {
		a, b := w.two()
		w.allows(a, ratelimit.Publish, ann, one("a"))
		for range 20 {
			if wait := w.denies(b, ratelimit.Publish, ann, one("a")); wait <= time.Hour {
				t.Errorf("told to wait %v for the topic", wait)
			}
		}
		for _, topic := range []string{"b", "c", "d", "e"} { // of five there are four left
			w.allows(a, ratelimit.Publish, ann, one(topic))
		}
		w.denies(b, ratelimit.Publish, ann, one("f"))

		// Several topics in one call.
		w.denies(b, ratelimit.Publish, bob, one("g"), one("a"), one("h"))
		w.allows(b, ratelimit.Publish, bob, one("g"), one("h"))
		w.allows(a, ratelimit.Publish, bob, one("i"), one("j"), one("k"))
		w.denies(a, ratelimit.Publish, bob, one("l"))
	})
}

// Each call of many is decided on by itself, in order.
func TestAllowEach(t *testing.T) {
	each(t, "subscribe session 1/168h burst 100, subscribe topic 1/168h burst 1", func(t *testing.T, w *world) {
		a, b := w.two()
		asks := []ratelimit.Ask{one("a"), one("a"), one("b")}
		for i := range 250 {
			asks = append(asks, one("x:"+string(rune('A'+i))))
		}
		errs := a.AllowEach(t.Context(), ratelimit.Subscribe, ann, asks)
		through := 0
		for i, err := range errs {
			if err == nil {
				through++
			} else {
				w.wait(err)
			}
			if (err == nil) != (i != 1 && through <= 100 && i <= 100) {
				t.Errorf("call %d: %v", i, err)
			}
		}
		if through != 100 || len(errs) != len(asks) {
			t.Errorf("%d of %d came through", through, len(errs))
		}
		if errs := b.AllowEach(t.Context(), ratelimit.Subscribe, bob, []ratelimit.Ask{one("new"), one("newer")}); errs != nil {
			t.Errorf("where nothing is denied there is %v", errs)
		}
		if errs := b.AllowEach(t.Context(), ratelimit.History, bob, asks); errs != nil {
			t.Errorf("what has no rule is answered with %v", errs)
		}
	})
}

// Each kind counts by its own key, and who has none by the next one.
func TestKinds(t *testing.T) {
	each(t, "connect ip 2/168h, publish session 2/168h, history subject 2/168h, subscribe topic 2/168h", func(t *testing.T, w *world) {
		a, b := w.two()
		w.allows(a, ratelimit.Connect, ratelimit.Caller{IP: "192.0.2.1"}, one(""))
		w.allows(b, ratelimit.Connect, bob, one(""))
		w.denies(a, ratelimit.Connect, ann, one(""))
		w.allows(b, ratelimit.Connect, cleo, one(""))

		w.allows(a, ratelimit.Publish, ann, ratelimit.Ask{Topic: "a", Cost: 2})
		w.denies(b, ratelimit.Publish, ann, one("a"))
		w.allows(b, ratelimit.Publish, bob, one("a"))
		nobody := ratelimit.Caller{IP: "192.0.2.9"}
		w.allows(a, ratelimit.Publish, nobody, ratelimit.Ask{Topic: "a", Cost: 2})
		w.denies(b, ratelimit.Publish, nobody, one("a"))

		w.allows(a, ratelimit.History, cleo, one("a"))
		other := ratelimit.Caller{IP: "192.0.2.77", Session: "s77", Subject: "cleo"}
		w.allows(b, ratelimit.History, other, one("a"))
		w.denies(a, ratelimit.History, cleo, one("a"))
		w.allows(a, ratelimit.History, ann, ratelimit.Ask{Cost: 2})
		w.denies(a, ratelimit.History, ann, one("a"))
		w.allows(a, ratelimit.History, bob, one("a"))

		w.allows(a, ratelimit.Subscribe, ann, one("a"))
		w.allows(b, ratelimit.Subscribe, cleo, one("a"))
		w.denies(b, ratelimit.Subscribe, bob, one("a"))
		w.allows(b, ratelimit.Subscribe, bob, one("b"))
		w.allows(b, ratelimit.Subscribe, bob, one("")) // of no topic
	})
}

// A denial blocks the key, however much comes back meanwhile, and once.
func TestBlock(t *testing.T) {
	each(t, "publish session 1/1h burst 2 block 24h, history session 1000/1s burst 1 block 300ms", func(t *testing.T, w *world) {
		a, b := w.two()
		w.allows(a, ratelimit.Publish, ann, one("a"))
		began := time.Now()
		if wait := w.denies(b, ratelimit.Publish, ann, ratelimit.Ask{Cost: 2}); wait != 24*time.Hour {
			t.Errorf("the denial says %v", wait)
		}
		for range 3 { // also for what there would be enough of
			wait := w.denies(a, ratelimit.Publish, ann, one("a"))
			if took := time.Since(began); wait > 24*time.Hour || wait < 24*time.Hour-took-time.Millisecond {
				t.Errorf("after %v blocked for %v more", took, wait)
			}
		}
		w.allows(b, ratelimit.Publish, bob, one("a"))

		wait := time.Duration(0)
		for wait == 0 { // a token is back within a millisecond
			if errs := a.AllowEach(t.Context(), ratelimit.History, ann, []ratelimit.Ask{one("a"), one("b"), one("c"), one("d")}); errs != nil {
				for _, err := range errs {
					if err != nil {
						wait = w.wait(err)
					}
				}
			}
		}
		if wait > 300*time.Millisecond {
			t.Errorf("blocked for %v", wait)
		}
		<-time.After(wait)
		w.allows(b, ratelimit.History, ann, one("a"))
	})
}

// Where nothing is limited, nobody is asked.
func TestNoRules(t *testing.T) {
	each(t, "publish session 1/168h", func(t *testing.T, w *world) {
		a, _ := w.two()
		if a.Limits(ratelimit.History) || !a.Limits(ratelimit.Publish) {
			t.Error("what is limited is not what has a rule")
		}
		if w.redis != nil {
			w.redis.Kill()
		}
		for range 100 {
			w.allows(a, ratelimit.History, ann, one("a"))
		}
	})
}
