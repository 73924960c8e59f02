package filter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
)

// The names of the events that stand for a row coming into a filter or going out of it.
const (
	Entered = "entered" // data is the row
	Gone    = "gone"    // old is the row's key
)

// Lens shows what a filter selects of what another lens shows, or, where that is nil, of what
// there is; snapshots are then read from a source, which may be nil if there are none. tables
// say what is the key of a row.
func Lens(f *Filter, inner fanout.Lens, source fanout.Snapshots, tables *Tables) fanout.Lens {
	return &lens{f, inner, source, tables}
}

type lens struct {
	filter *Filter
	inner  fanout.Lens
	source fanout.Snapshots
	tables *Tables
}

// Inner is the lens through which is seen what the filter selects of; nil: there is none.
func (l *lens) Inner() fanout.Lens { return l.inner }

// Key implements [fanout.Lens].
func (l *lens) Key() string {
	key := "filter " + l.filter.String()
	if l.inner != nil {
		key += "\x00" + l.inner.Key()
	}
	return key
}

// Look implements [fanout.Lens].
func (l *lens) Look(ctx context.Context, events []*pgcast.Event) ([]*pgcast.Event, error) {
	shown := events
	if l.inner != nil {
		var err error
		if shown, err = l.inner.Look(ctx, events); err != nil {
			return nil, err
		}
	}
	return l.see(shown, func() ([]pgcast.Table, error) { return l.tables.all(ctx) })
}

// Try implements [fanout.QuickLens].
func (l *lens) Try(events []*pgcast.Event) ([]*pgcast.Event, bool) {
	if l.inner != nil {
		quick, is := l.inner.(fanout.QuickLens)
		if !is {
			return nil, false
		}
		var ok bool
		if events, ok = quick.Try(events); !ok {
			return nil, false
		}
	}
	seen, err := l.see(events, func() ([]pgcast.Table, error) {
		list, ok := l.tables.known()
		if !ok {
			return nil, errNotKnown
		}
		return list, nil
	})
	return seen, err == nil
}

var errNotKnown = errors.New("the attached tables have to be looked up")

// see gives what the filter shows of events.
func (l *lens) see(shown []*pgcast.Event, tables func() ([]pgcast.Table, error)) ([]*pgcast.Event, error) {
	seen := make([]*pgcast.Event, len(shown))
	for i, e := range shown {
		if e == nil {
			continue
		}
		switch l.filter.see(e) {
		case asItIs:
			seen[i] = e
		case comesIn:
			other := *e
			other.Name = Entered
			seen[i] = &other
		case goesOut:
			other := *e
			other.Name, other.Data = Gone, nil
			list, err := tables()
			if err != nil {
				return nil, err
			}
			other.Old = keyOf(e, list)
			seen[i] = &other
		}
	}
	return seen, nil
}

// Snapshot implements [fanout.Lens].
func (l *lens) Snapshot(ctx context.Context, topic string, begin func(pgcast.Snapshot) error, take func(pgcast.Row) error) error {
	source := l.source
	if l.inner != nil {
		source = l.inner
	}
	if source == nil {
		return &pgcast.Error{Code: pgcast.CodeUnsupported, Message: "this server has no snapshots"}
	}
	return source.Snapshot(ctx, topic, begin, func(r pgcast.Row) error {
		if !l.filter.holds(r) {
			return nil
		}
		return take(r)
	})
}

// holds tells whether a part of a snapshot is shown.
func (f *Filter) holds(r pgcast.Row) bool {
	switch {
	case r.Event != nil:
		return r.Event.Oversize || f.see(r.Event) == asItIs
	case r.Data == nil: // it is too large, and only the key is there to judge it by
		return f.May(r.Key)
	}
	return f.Match(r.Data)
}

// sight is what is seen of an event through a filter.
type sight int

const (
	unseen sight = iota
	asItIs
	comesIn
	goesOut
)

// see judges an event. What cannot be judged is shown: an event that is too large comes
// without its data, and a row of which old values are missing may have been in sight.
func (f *Filter) see(e *pgcast.Event) sight {
	is := func(shown bool) sight {
		if shown {
			return asItIs
		}
		return unseen
	}
	switch {
	case e.Oversize, ofTable(e):
		return asItIs
	case e.Name == pgcast.Deleted && e.Old == nil:
		return is(f.May(e.Data)) // published by hand: it says what is gone, not what it was like
	case e.Old == nil:
		return is(f.Match(e.Data))
	case e.Name == pgcast.Deleted, e.Name == Gone:
		return is(f.May(e.Old))
	}
	now, before := f.Match(e.Data), f.May(e.Old)
	switch {
	case now && f.Match(e.Old), now && !f.knows(e):
		return asItIs
	case now:
		return comesIn
	case before:
		return goesOut
	}
	return unseen
}

// knows tells whether the old values of a row have all that the filter looks at in the new.
func (f *Filter) knows(e *pgcast.Event) bool {
	now, old := f.read(e.Data), f.read(e.Old)
	defer f.done(now)
	defer f.done(old)
	for i, has := range now.has {
		if has && !old.has[i] {
			return false
		}
	}
	return true
}

// ofTable tells whether an event says something about a table and not about a row: of these
// each subscriber is told.
func ofTable(e *pgcast.Event) bool {
	switch e.Name {
	case pgcast.Truncated:
		return true
	case Gone:
		return e.Old == nil && e.Data == nil
	case "degraded", "recovered", "altered", "schema", "reset":
		return e.Old == nil && tableMember.Match(e.Data)
	}
	return false
}

// tableMember selects data that names a table.
var tableMember = func() *Filter {
	f, err := Parse("table is not null")
	if err != nil {
		panic(err)
	}
	return f
}()

// keyOf gives the key in what an event has of its row's old values.
func keyOf(e *pgcast.Event, list []pgcast.Table) json.RawMessage {
	p, err := pgcast.ParsePattern(e.Topic)
	if err != nil {
		return e.Old // of the server's own
	}
	var keys []string
	for i := range list {
		if t := &list[i]; t.Feeds(p) {
			for _, name := range t.Key {
				if !slices.Contains(keys, name) {
					keys = append(keys, name)
				}
			}
		}
	}
	if keys == nil {
		keys = []string{"id"} // the table is not attached any more
	}
	return reduced(e.Old, keys)
}

// reduced gives an object with some of its members only.
func reduced(object json.RawMessage, names []string) json.RawMessage {
	tree := make(members, len(names))
	d := &doc{vals: make([][]byte, len(names)), has: make([]bool, len(names))}
	for i, name := range names {
		tree[i] = want{name: name, slot: i, top: i}
	}
	(&scanner{text: object}).find(&tree, d)
	var b bytes.Buffer
	for i, v := range d.vals {
		if v == nil {
			continue
		}
		before := byte(',')
		if b.Len() == 0 {
			before = '{'
		}
		b.WriteByte(before)
		name, _ := json.Marshal(names[i]) // a string always can be
		b.Write(name)
		b.WriteByte(':')
		b.Write(v)
	}
	if b.Len() == 0 {
		return json.RawMessage("{}")
	}
	b.WriteByte('}')
	return b.Bytes()
}

// fits is Check, given the tables.
func (f *Filter) fits(p pgcast.Pattern, tables []pgcast.Table) error {
	for i := range tables {
		t := &tables[i]
		if t.Old || !t.Feeds(p) {
			continue
		}
		for _, name := range f.names {
			if slices.Contains(t.Columns, name) && !slices.Contains(t.Key, name) {
				return invalid("have it attached so: "+t.Mend, "it looks at %q, of which table %s captures no old values", name, t.Name)
			}
		}
	}
	return nil
}
