package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
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
	mux.HandleFunc("POST /access/revoke", s.carryOut(`{"sub":"ann","for":"24h"}`, s.revoke))
	mux.HandleFunc("POST /access/recheck", s.carryOut(`{"claims":{"sub":"ann"}}`, s.recheck))
}

// accessOrder is what an order about access says.
type accessOrder struct {
	Sub     string          `json:"sub"`
	JTI     string          `json:"jti"`
	Session string          `json:"session"`
	For     string          `json:"for"` // of a revocation; default 30 days
	Claims  json.RawMessage `json:"claims"`
}

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

// carryOut reads an order, and answers whether it was carried out. Browsers are kept out,
// as for the rate limits.
func (s *Server) carryOut(example string, do func(context.Context, accessOrder) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
			http.Error(w, "not for browsers", http.StatusForbidden)
			return
		}
		if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind != "application/json" {
			http.Error(w, "the body's Content-Type is not application/json", http.StatusUnsupportedMediaType)
			return
		}
		var o accessOrder
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 8*maxOrder))
		d.DisallowUnknownFields()
		if err := d.Decode(&o); err != nil {
			http.Error(w, "the body is not an order: "+example+": "+err.Error(), http.StatusBadRequest)
			return
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			http.Error(w, "the body goes on after the order", http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), accessOrderWait)
		defer cancel()
		if err := do(ctx, o); err != nil {
			status := http.StatusBadRequest
			if errors.Is(err, pgcast.ErrUnavailable) {
				status = http.StatusServiceUnavailable
			}
			http.Error(w, err.Error(), status)
			return
		}
		s.opts.Logger.Info("access: an order was carried out", "path", r.URL.Path)
		w.WriteHeader(http.StatusNoContent)
	}
}

const accessOrderWait = 10 * time.Second

// getAccess lists the rules, and says how much this server remembers.
func (s *Server) getAccess(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), accessOrderWait)
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
