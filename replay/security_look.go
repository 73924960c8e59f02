package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
)

// RowLens is how a topic, or a pattern, is shown to callers who have some claims in common.
type RowLens struct {
	security *Security
	tables   []*secured // that the topic may be of; none: nothing was read yet
	claims   map[string]json.RawMessage
	key      string
}

// Key names what is seen: the same for all lenses of a topic through which the same is seen.
func (l *RowLens) Key() string { return l.key }

// ofTables are the events that tell something of a whole table, and of none of its rows.
var ofTables = []string{pgcast.Truncated, "altered", "schema", "reset", "degraded", "recovered", pgcast.Gone}

// Look gives for each event the event itself, if its row passes as it is now; [pgcast.Gone] with
// the key, if it does not or is not there any more; and that with an empty key for an event that
// says not which row it is about. What could not be checked is an error, and matches
// [pgcast.ErrUnavailable].
func (l *RowLens) Look(ctx context.Context, events []*pgcast.Event) ([]*pgcast.Event, error) {
	if len(l.tables) == 0 {
		return nil, errNotLoaded
	}
	seen := make([]*pgcast.Event, len(events))
	asks := map[*secured]*asking{}
	for i, e := range events {
		t, several := l.of(e.Topic)
		switch {
		case t != nil && !several && e.Old == nil && (e.Name == "altered" || e.Name == "schema"):
			l.security.stale.Store(true)
			seen[i] = e
		case several: // a hashed name, of which nobody knows whose it is
			seen[i] = gone(e, noKey)
		case t == nil, e.Old == nil && slices.Contains(ofTables, e.Name):
			seen[i] = e
		default:
			if asks[t] == nil {
				asks[t] = &asking{table: t, numbers: map[string]int{}}
			}
			asks[t].events = append(asks[t].events, subject{place: i, event: e})
		}
	}
	for t, a := range asks {
		if err := a.read(ctx, l.security); err != nil {
			return nil, fmt.Errorf("read which rows of %s changed: %w", t.Name, err)
		}
		visible, err := l.visible(ctx, t, a.keys)
		if err != nil {
			return nil, err
		}
		for _, s := range a.events {
			if seen[s.place] = s.shown(t, visible); seen[s.place] != s.event {
				l.security.metrics.refused.Inc()
			}
		}
	}
	return seen, nil
}

// Try implements fanout's QuickLens: events of other tables, and of none, need no check.
func (l *RowLens) Try(events []*pgcast.Event) ([]*pgcast.Event, bool) {
	if len(l.tables) == 0 {
		return nil, false
	}
	for _, e := range events {
		if t, _ := l.of(e.Topic); t != nil {
			return nil, false
		}
	}
	return events, true
}

var errNotLoaded = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "it is not known yet whose rows may be shown to whom", Hint: "try again in a moment"}

// of gives the table that a topic's events are of; nil for any other topic. Only of a hashed
// name there may be several.
func (l *RowLens) of(topic string) (t *secured, several bool) {
	for _, x := range l.tables {
		if x.topics.MatchString(topic) {
			t, several = x, t != nil
		}
		if several {
			break
		}
	}
	return t, several
}

// asking is what is asked of one table.
type asking struct {
	table   *secured
	events  []subject
	keys    []string // each an object with members 1, 2 and so on
	numbers map[string]int
}

// subject is an event and what it is about.
type subject struct {
	place    int
	event    *pgcast.Event
	now, was []json.RawMessage // values of the key; nil: it has none
	number   int               // of now, among those asked about; 0: it is not
}

// read finds out which rows the events are about.
func (a *asking) read(ctx context.Context, s *Security) error {
	var unread []int64
	for i := range a.events {
		x := &a.events[i]
		x.now, x.was = keyOf(x.event.Data, a.table.Key), keyOf(x.event.Old, a.table.Key)
		if x.event.Oversize && x.event.Data == nil && x.event.Old == nil {
			unread = append(unread, int64(x.event.Position))
		}
	}
	if len(unread) > 0 {
		// Their payload was left out.
		release, err := s.slot(ctx)
		if err != nil {
			return err
		}
		defer release()
		rows, err := s.log.queries.EnforcementKeys(ctx, db.EnforcementKeysParams{Key: a.table.Key, Positions: unread})
		if err != nil {
			return unavailable("read the keys of large events", err)
		}
		for _, r := range rows {
			for i := range a.events {
				if x := &a.events[i]; int64(x.event.Position) == r.Position && x.event.Oversize {
					x.now, x.was = complete(r.New), complete(r.Old)
				}
			}
		}
	}
	for i := range a.events {
		x := &a.events[i]
		if x.event.Name == pgcast.Deleted || x.now == nil {
			continue
		}
		key := numbered(x.now)
		n, known := a.numbers[key]
		if !known {
			a.keys = append(a.keys, key)
			n = len(a.keys)
			a.numbers[key] = n
		}
		x.number = n
	}
	return nil
}

// shown is what is shown of the event.
func (x *subject) shown(t *secured, visible map[int]bool) *pgcast.Event {
	if x.number > 0 && visible[x.number] {
		return x.event
	}
	switch {
	case x.was != nil: // under which the client may have it
		return gone(x.event, named(t.Key, x.was))
	case x.now != nil:
		return gone(x.event, named(t.Key, x.now))
	}
	return gone(x.event, noKey)
}

// noKey is the key of no row. The event is there all the same: clients count them.
var noKey = json.RawMessage("{}")

// gone is what stands in the place of an event.
func gone(e *pgcast.Event, key json.RawMessage) *pgcast.Event {
	other := *e
	other.Name, other.Data, other.Old, other.Oversize = pgcast.Gone, nil, key, false
	return &other
}

// keyOf gives the values of a row's key; nil if one is missing.
func keyOf(row json.RawMessage, names []string) []json.RawMessage {
	if len(row) == 0 || row[0] != '{' {
		return nil
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(row, &members) != nil {
		return nil
	}
	list := make([]json.RawMessage, len(names))
	for i, name := range names {
		if list[i] = members[name]; len(list[i]) == 0 || bytes.Equal(list[i], []byte("null")) {
			return nil
		}
	}
	return list
}

// complete reads an array of a key's values; nil if one is missing.
func complete(text []byte) (list []json.RawMessage) {
	if json.Unmarshal(text, &list) != nil {
		return nil
	}
	for _, v := range list {
		if len(v) == 0 || bytes.Equal(v, []byte("null")) {
			return nil
		}
	}
	return list
}

// numbered makes an object of a key's values, with their numbers as names.
func numbered(values []json.RawMessage) string {
	names := make([]string, len(values))
	for i := range values {
		names[i] = fmt.Sprint(i + 1)
	}
	return string(named(names, values))
}

func named(names []string, values []json.RawMessage) json.RawMessage {
	b := []byte{'{'}
	for i, name := range names {
		if i > 0 {
			b = append(b, ',')
		}
		text, _ := json.Marshal(name) // a string always can be
		b = append(append(append(b, text...), ':'), values[i]...)
	}
	return append(b, '}')
}
