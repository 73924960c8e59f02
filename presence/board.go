package presence

import (
	"encoding/json"
	"sync"
	"time"
)

// Entry is one thing on a board: a user on a topic, a cursor, a member of a group.
type Entry struct {
	Key   string
	Value json.RawMessage
}

// board has the entries of one topic in the order they last changed. A change moves its
// entry to the end, so what changed since a place is read from the end, whatever the size
// of the board, and an entry that changes often is there once.
type board struct {
	every time.Duration // views are told at most so often

	mu      sync.Mutex
	version uint64 // of the newest change
	live    int    // entries that have not been removed
	nodes   map[string]*node
	ring    node // next is the oldest change, prev the newest
	gone    int  // removed entries still in the list
	oldest  uint64
	views   map[*View]struct{}
	opened  bool // there is something to be shown
	told    time.Time
	timer   *time.Timer // a telling is due
	diffs   []diff      // the newest ones encoded
	alives  []alive     // of the newest beat
}

// node is an entry's place in the order of changes. A removed one stays for a while, to be
// told of.
type node struct {
	Entry
	version    uint64
	removed    bool
	since      uint64 // the version with which it came
	left       uint64 // the version with which it had gone before that; 0 if that is not remembered
	valued     uint64 // the version with which it got its value
	prev, next *node
}

// maxGone bounds the removals a board remembers; a view that is further behind is told
// everything anew.
const maxGone = 256

func newBoard(every time.Duration) *board {
	b := &board{every: every, nodes: map[string]*node{}, views: map[*View]struct{}{}}
	b.ring.prev, b.ring.next = &b.ring, &b.ring
	return b
}

// set changes or adds an entry. A value that is what it was is no change.
func (b *board) set(key string, value json.RawMessage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.nodes[key]
	switch {
	case n == nil:
		n = &node{Entry: Entry{Key: key}, since: b.version + 1}
		b.nodes[key] = n
		b.live++
	case n.removed:
		b.unlink(n)
		n.removed, n.left, n.since = false, n.version, b.version+1
		b.live++
		b.gone--
	case string(n.Value) == string(value):
		return
	default:
		b.unlink(n)
	}
	n.Value, n.valued = value, b.version+1
	b.append(n)
}

// remove takes an entry away, and tells whether it was there.
func (b *board) remove(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.nodes[key]
	if n == nil || n.removed {
		return false
	}
	b.unlink(n)
	n.removed = true
	b.live--
	b.gone++
	b.append(n)
	if b.gone > maxGone {
		b.forget()
	}
	return true
}

// forget drops the oldest removals, half of them, so that it is not done for each.
func (b *board) forget() {
	for n := b.ring.next; n != &b.ring && b.gone > maxGone/2; {
		next := n.next
		if n.removed {
			b.oldest = n.version
			b.unlink(n)
			delete(b.nodes, n.Key)
			b.gone--
		}
		n = next
	}
}

func (b *board) unlink(n *node) { n.prev.next, n.next.prev = n.next, n.prev }

func (b *board) append(n *node) {
	b.version++
	n.version = b.version
	n.prev, n.next = b.ring.prev, &b.ring
	n.prev.next, b.ring.prev = n, n
	b.tell()
}

// tell lets the views know, at once if they have not heard for a while.
func (b *board) tell() {
	if b.timer != nil || len(b.views) == 0 || !b.opened {
		return
	}
	if wait := b.every - time.Since(b.told); wait > 0 {
		b.timer = time.AfterFunc(wait, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.timer = nil
			b.kick()
		})
		return
	}
	b.kick()
}

// open has the views told for the first time.
func (b *board) open() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened = true
	b.kick()
}

// alive is what one dialect says at one place of who is still there.
type alive struct {
	dialect *Dialect
	at      uint64
	text    []byte
}

// pulse has those views told who is still there that want to know, while they are not too
// many to be told each time.
func (b *board) pulse() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.alives = nil
	if !b.opened || b.live > MaxPulse {
		return
	}
	for v := range b.views {
		if v.dialect.Pulse != nil {
			v.pulsed = true
			v.kick(v)
		}
	}
}

// alive makes the text of a beat, once for each dialect.
func (b *board) alive(v *View) []byte {
	for _, a := range b.alives {
		if a.dialect == v.dialect && a.at == b.version {
			return a.text
		}
	}
	if b.live > MaxPulse {
		return nil
	}
	keys := make([]string, 0, b.live)
	for n := b.ring.next; n != &b.ring; n = n.next {
		if !n.removed {
			keys = append(keys, n.Key)
		}
	}
	a := alive{v.dialect, b.version, v.dialect.Pulse(v.topic, keys)}
	b.alives = append(b.alives, a)
	return a.text
}

func (b *board) kick() {
	b.told = time.Now()
	for v := range b.views {
		v.kick(v)
	}
}

// entries gives all there are, the one that changed first in front.
func (b *board) entries() []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all()
}

func (b *board) all() []Entry {
	list := make([]Entry, 0, b.live)
	for n := b.ring.next; n != &b.ring; n = n.next {
		if !n.removed {
			list = append(list, n.Entry)
		}
	}
	return list
}

func (b *board) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.live
}
