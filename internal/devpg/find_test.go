package devpg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a made-up one: directories with programs in them, and answers of commands.
type machine struct {
	*finder
	t    *testing.T
	root string
	said []string
	ran  []string
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, root: t.TempDir()}
	m.finder = &finder{
		opts:     FindOptions{CacheDir: filepath.Join(m.root, "cache"), Say: func(s string) { m.said = append(m.said, s) }},
		platform: "linux-amd64",
		packages: npmPackages,
		conf:     filepath.Join(m.root, "etc", "postgresql-common", "createcluster.d"),
		lookPath: func(name string) (string, error) {
			path := filepath.Join(m.root, "bin", name)
			if _, err := os.Stat(path); err != nil {
				return "", exec.ErrNotFound
			}
			return path, nil
		},
		glob: func(pattern string) ([]string, error) {
			paths, err := filepath.Glob(m.root + pattern)
			return paths, err
		},
	}
	m.run = func(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
		m.ran = append(m.ran, strings.Join(append([]string{filepath.Base(name)}, args...), " "))
		return runCommand(ctx, dir, env, name, args...)
	}
	return m
}

// program puts an executable shell script on the machine.
func (m *machine) program(path, script string) {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) postgres(dir, version string) {
	m.t.Helper()
	m.program(dir+"/initdb", "exit 0")
	m.program(dir+"/postgres", fmt.Sprintf("echo 'postgres (PostgreSQL) %s'", version))
}

func (m *machine) wants(version int, dir, source string) {
	m.t.Helper()
	b, err := m.find(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	if want := (Binaries{Dir: filepath.Join(m.root, dir), Version: version, Source: source}); b != want {
		m.t.Errorf("found %+v, want %+v", b, want)
	}
}

func TestFindTakesWhatItIsTold(t *testing.T) {
	m := newMachine(t)
	m.postgres("bin", "17.2")
	m.postgres("mine", "16.1 (Debian 16.1-1.pgdg120+1)")
	m.opts.BinDir = filepath.Join(m.root, "mine")
	m.wants(16, "mine", "as told")

	m.opts.BinDir = filepath.Join(m.root, "nowhere")
	if _, err := m.find(t.Context()); err == nil || !strings.Contains(err.Error(), "no program initdb") {
		t.Errorf("a wrong directory must be an error and not be passed over: %v", err)
	}
}

func TestFindLooksInOrder(t *testing.T) {
	m := newMachine(t)
	m.postgres("/usr/pgsql-16/bin", "16.0")
	m.wants(16, "/usr/pgsql-16/bin", "installed")
	m.postgres("/usr/lib/postgresql/9.6/bin", "9.6.24")
	m.postgres("/usr/lib/postgresql/13/bin", "13.4")
	m.wants(16, "/usr/pgsql-16/bin", "installed")
	m.postgres("/usr/lib/postgresql/14/bin", "14.9")
	m.postgres("/usr/lib/postgresql/18/bin", "18beta1")
	m.wants(18, "/usr/lib/postgresql/18/bin", "installed")
	m.postgres("configured", "15.3")
	m.program("bin/pg_config", `test "$1" = --bindir && echo `+filepath.Join(m.root, "configured"))
	m.wants(15, "configured", "pg_config")
	m.postgres("bin", "17.5")
	m.wants(17, "bin", "PATH")
}

func TestFindWantsOneVersion(t *testing.T) {
	m := newMachine(t)
	m.postgres("bin", "17.5")
	m.postgres("/usr/lib/postgresql/15/bin", "15.5")
	m.opts.Version = 15
	m.wants(15, "/usr/lib/postgresql/15/bin", "installed")
}

func TestFindPassesOverClientsOnly(t *testing.T) {
	m := newMachine(t)
	m.program("client/psql", "exit 0")
	m.program("bin/pg_config", "echo "+filepath.Join(m.root, "client"))
	m.postgres("/opt/homebrew/opt/postgresql@16/bin", "16.4 (Homebrew)")
	m.wants(16, "/opt/homebrew/opt/postgresql@16/bin", "installed")
}

func TestFindSaysWhatToDo(t *testing.T) {
	m := newMachine(t)
	m.postgres("/usr/lib/postgresql/13/bin", "13.4")
	_, err := m.find(t.Context())
	if !errors.Is(err, ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		"PATH: no initdb", "pg_config: not installed", "it is Postgres 13, and pgcast needs 14 or newer",
		"npm: not installed", "apt-get: not here", "export PGCAST_PG_BIN=", "apt-get install postgresql", "brew install",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

func TestFindLocalTouchesNothing(t *testing.T) {
	m := newMachine(t)
	m.as.drop = true
	m.program("bin/npm", "exit 1")
	m.program("bin/apt-get", "exit 1")
	m.opts.Local = true
	if _, err := m.find(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	if len(m.ran) != 0 {
		t.Errorf("ran %q", m.ran)
	}
}

func TestFindEndsWithItsContext(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.find(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestAptInstallsWithoutACluster(t *testing.T) {
	m := newMachine(t)
	m.as = account{uid: os.Geteuid(), gid: os.Getegid(), drop: true}
	m.opts.Version = 15
	// The package's own script would read the file at this moment.
	m.program("bin/apt-get", `
test "$1" = install || exit 100
cat `+m.conf+`/*.conf > `+m.root+`/conf-seen
echo "$DEBIAN_FRONTEND" > `+m.root+`/frontend-seen`)
	// Stands for the installation: lookPath and glob see it only after apt has run.
	glob := m.glob
	m.glob = func(pattern string) ([]string, error) {
		if _, err := os.Stat(filepath.Join(m.root, "conf-seen")); err == nil {
			m.postgres("/usr/lib/postgresql/15/bin", "15.12")
		}
		return glob(pattern)
	}
	m.wants(15, "/usr/lib/postgresql/15/bin", "installed")

	if text, _ := os.ReadFile(filepath.Join(m.root, "conf-seen")); string(text) != "create_main_cluster = false\n" {
		t.Errorf("while it installed, the package's settings were %q", text)
	}
	if text, _ := os.ReadFile(filepath.Join(m.root, "frontend-seen")); string(text) != "noninteractive\n" {
		t.Errorf("it could have asked questions: %q", text)
	}
	if _, err := os.Stat(filepath.Join(m.root, "etc")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the setting is still there after the installation: %v", err)
	}
	want := "apt-get install -q -y --no-install-recommends postgresql-15"
	if len(m.said) != 2 || !strings.HasSuffix(m.said[1], want) {
		t.Errorf("said %q, want %q", m.said, want)
	}
}

func TestAptFailureIsTold(t *testing.T) {
	m := newMachine(t)
	m.as = account{uid: os.Geteuid(), gid: os.Getegid(), drop: true}
	m.program("bin/apt-get", "echo 'E: no network' >&2; exit 100")
	_, err := m.find(t.Context())
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "E: no network") {
		t.Errorf("got %v", err)
	}
}

func TestWithoutClusterLeavesOthersSettings(t *testing.T) {
	m := newMachine(t)
	other := filepath.Join(m.conf, "site.conf")
	if err := os.MkdirAll(m.conf, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, []byte("ssl = off\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	undo, err := m.withoutCluster()
	if err != nil {
		t.Fatal(err)
	}
	undo()
	left, err := os.ReadDir(m.conf)
	if err != nil || len(left) != 1 || left[0].Name() != "site.conf" {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestCompareNumbers(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"/usr/lib/postgresql/9.6/bin", "/usr/lib/postgresql/14/bin", -1},
		{"/usr/pgsql-18/bin", "/usr/pgsql-9.6/bin", 1},
		{"/Applications/Postgres.app/Contents/Versions/latest/bin", "/Applications/Postgres.app/Contents/Versions/17/bin", -1},
		{"/usr/libexec/postgresql16", "/usr/libexec/postgresql16", 0},
	} {
		if got := compareNumbers(c.a, c.b); got != c.want {
			t.Errorf("%s and %s: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
