package fanout

// replay sends events of a topic once more; see Replay. It goes by a place of its own,
// beside that of the subscription there may be.
func (s *Session) replay(o *Opening) {
	defer s.hub.release(o.feed)
	s.flush()
	s.read = max(s.read, o.at)
	position, err := s.hub.wait(s.ctx, s.read)
	if err != nil {
		return // the session has ended
	}
	// Up to one position both: what is sent live behind it is what was not replayed.
	live := s.subs[o.feed.key]
	if live != nil {
		s.bring(live, position, true)
	}
	truncated := o.reset
	if !truncated {
		again := &Subscription{session: s, feed: o.feed, place: o.place, own: o.req.Own,
			lens: o.req.Lens, sight: s.hub.sights.acquire(o.feed.key, o.req.Lens)}
		defer s.hub.sights.release(o.feed.key, o.req.Lens)
		if live == nil || !live.past {
			s.setPast(again, false)
			defer s.caughtUp(again)
		}
		for more := true; more && !s.over(); {
			if s.hub.stale(again) { // which nobody else looks at: it is no member
				s.End(ErrResume)
				return
			}
			items, m, retry := s.pull(s.ctx, again, position)
			more = m
			kept := items[:0]
			for _, i := range items {
				if i.Notice != nil {
					truncated = true // a gap
					continue
				}
				i.Replay = o.req.Ref
				kept = append(kept, i)
			}
			s.write(kept)
			if retry > 0 {
				more = pause(s.ctx, retry) == nil
			}
		}
		s.setBehind(again, false)
		truncated = truncated || s.isForbidden(o.feed.key) // meanwhile
	}
	s.emit(Item{Notice: &Notice{Kind: Replayed, Topic: o.feed.key, Ref: o.req.Ref, Truncated: truncated}})
}
