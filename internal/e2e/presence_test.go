package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/internal/redistest"
)

// A server that is killed takes its users with it within one TTL, without having said a
// word; who is on another server as well stays, and whoever comes back within the TTL never
// went.
func TestPresenceAfterKill(t *testing.T) {
	db, redis := judge.Database(t, nil), redistest.Start(t)
	flags := []string{"--redis-url", redis.URL, "--presence-ttl", "10s", "--presence-heartbeat", "2s", "--presence-on", "room:*"}
	dying, other := judge.StartServer(t, db.URL, flags...), judge.StartServer(t, db.URL, flags...)
	dying.WaitReady()
	other.WaitReady()
	for _, user := range []string{"ann", "both", "moves"} {
		present(t, dying, user)
	}
	present(t, other, "both")
	heard := make(chan string, 1000)
	looker := present(t, other, "bob")
	go func() {
		defer close(heard)
		for {
			_, text, err := looker.Read(context.Background())
			if err != nil {
				return
			}
			heard <- string(text)
		}
	}()
	judge.Await(t, "all are there", 30*time.Second, func() bool { return count(t, other) == 4 })
	dying.Kill()
	present(t, other, "moves")
	took := judge.Await(t, "ann is gone", 30*time.Second, func() bool { return count(t, other) == 3 })
	if took > 20*time.Second {
		t.Errorf("it took %v; the TTL is 10 s", took)
	}
	// What started again has nobody until somebody comes.
	dying.Start()
	dying.WaitReady()
	judge.Await(t, "the new one knows who is there", 30*time.Second, func() bool { return count(t, dying) == 3 })
	_ = looker.CloseNow()
	for text := range heard {
		if _, leaves, ok := strings.Cut(text, `"leaves":{"`); ok && (strings.Contains(leaves, `"both"`) || strings.Contains(leaves, `"moves"`)) {
			t.Errorf("bob was told %s", text)
		}
	}
	t.Logf("from kill -9 to the users' leaving: %v, with a TTL of 10 s", took)
}

// present has a user be on room:1, and gives the connection.
func present(t *testing.T, s *judge.Server, user string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+s.Listen+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	for _, text := range []string{`{"type":"hello","user":{"id":"` + user + `"}}`, `{"type":"subscribe","topic":"room:1"}`} {
		if err := ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for text := ""; !strings.Contains(text, `"`+user+`"`) || !strings.Contains(text, "presence_"); {
		_, b, err := ws.Read(ctx)
		if err != nil {
			t.Fatalf("%s is not there: %v", user, err)
		}
		text = string(b)
	}
	return ws
}

// count asks a server how many are on room:1; -1 where it cannot say.
func count(t *testing.T, s *judge.Server) (n int) {
	t.Helper()
	res, err := http.Get("http://" + s.Listen + "/topics/room:1/presence?count")
	if err != nil {
		return -1
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return -1
	}
	if _, err := fmt.Sscanf(string(text), `{"count":%d}`, &n); err != nil {
		return -1
	}
	return n
}
