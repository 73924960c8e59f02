package presence

import (
	"context"
	"time"
)

// Run shares the rosters with the other servers until ctx ends. Everything that is asked
// of the store is asked here, one thing after the other, so that what the store has of
// this server is always what an earlier moment had.
func (r *Rosters) Run(ctx context.Context) error {
	if r.opts.Store == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	beat := time.NewTicker(r.opts.Beat)
	defer beat.Stop()
	lapse := time.NewTimer(r.opts.TTL)
	defer lapse.Stop()
	wake, rested := r.wake, (<-chan time.Time)(nil)
	for {
		due := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		case <-rested:
			wake, rested = r.wake, nil
			continue
		case <-beat.C:
			due = true
		case <-lapse.C:
			due = true
		}
		r.flush(ctx)
		if r.opts.Pace > 0 {
			wake, rested = nil, time.After(r.opts.Pace)
		}
		r.catchUp(ctx)
		if r.wanted() || due {
			r.beat(ctx)
			r.catchUp(ctx)
		}
		lapse.Reset(r.nextLapse())
	}
}

func (r *Rosters) wanted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	due := r.due
	r.due = false
	return due
}

// maxFlush bounds the changes of one round trip.
const maxFlush = 4096

// flush applies what is pending.
func (r *Rosters) flush(ctx context.Context) {
	for ctx.Err() == nil {
		r.mu.Lock()
		n := min(len(r.pending), maxFlush)
		puts := r.pending[:n:n]
		if r.pending = r.pending[n:]; len(r.pending) == 0 {
			r.pending = nil
		}
		work := map[*roster][]*put{}
		for _, p := range puts {
			if key := (place{p.roster.topic, p.Key}); r.queued[key] == p {
				delete(r.queued, key)
			}
			work[p.roster] = append(work[p.roster], p)
		}
		r.mu.Unlock()
		if n == 0 {
			return
		}
		if lost := r.apply(ctx, work, false); len(lost) > 0 {
			r.apply(ctx, lost, true)
		}
	}
}

// apply has the store make changes and settles them. Where the store has lost what this
// server had, nothing is settled, and what is left comes back: it must be given whole.
func (r *Rosters) apply(ctx context.Context, work map[*roster][]*put, whole bool) (lost map[*roster][]*put) {
	r.mu.Lock()
	var batches []Batch
	var order []*roster
	for ro, puts := range work {
		b := Batch{Topic: ro.topic, Held: len(ro.mine)}
		if whole || ro.uncertain {
			b = ro.whole()
		}
		for _, p := range puts {
			b.Changes = append(b.Changes, p.Change)
			if p.Max > 0 && b.Others == nil {
				b.Others = ro.alive()
			}
		}
		batches, order = append(batches, b), append(order, ro)
	}
	r.mu.Unlock()
	full, err := r.opts.Store.Apply(ctx, batches)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed(err)
	for i, ro := range order {
		puts := work[ro]
		if err != nil && !ro.known {
			ro.understood(false)
		}
		if err == nil && full[i] == nil {
			if lost == nil {
				lost = map[*roster][]*put{}
			}
			lost[ro] = puts
			continue
		}
		if err == nil && batches[i].Whole {
			ro.uncertain = false
			r.metrics.repairs.Inc()
		}
		r.metrics.changes.Add(float64(len(puts)))
		for j, p := range puts {
			r.settle(p, err == nil && full[i][len(full[i])-len(puts)+j], err)
		}
	}
	return lost
}

// alive gives the number of entries of each other server that has some and has not lapsed.
func (ro *roster) alive() map[string]int {
	others, now := map[string]int{}, time.Now()
	for server, p := range ro.others {
		if len(p.entries) > 0 && p.lapses.After(now) {
			others[server] = len(p.entries)
		}
	}
	return others
}

// catchUp reads what is stale.
func (r *Rosters) catchUp(ctx context.Context) {
	r.mu.Lock()
	var stale []*roster
	var topics []string
	for topic, ro := range r.rosters {
		if ro.stale {
			stale, topics = append(stale, ro), append(topics, topic)
		}
	}
	r.mu.Unlock()
	if len(topics) == 0 {
		return
	}
	states, err := r.opts.Store.Read(ctx, topics)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed(err)
	for i, ro := range stale {
		if err != nil {
			ro.understood(false) // what is known is shown; it is read with the next beat
			continue
		}
		r.take(ro, states[i])
	}
}

// beat says that this server is alive, and finds out what the store has lost, what was
// missed and who is gone.
func (r *Rosters) beat(ctx context.Context) {
	r.mu.Lock()
	var rosters []*roster
	var holds []Hold
	var repairs []Batch
	var repaired []*roster
	for topic, ro := range r.rosters {
		if ro.uncertain {
			repairs, repaired = append(repairs, ro.whole()), append(repaired, ro)
		}
		rosters, holds = append(rosters, ro), append(holds, Hold{topic, len(ro.mine)})
	}
	r.mu.Unlock()
	if len(holds) == 0 || !r.repair(ctx, repairs, repaired) {
		return
	}
	standings, err := r.opts.Store.Beat(ctx, holds)
	now := time.Now()
	r.mu.Lock()
	r.failed(err)
	repairs, repaired = nil, nil
	for i, ro := range rosters {
		if err != nil {
			ro.certain = false
			continue
		}
		s := standings[i]
		ro.stale = ro.stale || s.Version != ro.version || !ro.certain
		if s.Held != len(ro.mine) {
			repairs, repaired = append(repairs, ro.whole()), append(repaired, ro)
		}
		for server, lease := range s.Leases {
			if p := ro.others[server]; p != nil {
				p.lapses = now.Add(lease)
			}
		}
		r.metrics.buried.Add(float64(ro.bury(now)))
	}
	r.mu.Unlock()
	r.repair(ctx, repairs, repaired)
}

// repair has the store told all that this server has, where it may have something else.
func (r *Rosters) repair(ctx context.Context, batches []Batch, rosters []*roster) bool {
	if len(batches) == 0 {
		return true
	}
	_, err := r.opts.Store.Apply(ctx, batches)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed(err)
	if err != nil {
		return false
	}
	r.metrics.repairs.Add(float64(len(batches)))
	for _, ro := range rosters {
		ro.uncertain = false
		ro.refs++
		r.release(ro) // if that was all it was kept for
	}
	return true
}

func (ro *roster) whole() Batch {
	b := Batch{Topic: ro.topic, Whole: true}
	for key, value := range ro.mine {
		b.Changes = append(b.Changes, Change{Key: key, Value: value})
	}
	return b
}

// retryAfter is how soon the store is told again what it may not have heard.
const retryAfter = time.Second

// nextLapse is when the first of the other servers may be gone, or something is to be
// tried again.
func (r *Rosters) nextLapse() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := time.Now().Add(r.opts.TTL)
	for _, ro := range r.rosters {
		if again := time.Now().Add(retryAfter); ro.uncertain && again.Before(first) {
			first = again
		}
		for _, p := range ro.others {
			if p.lapses.Before(first) {
				first = p.lapses
			}
		}
	}
	// Not at once: while the store cannot be asked nobody is buried, and it is asked again.
	return max(time.Until(first)+5*time.Millisecond, min(250*time.Millisecond, r.opts.Beat))
}

// failed notes whether the store answers. The one that opens and closes the circuit logs it.
func (r *Rosters) failed(err error) {
	if err != nil {
		r.metrics.failures.Inc()
	}
}

// Depart tells the others that this server is going, and that its sessions may come to one
// of them within grace; nobody is announced as gone before that. Run must have ended.
func (r *Rosters) Depart(ctx context.Context, grace time.Duration) error {
	if r.opts.Store == nil {
		return nil
	}
	r.mu.Lock()
	var batches []Batch
	for _, ro := range r.rosters {
		if len(ro.mine) > 0 {
			b := ro.whole()
			b.Lease = max(grace, time.Millisecond)
			batches = append(batches, b)
		}
	}
	r.mu.Unlock()
	if len(batches) == 0 {
		return nil
	}
	_, err := r.opts.Store.Apply(ctx, batches)
	return err
}
