package ratelimit

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// MaxBans is how many bans there may be at a time.
const MaxBans = 100_000

// bans are this server's copy of those in force.
type bans struct {
	count atomic.Int64

	mu      sync.Mutex
	until   map[string]time.Time // by name
	changes int                  // since ever
}

func (b *bans) any() bool { return b.count.Load() > 0 }

// find tells which of some names is banned for the longest, or -1.
func (b *bans) find(names []string) (by int, wait time.Duration) {
	if by = -1; !b.any() {
		return by, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, name := range names {
		if until, there := b.until[name]; there {
			if d := time.Until(until); d > wait {
				by, wait = i, d
			}
		}
	}
	return by, wait
}

// do carries out an order, and tells whether there was room.
func (b *bans) do(o Order) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes++
	switch o.Op {
	case OpBan:
		if _, there := b.until[o.Name]; !there && len(b.until) >= MaxBans {
			if b.prune(); len(b.until) >= MaxBans {
				return false
			}
		}
		if b.until == nil {
			b.until = map[string]time.Time{}
		}
		b.until[o.Name] = time.Now().Add(o.For)
	case OpUnban:
		delete(b.until, o.Name)
	}
	b.count.Store(int64(len(b.until)))
	return true
}

// begin notes where a reading of all bans begins.
func (b *bans) begin() (changes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changes
}

// replace takes over what was read, unless something has changed meanwhile.
func (b *bans) replace(list []Ban, began int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changes != began {
		return false
	}
	now := time.Now()
	b.until = make(map[string]time.Time, len(list))
	for _, one := range list {
		b.until[one.Name] = now.Add(one.For)
	}
	b.count.Store(int64(len(b.until)))
	return true
}

// prune forgets those that are over; mu is held.
func (b *bans) prune() {
	now := time.Now()
	maps.DeleteFunc(b.until, func(_ string, until time.Time) bool { return !until.After(now) })
	b.count.Store(int64(len(b.until)))
}

// size is how many are in force.
func (b *bans) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prune()
	return len(b.until)
}

// list gives all that are in force, by name.
func (b *bans) list() []Ban {
	b.mu.Lock()
	b.prune()
	all := make([]Ban, 0, len(b.until))
	for name, until := range b.until {
		all = append(all, Ban{name, time.Until(until)})
	}
	b.mu.Unlock() // who asks about calls is not to wait while many are sorted
	slices.SortFunc(all, func(a, b Ban) int { return strings.Compare(a.Name, b.Name) })
	return all
}
