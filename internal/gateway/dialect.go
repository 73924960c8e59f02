package gateway

import (
	"encoding/json"
	"strings"

	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence"
)

// How presence is told: whole states and diffs, which the native protocol has from the
// peer's 0.5, and lists and single steps, as clients of 0.3 expect who subscribe to the
// server's own topic themselves. Both peers' stores may let users expire of whom no beat
// tells; who asks by a presence frame needs none.
var (
	stateDialect = &presence.Dialect{Encode: encodeState}
	peerDialect  = &presence.Dialect{Encode: encodeState, Pulse: encodePulse}
	listDialect  = &presence.Dialect{Encode: encodeList, Pulse: encodePulse}
)

func encodePulse(topic string, keys []string) []byte {
	data, _ := json.Marshal(keys) // strings always can be
	return wire.AppendLive(nil, wire.PresenceOf+topic, "heartbeat", data)
}

// room is what a text of live state may take; clients drop longer frames.
const room = wire.MaxServerFrame - 1024

func encodeState(c presence.Changes) (texts [][]byte) {
	topic, set := wire.PresenceOf+c.Topic, c.Set
	if c.Whole {
		var first []presence.Entry
		first, set = fits(set)
		texts = append(texts, wire.AppendLive(nil, topic, "presence_state", appendUsers(nil, first)))
		if len(set) == 0 {
			return texts
		}
	}
	for leaves := c.Removed; ; {
		var left, came []presence.Entry // each takes half a frame
		left, leaves = fits(leaves)
		if len(leaves) == 0 {
			came, set = fits(set)
		}
		data := append(appendUsers([]byte(`{"joins":`), came), `,"leaves":`...)
		data = append(appendUsers(data, left), '}')
		texts = append(texts, wire.AppendLive(nil, topic, "presence_diff", data))
		if len(leaves)+len(set) == 0 {
			return texts
		}
	}
}

func encodeList(c presence.Changes) (texts [][]byte) {
	topic := wire.PresenceOf + c.Topic
	if c.Whole {
		first, _ := fits(c.Set) // there is no frame for the rest
		data := []byte{'['}
		for i, e := range first {
			if i > 0 {
				data = append(data, ',')
			}
			data = appendUser(data, e)
		}
		return [][]byte{wire.AppendLive(nil, topic, "list", append(data, ']'))}
	}
	for _, e := range c.Removed {
		texts = append(texts, wire.AppendLive(nil, topic, "leave", appendUser(nil, e)))
	}
	for _, e := range c.Set {
		texts = append(texts, wire.AppendLive(nil, topic, "join", appendUser(nil, e)))
	}
	return texts
}

// fits splits entries into those that go into one frame, at half its room, and the rest.
func fits(entries []presence.Entry) (first, rest []presence.Entry) {
	size := 0
	for i, e := range entries {
		if size += quotedLen(e.Key) + len(e.Value) + 32; size > room/2 && i > 0 {
			return entries[:i], entries[i:]
		}
	}
	return entries, nil
}

// appendUsers appends entries as an object.
func appendUsers(dst []byte, entries []presence.Entry) []byte {
	dst = append(dst, '{')
	for i, e := range entries {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, quoted(e.Key)...), ':'), e.Value...)
	}
	return append(dst, '}')
}

func appendUser(dst []byte, e presence.Entry) []byte {
	dst = append(append(dst, `{"key":`...), quoted(e.Key)...)
	dst = append(append(dst, `,"data":`...), e.Value...)
	return append(dst, '}')
}

// quotedLen is at least the length of quoted(s): a byte can become as many as six.
func quotedLen(s string) int {
	n := len(s) + 2
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || strings.IndexByte(`"\\<>&`, c) >= 0 {
			n += 5
		}
	}
	return n
}

func quoted(s string) []byte {
	b, _ := json.Marshal(s) // a string always can be
	return b
}
