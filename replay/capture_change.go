package replay

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
)

// change is what became of one row.
type change struct {
	op     byte // I, U or D
	rel    *relation
	xid    uint64
	subxid uint64
	at     time.Time // of the commit; zero: not known yet
	n      int64     // its place: an id, or the order in its large transaction
	new    [][]byte  // nil is null
	old    [][]byte
	size   int

	// Columns of new whose large value was not changed, and so not sent. Once it is sure that
	// they cannot be known, they are missing.
	toast   []int
	missing []byte
	key     string // of the row in the images
}

// places is how many numbers a change may use: an update that moves a row to another topic is
// two events.
func (c *change) places() int {
	if c.op == 'U' {
		return 2
	}
	return 1
}

func allPlaces(changes []*change) (n int) {
	for _, c := range changes {
		n += c.places()
	}
	return n
}

// changed takes one row's change from the stream.
func (s *captureSession) changed(ctx context.Context, op byte, id, subxid uint32, now, was *pglogrepl.TupleData, kind uint8) error {
	rel := s.find(id)
	if rel == nil {
		return fmt.Errorf("capture: the stream has a change of table %d, of which it has not told", id)
	}
	c := &change{op: op, rel: rel, size: 128}
	switch {
	case s.streamed != nil:
		c.xid, c.subxid = s.streamed.xid, s.xid(subxid)
	case s.tx != nil && !s.tx.captured:
		c.xid, c.at = s.tx.xid, s.tx.at
	case s.tx != nil:
		return nil
	default:
		return fmt.Errorf("capture: the stream has a change outside of a transaction")
	}
	if rel.isPublished && op != 'I' {
		return nil // our own
	}
	if err := c.read(now, was, kind); err != nil {
		return err
	}
	s.images.follow(c, s.streamed)
	if s.streamed == nil {
		s.want()
	} else {
		s.streamed.touched[rel.id] = true
	}
	return s.add(ctx, c)
}

// want notes that the transaction has something for us.
func (s *captureSession) want() {
	if s.tx.wanted {
		return
	}
	s.tx.wanted = true
	s.unseen = append(s.unseen, strconv.FormatUint(s.tx.xid, 10))
}

// read fills in the values.
func (c *change) read(now, was *pglogrepl.TupleData, kind uint8) error {
	width := len(c.rel.columns)
	if now != nil && len(now.Columns) != width || was != nil && len(was.Columns) != width {
		return fmt.Errorf("capture: a row of %s has another number of columns than the stream has told", c.rel)
	}
	if was != nil {
		c.old = make([][]byte, width)
		for i, v := range was.Columns {
			if v.DataType == pglogrepl.TupleDataTypeText {
				c.old[i] = v.Data
				c.size += len(v.Data) + 8
			}
		}
	}
	if now != nil {
		c.new = make([][]byte, width)
		for i, v := range now.Columns {
			switch {
			case v.DataType == pglogrepl.TupleDataTypeText:
				c.new[i] = v.Data
				c.size += len(v.Data) + 8
			case v.DataType == pglogrepl.TupleDataTypeNull:
			case v.DataType != pglogrepl.TupleDataTypeToast:
				return fmt.Errorf("capture: a value of %s is of the unknown kind %q", c.rel, v.DataType)
			case was != nil && (kind == pglogrepl.UpdateMessageTupleTypeOld || c.rel.columns[i].Key):
				c.new[i] = c.old[i]
			default:
				c.toast = append(c.toast, i)
			}
		}
	}
	if c.op != 'U' {
		return nil
	}
	switch {
	case was == nil:
		c.old = c.new
	case kind == pglogrepl.UpdateMessageTupleTypeKey:
		for i, col := range c.rel.columns {
			if !col.Key {
				c.old[i] = c.new[i]
			}
		}
	}
	return nil
}

// group is the changes that one statement writes.
type group struct {
	rel       *relation
	statement *statement
	changes   []*change
}

// groups sorts changes by what writes them: their places are in them, so that the order of
// the statements does not matter.
func (s *captureSession) groups(ctx context.Context, changes []*change, staged bool) (list []*group, err error) {
	type kind struct {
		rel *relation
		op  byte
	}
	of := map[kind]*group{}
	for _, c := range changes {
		g := of[kind{c.rel, c.op}]
		if g == nil {
			st, err := s.statement(ctx, c.rel, c.op, staged)
			if err != nil {
				return nil, err
			}
			g = &group{rel: c.rel, statement: st}
			of[kind{c.rel, c.op}] = g
			list = append(list, g)
		}
		g.changes = append(g.changes, c)
	}
	for _, g := range list {
		if g.statement.err != nil {
			if err := s.poisoned(ctx, g.rel, len(g.changes), g.statement.err); err != nil {
				return nil, err
			}
		}
	}
	return slices.DeleteFunc(list, func(g *group) bool { return g.statement.name == "" || g.statement.err != nil }), nil
}

// query gives the statement with its parameters, see decoded_sql in migrations.
func (g *group) query(session int64) query {
	width := len(g.rel.columns)
	var n, at, xid, subxid, missing list
	var columns []list
	if g.changes[0].op == 'U' {
		columns = make([]list, 2*width)
	} else {
		columns = make([]list, width)
	}
	for _, c := range g.changes {
		n.number(uint64(c.n))
		if c.at.IsZero() {
			at.value(nil)
		} else {
			at.value(stamp(c.at))
		}
		xid.number(c.xid)
		subxid.number(c.subxid)
		missing.value(c.missing)
		switch c.op {
		case 'I':
			values(columns, c.new)
		case 'D':
			values(columns, c.old)
		default:
			values(columns[:width], c.new)
			values(columns[width:], c.old)
		}
	}
	q := query{name: g.statement.name, args: make([][]byte, 0, 6+len(columns))}
	q.args = append(q.args, n.end(), at.end(), xid.end(), subxid.end(), strconv.AppendInt(nil, session, 10), missing.end())
	for i := range columns {
		q.args = append(q.args, columns[i].end())
	}
	return q
}

func values(columns []list, row [][]byte) {
	for i := range columns {
		columns[i].value(row[i])
	}
}

// list is an array as Postgres reads it.
type list []byte

func (l *list) next() {
	if len(*l) == 0 {
		*l = append(*l, '{')
	} else {
		*l = append(*l, ',')
	}
}

func (l *list) number(n uint64) {
	l.next()
	*l = strconv.AppendUint(*l, n, 10)
}

// value adds an element; nil is null.
func (l *list) value(v []byte) {
	l.next()
	if v == nil {
		*l = append(*l, "NULL"...)
		return
	}
	*l = slices.Grow(*l, len(v)+2)
	*l = append(*l, '"')
	for _, b := range v {
		if b == '"' || b == '\\' {
			*l = append(*l, '\\')
		}
		*l = append(*l, b)
	}
	*l = append(*l, '"')
}

func (l *list) end() []byte {
	if len(*l) == 0 {
		return []byte("{}")
	}
	return append(*l, '}')
}
