package gateway

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/wire"
)

// Announce tells every WebSocket session that a backend is degraded, or has recovered; those
// that come later are told of what is degraded then. It does not wait for any of them.
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
	for _, to := range g.all() {
		if c, ok := to.transport.(*client); ok {
			to.session.Pull(&c.system) // the client may not have its session yet
		}
	}
}

// system is a session's view of the backends. It is told of each change once, and of one
// that has passed before it could be told not at all.
type system struct {
	g     *Gateway
	ready atomic.Bool // it has been welcomed

	// Owned by the session's pump.
	told map[string]bool // that are degraded
}

var _ fanout.View = (*system)(nil)

// Pull implements [fanout.View].
func (s *system) Pull() (texts [][]byte) {
	if !s.ready.Load() {
		return nil
	}
	s.g.mu.Lock()
	now := maps.Clone(s.g.degraded)
	s.g.mu.Unlock()
	for _, b := range slices.Sorted(maps.Keys(s.told)) {
		if !now[b] {
			texts = append(texts, systemText(b, "recovered"))
		}
	}
	for _, b := range slices.Sorted(maps.Keys(now)) {
		if !s.told[b] {
			texts = append(texts, systemText(b, "degraded"))
		}
	}
	s.told = now
	return texts
}

func systemText(backend, event string) []byte {
	data := append(append([]byte(`{"backend":`), quoted(backend)...), '}')
	return wire.AppendLive(nil, wire.System, event, data)
}

// greet tells a new session, behind its welcome, what is degraded.
func (c *client) greet() {
	c.system.ready.Store(true)
	c.g.mu.Lock()
	fine := len(c.g.degraded) == 0
	c.g.mu.Unlock()
	if !fine {
		c.session.Pull(&c.system)
	}
}
