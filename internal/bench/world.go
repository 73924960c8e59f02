package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/migrations"
)

// world is what a run works with.
type world struct {
	opts    *Options
	sizes   sizes
	machine Machine
	cluster *devpg.Cluster // nil with one of the user's own
	url     string         // of the cluster, to make databases
	admin   *pgx.Conn
	dir     string // for the children, empty: no settings file may lie about

	template  string // a database with pgcast in it; "" before the first bed
	databases int
	seen      seen
	notes     []string
}

// clusterSettings keep checkpoints out of the turns: they would hit now this variant, now
// that one.
var clusterSettings = map[string]string{"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}

func newWorld(ctx context.Context, o *Options) (_ *world, err error) {
	w := &world{opts: o, sizes: sizesOf(o), url: o.DatabaseURL}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.dir, err = os.MkdirTemp("", "pgcast-bench-*"); err != nil {
		return nil, err
	}
	if o.Profiles != "" {
		if o.Profiles, err = filepath.Abs(o.Profiles); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(o.Profiles, 0o755); err != nil {
			return nil, fmt.Errorf("make the directory for profiles: %w", err)
		}
	}
	if w.url == "" {
		settings := clusterSettings
		if o.Tiny {
			settings = nil
		}
		w.cluster, err = devpg.Start(ctx, &devpg.Options{Durable: true, Settings: settings,
			Find: &devpg.FindOptions{BinDir: o.BinDir, Say: o.Say}})
		if err != nil {
			return nil, err
		}
		w.url = w.cluster.URL("postgres")
	}
	if w.admin, err = pgx.Connect(ctx, w.url); err != nil {
		return nil, err
	}
	if w.machine, err = machineOf(ctx, w.admin, w.sizes.fsyncs); err != nil {
		return nil, fmt.Errorf("look at the machine: %w", err)
	}
	for _, name := range []string{"fsync", "synchronous_commit"} {
		if v := w.machine.Settings[name]; v != "on" {
			w.note("%s is %s: the figures are not those of durable commits", name, v)
		}
	}
	return w, nil
}

// close leaves nothing behind.
func (w *world) close() error {
	var err error
	late, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if w.admin != nil {
		_ = w.admin.Close(late) // whether it says goodbye does not matter
	}
	if w.template != "" {
		w.drop(late, w.template)
	}
	if w.cluster != nil {
		err = w.cluster.Stop(late)
	}
	if w.dir != "" {
		err = errors.Join(err, os.RemoveAll(w.dir))
	}
	return err
}

func (w *world) say(format string, args ...any) { w.opts.Say("  " + fmt.Sprintf(format, args...)) }

// note tells what the report must say beside its figures.
func (w *world) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.notes = append(w.notes, text)
	w.say("%s", text)
}

// bed is a database of its own with what a measurement needs: a connection, a server and
// the load.
type bed struct {
	*world
	name   string
	url    string
	conn   *pgx.Conn
	server *server
	load   *load
	closed bool
}

// bed makes a database with pgcast in it, runs the statements, and starts the load and,
// if asked to, a server.
func (w *world) bed(ctx context.Context, serve bool, statements ...string) (_ *bed, err error) {
	if w.template == "" {
		if err := w.makeTemplate(ctx); err != nil {
			return nil, err
		}
	}
	w.databases++
	b := &bed{world: w, name: fmt.Sprintf("pgcast_bench_%d_%d", os.Getpid(), w.databases)}
	if _, err := w.admin.Exec(ctx, "create database "+b.name+" template "+w.template); err != nil {
		return nil, fmt.Errorf("make a database: %w", err)
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.url, err = inDatabase(w.url, b.name); err != nil {
		return nil, err
	}
	if b.conn, err = pgx.Connect(ctx, b.url); err != nil {
		return nil, err
	}
	for _, s := range statements {
		if _, err := b.conn.Exec(ctx, s); err != nil {
			return nil, fmt.Errorf("prepare the database: %w", err)
		}
	}
	if b.load, err = w.startLoad(); err != nil {
		return nil, err
	}
	if serve {
		b.server, err = w.startServer(ctx, b.url)
	}
	return b, err
}

// makeTemplate makes the database that all beds are copies of.
func (w *world) makeTemplate(ctx context.Context) error {
	name := fmt.Sprintf("pgcast_bench_%d_0", os.Getpid())
	url, err := inDatabase(w.url, name)
	if err != nil {
		return err
	}
	if _, err := w.admin.Exec(ctx, "create database "+name+" template template0 encoding 'UTF8'"); err != nil {
		return fmt.Errorf("make a database: %w", err)
	}
	w.template = name
	return migrations.Up(ctx, url)
}

// drop drops a database of ours. Not over admin: an interrupt may have broken that
// connection.
func (w *world) drop(ctx context.Context, name string) {
	conn, err := pgx.Connect(ctx, w.url)
	if err == nil {
		// A walsender goes a moment after its server, and keeps a slot and the database.
		for range 100 {
			if _, err = conn.Exec(ctx, "drop database if exists "+name+" with (force)"); err == nil || pause(ctx, 50*time.Millisecond) != nil {
				break
			}
		}
		_ = conn.Close(ctx)
	}
	if err != nil && w.cluster == nil { // ours goes as a whole
		w.note("database %s could not be dropped: %v", name, err)
	}
}

// close ends the processes and drops the database, also when the run was interrupted.
// To close twice is no error.
func (b *bed) close() {
	if b.closed {
		return
	}
	b.closed = true
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if b.load != nil {
		b.load.stop()
	}
	if b.server != nil {
		b.server.stop()
	}
	if b.conn != nil {
		_ = b.conn.Close(ctx) // dropping the database ends what is left
	}
	b.drop(ctx, b.name)
}

// inDatabase changes the database of a URL.
func inDatabase(in, name string) (string, error) {
	u, err := url.Parse(in)
	if err != nil || u.Scheme == "" {
		return "", &pgcast.Error{Code: pgcast.CodeInvalid, Message: "the bench makes databases of its own and needs the cluster's address as a URL",
			Hint: "write postgres://user:password@host:5432/postgres"}
	}
	u.Path = "/" + name
	return u.String(), nil
}

// sequenced waits until every event of the database has its place and tells how long
// that took.
func (b *bed) sequenced(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	for {
		var done bool
		err := b.conn.QueryRow(ctx, `select coalesce((select max(id) from pgcast.event_log), 0) <= coalesce((select max(event_id) from pgcast.replay), 0)
			and (select target is null from pgcast.progress order by step desc limit 1)`).Scan(&done)
		if err != nil || done {
			return time.Since(began), err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// checkpoint empties what a turn has left for the next one to write. Who may not simply
// does not.
func (b *bed) checkpoint(ctx context.Context) { _, _ = b.conn.Exec(ctx, "checkpoint") }

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// server is the one under test.
type server struct {
	*child
	listen, admin string
}

func (w *world) startServer(ctx context.Context, databaseURL string, flags ...string) (*server, error) {
	type addresses struct{ Msg, Listen, Admin string }
	serving := make(chan addresses, 1)
	args := append([]string{"serve", "--database-url", databaseURL, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
		"--log-format", "json", "--drain-timeout", "1s", "--max-sessions-per-address", "10000000"}, flags...) // all come from here
	if w.opts.Profiles != "" {
		args = append(args, "--pprof")
	}
	c, err := w.startChild("server", args, nil, nil, func(line string) {
		var a addresses
		if json.Unmarshal([]byte(line), &a) == nil && a.Msg == "serving" {
			serving <- a
		}
	})
	if err != nil {
		return nil, err
	}
	s := &server{child: c}
	select {
	case a := <-serving:
		s.listen, s.admin = a.Listen, a.Admin
	case <-c.done:
		return nil, c.ended()
	case <-ctx.Done():
		s.stop()
		return nil, ctx.Err()
	}
	for {
		text, err := s.get(ctx, "/metrics")
		if err == nil && figure(text, "pgcast_sequencer_leading") == 1 {
			if _, err = s.get(ctx, "/readyz"); err == nil {
				return s, nil
			}
		}
		select {
		case <-c.done:
			return nil, c.ended()
		default:
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			s.stop()
			return nil, err
		}
	}
}

// get asks the admin listener.
func (s *server) get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+path, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", path, res.Status)
	}
	return string(text), err
}

// figure adds up a metric over its labels.
func figure(text, name string) (sum float64) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(strings.TrimSpace(rest), ' ')+1:]), 64)
		if err == nil {
			sum += v
		}
	}
	return sum
}

// cpu measures the processor time the server uses while f runs.
func (s *server) cpu(f func() error) (time.Duration, error) {
	before, err := cpuOf(s.pid())
	if err == nil {
		err = f()
	}
	if err != nil {
		return 0, err
	}
	after, err := cpuOf(s.pid())
	return after - before, err
}

// profile takes a processor profile of the server while f runs, if the run is to take any.
func (b *bed) profile(ctx context.Context, name string, f func() error) error {
	if b.opts.Profiles == "" {
		return f()
	}
	got := make(chan error, 1)
	go func() {
		got <- b.fetch(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(b.opts.Duration.Seconds()))), name)
	}()
	if err := f(); err != nil {
		return err
	}
	return <-got
}

// fetch keeps a profile of the server.
func (b *bed) fetch(ctx context.Context, path, name string) error {
	text, err := b.server.get(ctx, path)
	if err == nil {
		err = os.WriteFile(filepath.Join(b.opts.Profiles, name+".pprof"), []byte(text), 0o644)
	}
	if err != nil {
		return fmt.Errorf("take a profile: %w", err)
	}
	return nil
}
