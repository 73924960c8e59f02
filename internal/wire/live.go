package wire

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/pgcast/pgcast"
)

// MaxUser is the longest a client may say of its user, in bytes.
const MaxUser = 4 << 10

// Topics of the server's own, on which live state is told. The rest of the name is the
// topic's or the group's.
const (
	PresenceOf = "__presence:"
	CursorOf   = "__cursor:"
	GroupOf    = "__group:"
	// System is where a server tells of itself.
	System = "__system"
)

type liveMembers struct{ op, user, position, group, role, member, max []byte }

func (m *liveMembers) slot(name string) *[]byte {
	switch name {
	case "op":
		return &m.op
	case "user":
		return &m.user
	case "position":
		return &m.position
	case "group":
		return &m.group
	case "role":
		return &m.role
	case "member":
		return &m.member
	case "max":
		return &m.max
	}
	return nil
}

var ops = map[Type][]Op{
	Presence: {OpJoin, OpLeave, OpSync, OpUnsync, OpList, OpCount},
	Cursor:   {"", OpLeave},
	Group:    {OpCreate, OpJoin, OpLeave, OpList, OpSend, OpSet, OpClose},
}

func (r *reader) live(f *Frame, m *members) {
	if f.Type == Group {
		f.Group = r.needText("group", m.live.group)
	} else {
		f.Topic = r.needText("topic", m.topic)
	}
	if f.Type == CursorSnapshot {
		return
	}
	f.Op = Op(r.text("op", m.live.op))
	if !slices.Contains(ops[f.Type], f.Op) {
		r.fail("op is %q; in a %s frame it is one of %s", f.Op, f.Type, list(ops[f.Type]))
	}
	f.Data = m.data
	if f.Type == Cursor && f.Data == nil {
		f.Data = m.live.position // as the peer protocol's clients may say
	}
	if f.Type != Group {
		return
	}
	f.Event = r.text("event", m.event)
	f.Role = r.short("role", r.text("role", m.live.role), pgcast.MaxEventName)
	f.Member = r.short("member", r.text("member", m.live.member), MaxUser)
	if n := r.whole("max", m.live.max); n != nil {
		f.Max = int(min(*n, 1<<30))
	}
}

func list(ops []Op) string {
	var names []string
	for _, op := range ops {
		if op != "" {
			names = append(names, string(op))
		}
	}
	return strings.Join(names, ", ")
}

func (r *reader) user(raw []byte) json.RawMessage {
	switch {
	case raw == nil:
	case raw[0] != '{':
		r.fail("user is %s; it must be an object", clip(raw))
	case len(raw) > MaxUser:
		r.fail("user is %d bytes long, at most %d", len(raw), MaxUser)
	default:
		return raw
	}
	return nil
}

func appendLive(dst []byte, f *Frame) []byte {
	if f.Type == Group {
		dst = text(dst, "group", f.Group)
	} else {
		dst = text(dst, "topic", f.Topic)
	}
	dst = optional(dst, "op", string(f.Op))
	dst = optional(dst, "event", f.Event)
	dst = member(dst, "data", f.Data)
	dst = optional(dst, "role", f.Role)
	dst = optional(dst, "member", f.Member)
	if f.Max != 0 {
		dst = number(dst, "max", int64(f.Max))
	}
	return dst
}

// AppendPresence appends the answer to a presence frame.
func AppendPresence(dst []byte, ref json.RawMessage, topic string, op Op, data []byte) []byte {
	return appendAnswer(dst, Presence, "topic", ref, topic, op, data)
}

// AppendGroup appends the answer to a group frame.
func AppendGroup(dst []byte, ref json.RawMessage, group string, op Op, data []byte) []byte {
	return appendAnswer(dst, Group, "group", ref, group, op, data)
}

func appendAnswer(dst []byte, typ Type, of string, ref json.RawMessage, name string, op Op, data []byte) []byte {
	dst = open(dst, typ)
	dst = member(dst, "ref", ref)
	dst = text(dst, of, name)
	dst = text(dst, "op", string(op))
	if data != nil {
		dst = append(append(dst, `,"data":`...), data...)
	}
	return append(dst, '}')
}

// AppendLive appends an event of the server's own, which has no place in any log: topic is
// the server's own, data is JSON.
func AppendLive(dst []byte, topic, event string, data []byte) []byte {
	dst = appendString(append(dst, `{"topic":`...), topic)
	dst = text(dst, "event", event)
	dst = append(append(dst, `,"data":`...), data...)
	return append(dst, '}')
}

const eventOpen = `{"topic":"`

// EventName gives the topic and the name of an event from its frame's text; neither has
// anything that JSON would escape.
func EventName(text []byte) (topic, name []byte) {
	rest, _ := bytes.CutPrefix(text, []byte(eventOpen))
	topic, rest, _ = bytes.Cut(rest, []byte(`","event":"`))
	name, _, _ = bytes.Cut(rest, []byte{'"'})
	return topic, name
}

// AppendOwn appends an event's text under the server's own name of its topic, which is the
// topic's with __ before it.
func AppendOwn(dst, text []byte) []byte {
	return append(append(append(dst, eventOpen...), "__"...), text[len(eventOpen):]...)
}
