package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// needPostgres skips where tests that need Postgres are skipped.
func needPostgres(t *testing.T) { pgtest.Binaries(t) }

// freePorts are flags that let several runs on one machine not meet.
var freePorts = []string{"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}

func startDev(t *testing.T, s *shell, args ...string) *process {
	t.Helper()
	p := s.start(t, append(append([]string{"dev"}, freePorts...), args...)...)
	p.says("Ctrl-C stops everything")
	return p
}

// readDevFile gives what a running dev says of itself.
func readDevFile(t *testing.T, s *shell) *devFile {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, ".pgcast", "dev.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file devFile
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return &file
}

// postmaster gives the process id of the Postgres that a dev runs.
func postmaster(t *testing.T, s *shell) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, ".pgcast", "pg", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func gone(pid int) bool { return syscall.Kill(pid, 0) != nil }

func TestDev(t *testing.T) {
	t.Parallel()
	needPostgres(t)
	s := newShell(t)
	p := startDev(t, s, "--no-demo")
	pid := postmaster(t, s)
	file := readDevFile(t, s)
	if ignore, err := os.ReadFile(filepath.Join(s.dir, ".pgcast", ".gitignore")); err != nil || string(ignore) != "*\n" {
		t.Errorf(".gitignore: %q, %v", ignore, err)
	}
	for _, url := range []string{file.URL, file.Metrics} {
		if resp, err := http.Get(url); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("GET %s: %v %v", url, resp, err)
		} else {
			resp.Body.Close()
		}
	}
	if !strings.Contains(p.printed(), file.URL) || !strings.Contains(p.printed(), file.WebSocket) {
		t.Errorf("the banner lacks %s or %s", file.URL, file.WebSocket)
	}

	// Other commands in this directory find it, and say so; elsewhere they do not.
	r := s.run(t, "sql", "create table kept (a int); insert into kept values (41); select a from kept")
	if r.ok(t) != "a\n41" || !strings.Contains(r.err, "using the database of the pgcast dev that runs here") {
		t.Errorf("sql beside it:\n%s", r)
	}
	if _, from := inForce(t, s.run(t, "config", "--json"), "database-url"); from != "running pgcast dev" {
		t.Errorf("config says the database is from %q", from)
	}
	newShell(t).run(t, "sql", "select 1").fails(t, 1, "no database to connect to")
	if got := s.run(t, "sql", "select to_regnamespace('demo') is null as none").ok(t); got != "none\nt" {
		t.Errorf("--no-demo has made the demo: %s", got)
	}
	// A second one in the same directory would fight over the data.
	s.run(t, "dev").fails(t, 1, "runs in "+s.dir, file.URL, "--data-dir")

	began := time.Now()
	if code := p.stop(os.Interrupt.(syscall.Signal)); code != 0 {
		t.Errorf("Ctrl-C gave exit code %d", code)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Ctrl-C took %s", took)
	}
	if !gone(pid) {
		t.Error("Postgres outlived it")
	}
	s.run(t, "sql", "select 1").fails(t, 1, "no database to connect to")

	// The data is still there, and starting again is quick. The promise is 3 s on a
	// machine that does nothing else; here other tests run.
	began = time.Now()
	p = startDev(t, s, "--no-demo")
	t.Logf("second start took %s", time.Since(began))
	if got := s.run(t, "sql", "select a from kept").ok(t); got != "a\n41" {
		t.Errorf("after the second start: %s", got)
	}

	// Should Postgres end, it is started again.
	pid = postmaster(t, s)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.says("Postgres has ended, starting it again")
	eventually(t, "Postgres is back", func() bool { return s.run(t, "sql", "select 1").code == 0 })

	// kill -9 takes Postgres along, and what is left in the directory fools nobody.
	pid = postmaster(t, s)
	p.stop(syscall.SIGKILL)
	eventually(t, "Postgres ends after kill -9", func() bool { return gone(pid) })
	s.run(t, "sql", "select 1").fails(t, 1, "no database to connect to")
	p = startDev(t, s, "--no-demo")
	if got := s.run(t, "sql", "select a from kept").ok(t); got != "a\n41" {
		t.Errorf("after kill -9: %s", got)
	}
	if code := p.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM gave exit code %d", code)
	}
}

// TestDevOnOwnDatabase gives dev a database, and finds the demo in it.
func TestDevOnOwnDatabase(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, &pgtest.Options{Empty: true})
	p := startDev(t, s)
	eventually(t, "the demo writes and is sequenced", func() bool {
		return pgtest.Value[int](t, db, `select count(*)::int from pgcast.history`) > 3
	})
	if _, err := os.Stat(filepath.Join(s.dir, ".pgcast", "pg")); err == nil {
		t.Error("it has started a Postgres although a database was given")
	}
	if code := p.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM gave exit code %d", code)
	}
	// The demo's schema may be there already.
	startDev(t, s).stop(syscall.SIGTERM)

	// Somebody's own schema of that name is not touched.
	db.Exec(t, `drop schema demo cascade; create schema demo`)
	s.run(t, append([]string{"dev"}, freePorts...)...).fails(t, 1, "this database has a schema demo that is not pgcast's", "--no-demo")
	startDev(t, s, "--no-demo").stop(syscall.SIGTERM)
}

// TestDevIsForThisMachine is about a site whose name leads to 127.0.0.1: its page is of
// the same origin as whatever listens there.
func TestDevIsForThisMachine(t *testing.T) {
	t.Parallel()
	s, _ := withDatabase(t, nil)
	for _, open := range []bool{false, true} {
		args := []string{"--no-demo"}
		if open {
			args = append(args, "--insecure-open")
		}
		p := startDev(t, s, args...)
		addr := strings.TrimSuffix(strings.TrimPrefix(readDevFile(t, s).URL, "http://"), "/")
		eventually(t, "it is ready", func() bool { return status(addr, "/readyz") == http.StatusOK })
		_, port, _ := net.SplitHostPort(addr)
		for host, own := range map[string]bool{addr: true, "localhost:" + port: true, "rebound.example:" + port: false, "10.0.0.1:" + port: false} {
			for path, want := range map[string]int{"/ws": http.StatusSwitchingProtocols, "/": http.StatusOK, "/dev/head": http.StatusOK} {
				if !own && !open {
					want = http.StatusForbidden
				}
				if got := ask(t, addr, host, path); got != want {
					t.Errorf("%v: %s of %s gives %d, want %d", args, path, host, got, want)
				}
			}
		}
		p.stop(syscall.SIGTERM)
	}
}

// ask sends what a browser sends whose page is of the same origin as the path.
func ask(t *testing.T, addr, host, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	if path == "/ws" {
		for name, value := range map[string]string{"Origin": "http://" + host, "Connection": "Upgrade", "Upgrade": "websocket",
			"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
			req.Header.Set(name, value)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestDevTakesOtherPorts(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	used := l.Addr().String()
	// Not with the program itself: the usual ports may be somebody else's just now.
	d := &dev{app: &app{set: &settings{Listen: used, AdminListen: used,
		from: map[string]string{"listen": fromDefault, "admin-listen": "--admin-listen"}}}}
	d.choosePorts()
	if d.set.Listen != "127.0.0.1:0" {
		t.Errorf("the usual port is in use, and yet it takes %s", d.set.Listen)
	}
	if d.set.AdminListen != used {
		t.Errorf("asked for %s it takes %s", used, d.set.AdminListen)
	}
	s, _ := withDatabase(t, nil)
	s.run(t, "dev", "--no-demo", "--admin-listen", "127.0.0.1:0", "--listen", used).fails(t, 1, "address already in use")
}

// TestDataDirectoryOfAnother sees what a user is told whose directory is root's.
func TestDataDirectoryOfAnother(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may do everything: run the tests as another user to see this one")
	}
	s := newShell(t)
	if err := os.Mkdir(filepath.Join(s.dir, ".pgcast"), 0o000); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"dev"}, {"sql", "select 1"}, {"tail"}} {
		s.run(t, args...).fails(t, 1, "permission denied", "give a --data-dir of your own")
	}
}
