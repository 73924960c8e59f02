package replay

import (
	"context"
	"errors"
	"time"

	"github.com/pgcast/pgcast/listener"
)

// The publications to be woken by.
const (
	publicationWake  = "pgcast_wake"
	publicationSteps = "pgcast_steps"
)

// walWaker wakes by the WAL while that can be followed, and else by another waker. Which of
// the two is decided anew at each Wait.
type walWaker struct {
	s     *Sequencer
	line  *listener.Line
	wal   *listener.WAL
	bell  *listener.Bell // the other one, where that is the bell
	other waker
	fell  bool // the last Wait was the other's
}

// newWALWaker makes it for a line that is ours and does not listen.
func (s *Sequencer) newWALWaker(line *listener.Line, prepared bool) *walWaker {
	w := &walWaker{s: s, line: line}
	// Who sleeps by the bell would otherwise do so until it rings.
	w.wal = listener.NewWAL(line, s.url, publicationWake, func() { w.other.Nudge() })
	switch {
	case prepared:
		w.other = listener.NewPoll(50 * time.Millisecond)
	case s.deaf: // found out by the session before this one
		w.other = listener.NewPoll(20 * time.Millisecond)
	default:
		w.bell = listener.NewBell(line, s.metrics.refused.Inc)
		w.other = w.bell
	}
	s.deaf = false
	return w
}

func (w *walWaker) Nudge() {
	w.wal.Nudge()
	w.other.Nudge()
}

func (w *walWaker) Wait(ctx context.Context, busy bool, look listener.Look) (listener.Source, error) {
	err := w.wal.Refused()
	w.s.metrics.setFollowed(w.wal.Follows())
	switch {
	case err != nil && !w.fell:
		w.fell = true
		w.say(err)
		if w.bell != nil {
			if err := w.line.Listen(ctx, listener.ChannelBell); err != nil {
				return "", err
			}
			w.bell.Doubt()
		}
	case err == nil && w.fell:
		w.fell = false
		w.s.opts.Logger.Info("sequencer: the WAL can be followed now, and wakes")
		if w.bell != nil {
			if err := w.line.Unlisten(ctx, listener.ChannelBell); err != nil {
				return "", err
			}
		}
	}
	if w.fell {
		return w.other.Wait(ctx, busy, look)
	}
	return w.wal.Wait(ctx, busy, look)
}

// say tells what wakes instead: loudly where somebody has asked for the WAL.
func (w *walWaker) say(err error) {
	instead := "polls instead"
	if w.bell != nil {
		instead = "writers ring the doorbell instead"
	}
	if w.s.opts.Wake == WakeWAL {
		w.s.opts.Logger.Error("sequencer: wake=wal, but the WAL cannot be followed: "+instead+". "+mend(err), "error", err)
	} else {
		w.s.opts.Logger.Info("sequencer: writers do not ring while max_prepared_transactions is above 0, and the WAL cannot be followed: "+instead+". "+mend(err), "error", err)
	}
}

// mend says what to do about what is in the way of following the WAL.
func mend(err error) string {
	switch {
	case errors.Is(err, listener.ErrNotLogical):
		return "Mend it with: alter system set wal_level = logical, and a restart of Postgres"
	case errors.Is(err, listener.ErrNotAllowed):
		return "Mend it with: alter role ... replication, for the role of direct-database-url"
	case errors.Is(err, listener.ErrNoSlots):
		return "Mend it by raising max_replication_slots and max_wal_senders, by one for each server, and a restart of Postgres"
	case errors.Is(err, listener.ErrNoPublication):
		return "Mend it with: select pgcast.make_publications(), as a role that may create in the database"
	}
	return "direct-database-url must lead to Postgres itself, not through a pooler"
}
