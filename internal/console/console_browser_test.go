package console_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgcast/pgcast/internal/nodetest"
)

// TestConsole uses the page as people do: in Chromium, against a real server.
func TestConsole(t *testing.T) {
	t.Parallel()
	nodetest.Prepare(t, "../../client/js") // whose harness the tests stand on
	nodetest.Run(t, "web", "test")
}

// TestTypes checks the types of the page and of its tests.
func TestTypes(t *testing.T) {
	t.Parallel()
	nodetest.Prepare(t, "../../client/js")
	nodetest.Script(t, "web", "types")
}

// TestBuilt builds the page, and compares it with what is committed.
func TestBuilt(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dist")
	nodetest.Script(t, "web", "build", "--", dir)
	built, committed := files(t, dir), files(t, "dist")
	for name, text := range built {
		if !bytes.Equal(text, committed[name]) {
			t.Errorf("dist/%s is not what its sources give: run npm run build in internal/console/web and commit it", name)
		}
	}
	for name := range committed {
		if built[name] == nil {
			t.Errorf("dist/%s is no more: run npm run build in internal/console/web and commit it", name)
		}
	}
}

func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = text
	}
	return all
}
