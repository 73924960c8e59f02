package wire

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/pgcast/pgcast"
)

// Parse reads one frame from a client. A member that is null counts as absent, a
// member the frame's type does not have is passed over, and of a type this package
// does not serve only Type and Ref are read.
//
// Errors are *[pgcast.Error] and say what is wrong and where: code bad_frame, or
// too_many for a subscribe-batch with too many items. The returned frame then still
// has its Type and Ref where they could be read, so that the answer can carry them.
func Parse(text []byte) (Frame, error) {
	var f Frame
	m, err := readFrame(text)
	// Type and Ref first, even of a broken text: they are what the answer needs.
	r := reader{}
	f.Type = Type(r.text("type", m.typ))
	f.Ref = r.ref(m.ref)
	switch {
	case err != nil:
		return f, bad("%v", err)
	case r.err != nil:
		return f, r.err
	case f.Type == "":
		return f, bad("the frame has no type")
	}
	r.read(&f, &m)
	return f, r.err
}

// bad makes the error for a frame that cannot be read.
func bad(format string, args ...any) *pgcast.Error {
	return &pgcast.Error{Code: pgcast.CodeBadFrame, Message: fmt.Sprintf(format, args...)}
}

// members are the members of a client frame as they were written; nil when absent.
type members struct {
	typ, ref, topic, after, id, snapshot, filter []byte
	topics, sessionID, lastSeenSeqs              []byte
	event, data, key, limit, caps, token         []byte
	since, reqID                                 []byte
	live                                         liveMembers
}

// slot finds the place for a member, nil for one that no frame has.
func (m *members) slot(name []byte) *[]byte {
	switch string(name) {
	case "type":
		return &m.typ
	case "ref":
		return &m.ref
	case "topic":
		return &m.topic
	case "after":
		return &m.after
	case "id":
		return &m.id
	case "snapshot":
		return &m.snapshot
	case "filter":
		return &m.filter
	case "topics":
		return &m.topics
	case "sessionId":
		return &m.sessionID
	case "lastSeenSeqs":
		return &m.lastSeenSeqs
	case "event":
		return &m.event
	case "data":
		return &m.data
	case "key":
		return &m.key
	case "limit":
		return &m.limit
	case "caps":
		return &m.caps
	case "token":
		return &m.token
	case "since":
		return &m.since
	case "reqId":
		return &m.reqID
	}
	return m.live.slot(string(name))
}

// readFrame walks over the whole text. With an error it still returns the members
// that came before it.
func readFrame(text []byte) (m members, err error) {
	if !utf8.Valid(text) {
		return m, fmt.Errorf("the frame is not UTF-8")
	}
	s := scanner{text: text, room: MaxDepth, exp: MaxExponent}
	s.space()
	if s.peek() != '{' {
		return m, fmt.Errorf("the frame is not a JSON object")
	}
	if err = m.fill(&s); err == nil {
		if s.space(); s.pos < len(text) {
			err = s.fail("the end")
		}
	}
	if err != nil {
		return m, fmt.Errorf("the frame cannot be read: %w", err)
	}
	return m, nil
}

// fill takes the members of the object that s is at.
func (m *members) fill(s *scanner) error {
	return s.object(func(name, value []byte) error {
		word := key(name)
		slot := m.slot(word)
		if slot == nil || isNull(value) {
			return nil
		}
		if *slot != nil {
			// Which of two counts differs between readers, and a proxy that checks one
			// while we obey the other is a hole.
			return fmt.Errorf("it has member %q twice", word)
		}
		*slot = value
		return nil
	})
}

// reader turns members into values and keeps the first error.
type reader struct{ err error }

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = bad(format, args...)
	}
}

func (r *reader) read(f *Frame, m *members) {
	switch f.Type {
	case Hello:
		f.Caps = r.caps(m.caps)
		f.Token = r.secret("token", m.token)
		f.User = r.user(m.live.user)
	case Auth:
		if f.Token = r.secret("token", m.token); f.Token == "" {
			r.fail("token is missing or empty")
		}
	case Subscribe:
		f.Topic = r.needText("topic", m.topic)
		f.After, f.ID = r.place(m.after, m.id)
		f.Snapshot, f.AsOf = r.snapshot(m)
		f.Filter = m.filter
	case SubscribeBatch:
		f.Topics = r.topics(m.topics)
	case Unsubscribe:
		f.Topic = r.needText("topic", m.topic)
	case Resume:
		f.SessionID = r.short("sessionId", r.needText("sessionId", m.sessionID), MaxSessionID)
		f.LastSeenSeqs = r.seqs(m.lastSeenSeqs)
	case Publish:
		f.Topic = r.needText("topic", m.topic)
		f.Event = r.needText("event", m.event)
		f.Data = m.data
		f.Key = r.text("key", m.key)
		if m.key != nil && f.Key == "" {
			r.fail("key is empty; it must be 1 to 256 bytes, or absent")
		}
	case History:
		f.Topic = r.needText("topic", m.topic)
		f.After = r.whole("after", m.after)
		f.Limit = r.limit(m.limit)
		f.Filter = m.filter
	case Replay:
		f.Topic = r.needText("topic", m.topic)
		f.After = r.whole("since", m.since)
		f.ReqID = r.token("reqId", m.reqID)
	case Presence, Cursor, CursorSnapshot, Group:
		r.live(f, m)
	}
}

func (r *reader) ref(raw []byte) json.RawMessage { return r.token("ref", raw) }

// token reads what the client is to get back as it sent it.
func (r *reader) token(name string, raw []byte) json.RawMessage {
	switch {
	case raw == nil:
		return nil
	case raw[0] != '"' && raw[0] != '-' && !isDigit(raw[0]):
		r.fail("%s is %s; it must be a number or a string", name, clip(raw))
	case len(raw) > MaxRef:
		r.fail("%s is %d bytes long, at most %d", name, len(raw), MaxRef)
	default:
		return raw
	}
	return nil
}

// text reads an optional string.
func (r *reader) text(name string, raw []byte) string {
	if raw == nil {
		return ""
	}
	s, ok := unquote(raw)
	if !ok {
		r.fail("%s is %s; it must be a string", name, clip(raw))
	}
	return s
}

func (r *reader) needText(name string, raw []byte) string {
	if raw == nil {
		r.fail("%s is missing", name)
	}
	return r.text(name, raw)
}

// short checks a text's length.
func (r *reader) short(name, text string, most int) string {
	if len(text) > most {
		r.fail("%s is %d bytes long, at most %d", name, len(text), most)
		return ""
	}
	return text
}

// whole reads an optional number.
func (r *reader) whole(name string, raw []byte) *int64 {
	if raw == nil {
		return nil
	}
	n, ok := whole(raw)
	if !ok {
		r.fail("%s is %s; it must be a whole number, 0 or more, in plain digits", name, clip(raw))
		return nil
	}
	return &n
}

func (r *reader) place(after, id []byte) (*int64, pgcast.ID) {
	if id != nil && after == nil {
		r.fail("id is there without after")
	}
	return r.whole("after", after), pgcast.ID(r.short("id", r.text("id", id), MaxID))
}

// snapshot reads whether a snapshot is asked for, or of which one the client goes on.
func (r *reader) snapshot(m *members) (wanted bool, asOf pgcast.AsOf) {
	switch {
	case m.snapshot == nil, string(m.snapshot) == "false":
	case string(m.snapshot) == "true" && m.after != nil:
		r.fail("snapshot is true and after is there; a snapshot begins anew, and to go on snapshot is the asOf of the one before")
	case string(m.snapshot) == "true":
		return true, asOf
	case m.snapshot[0] != '"':
		r.fail("snapshot is %s; it must be true, or an asOf", clip(m.snapshot))
	case m.after == nil:
		r.fail("snapshot is an asOf, without after")
	case len(m.snapshot) > pgcast.MaxAsOf+2:
		r.fail("snapshot is %d bytes long, at most %d", len(m.snapshot)-2, pgcast.MaxAsOf)
	default:
		var err error
		if asOf, err = pgcast.ParseAsOf(r.text("snapshot", m.snapshot)); err != nil {
			r.fail("snapshot is %s, which is not an asOf; it must be sent back as it came", clip(m.snapshot))
		}
	}
	return false, asOf
}

func (r *reader) topics(raw []byte) []Place {
	if raw == nil || raw[0] != '[' {
		r.fail("topics is %s; it must be an array", clip(raw))
		return nil
	}
	var places []Place
	s := scanner{text: raw, room: MaxDepth}
	_ = s.array(func(item []byte) error {
		if len(places) == MaxBatchTopics {
			r.err = &pgcast.Error{
				Code:    pgcast.CodeTooMany,
				Message: fmt.Sprintf("topics has more than %d items", MaxBatchTopics),
				Hint:    "send several frames",
			}
			return r.err
		}
		var in reader
		p := in.item(item)
		if in.err != nil {
			r.fail("topics[%d]: %v", len(places), in.err)
		}
		places = append(places, p)
		return r.err
	})
	if r.err != nil {
		return nil
	}
	return places
}

// item reads one item of topics: a name, or {topic, after, id, snapshot, filter}.
func (r *reader) item(raw []byte) (p Place) {
	if raw[0] != '{' {
		p.Topic = r.text("the item", raw)
		return p
	}
	var m members
	if err := m.fill(&scanner{text: raw, room: MaxDepth}); err != nil {
		r.fail("%v", err)
		return p
	}
	p.Topic = r.needText("topic", m.topic)
	p.After, p.ID = r.place(m.after, m.id)
	p.Snapshot, p.AsOf = r.snapshot(&m)
	p.Filter = m.filter
	return p
}

func (r *reader) seqs(raw []byte) map[string]pgcast.Seq {
	if raw == nil {
		return nil
	}
	if raw[0] != '{' {
		r.fail("lastSeenSeqs is %s; it must be an object", clip(raw))
		return nil
	}
	seqs := map[string]pgcast.Seq{}
	s := scanner{text: raw, room: MaxDepth}
	_ = s.object(func(name, value []byte) error {
		if isNull(value) {
			return nil
		}
		n, ok := whole(value)
		if !ok {
			r.fail("lastSeenSeqs has %s at %s; it must be a whole number, 0 or more, in plain digits", clip(value), clip(name))
			return r.err
		}
		topic, _ := unquote(name)
		if _, twice := seqs[topic]; twice {
			r.fail("lastSeenSeqs has %s twice", clip(name))
			return r.err
		}
		seqs[topic] = pgcast.Seq(n)
		return nil
	})
	if r.err != nil {
		return nil
	}
	return seqs
}

func (r *reader) limit(raw []byte) int {
	n := r.whole("limit", raw)
	switch {
	case n == nil:
		return 0
	case *n == 0:
		r.fail("limit is 0; it must be 1 or more")
	}
	return int(min(*n, MaxHistory))
}

// clip gives the beginning of a value, for an error's text.
func clip(raw []byte) string {
	const most = 40
	switch {
	case raw == nil:
		return "missing"
	case len(raw) <= most:
		return string(raw)
	}
	return string(raw[:most]) + "…"
}
