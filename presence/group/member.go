package group

import (
	"encoding/json"

	"github.com/pgcast/pgcast/presence"
)

// value is what a roster has under a member's key.
type value struct {
	Role string          `json:"role"`
	User json.RawMessage `json:"user,omitempty"`
}

func (m Member) value() json.RawMessage {
	b, _ := json.Marshal(value{m.Role, m.User}) // User is JSON, from where it was read
	return b
}

// memberOf is a session's user as a member.
func memberOf(u presence.User, role string) Member {
	m := Member{Key: u.Key, Role: role, User: u.Data}
	if string(u.Data) == "{}" {
		m.User = nil
	}
	return m
}

// Members reads members from the entries of a group's roster.
func Members(entries []presence.Entry) []Member {
	list := make([]Member, 0, len(entries))
	for _, e := range entries {
		var v value
		if json.Unmarshal(e.Value, &v) == nil {
			list = append(list, Member{e.Key, v.Role, v.User})
		}
	}
	return list
}
