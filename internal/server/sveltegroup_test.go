package server

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// The unmodified browser client of 0.3: its store of a group shows its members and what is
// said in it.
func TestSvelteGroup(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	r := start(t, db.URL, func(o *Options) {
		o.Live.GroupOn, o.Live.PresenceGrace = []pgcast.Pattern{pattern(t, "*")}, time.Millisecond
	}).awaitReady(t)
	db.Exec(t, "select pgcast.create_group('lobby')")
	s := runStores(t, "svelte-group.mjs", r.listen)
	s.stores(map[string]string{"members": `["member"]`})
	ann := r.hello(t, "ann", `"reset"`)
	if got := ann.asks(`"op":"join","role":"admin"`); !strings.Contains(got, `"role":"admin"`) {
		t.Fatal(got)
	}
	s.stores(map[string]string{"members": `["admin","member"]`, "group": `["join",{"key":"ann","role":"admin","user":{"id":"ann","name":"ANN"},"count":2}]`})
	db.Exec(t, `select pgcast.publish('group:lobby', 'said', '{"n":1}')`)
	s.stores(map[string]string{"group": `["said",{"n":1}]`})
	if got := ann.asks(`"op":"send","event":"nudge","data":1,"role":"member"`); got != "" {
		t.Fatal(got)
	}
	s.stores(map[string]string{"group": `["nudge",1]`})
	ann.asks(`"op":"join","role":"viewer"`)
	s.stores(map[string]string{"members": `["member","viewer"]`})
	s.tell("")
	s.stores(map[string]string{"status": `"closed"`})
	s.stores(map[string]string{"status": `"open"`, "members": `["member","viewer"]`})
	ann.asks(`"op":"leave"`)
	s.stores(map[string]string{"members": `["member"]`})
	db.Exec(t, "select pgcast.close_group('lobby')")
	s.stores(map[string]string{"members": `[]`, "group": `["close",null]`})
	await(t, "nobody is there", func() bool {
		_, text := get(t, "http://"+r.listen+"/groups/lobby")
		var g struct {
			Members []any
			Closed  bool
		}
		return json.Unmarshal([]byte(text), &g) == nil && g.Closed && len(g.Members) == 0
	})
}
