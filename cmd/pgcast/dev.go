package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast/internal/devpage"
	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/server"
	"github.com/pgcast/pgcast/migrations"
)

func (a *app) devCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "dev",
		GroupID: groupServe,
		Short:   "Run everything on this machine: Postgres, server, demo and a page to watch it",
		Long: `Run everything on this machine, to try pgcast or to develop with it: a Postgres of
its own, the server, a small demo that keeps writing, and a page that shows it live.

Postgres is found on this machine or fetched, and keeps its data in ./.pgcast. With
--database-url that database is used instead and nothing is started; the demo makes a
schema demo in it. Other pgcast commands in the same directory find the running one.

Nothing is left running after Ctrl-C.`,
		Example: `  pgcast dev
  pgcast dev --no-demo
  pgcast dev --database-url postgres://me@localhost/app`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.dev(cmd.Context()) },
	}
	addSettings(cmd.Flags(), forDatabase|forServer|forDev)
	return cmd
}

// dev is one run of pgcast dev.
type dev struct {
	*app
	dir     string         // of .pgcast
	cluster *devpg.Cluster // nil with a database of the user's own
	home    string         // the cluster's
	began   time.Time
	file    atomic.Pointer[devFile] // nil until everything is up
}

func (a *app) dev(ctx context.Context) (err error) {
	d := &dev{app: a, began: time.Now()}
	if err := a.set.check(); err != nil {
		return err
	}
	if !a.set.given("drain-timeout") {
		a.set.DrainTimeout = 3 * time.Second // whoever looks at the page can wait for the next start
	}
	if !a.set.given("presence-grace") {
		a.set.Live.PresenceGrace = 7 * time.Second // longer than the page's wire is cut
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go endWithGoRun(ctx, cancel)

	lock, err := d.takeDirectory(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	defer os.Remove(devFilePath(d.dir))
	log := a.logger(slog.LevelWarn)

	if a.set.DatabaseURL == "" {
		if err := d.startPostgres(ctx); err != nil {
			return stopped(ctx, err)
		}
		defer func() {
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			err = errors.Join(err, d.cluster.Stop(late))
		}()
	}
	return stopped(ctx, d.serve(ctx, log))
}

// takeDirectory makes the data directory and locks it.
func (d *dev) takeDirectory(ctx context.Context) (*devpg.Lock, error) {
	dir, err := filepath.Abs(d.set.DataDir)
	if err != nil {
		return nil, err
	}
	d.dir = dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, dataDirError("make the data directory", err)
	}
	// It ignores itself: nobody has to think of it.
	ignore := filepath.Join(dir, ".gitignore")
	if err := os.WriteFile(ignore, []byte("*\n"), 0o644); err != nil {
		return nil, dataDirError("prepare the data directory", err)
	}
	// Not at once: another command may be looking whether anybody holds it.
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	lock, err := devpg.WaitLock(short, devLockPath(dir))
	if err == nil {
		return lock, nil
	}
	if ctx.Err() != nil || short.Err() == nil {
		return nil, err
	}
	where := ""
	if other, _ := runningDev(dir); other != nil {
		where = fmt.Sprintf(" at %s (process %d)", other.URL, other.PID)
	}
	return nil, invalid("use that one, or stop it, or give another --data-dir", "a pgcast dev runs in %s already%s", dir, where)
}

// startPostgres runs the cluster that belongs to the data directory.
func (d *dev) startPostgres(ctx context.Context) (err error) {
	if d.home, err = clusterHome(d.dir); err != nil {
		return err
	}
	d.cluster, err = devpg.Start(ctx, &devpg.Options{
		Dir: d.home, Durable: true,
		Settings: map[string]string{"max_slot_wal_keep_size": "4GB"}, // a slot that nobody comes back to is not to fill the disk
		Find:     &devpg.FindOptions{BinDir: d.set.PGBin, Say: func(line string) { d.sayf("%s\n", line) }},
	})
	if err != nil {
		return err
	}
	d.set.DatabaseURL = d.cluster.URL("postgres")
	d.set.DirectDatabaseURL = ""
	return nil
}

func (d *dev) serve(ctx context.Context, log *slog.Logger) error {
	if err := migrations.Up(ctx, d.set.directURL()); err != nil {
		return err
	}
	pool, err := d.connectPool(ctx, 4)
	if err != nil {
		return err
	}
	defer pool.Close()
	if !d.set.NoDemo {
		if err := makeDemo(ctx, pool); err != nil {
			return err
		}
	}
	d.choosePorts()
	options := d.serverOptions(log)
	options.Public = d.page(pool)
	options.OnReady = func(listen, admin string) { d.ready(listen, admin, log) }
	s, err := server.New(options)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.Run(ctx) })
	if !d.set.NoDemo {
		g.Go(func() error { return (&demo{pool: pool, log: log}).run(ctx) })
	}
	if d.cluster != nil {
		g.Go(func() error { return d.mind(ctx) })
	}
	return g.Wait()
}

// mind starts the cluster again should it end: somebody may want to see what happens then.
func (d *dev) mind(ctx context.Context) error {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		if d.cluster.PID() != 0 {
			continue
		}
		d.sayf("Postgres has ended, starting it again\n")
		if err := d.cluster.Restart(ctx, devpg.Fast); err != nil {
			return stopped(ctx, err)
		}
	}
}

// page is what the server shows where it has nothing of its own.
func (d *dev) page(pool *pgxpool.Pool) http.Handler {
	at := func(url func(*devFile) string) func() string {
		return func() string {
			if file := d.file.Load(); file != nil {
				return url(file)
			}
			return ""
		}
	}
	return devpage.Handler(devpage.Options{Pool: pool, Version: version().version, Demo: !d.set.NoDemo, Command: commandName(),
		Metrics: at(func(f *devFile) string { return f.Metrics }), Console: at(func(f *devFile) string { return f.Console })})
}

// choosePorts takes another port where the usual one is in use: somebody who only wants
// to try pgcast should not have to know about ports.
func (d *dev) choosePorts() {
	for name, addr := range map[string]*string{"listen": &d.set.Listen, "admin-listen": &d.set.AdminListen} {
		if d.set.given(name) {
			continue
		}
		l, err := net.Listen("tcp", *addr)
		if err != nil {
			*addr = "127.0.0.1:0"
			continue
		}
		l.Close()
	}
}

// ready tells people and other commands where everything is.
func (d *dev) ready(listen, admin string, log *slog.Logger) {
	listen, admin = browsable(listen), browsable(admin)
	file := &devFile{DatabaseURL: d.set.DatabaseURL, PID: os.Getpid(),
		URL: "http://" + listen + "/", WebSocket: "ws://" + listen + "/ws", Metrics: "http://" + admin + "/metrics"}
	if d.set.Console != "off" {
		file.Console = "http://" + admin + "/console/"
	}
	d.file.Store(file)
	if err := file.write(d.dir); err != nil {
		log.Warn("other commands will not find this pgcast dev", "error", err)
	}
	d.banner(file)
}

func (d *dev) banner(file *devFile) {
	p := d.paint(d.err)
	d.sayf("\n  %s %s\n\n", p.bold(p.green("pgcast dev is up")), p.dim("after "+time.Since(d.began).Round(10*time.Millisecond).String()))
	line := func(name, value, more string) { d.sayf("  %-10s %s%s\n", name, p.cyan(value), p.dim(more)) }
	line("page", file.URL, "")
	line("websocket", file.WebSocket, "")
	if file.Console != "" {
		line("console", file.Console, "")
	}
	line("metrics", file.Metrics, "")
	more := ""
	if d.cluster != nil {
		more = fmt.Sprintf("  (Postgres %d, in %s)", d.cluster.Version(), d.home)
	}
	line("database", redact(file.DatabaseURL), more)

	me, here := commandName(), ""
	if d.set.given("data-dir") {
		here = " --data-dir " + quote(d.set.DataDir)
	}
	commands := []string{
		"tail 'room:*'" + here,
		"sql" + here + ` "insert into demo.messages (room_id, author, body) values (1, 'you', 'hello')"`,
		"attached" + here,
		"example kanban" + here,
	}
	if d.set.NoDemo {
		commands = []string{
			"sql" + here + ` "create table notes (id int generated always as identity primary key, body text)"`,
			"attach notes" + here,
			"tail notes" + here,
			"sql" + here + ` "insert into notes (body) values ('hello')"`,
			"example kanban" + here,
		}
	}
	d.sayf("\n  Try, in another terminal in this directory:\n")
	for _, c := range commands {
		d.sayf("    %s\n", p.bold(me+" "+c))
	}
	if d.cluster != nil { // whose WAL can be read
		again := []string{"sql" + here + ` "alter table demo.messages replica identity full"`,
			"attach demo.messages --topic 'room:{room_id}' --old --capture wal" + here}
		if d.set.NoDemo {
			again = []string{"attach notes --capture wal" + here}
		}
		d.sayf("\n  The same without a trigger, read from the WAL:\n")
		for _, c := range again {
			d.sayf("    %s\n", p.bold(me+" "+c))
		}
	}
	d.sayf("\n  Ctrl-C stops everything.\n\n")
}
