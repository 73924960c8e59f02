package server

import (
	"encoding/json"
	"time"
)

// AccessOptions say who may do what; the zero value of each field stands for its default.
type AccessOptions struct {
	// On says that there is access control: what no rule allows is refused. Off, whoever
	// connects may do everything.
	On bool
	// Secret is the key of tokens signed with HS256, HS384 or HS512, as SecretAlgorithm says;
	// default HS256. At least as many bytes as the hash has.
	Secret, SecretAlgorithm string
	// KeyFiles are PEM files of public keys or certificates, each as path, or path=algorithm
	// where the key alone does not tell.
	KeyFiles []string
	// JWKSURL is where an identity provider publishes its keys.
	JWKSURL string
	// Issuers and Audiences are those of which a token must have one; empty: any.
	Issuers, Audiences []string
	// Leeway is for how long a token is valid beside its exp and nbf, because clocks differ;
	// at most a minute. Default none.
	Leeway time.Duration
	// Cookie is the name of the app's cookie that holds a token, for the preflight of browsers.
	Cookie string
	// Anonymous are the claims, an object, of those who show nothing; nil: they are not let in.
	Anonymous json.RawMessage
	// Role is the database role that pgcast.authorize() is called as; default the server's own.
	Role string
	// Timeout is for how long it may take to decide; default 1 s.
	Timeout time.Duration
	// DecisionTTL is for how long what was decided holds; default 30 s, which is the most.
	DecisionTTL time.Duration
	// Decisions bounds how many are remembered; default 100,000.
	Decisions int
	// TicketTTL is for how long a ticket can be used; default 30 s.
	TicketTTL time.Duration
}
