package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The packages the peer protocol's browser client needs, at the versions tried.
var sveltePackages = map[string]string{"svelte-adapter-uws": "0.3.4", "svelte": "4.2.20", "ws": "8.18.3"}

// onlyWS is what a script needs that uses the browser's own WebSocket.
var onlyWS = map[string]string{"ws": sveltePackages["ws"]}

// node is a program that says lines and is told some, until the test ends.
type node struct {
	t     *testing.T
	lines chan string
	in    io.Writer
}

// runStores runs a script of testdata with the unmodified client of svelte-adapter-uws.
func runStores(t *testing.T, script string, args ...string) *node {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", script))
	if err != nil {
		t.Fatal(err)
	}
	return runNode(t, sveltePackages, string(text), args...)
}

// example gives the first JavaScript of a page of docs.
func example(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(text), "```js\n")
	script, _, ok := strings.Cut(script, "```")
	if !ok {
		t.Fatalf("there is no example in %s", page)
	}
	return script
}

// runNode runs a script with npm packages, or skips the test where they cannot be had.
func runNode(t *testing.T, packages map[string]string, script string, args ...string) *node {
	t.Helper()
	if testing.Short() {
		t.Skip("loads npm packages: skipped by -short")
	}
	dir := t.TempDir()
	loadPackages(t, dir, packages)
	if err := os.WriteFile(filepath.Join(dir, "script.mjs"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", append([]string{"script.mjs"}, args...)...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	in, err := cmd.StdinPipe()
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
	n := &node{t, make(chan string, 1000), in}
	go func() {
		defer close(n.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			n.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = in.Close()
		// Those that end with their standard input have a moment to do so.
		stop := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		defer stop.Stop()
		for range n.lines {
		}
		_ = cmd.Wait()
	})
	return n
}

func (n *node) tell(line string) {
	n.t.Helper()
	if _, err := fmt.Fprintln(n.in, line); err != nil {
		n.t.Fatal(err)
	}
}

// wait reads on to a line.
func (n *node) wait(want string) {
	n.t.Helper()
	n.until(want, func(line string) bool { return line == want })
}

// stores reads on until each store has told its value, in whatever order.
func (n *node) stores(want map[string]string) {
	n.t.Helper()
	n.until(fmt.Sprint(want), func(line string) bool {
		var one struct {
			Store string
			Value json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			n.t.Fatalf("it said %q", line)
		}
		if want[one.Store] == string(one.Value) {
			delete(want, one.Store)
		}
		return len(want) == 0
	})
}

func (n *node) until(what string, done func(line string) bool) {
	n.t.Helper()
	var came []string
	for deadline := time.After(within); ; {
		select {
		case line, ok := <-n.lines:
			if !ok {
				n.t.Fatalf("it ended before it said %s; it said %s", what, strings.Join(came, "\n"))
			}
			if done(line) {
				return
			}
			came = append(came, line)
		case <-deadline:
			n.t.Fatalf("never came: %s; it said %s", what, strings.Join(came, "\n"))
		}
	}
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
