package listener

import (
	"context"
	"time"
)

// Source says what ended a Wait.
type Source string

// The sources.
const (
	SourceBell    Source = "bell"    // a writer rang
	SourceLook    Source = "look"    // the last look before sleeping found something
	SourceSafety  Source = "safety"  // the safety look found something that nothing told of
	SourcePoll    Source = "poll"    // awake: time to look again
	SourceCapture Source = "capture" // a Nudge: this process has added to the log
	SourceWAL     Source = "wal"     // a commit was decoded from the WAL
)

// Look asks whether the log has grown, in a statement of its own.
type Look func(context.Context) (bool, error)

const (
	shortest = time.Millisecond
	// What nobody rings for, and a line that carries nothing, is found this soon. A look costs
	// Postgres a tenth of a millisecond.
	safetyEvery = 150 * time.Millisecond
	// A look may be answered before the bell for what it found, which is then under way.
	overtaken  = 20 * time.Millisecond
	slowLook   = 20 * time.Millisecond // twice in a row, and something is in the looks' way
	askEvery   = time.Second           // whether there is something that keeps writers from ringing
	proveEvery = 10 * time.Second
	// For this many looks after work the sequencer stays awake: under load the next
	// event is nearer than the price of one NOTIFY.
	linger = 3
)

// Bell is the sequencer's side of the doorbell (design in docs/architecture.md, proved
// by the model in this package's tests). The order of its steps matters: take ASLEEP on
// the listening connection, drain that connection, look once more, and only then wait.
// A writer whose transaction was open when ASLEEP was tried makes the try fail; one that
// came later is refused the shared lock, and rings.
type Bell struct {
	nudge
	line    *Line
	idle    int           // looks in a row that found nothing
	delay   time.Duration // of the next poll
	proved  time.Time     // when our own bell last came back; zero: maybe it does not
	rang    time.Time     // in doubt: when we rang it
	stalled bool          // commits that notify were held up when that was
	asked   time.Time     // last asked
	awake   func()        // counts tries refused by a writer; may be nil
}

// NewBell makes the waker on a line that listens on ChannelBell and has proved it.
// refused, if not nil, is called each time an open writer keeps the sequencer awake.
func NewBell(line *Line, refused func()) *Bell {
	return &Bell{line: line, delay: shortest, proved: time.Now(), awake: refused}
}

// Doubt has the bell hear itself before it is trusted, and poll until then. For a line that
// listens and has not proved it.
func (b *Bell) Doubt() { b.proved, b.rang = time.Time{}, time.Time{} }

// Rise is the statement that gives ASLEEP back.
const Rise = "select pg_advisory_unlock(1885823841, 1)"

// Wait returns when the log may have grown. busy says that the caller found something
// since the last Wait. An error means that the line is dead or deaf. After SourceBell
// ASLEEP is still held: the caller must give it back with Rise, which can go out together
// with what it does next on the line. Until then writers ring.
func (b *Bell) Wait(ctx context.Context, busy bool, look Look) (Source, error) {
	if busy {
		b.idle, b.delay = 0, shortest
	}
	if b.taken() {
		return SourceCapture, nil
	}
	if b.idle++; b.idle <= linger {
		return b.poll(ctx)
	}
	// Where the writers do not ring, sleeping would leave every event to the safety look.
	if rings, err := b.line.Rings(ctx); err != nil {
		return "", err
	} else if !rings {
		return b.poll(ctx)
	}
	if b.stalled {
		if stalled, err := b.stall(ctx); stalled || err != nil {
			if err != nil {
				return "", err
			}
			return b.poll(ctx)
		}
	}
	if b.proved.IsZero() {
		return b.doubt(ctx)
	}
	asleep, err := b.line.TryLock(ctx, Asleep, false)
	if err != nil {
		return "", err
	}
	if !asleep {
		if b.awake != nil {
			b.awake()
		}
		return b.poll(ctx)
	}
	source, err := b.sleep(ctx, look)
	if err != nil {
		return "", err
	}
	b.delay = shortest
	if source == SourceBell {
		return source, nil
	}
	return source, b.line.Unlock(ctx, Asleep, false)
}

// sleep runs with ASLEEP held. Bells that arrive during the last look are buffered by
// the connection and end the wait at once.
func (b *Bell) sleep(ctx context.Context, look Look) (Source, error) {
	b.line.Drain()
	if work, err := look(ctx); work || err != nil {
		return SourceLook, err
	}
	rang, asked, slow := time.Time{}, time.Now(), 0
	for {
		heard, own, err := b.hear(ctx, safetyEvery)
		switch {
		case err != nil:
			return "", err
		case heard && !own:
			return SourceBell, nil
		case b.taken():
			return SourceCapture, nil
		case heard:
			b.proved, rang = time.Now(), time.Time{}
			continue
		}
		// The look before found nothing and was quick: if this one is not, the line carries
		// nothing, and nobody else may be there to tell.
		bounded, cancel := context.WithTimeout(ctx, hearing)
		began := time.Now()
		work, err := look(bounded)
		cancel()
		if err != nil {
			return "", err
		}
		if work {
			// Only if there is no other's bell is it certain that it failed: our own may
			// have come before it.
			for end := time.Now().Add(overtaken); time.Now().Before(end); {
				heard, own, err := b.line.Wait(ctx, time.Until(end))
				if err != nil {
					return "", err
				}
				if heard && !own {
					return SourceBell, nil
				}
			}
			b.proved = time.Time{} // nobody rang for it
			return SourceSafety, nil
		}
		// It walks over what a transaction still open has written. The caller can keep the next
		// ones off that, but only awake.
		if slow++; time.Since(began) < slowLook {
			slow = 0
		}
		if slow > 1 {
			// Whatever comes now is found by polling, bell or not: so that a line that hears
			// nothing does not go unnoticed until the next proof, it is due before the next sleep.
			b.proved = time.Time{}
			return SourcePoll, nil
		}
		if time.Since(asked) >= askEvery {
			asked = time.Now()
			if rings, err := b.line.Rings(ctx); !rings || err != nil {
				return SourcePoll, err
			}
			if stalled, err := b.stall(ctx); stalled || err != nil {
				return SourcePoll, err // awake, nobody needs to ring
			}
		}
		switch {
		case !rang.IsZero() && time.Since(rang) > hearing:
			return "", ErrDeaf
		case rang.IsZero() && time.Since(b.proved) > proveEvery:
			if err := b.line.Ring(ctx, ChannelBell); err != nil {
				return "", err
			}
			rang = time.Now()
		}
	}
}

// doubt rings, and polls on until our own bell has come back.
func (b *Bell) doubt(ctx context.Context) (Source, error) {
	if b.rang.IsZero() {
		if err := b.line.Ring(ctx, ChannelBell); err != nil {
			return "", err
		}
		b.rang = time.Now()
	}
	_, own, err := b.hear(ctx, b.delay)
	switch {
	case err != nil:
		return "", err
	case own:
		b.proved, b.rang = time.Now(), time.Time{}
	case time.Since(b.rang) > hearing:
		return "", ErrDeaf
	}
	b.delay = min(2*b.delay, 20*time.Millisecond)
	if b.taken() {
		return SourceCapture, nil
	}
	return SourcePoll, nil
}

// hear waits for a bell, at most until a nudge: then it has heard nothing.
func (b *Bell) hear(ctx context.Context, d time.Duration) (heard, own bool, err error) {
	wait, done := b.during(ctx)
	defer done()
	heard, own, err = b.line.Wait(wait, d)
	if err != nil && wait.Err() != nil && ctx.Err() == nil {
		err = nil // if the line has died as well, its next statement tells
	}
	return heard, own, err
}

// stall asks, once a second at most, whether whoever rings would be held up.
func (b *Bell) stall(ctx context.Context) (bool, error) {
	if b.stalled && time.Since(b.asked) < askEvery {
		return true, nil
	}
	stalled, err := b.line.Stalled(ctx)
	if err != nil {
		return false, err
	}
	b.stalled, b.asked = stalled, time.Now()
	return stalled, nil
}

func (b *Bell) poll(ctx context.Context) (Source, error) {
	source, err := b.pause(ctx, b.delay)
	b.delay = min(2*b.delay, 20*time.Millisecond)
	return source, err
}

// Poll wakes by time alone, for servers on which capture never rings and connections on
// which no bell is heard.
type Poll struct {
	nudge
	longest time.Duration
	delay   time.Duration
}

// NewPoll makes a waker that backs off from 1 ms to longest while nothing is found.
func NewPoll(longest time.Duration) *Poll { return &Poll{longest: longest, delay: shortest} }

// Wait pauses; the arguments are as for Bell.
func (p *Poll) Wait(ctx context.Context, busy bool, _ Look) (Source, error) {
	if busy {
		p.delay = shortest
	}
	source, err := p.pause(ctx, p.delay)
	p.delay = min(2*p.delay, p.longest)
	return source, err
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
