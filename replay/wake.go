package replay

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/listener"
)

// Wake is how the sequencer learns of new events.
type Wake string

// The ways to wake.
const (
	WakeAuto   Wake = "auto"   // the bell where it works; the WAL where nobody may ring and it can be followed; else polling
	WakeNotify Wake = "notify" // the bell, or an error
	WakeWAL    Wake = "wal"    // the WAL, without any NOTIFY; where it cannot be followed, the bell
	WakePoll   Wake = "poll"   // polling only
)

// same makes sure that the line and the pool lead to the same database: to sequence one log
// and to serve another would look like a log that never grows.
func (s *Sequencer) same(ctx context.Context, line *listener.Line) error {
	var ours, theirs string
	err := s.attendant(line, true).run(ctx, func(ctx context.Context) (err error) {
		if ours, err = db.New(line.Conn()).SequencerDatabase(ctx); err == nil {
			theirs, err = db.New(s.pool).SequencerDatabase(ctx)
		}
		return err
	})
	if err == nil && ours != theirs {
		err = &pgcast.Error{Code: pgcast.CodeInvalid, Message: "the direct database URL leads to another database than the database URL",
			Hint: "direct-database-url names the same database, without the pooler in between"}
	}
	return err
}

// waker chooses how to wake on this line. shared says that the line cannot be trusted
// to keep a session (a pooler in transaction mode), so nobody can hold the Lead lock.
func (s *Sequencer) waker(ctx context.Context, line *listener.Line) (w waker, shared bool, err error) {
	prepared, err := line.Prepared(ctx)
	if err != nil {
		return nil, false, err
	}
	if s.opts.Wake == WakeWAL {
		// Through a pooler, only ringing shows what kind it is.
		if direct, err := line.Direct(ctx); err != nil {
			return nil, false, err
		} else if direct {
			return s.newWALWaker(line, prepared), false, line.Own(ctx)
		}
	}
	err = line.Listen(ctx, listener.ChannelBell)
	if s.deaf && s.opts.Wake != WakeNotify {
		// Just found out. To prove it again would take as long as it takes to hear nothing,
		// and meanwhile nobody would sequence.
		s.deaf = false
		err = cmp.Or(err, listener.ErrDeaf)
	}
	if err == nil {
		err = line.Prove(ctx, listener.ChannelBell)
	}
	if err != nil {
		if ctx.Err() != nil || s.opts.Wake == WakeNotify || line.Conn().IsClosed() {
			return nil, false, err
		}
		said := "sequencer: the doorbell does not work on this connection; polling instead"
		if _, ok := errors.AsType[*pgconn.PgError](err); !ok {
			said += ". Give a direct connection with --direct-database-url"
		}
		s.opts.Logger.Error(said, "error", err)
		// The session may go to somebody else next.
		return listener.NewPoll(250 * time.Millisecond), true, line.Unlisten(ctx, listener.ChannelBell)
	}
	if err := line.Own(ctx); err != nil {
		return nil, false, err
	}
	switch {
	case s.opts.Wake == WakeWAL:
		return s.newWALWaker(line, prepared), false, line.Unlisten(ctx, listener.ChannelBell)
	case s.opts.Wake == WakePoll:
		return listener.NewPoll(20 * time.Millisecond), false, nil
	case prepared && s.opts.Wake == WakeNotify:
		return nil, false, &pgcast.Error{Code: pgcast.CodeInvalid,
			Message: "wake=notify cannot serve while max_prepared_transactions is above 0: NOTIFY makes PREPARE TRANSACTION fail",
			Hint:    "use wake=auto, which is woken by the WAL here or else polls, or set max_prepared_transactions to 0"}
	case prepared:
		return s.newWALWaker(line, true), false, line.Unlisten(ctx, listener.ChannelBell)
	}
	return listener.NewBell(line, s.metrics.refused.Inc), false, nil
}

type waker interface {
	Wait(ctx context.Context, busy bool, look listener.Look) (listener.Source, error)
	Nudge() // from any goroutine: ends the Wait under way, or the next one, at once
}

// State tells whether this server sequences, and by what it is woken then; else how it would like
// to be.
func (s *Sequencer) State() (leads bool, wake Wake) {
	w := s.current.Load()
	if w == nil {
		return false, s.opts.Wake
	}
	switch (*w).(type) {
	case *walWaker:
		return true, WakeWAL
	case *listener.Poll:
		return true, WakePoll
	}
	return true, WakeNotify
}

// nudge has the sequencer look at the log, to which this process has added. While none
// runs here there is nothing to do: whoever begins to sequence looks.
func (s *Sequencer) nudge() {
	if w := s.current.Load(); w != nil {
		(*w).Nudge()
	}
}
