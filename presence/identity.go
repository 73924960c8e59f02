package presence

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
)

// MaxKey is the longest key of a user, in bytes; what is longer is no key.
const MaxKey = 128

// Identity says who a session is to others, of what is known of it.
type Identity struct {
	// Key names the member whose value, a string or a whole number, is the user's key.
	// Default: sub of a token's claims, id of what the client says itself.
	Key string
	// Fields are the members that others see; all others are kept back. Default
	// DefaultFields.
	Fields []string
}

// DefaultFields are the members that others see where nothing else is set.
var DefaultFields = []string{"id", "name", "avatar", "color"}

// Of gives a session's user: of its token's claims if it has some, else of what the client
// says, which anybody can say. Where there is no key, the session is a user of its own.
func (i Identity) Of(claims, said json.RawMessage, session string) User {
	from, key := claims, "sub"
	if claims == nil {
		from, key = said, "id"
	}
	if i.Key != "" {
		key = i.Key
	}
	var all map[string]json.RawMessage
	if from != nil && json.Unmarshal(from, &all) != nil {
		all = nil
	}
	u := User{Key: keyOf(all[key]), Data: i.public(all)}
	if u.Key == "" {
		u.Key = session
	}
	return u
}

func keyOf(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		n, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil {
			return ""
		}
		text = strconv.FormatInt(n, 10)
	}
	if len(text) > MaxKey {
		return ""
	}
	return text
}

// public gives the members that others see, in the order of Fields.
func (i Identity) public(all map[string]json.RawMessage) json.RawMessage {
	fields := i.Fields
	if fields == nil {
		fields = DefaultFields
	}
	b := bytes.NewBufferString("{")
	for n, f := range fields {
		if all[f] == nil || slices.Contains(fields[:n], f) {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(f) // a string always can be
		b.Write(name)
		b.WriteByte(':')
		_ = json.Compact(b, all[f]) // it was read, so it can be
	}
	b.WriteByte('}')
	return b.Bytes()
}
