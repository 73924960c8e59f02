package gateway

import (
	"maps"
	"slices"

	"github.com/pgcast/pgcast/internal/wire"
)

// Announce tells every session that a backend is degraded, or has recovered, once for each
// change; those that come later are told of what is degraded then.
func (g *Gateway) Announce(backend string, degraded bool) {
	g.mu.Lock()
	changed := g.degraded[backend] != degraded
	if degraded {
		g.degraded[backend] = true
	} else {
		delete(g.degraded, backend)
	}
	g.mu.Unlock()
	if !changed {
		return
	}
	text := systemText(backend, degraded)
	for _, c := range g.all() {
		if _, ok := c.transport.(*client); ok {
			c.session.Offer(text)
		}
	}
}

func systemText(backend string, degraded bool) []byte {
	event := "recovered"
	if degraded {
		event = "degraded"
	}
	data := append(append([]byte(`{"backend":`), quoted(backend)...), '}')
	return wire.AppendLive(nil, wire.System, event, data)
}

// greet tells a new session what is degraded.
func (c *client) greet() {
	c.g.mu.Lock()
	backends := slices.Sorted(maps.Keys(c.g.degraded))
	c.g.mu.Unlock()
	for _, b := range backends {
		c.session.Send(systemText(b, true))
	}
}
