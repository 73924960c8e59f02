package server

import (
	"context"
	"encoding/json"

	"github.com/pgcast/pgcast"
)

// groupFacts reads and changes what is durable about groups, with the connections that the
// clients' requests may use: the reader of the log never waits behind them.
type groupFacts struct{ s *Server }

// Group implements group.Facts.
func (f groupFacts) Group(ctx context.Context, name string) (pgcast.Group, error) {
	ctx, release, err := f.s.gateway.Slot(ctx)
	if err != nil {
		return pgcast.Group{}, err
	}
	defer release()
	return f.s.log.Group(ctx, name)
}

// CreateGroup implements group.Facts.
func (f groupFacts) CreateGroup(ctx context.Context, name string, max int, meta json.RawMessage) (bool, error) {
	ctx, release, err := f.s.gateway.Slot(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	return f.s.log.CreateGroup(ctx, name, max, meta)
}

// ChangeGroup implements group.Facts.
func (f groupFacts) ChangeGroup(ctx context.Context, name string, c pgcast.GroupChange) error {
	ctx, release, err := f.s.gateway.Slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	return f.s.log.ChangeGroup(ctx, name, c)
}
