package replay

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/db"
)

// The statements of each flush, by the names they are prepared under.
var captureStatements = map[string]string{
	"check": db.CaptureCheck, "ids": db.CaptureIds, "advance": db.CaptureAdvance, "move": db.CaptureMove, "unstage": db.CaptureUnstage,
	"undo": db.CaptureUndo, "shape": db.CaptureShape, "versions": db.CaptureVersions,
}

// prepare readies the session that writes.
func (s *captureSession) prepare(ctx context.Context) error {
	for name, sql := range captureStatements {
		if _, err := s.conn.PgConn().Prepare(ctx, name, sql, nil); err != nil {
			return fmt.Errorf("prepare to capture: %w", err)
		}
	}
	if err := db.New(s.conn).CaptureVoid(ctx, s.id); err != nil {
		return fmt.Errorf("clear the stage: %w", err)
	}
	results, err := s.ask(ctx, prepared("versions"), prepared("check", "{}"))
	if err != nil {
		return fmt.Errorf("look at what is attached: %w", err)
	}
	s.versions = versions(results[0].Rows)
	s.attached = string(results[1].Rows[0][3])
	return s.reach(results[1].Rows[0][4])
}

// query is one statement of a round trip: a prepared one, or plain SQL.
type query struct {
	name, sql string
	args      [][]byte
}

func prepared(name string, args ...string) query {
	q := query{name: name}
	for _, a := range args {
		q.args = append(q.args, []byte(a))
	}
	return q
}

// ask runs statements in one round trip. After an error, the ones that follow are not run.
func (s *captureSession) ask(ctx context.Context, queries ...query) (results []*pgconn.Result, err error) {
	b := &pgconn.Batch{}
	for _, q := range queries {
		if q.name != "" {
			b.ExecPrepared(q.name, q.args, nil, nil)
		} else {
			b.ExecParams(q.sql, q.args, nil, nil, nil)
		}
	}
	err = s.attend.run(ctx, func(ctx context.Context) error {
		results, err = s.conn.PgConn().ExecBatch(ctx, b).ReadAll()
		return err
	})
	if err == nil && len(results) != len(queries) {
		err = fmt.Errorf("%d results of %d statements", len(results), len(queries))
	}
	if err == nil {
		for _, r := range results {
			if r.CommandTag.Insert() {
				s.inserted += r.CommandTag.RowsAffected()
			}
		}
	}
	return results, err
}

// enter begins the transaction that writes, if there is none, waits until all that it is to
// write is visible, and gives it so many ids.
func (s *captureSession) enter(ctx context.Context, ids int) ([]int64, error) {
	if !s.open {
		if err := s.at("begin"); err != nil {
			return nil, err
		}
	}
	var drawn []int64
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		var queries []query
		if !s.open {
			queries = append(queries, query{sql: "begin isolation level read committed read write"})
		}
		queries = append(queries, prepared("check", "{"+strings.Join(s.unseen, ",")+"}"))
		check := len(queries) - 1
		if drawn == nil { // once, however long it waits
			queries = append(queries, prepared("ids", strconv.Itoa(ids)))
		}
		results, err := s.ask(ctx, queries...)
		if err != nil {
			return nil, fmt.Errorf("begin to write what was captured: %w", err)
		}
		s.open = true
		if drawn == nil {
			if drawn, err = numbers(results[check+1].Rows); err != nil {
				return nil, err
			}
		}
		row := results[check].Rows[0]
		switch {
		case string(row[0]) != strconv.FormatInt(s.term, 10):
			return nil, errDeposed
		case string(row[1]) != strconv.FormatInt(s.step, 10):
			return nil, errOvertaken
		}
		if err := s.reach(row[4]); err != nil {
			return nil, err
		}
		if string(row[2]) == "t" {
			if s.attached != string(row[3]) {
				if err := s.renew(ctx); err != nil {
					return nil, err
				}
				s.attached = string(row[3])
			}
			s.unseen = s.unseen[:0]
			return drawn, nil
		}
		// Its writer is between the two, or waits for a standby.
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

func numbers(rows [][][]byte) ([]int64, error) {
	list := make([]int64, len(rows))
	for i, row := range rows {
		var err error
		if list[i], err = strconv.ParseInt(string(row[0]), 10, 64); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// number gives the changes their ids, in stream order. An update may need two that follow each
// other: others draw numbers too, so one more than that may be needed.
func (s *captureSession) number(ctx context.Context, changes []*change, ids []int64) error {
	for i, c := range changes {
		for {
			if c.op == 'U' && len(ids) >= 2 && ids[0]+1 != ids[1] {
				ids = ids[1:]
				continue
			}
			if len(ids) >= c.places() {
				break
			}
			more, err := s.enter(ctx, allPlaces(changes[i:])-len(ids)+2)
			if err != nil {
				return err
			}
			ids = append(ids, more...)
		}
		c.n = ids[0]
		ids = ids[c.places():]
	}
	return nil
}

// add takes one change more.
func (s *captureSession) add(ctx context.Context, c *change) error {
	if s.hold(c); s.hasRoom() {
		return nil
	}
	if s.streamed != nil {
		return s.stage(ctx)
	}
	if s.end > 0 && !s.mixed {
		// What is complete does not wait for the end of what is not.
		rest := append([]*change(nil), s.changes[s.whole:]...)
		s.changes = s.changes[:s.whole]
		if err := s.finish(ctx); err != nil {
			return err
		}
		for _, c := range rest {
			s.hold(c)
		}
		if s.hasRoom() {
			return nil
		}
	}
	return s.write(ctx)
}

// hold keeps a change until it is written.
func (s *captureSession) hold(c *change) {
	s.changes, s.size = append(s.changes, c), s.size+c.size
	if len(c.toast) > 0 {
		s.reads++
	}
}

// hasRoom tells whether more can be held.
func (s *captureSession) hasRoom() bool {
	return len(s.changes) < s.limits.changes && s.size < s.limits.bytes && s.reads < s.readsAtOnce()
}

// drop lets go of all that was held.
func (s *captureSession) drop() {
	clear(s.changes)
	s.changes, s.size, s.reads, s.whole = s.changes[:0], 0, 0, 0
}

// write writes what there is into the open transaction.
func (s *captureSession) write(ctx context.Context, last ...query) error {
	changes := s.changes
	later := s.open
	ids, err := s.enter(ctx, allPlaces(changes))
	if err != nil {
		return err
	}
	if err := s.complete(ctx, changes); err != nil {
		return err
	}
	if err := s.number(ctx, changes, ids); err != nil {
		return err
	}
	groups, err := s.groups(ctx, changes, false)
	if err != nil {
		return err
	}
	var queries []query
	if later {
		queries = append(queries, query{sql: "savepoint flush"})
	}
	for _, g := range groups {
		queries = append(queries, g.query(s.id))
	}
	if later {
		queries = append(queries, query{sql: "release flush"})
	}
	inline := s.hook == nil && len(last) > 0
	if inline {
		queries = append(queries, last...)
	}
	if len(queries) > 0 {
		_, err = s.ask(ctx, queries...)
	}
	if isPoison(err) {
		inline, err = false, s.isolate(ctx, groups, later, err)
	}
	if err != nil {
		return overtaken(err, "write what was captured")
	}
	s.count.events += len(changes)
	s.mixed = s.tx != nil
	s.drop()
	if len(last) > 0 && !inline {
		if err := s.at("written"); err != nil {
			return err
		}
		if _, err := s.ask(ctx, last...); err != nil {
			return overtaken(err, "commit what was captured")
		}
	}
	return nil
}

// finish writes what is left, and commits it together with the place it leads to.
func (s *captureSession) finish(ctx context.Context) error {
	end, step := s.end, s.step+1
	if err := s.write(ctx, s.advance(end), query{sql: "commit"}); err != nil {
		return err
	}
	return s.stored(end, step)
}

func (s *captureSession) advance(end pglogrepl.LSN) query {
	return prepared("advance", strconv.FormatInt(s.step+1, 10), end.String(), strconv.FormatInt(s.term, 10), s.slot, strconv.FormatInt(s.cluster, 10))
}

// stored is after the commit.
func (s *captureSession) stored(end pglogrepl.LSN, step int64) error {
	s.open, s.mixed = false, false
	if err := s.at("committed"); err != nil {
		return err
	}
	s.done, s.step, s.end, s.seen = end, step, 0, max(s.seen, end)
	s.stream.Confirm(end)
	s.progress = true
	if s.count.events > 0 {
		s.nudge()
	}
	s.metrics.events.Add(float64(s.count.events))
	s.metrics.transactions.Add(float64(s.count.transactions))
	s.count = captureCount{}
	return s.at("confirmed")
}

// overtaken tells the loss of a race from other errors.
func overtaken(err error, what string) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.ConstraintName == "captured_pkey" {
		return errOvertaken
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// isPoison tells whether an error is of the very values, or the statement, and will be the same
// when it is tried again: not one of the connection, the server or a lock.
func isPoison(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pg.ConstraintName == "captured_pkey" || len(pg.Code) < 2 {
		return false
	}
	if pg.Code == "42501" { // a right that the server's role lacks: nothing is left out for want of a grant
		return false
	}
	switch pg.Code[:2] {
	case "08", "25", "26", "40", "53", "55", "57", "58":
		return false
	}
	return true
}

// blame says what was wrong with a value, without the value, which Postgres quotes: it may be one
// of those that nobody is to see.
func blame(err error) string {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || len(pg.Code) < 2 {
		return err.Error()
	}
	switch pg.Code[:2] {
	case "22":
		text, _, quotes := strings.Cut(pg.Message, "\"")
		if quotes {
			text += "…"
		}
		return text + " (SQLSTATE " + pg.Code + ")"
	case "0A", "42", "54", "XX": // of the statement, not of values
		return err.Error()
	}
	return "SQLSTATE " + pg.Code
}
