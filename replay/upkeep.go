package replay

import (
	"context"
	"log/slog"
	"time"

	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/listener"
)

// upkeep is what the sequencing server does beside its steps: it measures the lag and
// prunes old steps.
func (s *Sequencer) upkeep(ctx context.Context) error {
	q := db.New(s.pool)
	pruned, state := int64(0), notifyState{}
	for n := 0; ; n++ {
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		if lag, err := q.SequencerWaiting(ctx); err == nil {
			s.metrics.lag.Set(max(lag, 0))
		} else {
			continue
		}
		if is, err := q.NotifyState(ctx); err == nil {
			s.metrics.queue.Set(is.Usage)
			state = state.tell(s.opts.Logger, notifyState{is.Usage >= 0.5, is.Stalled}, is.Usage)
		}
		if n%10 != 0 {
			continue
		}
		var err error
		if pruned, err = prune(ctx, q, pruned); err != nil && ctx.Err() == nil {
			s.opts.Logger.Warn("sequencer: could not prune old steps; will try again", "error", err)
		}
		if err := pruneCaptured(ctx, q); err != nil && ctx.Err() == nil {
			s.opts.Logger.Warn("sequencer: could not prune old steps of capture; will try again", "error", err)
		}
	}
}

// notifyState is what keeps everybody in the cluster from notifying.
type notifyState struct{ full, stalled bool }

// tell says what has changed.
func (was notifyState) tell(log *slog.Logger, is notifyState, usage float64) notifyState {
	switch {
	case is.full && !was.full:
		log.Warn("sequencer: the NOTIFY queue fills up: a session that listens, in any database of the cluster, reads nothing "+
			"or keeps a transaction open. Nobody rings meanwhile, and events are found by polling; end that session", "usage", usage)
	case was.full && !is.full:
		log.Info("sequencer: the NOTIFY queue has room again", "usage", usage)
	}
	switch {
	case is.stalled && !was.stalled:
		log.Warn("sequencer: commits that notify are held up, in all databases of the cluster: one of them does not end, " +
			"because it waits for a standby or for the disk. Nobody rings meanwhile, and events are found by polling; " +
			"pg_locks shows who holds the lock on object 0 of class 1262")
	case was.stalled && !is.stalled:
		log.Info("sequencer: commits that notify go on again")
	}
	return is
}

// tell rings the following servers after steps, on another connection and never inside
// a step, whose commit would hold NOTIFY's global lock through its flush. It rings only
// while somebody follows.
func (s *Sequencer) tell(ctx context.Context, grown <-chan struct{}) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-grown:
		}
		if err := db.New(s.pool).FollowersRing(ctx); err != nil && ctx.Err() == nil {
			s.opts.Logger.Warn("sequencer: could not ring the following servers; they find the events by polling", "error", err)
			if err := sleep(ctx, time.Second); err != nil {
				return err
			}
		}
	}
}

func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default: // one is pending already
	}
}

// prune deletes old steps from where the last prune stopped, and tells where it did.
func prune(ctx context.Context, q *db.Queries, from int64) (stop int64, err error) {
	for {
		p, err := q.ProgressPrune(ctx, from)
		if err != nil {
			return from, err
		}
		if from = p.Stop; !p.More {
			return from, nil
		}
	}
}

func pruneCaptured(ctx context.Context, q *db.Queries) error {
	for {
		if gone, err := q.CapturedPrune(ctx); err != nil || gone < 10000 {
			return err
		}
	}
}

// prove tries the bell on other lines, while this one sequences without, and ends the
// session when it is heard: a full notification queue passes, and so does what made the
// database too busy to carry a bell in time.
func (s *Sequencer) prove(ctx context.Context) error {
	for {
		if err := sleep(ctx, proveAgain); err != nil {
			return err
		}
		line, err := listener.Reach(ctx, s.url)
		if err != nil {
			continue
		}
		if err = line.Listen(ctx, listener.ChannelBell); err == nil {
			if err = line.Prove(ctx, listener.ChannelBell); err != nil {
				_ = line.Unlisten(ctx, listener.ChannelBell) // the session may go to somebody else next
			}
		}
		line.Close()
		if err == nil {
			return errProved
		}
	}
}
