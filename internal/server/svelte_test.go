package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// The packages the peer protocol's browser client needs, at the versions tried.
var sveltePackages = map[string]string{"svelte-adapter-uws": "0.3.4", "svelte": "4.2.20", "ws": "8.18.3"}

// The unmodified browser client of svelte-adapter-uws: its stores show live rows, and go
// on doing so after the connection was dropped.
func TestSvelteAdapterClient(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("loads npm packages: skipped by -short")
	}
	dir := t.TempDir()
	loadPackages(t, dir, sveltePackages)
	script, err := os.ReadFile("testdata/svelte.mjs")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "svelte.mjs"), script, 0o600); err != nil {
		t.Fatal(err)
	}
	db := pgtest.New(t, nil)
	db.Exec(t, `create table todo (id int primary key, body text); select pgcast.attach('todo', topic => 'todo')`)
	r := start(t, db.URL, nil).awaitReady(t)

	cmd := exec.CommandContext(t.Context(), "node", "svelte.mjs", r.listen)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	drop, err := cmd.StdinPipe()
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
	said := make(chan string, 100)
	go func() {
		defer close(said)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			said <- lines.Text()
		}
	}()
	defer func() {
		_ = drop.Close()
		for range said {
		}
		_ = cmd.Wait()
	}()
	// wait reads on until every store has told its value, in whatever order.
	wait := func(want map[string]string) {
		t.Helper()
		deadline := time.After(within)
		for len(want) > 0 {
			select {
			case line, ok := <-said:
				var s struct {
					Store string
					Value json.RawMessage
				}
				if !ok || json.Unmarshal([]byte(line), &s) != nil {
					t.Fatalf("the client said %q", line)
				}
				if want[s.Store] == string(s.Value) {
					delete(want, s.Store)
				}
			case <-deadline:
				t.Fatalf("never came: %v", want)
			}
		}
	}
	subscribed := func() {
		t.Helper()
		wait(map[string]string{"status": `"open"`})
		await(t, "it is subscribed", func() bool {
			_, text := get(t, "http://"+r.admin+"/metrics")
			return figure(t, text, "pgcast_subscriptions") == 1
		})
	}
	row := func(id int, body string) string { return fmt.Sprintf(`{"id":%d,"body":"%s"}`, id, body) }

	subscribed()
	db.Exec(t, `insert into todo values (1, 'a')`)
	wait(map[string]string{"on": `{"topic":"todo","event":"created","data":` + row(1, "a") + `}`, "crud": "[" + row(1, "a") + "]"})
	db.Exec(t, `insert into todo values (2, 'b')`)
	db.Exec(t, `update todo set body = 'c' where id = 1`)
	wait(map[string]string{"crud": "[" + row(1, "c") + "," + row(2, "b") + "]"})

	if _, err := drop.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	wait(map[string]string{"status": `"closed"`})
	subscribed()
	db.Exec(t, `delete from todo where id = 1`)
	wait(map[string]string{"deleted": `{"data":{"id":1}}`, "crud": "[" + row(2, "b") + "]"})
}

// loadPackages has npm load packages, without what they depend on, or skips the test.
func loadPackages(t *testing.T, dir string, versions map[string]string) {
	t.Helper()
	for _, tool := range []string{"node", "npm", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("there is no %s", tool)
		}
	}
	run := func(args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = dir
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("%s: %v\n%s", strings.Join(args, " "), err, text)
		}
	}
	pack := []string{"npm", "pack", "--silent", "--prefer-offline"}
	for name, version := range versions {
		pack = append(pack, name+"@"+version)
	}
	run(pack...)
	for name, version := range versions {
		into := filepath.Join("node_modules", name)
		if err := os.MkdirAll(filepath.Join(dir, into), 0o700); err != nil {
			t.Fatal(err)
		}
		run("tar", "xzf", name+"-"+version+".tgz", "-C", into, "--strip-components", "1")
	}
}
