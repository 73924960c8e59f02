package server

import (
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// The unmodified presence store of svelte-adapter-uws: who comes and goes, itself included;
// and nobody it is told of ages, while the server says that they are there.
func TestSveltePresence(t *testing.T) {
	t.Parallel()
	rooms, err := pgcast.ParsePattern("room:*")
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, pgtest.New(t, nil).URL, func(o *Options) {
		o.Live = LiveOptions{PresenceOn: []pgcast.Pattern{rooms}, PresenceTTL: 3 * time.Second, PresenceBeat: 200 * time.Millisecond, PresenceGrace: time.Millisecond}
	}).awaitReady(t)
	ann := r.as(t, "ann")
	s := runStores(t, "presence.mjs", r.listen)
	s.stores(map[string]string{"presence": `[{"id":"ann"},{}]`, "aging": `[{"id":"ann"},{}]`})
	began := time.Now()
	bob := r.as(t, "bob")
	s.stores(map[string]string{"presence": `[{"id":"ann"},{},{"id":"bob"}]`, "aging": `[{"id":"ann"},{},{"id":"bob"}]`})
	await(t, "they would have aged", func() bool { return time.Since(began) > 4*time.Second })
	ann.send(`{"type":"unsubscribe","topic":"room:1"}`)
	s.stores(map[string]string{"presence": `[{},{"id":"bob"}]`, "aging": `[{},{"id":"bob"}]`})
	_ = bob.ws.CloseNow()
	s.stores(map[string]string{"presence": `[{}]`, "aging": `[{}]`})
}
