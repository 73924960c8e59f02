package server

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// S8: a ticket that was had for an API key opens nothing once the key is revoked, or is for
// something else; as long as it is what it was, it does.
func TestTicketOfChangedKey(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	g := guard(t, db, 1, nil)[0]
	for _, tt := range []struct {
		change string
		kept   bool
	}{
		{`update pgcast.api_key set last_used_at = now() where id = $1`, true},
		{`select pgcast.revoke_api_key($1)`, false},
		{`update pgcast.api_key set topics = '{room:1}' where id = $1`, false},
		{`update pgcast.api_key set expires_at = now() + interval '1 day' where id = $1`, false},
		{`update pgcast.api_key set claims = '{"team": 8}' where id = $1`, false},
		{`delete from pgcast.api_key where id = $1`, false},
	} {
		key := pgtest.Value[string](t, db, `select pgcast.create_api_key('backend', '{subscribe,history}', '{room:*}', claims => '{"team": "<7>"}', expires_at => now() + interval '1 hour')`)
		id := key[len("pgk_") : len("pgk_")+16]
		res, text := g.ask(t, "POST", "/tickets", "Authorization", "Bearer "+key)
		var got struct{ Ticket string }
		if err := json.Unmarshal([]byte(text), &got); err != nil || res.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s", res.Status, text)
		}
		before := g.known(t, key)
		db.Exec(t, tt.change, id)
		if !tt.kept {
			await(t, "the change is heard", func() bool { return g.known(t, key) != before })
		}
		want := http.StatusUnauthorized
		if tt.kept {
			want = http.StatusOK
		}
		if res, text := g.ask(t, "GET", "/topics/room:1/events?ticket="+got.Ticket); res.StatusCode != want {
			t.Errorf("after %s: %s %s", tt.change, res.Status, text)
		}
	}
}

// known is what the server knows of who shows a credential.
func (g *guarded) known(t *testing.T, credential string) string {
	t.Helper()
	claims, err := g.authority.Authenticate(t.Context(), credential)
	if err != nil {
		return err.Error()
	}
	text, err := claims.Stored()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// S8: a session by an API key whose change nobody was told of ends all the same.
func TestUntoldChangeOfKey(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	g := guard(t, db, 1, func(o *Options) { o.Access.DecisionTTL = 200 * time.Millisecond })[0]
	key := pgtest.Value[string](t, db, `select pgcast.create_api_key('backend', '{subscribe}', '{**}')`)
	other := pgtest.Value[string](t, db, `select pgcast.create_api_key('other', '{subscribe}', '{**}')`)
	gone, kept := g.enter(t, key), g.enter(t, other)
	for _, p := range []*peer{gone, kept} {
		p.send(`{"type":"subscribe","topic":"room:1","ref":1}`)
		p.want(wire.Subscribed)
	}
	db.Exec(t, `alter table pgcast.api_key disable trigger changed`)
	db.Exec(t, `update pgcast.api_key set revoked_at = now() where name = 'backend'`)
	if code, reason := gone.closed(); code != 4401 {
		t.Errorf("closed with %d %s", code, reason)
	}
	db.Exec(t, `select pgcast.publish('room:1', 'said')`)
	kept.want(wire.Event)
}
