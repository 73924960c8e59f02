package server

import (
	"encoding/json"

	"github.com/pgcast/pgcast/internal/auth"
)

// accessChanges are those that are to be decided on anew, of all that was heard at once.
type accessChanges struct {
	revoked bool // somebody was

	all  bool
	subs map[string]struct{}          // whose sub is one of these
	sets []map[string]json.RawMessage // whose claims contain one of these
}

// maxSets bounds the sets of claims that are looked for one by one.
const maxSets = 100

func (c *accessChanges) add(claims map[string]json.RawMessage) {
	var sub string
	switch raw, ok := claims["sub"]; {
	case len(claims) == 0 || len(c.sets) >= maxSets:
		c.all = true
	case ok && len(claims) == 1 && json.Unmarshal(raw, &sub) == nil && sub != "":
		if c.subs == nil {
			c.subs = map[string]struct{}{}
		}
		c.subs[sub] = struct{}{}
	default:
		c.sets = append(c.sets, claims)
	}
}

// match tells whether the changes are about anybody, and about whom; nil: everybody.
func (c *accessChanges) match() (match func(*auth.Claims) bool, any bool) {
	switch {
	case c.all:
		return nil, true
	case c.subs == nil && c.sets == nil:
		return nil, false
	}
	return func(who *auth.Claims) bool {
		if _, ok := c.subs[who.Subject]; ok {
			return true
		}
		for _, claims := range c.sets {
			if who.Contain(claims) {
				return true
			}
		}
		return false
	}, true
}
