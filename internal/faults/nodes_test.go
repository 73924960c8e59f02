package faults

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

// node is a cluster whose data outlives its being stopped, and can be copied.
type node struct {
	t        *testing.T
	dir      string
	settings map[string]string
	bin      devpg.Binaries
	cluster  *devpg.Cluster // nil while stopped
}

// newNode makes and starts one.
func newNode(t *testing.T, bin devpg.Binaries) *node {
	t.Helper()
	n := emptyNode(t, bin)
	n.start()
	return n
}

// primary is newNode with the table that the judge knows.
func primary(t *testing.T) *node {
	t.Helper()
	n := newNode(t, pgtest.Binaries(t))
	n.migrate()
	judge.Exec(t, n.url(), judge.Schema)
	return n
}

func (n *node) migrate() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := migrations.Up(ctx, n.url()); err != nil {
		n.t.Fatal(err)
	}
}

func emptyNode(t *testing.T, bin devpg.Binaries) *node {
	t.Helper()
	base, err := devpg.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(base, "node-*")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: dir, bin: bin, settings: map[string]string{}}
	t.Cleanup(func() {
		n.stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) start() {
	n.t.Helper()
	c, err := devpg.Start(context.Background(), &devpg.Options{Dir: n.dir, Durable: true, Binaries: n.bin, Settings: n.settings})
	if err != nil {
		n.t.Fatal(err)
	}
	n.cluster = c
}

func (n *node) stop() {
	n.t.Helper()
	if n.cluster == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := n.cluster.Stop(ctx); err != nil {
		n.t.Error(err)
	}
	n.cluster = nil
}

func (n *node) url() string { return n.cluster.URL("postgres") }

func (n *node) data() string { return filepath.Join(n.dir, "data") }

// copy copies the data of a stopped node into another one, which is not started.
func (n *node) copy() *node {
	n.t.Helper()
	c := emptyNode(n.t, n.bin)
	c.take(n)
	return c
}

// take replaces the data with another node's; both are stopped.
func (n *node) take(of *node) {
	n.t.Helper()
	if err := os.RemoveAll(n.data()); err != nil {
		n.t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", of.data(), n.data()).CombinedOutput(); err != nil {
		n.t.Fatalf("copy a data directory: %v: %s", err, out)
	}
}

// follow makes a stopped copy a standby of the node at a URL, and starts it.
func (n *node) follow(primaryURL string) {
	n.t.Helper()
	u, err := url.Parse(primaryURL)
	if err != nil {
		n.t.Fatal(err)
	}
	n.settings["primary_conninfo"] = fmt.Sprintf("host=%s port=%s user=postgres application_name=standby sslmode=disable", u.Hostname(), u.Port())
	n.signal("standby.signal")
	n.start()
}

// signal leaves a file that Postgres looks for when it starts.
func (n *node) signal(name string) {
	n.t.Helper()
	if err := os.WriteFile(filepath.Join(n.data(), name), nil, 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// promote ends a standby's recovery.
func (n *node) promote() {
	n.t.Helper()
	if !judge.Value[bool](n.t, n.url(), "select pg_promote(true, 60)") {
		n.t.Fatal("the standby was not promoted")
	}
}

// streams waits until a standby has replayed what the primary has written.
func (n *node) streams(standby *node) {
	n.t.Helper()
	lsn := judge.Value[string](n.t, n.url(), "select pg_current_wal_lsn()::text")
	judge.Await(n.t, "the standby has all", time.Minute, func() bool {
		return judge.Value[bool](n.t, standby.url(), "select coalesce(pg_last_wal_replay_lsn() >= $1::pg_lsn, false)", lsn)
	})
}

// tool runs one of Postgres's client programs, or skips the test where there is none.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path := filepath.Join(pgtest.Binaries(t).Dir, name)
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath(name); err != nil {
			t.Skipf("needs %s", name)
		}
	}
	var said strings.Builder
	cmd := exec.Command(path, args...)
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, said.String())
	}
	if said.Len() > 0 {
		t.Logf("%s: %s", name, said.String())
	}
	return string(out)
}

// newer gives a Postgres newer than a version, or skips the test where there is none.
func newer(t *testing.T, than int) devpg.Binaries {
	t.Helper()
	for version := 18; version > than; version-- {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // it may have to be loaded
		b, err := devpg.Find(ctx, &devpg.FindOptions{Version: version})
		cancel()
		if err == nil {
			return b
		}
	}
	t.Skipf("needs a Postgres newer than %d", than)
	return devpg.Binaries{}
}
