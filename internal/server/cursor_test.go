package server

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/internal/wire"
)

// board folds what a client is told of the cursors on a topic.
type board struct {
	*peer
	topic string
	has   map[string]string // data by the user's name
	names map[string]string // by key
}

func (p *peer) board(topic string) *board {
	return &board{p, topic, map[string]string{}, map[string]string{}}
}

// until reads on until the cursors are where they should be.
func (b *board) until(want map[string]string) {
	b.t.Helper()
	for fmt.Sprint(b.has) != fmt.Sprint(want) {
		f, err := b.read()
		if err != nil {
			b.t.Fatalf("%v; the cursors are %v, not %v", err, b.has, want)
		}
		if f.Type != wire.Event || f.Events[0].Topic != wire.CursorOf+b.topic {
			continue
		}
		b.fold(f.Events[0])
	}
}

func (b *board) fold(e pgcast.Event) {
	b.t.Helper()
	type pointed struct {
		Key  string
		User struct{ Name string }
		Data json.RawMessage
	}
	var list []pointed
	data := e.Data
	if data[0] != '[' {
		data = fmt.Appendf(nil, "[%s]", data)
	}
	if err := json.Unmarshal(data, &list); err != nil {
		b.t.Fatal(err)
	}
	if e.Name == "snapshot" {
		clear(b.has)
		clear(b.names)
	}
	for _, c := range list {
		if e.Name == "remove" {
			delete(b.has, b.names[c.Key])
			continue
		}
		b.names[c.Key] = c.User.Name
		b.has[c.User.Name] = string(c.Data)
	}
}

// Clients of two servers that share a Redis see each other's cursors, each its newest
// place, and not their own; also after Redis was away, and until their servers end.
func TestCursorsOnTwoServers(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	db := pgtest.New(t, nil)
	on, err := pgcast.ParsePattern("board:*")
	if err != nil {
		t.Fatal(err)
	}
	var servers []*running
	for range 2 {
		servers = append(servers, start(t, db.URL, func(o *Options) {
			o.Live.RedisURL, o.Live.CursorOn, o.Live.CursorIdle = redis.URL, []pgcast.Pattern{on}, time.Hour
		}).awaitReady(t))
	}
	var boards []*board
	for i, name := range []string{"ann", "bob", "eve"} {
		p := servers[i%2].dial(t)
		p.send(fmt.Sprintf(`{"type":"hello","caps":["batch"],"user":{"name":"%s","secret":1}}`, name))
		p.send(`{"type":"subscribe","topic":"board:1","ref":1}`)
		p.want(wire.Subscribed)
		boards = append(boards, p.board("board:1"))
	}
	ann, bob, eve := boards[0], boards[1], boards[2]
	const moves = 100
	for i := range moves + 1 {
		ann.send(fmt.Sprintf(`{"type":"cursor","topic":"board:1","data":%d}`, i))
		bob.send(fmt.Sprintf(`{"type":"cursor","topic":"board:1","position":{"x":%d}}`, i))
	}
	ann.until(map[string]string{"bob": `{"x":100}`})
	bob.until(map[string]string{"ann": `100`})
	eve.until(map[string]string{"ann": `100`, "bob": `{"x":100}`})

	redis.Kill()
	ann.send(`{"type":"cursor","topic":"board:1","data":"alone"}`)
	eve.until(map[string]string{"ann": `"alone"`, "bob": `{"x":100}`})
	redis.Restart()
	bob.until(map[string]string{"ann": `"alone"`})
	late := servers[1].dial(t).board("board:1")
	late.send(`{"type":"cursor-snapshot","topic":"board:1"}`)
	late.until(map[string]string{"ann": `"alone"`, "bob": `{"x":100}`})

	ann.send(`{"type":"unsubscribe","topic":"board:1"}`)
	bob.until(map[string]string{})
	eve.send(`{"type":"cursor","topic":"board:1","data":1}`)
	bob.until(map[string]string{"eve": `1`})
	_ = eve.ws.CloseNow()
	bob.until(map[string]string{})
	if err := servers[1].stop(); err != nil {
		t.Error(err)
	}
	again := servers[0].dial(t).board("board:1")
	again.send(`{"type":"cursor-snapshot","topic":"board:1"}`)
	again.has["nobody"] = "yet"
	again.until(map[string]string{})
}

// The unmodified cursor store of svelte-adapter-uws shows others' cursors, and its user's
// are seen by others.
func TestSvelteCursorStore(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	r := start(t, db.URL, nil).awaitReady(t)
	other := r.dial(t).board("canvas")
	other.send(`{"type":"hello","user":{"name":"Bob"}}`)
	other.send(`{"type":"cursor","topic":"canvas","data":{"x":1}}`)

	n := runStores(t, "svelte-cursor.mjs", r.listen)
	n.wait(`{"store":"cursor","value":[["Bob",{"x":1}]]}`)
	other.send(`{"type":"cursor","topic":"canvas","position":{"x":2}}`)
	n.wait(`{"store":"cursor","value":[["Bob",{"x":2}]]}`)
	n.tell(`{"type":"cursor","topic":"canvas","position":{"x":9}}`)
	other.until(map[string]string{"": `{"x":9}`}) // it has not said who it is
	other.send(`{"type":"cursor","topic":"canvas","op":"leave"}`)
	n.wait(`{"store":"cursor","value":[]}`)
}

// The example of docs/cursors.md shows others' cursors and its own to them.
func TestCursorExample(t *testing.T) {
	t.Parallel()
	const browser = `import { createInterface } from 'node:readline';
import { WebSocket } from 'ws';
globalThis.WebSocket = WebSocket;
globalThis.location = { host: process.argv[2] };
globalThis.draw = (m) => console.log(JSON.stringify([...m.values()].map((c) => [c.user.name, c.data])));
globalThis.addEventListener = (_, f) => {
	const lines = createInterface({ input: process.stdin });
	lines.on('line', (line) => f(JSON.parse(line)));
	lines.on('close', () => process.exit(0));
};
`
	db := pgtest.New(t, nil)
	r := start(t, db.URL, nil).awaitReady(t)
	other := r.dial(t).board("board:1")
	other.send(`{"type":"hello","user":{"name":"Bob"}}`)
	other.send(`{"type":"cursor","topic":"board:1","data":{"x":1}}`)
	n := runNode(t, onlyWS, browser+example(t, "cursors.md"), r.listen)
	n.wait(`[["Bob",{"x":1}]]`)
	n.tell(`{"clientX":3,"clientY":4}`)
	other.until(map[string]string{"Ann": `{"x":3,"y":4}`})
	other.send(`{"type":"cursor","topic":"board:1","data":{"x":2}}`)
	n.wait(`[["Bob",{"x":2}]]`)
	other.send(`{"type":"cursor","topic":"board:1","op":"leave"}`)
	n.wait(`[]`)
}
