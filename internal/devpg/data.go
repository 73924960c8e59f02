package devpg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// initdbFlags make a data directory that is the same on every machine. --no-sync: what a
// crash of the machine could spoil has not been used yet.
var initdbFlags = []string{"--no-sync", "--no-locale", "-E", "UTF8", "-U", "postgres", "-A", "trust"}

// initialize runs initdb for the data directory data. It appears whole or not at all.
func initialize(ctx context.Context, bin Binaries, as account, data string) error {
	half := data + ".new"
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	// Made here because as root the account may not make anything in the home.
	if err := os.Mkdir(half, 0o700); err != nil {
		return err
	}
	if err := as.give(half); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin.Dir, "initdb"), append(initdbFlags[:len(initdbFlags):len(initdbFlags)], "-D", half)...)
	cmd.SysProcAttr, cmd.Dir, cmd.Env = procAttr(as), half, serverEnv(half)
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.RemoveAll(half)
		return fmt.Errorf("initdb of Postgres %d (%s): %w\n%s", bin.Version, bin.Dir, err, lastLines(string(out), 10))
	}
	return os.Rename(half, data)
}

// copyTemplate makes the data directory by copying one that initdb made earlier.
func copyTemplate(ctx context.Context, bin Binaries, as account, cache, data string) error {
	template, err := cachedTemplate(ctx, bin, as, cache)
	if err != nil {
		return err
	}
	half := data + ".new"
	if err := errors.Join(os.RemoveAll(half), copyTree(ctx, as, template, half)); err != nil {
		_ = os.RemoveAll(half)
		return fmt.Errorf("copy a fresh data directory: %w", err)
	}
	return os.Rename(half, data)
}

// cachedTemplate gives a data directory that is never started, only copied.
func cachedTemplate(ctx context.Context, bin Binaries, as account, cache string) (string, error) {
	info, err := os.Stat(filepath.Join(bin.Dir, "initdb"))
	if err != nil {
		return "", err
	}
	// Size and time tell one minor version from the next in the same directory.
	key := sha256.Sum256([]byte(strings.Join([]string{
		bin.Dir, strconv.Itoa(bin.Version), strconv.FormatInt(info.Size(), 10), info.ModTime().UTC().String(),
		strconv.Itoa(as.uid), strings.Join(initdbFlags, " "),
	}, "\n")))
	dir := filepath.Join(cache, "initdb-"+strconv.Itoa(bin.Version)+"-"+hex.EncodeToString(key[:6]))
	template := filepath.Join(dir, "data")
	if _, err := os.Stat(template); err == nil {
		return template, nil
	}
	lock, err := WaitLock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer lock.Unlock()
	if _, err := os.Stat(template); err == nil {
		return template, nil // made by somebody else meanwhile
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := as.open(dir); err != nil {
		return "", err
	}
	if err := initialize(ctx, bin, as, template); err != nil {
		return "", err
	}
	return template, nil
}

// copyTree copies a data directory, for the account. The kernel shares the blocks where
// the file system can.
func copyTree(ctx context.Context, as account, from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		rest, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rest)
		switch {
		case e.IsDir():
			err = os.Mkdir(target, 0o700)
		case e.Type().IsRegular():
			err = copyFile(path, target)
		default:
			return fmt.Errorf("%s is neither a file nor a directory", path)
		}
		if err != nil {
			return err
		}
		return as.give(target)
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// dataVersion gives the major version that made a data directory, or 0 when there is none.
func dataVersion(data string) (int, error) {
	text, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(data); err == nil {
			return 0, fmt.Errorf("use %s: it exists and is not a data directory; remove it", data)
		}
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the data directory's version: %w", err)
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read the version of %s: %w", data, err)
	}
	return version, nil
}

// serverEnv is our environment without what would change how Postgres behaves: the same
// cluster must come out whoever starts it.
func serverEnv(home string) []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") || name == "LANG" || name == "LANGUAGE" || name == "HOME" {
			continue
		}
		env = append(env, v)
	}
	// macOS's Postgres refuses to start where LC_ALL is not set.
	return append(env, "LC_ALL=C", "HOME="+home)
}
