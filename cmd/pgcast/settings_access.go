package main

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/pgcast/pgcast/internal/server"
)

// accessSettings are those of who may do what.
var accessSettings = []setting{
	{name: "access", value: "auto", kind: "mode", scope: forServer, choices: []string{"auto", "open", "rules"},
		help: "who may do what: rules, what pgcast.authorize() allows; open, everything; auto, rules as soon as one of the settings below says how callers are known",
		read: choice(func(s *settings) *string { return &s.AccessMode }, "auto", "open", "rules")},
	{name: "token", kind: "token", scope: forTail, secret: true,
		help: "token or API key to show to the server",
		read: text(func(s *settings) *string { return &s.Token }, "give a token")},
	{name: "jwt-secret", kind: "secret", scope: forServer | forToken, secret: true,
		help: "key of tokens that are signed with HS256, HS384 or HS512",
		read: text(func(s *settings) *string { return &s.Access.Secret }, "give 32 bytes or more")},
	{name: "jwt-secret-algorithm", value: "HS256", kind: "algorithm", scope: forServer | forToken, choices: []string{"HS256", "HS384", "HS512"},
		help: "algorithm of tokens that are signed with jwt-secret",
		read: choice(func(s *settings) *string { return &s.Access.SecretAlgorithm }, "HS256", "HS384", "HS512")},
	{name: "jwt-key-files", kind: "files", scope: forServer,
		help: "PEM files of public keys or certificates of those who sign tokens, as /etc/pgcast/idp.pem,/etc/pgcast/rsa.pem=PS256",
		read: names(func(s *settings) *[]string { return &s.Access.KeyFiles })},
	{name: "jwks-url", kind: "url", scope: forServer,
		help: "where an identity provider publishes the keys it signs tokens with",
		read: text(func(s *settings) *string { return &s.Access.JWKSURL }, "write https://idp.example.com/.well-known/jwks.json")},
	{name: "jwt-issuer", kind: "names", scope: forServer | forToken,
		help: "iss that a token must have one of; any if there is none",
		read: names(func(s *settings) *[]string { return &s.Access.Issuers })},
	{name: "jwt-audience", kind: "names", scope: forServer | forToken,
		help: "aud that a token must have one of; any if there is none",
		read: names(func(s *settings) *[]string { return &s.Access.Audiences })},
	{name: "jwt-leeway", value: "0s", kind: "duration", scope: forServer,
		help: "how long a token is valid beside its exp and nbf, because clocks differ",
		read: duration(func(s *settings) *time.Duration { return &s.Access.Leeway }, 0, time.Minute)},
	{name: "auth-cookie", kind: "name", scope: forServer,
		help: "the app's cookie that holds a token, for browsers that ask POST /__ws/auth before they connect",
		read: text(func(s *settings) *string { return &s.Access.Cookie }, "give a name")},
	{name: "anonymous", kind: "json", scope: forServer,
		help: `claims of those who show no token, as {"role":"anonymous"}; without them they are not let in`,
		read: object(func(s *settings) *json.RawMessage { return &s.Access.Anonymous })},
	{name: "authorize-role", kind: "role", scope: forServer,
		help: "database role that pgcast.authorize() is called as; default the server's own",
		read: text(func(s *settings) *string { return &s.Access.Role }, "give a role")},
	{name: "authorize-timeout", value: "1s", kind: "duration", scope: forServer,
		help: "how long pgcast.authorize() may take; after that the answer is no",
		read: duration(func(s *settings) *time.Duration { return &s.Access.Timeout }, 10*time.Millisecond, 30*time.Second)},
	{name: "decision-ttl", value: "30s", kind: "duration", scope: forServer,
		help: "for how long what was decided holds, if nothing says that rules have changed",
		read: duration(func(s *settings) *time.Duration { return &s.Access.DecisionTTL }, time.Millisecond, 30*time.Second)},
	{name: "ticket-ttl", value: "30s", kind: "duration", scope: forServer,
		help: "for how long a ticket can be used",
		read: duration(func(s *settings) *time.Duration { return &s.Access.TicketTTL }, time.Second, 5*time.Minute)},
}

// object reads a JSON object.
func object(field func(*settings) *json.RawMessage) func(*settings, string) error {
	return func(s *settings, v string) error {
		*field(s) = nil
		if v = strings.TrimSpace(v); v == "" {
			return nil
		}
		var all map[string]json.RawMessage
		if err := json.Unmarshal([]byte(v), &all); err != nil || all == nil {
			return &wrong{"is not a JSON object", `write one, as {"role":"anonymous"}`}
		}
		*field(s) = json.RawMessage(v)
		return nil
	}
}

// access gives the options of access control, which is on as soon as something says how
// callers are known.
func (s *settings) access() server.AccessOptions {
	o := s.Access
	known := o.Secret != "" || len(o.KeyFiles) > 0 || o.JWKSURL != "" || o.Anonymous != nil
	o.On = s.AccessMode == "rules" || s.AccessMode == "auto" && known
	return o
}
