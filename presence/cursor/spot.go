package cursor

import (
	"bytes"
	"time"
)

// spot is where one session's cursor is on one topic. Guarded by the pointer's mu.
type spot struct {
	pointer *Pointer
	topic   string
	shown   []byte    // what others see
	at      time.Time // since when
	newest  []byte    // what they will see when the interval ends; nil: nothing else
	moved   time.Time
	// timer fires at the end of the interval if there is something newest, else when the
	// cursor may have been idle for long enough; it is not put off by each move.
	timer *time.Timer
}

func (p *Pointer) newSpot(topic string) *spot {
	p.all.metrics.shown.Inc()
	return &spot{pointer: p, topic: topic}
}

func (s *spot) move(value []byte) {
	c, now := s.pointer.all, time.Now()
	s.moved = now
	rest := s.at.Add(c.throttle).Sub(now)
	switch {
	case s.newest != nil:
		s.newest = value // even if it is where it was: the timer finds out
	case bytes.Equal(value, s.shown):
	case s.shown == nil:
		s.show(value)
		s.timer = time.AfterFunc(c.idle, s.due)
	case rest <= 0:
		s.show(value)
	default:
		s.newest = value
		s.timer.Reset(rest)
	}
}

func (s *spot) show(value []byte) {
	c := s.pointer.all
	s.shown, s.at, s.newest = value, time.Now(), nil
	c.metrics.told.Inc()
	c.Post(s.topic, s.pointer.key, value)
}

// due is the timer's.
func (s *spot) due() {
	p := s.pointer
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spots[s.topic] != s {
		return // it has ended
	}
	if s.newest != nil {
		if early := time.Until(s.at.Add(p.all.throttle)); early > 0 {
			s.timer.Reset(early) // it was about to fire for the other reason
			return
		}
		if bytes.Equal(s.newest, s.shown) {
			s.newest = nil
		} else {
			s.show(s.newest)
		}
	}
	rest := time.Until(s.moved.Add(p.all.idle))
	if rest <= 0 {
		p.all.metrics.idle.Inc()
		s.end()
		return
	}
	s.timer.Reset(rest)
}

// end takes the cursor away.
func (s *spot) end() {
	p := s.pointer
	s.timer.Stop()
	delete(p.spots, s.topic)
	p.all.metrics.shown.Dec()
	p.all.Drop(s.topic, p.key)
}
