package pgcast

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Snapshot is the moment at which a topic's rows, or its newest events, were read.
type Snapshot struct {
	// Seq is the place in the topic from which what follows is to be read, Position the
	// whole log's at the same moment.
	Seq      Seq
	Position Position
	// AsOf tells which of the events after Seq the snapshot holds already. Zero for a topic
	// that no table makes events of: there it is none of them.
	AsOf AsOf
}

// Row is a part of a snapshot: a row of a table, or an event.
type Row struct {
	Table string // with its schema; empty for an event
	// Data is the row as its events have it. Nil where it is larger than the reader's limit;
	// then Key is what tells it from the table's other rows, or nil if nothing does.
	Data, Key json.RawMessage
	Event     *Event
}

// AsOf is what a snapshot holds: everything that the transactions have written which were
// committed when it was taken. It means something on one cluster and timeline only.
type AsOf struct {
	Cluster    string // and timeline, as the sessions' ids have them
	xmin, xmax uint64 // all before xmin were over; none from xmax on
	xip        []uint64
}

// MaxAsOf is the most bytes that an AsOf has as text. Some 350 transactions that write at
// the same moment fit in.
const MaxAsOf = 4096

// MakeAsOf makes an AsOf of a cluster's identity and the text of a pg_snapshot. The error
// has code too_large where more transactions are open than MaxAsOf has room for.
func MakeAsOf(cluster, snapshot string) (AsOf, error) {
	text := cluster + "/" + snapshot
	if len(text) > MaxAsOf {
		return AsOf{}, &Error{Code: CodeTooLarge, Message: "too many transactions are open at once for a snapshot", Hint: "try again"}
	}
	return ParseAsOf(text)
}

// ParseAsOf reads what String wrote. Errors have code bad_frame.
func ParseAsOf(text string) (AsOf, error) {
	bad := &Error{Code: CodeBadFrame, Message: fmt.Sprintf("%.60q is not the asOf of a snapshot", text), Hint: "send it back as it came"}
	cluster, snapshot, found := strings.Cut(text, "/")
	parts := strings.Split(snapshot, ":")
	if !found || len(text) > MaxAsOf || len(parts) != 3 || len(cluster) > 64 {
		return AsOf{}, bad
	}
	a := AsOf{Cluster: cluster}
	var low, high, open error
	a.xmin, low = strconv.ParseUint(parts[0], 10, 64)
	a.xmax, high = strconv.ParseUint(parts[1], 10, 64)
	if parts[2] != "" {
		a.xip = make([]uint64, 0, 1+strings.Count(parts[2], ","))
		for item := range strings.SplitSeq(parts[2], ",") {
			xid, err := strconv.ParseUint(item, 10, 64)
			if err != nil || xid < a.xmin || xid >= a.xmax || len(a.xip) > 0 && xid <= a.xip[len(a.xip)-1] {
				open = bad
			}
			a.xip = append(a.xip, xid)
		}
	}
	// In no other writing than Postgres' own, so that a text says what it says once.
	if low != nil || high != nil || open != nil || a.xmin == 0 || a.xmin > a.xmax || a.String() != text {
		return AsOf{}, bad
	}
	return a, nil
}

// IsZero reports whether it is no snapshot's.
func (a AsOf) IsZero() bool { return a.xmax == 0 }

// String is the form that is sent: opaque to clients, at most MaxAsOf bytes of ASCII.
func (a AsOf) String() string {
	if a.IsZero() {
		return ""
	}
	b := append([]byte(a.Cluster), '/')
	b = append(strconv.AppendUint(b, a.xmin, 10), ':')
	b = append(strconv.AppendUint(b, a.xmax, 10), ':')
	for i, xid := range a.xip {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, xid, 10)
	}
	return string(b)
}

// Equal reports whether both are the same moment's.
func (a AsOf) Equal(b AsOf) bool { return a.String() == b.String() }

// Holds tells whether the snapshot holds what a transaction has written.
func (a AsOf) Holds(xid uint64) bool {
	switch {
	case xid >= a.xmax:
		return false
	case xid < a.xmin:
		return xid != 0
	}
	_, open := slices.BinarySearch(a.xip, xid)
	return !open
}
