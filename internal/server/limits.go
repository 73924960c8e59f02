package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// limits are the admin listener's paths about rate limits.
func (s *Server) limits(mux *http.ServeMux) {
	mux.HandleFunc("GET /limits", s.getLimits)
	const example = `{"by":"ip","key":"203.0.113.7","for":"10m"}`
	mux.HandleFunc("POST /limits/ban", carryOut(s, example, func(ctx context.Context, o limitOrder) error {
		d, err := time.ParseDuration(o.For)
		if err != nil {
			return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "for is not a duration", Hint: `write a number with a unit, as "10m"`}
		}
		return s.live.limits.Ban(ctx, o.By, o.Key, d)
	}))
	mux.HandleFunc("POST /limits/unban", carryOut(s, example, func(ctx context.Context, o limitOrder) error {
		return s.live.limits.Unban(ctx, o.By, o.Key)
	}))
	mux.HandleFunc("POST /limits/reset", carryOut(s, example, func(ctx context.Context, o limitOrder) error {
		return s.live.limits.Reset(ctx, o.By, o.Key)
	}))
}

// limitOrder is what an order says.
type limitOrder struct {
	By  ratelimit.Kind `json:"by"`
	Key string         `json:"key"`
	For string         `json:"for"` // of a ban
}

// told is what the log says of it.
func (o limitOrder) told() []any { return []any{"by", o.By, "key", o.Key, "for", o.For} }

// getLimits lists the rules and the bans.
func (s *Server) getLimits(w http.ResponseWriter, _ *http.Request) {
	answer := struct {
		Rules []string     `json:"rules"`
		Bans  []limitOrder `json:"bans"`
	}{[]string{}, []limitOrder{}}
	for _, r := range s.live.limits.Rules() {
		answer.Rules = append(answer.Rules, r.String())
	}
	for _, b := range s.live.limits.Bans() {
		by, key, _ := strings.Cut(b.Name, ":")
		answer.Bans = append(answer.Bans, limitOrder{ratelimit.Kind(by), key, b.For.Round(time.Second).String()})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // a client that has gone needs no answer
}
