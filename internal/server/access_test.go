package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/auth/authtest"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// guarded is a server with access control, and the key it knows.
type guarded struct {
	*running
	key *authtest.Key
}

// guard runs servers with access control on one database.
func guard(t *testing.T, db *pgtest.DB, n int, change func(*Options)) []*guarded {
	t.Helper()
	key := authtest.New(t, "HS256")
	list := make([]*guarded, n)
	for i := range list {
		list[i] = &guarded{start(t, db.URL, func(o *Options) {
			o.Access = AccessOptions{On: true, Secret: key.Secret(), Leeway: 10 * time.Second}
			if change != nil {
				change(o)
			}
		}), key}
	}
	for _, g := range list {
		g.awaitReady(t)
	}
	return list
}

// token gives one of somebody, with claims of his own in pairs.
func (g *guarded) token(t *testing.T, sub string, more ...any) string {
	t.Helper()
	claims := map[string]any{"sub": sub, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	for i := 0; i < len(more); i += 2 {
		claims[more[i].(string)] = more[i+1]
	}
	return g.key.Token(t, claims)
}

func (g *guarded) who(t *testing.T, credential string) *auth.Claims {
	t.Helper()
	c, err := g.authority.Authenticate(t.Context(), credential)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// may tells whether somebody may do something; what nobody could decide fails the test.
func (g *guarded) may(t *testing.T, c *auth.Claims, verb auth.Verb, topic string) bool {
	t.Helper()
	err := g.authority.authorizer.Decide(t.Context(), c, []auth.Ask{{Verb: verb, Topic: topic}})[0]
	if err != nil && !errors.Is(err, pgcast.ErrForbidden) {
		t.Fatalf("%s %s: %v", verb, topic, err)
	}
	return err == nil
}

// soon waits for something that has to be within a second, and gives how long it took.
func soon(t *testing.T, what string, holds func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	await(t, what, holds)
	return time.Since(began)
}

func report(t *testing.T, what string, took []time.Duration) {
	t.Helper()
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	t.Logf("%s on every server: median %v, p99 %v, of %d", what, took[len(took)/2], p99, len(took))
	if p99 > time.Second {
		t.Errorf("%s took %v", what, p99)
	}
}

// A change of the rules, or of what an authorize() of somebody's own goes by, counts on every
// server within a second, though decisions are remembered.
func TestRulesReachEveryServer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	servers := guard(t, db, 2, nil)
	ann := servers[0].who(t, servers[0].token(t, "ann"))
	all := func(want bool) func() bool {
		return func() bool {
			return !slices.ContainsFunc(servers, func(g *guarded) bool { return g.may(t, ann, auth.Subscribe, "user:ann") != want })
		}
	}
	if !all(false)() || !servers[0].may(t, ann, auth.Connect, "") {
		t.Error("as it comes one may connect, and nothing else")
	}
	var took []time.Duration
	for range 25 {
		db.Exec(t, `select pgcast.allow('{subscribe}', 'user:{sub}')`)
		took = append(took, soon(t, "it is allowed", all(true)))
		db.Exec(t, `delete from pgcast.rule where topic = 'user:{sub}'`)
		took = append(took, soon(t, "it is not allowed any more", all(false)))
	}
	report(t, "a change of the rules", took)

	db.Exec(t, `create table member (room text, who text);
		create or replace function pgcast.authorize(claims jsonb, verb text, topic text) returns boolean
		language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
		begin
			return pgcast.rule_allows(claims, verb, topic) or exists (select from public.member m where m.who = claims->>'sub' and topic = 'user:' || m.room);
		end $$;
		create function told() returns trigger language plpgsql as $$
		begin
			perform pgcast.recheck(jsonb_build_object('sub', coalesce(new.who, old.who)));
			return null;
		end $$;
		create trigger told after insert or delete on member for each row execute function told();
		select pgcast.recheck()`)
	took = nil
	for range 10 {
		db.Exec(t, `insert into member values ('ann', 'ann')`)
		took = append(took, soon(t, "a member may", all(true)))
		db.Exec(t, `delete from member`)
		took = append(took, soon(t, "who is none any more may not", all(false)))
	}
	report(t, "a change of members", took)
}

// S8: what is revoked is refused by every server within a second; what is issued to a sub
// later counts.
func TestRevocationReachesEveryServer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	servers := guard(t, db, 2, nil)
	refused := func(credential string) func() bool {
		return func() bool {
			return !slices.ContainsFunc(servers, func(g *guarded) bool {
				_, err := g.authority.Authenticate(t.Context(), credential)
				return !errors.Is(err, pgcast.ErrUnauthenticated)
			})
		}
	}
	var took []time.Duration
	for i := range 50 {
		sub, jti := fmt.Sprint("user", i), fmt.Sprint("token", i)
		token := servers[0].token(t, sub, "jti", jti)
		c := servers[1].who(t, token)
		if i%2 == 0 {
			db.Exec(t, `select pgcast.revoke(sub => $1)`, sub)
		} else {
			db.Exec(t, `select pgcast.revoke(jti => $1)`, jti)
		}
		took = append(took, soon(t, "it is refused", refused(token)))
		if servers[1].may(t, c, auth.Connect, "") {
			t.Error("revoked claims may connect")
		}
	}
	report(t, "a revocation", took)

	later := servers[0].token(t, "user0", "iat", time.Now().Add(2*time.Second).Unix())
	servers[0].who(t, later)
	if undated := servers[0].key.Token(t, map[string]any{"sub": "user0", "exp": time.Now().Add(time.Hour).Unix()}); !refused(undated)() {
		t.Error("a token that does not say when it was issued counts")
	}
	// A server that starts later knows as well, and one can be taken back.
	third := guard(t, db, 1, func(o *Options) { o.Access.Secret = servers[0].key.Secret() })[0]
	if _, err := third.authority.Authenticate(t.Context(), servers[0].token(t, "x", "jti", "token1")); !errors.Is(err, pgcast.ErrUnauthenticated) {
		t.Errorf("a server that has started since: %v", err)
	}
	db.Exec(t, `select pgcast.unrevoke(jti => 'token1')`)
	soon(t, "it counts again", func() bool {
		_, err := third.authority.Authenticate(t.Context(), servers[0].token(t, "x", "jti", "token1"))
		return err == nil
	})
}

// An API key may do what its scopes say, on every server, until it is revoked.
func TestAPIKeyScopes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	servers := guard(t, db, 2, nil)
	db.Exec(t, `select pgcast.allow('{subscribe}', '**')`) // the rules are not for keys
	key := pgtest.Value[string](t, db, `select pgcast.create_api_key('billing', '{publish,history}', '{invoice:**,news}')`)
	for _, g := range servers {
		c := g.who(t, key)
		for _, tt := range []struct {
			verb  auth.Verb
			topic string
			want  bool
		}{
			{auth.Connect, "", true}, {auth.Publish, "invoice:1", true}, {auth.History, "invoice:1:*", true}, {auth.Publish, "news", true},
			{auth.Subscribe, "news", false}, {auth.Publish, "invoice", false}, {auth.History, "**", false}, {auth.Publish, "__access", false}, {auth.Publish, "", false},
		} {
			if got := g.may(t, c, tt.verb, tt.topic); got != tt.want {
				t.Errorf("the key may %s %s: %v", tt.verb, tt.topic, got)
			}
		}
		if _, err := g.authority.Authenticate(t.Context(), key+"x"); !errors.Is(err, pgcast.ErrUnauthenticated) {
			t.Errorf("another secret: %v", err)
		}
	}
	await(t, "its use is noted", func() bool { return pgtest.Value[bool](t, db, `select last_used_at is not null from pgcast.api_key`) })
	db.Exec(t, `select pgcast.revoke_api_key(id) from pgcast.api_key`)
	took := soon(t, "it is refused", func() bool {
		return !slices.ContainsFunc(servers, func(g *guarded) bool {
			_, err := g.authority.Authenticate(t.Context(), key)
			return !errors.Is(err, pgcast.ErrUnauthenticated)
		})
	})
	report(t, "the revocation of a key", []time.Duration{took})
}

// A ticket stands for its caller, with all that is known of him, once on all servers.
func TestTicketsOnTwoServers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	servers := guard(t, db, 2, nil)
	key := pgtest.Value[string](t, db, `select pgcast.create_api_key('billing', '{publish}', '{invoice:**}')`)
	for _, credential := range []string{servers[0].token(t, "ann", "jti", "1", "role", "x"), key} {
		who := servers[0].who(t, credential)
		ticket, err := servers[0].authority.Issue(t.Context(), who)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var got []*auth.Claims
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				c, err := servers[i%2].authority.Redeem(context.Background(), ticket)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					got = append(got, c)
				} else if !errors.Is(err, pgcast.ErrUnauthenticated) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(got) != 1 {
			t.Fatalf("the ticket was redeemed %d times", len(got))
		}
		c := got[0]
		if c.Hash() != who.Hash() || c.Subject != who.Subject || c.TokenID != who.TokenID || !c.Issued.Equal(who.Issued) || !c.Expires.Equal(who.Expires) ||
			c.Source != who.Source || (c.Scopes == nil) != (who.Scopes == nil) {
			t.Errorf("the ticket stands for\n%+v; want\n%+v", c, who)
		}
		if c.Scopes != nil && (!servers[1].may(t, c, auth.Publish, "invoice:1") || servers[1].may(t, c, auth.Publish, "news")) {
			t.Error("a key's ticket may do something else than the key")
		}
	}
	// Who was revoked meanwhile does not come in by a ticket.
	ticket, err := servers[0].authority.Issue(t.Context(), servers[0].who(t, servers[0].token(t, "bob")))
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `select pgcast.revoke(sub => 'bob')`)
	await(t, "the revocation is known", func() bool {
		_, err := servers[1].authority.Authenticate(t.Context(), servers[1].token(t, "bob", "iat", 1))
		return err != nil
	})
	if _, err := servers[1].authority.Redeem(t.Context(), ticket); !errors.Is(err, pgcast.ErrUnauthenticated) {
		t.Errorf("a ticket of somebody revoked: %v", err)
	}
}

// Nobody is let in while changes cannot be followed; after anything that may have been missed
// everything is known again.
func TestAccessWatchMissesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	g := guard(t, db, 1, nil)[0]
	ann := g.who(t, g.token(t, "ann"))
	if g.may(t, ann, auth.Subscribe, "news") {
		t.Fatal("allowed by no rule")
	}
	// As if what was told had been trimmed before it was heard.
	db.Exec(t, `alter table pgcast.rule disable trigger changed; select pgcast.allow('{subscribe}', 'news'); alter table pgcast.rule enable trigger changed`)
	if g.may(t, ann, auth.Subscribe, "news") {
		t.Fatal("nobody has told, and yet")
	}
	g.hub.Restart(g.hub.Position(), fanout.ErrResume)
	await(t, "it is known after the hub began anew", func() bool {
		err := g.authority.authorizer.Decide(t.Context(), ann, []auth.Ask{{Verb: auth.Subscribe, Topic: "news"}})[0]
		return err == nil
	})
	// What nobody understands, and very much at once.
	db.Exec(t, `alter table pgcast.rule disable trigger changed; delete from pgcast.rule where topic = 'news'; alter table pgcast.rule enable trigger changed;
		select pgcast.tell_access('news of another version', '[]')`)
	soon(t, "it is known after what was not understood", func() bool {
		err := g.authority.authorizer.Decide(t.Context(), ann, []auth.Ask{{Verb: auth.Subscribe, Topic: "news"}})[0]
		return errors.Is(err, pgcast.ErrForbidden) // unavailable until all has been read
	})
	db.Exec(t, `select pgcast.recheck() from generate_series(1, 3000); select pgcast.revoke(sub => 'ann')`)
	soon(t, "ann is revoked", func() bool { return g.authority.revocations.Revoked(ann, "") })
}

// Until the database has been read nobody is let in.
func TestNobodyIsLetInBeforeTheRulesAreKnown(t *testing.T) {
	t.Parallel()
	key := authtest.New(t, "HS256")
	r := start(t, "postgres://nobody@"+pgtest.FreeAddress(t)+"/x", func(o *Options) {
		o.Access = AccessOptions{On: true, Secret: key.Secret(), Anonymous: json.RawMessage(`{"role":"anonymous"}`)}
	})
	g := &guarded{r, key}
	if _, err := g.authority.Authenticate(t.Context(), g.token(t, "ann")); !errors.Is(err, pgcast.ErrUnavailable) {
		t.Errorf("somebody with a token: %v", err)
	}
	if err := g.authority.authorizer.Decide(t.Context(), g.authority.anonymous, []auth.Ask{{Verb: auth.Connect}})[0]; !errors.Is(err, pgcast.ErrUnavailable) {
		t.Errorf("somebody without: %v", err)
	}
	if status, text := get(t, "http://"+r.admin+"/readyz"); status != 503 {
		t.Errorf("it is ready: %d %s", status, text)
	}
}

// S13: tokens whose claims look like patterns get nothing by them, whatever topic they ask for.
func TestHostileClaims(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	g := guard(t, db, 1, nil)[0]
	db.Exec(t, `select pgcast.allow('{subscribe,history}', 'user:{sub}:**'), pgcast.allow('{subscribe}', 'room:{rooms}'), pgcast.allow('{subscribe}', '{sub}')`)
	for _, sub := range []string{"*", "**", "a:b", "ann:*", "__access", "", " ", "änn", "%2A", "{sub}", strings.Repeat("x", 4000), "ann%3Ab", "~null", "..", "ａｎｎ"} {
		c := g.who(t, g.token(t, sub, "rooms", []any{"*", "**", "a:b", nil, 1.5, []any{"x"}, map[string]any{"x": 1}}))
		var asks []auth.Ask
		for _, topic := range []string{"*", "**", "user:*", "user:**", "user:*:x", "user:ann:x", "user:ann:*", "user:a:b:x", "user::x", "__access", "__system", "room:*", "room:**",
			"room:a:b", "room:x", "room:", "", ":", "..", "user:änn:x", "user:ann\x00:x", strings.Repeat("x", 64<<10), `room:"`, "ROOM:1.5"} {
			asks = append(asks, auth.Ask{Verb: auth.Subscribe, Topic: topic}, auth.Ask{Verb: auth.History, Topic: topic})
		}
		for i, err := range g.authority.authorizer.Decide(t.Context(), c, asks) {
			if err == nil && !(sub == ".." && asks[i].Topic == ".." && asks[i].Verb == auth.Subscribe) { // it is a name like any other
				t.Errorf("sub %.20q may %s %.20q", sub, asks[i].Verb, asks[i].Topic)
			}
		}
		if !g.may(t, c, auth.Subscribe, "room:1.5") {
			t.Errorf("sub %.20q may not do what it may", sub)
		}
	}
}
