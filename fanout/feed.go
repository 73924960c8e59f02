package fanout

import (
	"sort"
	"sync"

	"github.com/pgcast/pgcast"
)

// feed is the live end of one topic or pattern: a ring of its newest frames. Frames are
// numbered by seq for a topic (without holes) and by position for a pattern.
type feed struct {
	key     string
	pattern *pgcast.Pattern // nil for a topic
	users   int             // guarded by Hub.mu; the feed goes when it drops to 0

	mu       sync.Mutex
	frames   []*Frame // oldest first; the ring is its newest part, see trim
	bytes    int
	known    bool  // floor and head mean something
	floor    int64 // every frame after floor, up to head, is in frames
	head     int64
	maxCount int
	maxBytes int
	members  []*Subscription // those with a place here, kicked when the feed grows

	// A walk goes over the members from the last to the first: leaving moves the last one,
	// which has been served then, to the place of the one that leaves.
	walking, again bool
	left           int // the first so many are still to be served
}

func (f *feed) number(fr *Frame) int64 {
	if f.pattern != nil {
		return int64(fr.Position)
	}
	return int64(fr.Seq)
}

// append adds the next frame.
func (f *feed) append(fr *Frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.number(fr)
	switch {
	case f.known && n <= f.head:
		return // the head was read from the log before the hub came to this event
	case f.pattern == nil && (!f.known || n != f.head+1):
		f.reset(n - 1)
	}
	f.frames = append(f.frames, fr)
	f.bytes += fr.size()
	f.head = n
	f.trim()
}

// trim drops the oldest frames over the limits. The slice is moved to a new array now
// and then, so that dropped frames can be freed.
func (f *feed) trim() {
	drop := 0
	for len(f.frames)-drop > 1 && (len(f.frames)-drop > f.maxCount || f.bytes > f.maxBytes) {
		f.bytes -= f.frames[drop].size()
		f.floor = f.number(f.frames[drop])
		f.frames[drop] = nil
		drop++
	}
	f.frames = f.frames[drop:]
	if cap(f.frames)-len(f.frames) < 1 && drop > 0 {
		f.frames = append(make([]*Frame, 0, 2*len(f.frames)+1), f.frames...)
	}
}

// reset empties the ring: it begins anew after a place. f.mu is held.
func (f *feed) reset(place int64) {
	f.frames, f.bytes, f.floor, f.head, f.known = nil, 0, place, place, true
}

// begin empties the ring, which begins anew after a place.
func (f *feed) begin(place int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reset(place)
}

// lose empties a topic's ring, whose next event may not join what it held.
func (f *feed) lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reset(0)
	f.known = false
}

// passed notes that a pattern has nothing more up to a position.
func (f *feed) passed(position pgcast.Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.head = max(f.head, int64(position))
}

// learn takes over a head read from the log, if the feed does not know better.
func (f *feed) learn(head int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.known {
		f.floor, f.head, f.known = head, head, true
	}
}

// after gives at most count frames (and about size bytes) after a place, not beyond
// position limit. behind tells that the ring does not reach back to the place; floor is
// then where it begins. more tells that there are further frames within limit.
func (f *feed) after(place int64, limit pgcast.Position, count, size int, dst []*Frame) (frames []*Frame, behind bool, floor int64, more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.known || place < f.floor {
		return dst, true, f.floor, false
	}
	var i int
	if f.pattern == nil {
		i = int(min(place-f.floor, int64(len(f.frames)))) // no holes
	} else {
		i = sort.Search(len(f.frames), func(i int) bool { return f.number(f.frames[i]) > place })
	}
	for ; i < len(f.frames) && f.frames[i].Position <= limit; i++ {
		if len(dst) >= count || size <= 0 {
			return dst, false, f.floor, true
		}
		dst = append(dst, f.frames[i])
		size -= f.frames[i].size()
	}
	return dst, false, f.floor, false
}

// lookup answers an Ask from the ring alone, where that is possible.
func (f *feed) lookup(after *int64, id pgcast.ID) (place int64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !f.known:
		return 0, false
	case after == nil:
		return f.head, true
	case *after < f.floor || *after > f.head:
		return 0, false
	case id == "":
		return *after, true
	}
	i := sort.Search(len(f.frames), func(i int) bool { return f.number(f.frames[i]) >= *after })
	if i < len(f.frames) && f.number(f.frames[i]) == *after && f.frames[i].ID == id {
		return *after, true
	}
	return 0, false
}

func (f *feed) join(s *Subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.at = len(f.members)
	f.members = append(f.members, s)
}

func (f *feed) leave(s *Subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.members) - 1
	f.members[s.at] = f.members[last]
	f.members[s.at].at = s.at
	f.members[last] = nil
	f.members = f.members[:last]
}

// kick has the crew walk the members, and once more if it is on its way already.
func (f *feed) kick(c *crew) {
	f.mu.Lock()
	start := !f.walking && len(f.members) > 0
	if start {
		f.walking, f.left = true, len(f.members)
	} else {
		f.again = f.walking
	}
	f.mu.Unlock()
	if start {
		c.add(f)
	}
}

// walk takes the next members of a walk. more tells that it goes on.
func (f *feed) walk(dst []*Subscription) (subs []*Subscription, more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = min(f.left, len(f.members))
	n := min(f.left, cap(dst))
	dst = append(dst, f.members[f.left-n:f.left]...)
	if f.left -= n; f.left == 0 && f.again {
		f.left, f.again = len(f.members), false
	}
	f.walking = f.left > 0
	return dst, f.walking
}
