// Package nodetest runs the npm scripts of this repository from Go tests, so that `go test
// ./...` is all there is to run. What is missing on a machine skips by name.
package nodetest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/devpg"
)

// oldest is the oldest major version of Node.js that the scripts run on.
const oldest = 20

// Run runs `npm run` with args in dir, which has a package.json, against a real server: the
// script finds a pgcast binary, built from this tree and without the race detector, in
// PGCAST_BIN. What the script says is logged as it comes; that it fails fails the test.
//
// The test is skipped under -short, without npm or Node.js 20, and when the packages cannot be
// had; with PGCAST_TEST_NPM=1 the last of these fails. Packages are installed when they are not
// there, or when the lock file is newer.
func Run(t *testing.T, dir string, args ...string) {
	t.Helper()
	Prepare(t, dir)
	bin := filepath.Join(t.TempDir(), "pgcast")
	if out, err := command(t, dir, "go", "build", "-race=false", "-o", bin, "github.com/pgcast/pgcast/cmd/pgcast").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	run(t, dir, []string{"PGCAST_BIN=" + bin}, args...)
}

// Script runs `npm run` with args in dir like Run, but without a server.
func Script(t *testing.T, dir string, args ...string) {
	t.Helper()
	Prepare(t, dir)
	run(t, dir, nil, args...)
}

// Prepare sees to it that dir has its packages, or skips the test. Any number of processes may
// ask for the same dir at a time.
func Prepare(t *testing.T, dir string) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs npm: skipped by -short")
	}
	needNode(t)
	abs, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Beside node_modules, which npm ci removes.
	lock, err := devpg.WaitLock(t.Context(), filepath.Join(abs, ".npm.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	if installed(abs) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--prefer-offline", "--no-audit", "--no-fund")
	cmd.Dir = abs
	if out, err := cmd.CombinedOutput(); err != nil {
		if os.Getenv("PGCAST_TEST_NPM") != "" {
			t.Fatalf("npm ci: %v\n%s", err, tail(string(out)))
		}
		t.Skipf("the packages cannot be had: npm ci: %v\n%s", err, tail(string(out)))
	}
}

func needNode(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("there is no %s", tool)
		}
	}
	out, err := exec.Command("node", "--version").Output()
	if err != nil {
		t.Skipf("node --version: %v", err)
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < oldest {
		t.Skipf("node is %s; %d or newer is needed", strings.TrimSpace(string(out)), oldest)
	}
}

// installed tells whether what the lock file wants was installed after it was written: npm
// leaves a lock file of its own when it is done.
func installed(dir string) bool {
	done, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json"))
	if err != nil {
		return false
	}
	want, err := os.Stat(filepath.Join(dir, "package-lock.json"))
	return err == nil && !want.ModTime().After(done.ModTime())
}

// run runs a script of npm to its end.
func run(t *testing.T, dir string, env []string, args ...string) {
	t.Helper()
	cmd := command(t, dir, "npm", append([]string{"run", "--silent"}, args...)...)
	cmd.Env = append(cmd.Env, env...)
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		in.Close()
		ended <- err
	}()
	for s := bufio.NewScanner(out); s.Scan(); {
		if line := plain(s.Text()); strings.TrimSpace(line) != "" {
			t.Log(line)
		}
	}
	_, _ = io.Copy(io.Discard, out) // the rest, of which a line was too long
	if err := <-ended; err != nil {
		t.Errorf("npm run %s in %s: %v", strings.Join(args, " "), dir, err)
	}
}

// command is one that a test's end interrupts, so that it can end what it has started, and kills
// 20 s later.
func command(t *testing.T, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "CI=1", "npm_config_update_notifier=false")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// plain is a line without what only terminals understand.
func plain(line string) string { return escapes.ReplaceAllString(line, "") }

func tail(text string) string {
	const most = 2000
	if len(text) > most {
		return fmt.Sprintf("… %s", text[len(text)-most:])
	}
	return text
}
