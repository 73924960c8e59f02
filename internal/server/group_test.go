package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/internal/wire"
)

// twoServers runs two servers on one Postgres and one Redis.
func twoServers(t *testing.T, db *pgtest.DB, change func(*Options)) (a, b *running) {
	t.Helper()
	return onRedis(t, db, redistest.Start(t), change)
}

func onRedis(t *testing.T, db *pgtest.DB, redis *redistest.Redis, change func(*Options)) (a, b *running) {
	t.Helper()
	with := func(o *Options) {
		o.Live.RedisURL = redis.URL
		if change != nil {
			change(o)
		}
	}
	return start(t, db.URL, with).awaitReady(t), start(t, db.URL, with).awaitReady(t)
}

// hello is a client that says who it is, with capabilities.
func (r *running) hello(t testing.TB, user, caps string) *peer {
	t.Helper()
	p := r.dial(t)
	p.send(fmt.Sprintf(`{"type":"hello","caps":[%s],"user":{"id":%q,"name":%q,"secret":1}}`, caps, user, strings.ToUpper(user)))
	return p
}

// told reads on to the next event of a topic, which must be so; other topics are passed over.
func (p *peer) told(topic, event, data string) {
	p.t.Helper()
	p.toldPast("", topic, event, data)
}

// toldPast is told of a topic whose events of another name may come before.
func (p *peer) toldPast(other, topic, event, data string) {
	p.t.Helper()
	for {
		f, err := p.read()
		if err != nil {
			p.t.Fatalf("while waiting for %s %s %s: %v", topic, event, data, err)
		}
		for _, e := range f.Events {
			if e.Topic != topic || e.Name == other {
				continue
			}
			if e.Data == nil {
				e.Data = json.RawMessage("null")
			}
			if e.Name != event || string(e.Data) != data {
				p.t.Fatalf("on %s came %s %s; want %s %s", topic, e.Name, e.Data, event, data)
			}
			return
		}
	}
}

// hears reads on to an event of a topic.
func (p *peer) hears(topic, event string) {
	p.t.Helper()
	for {
		if e := p.want(wire.Event).Events[0]; e.Topic == topic && e.Name == event {
			return
		}
	}
}

// asks sends a group frame and gives the answer's data.
func (p *peer) asks(rest string) string {
	p.t.Helper()
	p.send(`{"type":"group","ref":1,"group":"lobby",` + rest + `}`)
	for {
		f, err := p.read()
		if err != nil {
			p.t.Fatal(err)
		}
		switch f.Type {
		case wire.Group:
			return string(f.Data)
		case wire.Error:
			return string(f.Code)
		}
	}
}

const lobby = "__group:lobby"

// One group, its members on two servers: from its creation to its end.
func TestGroup(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	a, b := twoServers(t, db, nil)
	ann, bob := a.hello(t, "ann", `"batch","reset"`), b.hello(t, "bob", `"batch","reset"`)
	is := func(got, want string) {
		t.Helper()
		if got != want {
			t.Fatalf("got %s; want %s", got, want)
		}
	}
	is(ann.asks(`"op":"join"`), "not_found")
	is(ann.asks(`"op":"create","max":2,"data":{"game":"chess"}`), `{"created":true}`)
	is(ann.asks(`"op":"create","max":3`), `{"created":false}`)
	is(ann.asks(`"op":"create","data":[]`), "invalid")
	is(ann.asks(`"op":"close"`), "forbidden")
	is(ann.asks(`"op":"send","event":"x","role":"admin"`), "forbidden")
	is(ann.asks(`"op":"join","role":"admin"`), `{"key":"ann","role":"admin","max":2,"meta":{"game": "chess"}}`)
	ann.told(lobby, "members", `[{"key":"ann","role":"admin","user":{"id":"ann","name":"ANN"}}]`)
	is(bob.asks(`"op":"join","role":"king"`), "invalid")
	is(bob.asks(`"op":"join"`), `{"key":"bob","role":"member","max":2,"meta":{"game": "chess"}}`)
	ann.told(lobby, "join", `{"key":"bob","role":"member","user":{"id":"bob","name":"BOB"},"count":2}`)

	cid := b.hello(t, "cid", `"reset"`)
	is(cid.asks(`"op":"join","role":"viewer"`), "too_many")
	ann.told(lobby, "full", `{"role":"viewer","count":2}`)
	is(cid.asks(`"op":"list"`), `{"members":[{"key":"ann","role":"admin","user":{"id":"ann","name":"ANN"}},{"key":"bob","role":"member","user":{"id":"bob","name":"BOB"}}],`+
		`"max":2,"roles":["member","admin","viewer"],"meta":{"game": "chess"},"closed":false}`)

	// To some it is lost for whoever is not there; to all it is an event.
	is(bob.asks(`"op":"send","event":"nudge","data":{"n":1},"role":"admin"`), "")
	ann.told(lobby, "nudge", `{"n":1}`)
	is(ann.asks(`"op":"send","event":"psst","member":"bob"`), "")
	bob.hears(lobby, "psst")
	ann.send(`{"type":"subscribe","topic":"group:lobby","after":0}`)
	ann.told("group:lobby", "created", `{"max": 2, "meta": {"game": "chess"}, "roles": ["member", "admin", "viewer"]}`)
	bob.send(`{"type":"publish","topic":"group:lobby","event":"said","data":{"n":2}}`)
	ann.told("group:lobby", "said", `{"n": 2}`)

	is(bob.asks(`"op":"set","data":{}`), "forbidden")
	is(ann.asks(`"op":"set","data":{"game":"go"},"max":3`), "")
	await(t, "the other server has heard of the change", func() bool {
		status, text := get(t, "http://"+b.listen+"/groups/lobby")
		return status == 200 && strings.Contains(text, `"max":3,"roles":["member","admin","viewer"],"meta":{"game": "go"},"closed":false`)
	})
	is(cid.asks(`"op":"join","role":"viewer"`), `{"key":"cid","role":"viewer","max":3,"meta":{"game": "go"}}`)
	ann.told(lobby, "join", `{"key":"cid","role":"viewer","user":{"id":"cid","name":"CID"},"count":3}`)
	is(cid.asks(`"op":"leave"`), "")
	ann.told(lobby, "leave", `{"key":"cid","role":"viewer","user":{"id":"cid","name":"CID"},"count":2}`)

	// Closed by whoever may, all are out on both servers.
	db.Exec(t, "select pgcast.close_group('lobby')")
	// Until a server has heard that it is closed, those of the other may be seen to leave.
	ann.hears(lobby, "close")
	bob.hears(lobby, "close")
	is(cid.asks(`"op":"join"`), "closed")
	is(ann.asks(`"op":"set","data":{}`), "closed")
	is(bob.asks(`"op":"list"`), `{"members":[],"max":3,"roles":["member","admin","viewer"],"meta":{"game": "go"},"closed":true}`)
	if status, text := get(t, "http://"+a.listen+"/groups/nobody"); status != 404 || !strings.Contains(text, "not_found") {
		t.Errorf("a group that there is not: %d %s", status, text)
	}
}

// Clients of 0.5 say nothing of groups: they are attached by a subscription to the group's
// topic, and get what is published there under the name they listen to as well.
func TestGroupAttached(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	a, b := twoServers(t, db, func(o *Options) { o.Live.GroupOn = []pgcast.Pattern{pattern(t, "*")} })
	db.Exec(t, "select pgcast.create_group('lobby', 2)")
	await(t, "both have heard of it", func() bool {
		_, one := get(t, "http://"+a.listen+"/topics/group:lobby/events")
		_, two := get(t, "http://"+b.listen+"/topics/group:lobby/events")
		return strings.Contains(one, `"head":1`) && one == two
	})
	member := func(key string) string {
		return fmt.Sprintf(`{"key":%q,"role":"member","user":{"id":%q,"name":%q}`, key, key, strings.ToUpper(key))
	}
	ann := a.hello(t, "ann", `"batch"`)
	ann.send(`{"type":"subscribe-batch","topics":["todo","group:lobby"],"ref":1}`)
	ann.told(lobby, "members", "["+member("ann")+"}]")
	bob := b.hello(t, "bob", `"batch"`)
	bob.send(`{"type":"subscribe","topic":"group:lobby","ref":1}`)
	bob.want(wire.Subscribed)
	bob.told(lobby, "members", "["+member("ann")+"},"+member("bob")+"}]")
	ann.told(lobby, "join", member("bob")+`,"count":2}`)

	for i := range 3 {
		db.Exec(t, "select pgcast.publish('group:lobby', 'said', $1)", fmt.Sprint(i))
		db.Exec(t, "select pgcast.publish('group:lobby', 'close', 'null')") // only the server says so
	}
	for i := range 3 {
		ann.told(lobby, "said", fmt.Sprint(i))
	}
	for i := range 3 {
		bob.told("group:lobby", "said", fmt.Sprint(i))
		bob.told("group:lobby", "close", "null")
	}
	cid := a.hello(t, "cid", `"batch"`)
	cid.send(`{"type":"subscribe","topic":"group:lobby","ref":1}`)
	if f := cid.want(wire.Error); f.Code != pgcast.CodeTooMany || f.Ref != nil {
		t.Errorf("a third one got %+v", f)
	}
	// That it is full is told to all who look on, and comes before the list if it is told sooner.
	cid.toldPast("full", lobby, "members", "["+member("ann")+"},"+member("bob")+"}]")
	ann.told(lobby, "full", `{"role":"member","count":2}`)
	bob.send(`{"type":"unsubscribe","topic":"group:lobby"}`)
	ann.told(lobby, "leave", member("bob")+`,"count":1}`)
	db.Exec(t, "select pgcast.close_group('lobby')")
	ann.told(lobby, "closed", `{"max": 2, "meta": {}, "roles": ["member", "admin", "viewer"]}`)
}

func pattern(t testing.TB, text string) pgcast.Pattern {
	t.Helper()
	p, err := pgcast.ParsePattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// That a group is closed reaches all servers through the log, also while Redis is away.
func TestGroupClosedWithoutRedis(t *testing.T) {
	t.Parallel()
	db, redis := pgtest.New(t, nil), redistest.Start(t)
	a, b := onRedis(t, db, redis, nil)
	db.Exec(t, "select pgcast.create_group('lobby')")
	ann, bob := a.hello(t, "ann", `"reset"`), b.hello(t, "bob", `"reset"`)
	for _, p := range []*peer{ann, bob} {
		if got := p.asks(`"op":"join"`); !strings.Contains(got, `"role":"member"`) {
			t.Fatal(got)
		}
		p.hears(lobby, "members")
	}
	redis.Pause()
	await(t, "nobody can join", func() bool { return a.hello(t, "cid", `"reset"`).asks(`"op":"join"`) == "unavailable" })
	db.Exec(t, "select pgcast.close_group('lobby')")
	ann.hears(lobby, "close")
	bob.hears(lobby, "close")
	if got := bob.asks(`"op":"join"`); got != "closed" {
		t.Errorf("a join got %s", got)
	}
	redis.Resume()
}

// What becomes of a group is heard of whatever happens to the hub.
func TestGroupWatch(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	r := start(t, db.URL, nil).awaitReady(t)
	heard := make(chan struct{}, 100)
	listens := func() {
		t.Helper()
		select {
		case <-heard:
		case <-time.After(within):
			t.Fatal("nothing was heard")
		}
	}
	watch := func() func() { return r.live.watch.watch("lobby", func() { heard <- struct{}{} }) }
	stop := watch()
	listens() // from here on
	for _, sql := range []string{"create_group('lobby')", "set_group('lobby', '{}')"} {
		db.Exec(t, "select pgcast."+sql)
		listens()
	}
	db.Exec(t, "select pgcast.publish('group:lobby', 'said', '{}')")
	r.hub.Restart(r.hub.Position(), fanout.ErrResume)
	listens() // it may have missed something
	stop()
	stop = watch()
	listens()
	db.Exec(t, "select pgcast.close_group('lobby')")
	listens()
	stop()
	await(t, "nobody is subscribed", func() bool { return r.hub.Count() == 0 })
	if len(heard) > 0 {
		t.Errorf("%d things were heard that tell nothing", len(heard))
	}
}
