package filter

import (
	"context"
	"time"

	"github.com/pgcast/pgcast"
)

// How long it is believed how tables are attached: to look takes the database some 3 ms for
// each table, so the longer that takes the longer.
const (
	tablesFresh = 2 * time.Second
	tablesShare = 20 // times as long as a look took
	tablesMost  = time.Minute
	tablesSoon  = 250 * time.Millisecond // for who is told to attach a table otherwise, and does
)

// Tables are the attached tables, as of a moment ago. It is safe for concurrent use.
type Tables struct {
	load func(context.Context) ([]pgcast.Table, error)

	turn chan struct{} // held by who looks them up; the others then find them, or why not

	// Owned by who has the turn.
	list   []pgcast.Table
	at     time.Time
	took   time.Duration
	failed time.Time
	err    error // of then
}

// NewTables makes Tables that are looked up by load; nil: there are none.
func NewTables(load func(context.Context) ([]pgcast.Table, error)) *Tables {
	if load == nil {
		load = func(context.Context) ([]pgcast.Table, error) { return nil, nil }
	}
	return &Tables{load: load, turn: make(chan struct{}, 1)}
}

// all gives them, also when they cannot be looked up right now but once could.
func (t *Tables) all(ctx context.Context) ([]pgcast.Table, error) {
	list, err := t.since(ctx, tablesMost)
	if err != nil && list != nil {
		err = nil
	}
	return list, err
}

// known gives them if that takes no waiting.
func (t *Tables) known() (list []pgcast.Table, ok bool) {
	select {
	case t.turn <- struct{}{}:
	default:
		return nil, false
	}
	defer func() { <-t.turn }()
	return t.list, t.fresh(tablesMost)
}

// fresh tells whether they are believed, if they are no older than that. It is called by who has
// the turn.
func (t *Tables) fresh(most time.Duration) bool {
	return !t.at.IsZero() && time.Since(t.at) < min(max(tablesFresh, tablesShare*t.took), most)
}

// since gives them as of no longer ago than that; with an error, as they were before.
func (t *Tables) since(ctx context.Context, most time.Duration) ([]pgcast.Table, error) {
	asked := time.Now()
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-t.turn }()
	switch {
	case t.fresh(most):
		return t.list, nil
	case t.failed.After(asked):
		return t.list, t.err // each would wait for the database as long as the others have
	}
	began := time.Now()
	list, err := t.load(ctx)
	if err != nil {
		if ctx.Err() == nil { // else it was the caller's time
			t.failed, t.err = time.Now(), err
		}
		return t.list, err
	}
	t.list, t.at, t.took = list, time.Now(), time.Since(began)
	return list, nil
}

// Check tells why a topic or pattern cannot be seen through a filter, or returns nil: where the
// old values of a row are not captured nobody could tell that it goes out of sight. Errors
// have code invalid, and say how the table is to be attached; or they are of the look at the
// tables.
func (t *Tables) Check(ctx context.Context, f *Filter, p pgcast.Pattern) error {
	list, err := t.all(ctx)
	if err == nil && f.fits(p, list) != nil {
		if list, err = t.since(ctx, tablesSoon); err == nil {
			err = f.fits(p, list)
		}
	}
	return err
}
