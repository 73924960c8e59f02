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
	attendEvery  = 500 * time.Millisecond
	attendAsk    = time.Second // for the answer
	attendShared = time.Minute
	// Twice seen idle is enough; not to be told counts little, for then it may well be
	// the database that has no time.
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
	timer := time.AfterFunc(attendEvery, func() { a.watch(ctx, cancel) })
	defer timer.Stop()
	err := f(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	return err
}

func (a attendant) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	for strikes := 0; ; {
		switch works, err := a.works(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			strikes += strikeUntold
		case works:
			strikes = 0
		default:
			strikes += strikeIdle
		}
		if strikes >= strikesOut {
			cancel(errSilent)
			return
		}
		if sleep(ctx, attendEvery) != nil {
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
	ctx, cancel := context.WithTimeout(ctx, attendAsk)
	defer cancel()
	_, _ = a.pool.Exec(ctx, `select pg_terminate_backend(pid) from pg_locks
		where pid = $1 and locktype = 'advisory' and classid = $2::int::oid limit 1`, a.pid, listener.LockClass)
}

// works tells whether the database works on a statement of the session.
func (a attendant) works(ctx context.Context) (works bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, attendAsk)
	defer cancel()
	var told *bool
	err = a.pool.QueryRow(ctx, `select nullif(state, 'disabled') = 'active' and wait_event_type is distinct from 'Client'
		from pg_stat_activity where pid = $1`, a.pid).Scan(&told)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, err
	case told == nil:
		return false, errors.New("another role's session, or track_activities is off")
	}
	return *told, nil
}
