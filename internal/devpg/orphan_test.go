//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package devpg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childEnv turns this test binary into a process that runs a cluster until it is killed.
// Its value is the home, or "temporary".
const childEnv = "PGCAST_DEVPG_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

func child(dir string) {
	if dir == "temporary" {
		dir = ""
	}
	c, err := Start(context.Background(), &Options{Dir: dir, Find: &FindOptions{BinDir: os.Getenv("PGCAST_PG_BIN")}})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("runs", c.Dir())
	select {}
}

// startChild gives the process, and the home of the cluster it runs.
func startChild(t *testing.T, dir string) (*exec.Cmd, string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	home, ok := strings.CutPrefix(strings.TrimSpace(line), "runs ")
	if err != nil || !ok {
		t.Fatalf("the child said %q, %v", line, err)
	}
	return cmd, home
}

func freeze(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

func TestFrozenClusterStops(t *testing.T) {
	c := start(t, Options{})
	freeze(t, c.PID())
	began := time.Now()
	stop(t, c)
	if took := time.Since(began); took > patience/2 {
		t.Errorf("it took %s", took)
	}
}

func TestKilledParentLeavesNoServer(t *testing.T) {
	findOptions(t)
	dir := lastingDir(t)
	cmd, _ := startChild(t, dir)
	data := filepath.Join(dir, "data")
	pid := leftover(data)
	if pid == 0 {
		t.Fatal("the child runs no server")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	// At once: the server may still be shutting down, and the new one has to wait for it.
	c := start(t, Options{Dir: dir})
	if c.PID() == pid {
		t.Errorf("process %d is still the server", pid)
	}
	stop(t, c)
	eventually(t, "the orphan ends", func() bool { args, _ := commandLine(pid); return !strings.Contains(args, data) })
}

func TestKilledParentsTemporaryHomeIsSwept(t *testing.T) {
	findOptions(t)
	cmd, home := startChild(t, "temporary")
	start(t, Options{}) // sweeps
	if _, err := os.Stat(filepath.Join(home, "data", "PG_VERSION")); err != nil {
		t.Fatalf("a living process's home was swept: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the orphan ends", func() bool { return leftover(filepath.Join(home, "data")) == 0 })
	start(t, Options{})
	if _, err := os.Stat(home); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dead process's home is still there: %v", err)
	}
}

// survivor is a server on dir that no process of ours owns, as on a machine whose kernel
// does not end it with its parent.
func survivor(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	c := prepared(t, dir)
	cmd := c.command()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, "the server answers", func() bool { return c.ask(t.Context()) == nil })
	stop(t, c) // gives the lock back; the server is not the cluster's
	return cmd
}

func TestServerOfAnEarlierRunIsReplaced(t *testing.T) {
	dir := lastingDir(t)
	c := start(t, Options{Dir: dir})
	run(t, c, "create table kept (x text); insert into kept values ('yes')")
	stop(t, c)
	for _, frozen := range []bool{false, true} {
		old := survivor(t, dir)
		if frozen {
			freeze(t, old.Process.Pid)
		}
		c := start(t, Options{Dir: dir})
		if got := query[string](t, c, "select x from kept"); got != "yes" {
			t.Errorf("found %q", got)
		}
		_ = old.Wait()
		stop(t, c)
	}
}

func TestStalePidFile(t *testing.T) {
	dir := lastingDir(t)
	stop(t, start(t, Options{Dir: dir}))
	// As after a reboot: the number is somebody else's now, even our own user's.
	data := filepath.Join(dir, "data")
	text := fmt.Sprintf("%d\n%s\n", os.Getpid(), data)
	if err := os.WriteFile(filepath.Join(data, "postmaster.pid"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, Options{Dir: dir})
}

func TestGuard(t *testing.T) {
	as, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	sleeper := func() *exec.Cmd {
		cmd := exec.Command("sleep", "600")
		cmd.SysProcAttr = procAttr(as)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return cmd
	}
	t.Run("shoots", func(t *testing.T) {
		server := sleeper()
		g, err := startGuard(server.Process.Pid, as)
		if err != nil {
			t.Fatal(err)
		}
		_ = g.pipe.Close() // what the kernel does when we are killed
		_ = g.cmd.Wait()
		err = server.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGINT {
			t.Errorf("the server ended with %v", err)
		}
	})
	t.Run("is dismissed", func(t *testing.T) {
		server := sleeper()
		g, err := startGuard(server.Process.Pid, as)
		if err != nil {
			t.Fatal(err)
		}
		g.dismiss()
		if err := server.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("the server has gone: %v", err)
		}
		_ = server.Process.Kill()
		_ = server.Wait()
	})
}

func TestUsersDirectoryOnly(t *testing.T) {
	as := account{uid: os.Geteuid(), gid: os.Getegid()}
	dir := t.TempDir()
	mine := filepath.Join(dir, "mine")
	for range 2 {
		if err := as.privateDir(mine); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(mine, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := as.privateDir(mine); err == nil {
		t.Error("took a directory that everybody can write to")
	}
	if err := os.Symlink("/", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := as.privateDir(filepath.Join(dir, "link")); err == nil {
		t.Error("followed a symbolic link")
	}
}

func TestRootsClosedDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root runs servers as somebody else")
	}
	closed := filepath.Join(lastingDir(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), &Options{Dir: filepath.Join(closed, "pg"), Find: findOptions(t)})
	if err == nil || !strings.Contains(err.Error(), "cannot enter "+closed) {
		t.Errorf("got %v", err)
	}
}
