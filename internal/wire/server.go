package wire

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/pgcast/pgcast"
)

// serverDepth is the nesting ParseServer follows: what Postgres stores may be deep,
// and the server is not a stranger.
const serverDepth = 10_000

// ParseServer reads one frame from the server. Of a type it does not know only the
// type is read, so that a newer server can say more. Events come without CreatedAt,
// which is not on the wire; a deleted event has its key in Data as well as in Old.
// Errors are *[pgcast.Error] with code bad_frame.
func ParseServer(text []byte) (ServerFrame, error) {
	var f ServerFrame
	if !utf8.Valid(text) {
		return f, bad("the frame is not UTF-8")
	}
	s := scanner{text: text, room: serverDepth}
	s.space()
	if s.peek() != '{' {
		return f, bad("the frame is not a JSON object")
	}
	var m serverMembers
	err := m.fill(&s)
	if err == nil {
		if s.space(); s.pos < len(text) {
			err = s.fail("the end")
		}
	}
	if err != nil {
		return f, bad("the frame cannot be read: %v", err)
	}
	var r reader
	r.server(&f, &m)
	return f, r.err
}

// serverMembers are the members of a server frame, or of an event in one, as they
// were written; nil when absent.
type serverMembers struct {
	typ, topic, ref, seq, id, after, tail, head, next []byte
	event, data, old, oversize, position              []byte
	events, sessionID, reason, code, message          []byte
	retryAfter, op, group, expiresIn                  []byte
	table, rows, more, asOf                           []byte
}

func (m *serverMembers) slot(name []byte) *[]byte {
	switch string(name) {
	case "type":
		return &m.typ
	case "topic":
		return &m.topic
	case "ref":
		return &m.ref
	case "seq":
		return &m.seq
	case "id":
		return &m.id
	case "after":
		return &m.after
	case "tail":
		return &m.tail
	case "head":
		return &m.head
	case "next":
		return &m.next
	case "event":
		return &m.event
	case "data":
		return &m.data
	case "old":
		return &m.old
	case "oversize":
		return &m.oversize
	case "position":
		return &m.position
	case "events":
		return &m.events
	case "sessionId":
		return &m.sessionID
	case "reason":
		return &m.reason
	case "code":
		return &m.code
	case "message":
		return &m.message
	case "retry_after":
		return &m.retryAfter
	case "expiresIn":
		return &m.expiresIn
	case "op":
		return &m.op
	case "group":
		return &m.group
	case "table":
		return &m.table
	case "rows":
		return &m.rows
	case "more":
		return &m.more
	case "asOf":
		return &m.asOf
	}
	return nil
}

func (m *serverMembers) fill(s *scanner) error {
	return s.object(func(name, value []byte) error {
		word := key(name)
		slot := m.slot(word)
		if slot == nil || isNull(value) {
			return nil
		}
		if *slot != nil {
			return fmt.Errorf("it has member %q twice", word)
		}
		*slot = value
		return nil
	})
}

func (r *reader) server(f *ServerFrame, m *serverMembers) {
	f.Type = Type(r.text("type", m.typ))
	switch f.Type {
	case Event:
		f.Events = []pgcast.Event{r.event(m)}
	case Batch:
		f.Events = r.events(m.events)
	case Welcome:
		f.SessionID = r.needText("sessionId", m.sessionID)
	case Subscribed:
		f.Topic, f.Ref = r.needText("topic", m.topic), r.ref(m.ref)
		f.Seq = r.needWhole("seq", m.seq)
	case SubscribeDenied:
		f.Topic, f.Ref = r.needText("topic", m.topic), r.ref(m.ref)
		f.Reason = r.needText("reason", m.reason)
	case Unsubscribed:
		f.Topic, f.Ref = r.needText("topic", m.topic), r.ref(m.ref)
	case Gap:
		f.Topic = r.needText("topic", m.topic)
		f.After = r.needWhole("after", m.after)
		f.Tail = r.needWhole("tail", m.tail)
		f.Head = r.needWhole("head", m.head)
	case Reset:
		f.Topic = r.needText("topic", m.topic)
		f.Head = r.needWhole("head", m.head)
	case Snapshot:
		f.Topic, f.Table = r.needText("topic", m.topic), r.text("table", m.table)
		f.Rows, f.Oversize = r.list("rows", m.rows), r.list("oversize", m.oversize)
		if m.events != nil {
			f.Events = r.events(m.events)
		}
		if f.More = r.flag("more", m.more); !f.More {
			f.Seq = r.needWhole("seq", m.seq)
			f.AsOf = r.text("asOf", m.asOf)
		}
	case History:
		f.Topic, f.Ref = r.needText("topic", m.topic), r.ref(m.ref)
		f.Events = r.events(m.events)
		f.Tail = r.needWhole("tail", m.tail)
		f.Head = r.needWhole("head", m.head)
		if n := r.whole("next", m.next); n != nil {
			f.Next = *n
		}
	case Published:
		f.Ref = r.ref(m.ref)
		f.ID = pgcast.ID(r.needText("id", m.id))
	case Error:
		f.Ref = r.ref(m.ref)
		f.Code = pgcast.Code(r.needText("code", m.code))
		f.Message = r.text("message", m.message)
		if n := r.whole("retry_after", m.retryAfter); n != nil {
			f.RetryAfter = *n
		}
	case Authenticated:
		f.Ref, f.ExpiresIn = r.ref(m.ref), r.whole("expiresIn", m.expiresIn)
	case TokenExpiring:
		n := r.needWhole("expiresIn", m.expiresIn)
		f.ExpiresIn = &n
	case Presence:
		f.Topic, f.Ref = r.needText("topic", m.topic), r.ref(m.ref)
		f.Op, f.Data = Op(r.needText("op", m.op)), m.data
	case Group:
		f.Group, f.Ref = r.needText("group", m.group), r.ref(m.ref)
		f.Op, f.Data = Op(r.needText("op", m.op)), m.data
	}
}

func (r *reader) event(m *serverMembers) pgcast.Event {
	return pgcast.Event{
		Topic:    r.needText("topic", m.topic),
		Name:     r.needText("event", m.event),
		Data:     json.RawMessage(m.data),
		Old:      json.RawMessage(m.old),
		Seq:      pgcast.Seq(r.optionalWhole("seq", m.seq)),
		Position: pgcast.Position(r.optionalWhole("position", m.position)),
		ID:       pgcast.ID(r.text("id", m.id)),
		Oversize: r.flag("oversize", m.oversize),
	}
}

func (r *reader) events(raw []byte) []pgcast.Event {
	if raw == nil || raw[0] != '[' {
		r.fail("events is %s; it must be an array", clip(raw))
		return nil
	}
	events := []pgcast.Event{}
	s := scanner{text: raw, room: serverDepth}
	_ = s.array(func(item []byte) error {
		var in reader
		var m serverMembers
		if item[0] != '{' {
			in.fail("it is %s; it must be an object", clip(item))
		} else if err := m.fill(&scanner{text: item, room: serverDepth}); err != nil {
			in.fail("%v", err)
		} else {
			events = append(events, in.event(&m))
		}
		if in.err != nil {
			r.fail("events[%d]: %v", len(events), in.err)
		}
		return r.err
	})
	return events
}

// list reads an optional array of any values.
func (r *reader) list(name string, raw []byte) (items []json.RawMessage) {
	if raw == nil {
		return nil
	}
	if raw[0] != '[' {
		r.fail("%s is %s; it must be an array", name, clip(raw))
		return nil
	}
	s := scanner{text: raw, room: serverDepth}
	_ = s.array(func(item []byte) error {
		items = append(items, json.RawMessage(item))
		return nil
	})
	return items
}

func (r *reader) needWhole(name string, raw []byte) int64 {
	if raw == nil {
		r.fail("%s is missing", name)
	}
	return r.optionalWhole(name, raw)
}

func (r *reader) optionalWhole(name string, raw []byte) int64 {
	if n := r.whole(name, raw); n != nil {
		return *n
	}
	return 0
}

func (r *reader) flag(name string, raw []byte) bool {
	switch string(raw) {
	case "true":
		return true
	case "", "false":
	default:
		r.fail("%s is %s; it must be true or false", name, clip(raw))
	}
	return false
}
