package client

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/pgcast/pgcast/internal/wire"
)

// sample reads a golden sample of docs/protocol.md, a server's frame.
func sample(t *testing.T, name string) *wire.ServerFrame {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "internal", "wire", "testdata", "server-"+name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := wire.ParseServer([]byte(strings.TrimSpace(string(text))))
	if err != nil {
		t.Fatal(err)
	}
	return &f
}

// The client makes of the protocol's samples of live state what the protocol says.
func TestLiveSamples(t *testing.T) {
	c := New("ws://x", &Options{Logger: slog.New(slog.DiscardHandler)})
	take := func(name string) {
		t.Helper()
		if items, err := c.handle(sample(t, name)); err != nil || len(items) != 0 {
			t.Fatalf("%s gave %v, %v", name, items, err)
		}
	}
	same := func(what string, got, want any) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", what, d)
		}
	}
	users := c.Topic("room:1", nil).Presence()
	take("presence-state")
	same("who is there though nobody asked", len(users.All()), 0)
	_, _, _ = users.live.watch()
	take("presence-state")
	same("presence_state", users.All(), map[string]json.RawMessage{"ann": json.RawMessage(`{"id":"ann","name":"Ann"}`)})
	take("presence-diff")
	take("presence-heartbeat")
	same("presence_diff", users.All(), map[string]json.RawMessage{"bob": json.RawMessage(`{"id":"bob","name":"Bob"}`)})

	cursors := c.Topic("board:1", nil).Cursors()
	_, _, _ = cursors.live.watch()
	at := func(data string) map[string]Cursor {
		return map[string]Cursor{"k7": {Key: "k7", User: json.RawMessage(`{"name":"Ann"}`), Data: json.RawMessage(data)}}
	}
	take("cursor-snapshot")
	same("snapshot", cursors.All(), at(`{"x":10,"y":20}`))
	take("cursor-bulk")
	same("bulk", cursors.All(), at(`{"x":12,"y":20}`))
	take("cursor-update")
	same("update", cursors.All(), at(`{"x":11,"y":20}`))
	take("cursor-remove")
	same("remove", cursors.All(), map[string]Cursor{})

	group := c.Group("lobby")
	group.joined = true
	take("group-members")
	take("group-event")
	same("the members", group.All(), map[string]Member{"ann": {Key: "ann", Role: "admin"}, "bob": {Key: "bob", Role: "member"}})

	take("system-degraded")
	same("what is degraded", c.Status().Degraded, []string{"redis"})
	if s := c.Stats(); s.Events != 0 {
		t.Errorf("%d of them counted as events of the log", s.Events)
	}
}

// What is asked of the server, and how often, in one connection and the next.
func TestLiveStateIsAskedForAgain(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		here := c.Topic("a", nil).Presence()
		joined := make(chan error)
		go func() {
			_, err := here.Join(t.Context(), map[string]string{"id": "ann"})
			joined <- err
		}()
		conn.want(`{"type":"presence","ref":1,"topic":"a","op":"join","data":{"id":"ann"}}`)
		conn.send(`{"type":"presence","ref":1,"topic":"a","op":"join","data":{"key":"ann"}}`, `{"topic":"__presence:a","event":"presence_state","data":{"ann":{"id":"ann"}}}`)
		if err := <-joined; err != nil {
			t.Fatal(err)
		}
		conn.end()
		conn = p.accept()
		conn.want(`{"type":"presence","ref":2,"topic":"a","op":"join","data":{"id":"ann"}}`)
		conn.send(`{"type":"error","ref":2,"code":"unavailable","message":"Redis is away"}`)
		conn.want(`{"type":"presence","ref":3,"topic":"a","op":"join","data":{"id":"ann"}}`) // a little later
		conn.send(`{"type":"error","ref":3,"code":"forbidden","message":"not any more"}`)
		synctest.Wait()
		go func() {
			for _, err := range here.Changes(t.Context()) {
				if err != nil {
					joined <- err
					return
				}
			}
		}()
		conn.want(`{"type":"presence","ref":4,"topic":"a","op":"join","data":{"id":"ann"}}`) // for who asks now
		conn.send(`{"type":"error","ref":4,"code":"forbidden","message":"not any more"}`)
		if err := <-joined; err == nil || !strings.Contains(err.Error(), "not any more") {
			t.Errorf("the changes ended with %v", err)
		}
		other := c.Topic("b", nil).Cursors()
		if err := other.Move(1); err != nil {
			t.Fatal(err)
		}
		conn.want(`{"type":"cursor","ref":5,"topic":"b","data":1}`)
		if err := other.Move(2); err != nil {
			t.Fatal(err)
		}
		conn.want(`{"type":"cursor","topic":"b","data":2}`)
		other.Leave()
		conn.want(`{"type":"cursor","topic":"b","op":"leave"}`, `{"type":"unsubscribe","topic":"__cursor:b"}`)
		if _, err := c.Topic("a:*", nil).Presence().Join(t.Context(), nil); err == nil {
			t.Error("joined a pattern")
		}
	})
}
