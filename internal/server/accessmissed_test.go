package server

import (
	"errors"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// A key that was revoked while nobody heard of it is good for nothing, nor is what is live by it.
func TestMissedRevocationOfAKey(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	g := guard(t, db, 1, nil)[0]
	gone := pgtest.Value[string](t, db, `select pgcast.create_api_key('gone', '{subscribe}', '{**}')`)
	good := pgtest.Value[string](t, db, `select pgcast.create_api_key('good', '{subscribe}', '{**}')`)
	ann, kept, lost := g.enter(t, g.token(t, "ann")), g.enter(t, good), g.enter(t, gone)
	db.Exec(t, `alter table pgcast.api_key disable trigger changed; select pgcast.revoke_api_key(id) from pgcast.api_key where name = 'gone';
		alter table pgcast.api_key enable trigger changed; select pgcast.tell_access('news of another version', '[]')`)
	if code, reason := lost.closed(); code != 4401 {
		t.Errorf("closed with %d %s", code, reason)
	}
	if _, err := g.authority.Authenticate(t.Context(), gone); !errors.Is(err, pgcast.ErrUnauthenticated) {
		t.Errorf("it comes back: %v", err)
	}
	for _, p := range []*peer{ann, kept} { // they are still there
		p.send(`{"type":"subscribe","topic":"__system","ref":1}`)
		p.want(wire.Subscribed)
	}
}

// While changes cannot be followed nobody is let in, and what is live does not go on for longer
// than what was decided holds.
func TestNothingGoesOnUnfollowed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	g := guard(t, db, 1, func(o *Options) { o.Access.DecisionTTL = time.Second })[0]
	db.Exec(t, `select pgcast.allow('{subscribe}', 'news')`)
	token := g.token(t, "ann")
	who := g.who(t, token)
	await(t, "it is allowed", func() bool { return g.may(t, who, auth.Subscribe, "news") })
	ann := g.enter(t, token)
	ann.send(`{"type":"subscribe","topic":"news","ref":1}`)
	ann.want(wire.Subscribed)
	db.Exec(t, `alter table pgcast.revocation rename to elsewhere; select pgcast.tell_access('news of another version', '[]')`)
	if code, reason := ann.closed(); code != 4408 {
		t.Errorf("closed with %d %s", code, reason)
	}
	if _, err := g.authority.Authenticate(t.Context(), token); !errors.Is(err, pgcast.ErrUnavailable) {
		t.Errorf("somebody is let in: %v", err)
	}
	db.Exec(t, `alter table pgcast.elsewhere rename to revocation`)
	await(t, "changes are followed again", func() bool { return !g.authority.authorizer.Halted() })
	g.enter(t, token)
}

// What was revoked without anybody's being told counts all the same, only later.
func TestUntoldRevocation(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	g := guard(t, db, 1, func(o *Options) { o.Access.DecisionTTL = 200 * time.Millisecond })[0]
	ann := g.enter(t, g.token(t, "ann"))
	db.Exec(t, `insert into pgcast.revocation (kind, value, until) values ('sub', 'ann', now() + interval '1 hour')`)
	if code, reason := ann.closed(); code != 4401 {
		t.Errorf("closed with %d %s", code, reason)
	}
}
