package presence

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pgcast/pgcast"
)

// Run shares the rosters with the other servers until ctx ends. Everything that is asked
// of the store is asked here, one thing after the other, so that what the store has of
// this server is always what an earlier moment had.
func (r *Rosters) Run(ctx context.Context) error {
	beat := time.NewTicker(r.opts.Beat)
	defer beat.Stop()
	alarm := time.NewTimer(r.opts.TTL)
	defer alarm.Stop()
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
			r.pulse()
		case <-alarm.C: // somebody may be gone, or what failed is to be tried again
		}
		if r.opts.Store == nil {
			continue
		}
		r.flush(ctx)
		if r.opts.Pace > 0 {
			wake, rested = nil, time.After(r.opts.Pace)
		}
		r.repair(ctx)
		r.catchUp(ctx)
		if r.wanted() || due {
			r.beat(ctx)
			r.repair(ctx)
			r.fade()
			r.catchUp(ctx)
		}
		alarm.Reset(r.nextLook())
	}
}

// wanted tells whether a beat is, now.
func (r *Rosters) wanted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	due := r.due || !time.Now().Before(r.lapse)
	r.due = false
	return due
}

// nextLook is when there may be something to do without anybody's asking.
func (r *Rosters) nextLook() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := time.Until(r.lapse) + 5*time.Millisecond
	if len(r.stale)+len(r.doubtful) > 0 {
		next = min(next, retryAfter/4)
	}
	return max(next, 5*time.Millisecond)
}

const (
	maxFlush   = 4096                   // changes of one round trip
	maxTopics  = 256                    // that are read or put right in one round trip
	maxRead    = 50_000                 // entries, as far as is known, that are read in one
	tooLong    = 500 * time.Millisecond // for a read that failed, to be tried in smaller parts
	retryAfter = time.Second            // when what has failed is tried again
)

// flush applies what is pending.
func (r *Rosters) flush(ctx context.Context) {
	for ctx.Err() == nil {
		work := r.pick()
		if len(work) == 0 {
			return
		}
		if lost := r.apply(ctx, work, false); len(lost) > 0 {
			r.apply(ctx, lost, true)
		}
	}
}

// pick takes what one round trip can of what is pending.
func (r *Rosters) pick() map[*roster][]*put {
	r.mu.Lock()
	defer r.mu.Unlock()
	work := map[*roster][]*put{}
	n := 0
	for picked := 0; n < len(r.pending) && picked < maxFlush; n++ {
		p := r.pending[n]
		if p.withdrawn {
			continue
		}
		p.taken = true
		if key := (place{p.roster.topic, p.Key}); r.queued[key] == p {
			delete(r.queued, key)
		}
		work[p.roster] = append(work[p.roster], p)
		picked++
	}
	clear(r.pending[:n])
	if r.pending = r.pending[n:]; len(r.pending) == 0 {
		r.pending = nil
	}
	return work
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
	applied := r.opts.Store.Apply(ctx, batches)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, ro := range order {
		puts, a := work[ro], applied[i]
		if a.Lost {
			if lost == nil {
				lost = map[*roster][]*put{}
			}
			lost[ro] = puts
			continue
		}
		if r.failed(a.Err) {
			ro.tellAt = time.Now().Add(retryAfter)
			if !ro.known {
				ro.understood(false)
			}
		} else if batches[i].Whole {
			r.repaired(ro)
		}
		r.metrics.changes.Add(float64(len(puts)))
		for j, p := range puts {
			r.settle(p, a.Err == nil && a.Full[len(a.Full)-len(puts)+j], a.Err)
		}
	}
	return lost
}

// alive gives the number of entries of each other server that has some and is not known to
// have lapsed.
func (ro *roster) alive() map[string]int {
	others, now := map[string]int{}, time.Now()
	for server, p := range ro.others {
		if len(p.entries) > 0 && (ro.blind || p.lapses.After(now)) {
			others[server] = len(p.entries)
		}
	}
	return others
}

// repair has the store told all that this server has where it may have something else.
func (r *Rosters) repair(ctx context.Context) {
	r.mu.Lock()
	var due []*roster
	for ro := range r.doubtful {
		if !ro.tellAt.After(time.Now()) {
			due = append(due, ro)
		}
	}
	r.mu.Unlock()
	for len(due) > 0 && ctx.Err() == nil {
		var batches []Batch
		r.mu.Lock()
		for size := 0; len(batches) < min(len(due), maxTopics) && size < maxFlush; {
			b := due[len(batches)].whole()
			size += len(b.Changes)
			batches = append(batches, b)
		}
		r.mu.Unlock()
		applied := r.opts.Store.Apply(ctx, batches)
		r.mu.Lock()
		for i, a := range applied {
			ro := due[i]
			if r.failed(a.Err) {
				ro.tellAt = time.Now().Add(retryAfter)
				continue
			}
			ro.refs++
			r.repaired(ro)
			r.release(ro) // if that was all it was kept for
		}
		r.mu.Unlock()
		due = due[len(batches):]
	}
}

// repaired notes that the store has what this server has.
func (r *Rosters) repaired(ro *roster) {
	ro.uncertain = false
	delete(r.doubtful, ro)
	r.metrics.repairs.Inc()
}

// catchUp reads what is stale.
func (r *Rosters) catchUp(ctx context.Context) {
	r.mu.Lock()
	var due []*roster
	for ro := range r.stale {
		if !ro.readAt.After(time.Now()) {
			// Should it be outdated while it is read, it is read again.
			ro.stale, ro.reading = false, true
			delete(r.stale, ro)
			due = append(due, ro)
		}
	}
	r.mu.Unlock()
	for len(due) > 0 {
		var topics []string
		for size := 0; len(topics) < min(len(due), maxTopics); {
			if size += due[len(topics)].weight(); len(topics) > 0 && size > maxRead {
				break
			}
			topics = append(topics, due[len(topics)].topic)
		}
		part := due[:len(topics)]
		due = due[len(topics):]
		began := time.Now()
		states := r.opts.Store.Read(ctx, topics)
		took := time.Since(began)
		r.mu.Lock()
		for i, ro := range part {
			ro.reading = false
			ro.heavy = states[i].Err != nil && took > tooLong
			if r.failed(states[i].Err) {
				r.outdated(ro, time.Now().Add(retryAfter))
				ro.blind = true
				ro.understood(false) // what is known is shown
			} else {
				r.take(ro, states[i])
			}
		}
		r.mu.Unlock()
	}
}

// beat says that this server is alive, and finds out what the store has lost, what was
// missed and who is gone.
func (r *Rosters) beat(ctx context.Context) {
	r.mu.Lock()
	var rosters []*roster
	var holds []Hold
	for topic, ro := range r.rosters {
		ro.readAt, ro.tellAt = time.Time{}, time.Time{}
		rosters, holds = append(rosters, ro), append(holds, Hold{topic, len(ro.mine)})
	}
	// Whatever is learned meanwhile may only bring it forward.
	r.lapse = time.Now().Add(r.opts.TTL)
	r.mu.Unlock()
	for len(holds) > 0 {
		n := min(len(holds), maxHolds)
		standings := r.opts.Store.Beat(ctx, holds[:n])
		r.mu.Lock()
		for i, s := range standings {
			r.stands(rosters[i], s)
		}
		r.mu.Unlock()
		holds, rosters = holds[n:], rosters[n:]
	}
}

// maxHolds bounds the topics of a beat that go in one round trip; a server with more needs
// more of them.
const maxHolds = 4096

// stands takes what the store has answered to a beat.
func (r *Rosters) stands(ro *roster, s Standing) {
	now := time.Now()
	if r.failed(s.Err) {
		ro.certain, ro.blind = false, true
		r.watch(now.Add(retryAfter))
		return
	}
	if s.Version != ro.version || !ro.certain {
		r.outdated(ro, time.Time{})
	}
	if s.Held != len(ro.mine) {
		r.doubt(ro)
	}
	for server, p := range ro.others {
		if lease, there := s.Leases[server]; there {
			p.lapses = now.Add(lease)
		} else if ro.blind {
			// The store has not been there for a while, and the other may not have found it yet
			// again: it has the time until its next beat.
			p.lapses = later(p.lapses, now.Add((r.opts.TTL+r.opts.Beat)/2))
		}
	}
	ro.blind = false
	r.metrics.buried.Add(float64(ro.bury(now)))
	for _, p := range ro.others {
		r.watch(p.lapses)
	}
}

// fade takes away what other servers have not kept alive though it may be that the store
// cannot be asked: what changes all the time is worth nothing when it is old.
func (r *Rosters) fade() {
	if r.opts.Pace == 0 {
		return
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ro := range r.rosters {
		r.metrics.buried.Add(float64(ro.bury(now)))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (ro *roster) whole() Batch {
	b := Batch{Topic: ro.topic, Whole: true}
	for key, value := range ro.mine {
		b.Changes = append(b.Changes, Change{Key: key, Value: value})
	}
	return b
}

// failed tells whether the store has, and counts it. That it cannot be reached is logged by
// the one that opens and closes the circuit; what else it says, here, now and then.
func (r *Rosters) failed(err error) bool {
	if err == nil {
		return false
	}
	r.metrics.failures.Inc()
	if !errors.Is(err, pgcast.ErrUnavailable) && !errors.Is(err, context.Canceled) && time.Since(r.warned) > time.Minute {
		r.warned = time.Now()
		r.opts.Logger.Warn("live state cannot be shared", "kind", r.opts.Kind, "error", err)
	}
	return true
}

// Depart tells the others that this server is going, and that its sessions may come to one
// of them within grace; nobody is announced as gone before that. Run must have ended.
func (r *Rosters) Depart(ctx context.Context, grace time.Duration) error {
	if r.opts.Store == nil {
		return nil
	}
	r.flush(ctx) // who meant to go has gone
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
	var errs []error
	for part := range slices.Chunk(batches, maxTopics) {
		for _, a := range r.opts.Store.Apply(ctx, part) {
			errs = append(errs, a.Err)
		}
	}
	return errors.Join(errs...)
}
