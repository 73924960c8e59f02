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
	return among(ctx, g.slots)
}

// redeemers is how many tickets are redeemed at a time. Anybody can make up tickets: nobody
// who is known is to wait behind those who do.
const redeemers = 2

// among is slot for other room than that of requests.
func among(ctx context.Context, room chan struct{}) (kept context.Context, release func(), err error) {
	select {
	case room <- struct{}{}:
		kept, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		return kept, func() { cancel(); <-room }, nil
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("wait for room among the requests under way: %w", ctx.Err())
	}
}
