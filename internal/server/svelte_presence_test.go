package server

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// stores is a script that runs stores of the peer protocol's browser client and says what
// they tell.
type stores struct {
	t    *testing.T
	said chan string
	in   io.WriteCloser
}

// runStores runs a script of testdata against a server until the test ends.
func runStores(t *testing.T, script, address string) *stores {
	t.Helper()
	dir := t.TempDir()
	loadPackages(t, dir, sveltePackages)
	text, err := os.ReadFile(filepath.Join("testdata", script))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, script), text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", script, address)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	s := &stores{t: t, said: make(chan string, 100)}
	if s.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.said)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.said <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		_ = s.in.Close()
		for range s.said {
		}
		_ = cmd.Wait()
	})
	return s
}

// tell reads on until each of the stores has told its value, in whatever order.
func (s *stores) tell(want map[string]string) {
	s.t.Helper()
	deadline := time.After(within)
	for len(want) > 0 {
		select {
		case line, ok := <-s.said:
			var one struct {
				Store string
				Value json.RawMessage
			}
			if !ok || json.Unmarshal([]byte(line), &one) != nil {
				s.t.Fatalf("the client said %q", line)
			}
			if want[one.Store] == string(one.Value) {
				delete(want, one.Store)
			}
		case <-deadline:
			s.t.Fatalf("never came: %v", want)
		}
	}
}

// The unmodified presence store of svelte-adapter-uws: who comes and goes, itself included;
// and nobody it is told of ages, while the server says that they are there.
func TestSveltePresence(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("loads npm packages: skipped by -short")
	}
	rooms, err := pgcast.ParsePattern("room:*")
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, pgtest.New(t, nil).URL, func(o *Options) {
		o.Live = LiveOptions{PresenceOn: []pgcast.Pattern{rooms}, PresenceTTL: 3 * time.Second, PresenceBeat: 200 * time.Millisecond, PresenceGrace: time.Millisecond}
	}).awaitReady(t)
	ann := r.as(t, "ann")
	s := runStores(t, "presence.mjs", r.listen)
	s.tell(map[string]string{"presence": `[{"id":"ann"},{}]`, "aging": `[{"id":"ann"},{}]`})
	began := time.Now()
	bob := r.as(t, "bob")
	s.tell(map[string]string{"presence": `[{"id":"ann"},{},{"id":"bob"}]`, "aging": `[{"id":"ann"},{},{"id":"bob"}]`})
	await(t, "they would have aged", func() bool { return time.Since(began) > 4*time.Second })
	ann.send(`{"type":"unsubscribe","topic":"room:1"}`)
	s.tell(map[string]string{"presence": `[{},{"id":"bob"}]`, "aging": `[{},{"id":"bob"}]`})
	_ = bob.ws.CloseNow()
	s.tell(map[string]string{"presence": `[{}]`, "aging": `[{}]`})
}
