// Package redistest gives tests a real Redis of their own, started for them and ended with
// them. Tests that need it are skipped by name where there is no redis-server.
package redistest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Redis is one server's. Its methods end the test if they fail.
type Redis struct {
	URL  string
	Addr string

	t    testing.TB
	dir  string
	args []string
	cmd  *exec.Cmd
}

const patience = 30 * time.Second

// Start starts a server that keeps nothing on disk, so that it is empty after Restart. args
// are more of redis-server's.
func Start(t testing.TB, args ...string) *Redis {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("needs redis-server: apt-get install redis-server")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	r := &Redis{URL: "redis://" + addr, Addr: addr, t: t, dir: t.TempDir(), args: args}
	t.Cleanup(r.end)
	r.start()
	return r
}

func (r *Redis) start() {
	r.t.Helper()
	_, port, _ := net.SplitHostPort(r.Addr)
	r.cmd = exec.Command("redis-server", append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
		"--dir", r.dir, "--daemonize", "no", "--logfile", "redis.log"}, r.args...)...)
	r.cmd.Stderr = os.Stderr
	tie(r.cmd)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatalf("start redis-server: %v", err)
	}
	for begin := time.Now(); r.Do("PING") != "+PONG"; {
		if time.Since(begin) > patience {
			r.t.Fatalf("redis-server does not answer on %s", r.Addr)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Do sends one command of plain words, and gives the first line of the answer, or what
// went wrong.
func (r *Redis) Do(words ...string) string {
	conn, err := net.DialTimeout("tcp", r.Addr, time.Second)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(conn, "%s\r\n", strings.Join(words, " ")); err != nil {
		return err.Error()
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(line)
}

// Pause stops the process in its tracks: connections stay, nothing is answered.
func (r *Redis) Pause() { r.signal(syscall.SIGSTOP) }

// Resume lets a paused one go on.
func (r *Redis) Resume() { r.signal(syscall.SIGCONT) }

// Kill ends it without a word.
func (r *Redis) Kill() {
	r.signal(syscall.SIGKILL)
	_ = r.cmd.Wait()
}

// Restart starts one that was killed, on the same address, empty.
func (r *Redis) Restart() { r.start() }

// Flush deletes everything in it.
func (r *Redis) Flush() {
	r.t.Helper()
	if got := r.Do("FLUSHALL"); got != "+OK" {
		r.t.Fatalf("FLUSHALL: %s", got)
	}
}

func (r *Redis) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatalf("signal redis-server: %v", err)
	}
}

func (r *Redis) end() {
	if r.cmd == nil || r.cmd.Process == nil || r.cmd.ProcessState != nil {
		return
	}
	_ = r.cmd.Process.Signal(syscall.SIGKILL)
	_ = r.cmd.Wait()
}
