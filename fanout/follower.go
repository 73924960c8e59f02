package fanout

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pgcast/pgcast"
)

// ErrResume ends sessions whose place has to be found again in the log; their clients
// lose nothing by coming back.
var ErrResume = errors.New("the log has to be read again: resume")

// Source is the whole log in position order.
type Source interface {
	Position(ctx context.Context) (pgcast.Position, error)
	// Read gives events after a position, and tells by the same look whether the event at
	// that position has the id.
	Read(ctx context.Context, after pgcast.Position, id pgcast.ID, max int) (events []pgcast.Event, continues bool, err error)
	Knows(ctx context.Context, at pgcast.Position, id pgcast.ID) (bool, error)
}

// Follower reads the log once for the whole process and feeds the hub.
type Follower struct {
	source Source
	hub    *Hub
	opts   FollowerOptions
	wake   chan struct{}
	check  time.Duration // how often it makes sure that the log is still the same one

	mu       sync.Mutex
	caughtUp bool
}

// FollowerOptions; the zero value is usable.
type FollowerOptions struct {
	Batch  int           // events per read; default 500
	Safety time.Duration // looks at the log this often without being woken; default 250 ms
	// OnConnect is called before the log is first read, before it is read again after it
	// could not be, and now and then. An error counts as one of reading.
	OnConnect func(context.Context) error
	// Moved reports whether the source may lead to another database than when it was last
	// asked; then all that is done before the first read is done again. Nil: never.
	Moved  func() bool
	Logger *slog.Logger // default slog.Default()
}

const checkEvery = 5 * time.Second

// NewFollower makes a follower. opts may be nil.
func NewFollower(source Source, hub *Hub, opts *FollowerOptions) *Follower {
	f := &Follower{source: source, hub: hub, wake: make(chan struct{}, 1), check: checkEvery}
	if opts != nil {
		f.opts = *opts
	}
	if f.opts.Batch <= 0 {
		f.opts.Batch = 500
	}
	if f.opts.Safety <= 0 {
		f.opts.Safety = 250 * time.Millisecond
	}
	if f.opts.Logger == nil {
		f.opts.Logger = slog.Default()
	}
	return f
}

// wokenForNothing is how long nobody is listened to after a wake for which there was nothing
// to read.
const wokenForNothing = 10 * time.Millisecond

// Wake says that the log may have grown. It never blocks.
func (f *Follower) Wake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// CaughtUp reports whether the follower has read the log to its end and can still read it.
func (f *Follower) CaughtUp() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.caughtUp
}

func (f *Follower) setCaughtUp(v bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.caughtUp = v
}

// followed is how far a run of the follower is.
type followed struct {
	started bool
	last    pgcast.Event    // the newest one taken; only its position and id matter
	target  pgcast.Position // where the log stood when that was last asked
	checked time.Time
}

// Run follows the log until ctx ends, and returns only ctx's error: a database that
// cannot be read is read again.
func (f *Follower) Run(ctx context.Context) error {
	defer f.setCaughtUp(false)
	var at followed
	failed, woken := 0, false
	for {
		was := at.last.Position
		more, err := f.step(ctx, &at, failed > 0)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if failed++; failed == 1 {
				f.opts.Logger.Warn("follower: cannot read the log; will try until it can", "error", err)
				f.setCaughtUp(false)
			}
			d := min(20*time.Millisecond<<min(failed, 6), 400*time.Millisecond)
			if err := pause(ctx, d/2+rand.N(d)); err != nil {
				return err
			}
			continue
		}
		if failed > 0 {
			f.opts.Logger.Info("follower: reads the log again", "position", at.last.Position)
			failed = 0
		}
		if at.last.Position >= at.target {
			f.setCaughtUp(true)
		}
		woken = woken && at.last.Position == was
		if more {
			continue
		}
		// Who wakes us may be anybody: for nothing not more often than this.
		if woken {
			if err := pause(ctx, wokenForNothing); err != nil {
				return err
			}
		}
		t := time.NewTimer(f.opts.Safety)
		select {
		case <-ctx.Done():
		case <-f.wake:
			woken = true
		case <-t.C:
			woken = false
		}
		t.Stop()
	}
}

// step reads a batch. more tells that there may be another one.
func (f *Follower) step(ctx context.Context, at *followed, lost bool) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	moved := f.opts.Moved != nil && f.opts.Moved()
	if lost || moved || time.Since(at.checked) > f.check {
		if err := f.connect(ctx, at); err != nil {
			return false, err
		}
	}
	if f.hub.idle() {
		position, err := f.source.Position(ctx)
		if err != nil {
			return false, err
		}
		if position > at.last.Position {
			last, err := f.at(ctx, position)
			if err != nil {
				return false, err
			}
			if f.hub.skip(position) {
				f.hub.noteAge([]pgcast.Event{last})
				// Nobody to read it for. Whatever comes now wakes us again; to read on at once
				// would be to read without a pause while somebody writes.
				at.last = last
				return false, nil
			}
		}
	}
	f.hub.metrics.reads.WithLabelValues("follow").Inc()
	events, continues, err := f.source.Read(ctx, at.last.Position, at.last.ID, f.opts.Batch)
	if err != nil {
		return false, err
	}
	if len(events) == 0 {
		if at.target > at.last.Position {
			f.hub.pass(at.target)
			at.last = pgcast.Event{Position: at.target}
		}
		return false, nil
	}
	if at.last.ID != "" && !continues {
		return true, f.doubt(ctx, at)
	}
	f.hub.Append(events)
	e := events[len(events)-1]
	at.last = pgcast.Event{Position: e.Position, ID: e.ID}
	return true, nil
}

// doubt is called when what was read does not follow the newest event: another copy of the
// log answers, or that event has been trimmed.
func (f *Follower) doubt(ctx context.Context, at *followed) error {
	was := at.last
	if err := f.connect(ctx, at); err != nil {
		return err
	}
	if at.last.Position == was.Position && at.last.ID == was.ID {
		at.last.ID = ""
	}
	return nil
}

// connect finds out where the log stands, before it is first read, after it could not be,
// and now and then: behind a pooler another database can take over without any error.
// OnConnect comes last: what it lets in must find the hub started.
func (f *Follower) connect(ctx context.Context, at *followed) error {
	position, err := f.source.Position(ctx)
	if err != nil {
		return err
	}
	if at.started {
		if err := f.verify(ctx, position, &at.last); err != nil {
			return err
		}
	} else {
		if at.last, err = f.at(ctx, position); err != nil {
			return err
		}
		f.hub.start(position)
		at.started = true
	}
	at.target = position
	if f.opts.OnConnect != nil {
		if err := f.opts.OnConnect(ctx); err != nil {
			return err
		}
	}
	at.checked = time.Now()
	return nil
}

// verify makes sure that the log is still the one that was read before: it may be another
// copy of the database by now.
func (f *Follower) verify(ctx context.Context, position pgcast.Position, last *pgcast.Event) (err error) {
	known := position >= last.Position
	if known && last.ID != "" {
		if known, err = f.source.Knows(ctx, last.Position, last.ID); err != nil {
			return err
		}
	}
	if known {
		return nil
	}
	f.opts.Logger.Error("follower: the log is not the one read before; it was restored from another copy. All sessions resume",
		"was", last.Position, "is", position)
	f.hub.Restart(position, ErrResume)
	*last, err = f.at(ctx, position)
	return err
}

// at gives the position and id of the event at a position, by which the log is known
// again; only the position where it is trimmed.
func (f *Follower) at(ctx context.Context, position pgcast.Position) (pgcast.Event, error) {
	e := pgcast.Event{Position: position}
	if position == 0 {
		return e, nil
	}
	found, _, err := f.source.Read(ctx, position-1, "", 1)
	if err == nil && len(found) > 0 && found[0].Position == position {
		e.ID, e.CreatedAt = found[0].ID, found[0].CreatedAt
	}
	return e, err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
