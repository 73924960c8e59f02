package server

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// enter connects somebody who shows a credential.
func (g *guarded) enter(t *testing.T, credential string) *peer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, "ws://"+g.listen+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + credential}}})
	if err != nil {
		t.Fatal(err, res)
	}
	ws.SetReadLimit(2 << 20)
	t.Cleanup(func() { _ = ws.CloseNow() })
	p := &peer{t, ws}
	p.want(wire.Welcome)
	return p
}

// S8, S10: a live session ends within a second of its revocation, whichever server it is on
// and whoever says so; a subscription within a second of the loss of its right.
func TestAccessEndsWhatIsLive(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	servers := guard(t, db, 2, nil)
	db.Exec(t, `select pgcast.allow('{subscribe,history}', 'room:*')`)
	key := pgtest.Value[string](t, db, `select pgcast.create_api_key('backend', '{subscribe}', '{**}')`)
	order := func(path, text string) {
		t.Helper()
		if status, _, answer := post(t, "http://"+servers[0].admin+"/access/"+path, text); status != http.StatusNoContent {
			t.Fatalf("%s %s: %d %s", path, text, status, answer)
		}
	}
	var took []time.Duration
	for i, tt := range []struct {
		sub, credential string
		revoke          func()
	}{
		{"ann", servers[0].token(t, "ann", "jti", "a1"), func() { db.Exec(t, `select pgcast.revoke(sub => 'ann')`) }},
		{"bob", servers[0].token(t, "bob", "jti", "b1"), func() { db.Exec(t, `select pgcast.revoke(jti => 'b1')`) }},
		{"cid", servers[0].token(t, "cid", "jti", "c1"), func() { order("revoke", `{"sub":"cid","for":"1h"}`) }},
		{"dan", servers[0].token(t, "dan", "jti", "d1"), func() { order("revoke", `{"jti":"d1"}`) }},
		{"key", key, func() { db.Exec(t, `select pgcast.revoke_api_key(id) from pgcast.api_key`) }},
	} {
		p, other := servers[(i+1)%2].enter(t, tt.credential), servers[i%2].enter(t, servers[0].token(t, "somebody else"))
		for _, q := range []*peer{p, other} {
			q.send(`{"type":"subscribe","topic":"room:1","ref":1}`)
			q.want(wire.Subscribed)
		}
		began := time.Now()
		tt.revoke()
		if code, reason := p.closed(); code != 4401 {
			t.Errorf("%s: closed with %d %s", tt.sub, code, reason)
		}
		took = append(took, time.Since(began))
		db.Exec(t, `select pgcast.publish('room:1', 'said')`)
		other.want(wire.Event)
	}
	report(t, "the end of a live session", took)

	ann, bob := servers[0].enter(t, servers[0].token(t, "eve")), servers[1].enter(t, servers[0].token(t, "fay"))
	took = nil
	for range 10 {
		for _, p := range []*peer{ann, bob} {
			p.send(`{"type":"subscribe","topic":"room:2","ref":2}`)
			p.want(wire.Subscribed)
		}
		began := time.Now()
		db.Exec(t, `delete from pgcast.rule where topic = 'room:*'`)
		for _, p := range []*peer{ann, bob} {
			if f := p.want(wire.SubscribeDenied); f.Topic != "room:2" || f.Reason != "FORBIDDEN" || f.Ref != nil {
				t.Errorf("got %+v", f)
			}
		}
		took = append(took, time.Since(began))
		db.Exec(t, `select pgcast.publish('room:2', 'secret'); select pgcast.allow('{subscribe}', 'room:*')`)
		await(t, "it is allowed again", func() bool {
			return servers[0].may(t, servers[0].who(t, servers[0].token(t, "eve")), "subscribe", "room:2")
		})
		await(t, "it is allowed again", func() bool {
			return servers[1].may(t, servers[0].who(t, servers[0].token(t, "fay")), "subscribe", "room:2")
		})
	}
	report(t, "the end of a subscription", took)
	db.Exec(t, `delete from pgcast.rule where 'connect' = any (verbs)`)
	for _, p := range []*peer{ann, bob} {
		if code, reason := p.closed(); code != 4403 {
			t.Errorf("closed with %d %s", code, reason)
		}
	}
}

// A session that was revoked ends, the same user's other one does not, and it does not come
// back by resuming.
func TestRevokedSessionStaysAway(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	servers := guard(t, db, 2, nil)
	token := servers[0].token(t, "ann")
	kept := servers[0].enter(t, token)
	ws, _, err := websocket.Dial(t.Context(), "ws://"+servers[0].listen+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	gone := &peer{t, ws}
	id := gone.want(wire.Welcome).SessionID
	own, _, _ := strings.Cut(id, ".")
	sum := sha256.Sum256([]byte(own))
	key := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10])) // as it is in presence
	db.Exec(t, `select pgcast.revoke(session => $1)`, key)
	if code, reason := gone.closed(); code != 4401 {
		t.Errorf("closed with %d %s", code, reason)
	}
	soon(t, "the other server knows, too", func() bool { return servers[1].authority.revocations.Revoked(servers[1].who(t, token), key) })
	again := servers[1].enter(t, token)
	again.send(`{"type":"resume","sessionId":"` + id + `","lastSeenSeqs":{}}`)
	if code, reason := again.closed(); code != 4401 {
		t.Errorf("resumed, and closed with %d %s", code, reason)
	}
	db.Exec(t, `select pgcast.allow('{subscribe}', 'a')`)
	soon(t, "it is allowed", func() bool { return servers[0].may(t, servers[0].who(t, token), "subscribe", "a") })
	kept.send(`{"type":"subscribe","topic":"a","ref":1}`)
	kept.want(wire.Subscribed)
}

// What an order about access cannot be is refused, and the rules can be looked at.
func TestAccessOrders(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	g := guard(t, db, 1, nil)[0]
	for _, tt := range []struct{ path, text string }{
		{"revoke", `{}`}, {"revoke", `{"sub":"a","jti":"b"}`}, {"revoke", `{"sub":"a","for":"soon"}`}, {"revoke", `{"sub":"a","for":"-1h"}`}, {"revoke", `{"sub":"a","claims":{}}`},
		{"revoke", `{"name":"a"}`}, {"revoke", `{"sub":"a"}{}`}, {"revoke", ``}, {"recheck", `{"claims":[]}`}, {"recheck", `{"sub":"a"}`},
	} {
		if status, _, text := post(t, "http://"+g.admin+"/access/"+tt.path, tt.text); status != http.StatusBadRequest {
			t.Errorf("%s %s: %d %s", tt.path, tt.text, status, text)
		}
	}
	if status, _, _ := post(t, "http://"+g.admin+"/access/revoke", `{"sub":"a"}`, "Origin", "https://evil.example"); status != http.StatusForbidden {
		t.Errorf("from a browser: %d", status)
	}
	for _, text := range []string{`{}`, `{"claims":{"sub":"ann"}}`} {
		if status, _, answer := post(t, "http://"+g.admin+"/access/recheck", text); status != http.StatusNoContent {
			t.Errorf("recheck %s: %d %s", text, status, answer)
		}
	}
	status, text := get(t, "http://"+g.admin+"/access")
	if want := `{"following":true,"rules":[{"id":1,"verbs":["connect"],"topic":"**","claims":{}}],"decisions":0,"revocations":0}`; status != 200 || strings.TrimSpace(text) != want {
		t.Errorf("%d %s", status, text)
	}
	if status, _ := get(t, "http://"+start(t, db.URL, nil).admin+"/access"); status != http.StatusNotFound {
		t.Errorf("without access control: %d", status)
	}
}
