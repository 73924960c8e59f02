package wire

import (
	"encoding/json"

	"github.com/pgcast/pgcast"
)

// Type is the value of a frame's member "type".
type Type string

// Types of client frames. Reply is reserved: a server answers it with error, code
// unsupported.
const (
	Hello          Type = "hello"
	Auth           Type = "auth"
	Subscribe      Type = "subscribe"
	SubscribeBatch Type = "subscribe-batch"
	Unsubscribe    Type = "unsubscribe"
	Resume         Type = "resume"
	Publish        Type = "publish"
	History        Type = "history" // also the server's answer
	Replay         Type = "replay"

	Presence       Type = "presence" // also the server's answer
	Cursor         Type = "cursor"
	CursorSnapshot Type = "cursor-snapshot"
	Group          Type = "group" // also the server's answer

	Reply Type = "reply"
)

// Types of server frames.
const (
	Event           Type = "" // an event frame has no type
	Batch           Type = "batch"
	Welcome         Type = "welcome"
	Subscribed      Type = "subscribed"
	SubscribeDenied Type = "subscribe-denied"
	Unsubscribed    Type = "unsubscribed"
	Resumed         Type = "resumed"
	Gap             Type = "gap"
	Reset           Type = "reset"
	Published       Type = "published"
	Error           Type = "error"
	HB              Type = "hb"
	Authenticated   Type = "authenticated"
	TokenExpiring   Type = "token-expiring"
	Snapshot        Type = "snapshot"
)

// Frame is one frame from a client. Members its type does not have are zero. Ref,
// Data and Filter alias the text that was parsed.
type Frame struct {
	Type Type
	Ref  json.RawMessage // a JSON number or string, as it was written; nil when absent

	Topic string
	// After is the place to go on from: a Seq, or a Position for a pattern. Nil when
	// absent, which is not the same as 0.
	After *int64
	ID    pgcast.ID // of the event the client saw at After
	// Snapshot asks for what the topic holds, before the events. AsOf is of the snapshot that
	// the client began with; it stands in the same member.
	Snapshot bool
	AsOf     pgcast.AsOf
	Filter   json.RawMessage // as it was written

	Topics []Place // of a subscribe-batch

	SessionID    string
	LastSeenSeqs map[string]pgcast.Seq

	Event string
	Data  json.RawMessage // nil for JSON null and when absent
	Key   string

	Limit int // 0 when absent

	// ReqID is of a replay: a JSON number or string, as it was written.
	ReqID json.RawMessage

	Caps  []string
	Token string          // of a hello or auth
	User  json.RawMessage // of a hello: what the client says of its user

	// Op is what a presence, cursor or group frame is to do; "" for a cursor that moves.
	Op     Op
	Group  string // the group's name
	Role   string
	Member string // a member's key
	Max    int    // of a group's creation; 0 when absent
}

// Op is what a frame of live state is to do.
type Op string

// The ops. Which frame has which is in docs/protocol.md.
const (
	OpJoin   Op = "join"
	OpLeave  Op = "leave"
	OpSync   Op = "sync"
	OpUnsync Op = "unsync"
	OpList   Op = "list"
	OpCount  Op = "count"
	OpCreate Op = "create"
	OpSend   Op = "send"
	OpSet    Op = "set"
	OpClose  Op = "close"
)

// Place is one item of a subscribe-batch.
type Place struct {
	Topic    string
	After    *int64
	ID       pgcast.ID
	Snapshot bool
	AsOf     pgcast.AsOf
	Filter   json.RawMessage // as it was written
}

// ServerFrame is one frame from the server. Members its type does not have are zero.
// Ref and the events' Data and Old alias the text that was parsed.
type ServerFrame struct {
	Type   Type
	Topic  string
	Ref    json.RawMessage
	Events []pgcast.Event // one for an event frame, any number for batch, history and snapshot

	Table    string            // of snapshot: where its rows are from
	Rows     []json.RawMessage // of snapshot
	Oversize []json.RawMessage // of snapshot: keys of rows that are larger than the server's limit
	More     bool              // of snapshot: it is not the last one
	AsOf     string            // of the last snapshot

	Seq   int64 // of subscribed: a Seq, or a Position for a pattern; of the last snapshot: a Seq
	After int64 // of gap
	Tail  int64 // of gap and history
	Head  int64 // of gap, reset and history
	Next  int64 // of history through a filter: what it has looked at; else 0

	ID        pgcast.ID // of published
	SessionID string    // of welcome
	Reason    string    // of subscribe-denied
	Code      pgcast.Code
	Message   string // of error

	RetryAfter int64 // of error: milliseconds; 0 when absent
	// ExpiresIn is of authenticated and token-expiring: for how many milliseconds the token
	// is valid yet; nil when absent, of one that does not expire.
	ExpiresIn *int64

	Op    Op              // of presence and group
	Group string          // of group
	Data  json.RawMessage // of presence and group
}
