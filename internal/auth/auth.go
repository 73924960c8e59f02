// Package auth tells who a caller is, and what callers may do. It knows no transport and no
// database: tokens are verified here, rules are decided by a Store and remembered here.
package auth

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pgcast/pgcast"
)

// Verb is what somebody wants to do with a topic.
type Verb string

// The verbs. Connect has no topic. Subscribe is for what comes from now on; what came before,
// also what was missed while away, is History; Snapshot is what the topic holds.
const (
	Connect   Verb = "connect"
	Subscribe Verb = "subscribe"
	History   Verb = "history"
	Snapshot  Verb = "snapshot"
	Publish   Verb = "publish"
	Presence  Verb = "presence"
	Cursor    Verb = "cursor"
	Group     Verb = "group"
)

// Verbs are all of them.
var Verbs = []Verb{Connect, Subscribe, History, Snapshot, Publish, Presence, Cursor, Group}

// Source is what somebody has shown to be who he is.
type Source string

// The sources.
const (
	FromToken  Source = "token"
	FromAPIKey Source = "api key"
	Anonymous  Source = "anonymous" // nothing, where that is allowed
	Open       Source = "open"      // nothing was asked for: there is no access control
	Operator   Source = "operator"  // the admin token, or a way in that only operators have
)

// Claims are what is known of a caller. They do not change.
type Claims struct {
	Source  Source
	Raw     json.RawMessage // an object: a token's payload, or what stands for it
	Subject string          // sub
	TokenID string          // jti, or the id of an API key
	Issued  time.Time       // not after they were verified; zero: not known
	Expires time.Time       // from then on nothing is allowed any more; zero: never
	Scopes  []Scope         // of an API key: all it may do

	decided json.RawMessage
	hash    string
}

// Scope is what an API key may do: these verbs with every topic that one of the patterns
// selects.
type Scope struct {
	Verbs  []Verb
	Topics []pgcast.Pattern
}

// passing are the claims that differ from one token of somebody to the next: they are checked
// where the token is, and nothing is decided by them.
var passing = []string{"iat", "exp", "nbf", "jti"}

// NewClaims makes claims of an object in JSON; the registered ones among them are for the
// caller to fill in. The error says what is wrong with it.
func NewClaims(source Source, raw json.RawMessage) (*Claims, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil || all == nil {
		return nil, errors.New("the claims are not an object")
	}
	c := &Claims{Source: source, Raw: raw}
	b := []byte{'{'}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if slices.Contains(passing, name) {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		text, _ := json.Marshal(name) // a string always can be
		var value bytes.Buffer
		if err := json.Compact(&value, all[name]); err != nil {
			return nil, fmt.Errorf("read claim %s: %w", name, err)
		}
		b = append(append(append(b, text...), ':'), value.Bytes()...)
	}
	c.decided = append(b, '}')
	// What is decided for an API key goes by its scopes; its id is among its claims.
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s", source, c.decided))
	c.hash = string(sum[:])
	return c, nil
}

// Decided are the claims that decisions go by: Raw without those that differ from one token
// of the same caller to the next (iat, exp, nbf and jti), by name.
func (c *Claims) Decided() json.RawMessage { return c.decided }

// Hash names what is decided for the claims: the same for all that have Source and Decided in
// common.
func (c *Claims) Hash() string { return c.hash }

// Expired tells whether they have lost their force.
func (c *Claims) Expired(now time.Time) bool { return !c.Expires.IsZero() && !now.Before(c.Expires) }

// Everybody are the claims of all callers where there is no access control, Operators those of
// whoever runs the server: no rule is asked about them.
var Everybody, Operators = nobody(Open), nobody(Operator)

func nobody(source Source) *Claims {
	c, err := NewClaims(source, json.RawMessage("{}"))
	if err != nil {
		panic(err)
	}
	return c
}

// Ask is one question: may this be done with this topic, or with all that a pattern selects?
type Ask struct {
	Verb  Verb
	Topic string // empty for Connect
}

// ErrForbidden is the answer where something is not allowed. It says the same whatever the
// reason, and whether or not there is such a topic.
var ErrForbidden = &pgcast.Error{Code: pgcast.CodeForbidden, Message: "this is not allowed", Hint: "ask whoever runs the server for a rule that allows it"}

// ErrTicket is the answer to a ticket that stands for nobody.
var ErrTicket = &pgcast.Error{Code: pgcast.CodeUnauthenticated, Message: "the ticket is not valid, or was used already",
	Hint: "ask for a new one: POST /tickets"}

// ErrUnauthenticated is the answer to those who do not say who they are.
var ErrUnauthenticated = &pgcast.Error{Code: pgcast.CodeUnauthenticated, Message: "who are you?",
	Hint: "send a token: Authorization: Bearer …, or in the first hello frame"}
