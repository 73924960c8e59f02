package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
)

// recheck decides anew on the session's subscriptions, with the claims it has now. Those that
// are no longer allowed end.
func (c *client) recheck(ctx context.Context) {
	names := slices.Sorted(maps.Keys(c.names))
	asks := make([]auth.Ask, len(names))
	for i, name := range names {
		asks[i] = auth.Ask{Verb: auth.Subscribe, Topic: name}
	}
	for i, err := range c.g.allowEach(ctx, c.claims.Load(), asks) {
		if errors.Is(err, pgcast.ErrForbidden) {
			c.leave(names[i], nil)
			c.session.Deny(names[i], nil, wire.ReasonForbidden)
		}
	}
}
