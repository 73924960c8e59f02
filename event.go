package pgcast

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Seq is an event's place in its topic: 1, 2, 3 … without holes. 0 is the place
// before the first event, so "everything after 0" is the whole topic.
type Seq int64

// Position is an event's place in the whole log, over all topics, without holes.
// Pattern subscriptions and following servers resume by it. 0 is before the first.
type Position int64

// ID names one event for ever. It is opaque on the wire and never reused, not even
// after a restore from an older copy: it carries the row's identity number, which a
// restored sequence may hand out again, and its creation time in microseconds, which
// will then differ.
type ID string

// MakeID builds the ID of the event_log row with the given identity number and
// creation time. pgcast.event_id() in SQL builds the same text.
func MakeID(row int64, createdAt time.Time) ID {
	return ID(strconv.FormatInt(row, 16) + "-" + strconv.FormatInt(createdAt.UnixMicro(), 16))
}

// Parts takes an ID apart again. ok is false for a text MakeID cannot have made.
func (id ID) Parts() (row int64, createdAt time.Time, ok bool) {
	a, b, found := strings.Cut(string(id), "-")
	if !found {
		return 0, time.Time{}, false
	}
	row, err := strconv.ParseInt(a, 16, 64)
	if err != nil || row < 0 {
		return 0, time.Time{}, false
	}
	micros, err := strconv.ParseInt(b, 16, 64)
	if err != nil || MakeID(row, time.UnixMicro(micros)) != id { // such as +1-01
		return 0, time.Time{}, false
	}
	return row, time.UnixMicro(micros), true
}

// The names of the events that capture makes of a table's writes.
const (
	Created   = "created"
	Updated   = "updated"
	Deleted   = "deleted"
	Truncated = "truncated"
)

// Gone is the event that stands in the place of another one whose row is not, or not any
// more, to be seen: of it there is nothing but the key, in Old.
const Gone = "gone"

// Event is one immutable fact in a topic.
type Event struct {
	Topic string
	Name  string // "created", "updated", "deleted", "truncated", or what publish was given
	// Data is the row, or what was published, as JSON. Nil stands for JSON null, and
	// for a payload that was not read because it is Oversize.
	Data json.RawMessage
	// Old is the key the row had before an update or delete, with the old values too
	// where the attachment captures them. Nil for everything else.
	Old       json.RawMessage
	Seq       Seq
	Position  Position
	ID        ID
	CreatedAt time.Time // when the write made it, by the database's clock
	// XID is the transaction that made it, by which a snapshot tells whether it holds it
	// already. It means something on one cluster only, and is not on the wire.
	XID uint64
	// Oversize says that Data (and Old) are larger than the reader's limit and were
	// left out; the view pgcast.history has them.
	Oversize bool
}
