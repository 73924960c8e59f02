package replay

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
)

// streamedTx is a large transaction that Postgres sends before it has ended, in blocks among
// those of others. Its events wait in pgcast.stage.
type streamedTx struct {
	xid       uint64
	n         int64 // places given
	staged    int64 // events that must be in the stage
	relations map[uint32]*relation
	shapes    map[uint32][]subshape // of attached tables that it has altered
	touched   map[uint32]bool       // tables
	lossy     bool                  // the images do not tell all that it has changed
	late      []*change             // that can be completed only when it has committed
	lateSize  int
}

// subshape is a shape since a subtransaction.
type subshape struct {
	subxid uint64
	shape  shape
}

func (s *captureSession) streamStart(ctx context.Context, m *pglogrepl.StreamStartMessageV2) error {
	if s.tx != nil || s.streamed != nil {
		return fmt.Errorf("capture: a block of transaction %d begins inside of another", m.Xid)
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	t := s.streams[m.Xid]
	if t == nil {
		t = &streamedTx{xid: s.xid(m.Xid), relations: map[uint32]*relation{}, shapes: map[uint32][]subshape{}, touched: map[uint32]bool{}}
		s.streams[m.Xid] = t
	}
	s.streamed = t
	return nil
}

func (s *captureSession) streamStop(ctx context.Context) error {
	if s.streamed == nil {
		return fmt.Errorf("capture: a block of a transaction ends that has not begun")
	}
	err := s.stage(ctx)
	s.streamed = nil
	return err
}

// stage writes what there is of the block. It is a transaction by itself, on which nothing
// depends until the large one commits.
func (s *captureSession) stage(ctx context.Context) error {
	t, changes := s.streamed, s.changes
	for _, c := range changes {
		c.n = t.n
		t.n += int64(c.places())
	}
	if t.lossy {
		changes = slices.DeleteFunc(slices.Clone(changes), func(c *change) bool { return s.later(t, c) })
	}
	if err := s.complete(ctx, changes); err != nil {
		return err
	}
	groups, err := s.groups(ctx, changes, true)
	if err != nil {
		return err
	}
	before := s.inserted
	if len(groups) > 0 {
		var queries []query
		for _, g := range groups {
			queries = append(queries, g.query(s.id))
		}
		if _, err = s.ask(ctx, queries...); isPoison(err) {
			err = s.isolate(ctx, groups, false, err)
		}
		if err != nil {
			return fmt.Errorf("stage a large transaction: %w", err)
		}
	}
	t.staged += s.inserted - before
	s.drop()
	return s.at("staged")
}

// later puts a change off to the end of its transaction, if it lacks what cannot be known
// before: the row was changed by the transaction itself, and is not remembered.
func (s *captureSession) later(t *streamedTx, c *change) bool {
	if len(c.toast) == 0 {
		return false
	}
	if t.lateSize+c.size <= s.limits.late {
		t.late, t.lateSize = append(t.late, c), t.lateSize+c.size
		return true
	}
	var names list
	for _, i := range c.toast {
		names.value([]byte(c.rel.columns[i].Name))
	}
	c.missing, c.toast = names.end(), nil
	return false
}

// streamCommit moves the events of a large transaction to the log.
func (s *captureSession) streamCommit(ctx context.Context, m *pglogrepl.StreamCommitMessageV2) error {
	t := s.streams[m.Xid]
	if t == nil || s.tx != nil || s.streamed != nil {
		return fmt.Errorf("capture: transaction %d commits, of which the stream has not told", m.Xid)
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	if m.TransactionEndLSN <= s.done {
		return s.forget(ctx, m.Xid, t)
	}
	if err := s.at("stream commit"); err != nil {
		return err
	}
	if t.n > 0 || len(t.shapes) > 0 {
		if err := s.move(ctx, m, t); err != nil {
			return err
		}
	}
	s.seen = max(s.seen, m.TransactionEndLSN)
	// From here on the stream takes it for granted that we know.
	for id, r := range t.relations {
		if was := s.relations[id]; was == nil || was.columnsJSON != r.columnsJSON {
			s.images.forget(id)
		}
		s.relations[id] = r
	}
	if t.lossy {
		for id := range t.touched {
			s.images.forget(id)
		}
		s.images.undo(t.xid, t.xid)
	} else {
		s.images.commit(t.xid)
	}
	delete(s.streams, m.Xid)
	return nil
}

func (s *captureSession) move(ctx context.Context, m *pglogrepl.StreamCommitMessageV2, t *streamedTx) error {
	xid := strconv.FormatUint(t.xid, 10)
	s.unseen = append(s.unseen, xid)
	if _, err := s.enter(ctx, 0); err != nil {
		return err
	}
	if err := s.stageLate(ctx, t); err != nil {
		return err
	}
	session := strconv.FormatInt(s.id, 10)
	queries := []query{prepared("move", string(stamp(m.CommitTime)), session, xid), prepared("unstage", session, xid)}
	for root, shapes := range t.shapes {
		queries = append(queries, shapeQuery(root, shapes[len(shapes)-1].shape))
	}
	results, err := s.ask(ctx, queries...)
	if err != nil {
		return fmt.Errorf("move a large transaction to the log: %w", err)
	}
	if found := results[1].CommandTag.RowsAffected(); found != t.staged {
		return fmt.Errorf("%d events of transaction %s are staged, %d were: somebody has deleted some; capturing it again", found, xid, t.staged)
	}
	if err := s.at("moved"); err != nil {
		return err
	}
	step := s.step + 1
	if _, err := s.ask(ctx, s.advance(m.TransactionEndLSN), query{sql: "commit"}); err != nil {
		return overtaken(err, "commit a large transaction")
	}
	s.count.events += int(results[0].CommandTag.RowsAffected())
	s.count.transactions++
	return s.stored(m.TransactionEndLSN, step)
}

// stageLate stages what could not be completed before the commit.
func (s *captureSession) stageLate(ctx context.Context, t *streamedTx) error {
	for len(t.late) > 0 {
		n := min(len(t.late), s.readsAtOnce())
		changes := t.late[:n]
		t.late = t.late[n:]
		s.reads = n
		if err := s.complete(ctx, changes); err != nil {
			return err
		}
		groups, err := s.groups(ctx, changes, true)
		if err != nil {
			return err
		}
		before := s.inserted
		for _, g := range groups {
			if err := s.halve(ctx, g); err != nil {
				return err
			}
		}
		t.staged += s.inserted - before
	}
	return nil
}

// streamAbort forgets a large transaction, or a part of it, that was rolled back.
func (s *captureSession) streamAbort(ctx context.Context, m *pglogrepl.StreamAbortMessageV2) error {
	t := s.streams[m.Xid]
	if t == nil || s.streamed != nil {
		return nil // nothing of it was for us
	}
	if m.SubXid == m.Xid {
		return s.forget(ctx, m.Xid, t)
	}
	subxid := s.xid(m.SubXid)
	results, err := s.ask(ctx, prepared("undo", strconv.FormatInt(s.id, 10), strconv.FormatUint(t.xid, 10), strconv.FormatUint(subxid, 10)))
	if err != nil {
		return fmt.Errorf("undo a part of a large transaction: %w", err)
	}
	t.staged -= results[0].CommandTag.RowsAffected()
	t.late = slices.DeleteFunc(t.late, func(c *change) bool { return c.subxid == subxid })
	for root, shapes := range t.shapes {
		if t.shapes[root] = slices.DeleteFunc(shapes, func(x subshape) bool { return x.subxid == subxid }); len(t.shapes[root]) == 0 {
			delete(t.shapes, root)
		}
	}
	if s.images.undo(t.xid, subxid) {
		t.lossy = true
	}
	return s.at("undone")
}

func (s *captureSession) forget(ctx context.Context, short uint32, t *streamedTx) error {
	delete(s.streams, short)
	s.images.undo(t.xid, t.xid)
	if t.n == 0 {
		return nil
	}
	if _, err := s.ask(ctx, prepared("unstage", strconv.FormatInt(s.id, 10), strconv.FormatUint(t.xid, 10))); err != nil {
		return fmt.Errorf("forget a large transaction: %w", err)
	}
	return s.at("undone")
}

// reshapedStreamed tells of a new shape inside of a large transaction.
func (s *captureSession) reshapedStreamed(ctx context.Context, r *relation, now shape, tell bool, short uint32) error {
	t, subxid := s.streamed, s.xid(short)
	if err := s.stage(ctx); err != nil {
		return err
	}
	if tell {
		n, err := s.tellShape(ctx, r, nil, t.xid, strconv.AppendUint(nil, subxid, 10), strconv.AppendInt(nil, s.id, 10), strconv.AppendInt(nil, t.n, 10))
		if err != nil {
			return err
		}
		t.n, t.staged = t.n+n, t.staged+n
	}
	t.shapes[r.root] = append(t.shapes[r.root], subshape{subxid, now})
	return nil
}

// stamp prints a time as Postgres reads it.
func stamp(at time.Time) []byte {
	return at.UTC().AppendFormat(nil, "2006-01-02 15:04:05.999999+00")
}
