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
)

// order is what the admin listener is told to do.
type order interface {
	told() []any // what the log says of it, as pairs of names and values
}

const (
	maxOrder  = 32 << 10 // bytes; claims may be long
	orderWait = 10 * time.Second
)

// carryOut reads an order, and answers whether it was carried out. Browsers do not come here.
func carryOut[O order](s *Server, example string, do func(context.Context, O) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind != "application/json" {
			http.Error(w, "the body's Content-Type is not application/json", http.StatusUnsupportedMediaType)
			return
		}
		var o O
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrder))
		d.DisallowUnknownFields()
		if err := d.Decode(&o); err != nil {
			http.Error(w, "the body is not an order: "+example+": "+err.Error(), http.StatusBadRequest)
			return
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			http.Error(w, "the body goes on after the order", http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), orderWait)
		defer cancel()
		if err := do(ctx, o); err != nil {
			status := http.StatusBadRequest
			if errors.Is(err, pgcast.ErrUnavailable) {
				status = http.StatusServiceUnavailable
			}
			http.Error(w, err.Error(), status)
			return
		}
		s.opts.Logger.Info("an order was carried out", append([]any{"path", r.URL.Path}, o.told()...)...)
		w.WriteHeader(http.StatusNoContent)
	}
}
