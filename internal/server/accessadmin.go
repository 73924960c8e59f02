package server

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/replay"
)

// access are the admin listener's paths about who may do what. They are there only where
// there is access control.
func (s *Server) access(mux *http.ServeMux) {
	if s.authority == nil {
		return
	}
	mux.HandleFunc("GET /access", s.getAccess)
	mux.HandleFunc("POST /access/revoke", carryOut(s, `{"sub":"ann","for":"24h"}`, s.revoke))
	mux.HandleFunc("POST /access/recheck", carryOut(s, `{"claims":{"sub":"ann"}}`, s.recheck))
}

// accessOrder is what an order about access says.
type accessOrder struct {
	Sub     string          `json:"sub"`
	JTI     string          `json:"jti"`
	Session string          `json:"session"`
	For     string          `json:"for"` // of a revocation; default 30 days
	Claims  json.RawMessage `json:"claims"`
}

// told is what the log says of it: nothing, for it would name somebody.
func (o accessOrder) told() []any { return nil }

// revokeFor is for how long a revocation holds if nothing is said.
const revokeFor = 30 * 24 * time.Hour

func (s *Server) revoke(ctx context.Context, o accessOrder) error {
	var kind, value string
	n := 0
	for _, by := range []struct{ kind, value string }{{"sub", o.Sub}, {"jti", o.JTI}, {"session", o.Session}} {
		if by.value != "" {
			kind, value = by.kind, by.value
			n++
		}
	}
	if n != 1 || o.Claims != nil {
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "what is to be revoked?", Hint: "give one of sub, jti and session"}
	}
	holds := revokeFor
	if o.For != "" {
		var err error
		if holds, err = time.ParseDuration(o.For); err != nil || holds <= 0 {
			return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "for is not a duration", Hint: `write a number with a unit, as "24h": as long as tokens live`}
		}
	}
	return s.authority.store.Revoke(ctx, kind, value, holds)
}

func (s *Server) recheck(ctx context.Context, o accessOrder) error {
	if o.Sub+o.JTI+o.Session+o.For != "" {
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "only claims say whom to look at anew", Hint: `{"claims":{"sub":"ann"}}, or {} for everybody`}
	}
	claims := o.Claims
	if claims == nil {
		claims = json.RawMessage("{}")
	}
	return s.authority.store.Recheck(ctx, claims)
}

// getAccess lists the rules, and says how much this server remembers.
func (s *Server) getAccess(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), orderWait)
	defer cancel()
	rules, err := s.authority.store.Rules(ctx)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(struct { // a client that has gone needs no answer
		Following   bool                `json:"following"` // changes; else nobody is let in
		Rules       []replay.AccessRule `json:"rules"`
		Decisions   int                 `json:"decisions"`
		Revocations int                 `json:"revocations"`
	}{!s.authority.authorizer.Halted(), rules, s.authority.authorizer.Remembered(), s.authority.revocations.Trim(time.Now())})
}
