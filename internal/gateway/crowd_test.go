package gateway

import (
	"net/http"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// S21: the sessions of one subject are bounded, whatever addresses and tokens they have and
// over whatever transport; those who have no name are not one subject. A session that ends
// makes room, and so does one that was counted for nobody before it said who it is.
func TestS21SessionsOfASubject(t *testing.T) {
	t.Parallel()
	const most = 3
	d := newDoor(t, func(s *setup) { s.MaxSessionsPerSubject = most; anonymous(t, s) })
	var first *peer
	for range most {
		first = d.as(t, d.token(t, "alice"))
	}
	res := d.shut(t, http.StatusTooManyRequests, "", bearing(d.token(t, "alice")))
	if res.Header.Get("Retry-After") == "" {
		t.Error("nobody says when to try again")
	}
	d.answered(t, http.MethodGet, "/topics/room:1/sse", bearing(d.token(t, "alice")), "", http.StatusTooManyRequests, pgcast.CodeRateLimited)
	// Who signs in on a session that has begun.
	nobody := d.enter(t, "", nil)
	nobody.want(wire.Welcome)
	nobody.raw(`{"type":"auth","ref":1,"token":"` + d.token(t, "alice") + `"}`)
	if f := nobody.want(wire.Error); f.Code != pgcast.CodeRateLimited {
		t.Errorf("got %+v", f)
	}
	nobody.raw(`{"type":"auth","ref":2,"token":"` + d.token(t, "bob") + `"}`)
	nobody.want(wire.Authenticated)
	for range 2 * most {
		d.enter(t, "", nil)
	}
	// A new token for a session that is counted already.
	first.raw(`{"type":"auth","ref":3,"token":"` + d.token(t, "alice") + `"}`)
	first.want(wire.Authenticated)
	_ = first.ws.CloseNow()
	await(t, "there is room again", func() bool {
		_, res, err := d.knock(t, "", bearing(d.token(t, "alice")))
		return err == nil && res.StatusCode == http.StatusSwitchingProtocols
	})
	d.gate.mu.Lock()
	defer d.gate.mu.Unlock()
	if c := d.gate.crowd; c.subjects["alice"] != most || c.subjects["bob"] != 1 || c.subjects[""] != 0 || len(c.of) != len(d.gate.clients) {
		t.Errorf("counted %v for %d sessions of %d", c.subjects, len(c.of), len(d.gate.clients))
	}
}
