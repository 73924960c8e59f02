package wire

import (
	"strconv"

	"github.com/pgcast/pgcast"
)

// AppendFrame appends a client's frame. Members that are zero are left out, but for
// those its type cannot do without.
func AppendFrame(dst []byte, f *Frame) []byte {
	dst = open(dst, f.Type)
	// Early, so that the server has it even where it stumbles over the rest.
	dst = member(dst, "ref", f.Ref)
	switch f.Type {
	case Hello:
		dst = appendCaps(dst, f.Caps)
		dst = optional(dst, "token", f.Token)
		dst = member(dst, "user", f.User)
	case Auth:
		dst = text(dst, "token", f.Token)
	case Subscribe:
		dst = text(dst, "topic", f.Topic)
		dst = appendPlace(dst, f.After, f.ID)
		dst = appendSnapshot(dst, f.Snapshot, f.AsOf)
		dst = member(dst, "filter", f.Filter)
	case SubscribeBatch:
		dst = append(dst, `,"topics":[`...)
		for i, p := range f.Topics {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendItem(dst, p)
		}
		dst = append(dst, ']')
	case Unsubscribe:
		dst = text(dst, "topic", f.Topic)
	case Resume:
		dst = text(dst, "sessionId", f.SessionID)
		dst = appendSeqs(dst, f.LastSeenSeqs)
	case Publish:
		dst = text(dst, "topic", f.Topic)
		dst = text(dst, "event", f.Event)
		dst = appendJSON(name(dst, "data"), f.Data)
		dst = optional(dst, "key", f.Key)
	case History:
		dst = text(dst, "topic", f.Topic)
		dst = appendPlace(dst, f.After, "")
		if f.Limit != 0 {
			dst = number(dst, "limit", int64(f.Limit))
		}
		dst = member(dst, "filter", f.Filter)
	case Replay:
		dst = text(dst, "topic", f.Topic)
		if f.After != nil {
			dst = number(dst, "since", *f.After)
		}
		dst = member(dst, "reqId", f.ReqID)
	case Presence, Cursor, CursorSnapshot, Group:
		dst = appendLive(dst, f)
	}
	return append(dst, '}')
}

func appendCaps(dst []byte, caps []string) []byte {
	dst = append(dst, `,"caps":[`...)
	for i, c := range caps {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, c)
	}
	return append(dst, ']')
}

func appendSeqs(dst []byte, seqs map[string]pgcast.Seq) []byte {
	if seqs == nil {
		return dst
	}
	dst = append(dst, `,"lastSeenSeqs":{`...)
	first := true
	for topic, seq := range seqs {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(appendString(dst, topic), ':')
		dst = strconv.AppendInt(dst, int64(seq), 10)
	}
	return append(dst, '}')
}

// appendItem appends an item of a subscribe-batch, in the short form where it will do.
func appendItem(dst []byte, p Place) []byte {
	if p.After == nil && !p.Snapshot && p.Filter == nil {
		return appendString(dst, p.Topic)
	}
	dst = appendString(append(dst, `{"topic":`...), p.Topic)
	dst = appendPlace(dst, p.After, p.ID)
	return append(member(appendSnapshot(dst, p.Snapshot, p.AsOf), "filter", p.Filter), '}')
}

func appendSnapshot(dst []byte, wanted bool, asOf pgcast.AsOf) []byte {
	if wanted {
		return append(dst, `,"snapshot":true`...)
	}
	return optional(dst, "snapshot", asOf.String())
}

func appendPlace(dst []byte, after *int64, id pgcast.ID) []byte {
	if after == nil {
		return dst
	}
	return optional(number(dst, "after", *after), "id", string(id))
}

func optional(dst []byte, key, value string) []byte {
	if value == "" {
		return dst
	}
	return text(dst, key, value)
}
