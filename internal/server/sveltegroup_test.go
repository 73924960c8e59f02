package server

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// stock is the unmodified browser client of svelte-adapter-uws, run by a script.
type stock struct {
	t     *testing.T
	stdin io.Writer
	said  chan string
}

// runStock loads the npm packages and runs a script of testdata against a server.
func runStock(t *testing.T, script, listen string) *stock {
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
	cmd := exec.CommandContext(t.Context(), "node", script, listen)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &stock{t: t, stdin: stdin, said: make(chan string, 100)}
	go func() {
		defer close(s.said)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.said <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		for range s.said {
		}
		_ = cmd.Wait()
	})
	return s
}

// drop has the client's connection break.
func (s *stock) drop() {
	s.t.Helper()
	if _, err := s.stdin.Write([]byte("\n")); err != nil {
		s.t.Fatal(err)
	}
}

// wait reads on until every store has told its value, in whatever order.
func (s *stock) wait(want map[string]string) {
	s.t.Helper()
	deadline := time.After(within)
	var last []string
	for len(want) > 0 {
		select {
		case line, ok := <-s.said:
			var v struct {
				Store string
				Value json.RawMessage
			}
			if !ok || json.Unmarshal([]byte(line), &v) != nil {
				s.t.Fatalf("the client said %q", line)
			}
			last = append(last, line)
			if want[v.Store] == string(v.Value) {
				delete(want, v.Store)
			}
		case <-deadline:
			s.t.Fatalf("never came: %v; what came: %s", want, strings.Join(last, "\n"))
		}
	}
}

// The unmodified browser client of 0.3: its store of a group shows its members and what is
// said in it.
func TestSvelteGroup(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("loads npm packages: skipped by -short")
	}
	db := pgtest.New(t, nil)
	r := start(t, db.URL, func(o *Options) {
		o.Live.GroupOn, o.Live.PresenceGrace = []pgcast.Pattern{pattern(t, "*")}, time.Millisecond
	}).awaitReady(t)
	db.Exec(t, "select pgcast.create_group('lobby')")
	s := runStock(t, "svelte-group.mjs", r.listen)
	s.wait(map[string]string{"members": `["member"]`})
	ann := r.hello(t, "ann", `"reset"`)
	if got := ann.asks(`"op":"join","role":"admin"`); !strings.Contains(got, `"role":"admin"`) {
		t.Fatal(got)
	}
	s.wait(map[string]string{"members": `["admin","member"]`, "group": `["join",{"key":"ann","role":"admin","user":{"id":"ann","name":"ANN"},"count":2}]`})
	db.Exec(t, `select pgcast.publish('group:lobby', 'said', '{"n":1}')`)
	s.wait(map[string]string{"group": `["said",{"n":1}]`})
	if got := ann.asks(`"op":"send","event":"nudge","data":1,"role":"member"`); got != "" {
		t.Fatal(got)
	}
	s.wait(map[string]string{"group": `["nudge",1]`})
	ann.asks(`"op":"join","role":"viewer"`)
	s.wait(map[string]string{"members": `["member","viewer"]`})
	s.drop()
	s.wait(map[string]string{"status": `"closed"`})
	s.wait(map[string]string{"status": `"open"`, "members": `["member","viewer"]`})
	ann.asks(`"op":"leave"`)
	s.wait(map[string]string{"members": `["member"]`})
	db.Exec(t, "select pgcast.close_group('lobby')")
	s.wait(map[string]string{"members": `[]`, "group": `["close",null]`})
	await(t, "nobody is there", func() bool {
		_, text := get(t, "http://"+r.listen+"/groups/lobby")
		var g struct {
			Members []any
			Closed  bool
		}
		return json.Unmarshal([]byte(text), &g) == nil && g.Closed && len(g.Members) == 0
	})
}
