package fanout

import (
	"sync"
	"time"

	"github.com/pgcast/pgcast"
)

// turnOps is how many of the client's requests are answered before events get their turn.
const turnOps = 64

// buffer is what a pump works with; an idle session has none.
type buffer struct {
	out    []Item
	frames []*Frame
	items  []Item
	seen   []*Frame
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// pump does what there is to do and returns when there is nothing left. At any time at
// most one pump of a session is alive, and none while the crew has it.
func (s *Session) pump() {
	s.mu.Lock()
	s.buffer = buffers.Get().(*buffer)
	s.mu.Unlock()
	if s.unfinished {
		s.unfinished = false
		if err := s.sink.Write(nil); err != nil {
			s.End(err)
		}
	}
	for {
		s.mu.Lock()
		if s.ended {
			s.mu.Unlock()
			s.close()
			return
		}
		n := min(len(s.control), turnOps)
		ops := s.control[:n:n]
		s.control = s.control[n:]
		for _, o := range ops {
			s.bytes -= o.size()
		}
		var sub *Subscription
		if len(s.dirty) > 0 {
			sub, s.dirty = s.dirty[0], s.dirty[1:]
			sub.queued = false
		}
		views := s.views
		s.views = nil
		if n == 0 && sub == nil && len(views) == 0 {
			s.running, s.control, s.dirty = false, nil, nil
			buffers.Put(s.buffer)
			s.buffer = nil
			s.mu.Unlock()
			return
		}
		s.room.Broadcast()
		s.mu.Unlock()

		for _, o := range ops {
			s.do(o)
		}
		for v := range views {
			for _, text := range v.Pull() {
				s.emit(Item{Raw: text})
			}
		}
		s.flush()
		if sub != nil && !sub.gone {
			s.serve(sub)
		}
	}
}

// serve sends one pull of a subscription and comes back to it if there is more.
func (s *Session) serve(sub *Subscription) {
	if !sub.due.IsZero() {
		if time.Now().Before(sub.due) {
			return // the log could not be read; its turn comes when it is to be tried again
		}
		sub.due = time.Time{}
	}
	items, more, retry := s.pull(s.ctx, sub, everything)
	s.write(items)
	switch {
	case more:
		s.kick(sub)
	case retry > 0:
		sub.due = time.Now().Add(retry)
		time.AfterFunc(retry, func() { s.kick(sub) })
	}
}

func (s *Session) do(o op) {
	switch {
	case o.raw != nil:
		s.emit(Item{Raw: o.raw})
	case o.notice != nil:
		s.emit(Item{Notice: o.notice})
	case o.open != nil:
		s.open(o.open)
	case o.replay != nil:
		s.replay(o.replay)
	case o.close != nil:
		if s.subs[o.close.Topic] != nil {
			s.settle()
			s.remove(s.subs[o.close.Topic])
		}
		if o.close.Ref != nil {
			s.emit(Item{Notice: o.close})
		}
	case o.forbid != nil:
		s.forbid(o.forbid)
	case o.finish != nil:
		s.flush() // what was answered comes before what is pulled
		for _, sub := range s.subs {
			if sub.begin != nil {
				continue // the client comes back and begins anew
			}
			for more := !sub.behind; more && !s.over(); {
				var items []Item
				items, more, _ = s.pull(s.ctx, sub, everything)
				more = more && !sub.behind
				s.write(items)
			}
		}
		s.End(o.finish)
	}
}

// open starts a subscription, in the place of the one there may be.
func (s *Session) open(o *Opening) {
	if s.barred.Load() && s.isForbidden(o.feed.key) {
		s.emit(Item{Notice: o.denied()})
		s.hub.drop(o)
		return
	}
	s.read = max(s.read, o.at)
	place, old := o.place, s.subs[o.feed.key]
	if old != nil && o.req.Keep {
		s.emit(Item{Notice: &Notice{Kind: Subscribed, Topic: o.feed.key, Ref: o.req.Ref, Seq: old.place}})
		s.hub.drop(o)
		return
	}
	settled := s.settle()
	if o.feed.pattern != nil && settled == 0 {
		// Topics' places may have been read from the log ahead of the hub.
		settled, _ = s.hub.wait(s.ctx, s.read)
	}
	if old != nil {
		s.remove(s.subs[o.feed.key])
	}
	sub := &Subscription{session: s, feed: o.feed, order: s.orders, place: place,
		lens: o.req.Lens, sight: s.hub.sights.acquire(o.feed.key, o.req.Lens), own: o.req.Own}
	if !o.asOf.IsZero() {
		asOf := o.asOf // without the rest of the opening
		sub.asOf = &asOf
	}
	if o.spool != nil {
		// What came before through others is not in it; what it lacks must follow it.
		sub.begin = &beginning{spool: o.spool, ref: o.req.Ref}
	} else if o.req.After == nil || o.reset || o.req.Barred {
		// It starts at the head, which is where the others now are: what came before went
		// through them, if it was asked for at all.
		if old != nil {
			sub.place = max(sub.place, old.place)
		}
		if o.feed.pattern != nil {
			sub.place = max(sub.place, int64(settled))
		} else if settled > 0 {
			s.bring(sub, settled, false)
		}
	}
	if sub.begin != nil || o.req.After != nil && !o.reset && !o.req.Barred {
		s.setPast(sub, sub.begin != nil)
	}
	sub.start = sub.place
	s.opened = time.Now()
	s.orders++
	s.standing.Lock()
	s.subs[o.feed.key] = sub
	s.standing.Unlock()
	sub.sent.Store(sub.place)
	s.hub.metrics.subscriptions.Add(1)
	told := sub.start
	if o.req.Barred && !o.reset {
		told = min(told, *o.req.After) // it did begin there, and what follows is a gap
	}
	s.emit(Item{Notice: &Notice{Kind: Subscribed, Topic: o.feed.key, Ref: o.req.Ref, Seq: told}})
	switch {
	case o.reset:
		s.emit(Item{Notice: &Notice{Kind: Reset, Topic: o.feed.key, Head: sub.start, Ref: o.req.Ref}})
	case told < sub.start:
		s.emit(Item{Notice: &Notice{Kind: Gap, Topic: o.feed.key, After: told, Tail: sub.start + 1, Head: sub.start}})
	}
	o.feed.join(sub)
	// Only now: what makes it stale from here on comes upon it among the members.
	if s.hub.stale(sub) {
		s.End(ErrResume)
		return
	}
	s.kick(sub) // what the feed collected since the request
}

// remove ends a subscription; nil is one that has ended meanwhile, its snapshot having
// broken off.
func (s *Session) remove(sub *Subscription) {
	if sub == nil {
		return
	}
	s.standing.Lock()
	delete(s.subs, sub.feed.key)
	s.standing.Unlock()
	sub.gone = true
	sub.feed.leave(sub)
	s.begun(sub)
	s.caughtUp(sub)
	s.setBehind(sub, false)
	s.hub.release(sub.feed)
	s.hub.sights.release(sub.feed.key, sub.lens)
	s.hub.metrics.subscriptions.Add(-1)
}

// settle brings all subscriptions to one position of the log before their set changes.
// It is needed only where two of them may deliver the same event: which of them does is
// decided anew at the change, and events before it must have gone by the old rule. It
// returns the position, or 0 where it was not needed.
func (s *Session) settle() pgcast.Position {
	patterns := false
	for _, sub := range s.subs {
		patterns = patterns || sub.feed.pattern != nil
	}
	if !patterns {
		return 0
	}
	s.flush()
	position, err := s.hub.wait(s.ctx, s.read)
	if err != nil {
		return 0 // the session has ended
	}
	for _, sub := range s.subs {
		s.bring(sub, position, true)
	}
	return position
}

// bring takes a subscription to a position of the log, however long that takes.
func (s *Session) bring(sub *Subscription, position pgcast.Position, send bool) {
	for more := true; more && !s.over(); {
		var items []Item
		var retry time.Duration
		items, more, retry = s.pull(s.ctx, sub, position)
		if send {
			s.write(items)
		}
		switch {
		case sub.over:
		case sub.begin != nil:
			more = more || sub.begin.wait(s.ctx)
		case retry > 0:
			more = pause(s.ctx, retry) == nil
		}
	}
}

func (s *Session) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// emit collects an item for the next flush.
func (s *Session) emit(i Item) {
	s.out = append(s.out, i)
	if len(s.out) >= pullEvents {
		s.flush()
	}
}

func (s *Session) flush() {
	out := s.out
	s.out = s.out[:0]
	s.write(out)
}

func (s *Session) write(items []Item) {
	if len(items) == 0 || s.over() {
		return
	}
	if err := s.sink.Write(items); err != nil {
		s.End(err)
		return
	}
	var d delivered
	d.add(items, s.opened)
	m := s.hub.metrics
	m.count(&d)
	for _, i := range items {
		switch {
		case i.Notice == nil:
		case i.Notice.Kind == Gap:
			m.notices.WithLabelValues("gap").Inc()
		case i.Notice.Kind == Reset:
			m.notices.WithLabelValues("reset").Inc()
		}
	}
}

// close gives back everything; the session has ended.
func (s *Session) close() {
	for _, sub := range s.subs {
		s.remove(sub)
	}
	s.mu.Lock()
	left := s.control
	s.control, s.dirty, s.views = nil, nil, nil
	reason := s.reason
	s.mu.Unlock()
	for _, o := range left {
		for _, opening := range []*Opening{o.open, o.replay} {
			if opening != nil {
				s.hub.drop(opening)
			}
		}
	}
	s.hub.mu.Lock()
	delete(s.hub.sessions, s)
	s.hub.mu.Unlock()
	s.hub.metrics.sessions.Add(-1)
	s.sink.Close(reason)
}
