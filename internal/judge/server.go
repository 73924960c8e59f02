package judge

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
)

var binary string

// Main is TestMain's body: it builds pgcast, runs the tests and exits.
func Main(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgcast-judge-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "pgcast")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "github.com/pgcast/pgcast/cmd/pgcast").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build pgcast: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// Server is one pgcast process. Its addresses stay the same over restarts.
type Server struct {
	Listen string // address for clients
	Admin  string // address for metrics

	t    testing.TB
	args []string
	log  string
	cmd  *exec.Cmd

	lives int
}

// StartServer runs "pgcast serve" on a database, with more flags if need be, until the
// test ends. It does not wait; see WaitReady.
func StartServer(t testing.TB, databaseURL string, flags ...string) *Server {
	t.Helper()
	s := &Server{t: t, Listen: pgtest.FreeAddress(t), Admin: pgtest.FreeAddress(t), log: filepath.Join(t.TempDir(), "log")}
	s.args = append([]string{"serve", "--database-url", databaseURL, "--listen", s.Listen, "--admin-listen", s.Admin}, flags...)
	s.Start()
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			log := s.Log()
			t.Logf("log of the server at %s:\n%s", s.Listen, log[max(0, len(log)-4000):])
		}
	})
	return s
}

// Start starts the process again after Kill or Wait.
func (s *Server) Start() {
	s.t.Helper()
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(binary, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.Dir = filepath.Dir(s.log)
	// Its settings are those it is given.
	s.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PGCAST_") })
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.lives++
}

// Lives tells how often the process was started.
func (s *Server) Lives() int { return s.lives }

// Kill ends the process as a crash would.
func (s *Server) Kill() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

// Wait waits until the process has ended by itself.
func (s *Server) Wait() error { return s.cmd.Wait() }

// Signal sends a signal to the process.
func (s *Server) Signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Log is what the process has said, over all its lives.
func (s *Server) Log() string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Ready asks /readyz.
func (s *Server) Ready() bool {
	c := http.Client{Timeout: time.Second}
	r, err := c.Get("http://" + s.Listen + "/readyz")
	if err != nil {
		return false
	}
	_ = r.Body.Close()
	return r.StatusCode == http.StatusOK
}

// WaitReady waits until the server is ready.
func (s *Server) WaitReady() {
	s.t.Helper()
	Await(s.t, "server ready", 30*time.Second, s.Ready)
}

// Metric gives the sum of a metric over its labels, or over those that contain label.
// ok is false when the server does not answer or has no such metric.
func (s *Server) Metric(name, label string) (sum float64, ok bool) {
	c := http.Client{Timeout: time.Second}
	r, err := c.Get("http://" + s.Admin + "/metrics")
	if err != nil {
		return 0, false
	}
	defer r.Body.Close()
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), " ")
		if base, labels, _ := strings.Cut(key, "{"); base != name || !strings.Contains(labels, label) {
			continue
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			sum, ok = sum+v, true
		}
	}
	return sum, ok
}

// Leads tells whether the server says that it sequences.
func (s *Server) Leads() bool {
	v, ok := s.Metric("pgcast_sequencer_leading", "")
	return ok && v == 1
}

// Memory is the process's resident memory in bytes, 0 where that cannot be told.
func (s *Server) Memory() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(fields[1])
	return pages * os.Getpagesize()
}

// Leading finds the server that sequences.
func Leading(t testing.TB, servers ...*Server) (index int) {
	t.Helper()
	Await(t, "a server leads", 30*time.Second, func() bool {
		for i, s := range servers {
			if s.Leads() {
				index = i
				return true
			}
		}
		return false
	})
	return index
}

// Await polls until cond holds, and fails the test when it does not in time.
func Await(t testing.TB, what string, limit time.Duration, cond func() bool) time.Duration {
	t.Helper()
	took, ok := within(limit, cond)
	if !ok {
		t.Fatalf("%s: not within %v", what, limit)
	}
	return took
}

func within(limit time.Duration, cond func() bool) (time.Duration, bool) {
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Since(began) > limit {
			return limit, false
		}
		<-tick.C
	}
	return time.Since(began), true
}
