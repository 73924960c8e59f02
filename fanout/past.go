package fanout

import "maps"

// Past tells which subscriptions, and replays, still send what was there before them, by topic
// or pattern: true for a snapshot, false for events. What they send once they have caught up is
// not past any more.
func (s *Session) Past() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.past)
}

// setPast notes that a subscription begins with what is past.
func (s *Session) setPast(sub *Subscription, snapshot bool) {
	sub.past = true
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.past == nil {
		s.past = map[string]bool{}
	}
	s.past[sub.feed.key] = snapshot
}

// caughtUp notes that it does not send that any more.
func (s *Session) caughtUp(sub *Subscription) {
	if !sub.past {
		return
	}
	sub.past = false
	s.mu.Lock()
	defer s.mu.Unlock()
	if delete(s.past, sub.feed.key); len(s.past) == 0 {
		s.past = nil
	}
}
