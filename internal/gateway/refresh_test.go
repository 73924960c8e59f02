package gateway

import (
	"context"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
)

// own is how somebody sees what he sees by his own name only.
type own string

func (o own) Key() string { return string(o) }

func (o own) Look(_ context.Context, events []*pgcast.Event) ([]*pgcast.Event, error) {
	return events, nil
}

func (o own) Snapshot(context.Context, string, func(pgcast.Snapshot) error, func(pgcast.Row) error) error {
	return nil
}

// Whoever becomes somebody who sees other rows begins anew, whatever he is subscribed to them
// by; where he sees the same, the session goes on.
func TestRefreshSeesOtherwise(t *testing.T) {
	t.Parallel()
	w, p := guarded(t, func(s *setup) {
		s.Access.Anonymous = claimsOf("nobody")
		s.Access.Anonymous.Source = auth.Anonymous
		s.Access.Lens = func(claims *auth.Claims, topic string) fanout.Lens {
			if topic == "group:g" || topic == "rows:1" || topic == "rows:*" {
				return own(claims.Subject)
			}
			return nil
		}
	})
	p.let("nobody subscribe,group group:g", "nobody subscribe rows:*", "nobody subscribe plain", "ann subscribe,group group:g", "ann subscribe rows:*", "ann subscribe plain")
	for topic, otherwise := range map[string]bool{"plain": false, "rows:1": true, "rows:*": true, "group:g": true, "__group:g": true} {
		c := w.dial(t)
		if got := c.try(`{"type":"subscribe","topic":"` + topic + `","ref":1}`); got != "subscribed" {
			t.Fatalf("%s: %s", topic, got)
		}
		c.raw(`{"type":"auth","token":"ann","ref":1}`)
		if otherwise {
			c.wantClosed(wire.CloseStalled)
		} else {
			c.want(wire.Authenticated)
		}
	}
}
