// Package e2e tests whole pgcast servers as processes: killed, frozen, cut off from
// Postgres, and restarted, while writers write and clients resume. The judge is the
// table: what a client was given must be what stands in the log, once and in order.
package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgcast-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "pgcast")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "../../cmd/pgcast").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build pgcast: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// server is one pgcast process. Its address stays the same over restarts.
type server struct {
	t      *testing.T
	url    string // of the database
	listen string
	admin  string
	log    string
	cmd    *exec.Cmd
}

func startServer(t *testing.T, databaseURL string) *server {
	t.Helper()
	s := &server{t: t, url: databaseURL, listen: pgtest.FreeAddress(t), admin: pgtest.FreeAddress(t), log: filepath.Join(t.TempDir(), "log")}
	s.start()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			b, _ := os.ReadFile(s.log)
			t.Logf("log of the server at %s:\n%s", s.listen, b[max(0, len(b)-4000):])
		}
	})
	return s
}

func (s *server) start() {
	s.t.Helper()
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(binary, "serve", "--database-url", s.url, "--listen", s.listen, "--admin-listen", s.admin)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.Dir = filepath.Dir(s.log)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// kill ends the process as a crash would.
func (s *server) kill() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) ready() bool {
	c := http.Client{Timeout: time.Second}
	r, err := c.Get("http://" + s.listen + "/readyz")
	if err != nil {
		return false
	}
	_ = r.Body.Close()
	return r.StatusCode == http.StatusOK
}

// leads tells whether the server says that it sequences.
func (s *server) leads() bool {
	c := http.Client{Timeout: time.Second}
	r, err := c.Get("http://" + s.admin + "/metrics")
	if err != nil {
		return false
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return err == nil && strings.Contains(string(text), "\npgcast_sequencer_leading 1\n")
}

func (s *server) waitReady() {
	s.t.Helper()
	await(s.t, "server ready", 30*time.Second, s.ready)
}

// await polls until cond holds, and fails the test when it does not in time.
func await(t *testing.T, what string, limit time.Duration, cond func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Since(began) > limit {
			t.Fatalf("%s: not within %v", what, limit)
		}
		<-tick.C
	}
	return time.Since(began)
}

// newDatabase gives a migrated database with an attached table.
func newDatabase(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t, nil)
	db.Exec(t, schema)
	return db
}

// newCluster is newDatabase on a cluster of its own that survives crashes.
func newCluster(t *testing.T) (*devpg.Cluster, string) {
	t.Helper()
	c := pgtest.Private(t, nil)
	url := c.URL("postgres")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := migrations.Up(ctx, url); err != nil {
		t.Fatal(err)
	}
	exec1(t, url, schema)
	return c, url
}

const rooms = 5

const schema = `
create table item (id bigint generated always as identity primary key, room int not null, n int not null, note text);
select pgcast.attach('item', topic => 'room:{room}');`
