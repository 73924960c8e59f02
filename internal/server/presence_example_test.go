package server

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// The example of docs/presence.md does what it says.
func TestPresenceExample(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("loads npm packages: skipped by -short")
	}
	dir := t.TempDir()
	loadPackages(t, dir, map[string]string{"ws": sveltePackages["ws"]})
	page, err := os.ReadFile("../../docs/presence.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(page), "```js\n")
	script, _, there := strings.Cut(script, "```\n")
	if !there || !strings.Contains(script, "127.0.0.1:8080") {
		t.Fatalf("the page has no example:\n%s", script)
	}
	r := start(t, pgtest.New(t, nil).URL, nil).awaitReady(t)
	script = "import WebSocket from 'ws';\n" + strings.ReplaceAll(script, "127.0.0.1:8080", r.listen)
	if err := os.WriteFile(filepath.Join(dir, "example.mjs"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "example.mjs")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 100)
	go func() {
		defer close(said)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			said <- lines.Text()
		}
	}()
	defer func() {
		_ = cmd.Process.Kill()
		for range said {
		}
		_ = cmd.Wait()
	}()
	want := func(line string) {
		t.Helper()
		for deadline := time.After(within); ; {
			select {
			case got, ok := <-said:
				if got == line {
					return
				}
				if !ok {
					t.Fatalf("it ended before it said %q", line)
				}
			case <-deadline:
				t.Fatalf("it never said %q", line)
			}
		}
	}
	want("ann")
	bob := r.dial(t)
	bob.send(`{"type":"presence","ref":1,"topic":"room:1","op":"join","data":{"id":"bob"}}`)
	bob.want(wire.Presence)
	want("ann, bob")
	bob.send(`{"type":"presence","topic":"room:1","op":"leave"}`)
	want("ann")
}
