package fanout

import (
	"math/bits"
	"sort"
	"sync/atomic"
	"time"

	"github.com/pgcast/pgcast"
)

// Figures are what a hub has done since it was made, and what it has now. To read them costs
// it nothing.
type Figures struct {
	Position              pgcast.Position // up to here the log has been read
	Events                int64           // that the log has grown by since the hub began to follow it
	Deliveries            uint64          // events written to sessions
	Subscriptions, Behind int             // of the subscriptions, how many read the log
	// Slowest is the longest that one of the events read since Figures was last called took
	// from its creation to here, by the database's and this server's clocks; 0 where none was
	// read. Of events that nobody was there to be told of, only the newest of each look counts.
	Slowest time.Duration
	Latency Latency
}

// Figures reads the figures. One caller only: it begins Slowest anew.
func (h *Hub) Figures() Figures {
	m := h.metrics
	f := Figures{Deliveries: m.delivered.Load(),
		Subscriptions: int(m.subscriptions.Load()), Behind: int(m.behind.Load()), Slowest: time.Duration(m.slowest.Swap(0))}
	h.mu.Lock()
	f.Position, f.Events = h.position, int64(h.position-h.began)
	h.mu.Unlock()
	for i := range m.late {
		f.Latency[i] = m.late[i].Load()
	}
	return f
}

// Subscriptions counts those of all sessions.
func (h *Hub) Subscriptions() int { return int(h.metrics.subscriptions.Load()) }

// noteAge notes how long the oldest of some events took to come here.
func (h *Hub) noteAge(events []pgcast.Event) {
	var oldest time.Time
	for i := range events {
		if at := events[i].CreatedAt; oldest.IsZero() || at.Before(oldest) {
			oldest = at
		}
	}
	if oldest.IsZero() {
		return
	}
	age := int64(time.Since(oldest))
	for was := h.metrics.slowest.Load(); age > was && !h.metrics.slowest.CompareAndSwap(was, age); {
		was = h.metrics.slowest.Load()
	}
}

// Subscribers gives, for each topic, how many subscriptions there are to exactly that.
func (h *Hub) Subscribers(topics []string) []int {
	feeds := make([]*feed, len(topics))
	h.mu.Lock()
	for i, topic := range topics {
		feeds[i] = h.feeds[topic]
	}
	h.mu.Unlock()
	counts := make([]int, len(topics))
	for i, f := range feeds {
		if f != nil {
			f.mu.Lock()
			counts[i] = len(f.members)
			f.mu.Unlock()
		}
	}
	return counts
}

// Standing is where a session's subscriptions are.
type Standing struct {
	Topics []string // of its topics and patterns, at most as many as were asked for
	Count  int      // of all of them
	// Behind is how many events it has yet to be sent. Of a pattern whose place this server
	// holds no longer in memory, every event of the log since then counts.
	Behind int64
}

// Standing tells where the session's subscriptions are, with at most so many of their names.
// It waits neither for the peer nor for the log.
func (s *Session) Standing(names int) Standing {
	s.standing.Lock()
	subs := make([]*Subscription, 0, len(s.subs))
	for _, sub := range s.subs {
		subs = append(subs, sub)
	}
	s.standing.Unlock()
	st := Standing{Topics: []string{}, Count: len(subs)}
	for i, sub := range subs {
		if i < names {
			st.Topics = append(st.Topics, sub.feed.key)
		}
		st.Behind += sub.feed.beyond(sub.sent.Load())
	}
	return st
}

// Follows tells whether one of the session's topics and patterns is as asked for. Of a session
// that has more, only so many are looked at, whichever they are.
func (s *Session) Follows(most int, is func(topic string) bool) bool {
	s.standing.Lock()
	defer s.standing.Unlock()
	for topic := range s.subs {
		if most--; most < 0 {
			return false
		}
		if is(topic) {
			return true
		}
	}
	return false
}

// beyond counts the events after a place.
func (f *feed) beyond(place int64) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !f.known || place >= f.head:
		return 0
	case f.pattern == nil:
		return f.head - place
	}
	next := sort.Search(len(f.frames), func(i int) bool { return f.number(f.frames[i]) > place })
	return max(0, f.floor-place) + int64(len(f.frames)-next)
}

// Latency counts deliveries by how long they took, from an event's creation to its write to a
// session. Each count is for a duration that is longer by an eighth, or less, than the one before.
type Latency [latencyBins]uint64

const (
	latencyBits = 3                                     // of a duration, below its highest one, that are looked at
	latencyBins = (26 - latencyBits + 1) << latencyBits // up to 67 s, in microseconds
)

type latencies [latencyBins]atomic.Uint64

func (l *latencies) note(d time.Duration) { l[latencyBin(d)].Add(1) }

func latencyBin(d time.Duration) int {
	us := uint64(max(0, d.Microseconds()))
	if us < 1<<latencyBits {
		return int(us)
	}
	octave := bits.Len64(us) - latencyBits // 1 for the first one that has more bits than are looked at
	return min(octave<<latencyBits|int(us>>(octave-1)&(1<<latencyBits-1)), latencyBins-1)
}

// latencyOf is the longest duration that is counted as the bin.
func latencyOf(bin int) time.Duration {
	octave, rest := bin>>latencyBits, bin&(1<<latencyBits-1)
	if octave == 0 {
		return time.Duration(rest+1) * time.Microsecond
	}
	return time.Duration((1<<latencyBits|rest)+1) << (octave - 1) * time.Microsecond
}

// Since gives what was counted after an earlier look.
func (l Latency) Since(before *Latency) Latency {
	for i := range l {
		l[i] -= before[i]
	}
	return l
}

// Quantile gives the duration that a share of the deliveries, from 0 to 1, did not exceed, to
// an eighth; false where there were none.
func (l *Latency) Quantile(share float64) (time.Duration, bool) {
	all := uint64(0)
	for _, n := range l {
		all += n
	}
	if all == 0 {
		return 0, false
	}
	wanted, so := share*float64(all), uint64(0)
	for bin, n := range l {
		if so += n; so > 0 && float64(so) >= wanted {
			return latencyOf(bin), true
		}
	}
	return latencyOf(latencyBins - 1), true
}
