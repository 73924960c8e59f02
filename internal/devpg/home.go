package devpg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrInUse is what Start's error is when another process runs the cluster.
var ErrInUse = errors.New("cluster in use")

// maxSocketDir keeps a socket's path within the 104 bytes of macOS and the BSDs (Linux has 108).
const maxSocketDir = 103 - len("/.s.PGSQL.65535")

// home is a cluster's directory, locked.
type home struct {
	dir       string
	lock      *Lock
	temporary bool   // goes when the cluster stops
	run       string // where the socket is; inside dir unless that is too long a path
}

func (h *home) data() string { return filepath.Join(h.dir, "data") }
func (h *home) log() string  { return filepath.Join(h.dir, "server.log") }

// openHome takes the directory a cluster is to last in.
func openHome(as account, dir string) (*home, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err == nil {
		return nil, fmt.Errorf("use %s: it is itself a data directory of Postgres, and not one that pgcast made; choose another", dir)
	}
	if err := as.makeDir(dir); err != nil {
		return nil, fmt.Errorf("make the cluster's directory: %w", err)
	}
	if err := as.reaches(dir); err != nil {
		return nil, fmt.Errorf("use %s: %w; choose a directory elsewhere", dir, err)
	}
	lock, err := TryLock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("use %s: %w", dir, err)
	}
	if lock == nil {
		return nil, fmt.Errorf("%w: process %s runs the Postgres in %s; stop it, or choose another directory", ErrInUse, lockHolder(filepath.Join(dir, "lock")), dir)
	}
	return &home{dir: dir, lock: lock}, nil
}

// tempHome makes a home for a cluster that nobody will miss, and first clears away those
// whose processes were killed before they could do it themselves.
func tempHome(ctx context.Context, as account) (*home, error) {
	base, err := as.tempBase()
	if err != nil {
		return nil, err
	}
	// Under this lock a home without a locked lock file has no owner.
	all, err := WaitLock(ctx, filepath.Join(base, "lock"))
	if err != nil {
		return nil, err
	}
	defer all.Unlock()
	left, err := filepath.Glob(filepath.Join(base, "pg-*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range left {
		sweep(dir)
	}
	dir, err := os.MkdirTemp(base, "pg-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary cluster's directory: %w", err)
	}
	if err := as.open(dir); err != nil {
		return nil, err
	}
	lock, err := TryLock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	return &home{dir: dir, lock: lock, temporary: true}, nil
}

// sweep removes a temporary home, unless its process or its server still lives.
func sweep(dir string) {
	lock, err := TryLock(filepath.Join(dir, "lock"))
	if err != nil || lock == nil {
		return
	}
	defer lock.Unlock()
	if leftover(filepath.Join(dir, "data")) == 0 {
		_ = os.RemoveAll(dir) // the next one tries again
	}
}

// makeRun makes the directory for the socket: only we and the server may enter, because
// the server trusts whoever connects.
func (h *home) makeRun(as account) error {
	h.run = filepath.Join(h.dir, "run")
	if len(h.run) > maxSocketDir {
		base, err := as.tempBase()
		if err != nil {
			return err
		}
		// The same name every time, so that killed runs leave one behind and not many.
		sum := sha256.Sum256([]byte(h.dir))
		h.run = filepath.Join(base, "run-"+hex.EncodeToString(sum[:6]))
	}
	if err := os.Mkdir(h.run, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the socket's directory: %w", err)
	}
	return as.give(h.run)
}

// close gives the home back; a temporary one is removed.
func (h *home) close() error {
	var err error
	if h.run != "" && filepath.Dir(h.run) != h.dir {
		err = os.RemoveAll(h.run)
	}
	if h.temporary {
		err = errors.Join(err, os.RemoveAll(h.dir))
	}
	h.lock.Unlock()
	return err
}

// leftover gives the process id of a live server on this data directory, or 0.
func leftover(data string) int {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 0 || !alive(pid) {
		return 0
	}
	// After a crash or a reboot the number may be anybody's by now.
	if args, err := commandLine(pid); err == nil && strings.Contains(args, "-D "+data+" ") {
		return pid
	}
	return 0
}

// endLeftover stops a server whose pgcast has gone. It is started again rather than taken
// over: only a server that we started ends with us.
func endLeftover(ctx context.Context, data string) error {
	pid := leftover(data)
	if pid == 0 {
		return nil
	}
	server, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		_ = server.Signal(sig) // if it cannot be, it will not end
		thaw(server)
		for end := time.Now().Add(patience); time.Now().Before(end); {
			if leftover(data) != pid {
				return nil
			}
			if err := wait(ctx, 5*time.Millisecond); err != nil {
				return fmt.Errorf("stop the Postgres (process %d) that an earlier run left on %s: %w", pid, data, err)
			}
		}
	}
	return fmt.Errorf("stop the Postgres (process %d) that an earlier run left on %s: it does not end", pid, data)
}
