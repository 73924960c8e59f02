package faults

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// The cluster is upgraded in place by pg_upgrade, while the newest events have no place yet. It
// keeps the log, its transaction numbers and its ids; only the system identifier is another.
func TestFault48Upgrade(t *testing.T) {
	later(t)
	to := pgtest.Binaries(t)
	if real, err := filepath.EvalSymlinks(filepath.Join(to.Dir, "postgres")); err == nil {
		to.Dir = filepath.Dir(real) // what is on the PATH may be links to some of the programs
	}
	if _, err := os.Stat(filepath.Join(to.Dir, "pg_upgrade")); err != nil {
		t.Skip("needs pg_upgrade")
	}
	from := older(t, to)
	r := begin(t, "48", fmt.Sprintf("pg_upgrade from %d to %d, beneath a server that streams", from.Version, to.Version))
	a := newNode(t, from)
	a.migrate()
	judge.Exec(t, a.url(), judge.Schema)
	f := face(t, a)
	w := judge.StartWriters(t, f.proxy.URL, 3, seed)
	judge.Await(t, "events flow", time.Minute, func() bool { return f.readers[5].Events() > 200 })
	w.Stop()
	judge.Exec(t, a.url(), "insert into item (room, n) select 0, g from generate_series(1, 20) g")
	f.have(t, a.url())
	const seqOnly = 20
	var seqs []*rawClient
	for range seqOnly {
		seqs = append(seqs, dialRaw(t, f.server))
	}
	f.server.Signal(syscall.SIGSTOP)
	writeRooms(t, a.url(), 10, 0, 1, 2, 3, 4) // nobody sequences these before the upgrade
	a.stop()
	b := upgrade(t, a, to)
	f.turn(t, b)
	f.server.Signal(syscall.SIGCONT)
	took := probe(t, judge.Connect(t, b.url()), f.readers[5], "room:0")
	w = judge.StartWriters(t, f.proxy.URL, 3, seed)
	before := f.readers[5].Events()
	judge.Await(t, "events flow again", time.Minute, func() bool { return f.readers[5].Events() > before+200 })
	w.Stop()
	f.judge(t, r, b.url())
	f.told(t, r, nil)
	reset := 0
	for _, c := range seqs {
		if c.resumed(t, f.server) == "reset" {
			reset++
		}
	}
	r.count("clients that know only a seq, of 20, that were reset", reset, seqOnly)
	r.latency("from a commit on the upgraded cluster to the client", []time.Duration{took}, 3*time.Second)
}

// older gives a Postgres that the one given can upgrade from: 14 where it can be had, else
// itself, which pg_upgrade allows and which changes the system identifier all the same.
//
// Of the old Postgres there may be nothing but its server, and pg_upgrade wants two programs
// more to read the control file, which is of one format from 13 to 16: the new ones do. Only
// pg_resetwal insists on its own version, so it is shown the old data directory under that.
func older(t *testing.T, than devpg.Binaries) devpg.Binaries {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // it may have to be loaded
	defer cancel()
	const version = 14
	old, err := devpg.Find(ctx, &devpg.FindOptions{Version: version})
	if err != nil || than.Version <= version || than.Version > 16 {
		t.Logf("upgrades from %d to %[1]d: %v", than.Version, err)
		return than
	}
	dir := emptyNode(t, old).dir
	link := func(path, name string) {
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"initdb", "postgres", "pg_ctl"} {
		link(filepath.Join(old.Dir, name), name)
	}
	if _, err := os.Stat(filepath.Join(old.Dir, "pg_resetwal")); err == nil {
		link(filepath.Join(old.Dir, "pg_controldata"), "pg_controldata")
		link(filepath.Join(old.Dir, "pg_resetwal"), "pg_resetwal")
		return devpg.Binaries{Dir: dir, Version: version, Source: old.Source}
	}
	link(filepath.Join(than.Dir, "pg_controldata"), "pg_controldata")
	script := fmt.Sprintf(`#!/bin/sh -e
[ "$1" = -n ] || exec %[1]s/pg_resetwal "$@" # -n DATA: only reads
shown=$(mktemp -d)
trap 'rm -rf "$shown"' EXIT
chmod 700 "$shown"
cp -a "$2"/. "$shown"
echo %[2]d >"$shown/PG_VERSION"
%[1]s/pg_resetwal -n "$shown"
`, than.Dir, than.Version)
	if err := os.WriteFile(filepath.Join(dir, "pg_resetwal"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return devpg.Binaries{Dir: dir, Version: version, Source: old.Source}
}

// upgrade makes a started node from a stopped one.
func upgrade(t *testing.T, from *node, to devpg.Binaries) *node {
	t.Helper()
	n := newNode(t, to)
	n.stop()
	dir, err := os.MkdirTemp(n.dir, "upgrade-*") // it writes its logs to where it runs
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(to.Dir, "pg_upgrade"), "-U", "postgres", "-b", from.bin.Dir, "-B", to.Dir, "-d", from.data(), "-D", n.data(), "-s", dir,
		"-p", port(t), "-P", port(t))
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "LC_ALL=C", "HOME="+dir)
	info, err := os.Stat(n.data())
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t); os.Getuid() == 0 { // it refuses to be root
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	n.start()
	return n
}

func port(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(pgtest.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	return port
}
