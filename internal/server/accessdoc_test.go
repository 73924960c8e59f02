package server

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// accessPage gives the examples of docs/access.md by name.
func accessPage(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)<!-- example: (\\w+) -->\n```\\w+\n(.*?)```").FindAllSubmatch(text, -1) {
		list[string(m[1])] = string(m[2])
	}
	return list
}

// What docs/access.md shows works as it stands there.
func TestAccessPage(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	g := guard(t, db, 1, nil)[0]
	page := accessPage(t)
	for _, name := range []string{"rules", "authorize", "recheck", "revoke", "keys"} {
		if page[name] == "" {
			t.Fatalf("the page has no example %s", name)
		}
		db.Exec(t, page[name])
	}
	db.Exec(t, `insert into room_member values (7, 'bob')`)
	bob := g.who(t, g.token(t, "bob", "org_id", 3, "plan", "pro", "roles", []string{"editor"}))
	soon(t, "a member may", func() bool { return g.may(t, bob, auth.History, "room:7") })
	for _, tt := range []struct {
		verb  auth.Verb
		topic string
		want  bool
	}{
		{auth.Subscribe, "room:8", true}, {auth.Subscribe, "room:*", true}, {auth.Publish, "room:7", false}, {auth.History, "user:bob:x", true}, {auth.History, "user:ann:x", false},
		{auth.Publish, "news", true}, {auth.Subscribe, "org:3:x", true}, {auth.Subscribe, "org:4:x", false}, {auth.Subscribe, "**", false}, {auth.Connect, "", true},
	} {
		if got := g.may(t, bob, tt.verb, tt.topic); got != tt.want {
			t.Errorf("bob may %s %s: %v", tt.verb, tt.topic, got)
		}
	}
	db.Exec(t, `delete from pgcast.rule where topic = 'room:*'`)
	soon(t, "rooms are for members", func() bool { return !g.may(t, bob, auth.Subscribe, "room:8") })
	p := g.enter(t, g.token(t, "bob"))
	p.send(`{"type":"subscribe","topic":"room:7","ref":1}`)
	p.want(wire.Subscribed)
	db.Exec(t, `update room_member set member = 'cid'`) // it moves to somebody else
	if f := p.want(wire.SubscribeDenied); f.Topic != "room:7" || f.Reason != "FORBIDDEN" {
		t.Errorf("who is no member any more got %+v", f)
	}
}

// Nobody hears what the servers are told, or says it, by whatever frame or path.
func TestAccessTopicIsTheServersOwn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `select pgcast.allow(pgcast.verbs(), '**')`)
	g := guard(t, db, 1, nil)[0]
	token := g.token(t, "ann")
	p := g.enter(t, token)
	p.send(`{"type":"subscribe","topic":"**","after":0,"ref":1}`)
	p.want(wire.Subscribed)
	for i, frame := range []string{`"subscribe","topic":"__access"`, `"subscribe","topic":"__access","after":0`, `"subscribe","topic":"__*"`, `"subscribe","topic":"__access","snapshot":true`} {
		p.send(fmt.Sprintf(`{"type":%s,"ref":%d}`, frame, i))
		if f, err := p.read(); err != nil || f.Type != wire.SubscribeDenied {
			t.Errorf("%s got %+v, %v", frame, f, err)
		}
	}
	for _, frame := range []string{`"history","topic":"__access","after":0`, `"publish","topic":"__access","event":"rules","data":{}`} {
		p.send(`{"type":` + frame + `,"ref":9}`)
		if f, err := p.read(); err != nil || f.Type != wire.Error {
			t.Errorf("%s got %+v, %v", frame, f, err)
		}
	}
	for _, path := range []string{"/topics/__access/events", "/topics/__access/events?wait=1&after=0", "/topics/__access/sse"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.listen+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode/100 != 4 {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	db.Exec(t, `select pgcast.recheck(), pgcast.publish('a', 'b')`)
	if e := p.want(wire.Event).Events[0]; e.Topic != "a" {
		t.Errorf("through ** came %s", e.Topic)
	}
}

// While tables are captured from the WAL the servers are told at once all the same.
func TestAccessWithCaptureFromTheWAL(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	db.Exec(t, `create table notes (id int primary key)`)
	db.Exec(t, `select pgcast.open_slot()`)
	db.Exec(t, `select pgcast.attach('notes', capture => 'wal')`)
	defer db.Exec(t, `select pgcast.detach('notes'); select pg_drop_replication_slot(pgcast.slot_name())`)
	g := guard(t, db, 1, nil)[0]
	ann := g.token(t, "ann")
	g.who(t, ann)
	db.Exec(t, `insert into notes values (1); select pgcast.revoke(sub => 'ann')`)
	soon(t, "it is refused", func() bool {
		_, err := g.authority.Authenticate(t.Context(), ann)
		return errors.Is(err, pgcast.ErrUnauthenticated)
	})
	if n := pgtest.Value[int](t, db, `select count(*)::int from pgcast.published`); n != 0 {
		t.Errorf("%d events wait to be read from the WAL", n)
	}
	if err := g.stop(); err != nil {
		t.Error(err)
	}
}
