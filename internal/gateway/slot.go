package gateway

import (
	"context"
	"fmt"
)

// Slot is slot for those beside the gateway who ask the database for its clients.
func (g *Gateway) Slot(ctx context.Context) (kept context.Context, release func(), err error) {
	return g.slot(ctx)
}

// slot waits for room among the requests under way. What is then asked of the database is
// asked with the context it gives: to break off costs a connection each time, so it is
// waited for also when the client has gone.
func (g *Gateway) slot(ctx context.Context) (kept context.Context, release func(), err error) {
	select {
	case g.slots <- struct{}{}:
		kept, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		return kept, func() { cancel(); <-g.slots }, nil
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("wait for room among the requests under way: %w", ctx.Err())
	}
}
