package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence"
)

// withPresence serves presence, of this server alone; beat 0 is the usual one.
func withPresence(t testing.TB, beat time.Duration, on ...string) func(*setup) {
	return func(s *setup) {
		rosters := presence.NewRosters(&presence.Options{Every: time.Millisecond, Beat: beat})
		running(t, rosters.Run)
		s.Live = Live{Presence: presence.NewUsers(rosters, 500*time.Millisecond)}
		for _, name := range on {
			p, err := pgcast.ParsePattern(name)
			if err != nil {
				t.Fatal(err)
			}
			s.Live.JoinOn = append(s.Live.JoinOn, p)
		}
	}
}

// present folds what a client is told of presence until it knows of exactly these, and
// gives the frames it took, the last of them included.
func (p *peer) present(topic string, want map[string]string) (frames []string) {
	p.t.Helper()
	known := map[string]string{}
	for {
		text := p.text()
		frames = append(frames, text)
		var f struct {
			Topic, Event string
			Data         json.RawMessage
		}
		if err := json.Unmarshal([]byte(text), &f); err != nil || f.Topic != wire.PresenceOf+topic {
			continue
		}
		var users, joins map[string]json.RawMessage
		var diff struct{ Joins, Leaves map[string]json.RawMessage }
		switch f.Event {
		case "presence_state":
			_ = json.Unmarshal(f.Data, &users)
			joins = users
			clear(known)
		case "presence_diff":
			_ = json.Unmarshal(f.Data, &diff)
			joins = diff.Joins
			for key := range diff.Leaves {
				delete(known, key)
			}
		}
		for key, data := range joins {
			known[key] = string(data)
		}
		if fmt.Sprint(known) == fmt.Sprint(want) {
			return frames
		}
		if len(frames) > 100 {
			p.t.Fatalf("after %d frames it knows %v; want %v", len(frames), known, want)
		}
	}
}

func (w *world) dialAs(t testing.TB, user string) *peer {
	t.Helper()
	p := w.dial(t)
	p.raw(`{"type":"hello","user":` + user + `}`)
	return p
}

// Who joins is told who is here, and all are told who comes and goes; in the right order.
func TestPresenceFrames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withPresence(t, 0))
	ann, bob := w.dialAs(t, `{"id":"ann","name":"Ann","token":"s3cret"}`), w.dial(t)
	ann.raw(`{"type":"presence","ref":1,"topic":"room:1","op":"join"}`)
	if got := ann.text(); got != `{"type":"presence","ref":1,"topic":"room:1","op":"join","data":{"key":"ann"}}` {
		t.Fatalf("join was answered by %s", got)
	}
	if got := ann.text(); got != `{"topic":"__presence:room:1","event":"presence_state","data":{"ann":{"id":"ann","name":"Ann"}}}` {
		t.Fatalf("then came %s", got)
	}
	// To look on is not to be here.
	bob.raw(`{"type":"presence","ref":1,"topic":"room:1","op":"list"}`)
	if got := bob.text(); got != `{"type":"presence","ref":1,"topic":"room:1","op":"list","data":{"users":{"ann":{"id":"ann","name":"Ann"}}}}` {
		t.Fatalf("list was answered by %s", got)
	}
	bob.raw(`{"type":"presence","ref":2,"topic":"room:1","op":"sync"}`)
	// Who is here may be told before the answer.
	answered := func(op string, came []string) {
		t.Helper()
		if !slices.ContainsFunc(came, func(text string) bool { return strings.Contains(text, `"op":"`+op+`"`) }) {
			bob.want(wire.Presence)
		}
	}
	answered("sync", bob.present("room:1", map[string]string{"ann": `{"id":"ann","name":"Ann"}`}))
	bob.raw(`{"type":"presence","ref":3,"topic":"room:1","op":"count"}`)
	if got := bob.text(); got != `{"type":"presence","ref":3,"topic":"room:1","op":"count","data":{"count":1}}` {
		t.Fatalf("count was answered by %s", got)
	}
	ann.quiet()
	bob.raw(`{"type":"presence","topic":"room:1","op":"join","data":{"id":7,"name":"Bob","email":"s3cret"}}`)
	if got := ann.text(); got != `{"topic":"__presence:room:1","event":"presence_diff","data":{"joins":{"7":{"id":7,"name":"Bob"}},"leaves":{}}}` {
		t.Fatalf("bob came as %s", got)
	}
	answered("join", bob.present("room:1", map[string]string{"ann": `{"id":"ann","name":"Ann"}`, "7": `{"id":7,"name":"Bob"}`}))
	bob.raw(`{"type":"presence","ref":4,"topic":"room:1","op":"unsync"}`)
	bob.want(wire.Presence)
	ann.raw(`{"type":"presence","ref":5,"topic":"room:1","op":"leave"}`)
	if f := ann.want(wire.Presence); f.Op != wire.OpLeave {
		t.Fatalf("leave was answered by %+v", f)
	}
	ann.quiet()
	bob.quiet()
	ann.raw(`{"type":"presence","ref":6,"topic":"room:*","op":"join"}`)
	ann.wantError(pgcast.CodeInvalidTopic)
	ann.raw(`{"type":"presence","ref":7,"topic":"room:1","op":"join","data":[1]}`)
	ann.wantError(pgcast.CodeInvalid)
	// Whoever has no key is a user of its own, whose name is not what it resumes by.
	ann.raw(`{"type":"presence","ref":8,"topic":"room:2","op":"join","data":{"name":"A"}}`)
	var key struct{ Key string }
	if err := json.Unmarshal(ann.want(wire.Presence).Data, &key); err != nil || len(key.Key) != 16 || strings.Contains(ann.session, key.Key) {
		t.Errorf("the key is %q, of session %s", key.Key, ann.session)
	}
}

// A user in two tabs is here once and goes with the last; a broken connection is given time
// to come back, and then nothing is said.
func TestPresenceTabs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withPresence(t, 0))
	ann := func() *peer {
		p := w.dialAs(t, `{"id":"ann"}`)
		p.raw(`{"type":"presence","topic":"room:1","op":"join"}`)
		p.want(wire.Presence)
		p.present("room:1", map[string]string{"ann": `{"id":"ann"}`})
		return p
	}
	eve := w.dial(t)
	eve.raw(`{"type":"presence","topic":"room:1","op":"sync"}`)
	first := ann()
	eve.present("room:1", map[string]string{"ann": `{"id":"ann"}`})
	second := ann()
	first.raw(`{"type":"presence","ref":1,"topic":"room:1","op":"leave"}`)
	first.want(wire.Presence)
	eve.quiet()
	_ = second.ws.CloseNow()
	await(t, "the connection is gone", func() bool { return w.clients() == 2 })
	third := ann()
	eve.quiet()
	_ = third.ws.CloseNow()
	eve.present("room:1", map[string]string{})
	// A session that is nobody's comes back as who it was.
	nobody := w.dial(t)
	nobody.raw(`{"type":"presence","topic":"room:1","op":"join","data":{"name":"N"}}`)
	nobody.want(wire.Presence)
	_, rest, _ := strings.Cut(eve.text(), `"joins":{"`)
	key, _, _ := strings.Cut(rest, `"`)
	session := nobody.session
	_ = nobody.ws.CloseNow()
	await(t, "the connection is gone", func() bool { return w.clients() == 2 })
	again := w.dial(t)
	again.raw(`{"type":"resume","sessionId":"` + session + `","lastSeenSeqs":{}}`)
	again.want(wire.Resumed)
	if f := again.want(wire.Welcome); !strings.HasPrefix(f.SessionID, strings.Split(session, ".")[0]) {
		t.Errorf("it is welcomed as %s; it was %s", f.SessionID, session)
	}
	again.raw(`{"type":"presence","topic":"room:1","op":"join","data":{"name":"N"}}`)
	if f := again.want(wire.Presence); string(f.Data) != `{"key":"`+key+`"}` {
		t.Errorf("it comes back as %s; it was %s", f.Data, key)
	}
	eve.quiet()
}

// Where the server says so, who subscribes is here and is told of the others, in the words
// of the 0.5 generation; heartbeats included.
func TestPresenceOnSubscribe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withPresence(t, 200*time.Millisecond, "room:*"))
	ann, bob := w.dialAs(t, `{"id":"ann"}`), w.dialAs(t, `{"id":"bob"}`)
	ann.subscribe("room:1", nil, "")
	ann.present("room:1", map[string]string{"ann": `{"id":"ann"}`})
	bob.subscribe("board:1", nil, "") // is not among them
	bob.subscribe("room:1", nil, "")
	bob.present("room:1", map[string]string{"ann": `{"id":"ann"}`, "bob": `{"id":"bob"}`})
	ann.present("room:1", map[string]string{"bob": `{"id":"bob"}`})
	for range 2 {
		var data []string
		beat := ""
		for beat == "" || !strings.Contains(beat, `"heartbeat"`) {
			beat = ann.text()
		}
		var f struct{ Data json.RawMessage }
		_ = json.Unmarshal([]byte(beat), &f)
		if json.Unmarshal(f.Data, &data); len(data) != 2 {
			t.Fatalf("a heartbeat is %s", beat)
		}
	}
	// Who one is may be said later.
	bob.raw(`{"type":"hello","user":{"id":"rob"}}`)
	ann.present("room:1", map[string]string{"rob": `{"id":"rob"}`})
	bob.raw(`{"type":"unsubscribe","topic":"room:1"}`)
	for text := ""; !strings.Contains(text, `"leaves":{"rob"`); {
		text = ann.text()
	}
	// Not told any more: no heartbeat either.
	bob.raw(`{"type":"unsubscribe","ref":9,"topic":"none"}`)
	for f := bob.next(); f.Type != wire.Unsubscribed; {
		f = bob.next()
	}
	bob.quiet()
}

// A client of the 0.3 generation subscribes to the server's own topic, and is told there in
// lists and steps.
func TestPresenceLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withPresence(t, 0, "room:*"))
	old := w.dial(t)
	old.subscribe("room:1", nil, "")
	old.raw(`{"type":"subscribe","topic":"__presence:room:1"}`)
	if got := old.text(); !strings.HasPrefix(got, `{"topic":"__presence:room:1","event":"list","data":[{"key":"`) || strings.Count(got, `"key"`) != 1 {
		t.Fatalf("it was told %s", got)
	}
	ann := w.dialAs(t, `{"id":"ann","name":"Ann"}`)
	ann.subscribe("room:1", nil, "")
	if got := old.text(); got != `{"topic":"__presence:room:1","event":"join","data":{"key":"ann","data":{"id":"ann","name":"Ann"}}}` {
		t.Fatalf("it was told %s", got)
	}
	ann.raw(`{"type":"unsubscribe","topic":"room:1"}`)
	if got := old.text(); got != `{"topic":"__presence:room:1","event":"leave","data":{"key":"ann","data":{"id":"ann","name":"Ann"}}}` {
		t.Fatalf("it was told %s", got)
	}
	old.raw(`{"type":"unsubscribe","ref":1,"topic":"__presence:room:1"}`)
	old.want(wire.Unsubscribed)
	ann.raw(`{"type":"subscribe","topic":"room:1"}`)
	eve := w.dial(t)
	eve.raw(`{"type":"presence","topic":"room:1","op":"sync"}`)
	for text := ""; !strings.Contains(text, `"ann"`); {
		text = eve.text()
	}
	old.quiet()
}

// What is not public never leaves the server, wherever one looks.
func TestPresenceSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withPresence(t, 100*time.Millisecond, "room:*"))
	const secret = "canary-71f3"
	all := []string{}
	watcher, old := w.dial(t), w.dial(t)
	watcher.raw(`{"type":"presence","ref":1,"topic":"room:1","op":"sync"}`)
	old.raw(`{"type":"subscribe","topic":"__presence:room:1"}`)
	p := w.dialAs(t, `{"id":"ann","email":"`+secret+`","password":"`+secret+`","Name":"`+secret+`","a":{"name":"`+secret+`"}}`)
	p.subscribe("room:1", nil, "")
	p.raw(`{"type":"presence","ref":1,"topic":"room:1","op":"join","data":{"id":"ann","session":"` + secret + `","name":"Ann"}}`)
	all = append(all, watcher.present("room:1", map[string]string{"ann": `{"id":"ann","name":"Ann"}`})...)
	for text := ""; !strings.Contains(text, `"join"`); {
		text = old.text()
		all = append(all, text)
	}
	for _, query := range []string{"", "?count"} {
		_, text := w.present(t, "room:1", query)
		all = append(all, text)
	}
	for _, text := range all {
		if strings.Contains(text, secret) || strings.Contains(text, strings.Split(p.session, ".")[0]) {
			t.Errorf("a secret in %s", text)
		}
	}
}

// present asks over HTTP who is there, and gives the answer's status and body.
func (w *world) present(t testing.TB, topic, query string) (status int, text string) {
	t.Helper()
	res, err := w.http.Client().Get(w.http.URL + "/topics/" + topic + "/presence" + query)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, body(t, res)
}

// Who is here can be asked over HTTP.
func TestPresenceOverHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withPresence(t, 0))
	for _, user := range []string{`{"id":"ann","name":"Ann"}`, `{"id":"bob"}`, `{"id":"bob"}`} {
		p := w.dialAs(t, user)
		p.raw(`{"type":"presence","topic":"room:1","op":"join"}`)
		p.want(wire.Presence)
	}
	for _, c := range []struct {
		topic, query string
		status       int
		want         string
	}{
		{"room:1", "", 200, `{"count":2,"users":{"ann":{"id":"ann","name":"Ann"},"bob":{"id":"bob"}}}`},
		{"room:1", "?count", 200, `{"count":2}`},
		{"room:1", "?count=true", 200, `{"count":2}`},
		{"room:1", "?count=false", 200, `{"count":2,"users":{"ann":{"id":"ann","name":"Ann"},"bob":{"id":"bob"}}}`},
		{"room:2", "", 200, `{"count":0,"users":{}}`},
		{"room:*", "", 400, `"invalid_topic"`},
		{"room:1", "?count=2", 400, `"invalid"`},
		{"room:1", "?limit=2", 400, `"invalid"`},
	} {
		if status, text := w.present(t, c.topic, c.query); status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s%s: %d %s; want %d %s", c.topic, c.query, status, text, c.status, c.want)
		}
	}
}
