package doctor

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// startBouncer runs PgBouncer in transaction mode, with prepared statements not kept
// apart, in front of a database, and gives the URL.
func startBouncer(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	base, err := devpg.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(base, "bouncer-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	u, _ := url.Parse(db.URL)
	addr := nobody(t)
	_, port, _ := net.SplitHostPort(addr)
	config := fmt.Sprintf(`[databases]
%s = host=127.0.0.1 port=%s user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 1
ignore_startup_parameters = extra_float_digits
`, db.Name, u.Port(), port)
	var minor int
	if out, err := exec.Command("pgbouncer", "--version").Output(); err != nil {
		t.Fatal(err)
	} else if _, err := fmt.Sscanf(string(out), "PgBouncer 1.%d", &minor); err != nil {
		t.Fatalf("read its version from %q: %v", out, err)
	}
	if minor >= 21 { // from there on it can keep them apart
		config += "max_prepared_statements = 0\n"
	}
	path := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{path}
	if os.Getuid() == 0 { // it refuses to run as root
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		args = append([]string{"-u", "nobody"}, args...)
	}
	cmd := exec.Command("pgbouncer", args...)
	out := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("pgbouncer said:\n%s", out)
		}
	})
	until(t, "pgbouncer answers", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
	return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", addr, db.Name)
}

// lockedBuffer keeps what a process printed.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
