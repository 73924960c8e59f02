package server

import (
	"context"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/console"
)

const (
	healthFresh = 30 * time.Second // for how long findings are told again
	healthWait  = 2 * time.Minute  // for all that is looked at
)

// health has the doctor look at most once at a time: everybody who asks meanwhile is told the
// same. It is no more than a few connections to the database, but anybody at the console can ask.
type health struct {
	look func(context.Context) ([]console.Finding, error)
	turn chan struct{} // has one element while nobody looks

	// Owned by who has the turn.
	known *console.Health
	began time.Time // when what is known was looked at
}

func (s *Server) health() *health {
	h := &health{look: s.opts.Health, turn: make(chan struct{}, 1)}
	if h.look == nil {
		h.look = func(context.Context) ([]console.Finding, error) { return []console.Finding{}, nil }
	}
	h.turn <- struct{}{}
	return h
}

// tell gives the findings, new ones if they are to be fresh: of a look that began after it was
// asked for.
func (h *health) tell(ctx context.Context, fresh bool) (console.Health, error) {
	asked := time.Now()
	select {
	case <-h.turn:
		defer func() { h.turn <- struct{}{} }()
	case <-ctx.Done():
		return console.Health{}, ctx.Err()
	}
	oldest := asked.Add(-healthFresh)
	if fresh {
		oldest = asked
	}
	if h.known != nil && !h.began.Before(oldest) {
		return *h.known, nil
	}
	// Who asked may have gone by then: the next one is told all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthWait)
	defer cancel()
	began := time.Now()
	found, err := h.look(ctx)
	if err != nil {
		return console.Health{}, &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "not everything could be looked at: " + err.Error(), Hint: "pgcast doctor, in a terminal, tells each finding as soon as it is known"}
	}
	h.began, h.known = began, &console.Health{At: began.UnixMilli(), Results: found}
	return *h.known, nil
}
