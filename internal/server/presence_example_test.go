package server

import (
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// The example of docs/presence.md does what it says.
func TestPresenceExample(t *testing.T) {
	t.Parallel()
	script := example(t, "presence.md")
	if !strings.Contains(script, "127.0.0.1:8080") {
		t.Fatalf("the example is not for pgcast dev:\n%s", script)
	}
	r := start(t, pgtest.New(t, nil).URL, nil).awaitReady(t)
	n := runNode(t, onlyWS, "import WebSocket from 'ws';\nprocess.stdin.on('end', () => process.exit(0)).resume();\n"+
		strings.ReplaceAll(script, "127.0.0.1:8080", r.listen))
	n.wait("ann")
	bob := r.dial(t)
	bob.send(`{"type":"presence","ref":1,"topic":"room:1","op":"join","data":{"id":"bob"}}`)
	bob.want(wire.Presence)
	n.wait("ann, bob")
	bob.send(`{"type":"presence","topic":"room:1","op":"leave"}`)
	n.wait("ann")
}
