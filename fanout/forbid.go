package fanout

// Forbid ends subscriptions, by topic or pattern, to which there is no right any more, also
// those that are being opened. Nothing of them is pulled from here on, whatever the session is
// waiting for or has still to answer, and a Denied notice tells of each there was. It never
// waits.
func (s *Session) Forbid(names ...string) {
	if len(names) == 0 {
		return
	}
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	if s.forbidden == nil {
		s.forbidden = map[string]int{}
	}
	for _, name := range names {
		s.forbidden[name]++
	}
	s.barred.Store(true)
	var left []*Opening
	for i := range s.control {
		before := s.control[i].size()
		switch o := s.control[i]; {
		case o.open != nil && s.forbidden[o.open.feed.key] > 0:
			left, s.control[i] = append(left, o.open), op{notice: o.open.denied()}
		case o.replay != nil && s.forbidden[o.replay.feed.key] > 0:
			r := o.replay
			left, s.control[i] = append(left, r), op{notice: &Notice{Kind: Replayed, Topic: r.feed.key, Ref: r.req.Ref, Truncated: true}}
		}
		s.bytes += s.control[i].size() - before
	}
	// Ahead of the rest: what is asked for from now on has been allowed again.
	s.control = append([]op{{forbid: names}}, s.control...)
	start := !s.running
	s.running = true
	s.mu.Unlock()
	for _, o := range left {
		s.hub.drop(o)
	}
	if start {
		go s.pump()
	}
}

// denied is the answer to an opening that came too late.
func (o *Opening) denied() *Notice {
	return &Notice{Kind: Denied, Topic: o.feed.key, Ref: o.req.Ref, Reason: reasonForbidden}
}

func (s *Session) isForbidden(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forbidden[name] > 0
}

// bar stops the subscriptions that are forbidden where they are, from where on others of the
// session that select the same events send them, and tells whether sub is one.
func (s *Session) bar(sub *Subscription) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.forbidden {
		if there := s.subs[name]; there != nil {
			there.over = true
		}
	}
	return s.forbidden[sub.feed.key] > 0
}

// forbid ends what Forbid was told of.
func (s *Session) forbid(names []string) {
	for _, name := range names {
		if sub := s.subs[name]; sub != nil {
			sub.over = true
			s.settle()
			s.remove(s.subs[name])
			s.emit(Item{Notice: &Notice{Kind: Denied, Topic: name, Reason: reasonForbidden}})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		if s.forbidden[name]--; s.forbidden[name] == 0 {
			delete(s.forbidden, name)
		}
	}
	s.barred.Store(len(s.forbidden) > 0)
}
