package js

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgcast/pgcast/internal/nodetest"
)

// The client against real servers: cuts at every step of the protocol, gaps, resets, tokens,
// SSE, and what npm would publish. client/js/test has them.
func TestClient(t *testing.T) {
	t.Parallel()
	nodetest.Run(t, ".", "test")
}

// The whole package is typed, its tests too.
func TestTypes(t *testing.T) {
	t.Parallel()
	nodetest.Script(t, ".", "types")
}

// What a page has to load stays small.
func TestSize(t *testing.T) {
	t.Parallel()
	nodetest.Script(t, ".", "size")
}

// The committed dist, which servers hand out, is what the source gives.
func TestBuilt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nodetest.Script(t, ".", "build", "--", "--out-dir", dir)
	if t.Failed() {
		return
	}
	built, committed := files(t, dir), files(t, "dist")
	for name, text := range committed {
		if again, ok := built[name]; !ok {
			t.Errorf("dist/%s is not built any more: npm run build", name)
		} else if !bytes.Equal(again, text) {
			t.Errorf("dist/%s is not what the source gives: npm run build", name)
		}
	}
	for name := range built {
		if _, ok := committed[name]; !ok {
			t.Errorf("dist/%s is missing: npm run build", name)
		}
	}
}

func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		all[filepath.ToSlash(name)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
