package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgcast/pgcast/internal/devpg"
)

// clusterHome is where the cluster of a data directory lives: in it, unless we are root
// and Postgres, which then runs as another user, could not get there.
func clusterHome(dir string) (string, error) {
	if os.Geteuid() != 0 || openToAll(dir) {
		return filepath.Join(dir, "pg"), nil
	}
	state, err := devpg.StateDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join(state, "dev-"+hex.EncodeToString(sum[:6])), nil
}

// openToAll tells whether every user may pass through a directory and those above it.
func openToAll(dir string) bool {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
		dir = filepath.Dir(dir)
	}
}

// browsable gives an address that a browser on this machine can open.
func browsable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip, ipErr := netip.ParseAddr(host); err == nil && ipErr == nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}

// byGoRun tells whether this program was built by go run, and where that was.
func byGoRun() bool {
	exe, err := os.Executable()
	return err == nil && strings.Contains(exe, string(filepath.Separator)+"go-build")
}

// commandName is what to type to run this program again.
func commandName() string {
	if byGoRun() {
		return "go run ./cmd/pgcast"
	}
	if strings.ContainsRune(os.Args[0], filepath.Separator) {
		return os.Args[0]
	}
	return "pgcast"
}

// endWithGoRun ends a run under go run when that is gone: killed with SIGKILL it cannot
// take us along.
func endWithGoRun(ctx context.Context, end func()) {
	if !byGoRun() {
		return
	}
	parent := os.Getppid()
	look := time.NewTicker(500 * time.Millisecond)
	defer look.Stop()
	for os.Getppid() == parent {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
	end()
}
