package ratelimit

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// local keeps buckets in this process. Each rule has a bounded number; the one that was
// asked for the longest ago goes first. To lose a bucket is to fill it.
type local struct {
	began time.Time
	max   int

	mu    sync.Mutex
	rules map[*Rule]*simplelru.LRU[string, *bucket]
}

type bucket struct {
	tokens  float64 // at time at
	at      time.Duration
	blocked time.Duration // until then
}

func newLocal(maxKeys int) *local {
	return &local{began: time.Now(), max: maxKeys, rules: map[*Rule]*simplelru.LRU[string, *bucket]{}}
}

// enough forgives what arithmetic with fractions loses.
const enough = 1e-9

// take decides on a call, as limit.lua does.
func (l *local) take(call Call) Verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Since(l.began)
	var few [8]*bucket
	buckets, v := few[:0], Verdict{Outcome: Allowed}
	for i, c := range call.Charges {
		b := l.bucket(c, now)
		buckets = append(buckets, b)
		outcome, wait := Allowed, c.Rule.after(float64(c.Cost)-b.tokens)
		switch {
		case b.blocked > now:
			outcome, wait = Blocked, max(wait, b.blocked-now)
		case b.tokens+enough < float64(c.Cost):
			outcome = Limited
			if c.Rule.Block > 0 {
				b.blocked, wait = now+c.Rule.Block, max(wait, c.Rule.Block)
			}
		}
		if outcome != Allowed && (v.Outcome == Allowed || wait > v.Wait) {
			v = Verdict{outcome, i, wait}
		}
	}
	if v.Outcome == Allowed {
		for i, b := range buckets {
			b.tokens = max(0, b.tokens-float64(call.Charges[i].Cost))
		}
	}
	return v
}

// after is how long tokens take to come back.
func (r *Rule) after(tokens float64) time.Duration {
	return time.Duration(max(0, tokens) * float64(r.Per) / float64(r.Count))
}

// bucket gives a bucket as it is now; l.mu is held.
func (l *local) bucket(c Charge, now time.Duration) *bucket {
	all := l.rules[c.Rule]
	if all == nil {
		all, _ = simplelru.NewLRU[string, *bucket](l.max, nil) // max is above 0
		l.rules[c.Rule] = all
	}
	b, there := all.Get(c.Bucket)
	if !there {
		for range 2 { // so that what is full again does not stay for ever; not one of this call, though
			name, old, any := all.GetOldest()
			if !any || old.at == now || now < old.blocked || float64(c.Rule.Burst)-old.tokens > c.Rule.gained(now-old.at) {
				break
			}
			all.Remove(name)
		}
		b = &bucket{tokens: float64(c.Rule.Burst)}
		all.Add(c.Bucket, b)
	} else {
		b.tokens = min(float64(c.Rule.Burst), b.tokens+c.Rule.gained(now-b.at))
	}
	b.at = now
	return b
}

// gained is how many tokens come back in a while.
func (r *Rule) gained(d time.Duration) float64 {
	return float64(d) * float64(r.Count) / float64(r.Per)
}

// reset forgets buckets.
func (l *local) reset(names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, all := range l.rules {
		for _, name := range names {
			all.Remove(name)
		}
	}
}

// keys counts the buckets.
func (l *local) keys() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, all := range l.rules {
		n += all.Len()
	}
	return n
}
