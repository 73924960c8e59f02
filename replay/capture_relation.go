package replay

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/db"
)

// relation is a table in one of its shapes, as the stream tells it.
type relation struct {
	id          uint32
	schema      string
	name        string
	isPublished bool // pgcast.published
	columns     []column
	columnsJSON string
	keys        []int // places of the key's columns; none where the whole row is the key
	full        bool  // REPLICA IDENTITY FULL
	mayLeaveOut bool  // it has columns whose values may be left out when they are large
	root        uint32
	made        *statements // one for all that the stream tells of the same shape
	degraded    time.Time   // when that was told
}

type column struct {
	Name string `json:"name"`
	Type uint32 `json:"type"`
	Mod  int32  `json:"mod"`
	Key  bool   `json:"key"`
}

type statementKey struct {
	op     byte
	staged bool
}

// statement is a prepared one. Without a name, nothing becomes of the changes; with err, that
// is because it could not be made.
type statement struct {
	name, sql string
	err       error
}

// statements are those for one shape of a table. Changes that are not written yet know them by
// this pointer: what is forgotten is forgotten for all.
type statements struct {
	now    map[statementKey]*statement
	former map[statementKey]*statement // of an attachment that was altered since
	reads  map[string]string           // those that read large values, by what is wanted
}

func newStatements() *statements {
	return &statements{map[statementKey]*statement{}, map[statementKey]*statement{}, map[string]string{}}
}

// renew has them made anew.
func (st *statements) renew() {
	maps.Copy(st.former, st.now)
	clear(st.now)
	clear(st.reads)
}

func (r *relation) String() string { return r.schema + "." + r.name }

func newRelation(m *pglogrepl.RelationMessage) (*relation, error) {
	r := &relation{id: m.RelationID, schema: m.Namespace, name: m.RelationName, full: m.ReplicaIdentity == 'f', made: newStatements()}
	if r.schema == "" {
		r.schema = "pg_catalog"
	}
	r.isPublished = r.schema == "pgcast" && r.name == "published"
	for i, c := range m.Columns {
		r.columns = append(r.columns, column{c.Name, c.DataType, c.TypeModifier, c.Flags&1 != 0})
		r.mayLeaveOut = r.mayLeaveOut || !neverOutOfLine[c.DataType]
		if c.Flags&1 != 0 && !r.full {
			r.keys = append(r.keys, i)
		}
	}
	text, err := json.Marshal(r.columns)
	r.columnsJSON = string(text)
	return r, err
}

// shape is what is remembered of the columns.
func (r *relation) shape() shape {
	s := shape{}
	for _, c := range r.columns {
		s[c.Name] = [2]int64{int64(c.Type), int64(c.Mod)}
	}
	return s
}

// shape is the columns with their types and modifiers.
type shape map[string][2]int64

func (s shape) equal(other shape) bool {
	if len(s) != len(other) {
		return false
	}
	for name, t := range s {
		if o, ok := other[name]; !ok || o != t {
			return false
		}
	}
	return true
}

// find gives a table as it is where the stream is.
func (s *captureSession) find(id uint32) *relation {
	if s.streamed != nil {
		if r := s.streamed.relations[id]; r != nil {
			return r
		}
	}
	return s.relations[id]
}

// relation takes what the stream tells of a table before its first row, and whenever that may
// have changed. If it has, the topics learn of it before the first row of the new shape.
func (s *captureSession) relation(ctx context.Context, m *pglogrepl.RelationMessageV2) error {
	r, err := newRelation(&m.RelationMessage)
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	known := s.find(r.id)
	if s.streamed != nil {
		s.streamed.relations[r.id] = r
	} else {
		s.relations[r.id] = r
		s.images.forget(r.id)
	}
	var found []db.CaptureTablesRow
	if !r.isPublished {
		if found, err = db.New(s.conn).CaptureTables(ctx, int64(r.id)); err != nil {
			return fmt.Errorf("find the attached table of %s: %w", r, err)
		}
	}
	if len(found) > 0 {
		r.root = uint32(found[0].Root)
	}
	if known != nil && known.columnsJSON == r.columnsJSON && known.full == r.full && (known.root == r.root || r.root == 0) {
		r.root, r.made, r.degraded = known.root, known.made, known.degraded
	}
	if len(found) == 0 {
		return nil
	}
	was, now := shape{}, r.shape()
	if text := found[0].Decoded; text != "" {
		if err := json.Unmarshal([]byte(text), &was); err != nil {
			return fmt.Errorf("read the shape of %s: %w", r, err)
		}
	}
	if s.streamed != nil {
		if pending := s.streamed.shapes[r.root]; len(pending) > 0 {
			was = pending[len(pending)-1].shape
		}
	}
	if now.equal(was) || s.tx != nil && s.tx.captured {
		return nil
	}
	if s.streamed != nil {
		return s.reshapedStreamed(ctx, r, now, len(was) > 0, m.Xid)
	}
	return s.reshaped(ctx, r, now, len(was) > 0)
}

// reshaped tells of a new shape, in the transaction that stores it.
func (s *captureSession) reshaped(ctx context.Context, r *relation, now shape, tell bool) error {
	s.want()
	if err := s.write(ctx); err != nil {
		return err
	}
	if tell {
		if _, err := s.tellShape(ctx, r, stamp(s.tx.at), s.tx.xid, nil, nil, nil); err != nil {
			return err
		}
	}
	_, err := s.ask(ctx, shapeQuery(r.root, now))
	if err != nil {
		return fmt.Errorf("store the shape of %s: %w", r, err)
	}
	return nil
}

func shapeQuery(root uint32, now shape) query {
	text, _ := json.Marshal(now) // of strings and numbers
	return prepared("shape", string(text), strconv.FormatUint(uint64(root), 10))
}

// tellShape writes the events, into the log or the stage, and tells how many.
func (s *captureSession) tellShape(ctx context.Context, r *relation, at []byte, xid uint64, subxid, session, n []byte) (int64, error) {
	return s.tally(ctx, r, query{sql: "select pgcast.schema_changed($1::oid, $2::jsonb, $3::timestamptz, $4::xid8, $5::bigint, $6::bigint, $7::bigint)",
		args: [][]byte{strconv.AppendUint(nil, uint64(r.id), 10), []byte(r.columnsJSON), at, strconv.AppendUint(nil, xid, 10), subxid, session, n}})
}

// tally runs a function that writes events and returns how many. One that fails must not hold
// up the rest.
func (s *captureSession) tally(ctx context.Context, r *relation, q query) (int64, error) {
	queries, at := []query{q}, 0
	if s.open {
		queries, at = []query{{sql: "savepoint one"}, q, {sql: "release one"}}, 1
	}
	results, err := s.ask(ctx, queries...)
	if isPoison(err) {
		if s.open {
			if _, undo := s.ask(ctx, query{sql: "rollback to one"}); undo != nil {
				return 0, undo
			}
		}
		return 0, s.poisoned(ctx, r, 1, err)
	}
	if err != nil {
		return 0, fmt.Errorf("tell what has become of %s: %w", r, err)
	}
	return count(results[at])
}

func count(r *pgconn.Result) (int64, error) {
	if len(r.Rows) == 0 || r.Rows[0][0] == nil {
		return 0, nil
	}
	return strconv.ParseInt(string(r.Rows[0][0]), 10, 64)
}

// truncated takes a TRUNCATE, which may be of several tables, and names partitions one by one.
func (s *captureSession) truncated(ctx context.Context, m *pglogrepl.TruncateMessageV2) error {
	if s.tx != nil && s.tx.captured || len(m.RelationIDs) == 0 {
		return nil
	}
	if s.streamed != nil {
		if err := s.stage(ctx); err != nil {
			return err
		}
	} else {
		s.want()
		if err := s.write(ctx); err != nil {
			return err
		}
	}
	var ids list
	for _, id := range m.RelationIDs {
		ids.number(uint64(id))
		if s.streamed != nil {
			s.streamed.touched[id] = true
		} else {
			s.images.forget(id)
		}
	}
	results, err := s.ask(ctx, query{sql: db.CaptureTruncated, args: [][]byte{ids.end()}})
	if err != nil {
		return fmt.Errorf("find whose topics are told of a TRUNCATE: %w", err)
	}
	rel := s.find(m.RelationIDs[0])
	if rel == nil {
		return fmt.Errorf("capture: the stream has a TRUNCATE of table %d, of which it has not told", m.RelationIDs[0])
	}
	for _, row := range results[0].Rows {
		if err := s.tellTruncate(ctx, rel, row[0], m.Xid); err != nil {
			return err
		}
	}
	return nil
}

func (s *captureSession) tellTruncate(ctx context.Context, rel *relation, id []byte, short uint32) error {
	args := [][]byte{id, nil, nil, nil, nil, nil}
	if t := s.streamed; t != nil {
		args[2], args[3] = strconv.AppendUint(nil, t.xid, 10), strconv.AppendUint(nil, s.xid(short), 10)
		args[4], args[5] = strconv.AppendInt(nil, s.id, 10), strconv.AppendInt(nil, t.n, 10)
	} else {
		args[1], args[2] = stamp(s.tx.at), strconv.AppendUint(nil, s.tx.xid, 10)
	}
	n, err := s.tally(ctx, rel, query{sql: "select pgcast.truncated($1::oid, $2::timestamptz, $3::xid8, $4::bigint, $5::bigint, $6::bigint)", args: args})
	if err != nil {
		return err
	}
	if t := s.streamed; t != nil {
		t.n, t.staged = t.n+n, t.staged+n
	}
	return nil
}
