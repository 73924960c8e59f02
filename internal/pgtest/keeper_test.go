//go:build unix

package pgtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// childEnv turns this test binary into one more test process: it joins the shared cluster
// in the given base directory, makes a database and says where, and waits to be ended.
const childEnv = "PGCAST_PGTEST_CHILD"

func TestMain(m *testing.M) {
	if base := os.Getenv(childEnv); base != "" {
		if err := child(base); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// testTask is for clusters that end soon after their last user.
func testTask() (task, error) {
	bin, err := binaries()
	return task{Binaries: bin, Settings: settings[Doorbell], Linger: 500 * time.Millisecond}, err
}

func child(base string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	what, err := testTask()
	if err != nil {
		return err
	}
	s, err := joinAt(ctx, base, "child", what)
	if err != nil {
		return err
	}
	template, err := s.migrated(ctx)
	if err != nil {
		return err
	}
	name := s.databaseName("child")
	if err := s.create(ctx, name, template); err != nil {
		return err
	}
	fmt.Println(s.at.Port, name)
	_, err = bufio.NewReader(os.Stdin).ReadString('\n') // ends with the pipe, or with a kill
	_ = err
	return nil
}

// process is a child.
type process struct {
	cmd  *exec.Cmd
	out  *bufio.Reader
	port int
	name string
}

func startChild(t *testing.T, base string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(exe)}
	p.cmd.Env = append(os.Environ(), childEnv+"="+base)
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); p.kill() })
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// hear reads what the child has to say.
func (p *process) hear(t *testing.T) {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatalf("the child said %q, %v", line, err)
	}
	if _, err := fmt.Sscan(line, &p.port, &p.name); err != nil {
		rest, _ := p.out.ReadString(0)
		t.Fatalf("the child said %s%s", line, rest)
	}
}

func databases(t *testing.T, port int) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address{Port: port}.url("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), "select datname from pg_database")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

func answers(port int) bool {
	conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !holds(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// sharedBase is a directory for shared clusters, which are gone when it goes.
func sharedBase(t *testing.T) string {
	t.Helper()
	base := t.TempDir()
	t.Cleanup(func() {
		dirs, _ := filepath.Glob(filepath.Join(base, "*"))
		for _, dir := range dirs {
			eventually(t, "the keeper ends", func() bool { alive, err := keeperLives(dir); return err == nil && !alive })
		}
	})
	return base
}

func sharedDir(t *testing.T, base string) string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(base, "test-child-*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("found %q, %v", dirs, err)
	}
	return dirs[0]
}

func TestProcessesShareACluster(t *testing.T) {
	Binaries(t)
	base := sharedBase(t)
	var all []*process
	for range 4 { // all at once: one of them starts it
		all = append(all, startChild(t, base))
	}
	for _, p := range all {
		p.hear(t)
		if p.port != all[0].port {
			t.Errorf("clusters on ports %d and %d", p.port, all[0].port)
		}
	}
	port, first := all[0].port, all[0]
	for _, p := range all {
		if !strings.Contains(databases(t, port), p.name) {
			t.Errorf("no database %s", p.name)
		}
	}
	if n := strings.Count(databases(t, port), "migrated_"); n != 1 {
		t.Errorf("%d migrated templates", n)
	}
	// One is killed: what it left goes, the others' stays, also when the one that
	// happened to start the cluster is gone.
	first.kill()
	eventually(t, "the killed process's database goes", func() bool { return !strings.Contains(databases(t, port), first.name) })
	for _, p := range all[1:] {
		if !strings.Contains(databases(t, port), p.name) {
			t.Errorf("the living process's database %s has gone", p.name)
		}
		p.kill()
	}
	dir := sharedDir(t, base)
	eventually(t, "the cluster ends after its last user", func() bool { return !answers(port) })
	eventually(t, "the keeper ends", func() bool { alive, err := keeperLives(dir); return err == nil && !alive })

	next := startChild(t, base)
	next.hear(t)
	if n := strings.Count(databases(t, next.port), "t_"); n != 1 {
		t.Errorf("a new cluster with the old one's databases: %s", databases(t, next.port))
	}
}

func TestKilledKeeperTakesItsClusterAlong(t *testing.T) {
	Binaries(t)
	base := sharedBase(t)
	one := startChild(t, base)
	one.hear(t)
	dir := sharedDir(t, base)
	if err := killKeeper(dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cluster ends with its keeper", func() bool { return !answers(one.port) })

	two := startChild(t, base)
	two.hear(t)
	if two.port == one.port || !answers(two.port) {
		t.Errorf("the next process got port %d after %d", two.port, one.port)
	}
}

// killKeeper kills the process that the keeper's lock names.
func killKeeper(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "keeper"))
	if err != nil {
		return err
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		return err
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}

func TestKeeperTellsWhyNot(t *testing.T) {
	what, err := testTask()
	if err != nil {
		Binaries(t)
	}
	what.Settings = map[string]string{"no_such_setting": "1"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = joinAt(ctx, sharedBase(t), "child", what)
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("got %v", err)
	}
}

func TestTaskGoesThroughTheEnvironment(t *testing.T) {
	what := task{Dir: "/d", Settings: map[string]string{"a": "b c"}, Linger: time.Second}
	text, err := json.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	var back task
	if err := json.Unmarshal(text, &back); err != nil || fmt.Sprint(back) != fmt.Sprint(what) {
		t.Errorf("sent %+v, got %+v, %v", what, back, err)
	}
}
