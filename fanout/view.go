package fanout

// View is something a session shows that is no log: live state, of which only what is so
// now counts. Pull gives the texts that bring the client up to date; the session's pump
// calls it, so a slow client is sent less often, not more at a time.
type View interface {
	Pull() [][]byte
}

// Pull has a view pulled as soon as the pump comes to it. It never waits, and being asked
// many times before that is the same as once.
func (s *Session) Pull(v View) {
	s.mu.Lock()
	if _, queued := s.views[v]; queued || s.ended {
		s.mu.Unlock()
		return
	}
	if s.views == nil {
		s.views = map[View]struct{}{}
	}
	s.views[v] = struct{}{}
	start := !s.running
	s.running = true
	s.mu.Unlock()
	if start {
		go s.pump()
	}
}

// Forget is for a view that is over: it is not kept until the pump comes to it, which may
// be never. The pump may be at it just now.
func (s *Session) Forget(v View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.views, v)
}

// Offer is Send for what may be lost: where Send would wait it does nothing, and false
// says so.
func (s *Session) Offer(text []byte) bool {
	s.mu.Lock()
	if s.ended || len(s.control) >= maxControl/2 || s.bytes > maxControlBytes/2 {
		s.mu.Unlock()
		return false
	}
	s.queue(op{raw: text})
	return true
}
