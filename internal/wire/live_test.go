package wire

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
)

func init() {
	maps.Copy(clientSamples, map[string]Frame{
		"client/hello-user": {Type: Hello, Caps: []string{CapBatch, CapReset}, User: json.RawMessage(`{"id":"ann","name":"Ann"}`)},
		"client/presence-join": {Type: Presence, Ref: json.RawMessage(`9`), Topic: "room:1", Op: OpJoin,
			Data: json.RawMessage(`{"id":"ann","name":"Ann"}`)},
		"client/presence-list":   {Type: Presence, Ref: json.RawMessage(`10`), Topic: "room:1", Op: OpList},
		"client/cursor":          {Type: Cursor, Topic: "board:1", Data: json.RawMessage(`{"x":10,"y":20}`)},
		"client/cursor-snapshot": {Type: CursorSnapshot, Topic: "board:1"},
		"client/group-join":      {Type: Group, Ref: json.RawMessage(`11`), Group: "lobby", Op: OpJoin, Role: "admin"},
		"client/group-send": {Type: Group, Ref: json.RawMessage(`12`), Group: "lobby", Op: OpSend, Event: "nudge",
			Data: json.RawMessage(`{"why":"your turn"}`), Role: "admin"},
	})
	live := func(topic, event, data string) (s struct {
		text []byte
		want ServerFrame
	}) {
		s.text = AppendLive(nil, topic, event, []byte(data))
		s.want = ServerFrame{Events: []pgcast.Event{{Topic: topic, Name: event, Data: json.RawMessage(data)}}}
		return s
	}
	maps.Copy(serverSamples, map[string]struct {
		text []byte
		want ServerFrame
	}{
		"server/presence-join": {AppendPresence(nil, json.RawMessage(`9`), "room:1", OpJoin, []byte(`{"key":"ann"}`)),
			ServerFrame{Type: Presence, Ref: json.RawMessage(`9`), Topic: "room:1", Op: OpJoin, Data: json.RawMessage(`{"key":"ann"}`)}},
		"server/presence-list": {AppendPresence(nil, json.RawMessage(`10`), "room:1", OpList, []byte(`{"users":{"ann":{"id":"ann","name":"Ann"}}}`)),
			ServerFrame{Type: Presence, Ref: json.RawMessage(`10`), Topic: "room:1", Op: OpList,
				Data: json.RawMessage(`{"users":{"ann":{"id":"ann","name":"Ann"}}}`)}},
		"server/presence-state":     live("__presence:room:1", "presence_state", `{"ann":{"id":"ann","name":"Ann"}}`),
		"server/presence-heartbeat": live("__presence:room:1", "heartbeat", `["ann","bob"]`),
		"server/presence-diff":      live("__presence:room:1", "presence_diff", `{"joins":{"bob":{"id":"bob","name":"Bob"}},"leaves":{"ann":{"id":"ann","name":"Ann"}}}`),
		"server/cursor-snapshot":    live("__cursor:board:1", "snapshot", `[{"key":"k7","user":{"name":"Ann"},"data":{"x":10,"y":20}}]`),
		"server/cursor-bulk":        live("__cursor:board:1", "bulk", `[{"key":"k7","user":{"name":"Ann"},"data":{"x":12,"y":20}}]`),
		"server/cursor-update":      live("__cursor:board:1", "update", `{"key":"k7","user":{"name":"Ann"},"data":{"x":11,"y":20}}`),
		"server/cursor-remove":      live("__cursor:board:1", "remove", `{"key":"k7"}`),
		"server/group-join": {AppendGroup(nil, json.RawMessage(`11`), "lobby", OpJoin, []byte(`{"key":"ann","role":"admin","max":50,"meta":{}}`)),
			ServerFrame{Type: Group, Ref: json.RawMessage(`11`), Group: "lobby", Op: OpJoin,
				Data: json.RawMessage(`{"key":"ann","role":"admin","max":50,"meta":{}}`)}},
		"server/group-members":   live("__group:lobby", "members", `[{"key":"ann","role":"admin"}]`),
		"server/group-event":     live("__group:lobby", "join", `{"key":"bob","role":"member","count":2}`),
		"server/system-degraded": live(System, "degraded", `{"backend":"redis"}`),
		"server/error-limited": {
			AppendError(nil, json.RawMessage(`13`), pgcast.CodeRateLimited, "too many publishes", 1500),
			ServerFrame{Type: Error, Ref: json.RawMessage(`13`), Code: pgcast.CodeRateLimited, Message: "too many publishes", RetryAfter: 1500}},
	})
}

// What is wrong with a frame of live state is said.
func TestLiveRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{"type":"presence","op":"join"}`:                                      "topic is missing",
		`{"type":"presence","topic":"a"}`:                                      `op is ""; in a presence frame it is one of join, leave, sync`,
		`{"type":"presence","topic":"a","op":"send"}`:                          `op is "send"`,
		`{"type":"cursor","topic":"a","op":"join"}`:                            `op is "join"; in a cursor frame it is one of leave`,
		`{"type":"group","op":"join"}`:                                         "group is missing",
		`{"type":"group","group":"a","op":"create","max":"9"}`:                 `max is "9"`,
		`{"type":"hello","user":7}`:                                            "user is 7; it must be an object",
		`{"type":"hello","user":{"a":"` + strings.Repeat("x", MaxUser) + `"}}`: "user is 4104 bytes long",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v; want %s", text, err, want)
		}
	}
}

// The peer protocol's cursors may say position for data.
func TestCursorPosition(t *testing.T) {
	f, err := Parse([]byte(`{"type":"cursor","topic":"a","position":{"x":1}}`))
	if err != nil || string(f.Data) != `{"x":1}` {
		t.Errorf("data %s, %v", f.Data, err)
	}
}
