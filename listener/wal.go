package listener

import (
	"context"
	"sync"
	"time"
)

const (
	// For so long after it has begun to follow, it polls as well: of transactions that were
	// about to become visible in that moment it is not told.
	settling = time.Second
	// More transactions than may be about to become visible.
	mostUnseen = 1 << 16
)

// WAL wakes by what is decoded from the WAL: no writer ever notifies, nobody holds ASLEEP.
// While the WAL is not followed it polls. (To begin, Postgres waits until the transactions
// open at that moment have ended.)
//
// A transaction is decoded once its commit is on disk, which may be before anybody can see it:
// long before, if it waits for a synchronous standby. So each one that was told of is kept
// until a snapshot on the line shows it; only then is it worth a look at the log.
type WAL struct {
	nudge
	line    *Line
	commits *Commits
	told    chan struct{} // there may be something fresh

	mu      sync.Mutex // guards what follows
	follows time.Time  // since when; zero: it does not
	refused error      // why the WAL cannot be followed; nil: it can, or that is not known yet
	fresh   []uint32   // transactions told of since the last Wait
	tooMany bool       // some more
	// Owned by Wait: transactions nobody can see yet, the next poll, the beginning after which
	// it has settled, and, if something was found that nobody told of, how often the stream
	// had been heard then.
	unseen  []uint32
	delay   time.Duration
	settled time.Time
	doubt   bool
	heard   int64
}

// NewWAL makes the waker of a line, which follows a publication of inserts. It needs Run.
// follows, if not nil, is called from Run's goroutine when it begins to follow.
func NewWAL(line *Line, url, publication string, follows func()) *WAL {
	w := &WAL{line: line, delay: shortest, told: make(chan struct{}, 1)}
	w.commits = NewCommits(url, publication, CommitsOptions{
		Committed: w.committed,
		Follows: func() {
			w.state(time.Now(), nil)
			if follows != nil {
				follows()
			}
		},
		Lost: func(err error, impossible bool) {
			if !impossible {
				err = w.Refused() // as before
			}
			w.state(time.Time{}, err)
		},
	})
	return w
}

// Run follows the WAL until ctx ends.
func (w *WAL) Run(ctx context.Context) error { return w.commits.Run(ctx) }

// Refused tells why the WAL cannot be followed, and nothing else will help; nil if it is
// followed, or may soon be. It is tried again all the time.
func (w *WAL) Refused() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refused
}

// Follows tells whether the WAL is followed now.
func (w *WAL) Follows() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.follows.IsZero()
}

func (w *WAL) state(follows time.Time, refused error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.follows, w.refused = follows, refused
	w.wake()
}

func (w *WAL) committed(xid uint32, _ string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.fresh) < mostUnseen {
		w.fresh = append(w.fresh, xid)
	} else {
		w.tooMany = true
	}
	w.wake()
}

func (w *WAL) wake() {
	select {
	case w.told <- struct{}{}:
	default:
	}
}

// take takes what was told. polls: it does not follow, or not for long enough.
func (w *WAL) take() (polls bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tooMany {
		w.follows = time.Now() // nobody remembers them, so for a while it polls as well
	}
	w.unseen = append(w.unseen, w.fresh...)
	w.fresh, w.tooMany = nil, false
	switch {
	case w.follows.IsZero():
		w.unseen = nil // found by polling
		return true
	case time.Since(w.follows) < settling:
		return true
	case w.settled != w.follows: // what the last look did not see yet
		w.settled = w.follows
		return true
	}
	return false
}

// Wait returns when the log may have grown; the arguments are as for Bell. An error means that
// the line is dead.
func (w *WAL) Wait(ctx context.Context, busy bool, look Look) (Source, error) {
	if busy {
		w.delay = shortest
	}
	safety, slow := time.Now().Add(safetyEvery), 0
	for {
		if w.taken() {
			return SourceCapture, nil
		}
		polls := w.take()
		if seen, err := w.see(ctx); seen || err != nil {
			return SourceWAL, err
		}
		if w.doubt && w.commits.heard.Load() != w.heard {
			w.doubt = false
		}
		if polls || w.doubt {
			return w.poll(ctx)
		}
		if time.Until(safety) <= 0 {
			// As in a sleep by the bell: it may be the line that carries nothing.
			began := time.Now()
			bounded, cancel := context.WithTimeout(ctx, hearing)
			work, err := look(bounded)
			cancel()
			if err != nil {
				return "", err
			}
			if work {
				return w.untold(ctx)
			}
			if slow++; time.Since(began) < slowLook {
				slow = 0
			}
			if slow > 1 {
				return SourcePoll, nil // the caller can do something about that
			}
			safety = time.Now().Add(safetyEvery)
		}
		d := time.Until(safety)
		if len(w.unseen) > 0 {
			d = min(d, w.next())
		}
		if err := w.sleep(ctx, d); err != nil {
			return "", err
		}
	}
}

// see forgets the transactions that are visible by now; seen: there were some.
func (w *WAL) see(ctx context.Context) (seen bool, err error) {
	if len(w.unseen) == 0 {
		return false, nil
	}
	now, err := w.line.snapshot(ctx)
	if err != nil {
		return false, err
	}
	left := w.unseen[:0]
	for _, xid := range w.unseen {
		if !now.sees(xid) {
			left = append(left, xid)
		}
	}
	seen = len(left) < len(w.unseen)
	w.unseen = left
	return seen, nil
}

// untold is called when a look has found something. It may be about to be told; else the
// stream is in doubt until it has said something. (It is not at fault where a commit did
// not wait for the disk: what is not there yet is not decoded either.)
func (w *WAL) untold(ctx context.Context) (Source, error) {
	for end := time.Now().Add(overtaken); time.Now().Before(end); {
		w.take()
		if seen, err := w.see(ctx); seen || err != nil {
			return SourceWAL, err
		}
		if err := w.sleep(ctx, min(time.Until(end), w.next())); err != nil {
			return "", err
		}
	}
	w.doubt, w.heard = true, w.commits.heard.Load()
	w.commits.ask()
	return SourceSafety, nil
}

// next is how long to wait where nobody will tell.
func (w *WAL) next() time.Duration {
	d := w.delay
	w.delay = min(2*w.delay, 20*time.Millisecond)
	return d
}

// poll pauses, at most until something is told.
func (w *WAL) poll(ctx context.Context) (Source, error) {
	if err := w.sleep(ctx, w.next()); err != nil {
		return "", err
	}
	if w.taken() {
		return SourceCapture, nil
	}
	return SourcePoll, nil
}

// sleep waits for d, at most until something is told or a nudge.
func (w *WAL) sleep(ctx context.Context, d time.Duration) error {
	wait, done := w.during(ctx)
	defer done()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-wait.Done():
	case <-t.C:
	case <-w.told:
	}
	return ctx.Err()
}
