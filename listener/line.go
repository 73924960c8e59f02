// Package listener is what wakes the sequencer and the servers that follow it: a direct
// connection that LISTENs (Line), the doorbell protocol on it (Bell), a stream of the WAL
// (Stream) and the commits decoded from it (Commits, WAL), and polling for where nothing else
// can be trusted (Poll). A wake says only "the log may have grown".
package listener

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// LockClass is the class of pgcast's advisory locks, "pgca" in ASCII; the locks are per
// database.
const LockClass = 1885823841

// Lock is one of pgcast's advisory locks.
type Lock int

// The locks. SQL has the numbers of Asleep in pgcast.ring() and of Attach in pgcast.attach().
const (
	Asleep Lock = 1 // exclusive: the sequencer waits for the bell; shared: a writer keeps it awake
	Lead   Lock = 2 // exclusive: this session's server sequences
	Follow Lock = 3 // shared: this session's server wants to hear of each step
	Attach Lock = 4 // exclusive, for a transaction: attach, detach and refresh, in SQL only
)

// The channels. NOTIFY has no access control, so no payload is ever believed.
const (
	ChannelBell = "pgcast"     // capture rings it for the sleeping sequencer
	ChannelLog  = "pgcast_log" // the sequencer rings it for following servers
)

// Patience is how long the database may take to answer a statement that costs it
// nothing before the line counts as dead.
const Patience = 2500 * time.Millisecond

// hearing is how long our own bell may take to come back before the line counts as deaf.
const hearing = 2 * time.Second

// ErrDeaf says that a line that was heard on hears nothing any more.
var ErrDeaf = errors.New("our own bell did not come back: LISTEN has stopped working on this connection")

// ErrStandby says that the database is a standby, on which nobody can sequence.
var ErrStandby = errors.New("the database is a read-only standby; connect to the primary")

// ErrAnotherRole says that the sequencing server uses another database role, whose
// sessions this one may neither look at nor end.
var ErrAnotherRole = errors.New("the sequencing server uses another database role: should it freeze, this one cannot end its session")

// Line is one direct connection to the database (not through a transaction pooler,
// which keeps neither session locks nor LISTEN). Not safe for concurrent use.
type Line struct {
	conn *pgx.Conn
	// What has arrived and was not told yet, by others and by this session: not how often,
	// because anybody may ring as often as he likes while nobody waits.
	others, own bool
	attend      func(context.Context, func(context.Context) error) error // nil: nobody does
}

// Dial connects, and owns the session: see Reach and Own.
func Dial(ctx context.Context, url string) (*Line, error) {
	l, err := Reach(ctx, url)
	if err != nil {
		return nil, err
	}
	if err := l.Own(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Reach connects and changes nothing: the session may be a pooler's, and what is set in
// it would stay for the next one who is given it.
func Reach(ctx context.Context, url string) (*Line, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read the database URL: %w", err)
	}
	cfg.ConnectTimeout = Patience
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "pgcast"
	}
	l := &Line{}
	cfg.OnNotification = func(c *pgconn.PgConn, n *pgconn.Notification) {
		if n.PID == c.PID() {
			l.own = true
		} else {
			l.others = true
		}
	}
	if l.conn, err = pgx.ConnectConfig(ctx, cfg); err != nil {
		return nil, fmt.Errorf("connect the listening line: %w", err)
	}
	var standby bool
	err = l.do(ctx, func(ctx context.Context) error {
		return l.conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&standby)
	})
	if err == nil && standby {
		err = ErrStandby
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("set up the listening line: %w", err)
	}
	return l, nil
}

// Own sets the session up so that it can never hold anybody up: a peer that vanished is
// noticed by the server within 3 s, no transaction stays open, and the sequencer's
// statements stay on their indexes. Only for a session that is ours alone.
func (l *Line) Own(ctx context.Context) error {
	return l.do(ctx, func(ctx context.Context) error {
		if _, err := l.conn.Exec(ctx, `select
			set_config('tcp_user_timeout', '3000', false),
			set_config('tcp_keepalives_idle', '1', false),
			set_config('tcp_keepalives_interval', '1', false),
			set_config('idle_in_transaction_session_timeout', '5000', false),
			set_config('idle_session_timeout', '0', false),
			set_config('statement_timeout', '0', false),
			set_config('lock_timeout', '0', false),
			set_config('default_transaction_isolation', 'read committed', false),
			set_config('default_transaction_read_only', 'off', false),
			set_config('synchronous_commit', 'on', false),
			-- Statistics are old or missing exactly when much is written.
			set_config('enable_seqscan', 'off', false),
			set_config('enable_bitmapscan', 'off', false),
			set_config('jit', 'off', false),
			-- A step's plan is the same whatever it is asked, and to make it anew takes longer
			-- than the step.
			set_config('plan_cache_mode', 'force_generic_plan', false)`); err != nil {
			return fmt.Errorf("set up the listening line: %w", err)
		}
		return nil
	})
}

// Conn is the connection itself, for statements that must run in this session.
func (l *Line) Conn() *pgx.Conn { return l.conn }

// Close ends the session, and with it its locks and LISTENs.
func (l *Line) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = l.conn.Close(ctx) // the server ends the session whether it hears this or not
}

// Attend has each of the line's own statements run by run, which may end it sooner than
// Patience does: it has another connection to ask whether the database works on it.
func (l *Line) Attend(run func(context.Context, func(context.Context) error) error) { l.attend = run }

// do runs something cheap with Patience.
func (l *Line) do(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	if l.attend != nil {
		return l.attend(ctx, f)
	}
	return f(ctx)
}

// Listen starts listening on a channel.
func (l *Line) Listen(ctx context.Context, channel string) error {
	return l.do(ctx, func(ctx context.Context) error {
		if _, err := l.conn.Exec(ctx, "listen "+pgx.Identifier{channel}.Sanitize()); err != nil {
			return fmt.Errorf("listen on %s: %w", channel, err)
		}
		return nil
	})
}

// Unlisten stops listening on a channel.
func (l *Line) Unlisten(ctx context.Context, channel string) error {
	return l.do(ctx, func(ctx context.Context) error {
		if _, err := l.conn.Exec(ctx, "unlisten "+pgx.Identifier{channel}.Sanitize()); err != nil {
			return fmt.Errorf("unlisten %s: %w", channel, err)
		}
		return nil
	})
}

// TryLock takes a lock for this session if nobody is in the way; it never waits.
func (l *Line) TryLock(ctx context.Context, lock Lock, shared bool) (got bool, err error) {
	sql := "select pg_try_advisory_lock($1::int, $2::int)"
	if shared {
		sql = "select pg_try_advisory_lock_shared($1::int, $2::int)"
	}
	err = l.do(ctx, func(ctx context.Context) error {
		return l.conn.QueryRow(ctx, sql, LockClass, int(lock)).Scan(&got)
	})
	if err != nil {
		return false, fmt.Errorf("try advisory lock %d: %w", lock, err)
	}
	return got, nil
}

// Unlock gives a lock back.
func (l *Line) Unlock(ctx context.Context, lock Lock, shared bool) error {
	sql := "select pg_advisory_unlock($1::int, $2::int)"
	if shared {
		sql = "select pg_advisory_unlock_shared($1::int, $2::int)"
	}
	return l.do(ctx, func(ctx context.Context) error {
		if _, err := l.conn.Exec(ctx, sql, LockClass, int(lock)); err != nil {
			return fmt.Errorf("unlock advisory lock %d: %w", lock, err)
		}
		return nil
	})
}

// Wait waits for a bell, at most d, or tells at once of those that have arrived: once,
// however many they are. own tells that it was this session's own bell.
func (l *Line) Wait(ctx context.Context, d time.Duration) (heard, own bool, err error) {
	wait, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if !l.others && !l.own {
		err = l.conn.PgConn().WaitForNotification(wait)
	}
	switch {
	case l.others:
		l.others = false
		return true, false, nil
	case l.own:
		l.own = false
		return true, true, nil
	case ctx.Err() != nil:
		return false, false, ctx.Err()
	case wait.Err() != nil && !l.conn.IsClosed():
		return false, false, nil
	}
	return false, false, fmt.Errorf("wait for the bell: %w", err)
}

// Drain forgets the bells that have arrived already.
func (l *Line) Drain() { l.others, l.own = false, false }

// Ring rings a channel from this session, in a transaction of its own.
func (l *Line) Ring(ctx context.Context, channel string) error {
	return l.do(ctx, func(ctx context.Context) error {
		if _, err := l.conn.Exec(ctx, "select pg_notify($1, '')", channel); err != nil {
			return fmt.Errorf("ring %s: %w", channel, err)
		}
		return nil
	})
}

// Prove rings the bell and hears it, so that a LISTEN which a pooler has swallowed is
// not believed. The line must be listening on the channel.
func (l *Line) Prove(ctx context.Context, channel string) error {
	if err := l.Ring(ctx, channel); err != nil {
		return err
	}
	for end := time.Now().Add(hearing); time.Now().Before(end); {
		heard, own, err := l.Wait(ctx, time.Until(end))
		if err != nil {
			return err
		}
		if heard && own {
			return nil
		}
	}
	return fmt.Errorf("rang %s and did not hear it within %v: LISTEN does not work on this connection (a pooler in transaction mode?)", channel, hearing)
}

// Direct reports whether the session is certainly this line's alone: a pooler in between would
// tell the number of another process than the one that answers.
func (l *Line) Direct(ctx context.Context) (direct bool, err error) {
	var pid uint32
	err = l.do(ctx, func(ctx context.Context) error {
		return l.conn.QueryRow(ctx, "select pg_backend_pid()").Scan(&pid)
	})
	if err != nil {
		return false, fmt.Errorf("ask which process answers: %w", err)
	}
	return pid == l.conn.PgConn().PID(), nil
}

// Prepared reports whether the server allows prepared transactions, where capture never
// rings because NOTIFY would make PREPARE TRANSACTION fail.
func (l *Line) Prepared(ctx context.Context) (allowed bool, err error) {
	err = l.do(ctx, func(ctx context.Context) error {
		return l.conn.QueryRow(ctx, "select current_setting('max_prepared_transactions') <> '0'").Scan(&allowed)
	})
	if err != nil {
		return false, fmt.Errorf("read max_prepared_transactions: %w", err)
	}
	return allowed, nil
}

// Rings reports whether capture would ring now: when NOTIFY's queue is half full because
// some session does not read it, it no longer does (pgcast.ring() in SQL has the same
// limit), since a full one fails whoever notifies. Asking frees what has been read by all,
// which Postgres does not always do by itself.
func (l *Line) Rings(ctx context.Context) (rings bool, err error) {
	err = l.do(ctx, func(ctx context.Context) error {
		return l.conn.QueryRow(ctx, "select pg_notification_queue_usage() < 0.5").Scan(&rings)
	})
	if err != nil {
		return false, fmt.Errorf("ask how full the notification queue is: %w", err)
	}
	return rings, nil
}

// Stalled reports whether commits that notify, anywhere in the cluster, have been held up for
// half a second: they take turns, and one of them does not end, because it waits for a standby
// or for the disk. Whoever rings now waits as well.
func (l *Line) Stalled(ctx context.Context) (stalled bool, err error) {
	err = l.do(ctx, func(ctx context.Context) error {
		return l.conn.QueryRow(ctx, `select exists (select from pg_locks where locktype = 'object' and database = 0 and classid = 1262 and objid = 0
			and not granted and waitstart < clock_timestamp() - interval '500 ms')`).Scan(&stalled)
	})
	if err != nil {
		return false, fmt.Errorf("ask whether notifying commits are held up: %w", err)
	}
	return stalled, nil
}

// Evict ends the session that holds the Lead lock if it has not finished a statement
// for longer than stale: its server is frozen, or gone without a word. A sequencer that
// lives looks at the log every second. evicted tells whether there was one.
func (l *Line) Evict(ctx context.Context, stale time.Duration) (evicted bool, err error) {
	var hidden bool
	err = l.do(ctx, func(ctx context.Context) error {
		return l.conn.QueryRow(ctx, `select coalesce(bool_or(pg_terminate_backend(a.pid))
				filter (where a.state <> 'active' and a.state_change < clock_timestamp() - make_interval(secs => $3)), false),
			coalesce(bool_or(a.state is null), false)
			from pg_locks l join pg_stat_activity a on a.pid = l.pid
			where l.locktype = 'advisory' and l.granted and l.classid = $1::int::oid and l.objid = $2::int::oid
			  and l.database = (select oid from pg_database where datname = current_database())`,
			LockClass, int(Lead), stale.Seconds()).Scan(&evicted, &hidden)
	})
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "42501", err == nil && hidden:
		return false, ErrAnotherRole
	case err != nil:
		return false, fmt.Errorf("look for a frozen sequencer: %w", err)
	}
	return evicted, nil
}
