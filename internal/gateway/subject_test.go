package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// S36: to others a session is the subject of its token, whatever its client says, and somebody
// who has none is nobody else's.
func TestS36ForgedIds(t *testing.T) {
	t.Parallel()
	d := newDoor(t, func(s *setup) {
		withPresence(t, 0)(s)
		anonymous(t, s)
	})
	key := func(p *peer, data string) string {
		t.Helper()
		p.raw(`{"type":"presence","ref":1,"topic":"room:1","op":"join"` + data + `}`)
		f := p.want(wire.Presence)
		var got struct{ Key string }
		if err := json.Unmarshal(f.Data, &got); err != nil {
			t.Fatal(err)
		}
		return got.Key
	}
	ann := d.as(t, d.token(t, "ann", map[string]any{"name": "Ann"}))
	ann.raw(`{"type":"hello","user":{"id":"bob","sub":"bob","name":"Bob"}}`)
	if got := key(ann, `,"data":{"id":"bob","name":"Bob"}`); got != "ann" {
		t.Errorf("ann is %q", got)
	}
	ann.present("room:1", map[string]string{"ann": `{"name":"Ann"}`})
	eve := d.enter(t, "", nil)
	eve.want(wire.Welcome)
	own := publicKey(eve.session)
	eve.raw(`{"type":"hello","user":{"id":"ann","sub":"ann","name":"Eve"}}`)
	if got := key(eve, `,"data":{"id":"ann","name":"Eve"}`); got != own {
		t.Errorf("eve is %q", got)
	}
	ann.present("room:1", map[string]string{own: `{"name":"Eve"}`})
	// Once she says who she is she is that, on all topics.
	eve.send(wire.Frame{Type: wire.Auth, Token: d.token(t, "eve", map[string]any{"name": "Eve"})})
	eve.present("room:1", map[string]string{"ann": `{"name":"Ann"}`, "eve": `{"name":"Eve"}`})
	// Another's session id makes her nobody else either.
	eve.raw(fmt.Sprintf(`{"type":"resume","sessionId":%q,"lastSeenSeqs":{}}`, ann.session))
	eve.hears(`{"type":"resumed"`) // that she is authenticated may be told before or after who is here
	if got := key(eve, ""); got != "eve" {
		t.Errorf("eve is %q", got)
	}
}

// S37: a place, an id or a session that somebody has made up gains nothing.
func TestS37ForgedPlaces(t *testing.T) {
	t.Parallel()
	d := newDoor(t, nil)
	for _, topic := range []string{"room:1", "room:2"} {
		d.publish(t, topic, 3, 10)
	}
	d.sequenced(t)
	d.rules.deny("eve", auth.Subscribe, "room:2")
	d.rules.deny("eve", auth.History, "room:2")
	ann := d.as(t, d.token(t, "ann"))
	ann.subscribe("room:2", at(3), d.idOf(t, "room:2", 3))
	token := d.token(t, "eve")
	eve := d.as(t, token)
	eve.send(wire.Frame{Type: wire.Hello, Caps: []string{wire.CapReset}})
	// A session id, with what somebody else has seen, gives no right to more of it.
	eve.raw(fmt.Sprintf(`{"type":"resume","sessionId":%q,"lastSeenSeqs":{"room:2":0,"room:1":1}}`, ann.session))
	eve.hears(`{"type":"resumed"`) // that she is authenticated may be told before or after who is here
	if eve.session == ann.session {
		t.Error("eve has got ann's session")
	}
	for _, f := range []wire.Frame{
		{Type: wire.Subscribe, Ref: []byte("2"), Topic: "room:2"},
		{Type: wire.Subscribe, Ref: []byte("2"), Topic: "room:2", After: at(3), ID: d.idOf(t, "room:2", 3)},
		{Type: wire.Subscribe, Ref: []byte("2"), Topic: "room:2", After: at(0), AsOf: pgcast.AsOf{}},
	} {
		eve.send(f)
		if f := eve.want(wire.SubscribeDenied); f.Reason != wire.ReasonForbidden {
			t.Errorf("got %+v", f)
		}
	}
	eve.send(wire.Frame{Type: wire.History, Ref: []byte("3"), Topic: "room:2"})
	eve.wantError(pgcast.CodeForbidden)
	d.answered(t, "GET", "/topics/room:2/events?after=3&id="+string(d.idOf(t, "room:2", 3)), bearing(token), "", http.StatusForbidden, pgcast.CodeForbidden)
	if _, res := d.requestAs(t, "room:2", "", "3:"+string(d.idOf(t, "room:2", 3)), bearing(token)); res.StatusCode != http.StatusForbidden {
		t.Errorf("the stream is answered with %s", res.Status)
	}
	// Ids of other topics, tampered ones, and places beyond the head.
	id := string(d.idOf(t, "room:1", 2))
	for i := range id {
		forged := []byte(id)
		if forged[i] = '0'; string(forged) == id {
			forged[i] = '1'
		}
		eve.send(wire.Frame{Type: wire.Subscribe, Ref: []byte("1"), Topic: "room:1", After: at(2), ID: pgcast.ID(forged)})
		eve.want(wire.Subscribed)
		if f := eve.want(wire.Reset); f.Head != 3 {
			t.Errorf("id %s: reset to %d", forged, f.Head)
		}
	}
	for _, after := range []int64{4, 1 << 40, 1<<63 - 1} {
		eve.send(wire.Frame{Type: wire.Subscribe, Ref: []byte("1"), Topic: "room:1", After: &after})
		eve.want(wire.Subscribed)
		eve.want(wire.Reset)
		d.answered(t, "GET", fmt.Sprintf("/topics/room:1/events?after=%d", after), bearing(token), "", http.StatusGone, pgcast.CodeReset)
	}
	eve.quiet()
	d.publish(t, "room:1", 1, 10)
	eve.stream("room:1", 4, 4)
	ann.quiet()
}

// Limits are the subject's, wherever and however often it connects.
func TestLimitsOfSubjects(t *testing.T) {
	t.Parallel()
	rules, err := ratelimit.ParseRules("publish subject 3/168h")
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor(t, func(s *setup) { s.Limits = ratelimit.New(&ratelimit.Options{Rules: rules, Logger: discard}) })
	publish := `{"type":"publish","ref":1,"topic":"a","event":"said"}`
	post := http.Header{"Content-Type": {"application/json"}, EventHeader: {"said"}}
	token := d.token(t, "ann")
	for range 2 {
		p := d.as(t, token)
		p.raw(publish)
		p.want(wire.Published)
	}
	bearer := with(post, "Authorization", "Bearer "+token)
	d.answered(t, "POST", "/topics/a/events", bearer, "{}", http.StatusCreated, "")
	d.answered(t, "POST", "/topics/a/events", bearer, "{}", http.StatusTooManyRequests, pgcast.CodeRateLimited)
	p := d.as(t, token)
	p.raw(publish)
	p.wantLimited("1")
	p = d.as(t, d.token(t, "bob"))
	p.raw(publish)
	p.want(wire.Published)
}

// A subject's connections are counted however it says who it is, and by its address only where
// it is nobody.
func TestConnectLimitOfSubjects(t *testing.T) {
	t.Parallel()
	rules, err := ratelimit.ParseRules("connect subject 3/168h, connect ip 8/168h")
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor(t, func(s *setup) {
		anonymous(t, s)
		s.Limits = ratelimit.New(&ratelimit.Options{Rules: rules, Logger: discard})
	})
	ann := d.token(t, "ann")
	d.as(t, ann).raw(`{}`)
	d.ticket(t, ann)
	p := d.enter(t, "", nil)
	p.want(wire.Welcome)
	p.send(wire.Frame{Type: wire.Auth, Token: ann})
	p.want(wire.Authenticated)
	p.send(wire.Frame{Type: wire.Auth, Token: ann}) // it is ann already
	p.want(wire.Authenticated)
	d.answered(t, "POST", "/tickets", bearing(ann), "", http.StatusTooManyRequests, pgcast.CodeRateLimited)
	p = d.enter(t, "", nil)
	p.want(wire.Welcome)
	p.send(wire.Frame{Type: wire.Auth, Ref: []byte("1"), Token: ann})
	p.wantLimited("1")
	p.send(wire.Frame{Type: wire.Auth, Token: d.token(t, "bob")})
	p.want(wire.Authenticated)
}

// So it is where nobody is let in who does not say who he is.
func TestConnectLimitOfHello(t *testing.T) {
	t.Parallel()
	rules, err := ratelimit.ParseRules("connect subject 1/168h")
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor(t, func(s *setup) {
		s.Limits = ratelimit.New(&ratelimit.Options{Rules: rules, Logger: discard})
		s.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	for i, want := range []string{"ann", "", "bob"} {
		p := d.enter(t, "", http.Header{"X-Forwarded-For": {fmt.Sprintf("192.0.2.%d", i)}}) // from everywhere
		token := d.token(t, "ann")
		if want == "bob" {
			token = d.token(t, "bob")
		}
		p.send(wire.Frame{Type: wire.Hello, Token: token})
		if want == "" {
			p.wantClosed(wire.CloseThrottled)
		} else {
			p.want(wire.Welcome)
		}
	}
}
