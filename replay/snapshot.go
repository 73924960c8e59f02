package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
)

// How a snapshot is read.
const (
	snapshotRows  = 500                    // for one FETCH
	snapshotLook  = 200 * time.Millisecond // between looks whether somebody waits for the tables
	snapshotTries = 3
)

// snapshotPath is that of a read of this server's own. Functions that policies call find what
// they name by the session's; the statements are made to depend on neither.
const snapshotPath = `set local search_path = pg_catalog, pg_temp; `

// snapshotFlush is a commit that is durable, and with it all commits before it. Those of
// writers with synchronous_commit = off are shown by a snapshot before they are.
const snapshotFlush = `begin; set local synchronous_commit = on; select pg_logical_emit_message(true, 'pgcast', ''); commit`

// What values look like must not depend on the session, as in capture; what an unprivileged
// role does not see must be an error and not be left out. Nobody is waited for long: behind
// us, others would wait.
const snapshotSettings = `set local row_security = off;
	set local timezone = 'UTC'; set local datestyle = 'ISO'; set local intervalstyle = 'postgres'; set local extra_float_digits = 1;
	set local bytea_output = 'hex'; set local lc_monetary = 'C'; set local jit = off;
	set local lock_timeout = '2s'; set local statement_timeout = '60s'; set local idle_in_transaction_session_timeout = '60s'`

// Snapshot reads what a topic holds now, in one look at the database: the rows that belong
// to it of the tables that make its events, or, where there is no such table, its newest
// event of each key. begin is called once, before the first row, with the place from which
// the events follow that are not in it; take is called for each row, which is valid only
// until it returns. Their errors end the read and are returned as they are.
//
// What it gives is durable. The tables are locked against ALTER TABLE, TRUNCATE and the like
// as by any SELECT. If somebody comes to wait for that lock, the read gives up
// (pgcast.ErrUnavailable): others would soon wait behind him. It takes two connections of
// the pool, one of them for moments, and a third one for as long as it begins where only some
// columns of a table may be read.
//
// Errors have code forbidden where the database's role may not read a table, and
// too_large where too many transactions are open.
func (l *Log) Snapshot(ctx context.Context, topic string, begin func(pgcast.Snapshot) error, take func(pgcast.Row) error) error {
	return l.snapshot(ctx, topic, nil, begin, take)
}

// snapshot is Snapshot as somebody sees it; nil: as it is.
func (l *Log) snapshot(ctx context.Context, topic string, as *eyes, begin func(pgcast.Snapshot) error, take func(pgcast.Row) error) error {
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return unavailable(fmt.Sprintf("read a snapshot of %q", topic), err)
	}
	defer conn.Release()
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	for range snapshotTries {
		s := snapshot{ctx: ctx, log: l, topic: topic, as: as, begin: begin, take: take,
			watched: func(pid int32) { watch.Go(func() { l.giveWay(ctx, pid, cancel) }) }}
		if s.parts, err = s.statements(db.New(conn)); err != nil {
			return err
		}
		if s.release, err = s.hold(ctx); err != nil {
			return l.snapshotError(topic, err)
		}
		err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, s.read)
		s.release()
		if err == errAsSomebody {
			err = nil
		}
		if !errors.Is(err, errAttachedMeanwhile) {
			if cause := context.Cause(ctx); err != nil && cause != nil {
				err = cause
			}
			return l.snapshotError(topic, err)
		}
	}
	return unavailable(fmt.Sprintf("read a snapshot of %q", topic), err)
}

// hold keeps tables as they are, on a connection of its own, until release is called: those of
// which only some columns may be read. LOCK TABLE is refused for them, and a query would take
// the snapshot of its transaction before it has the lock.
func (s *snapshot) hold(ctx context.Context) (release func(), err error) {
	sql := "set local lock_timeout = '2s'"
	if s.as != nil {
		sql = "set local role " + pgx.Identifier{s.as.role}.Sanitize() + "; " + sql
	}
	held := false
	for _, part := range s.parts {
		if part.Relation != "" && !part.IsWhole {
			sql, held = sql+"; select from "+part.Relation+" limit 0", true
		}
	}
	if !held {
		return func() {}, nil
	}
	tx, err := s.log.pool.Begin(ctx)
	if err != nil {
		return nil, err
	}
	release = sync.OnceFunc(func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }) // it has changed nothing
	if _, err := tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// errAttachedMeanwhile says that other tables make the topic's events than a moment ago.
var errAttachedMeanwhile = errors.New("tables were attached or detached meanwhile")

// errAsSomebody ends the transaction of a read as somebody in a rollback, which also takes back
// what functions that policies call have set.
var errAsSomebody = errors.New("read to the end")

// errWaited says that somebody waits for a lock that the read keeps from him.
var errWaited = errors.New("somebody waits to alter or truncate the table")

// giveWay ends a read as soon as somebody waits for a lock that it keeps from him, until ctx
// ends. It looks from outside: one FETCH may take long, where few rows are the topic's.
func (l *Log) giveWay(ctx context.Context, pid int32, end context.CancelCauseFunc) {
	every := time.NewTicker(snapshotLook)
	defer every.Stop()
	for {
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
		waited, err := l.queries.SnapshotWaited(ctx, pid)
		if waited {
			end(errWaited)
		} else if err != nil && ctx.Err() == nil {
			end(fmt.Errorf("look whether somebody waits: %w", err))
		}
	}
}

// statements gives what is to be selected.
func (s *snapshot) statements(q *db.Queries) ([]db.SnapshotStatementsRow, error) {
	arg := db.SnapshotStatementsParams{Topic: s.topic}
	if s.as != nil {
		arg.Reader = &s.as.role
	}
	parts, err := q.SnapshotStatements(s.ctx, arg)
	if err != nil {
		return nil, s.log.snapshotError(s.topic, err)
	}
	if s.as != nil && (len(parts) != 1 || parts[0].Relation == "") {
		return nil, errAttachedMeanwhile
	}
	return parts, nil
}

// snapshotError tells what the database said to a read; what begin and take said stays as
// it is.
func (l *Log) snapshotError(topic string, err error) error {
	var pg *pgconn.PgError
	var own *passed
	tried := fmt.Sprintf("read a snapshot of %q", topic)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own):
		return own.err
	case errors.Is(err, pgcast.ErrTooLarge), errors.Is(err, pgcast.ErrUnavailable):
		return err
	case errors.As(err, &pg) && pg.Code == "42501":
		hint := pg.Hint
		if hint == "" { // row security, which an owner is exempt from unless it is forced
			hint = "let the server's role own the table, or alter role ... bypassrls"
		}
		return fmt.Errorf("%s: %s (%s): %w", tried, pg.Message, hint,
			&pgcast.Error{Code: pgcast.CodeForbidden, Message: "this server may not read the rows of the topic"})
	}
	return unavailable(tried, err)
}

// passed is an error of the caller's.
type passed struct{ err error }

func (p *passed) Error() string { return p.err.Error() }

// snapshot is one read.
type snapshot struct {
	ctx     context.Context
	log     *Log
	topic   string
	as      *eyes // nil: this server's own
	begin   func(pgcast.Snapshot) error
	take    func(pgcast.Row) error
	watched func(pid int32) // called when it holds locks on tables
	release func()          // lets go of tables that are held meanwhile
	parts   []db.SnapshotStatementsRow
}

func (s *snapshot) read(tx pgx.Tx) error {
	setup := snapshotSettings
	if s.as == nil {
		setup = snapshotPath + setup
	}
	if tables := s.tables(func(p db.SnapshotStatementsRow) bool { return p.IsWhole }); len(tables) > 0 {
		// Before the transaction's snapshot is taken: to one that is older than a TRUNCATE, or
		// an ALTER TABLE that writes the table anew, it would be empty.
		lock := "; lock table " + strings.Join(tables, ", ") + " in access share mode"
		if s.as != nil {
			lock = "; set local role " + pgx.Identifier{s.as.role}.Sanitize() + lock + "; reset role"
		}
		setup += lock
	}
	if _, err := tx.Exec(s.ctx, setup, pgx.QueryExecModeSimpleProtocol); err != nil {
		return err
	}
	q := db.New(tx)
	at, err := q.SnapshotPlace(s.ctx, s.topic)
	if err != nil {
		return err
	}
	now, err := s.statements(q)
	if err != nil {
		return err
	}
	if !slices.EqualFunc(now, s.parts, func(a, b db.SnapshotStatementsRow) bool { return a.Relation == b.Relation }) {
		return errAttachedMeanwhile
	}
	s.parts = now
	moment := pgcast.Snapshot{Seq: pgcast.Seq(at.Head), Position: pgcast.Position(at.Position)}
	if len(s.tables(func(db.SnapshotStatementsRow) bool { return true })) > 0 {
		if moment.AsOf, err = pgcast.MakeAsOf(identity(at.SystemIdentifier, at.Timeline), at.Snapshot); err != nil {
			return err
		}
		s.watched(at.Pid)
		if !at.IsDurable {
			// A crash may take back what is not, and give its number to another transaction.
			if _, err := s.log.pool.Exec(s.ctx, snapshotFlush, pgx.QueryExecModeSimpleProtocol); err != nil {
				return fmt.Errorf("make durable what the snapshot shows: %w", err)
			}
		}
	}
	if s.as != nil {
		// From here on to the transaction's end.
		if err := s.as.open(s.ctx, tx); err != nil {
			return err
		}
	}
	// What may not be read is an error of this, while nobody has been told of a beginning.
	for i, part := range s.parts {
		if err := s.declare(tx, i, part); err != nil {
			return err
		}
	}
	s.release() // the cursors hold them from here on
	if err := s.begin(moment); err != nil {
		return &passed{err}
	}
	for i, part := range s.parts {
		for n := snapshotRows; n == snapshotRows; {
			if n, err = s.fetch(tx, i, part); err != nil {
				return err
			}
		}
	}
	if s.as != nil {
		return errAsSomebody
	}
	return nil
}

func (s *snapshot) tables(which func(db.SnapshotStatementsRow) bool) (list []string) {
	for _, part := range s.parts {
		if part.Relation != "" && which(part) {
			list = append(list, part.Relation)
		}
	}
	return list
}

// cursor is the name of a part's.
func cursor(part int) string { return "pgcast_snapshot_" + strconv.Itoa(part) }

// declare begins the read of one table, or of the events.
func (s *snapshot) declare(tx pgx.Tx, i int, part db.SnapshotStatementsRow) error {
	// Subqueries that the planner does not merge: the text is made once, and what is too large
	// does not come.
	most := s.log.opts.MaxEvent
	query := fmt.Sprintf(`select case when octet_length(x.data) <= %d then x.data end, case when octet_length(x.data) <= %d then null else x.key end
		from (%s offset 0) x`, most, most, part.Statement)
	if part.Relation == "" {
		query = fmt.Sprintf(`select x.seq, x.id, (extract(epoch from x.created_at) * 1000000)::bigint, x.event, case when s.size <= %d then x.data end, case when s.size <= %d then x.old end, s.size > %d
			from (%s offset 0) x, lateral (select coalesce(octet_length(x.data), 0) + coalesce(octet_length(x.old), 0) as size) s`, most, most, most, part.Statement)
	}
	_, err := tx.Exec(s.ctx, "declare "+cursor(i)+" no scroll cursor for "+query, pgx.QueryExecModeSimpleProtocol)
	return err
}

func (s *snapshot) fetch(tx pgx.Tx, i int, part db.SnapshotStatementsRow) (n int, err error) {
	row := s.event
	if part.Relation != "" {
		row = s.row(part.Relation)
	}
	rows, err := tx.Query(s.ctx, "fetch "+strconv.Itoa(snapshotRows)+" from "+cursor(i), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for ; rows.Next(); n++ {
		r, err := row(rows.RawValues())
		if err != nil {
			return n, err
		}
		if err := s.take(r); err != nil {
			return n, &passed{err}
		}
	}
	return n, rows.Err()
}

// row gives what makes rows of a table's columns.
func (s *snapshot) row(table string) func([][]byte) (pgcast.Row, error) {
	return func(v [][]byte) (pgcast.Row, error) {
		return pgcast.Row{Table: table, Data: json.RawMessage(v[0]), Key: json.RawMessage(v[1])}, nil
	}
}

// event makes an event of its columns, which come as text.
func (s *snapshot) event(v [][]byte) (pgcast.Row, error) {
	var n [3]int64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseInt(string(v[i]), 10, 64); err != nil {
			return pgcast.Row{}, err
		}
	}
	at := time.UnixMicro(n[2])
	return pgcast.Row{Event: &pgcast.Event{Topic: s.topic, Name: string(v[3]), Data: json.RawMessage(v[4]), Old: json.RawMessage(v[5]), Seq: pgcast.Seq(n[0]),
		ID: pgcast.MakeID(n[1], at), CreatedAt: at, Oversize: string(v[6]) == "t"}}, nil
}
