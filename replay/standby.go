package replay

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/listener"
)

// standBy waits until this line gets the Lead lock, and meanwhile passes on what the
// sequencing server rings. A blocking lock would be simpler, but its statement would
// hold a snapshot, and with it vacuum, for as long as it waits. With WakeWAL nobody rings, and
// what is passed on is decoded from the WAL. listens: the line hears the doorbell, before and after.
func (s *Sequencer) standBy(ctx context.Context, line *listener.Line, listens bool) error {
	if got, err := line.TryLock(ctx, listener.Lead, false); got || err != nil {
		return err
	}
	rings := s.opts.Wake != WakeWAL
	if listens {
		if err := line.Unlisten(ctx, listener.ChannelBell); err != nil {
			return err
		}
	}
	if rings {
		if err := line.Listen(ctx, listener.ChannelLog); err != nil {
			return err
		}
	} else {
		defer s.followSteps(ctx)()
	}
	s.opts.Logger.Info("sequencer: standing by, another server sequences")
	following, tried, looked := false, time.Now(), time.Now() // with WakeWAL that is for people: doctor counts who follows
	for {
		if !following {
			// Refused in a moment in which the sequencing server asks who follows.
			var err error
			if following, err = line.TryLock(ctx, listener.Follow, true); err != nil {
				return err
			}
			if rings {
				s.opts.OnGrown() // nobody rang for whatever came before this
			}
		}
		heard, _, err := line.Wait(ctx, contendEvery/2+rand.N(contendEvery/2))
		if err != nil {
			return err
		}
		if heard {
			s.opts.OnGrown()
			if time.Since(tried) < contendEvery {
				continue
			}
		}
		tried = time.Now()
		got, err := line.TryLock(ctx, listener.Lead, false)
		if err != nil {
			return err
		}
		if got {
			break
		}
		if time.Since(looked) > evictEvery {
			looked = time.Now()
			if err := s.evict(ctx, line); err != nil {
				return err
			}
		}
	}
	if following {
		if err := line.Unlock(ctx, listener.Follow, true); err != nil {
			return err
		}
	}
	if !rings {
		return nil
	}
	if err := line.Unlisten(ctx, listener.ChannelLog); err != nil || !listens {
		return err
	}
	return line.Listen(ctx, listener.ChannelBell)
}

// followSteps has OnGrown called for each step that is decoded from the WAL, until the
// function it returns is called. Where the WAL cannot be followed, nobody calls it: the log is
// read now and then all the same.
func (s *Sequencer) followSteps(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	newest := make(chan int64, 1)
	said := false
	commits := listener.NewCommits(s.url, publicationSteps, listener.CommitsOptions{
		Committed: func(_ uint32, step string) {
			if n, err := strconv.ParseInt(step, 10, 64); err == nil {
				select { // this goroutine is the only one that sends
				case <-newest:
				default:
				}
				newest <- n
			}
		},
		Follows: func() {
			said = false
			s.opts.OnGrown()
		},
		Lost: func(err error, impossible bool) {
			if impossible && !said {
				said = true
				s.opts.Logger.Warn("sequencer: standing by, this server cannot follow the WAL and reads the log four times a second; "+mend(err), "error", err)
			}
		},
	})
	var running sync.WaitGroup
	running.Go(func() { _ = commits.Run(ctx) })
	running.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case step := <-newest:
				if s.appears(ctx, step) {
					s.opts.OnGrown()
				}
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// A step is decoded once it is on disk, and seen by others a moment later; much later if it
// waits for a standby.
const appearsWithin = time.Second

// appears waits until a step is visible, but not for ever.
func (s *Sequencer) appears(ctx context.Context, step int64) bool {
	q := db.New(s.pool)
	end := time.Now().Add(appearsWithin)
	for delay := time.Millisecond; ; delay = min(2*delay, 20*time.Millisecond) {
		newest, err := q.ProgressNewest(ctx)
		if err != nil || newest >= step || time.Now().After(end) {
			return ctx.Err() == nil
		}
		if sleep(ctx, delay) != nil {
			return false
		}
	}
}
