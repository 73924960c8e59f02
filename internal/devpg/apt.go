package devpg

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// fromApt installs Debian's package, as root only, and only after saying so.
func (f *finder) fromApt(ctx context.Context) (Binaries, bool) {
	apt, err := f.lookPath("apt-get")
	if err != nil {
		f.note("apt-get: not here")
		return Binaries{}, false
	}
	if !f.as.drop {
		f.note("apt-get: not root")
		return Binaries{}, false
	}
	pkg := "postgresql"
	if f.opts.Version != 0 {
		pkg += "-" + strconv.Itoa(f.opts.Version)
	}
	if err := f.install(ctx, apt, pkg); err != nil {
		f.note("apt-get: %v", err)
		return Binaries{}, false
	}
	return f.fromUsualPlaces(ctx)
}

func (f *finder) install(ctx context.Context, apt, pkg string) error {
	undo, err := f.withoutCluster()
	if err != nil {
		return err
	}
	defer undo()
	env := append(append([]string{}, f.env...), "DEBIAN_FRONTEND=noninteractive")
	for _, args := range [][]string{
		{"update", "-q"},
		{"install", "-q", "-y", "--no-install-recommends", pkg},
	} {
		f.opts.Say("no Postgres on this machine, so getting one: apt-get " + strings.Join(args, " "))
		// The list of one source out of many may be unreachable: whether what is there
		// is enough shows at the next step.
		if _, err := f.run(ctx, "", env, apt, args...); err != nil && args[0] != "update" {
			return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
	}
	return nil
}

// withoutCluster keeps Debian's package from making and starting a cluster of its own on
// port 5432, this once: somebody who installs Postgres later wants one.
func (f *finder) withoutCluster() (undo func(), err error) {
	file := filepath.Join(f.conf, "pgcast.conf")
	made := firstMissing(f.conf)
	if err := os.MkdirAll(f.conf, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, []byte("create_main_cluster = false\n"), 0o644); err != nil {
		return nil, err
	}
	return func() {
		_ = os.Remove(file)
		for dir := f.conf; made != "" && len(dir) >= len(made); dir = filepath.Dir(dir) {
			if os.Remove(dir) != nil { // not empty: the package lives there now
				return
			}
		}
	}, nil
}
