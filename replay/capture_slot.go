package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/listener"
)

const captureLockTimeout = "3000" // ms

// connect opens the session that writes.
func (c *capture) connect(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(c.url)
	if err != nil {
		return nil, fmt.Errorf("read the database URL: %w", err)
	}
	cfg.ConnectTimeout = listener.Patience
	cfg.RuntimeParams["application_name"] = captureName
	ctx, cancel := context.WithTimeout(ctx, attendShared)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to capture: %w", err)
	}
	// Values look here as they do in the stream (listener.OpenStream). A peer that vanished,
	// and a transaction that goes nowhere, end within seconds: whoever captures next waits
	// for it.
	_, err = conn.Exec(ctx, `select
		set_config('datestyle', 'ISO', false), set_config('intervalstyle', 'postgres', false),
		set_config('extra_float_digits', '1', false), set_config('bytea_output', 'hex', false),
		set_config('timezone', 'UTC', false), set_config('lc_monetary', 'C', false),
		set_config('tcp_user_timeout', '3000', false), set_config('tcp_keepalives_idle', '1', false),
		set_config('tcp_keepalives_interval', '1', false), set_config('idle_in_transaction_session_timeout', '5000', false),
		set_config('idle_session_timeout', '0', false), set_config('statement_timeout', '0', false),
		set_config('lock_timeout', '`+captureLockTimeout+`', false), set_config('default_transaction_isolation', 'read committed', false),
		set_config('default_transaction_read_only', 'off', false), set_config('synchronous_commit', 'on', false),
		set_config('jit', 'off', false), set_config('plan_cache_mode', 'force_generic_plan', false)`)
	if err != nil {
		_ = conn.Close(ctx)
		return nil, fmt.Errorf("set up the session that captures: %w", err)
	}
	return conn, nil
}

// ready sees to it that there is a slot that has all that is missing since the place stored,
// and gives that place. Where there cannot be one any more, it begins anew and tells.
func (c *capture) ready(ctx context.Context, conn *pgx.Conn) (db.CaptureStateRow, error) {
	q := db.New(conn)
	state, err := q.CaptureState(ctx)
	if err != nil {
		return state, fmt.Errorf("read how far the WAL is captured: %w", err)
	}
	switch {
	case state.Term != c.term:
		return state, errDeposed
	case state.WalLevel != "logical":
		return state, fmt.Errorf("%w but %s", listener.ErrNotLogical, state.WalLevel)
	case !state.MayReplicate:
		return state, fmt.Errorf("%w: it has no REPLICATION", listener.ErrNotAllowed)
	case state.HasSlot && !state.IsOurs:
		return state, fmt.Errorf("replication slot %s is of another database or not pgoutput's: drop it", state.Slot)
	}
	if state.IsUnlimited && !c.warned {
		c.warned = true
		c.log.Warn("capture: max_slot_wal_keep_size is -1: while no server captures, Postgres keeps WAL until its disk is full. "+
			"Give it a size, and the worst that can happen is that the topics are told reset", "slot", state.Slot)
	}
	reason := ""
	switch {
	case state.Attached == 0 && (!state.HasSlot || state.IsLost):
		return state, errNothing
	case !state.HasSlot:
		reason = resetMissing
	case state.Lsn > 0 && !state.IsHere:
		reason = resetCluster
	case state.IsLost:
		reason = resetLost
	case state.Lsn > 0 && state.Confirmed > state.Lsn:
		reason = resetMoved
	}
	if reason != "" {
		return c.anew(ctx, conn, state, reason)
	}
	if state.Lsn > 0 {
		return state, nil
	}
	// The first time. Nobody else has read from it.
	state.Lsn = state.Confirmed
	if err := c.adopt(ctx, q, &state); err != nil {
		return state, err
	}
	return state, nil
}

// errNothing says that no table is captured any more.
var errNothing = errors.New("nothing is captured from the WAL")

// adopt stores a place, as the next step.
func (c *capture) adopt(ctx context.Context, q *db.Queries, state *db.CaptureStateRow) error {
	state.Step++
	err := q.CaptureAdopt(ctx, db.CaptureAdoptParams{Step: state.Step, Lsn: state.Lsn, Term: c.term})
	return overtaken(err, "store the place to capture from")
}

// anew begins with a new slot, and tells all topics concerned that something is missing. Until
// the last statement has committed, whoever looks finds a place that no slot belongs to, and
// does it again.
func (c *capture) anew(ctx context.Context, conn *pgx.Conn, state db.CaptureStateRow, reason string) (db.CaptureStateRow, error) {
	q := db.New(conn)
	if time.Since(c.lost[reason]) >= captureTells { // what follows may fail, and is tried again soon
		c.lost[reason] = time.Now()
		c.log.Error("capture: the replication slot cannot go on from where capture was; changes are missing. Beginning with a new slot, and telling the topics reset",
			"reason", reason, "slot", state.Slot, "captured", pglogrepl.LSN(state.Lsn).String(), "confirmed", pglogrepl.LSN(state.Confirmed).String())
	}
	if state.Lsn == 0 {
		state.Lsn = 1
		if err := c.adopt(ctx, q, &state); err != nil {
			return state, err
		}
	}
	if err := c.at("reset"); err != nil {
		return state, err
	}
	if err := q.CaptureDropSlot(ctx); err != nil {
		return state, fmt.Errorf("drop replication slot %s, which cannot be used any more: %w", state.Slot, err)
	}
	if err := c.openSlot(ctx, conn); err != nil {
		// Postgres may trip over somebody's DDL after it has made the slot.
		if now, look := q.CaptureState(ctx); look != nil || !now.HasSlot {
			return state, fmt.Errorf("make replication slot %s: %w", state.Slot, err)
		}
	}
	if err := c.at("slot made"); err != nil {
		return state, err
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		q := db.New(tx)
		now, err := q.CaptureState(ctx)
		if err != nil {
			return fmt.Errorf("read the new slot's place: %w", err)
		}
		if now.Step != state.Step || !now.HasSlot {
			return errOvertaken
		}
		now.Lsn = now.Confirmed
		if err := c.adopt(ctx, q, &now); err != nil {
			return err
		}
		if err := q.CaptureReset(ctx); err != nil {
			return fmt.Errorf("tell the topics reset: %w", err)
		}
		if _, err := q.CaptureLeftovers(ctx); err != nil {
			return fmt.Errorf("move what publish() has left: %w", err)
		}
		state = now
		return nil
	})
	if err != nil {
		return state, err
	}
	delete(c.lost, reason)
	c.metrics.resets.WithLabelValues(reason).Inc()
	c.nudge()
	return state, nil
}

// openSlot makes a slot. That takes until the transactions open now have ended, however long
// that is: to begin anew would be to wait for those that are open then.
func (c *capture) openSlot(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, "set lock_timeout = 0"); err != nil {
		return err
	}
	err := attendant{pool: c.pool, pid: conn.PgConn().PID()}.run(ctx, db.New(conn).CaptureOpenSlot)
	if _, also := conn.Exec(ctx, "set lock_timeout = "+captureLockTimeout); err == nil {
		err = also
	}
	return err
}

// end leaves nothing behind when no table is captured from the WAL any more: no slot, and no
// event of publish() that nobody moves into the log.
func (c *capture) end(ctx context.Context) error {
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	dropped, moved := false, int64(0)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		q := db.New(tx)
		alone, err := q.CaptureAlone(ctx) // or attach() would find a slot that is about to go
		if err != nil || !alone {
			return err
		}
		state, err := q.CaptureState(ctx)
		if err != nil {
			return err
		}
		if state.Term != c.term {
			return errDeposed
		}
		if state.Lsn > 0 {
			state.Lsn = 0
			if err := c.adopt(ctx, q, &state); err != nil {
				return err
			}
		}
		if moved, err = q.CaptureLeftovers(ctx); err != nil {
			return err
		}
		if err := c.at("end"); err != nil {
			return err
		}
		dropped = state.HasSlot && state.IsOurs
		if dropped { // last: it does not roll back
			return q.CaptureDropSlot(ctx)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("end capture from the WAL: %w", err)
	}
	if moved > 0 {
		c.nudge()
	}
	if dropped {
		c.unused = time.Time{}
		c.log.Info("capture: no table is captured from the WAL any more; dropped the replication slot")
	}
	c.clear()
	return nil
}
