package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pgcast/pgcast"
)

// stored are claims as they are kept under a ticket.
type stored struct {
	Source  Source          `json:"source"`
	Raw     json.RawMessage `json:"raw"`
	Subject string          `json:"sub,omitempty"`
	TokenID string          `json:"jti,omitempty"`
	Issued  *time.Time      `json:"issued,omitempty"`
	Expires *time.Time      `json:"expires,omitempty"`
	Scopes  []storedScope   `json:"scopes"` // null: not an API key's
}

type storedScope struct {
	Verbs  []Verb   `json:"verbs"`
	Topics []string `json:"topics"`
}

// Stored gives all there is to the claims, in JSON, to be kept somewhere; [Restore] reads it.
func (c *Claims) Stored() (json.RawMessage, error) {
	s := stored{Source: c.Source, Raw: c.Raw, Subject: c.Subject, TokenID: c.TokenID, Issued: timeOf(c.Issued), Expires: timeOf(c.Expires)}
	if c.Scopes != nil {
		s.Scopes = []storedScope{}
	}
	for _, scope := range c.Scopes {
		topics := make([]string, len(scope.Topics))
		for i, t := range scope.Topics {
			topics[i] = t.String()
		}
		s.Scopes = append(s.Scopes, storedScope{scope.Verbs, topics})
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("write claims down: %w", err)
	}
	return text, nil
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Restore reads what Stored gave.
func Restore(text json.RawMessage) (*Claims, error) {
	var s stored
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("read stored claims: %w", err)
	}
	switch s.Source {
	case FromToken, FromAPIKey, Anonymous:
	default:
		return nil, errors.New("read stored claims: they do not say where they are from")
	}
	c, err := NewClaims(s.Source, s.Raw)
	if err != nil {
		return nil, fmt.Errorf("read stored claims: %w", err)
	}
	if s.Scopes != nil || s.Source == FromAPIKey {
		c.Scopes = []Scope{} // not nil, which would be everything the rules allow
	}
	c.Subject, c.TokenID = s.Subject, s.TokenID
	if s.Issued != nil {
		c.Issued = *s.Issued
	}
	if s.Expires != nil {
		c.Expires = *s.Expires
	}
	for _, scope := range s.Scopes {
		list, err := ParseScope(scope.Verbs, scope.Topics)
		if err != nil {
			return nil, fmt.Errorf("read stored claims: %w", err)
		}
		c.Scopes = append(c.Scopes, list)
	}
	return c, nil
}

// ParseScope makes a scope of verbs and patterns.
func ParseScope[V ~string](verbs []V, topics []string) (Scope, error) {
	var s Scope
	for _, v := range verbs {
		s.Verbs = append(s.Verbs, Verb(v))
	}
	for _, t := range topics {
		p, err := pgcast.ParsePattern(t)
		if err != nil {
			return Scope{}, err
		}
		s.Topics = append(s.Topics, p)
	}
	return s, nil
}

// Contain tells whether claims contain others as Postgres's operator @> has it, for what has
// to be looked at anew: where it is not sure, it says so.
func (c *Claims) Contain(others map[string]json.RawMessage) bool {
	if len(others) == 0 {
		return true
	}
	if sub, ok := others["sub"]; ok && c.Subject != "" {
		var want string
		if json.Unmarshal(sub, &want) == nil && want != c.Subject {
			return false
		}
	}
	var all map[string]json.RawMessage
	if json.Unmarshal(c.Raw, &all) != nil {
		return true
	}
	for name, want := range others {
		have, ok := all[name]
		if !ok || !contains(have, want) {
			return false
		}
	}
	return true
}

// contains is @> for values within an object.
func contains(have, want json.RawMessage) bool {
	var h, w any
	if json.Unmarshal(have, &h) != nil || json.Unmarshal(want, &w) != nil {
		return true
	}
	return holds(h, w)
}

func holds(have, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		for name, w := range want {
			v, there := h[name]
			if !there || !holds(v, w) {
				return false
			}
		}
		return ok
	case []any:
		h, ok := have.([]any)
		for _, w := range want {
			found := false
			for _, v := range h {
				found = found || holds(v, w)
			}
			if !found {
				return false
			}
		}
		return ok
	}
	switch have.(type) {
	case map[string]any, []any:
		return false // and comparing them would panic
	}
	return have == want
}
