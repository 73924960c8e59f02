package devpg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// account is who the server runs as.
type account struct {
	uid, gid int
	name     string
	drop     bool // we are root and have to become this user
}

// serverAccount gives our own user, or for root the user to become. initdb insists that
// the uid has an entry in the user database, so an arbitrary number will not do.
func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	names := []string{"postgres", "_postgres", "nobody"} // _postgres is what macOS calls it
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			continue
		}
		return account{uid: int(uid), gid: int(gid), name: name, drop: true}, nil
	}
	return account{}, fmt.Errorf("find a user to run Postgres as: it refuses to run as root, and none of the users %s exists; create one or run as an ordinary user", strings.Join(names, ", "))
}

// give makes path the account's own.
func (a account) give(path string) error {
	if !a.drop {
		return nil
	}
	return os.Lchown(path, a.uid, a.gid)
}

// reaches tells whether the account may pass through every directory from the root down
// to dir. Root's own files often lie where nobody else can look.
func (a account) reaches(dir string) error {
	if !a.drop {
		return nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist): // will be made, by us, with open doors
		case err != nil:
			return err
		case !a.passes(info):
			return fmt.Errorf("user %s, whom Postgres has to run as because root must not, cannot enter %s", a.name, at)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

func (a account) passes(dir fs.FileInfo) bool {
	uid, gid := owner(dir)
	need := fs.FileMode(0o001)
	switch {
	case uid == a.uid:
		need = 0o100
	case gid == a.gid:
		need = 0o010
	}
	return dir.Mode()&need != 0
}

// privateDir makes a directory that only we can write to, and that the account can enter.
// Its name is predictable and its parent may be open to everyone, so one that somebody
// else has put there is refused.
func (a account) privateDir(path string) error {
	mode := fs.FileMode(0o700)
	if a.drop {
		mode = 0o755
	}
	switch err := os.Mkdir(path, mode); {
	case err == nil:
		if err := os.Chmod(path, mode); err != nil { // whatever the umask
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if uid, _ := owner(info); !info.IsDir() || uid != os.Geteuid() || info.Mode()&0o022 != 0 {
		return fmt.Errorf("use %s: it must be a directory that we own and that nobody else may write to; remove it", path)
	}
	return nil
}

// tempBase is where homes of throw-away clusters go: short, and reachable for the account.
func (a account) tempBase() (string, error) {
	var last error
	for _, dir := range []string{os.TempDir(), "/var/tmp", "/tmp"} {
		if last = a.reaches(dir); last != nil {
			continue
		}
		base := filepath.Join(dir, fmt.Sprintf("pgcast-%d", os.Geteuid()))
		if len(base)+len("/pg-1234567890/run") > maxSocketDir {
			last = fmt.Errorf("%s is too long a path for a socket", base)
			continue
		}
		if last = a.privateDir(base); last == nil {
			return base, nil
		}
	}
	return "", fmt.Errorf("find a directory for temporary clusters: %w", last)
}

// cacheDir is where things go that are slow to get and safe to lose. Root's own cache
// directory lies in root's home, where the account cannot read.
func (a account) cacheDir(given string) (string, error) {
	if given != "" {
		dir, err := filepath.Abs(given)
		if err != nil {
			return "", err
		}
		if err := a.makeDir(dir); err != nil {
			return "", fmt.Errorf("make cache directory: %w", err)
		}
		return dir, a.reaches(dir)
	}
	dir := "/var/cache/pgcast"
	if !a.drop {
		own, err := os.UserCacheDir()
		if err != nil {
			return a.tempBase() // no home directory: a container's user
		}
		dir = filepath.Join(own, "pgcast")
	}
	if err := a.makeDir(dir); err != nil {
		return a.tempBase() // a read-only home is no reason to give up
	}
	return dir, nil
}

// makeDir makes a directory and those on the way to it, for us, and for the account to
// pass through.
func (a account) makeDir(dir string) error {
	made := firstMissing(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for at := dir; made != "" && len(at) >= len(made); at = filepath.Dir(at) {
		if err := a.open(at); err != nil {
			return err
		}
	}
	return nil
}

// firstMissing gives the topmost directory on the way to dir that does not exist yet.
func firstMissing(dir string) string {
	missing := ""
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			return missing
		}
		missing = dir
	}
}

// open lets the account into a directory of ours, whatever the umask was.
func (a account) open(dir string) error {
	if !a.drop {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	mode := info.Mode().Perm()
	return os.Chmod(dir, mode|mode&0o500>>3|mode&0o500>>6)
}

// StateDir is a good place for clusters that are to last: homes under it survive a
// reboot and a cleared cache, and Postgres can reach them also when we are root.
func StateDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/pgcast", nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a directory for lasting data: %w", err)
	}
	return filepath.Join(home, ".local", "state", "pgcast"), nil
}

// TempDir is the directory of temporary clusters. It belongs to us alone, and short-lived
// things beside the clusters may go there too, under names that do not begin with "pg-".
func TempDir() (string, error) {
	as, err := serverAccount()
	if err != nil {
		return "", err
	}
	return as.tempBase()
}
