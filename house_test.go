package pgcast_test

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pgcast/pgcast"

// The arrows between packages, as a table: what each may import of this module, and
// which foreign packages must not be reachable from it at all.
var arrows = []struct {
	pkg    string
	may    []string // packages of this module
	mayNot []string // foreign packages, by prefix
}{
	{"", nil, []string{"github.com/", "golang.org/", "net/http", "database/"}},
	{"migrations", nil, nil},
	{"db", nil, nil},
	{"listener", nil, []string{"net/http", "github.com/coder"}},
	{"replay", []string{"", "db", "listener"}, []string{"github.com/coder", "github.com/redis"}},
	{"fanout", []string{""}, []string{"github.com/jackc", "github.com/redis", "github.com/coder"}},
	{"presence", []string{""}, []string{"github.com/jackc", "github.com/redis", "github.com/coder"}},
	{"presence/cursor", []string{"", "presence"}, []string{"github.com/jackc", "github.com/redis", "github.com/coder"}},
	{"internal/perimeter", nil, []string{"github.com/"}},
	{"internal/redact", nil, []string{"github.com/"}},
	{"internal/breaker", nil, []string{"github.com/jackc", "github.com/redis", "github.com/coder"}},
	{"internal/wire", []string{""}, []string{"github.com/", "net/http"}},
	{"internal/filter", []string{"", "fanout"}, []string{"github.com/jackc", "github.com/redis", "github.com/coder"}},
	{"internal/auth", []string{""}, []string{"github.com/jackc", "github.com/redis", "github.com/coder"}},
	{"internal/gateway", []string{"", "fanout", "internal/wire", "internal/auth", "internal/filter", "presence", "presence/cursor", "presence/group", "presence/ratelimit"}, []string{"github.com/jackc", "github.com/redis"}},
	{"client", []string{"", "internal/wire"}, []string{"github.com/jackc", "github.com/redis"}},
	{"internal/server", []string{"", "db", "listener", "replay", "fanout", "internal/wire", "internal/auth", "internal/filter", "internal/gateway", "internal/perimeter", "internal/redact", "presence", "presence/cursor", "presence/group", "presence/ratelimit", "presence/shared", "internal/breaker", "client/js", "internal/static", "internal/console", "docs"}, nil},
	{"docs", nil, []string{"github.com/", "net/http"}},
	{"internal/console", []string{"", "internal/static", "docs"}, []string{"github.com/jackc", "github.com/redis", "github.com/coder", "github.com/prometheus"}},
	{"internal/nodetest", []string{"internal/devpg"}, []string{"github.com/coder"}},
	{"client/js", nil, []string{"github.com/", "net/http"}},
	{"internal/static", nil, []string{"github.com/"}},
	{"presence/group", []string{"", "presence"}, []string{"github.com/jackc", "github.com/redis", "github.com/coder"}},
	{"presence/ratelimit", []string{""}, []string{"github.com/jackc", "github.com/redis", "github.com/coder"}},
	{"presence/shared", []string{"", "presence", "presence/ratelimit", "internal/breaker"}, []string{"github.com/jackc", "github.com/coder"}},
	{"internal/doctor", []string{"", "db", "listener", "replay", "migrations", "internal/devpg", "internal/roles", "presence", "presence/ratelimit", "presence/shared", "internal/breaker"}, []string{"github.com/coder", "github.com/spf13"}},
	{"internal/roles", []string{"", "migrations"}, []string{"net/http", "github.com/coder", "github.com/spf13"}},
	{"internal/bench", []string{"", "db", "listener", "replay", "migrations", "internal/devpg", "internal/wire"}, []string{"github.com/coder", "github.com/redis"}},
}

// Arrows between packages go one way.
func TestArrows(t *testing.T) {
	for _, a := range arrows {
		path := strings.TrimSuffix(module+"/"+a.pkg, "/")
		may := map[string]bool{path: true}
		for _, m := range a.may {
			may[strings.TrimSuffix(module+"/"+m, "/")] = true
		}
		for _, dep := range list(t, "-deps", "-f", "{{.ImportPath}}", path) {
			if dep == module || strings.HasPrefix(dep, module+"/") {
				if !may[dep] {
					t.Errorf("%s imports %s", path, dep)
				}
				continue
			}
			for _, not := range a.mayNot {
				if strings.HasPrefix(dep, not) && !reachableThroughPrometheus(dep) {
					t.Errorf("%s reaches %s", path, dep)
				}
			}
		}
	}
}

// The metrics registry is injected everywhere, and its own imports come with it.
func reachableThroughPrometheus(dep string) bool {
	for _, p := range []string{"github.com/prometheus/", "github.com/beorn7/perks", "github.com/cespare/xxhash",
		"github.com/munnerz/goautoneg", "github.com/kylelemons/", "github.com/klauspost/"} {
		if strings.HasPrefix(dep, p) {
			return true
		}
	}
	return false
}

// Only cmd, and tests, read the environment.
func TestEnvironmentStaysInCmd(t *testing.T) {
	eachGoFile(t, func(path string, lines []string) {
		if strings.HasPrefix(path, "cmd/") || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "internal/pgtest/") || strings.HasPrefix(path, "internal/nodetest/") {
			return
		}
		for i, line := range lines {
			if strings.Contains(line, "os.Getenv(") || strings.Contains(line, "os.LookupEnv(") {
				t.Errorf("%s:%d reads the environment", path, i+1)
			}
		}
	})
}

// No file is longer than 400 lines, but for generated ones.
func TestFilesStaySmall(t *testing.T) {
	eachGoFile(t, func(path string, lines []string) {
		if len(lines) > 400 && !strings.HasPrefix(path, "db/") {
			t.Errorf("%s has %d lines", path, len(lines))
		}
	})
}

// Lock files name no host to load packages from: everybody has a registry of their own.
func TestLockFilesNameNoRegistry(t *testing.T) {
	files, err := filepath.Glob("*/*/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("*/*/*/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, more...) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte(`"resolved": "http`)) {
			t.Errorf("%s has URLs: npm install with omit-lockfile-registry-resolved in .npmrc", name)
		}
	}
	if len(files) == 0 {
		t.Error("found no lock file")
	}
}

func list(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	return strings.Fields(string(out))
}

func eachGoFile(t *testing.T, do func(path string, lines []string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		var lines []string
		for s := bufio.NewScanner(f); s.Scan(); {
			lines = append(lines, s.Text())
		}
		do(filepath.ToSlash(path), lines)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestGuarantees keeps the README's table true: each test it names is there, in the
// package it names.
func TestGuarantees(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| promise | shown by |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	word := regexp.MustCompile("`[a-z0-9/]+`|Test[A-Za-z0-9]+…?")
	for row := range strings.Lines(table) {
		cells := strings.Split(row, "|")
		if len(cells) != 4 || strings.HasPrefix(strings.TrimSpace(cells[1]), "---") {
			continue
		}
		dir, named := "", 0
		for _, w := range word.FindAllString(cells[2], -1) {
			if strings.HasPrefix(w, "`") {
				dir = strings.Trim(w, "`")
				continue
			}
			named++
			name, more := strings.CutSuffix(w, "…")
			if !more {
				name += "("
			}
			if !testIsIn(t, dir, name) {
				t.Errorf("the README promises%s\nand %s has no %s", cells[1], dir, w)
			}
		}
		if named == 0 {
			t.Errorf("no test shows that%s", cells[1])
		}
	}
}

func testIsIn(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in %s: %v", dir, err)
	}
	return slices.ContainsFunc(files, func(path string) bool {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(text, []byte("\nfunc "+name))
	})
}
