package devpg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options say what cluster to run. The zero value is a fast one that is gone when stopped.
type Options struct {
	// Binaries to run. When empty, Find looks for them: of the version that made the
	// cluster, if it exists already.
	Binaries Binaries
	// Find says how. Its CacheDir also holds the data directory that new temporary
	// clusters are copied from.
	Find *FindOptions
	// Dir is the cluster's home, made if need be and kept. Empty means a temporary one.
	Dir string
	// Port to listen on. 0 means the one this home had last, or else a free one.
	Port int
	// Durable clusters survive a crash of the machine; others run with fsync off.
	Durable bool
	// OwnIdentity gives a temporary cluster a system identifier of its own, at the price
	// of an initdb. Those in a Dir always have one.
	OwnIdentity bool
	// Settings are added to the server's, or replace them.
	Settings map[string]string
}

// Mode is a way to stop Postgres.
type Mode syscall.Signal

// The modes, with Postgres's own names.
const (
	Fast      = Mode(syscall.SIGINT)  // connections are cut, everything is written out
	Immediate = Mode(syscall.SIGQUIT) // as good as a crash: the next start recovers
)

// Cluster is a running Postgres of our own. Its methods may be called from any goroutine.
type Cluster struct {
	// static
	bin      Binaries
	as       account
	home     *home
	durable  bool
	settings map[string]string
	port     int

	mu     sync.Mutex
	proc   *process // guarded by mu
	killed bool     // guarded by mu; by Kill, and not started since
	closed bool     // guarded by mu
}

// Start runs a cluster, making it first if there is none, and returns when it answers.
// The context covers the start only; without a deadline it gets two minutes.
func Start(ctx context.Context, opts *Options) (_ *Cluster, err error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if !supported {
		return nil, fmt.Errorf("start Postgres: pgcast cannot run one of its own on %s: give it the URL of one", runtime.GOOS)
	}
	ctx, cancel := withPatience(ctx, 2*time.Minute)
	defer cancel()
	as, err := serverAccount()
	if err != nil {
		return nil, err
	}
	c := &Cluster{as: as, durable: o.Durable, settings: o.Settings, port: o.Port}
	if o.Dir == "" {
		c.home, err = tempHome(ctx, as)
	} else {
		c.home, err = openHome(as, o.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("start Postgres: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.home.close())
		}
	}()
	if err := c.prepare(ctx, &o); err != nil {
		return nil, fmt.Errorf("start Postgres: %w", err)
	}
	if err := c.launch(ctx, o.Port == 0); err != nil {
		return nil, err
	}
	if !c.home.temporary {
		// A convenience: without it the next start has another port.
		_ = os.WriteFile(filepath.Join(c.home.dir, "port"), []byte(strconv.Itoa(c.port)+"\n"), 0o644)
	}
	return c, nil
}

// prepare gets everything ready that the server needs to run.
func (c *Cluster) prepare(ctx context.Context, o *Options) error {
	data := c.home.data()
	version, err := dataVersion(data)
	if err != nil {
		return err
	}
	if err := c.findBinaries(ctx, o, version); err != nil {
		return err
	}
	if version != 0 {
		if info, err := os.Stat(data); err != nil {
			return err
		} else if uid, _ := owner(info); uid != c.as.uid {
			return fmt.Errorf("use %s: it belongs to user id %d, and Postgres would run as %d; start as the user who made it, or choose another directory", data, uid, c.as.uid)
		}
		err = endLeftover(ctx, data)
	} else if c.home.temporary && !o.OwnIdentity {
		var cache, given string
		if o.Find != nil {
			given = o.Find.CacheDir
		}
		if cache, err = c.as.cacheDir(given); err == nil {
			err = copyTemplate(ctx, c.bin, c.as, cache, data)
		}
	} else {
		err = initialize(ctx, c.bin, c.as, data)
	}
	if err != nil {
		return err
	}
	if err := trimLog(c.home.log()); err != nil {
		return err
	}
	if err := c.choosePort(); err != nil {
		return err
	}
	return c.home.makeRun(c.as)
}

func (c *Cluster) findBinaries(ctx context.Context, o *Options, version int) (err error) {
	c.bin = o.Binaries
	if c.bin.Dir == "" || c.bin.Version == 0 {
		var find FindOptions
		if o.Find != nil {
			find = *o.Find
		}
		if c.bin.Dir != "" {
			find.BinDir = c.bin.Dir
		}
		if find.Version == 0 && find.BinDir == "" {
			find.Version = version
		}
		if c.bin, err = Find(ctx, &find); err != nil {
			return err
		}
	}
	if version != 0 && c.bin.Version != version {
		return fmt.Errorf("use %s: Postgres %d made it, and %s has Postgres %d; give the binaries of %d, or remove the directory to begin anew",
			c.home.data(), version, c.bin.Dir, c.bin.Version, version)
	}
	return nil
}

// maxLog is how long server.log may be when a start begins.
const maxLog = 16 << 20

func trimLog(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() <= maxLog {
		return nil
	}
	return os.Truncate(path, 0)
}

// Version is the major version of Postgres.
func (c *Cluster) Version() int { return c.bin.Version }

// Dir is the cluster's home directory.
func (c *Cluster) Dir() string { return c.home.dir }

// LogFile is what Postgres writes its log to.
func (c *Cluster) LogFile() string { return c.home.log() }

// Port is the TCP port on 127.0.0.1; it stays the same over restarts.
func (c *Cluster) Port() int { return c.port }

// URL connects to a database as the superuser.
func (c *Cluster) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", c.port, url.PathEscape(database))
}

// PID is the postmaster's process id, or 0 when it does not run.
func (c *Cluster) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil {
		return 0
	}
	select {
	case <-c.proc.done:
		return 0
	default:
		return c.proc.cmd.Process.Pid
	}
}

// Restart stops the server in the given mode, if it runs, and starts it again on the
// same port.
func (c *Cluster) Restart(ctx context.Context, mode Mode) error {
	ctx, cancel := withPatience(ctx, 2*time.Minute)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return fmt.Errorf("restart Postgres: it has been stopped for good")
	}
	if c.proc != nil {
		if err := c.proc.end(ctx, syscall.Signal(mode)); err != nil {
			return err
		}
		c.proc = nil
	}
	return c.launch(ctx, false)
}

// Kill ends the postmaster with SIGKILL. Restart brings the server back; its sessions may
// run on for a moment and finish what they are at.
func (c *Cluster) Kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil {
		return nil
	}
	c.killed = true
	return c.proc.end(context.Background())
}

// Stop ends the server for good, with force when the context ends, and removes a
// temporary cluster. To stop a stopped one is no error.
func (c *Cluster) Stop(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	if c.killed && c.home.temporary {
		// What a killed server leaves behind in the kernel's shared memory is removed by
		// its own next start, or by nobody.
		_ = c.launch(ctx, false) // the test may have left nothing to start
	}
	if c.proc != nil {
		signals := []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT}
		if c.home.temporary {
			signals = signals[1:] // nobody will read what a clean shutdown would write
		}
		if err := c.proc.end(ctx, signals...); err != nil {
			return err
		}
	}
	c.closed, c.proc = true, nil
	return c.home.close()
}

// command is the server's. The settings are arguments and not in the data directory's
// files: so they are the same for a directory made by an older pgcast.
func (c *Cluster) command() *exec.Cmd {
	settings := map[string]string{
		"wal_level": "logical", "max_connections": "200", "shared_buffers": "64MB",
	}
	if !c.durable {
		settings["fsync"], settings["full_page_writes"] = "off", "off"
	}
	maps.Copy(settings, c.settings)
	settings["listen_addresses"] = "127.0.0.1"
	settings["port"] = strconv.Itoa(c.port)
	settings["unix_socket_directories"] = `"` + strings.ReplaceAll(c.home.run, `"`, `""`) + `"`

	args := []string{"-D", c.home.data()}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	cmd := exec.Command(filepath.Join(c.bin.Dir, "postgres"), args...)
	cmd.SysProcAttr, cmd.Dir, cmd.Env = procAttr(c.as), c.home.data(), serverEnv(c.home.data())
	return cmd
}

// withPatience gives the context a deadline if it has none.
func withPatience(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("it took longer than %s", d))
}
