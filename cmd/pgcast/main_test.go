package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/devpg"
)

// binary is the program under test, built once per run.
var binary string

func TestMain(m *testing.M) {
	code, err := testMain(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func testMain(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "pgcast-cmd-*")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "pgcast")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// shell is a directory and an environment to run the program in.
type shell struct {
	dir string
	env []string
}

// newShell gives an empty directory that a Postgres of another user can enter, and an
// environment without anything that would change what the program does.
func newShell(t *testing.T, env ...string) *shell {
	t.Helper()
	base, err := devpg.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(base, "cmd-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &shell{dir: dir}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "DATABASE_URL=") && !strings.HasPrefix(v, "NO_COLOR=") {
			s.env = append(s.env, v)
		}
	}
	if bin := os.Getenv("PGCAST_PG_BIN"); bin != "" {
		s.env = append(s.env, "PGCAST_PG_BIN="+bin)
	}
	s.env = append(s.env, env...)
	return s
}

// write makes a file in the shell's directory.
func (s *shell) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (s *shell) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Env = s.dir, s.env
	return cmd
}

// result is what a finished command left.
type result struct {
	args     []string
	out, err string
	code     int
}

// run runs the program to its end.
func (s *shell) run(t *testing.T, args ...string) *result {
	t.Helper()
	return s.pipe(t, "", args...)
}

// pipe runs the program with something on its standard input.
func (s *shell) pipe(t *testing.T, in string, args ...string) *result {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := s.command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return &result{args: args, out: out.String(), err: errOut.String(), code: cmd.ProcessState.ExitCode()}
}

func (r *result) String() string {
	return fmt.Sprintf("pgcast %s\nexit code %d\nstdout: %s\nstderr: %s", strings.Join(r.args, " "), r.code, r.out, r.err)
}

// ok fails the test unless the command went well, and gives its output.
func (r *result) ok(t *testing.T) string {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("it failed:\n%s", r)
	}
	return strings.TrimSuffix(r.out, "\n")
}

// fails checks an exit code and what standard error says, and that it is said once,
// without a dump of how the command is used.
func (r *result) fails(t *testing.T, code int, says ...string) {
	t.Helper()
	if r.code != code {
		t.Fatalf("want exit code %d:\n%s", code, r)
	}
	for _, s := range says {
		if n := strings.Count(r.err, s); n != 1 {
			t.Errorf("want %q once on standard error, it is there %d times:\n%s", s, n, r)
		}
	}
	for _, bad := range []string{"Usage:", "goroutine ", "panic"} {
		if strings.Contains(r.err+r.out, bad) {
			t.Errorf("%q has no place here:\n%s", bad, r)
		}
	}
}

// process is a command that runs on.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}

	mu    sync.Mutex
	text  bytes.Buffer  // guarded by mu: everything it printed, both streams
	out   []string      // guarded by mu: the lines on standard output
	grown chan struct{} // guarded by mu: closed when more has been printed
}

// start runs the program in the background; it is killed when the test ends.
func (s *shell) start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: s.command(args...), done: make(chan struct{}), grown: make(chan struct{})}
	var readers sync.WaitGroup
	for i, open := range []func() (io.ReadCloser, error){p.cmd.StdoutPipe, p.cmd.StderrPipe} {
		pipe, err := open()
		if err != nil {
			t.Fatal(err)
		}
		readers.Go(func() { p.read(pipe, i == 0) })
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		readers.Wait()
		_ = p.cmd.Wait() // the tests look at the exit code
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("pgcast %s printed:\n%s", strings.Join(args, " "), p.printed())
		}
	})
	return p
}

func (p *process) read(r io.Reader, isOut bool) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		p.mu.Lock()
		p.text.WriteString(line)
		if isOut && line != "" {
			p.out = append(p.out, strings.TrimSuffix(line, "\n"))
		}
		close(p.grown)
		p.grown = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (p *process) printed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

func (p *process) lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.out...)
}

const patience = 60 * time.Second

// until waits until what it has printed is enough.
func (p *process) until(what string, enough func() bool) {
	p.t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		p.mu.Lock()
		grown := p.grown
		p.mu.Unlock()
		if enough() {
			return
		}
		select {
		case <-grown:
		case <-p.done:
			if !enough() {
				p.t.Fatalf("it ended without %s", what)
			}
			return
		case <-late.C:
			p.t.Fatalf("no %s within %s", what, patience)
		}
	}
}

// says waits until it has printed a text.
func (p *process) says(text string) {
	p.t.Helper()
	p.until(fmt.Sprintf("%q", text), func() bool { return strings.Contains(p.printed(), text) })
}

// stop sends a signal and gives the exit code.
func (p *process) stop(sig syscall.Signal) int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("it does not end within %s of %s", patience, sig)
	}
	return p.cmd.ProcessState.ExitCode()
}

// eventually waits for something outside of the processes.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", patience, what)
		case <-tick.C:
		}
	}
}
