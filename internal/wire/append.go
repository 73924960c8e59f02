package wire

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"github.com/pgcast/pgcast"
)

// What stands around the events of a batch frame; they are separated by commas.
const (
	BatchOpen  = `{"type":"batch","events":[`
	BatchClose = `]}`
)

// Heartbeat is the frame that tells a quiet client that the server is there.
const Heartbeat = `{"type":"hb"}`

// maxTwice is the size above which a deleted event's old is sent as data only.
const maxTwice = 500_000

// AppendEventBody appends e's frame without its closing brace, so that one encoded
// body serves every session: [AppendEventEnd] closes it, with the position for those
// who got it through a pattern. The body is one line.
func AppendEventBody(dst []byte, e pgcast.Event) []byte {
	dst = append(dst, `{"topic":`...)
	dst = appendString(dst, e.Topic)
	dst = append(dst, `,"event":`...)
	dst = appendString(dst, e.Name)
	old := e.Old
	if !e.Oversize {
		data := e.Data
		if len(data) == 0 && e.Name == pgcast.Deleted {
			// Stores that hold a list look for the deleted row's key in data. Twice must
			// not make a frame too long that once does not.
			if data = old; len(old) > maxTwice {
				old = nil
			}
		}
		dst = append(dst, `,"data":`...)
		dst = appendJSON(dst, data)
	}
	// The server's own events have no place in any log.
	if e.Seq != 0 {
		dst = append(dst, `,"seq":`...)
		dst = strconv.AppendInt(dst, int64(e.Seq), 10)
	}
	if e.ID != "" {
		dst = append(dst, `,"id":`...)
		dst = appendString(dst, string(e.ID))
	}
	switch {
	case e.Oversize:
		dst = append(dst, `,"oversize":true`...)
	case len(old) > 0:
		dst = append(dst, `,"old":`...)
		dst = appendJSON(dst, old)
	}
	return dst
}

// AppendEventEnd closes an event's body: with its position, unless that is 0.
func AppendEventEnd(dst []byte, position pgcast.Position) []byte {
	if position != 0 {
		dst = append(dst, `,"position":`...)
		dst = strconv.AppendInt(dst, int64(position), 10)
	}
	return append(dst, '}')
}

// AppendWelcome appends the frame that names the session.
func AppendWelcome(dst []byte, sessionID string) []byte {
	dst = open(dst, Welcome)
	dst = text(dst, "sessionId", sessionID)
	return append(dst, '}')
}

// AppendSubscribed appends the answer to a subscribe. seq is the place the
// subscription starts from: a Seq, or a Position for a pattern.
func AppendSubscribed(dst []byte, topic string, ref json.RawMessage, seq int64) []byte {
	dst = open(dst, Subscribed)
	dst = text(dst, "topic", topic)
	dst = member(dst, "ref", ref)
	dst = number(dst, "seq", seq)
	return append(dst, '}')
}

// AppendDenied appends the refusal of a subscribe.
func AppendDenied(dst []byte, topic string, ref json.RawMessage, reason string) []byte {
	dst = open(dst, SubscribeDenied)
	dst = text(dst, "topic", topic)
	dst = member(dst, "ref", ref)
	dst = text(dst, "reason", reason)
	return append(dst, '}')
}

// AppendUnsubscribed appends the answer to an unsubscribe.
func AppendUnsubscribed(dst []byte, topic string, ref json.RawMessage) []byte {
	dst = open(dst, Unsubscribed)
	dst = text(dst, "topic", topic)
	dst = member(dst, "ref", ref)
	return append(dst, '}')
}

// AppendResumed appends the answer to a resume.
func AppendResumed(dst []byte) []byte {
	return append(open(dst, Resumed), '}')
}

// AppendGap appends the frame that says that what came after after and before tail
// has been trimmed. For a pattern all three are positions.
func AppendGap(dst []byte, topic string, after, tail, head int64) []byte {
	dst = open(dst, Gap)
	dst = text(dst, "topic", topic)
	dst = number(dst, "after", after)
	dst = number(dst, "tail", tail)
	dst = number(dst, "head", head)
	return append(dst, '}')
}

// AppendReset appends the frame that says that the history the client saw no longer
// exists and that the stream goes on after head.
func AppendReset(dst []byte, topic string, head int64) []byte {
	dst = open(dst, Reset)
	dst = text(dst, "topic", topic)
	dst = number(dst, "head", head)
	return append(dst, '}')
}

// AppendSnapshotOpen appends a frame of a snapshot up to the items of its list, which is
// rows, oversize or events; table is left out when it is empty.
func AppendSnapshotOpen(dst []byte, topic, table, list string) []byte {
	dst = open(dst, Snapshot)
	dst = text(dst, "topic", topic)
	dst = optional(dst, "table", table)
	return append(name(dst, list), '[')
}

// AppendSnapshotClose appends the end of a snapshot's frame: of the last one with its
// moment, of the others, where that is nil, that more follows.
func AppendSnapshotClose(dst []byte, last *pgcast.Snapshot) []byte {
	dst = append(dst, ']')
	if last == nil {
		return append(dst, `,"more":true}`...)
	}
	dst = number(dst, "seq", int64(last.Seq))
	return append(optional(dst, "asOf", last.AsOf.String()), '}')
}

// AppendRow appends a row as one line.
func AppendRow(dst []byte, row []byte) []byte { return appendJSON(dst, row) }

// AppendHistory appends the answer to a history frame. The events carry their
// positions where topic is a pattern. next, up to where a filter has looked, is left out when
// it is 0.
func AppendHistory(dst []byte, ref json.RawMessage, topic string, events []pgcast.Event, tail, head, next int64) []byte {
	dst = open(dst, History)
	dst = member(dst, "ref", ref)
	dst = text(dst, "topic", topic)
	dst = append(dst, `,"events":[`...)
	pattern := pgcast.IsPattern(topic)
	for i, e := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		position := e.Position
		if !pattern {
			position = 0
		}
		dst = AppendEventEnd(AppendEventBody(dst, e), position)
	}
	dst = append(dst, ']')
	dst = number(dst, "tail", tail)
	dst = number(dst, "head", head)
	if next > 0 {
		dst = number(dst, "next", next)
	}
	return append(dst, '}')
}

// AppendPublished appends the answer to a publish.
func AppendPublished(dst []byte, ref json.RawMessage, id pgcast.ID) []byte {
	dst = open(dst, Published)
	dst = member(dst, "ref", ref)
	dst = text(dst, "id", string(id))
	return append(dst, '}')
}

// AppendError appends the answer to a frame that could not be served. retryAfter, in
// milliseconds, is left out when it is 0.
func AppendError(dst []byte, ref json.RawMessage, code pgcast.Code, message string, retryAfter int64) []byte {
	dst = open(dst, Error)
	dst = member(dst, "ref", ref)
	dst = text(dst, "code", string(code))
	dst = text(dst, "message", message)
	if retryAfter > 0 {
		dst = number(dst, "retry_after", retryAfter)
	}
	return append(dst, '}')
}

// AppendAuthenticated appends the answer to a token that is taken. expiresIn, in milliseconds,
// is left out when it is negative, as for one that does not expire.
func AppendAuthenticated(dst []byte, ref json.RawMessage, expiresIn int64) []byte {
	dst = open(dst, Authenticated)
	dst = member(dst, "ref", ref)
	if expiresIn >= 0 {
		dst = number(dst, "expiresIn", expiresIn)
	}
	return append(dst, '}')
}

// AppendTokenExpiring appends the frame that says for how many milliseconds the session's
// token is valid yet.
func AppendTokenExpiring(dst []byte, expiresIn int64) []byte {
	return append(number(open(dst, TokenExpiring), "expiresIn", expiresIn), '}')
}

// replayOf is the topic on which a replay is answered.
const replayOf = "__replay:"

// AppendReplayed appends one event of the answer to a replay: the event's frame as data,
// and the request's reqId in it.
func AppendReplayed(dst []byte, topic string, reqID json.RawMessage, event []byte) []byte {
	dst = openReplay(dst, topic, "msg", reqID)
	dst = append(dst, ',')
	dst = append(dst, event[1:]...) // behind its opening brace
	return append(dst, '}')
}

// AppendReplayEnd appends the end of the answer to a replay. truncated says that not all
// that was asked for is there any more.
func AppendReplayEnd(dst []byte, topic string, reqID json.RawMessage, truncated bool) []byte {
	dst = openReplay(dst, topic, "end", reqID)
	if truncated {
		dst = append(dst, `,"truncated":true`...)
	}
	return append(dst, '}', '}')
}

func openReplay(dst []byte, topic, event string, reqID json.RawMessage) []byte {
	dst = appendString(append(dst, `{"topic":`...), replayOf+topic)
	dst = text(dst, "event", event)
	dst = append(dst, `,"data":{"reqId":`...)
	return appendJSON(dst, reqID)
}

// open begins a frame.
func open(dst []byte, t Type) []byte {
	dst = append(dst, `{"type":`...)
	return appendString(dst, string(t))
}

func name(dst []byte, key string) []byte {
	dst = append(dst, ',', '"')
	dst = append(dst, key...)
	return append(dst, '"', ':')
}

func text(dst []byte, key, value string) []byte {
	return appendString(name(dst, key), value)
}

func number(dst []byte, key string, n int64) []byte {
	return strconv.AppendInt(name(dst, key), n, 10)
}

// member appends a value that is JSON already, and nothing when there is none.
func member(dst []byte, key string, value json.RawMessage) []byte {
	if len(value) == 0 {
		return dst
	}
	return appendJSON(name(dst, key), value)
}

// appendJSON appends raw JSON as one line. A json column keeps its line breaks, and
// they stand outside of strings, where a space means the same.
func appendJSON(dst []byte, raw []byte) []byte {
	if len(raw) == 0 {
		return append(dst, "null"...)
	}
	from := len(dst)
	dst = append(dst, raw...)
	if bytes.IndexByte(raw, '\n') < 0 && bytes.IndexByte(raw, '\r') < 0 {
		return dst
	}
	for i, c := range dst[from:] {
		if c == '\n' || c == '\r' {
			dst[from+i] = ' '
		}
	}
	return dst
}

// appendString appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			if r, n := utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
		}
		dst = append(dst, s[from:i]...)
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c < 0x20:
			const hex = "0123456789abcdef"
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[c>>4], hex[c&15])
		default:
			dst = append(dst, "\uFFFD"...)
		}
		i++
		from = i
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}
