package server

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/breaker"
	"github.com/pgcast/pgcast/internal/gateway"
	"github.com/pgcast/pgcast/replay"
)

// The follower looks at the log at least each 250 ms, whatever clients do: it is the one
// that finds out whether the database can be read. Three of its looks that fail, some
// 200 ms of them, are no mere hiccup; from then on nobody who waits for an answer is made
// to wait, until the follower has read again.
func (s *Server) databaseBreaker() *breaker.Breaker {
	return breaker.New(&breaker.Options{Backend: "postgres", ProbeAfter: 10 * time.Millisecond, // the follower has pauses of its own
		Down:       "the database cannot be read; what clients ask of it is refused until it can be",
		Up:         "the database can be read again",
		OnState:    s.databaseChanged,
		Registerer: s.registry, Logger: s.opts.Logger})
}

// databaseChanged tells the clients. Probing is no change to them.
func (s *Server) databaseChanged(to breaker.State) {
	if s.gateway != nil {
		s.gateway.Announce("postgres", to != breaker.Healthy)
	}
}

// source is the log as the follower reads it. It never keeps the follower from trying.
type source struct {
	*replay.Log
	breaker *breaker.Breaker
}

var _ fanout.Source = source{}

// Position implements [fanout.Source].
func (l source) Position(ctx context.Context) (pgcast.Position, error) {
	p, err := l.Log.Position(ctx)
	return p, l.failed(err)
}

// Knows implements [fanout.Source].
func (l source) Knows(ctx context.Context, at pgcast.Position, id pgcast.ID) (bool, error) {
	known, err := l.Log.Knows(ctx, at, id)
	return known, l.failed(err)
}

// Read implements [fanout.Source]. It comes last of all that the follower does in one look:
// when it succeeds the log can be read.
func (l source) Read(ctx context.Context, after pgcast.Position, id pgcast.ID, max int) ([]pgcast.Event, bool, error) {
	events, continues, err := l.Log.Read(ctx, after, id, max)
	if err == nil {
		l.breaker.Note(nil)
	}
	return events, continues, l.failed(err)
}

// failed counts a failure. One that took as long as a look may take counts for all that it
// takes to break: nobody else is to wait as long to learn the same.
func (l source) failed(err error) error {
	n := 1
	switch {
	case err == nil, errors.Is(err, context.Canceled): // of Run, at the end
		return err
	case errors.Is(err, context.DeadlineExceeded):
		n = 3
	}
	for range n {
		l.breaker.Note(err)
	}
	return err
}

// asked is the log as clients ask it, and wait for its answer: while the database cannot be
// read they are told so at once.
type asked struct {
	*replay.Log
	breaker *breaker.Breaker
}

var (
	_ fanout.Topics     = asked{}
	_ fanout.Patterns   = asked{}
	_ fanout.Snapshots  = asked{}
	_ gateway.Publisher = asked{}
	_ gateway.Historian = asked{}
)

var errBroken = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "the database does not answer right now", Hint: "try again in a moment", RetryAfter: time.Second}

func (l asked) refused() error {
	if l.breaker.State() != breaker.Healthy {
		return errBroken
	}
	return nil
}

// Publish implements [gateway.Publisher].
func (l asked) Publish(ctx context.Context, topic, event string, data json.RawMessage, key string) (pgcast.ID, error) {
	if err := l.refused(); err != nil {
		return "", err
	}
	return l.Log.Publish(ctx, topic, event, data, key)
}

// Page implements [fanout.Topics] and [gateway.Historian].
func (l asked) Page(ctx context.Context, topic string, after pgcast.Seq, max int) (pgcast.Page, error) {
	if err := l.refused(); err != nil {
		return pgcast.Page{}, err
	}
	return l.Log.Page(ctx, topic, after, max)
}

// Places implements [fanout.Topics].
func (l asked) Places(ctx context.Context, asks []pgcast.Ask) ([]pgcast.Place, pgcast.Position, error) {
	if err := l.refused(); err != nil {
		return nil, 0, err
	}
	return l.Log.Places(ctx, asks)
}

// Scan implements [fanout.Patterns] and [gateway.Historian].
func (l asked) Scan(ctx context.Context, p pgcast.Pattern, after, upto pgcast.Position, max int) ([]pgcast.Event, pgcast.Position, error) {
	if err := l.refused(); err != nil {
		return nil, after, err
	}
	return l.Log.Scan(ctx, p, after, upto, max)
}

// ScanGap implements [fanout.Patterns] and [gateway.Historian].
func (l asked) ScanGap(ctx context.Context, p pgcast.Pattern, after pgcast.Position) (pgcast.Position, error) {
	if err := l.refused(); err != nil {
		return 0, err
	}
	return l.Log.ScanGap(ctx, p, after)
}

// Knows implements [fanout.Patterns].
func (l asked) Knows(ctx context.Context, at pgcast.Position, id pgcast.ID) (bool, error) {
	if err := l.refused(); err != nil {
		return false, err
	}
	return l.Log.Knows(ctx, at, id)
}

// Tables is what filters are checked against.
func (l asked) Tables(ctx context.Context) ([]pgcast.Table, error) {
	if err := l.refused(); err != nil {
		return nil, err
	}
	return l.Log.Tables(ctx)
}

// Snapshot implements [fanout.Snapshots].
func (l asked) Snapshot(ctx context.Context, topic string, begin func(pgcast.Snapshot) error, take func(pgcast.Row) error) error {
	if err := l.refused(); err != nil {
		return err
	}
	return l.Log.Snapshot(ctx, topic, begin, take)
}
