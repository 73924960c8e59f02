package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgcast/pgcast"
)

func waitOf(t *testing.T, err error) time.Duration {
	t.Helper()
	var e *pgcast.Error
	if !errors.As(err, &e) || e.Code != pgcast.CodeRateLimited {
		t.Fatalf("got %v; want rate_limited", err)
	}
	return e.RetryAfter
}

// By a clock that stands still, what is told is exact to the millisecond.
func TestRetryAfterIsExact(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"publish session 1/1s", "publish session 3/1s", "publish session 7/1s burst 2", "publish session 1000/7ms burst 3",
		"publish session 999999/168h burst 13", "publish session 11/13ms burst 1 block 77ms"} {
		synctest.Test(t, func(t *testing.T) {
			rules, err := ParseRules(text)
			if err != nil {
				t.Fatal(err)
			}
			l, by := New(&Options{Rules: rules}), Caller{Session: "a"}
			ask := func() error { return l.Allow(context.Background(), Publish, by, Ask{Cost: 1}) }
			time.Sleep(time.Hour)
			for range rules[0].Burst {
				if err := ask(); err != nil {
					t.Fatalf("%s: %v", text, err)
				}
			}
			for range 1000 {
				wait := waitOf(t, ask())
				if wait > time.Millisecond {
					time.Sleep(wait - time.Millisecond)
					if rest := waitOf(t, ask()); rest != time.Millisecond {
						t.Fatalf("%s: after all but a millisecond of %v, there is %v to wait", text, wait, rest)
					}
					wait = time.Millisecond
				}
				time.Sleep(wait)
				if err := ask(); err != nil {
					t.Fatalf("%s: after what it said to wait: %v", text, err)
				}
				for ask() == nil { // of a rule that gives back many in a millisecond
				}
			}
		})
	}
}

// What has no rule costs nothing.
func TestNoRuleCostsNothing(t *testing.T) {
	l, by, ask := New(nil), Caller{IP: "192.0.2.1", Session: "a"}, Ask{Topic: "a", Cost: 1}
	if n := testing.AllocsPerRun(1000, func() { _ = l.Allow(context.Background(), Publish, by, ask) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// The buckets kept are bounded, those asked for last stay, and what is full again goes.
func TestBuckets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rules, err := ParseRules("publish session 1/1h, history session 1/1s")
		if err != nil {
			t.Fatal(err)
		}
		l := New(&Options{Rules: rules, MaxKeys: 1000})
		ask := func(v Verb, i int) error {
			return l.Allow(context.Background(), v, Caller{Session: fmt.Sprint(i)}, Ask{Cost: 1})
		}
		for i := range 5000 {
			if err := ask(Publish, i); err != nil {
				t.Fatal(err)
			}
			if i > 0 {
				waitOf(t, ask(Publish, 0)) // it is in use, and stays
			}
		}
		if n := l.local.keys(); n != 1000 {
			t.Errorf("%d buckets", n)
		}
		for i := range 500 {
			if err := ask(History, i); err != nil {
				t.Fatal(err)
			}
		}
		if n := l.local.keys(); n != 1500 {
			t.Errorf("%d buckets", n)
		}
		time.Sleep(2 * time.Second)
		for i := range 500 {
			if err := ask(History, 1000+i); err != nil {
				t.Fatal(err)
			}
		}
		if n := l.local.keys(); n > 1502 {
			t.Errorf("%d buckets, of which many are full", n)
		}
	})
}

// What was ordered while the bans were read is not undone by what was read.
func TestBansReadMeanwhile(t *testing.T) {
	t.Parallel()
	var b bans
	began := b.begin()
	b.do(Order{Op: OpBan, Name: "session:a", For: time.Hour})
	if b.replace(nil, began) {
		t.Error("what was read replaced what came after")
	}
	if by, _ := b.find([]string{"ip:x", "session:a"}); by != 1 {
		t.Errorf("found %d", by)
	}
	if !b.replace([]Ban{{"session:b", time.Hour}}, b.begin()) {
		t.Error("nothing happened meanwhile")
	}
	if by, _ := b.find([]string{"session:a"}); by != -1 || len(b.list()) != 1 {
		t.Errorf("found %d of %v", by, b.list())
	}
}

// There is room for so many bans; those that are over make some.
func TestManyBans(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New(nil)
		for i := range MaxBans {
			if err := l.Ban(context.Background(), Session, fmt.Sprint(i), time.Duration(i%2+1)*time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Ban(context.Background(), Session, "one more", time.Hour); !errors.Is(err, ErrTooManyBans) {
			t.Errorf("got %v", err)
		}
		if err := l.Ban(context.Background(), Session, "7", 24*time.Hour); err != nil {
			t.Error(err)
		}
		time.Sleep(90 * time.Minute)
		if err := l.Ban(context.Background(), Session, "one more", time.Hour); err != nil {
			t.Error(err)
		}
		if n, size := len(l.Bans()), l.bans.size(); n != MaxBans/2+1 || size != n {
			t.Errorf("%d bans, and %d are counted", n, size)
		}
	})
}
