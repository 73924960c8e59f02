package server

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// limits are the admin listener's paths about rate limits.
func (s *Server) limits(mux *http.ServeMux) {
	mux.HandleFunc("GET /limits", s.getLimits)
	mux.HandleFunc("POST /limits/ban", s.order(func(r *http.Request, o limitOrder) error {
		d, err := time.ParseDuration(o.For)
		if err != nil {
			return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "for is not a duration", Hint: `write a number with a unit, as "10m"`}
		}
		return s.live.limits.Ban(r.Context(), o.By, o.Key, d)
	}))
	mux.HandleFunc("POST /limits/unban", s.order(func(r *http.Request, o limitOrder) error {
		return s.live.limits.Unban(r.Context(), o.By, o.Key)
	}))
	mux.HandleFunc("POST /limits/reset", s.order(func(r *http.Request, o limitOrder) error {
		return s.live.limits.Reset(r.Context(), o.By, o.Key)
	}))
}

// limitOrder is what an order says.
type limitOrder struct {
	By  ratelimit.Kind `json:"by"`
	Key string         `json:"key"`
	For string         `json:"for"` // of a ban
}

const maxOrder = 4 << 10 // bytes

// order reads an order, and answers whether it was carried out. Browsers do not come here.
func (s *Server) order(do func(*http.Request, limitOrder) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind != "application/json" {
			http.Error(w, "the body's Content-Type is not application/json", http.StatusUnsupportedMediaType)
			return
		}
		var o limitOrder
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrder))
		d.DisallowUnknownFields()
		if err := d.Decode(&o); err != nil {
			http.Error(w, `the body is not an order: {"by":"ip","key":"203.0.113.7","for":"10m"}: `+err.Error(), http.StatusBadRequest)
			return
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			http.Error(w, "the body goes on after the order", http.StatusBadRequest)
			return
		}
		if err := do(r, o); err != nil {
			status := http.StatusBadRequest
			if errors.Is(err, pgcast.ErrUnavailable) {
				status = http.StatusServiceUnavailable
			}
			http.Error(w, err.Error(), status)
			return
		}
		s.opts.Logger.Info("rate limits: an order was carried out", "path", r.URL.Path, "by", o.By, "key", o.Key, "for", o.For)
		w.WriteHeader(http.StatusNoContent)
	}
}

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
