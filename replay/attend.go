package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast/listener"
)

// attendant sees to it that statements on the line come to an end. They may take long
// for good reasons, so no fixed time can tell a slow one from one whose question or
// answer was lost with a connection that both ends still believe in. Another connection
// can: it asks whether the database is working on it.
type attendant struct {
	pool   *pgxpool.Pool
	pid    uint32 // of the line's session
	shared bool   // a pooler stands in between, and the pid means nothing
}

const (
	attendFirst  = 40 * time.Millisecond // doubled each time the database works on it
	attendEvery  = 500 * time.Millisecond
	attendAsk    = time.Second // for the answer
	attendEnd    = 300 * time.Millisecond
	attendShared = time.Minute
	// Twice seen idle, without anything in between, is enough: what is asked second has come
	// and gone by another connection meanwhile. Not to be told counts little, for then it may
	// well be the database that has no time.
	strikeIdle, strikeUntold, strikesOut = 30, 1, 60
)

var errSilent = errors.New("the line is dead: the database does not work on what was asked over it")

// run runs one or more statements.
func (a attendant) run(ctx context.Context, f func(context.Context) error) error {
	if a.shared {
		ctx, cancel := context.WithTimeout(ctx, attendShared)
		defer cancel()
		return f(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(attendFirst, func() { a.watch(ctx, cancel) })
	defer timer.Stop()
	err := f(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	return err
}

func (a attendant) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	last := time.Time{}
	for strikes, every := 0, attendFirst; ; {
		works, changed, err := a.works(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			strikes += strikeUntold
			every = min(2*every, attendEvery)
		case works:
			strikes = 0
			every = min(2*every, attendEvery)
		default:
			if !changed.Equal(last) {
				strikes = 0 // it has done something since
			}
			last = changed
			strikes += strikeIdle
		}
		if strikes >= strikesOut {
			cancel(errSilent)
			return
		}
		if sleep(ctx, every) != nil {
			return
		}
	}
}

// end ends the session of a line that has failed. The next line needs its locks, and Postgres
// may not notice for long that nobody is at its other end. If it cannot be ended now, it is
// evicted like that of any other server.
func (a attendant) end(ctx context.Context) {
	if a.shared {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, attendEnd)
	defer cancel()
	_, _ = a.pool.Exec(ctx, `select pg_terminate_backend(pid) from pg_locks
		where pid = $1 and locktype = 'advisory' and classid = $2::int::oid limit 1`, a.pid, listener.LockClass)
}

// works tells whether the database works on a statement of the session, and since when it does
// or does not: zero of a session that has gone.
func (a attendant) works(ctx context.Context) (works bool, since time.Time, err error) {
	// Not broken off when the statement ends meanwhile: that would cost the pool a connection.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attendAsk)
	defer cancel()
	var told *bool
	var changed *time.Time
	err = a.pool.QueryRow(ctx, `select nullif(state, 'disabled') = 'active' and wait_event_type is distinct from 'Client', state_change
		from pg_stat_activity where pid = $1`, a.pid).Scan(&told, &changed)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, since, nil
	case err != nil:
		return false, since, err
	case told == nil || changed == nil:
		return false, since, errors.New("another role's session, or track_activities is off")
	}
	return *told, *changed, nil
}
