package fanout

import (
	"runtime"
	"sync"
	"time"
)

// crew serves the sessions whose peers keep up. When a topic grows, most of its sessions
// have little to send, and connections that take it at once; a few goroutines that walk
// from one to the next do that for less than a goroutine started for each. Whatever may
// have to wait, for a peer or for the log, is left to a pump of the session's own, so
// nobody waits here for anybody else.
type crew struct {
	most    int // goroutines at a time
	metrics *metrics

	mu    sync.Mutex
	feeds []*feed // to be walked, in turn, from the first on; each at most once
	first int
	hands int // goroutines there are
}

// share is how many subscriptions a goroutine of the crew serves at a time: then others
// have their turn, feeds as well as goroutines.
const share = 16

func newCrew(m *metrics) *crew {
	// One processor is left for those who feed the crew and answer clients.
	return &crew{most: max(1, runtime.GOMAXPROCS(0)-1), metrics: m}
}

// add has a feed walked that is not waiting for it yet.
func (c *crew) add(f *feed) {
	c.mu.Lock()
	if c.first > len(c.feeds)/2 {
		n := copy(c.feeds, c.feeds[c.first:])
		clear(c.feeds[n:])
		c.feeds, c.first = c.feeds[:n], 0
	}
	c.feeds = append(c.feeds, f)
	start := c.hands < c.most
	if start {
		c.hands++
	}
	c.mu.Unlock()
	if start {
		go c.work()
	}
}

// next takes a feed out; with none left the caller has to end.
func (c *crew) next() *feed {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == len(c.feeds) {
		c.hands--
		c.feeds, c.first = c.feeds[:0], 0
		return nil
	}
	f := c.feeds[c.first]
	c.feeds[c.first] = nil
	c.first++
	return f
}

// work walks feeds until none is left.
func (c *crew) work() {
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	subs := make([]*Subscription, 0, share)
	for {
		f := c.next()
		if f == nil {
			return
		}
		var more bool
		if subs, more = f.walk(subs[:0]); more {
			c.add(f)
		}
		d := delivered{}
		for _, sub := range subs {
			sub.session.visit(sub, b, &d)
		}
		c.metrics.count(&d)
		clear(subs)
		runtime.Gosched()
	}
}

// visit is a kick that serves the subscription right here, if nothing has to be waited
// for.
func (s *Session) visit(sub *Subscription, b *buffer, d *delivered) {
	s.mu.Lock()
	if s.running || s.ended || s.quick == nil {
		start := s.mark(sub)
		s.mu.Unlock()
		if start {
			go s.pump()
		}
		return
	}
	s.running, s.buffer = true, b
	s.mu.Unlock()
	served := s.offer(sub, d)
	s.mu.Lock()
	s.buffer = nil
	s.running = !served || len(s.dirty) > 0 || len(s.control) > 0 || len(s.views) > 0 || s.ended
	start := s.running
	s.mu.Unlock()
	if start {
		go s.pump()
	}
}

// offer sends what a subscription has, without waiting. It reports false when a pump has
// to go on.
func (s *Session) offer(sub *Subscription, d *delivered) bool {
	switch {
	case sub.gone:
		return true
	case !sub.due.IsZero(), sub.begin != nil, s.barred.Load():
		s.kick(sub)
		return false
	}
	frames, behind, _, more := sub.feed.after(sub.place, everything, pullEvents, pullBytes, s.frames[:0])
	if behind || more {
		s.kick(sub)
	}
	if behind {
		return false
	}
	s.setBehind(sub, false)
	seen := frames
	if sub.lens != nil && len(frames) > 0 {
		var ok bool
		if seen, ok = s.glance(sub, frames); !ok {
			s.kick(sub)
			return false
		}
	}
	items := s.taken(sub, frames, seen)
	if !more {
		s.caughtUp(sub)
	}
	if len(items) == 0 {
		return true
	}
	done, err := s.quick.Offer(items)
	if err != nil {
		s.End(err)
		return false
	}
	d.add(items, s.opened)
	s.unfinished = !done
	return done
}

// delivered is what has been written, to be counted.
type delivered struct {
	events, bytes int
	newest        [share]time.Time // of each write, when its newest event was created
	writes        int
}

// add counts what has been written at once, to a session that subscribed last at opened.
func (d *delivered) add(items []Item, opened time.Time) {
	for _, i := range items {
		if i.Frame != nil {
			d.events, d.bytes = d.events+1, d.bytes+i.Frame.size()
			d.newest[d.writes] = i.Frame.CreatedAt
		}
	}
	// What is older than that was asked for afterwards: how late it was says nothing.
	if newest := &d.newest[d.writes]; newest.After(opened) {
		d.writes++
	} else {
		*newest = time.Time{}
	}
}

func (m *metrics) count(d *delivered) {
	if d.events == 0 {
		return
	}
	m.delivered.Add(uint64(d.events))
	m.bytes.Add(float64(d.bytes))
	now := time.Now()
	for _, created := range d.newest[:d.writes] {
		if late := now.Sub(created); late < time.Minute {
			// What is older was resumed, not delivered live.
			m.latency.Observe(max(0, late.Seconds()))
			m.late.note(late)
		}
	}
}
