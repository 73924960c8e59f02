package devpage

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/server"
)

// world is a server with the page on a database of the test's own.
type world struct {
	db     *pgtest.DB
	listen string
	url    string
	stop   func()
}

// demoSchema is what pgcast dev's demo makes: the presets must fit it.
func demoSchema(t *testing.T, db *pgtest.DB) {
	t.Helper()
	sql, err := os.ReadFile(filepath.Join("..", "..", "cmd", "pgcast", "demo.sql"))
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, string(sql))
	db.Exec(t, `insert into demo.messages (room_id, author, body) values (1, 'ann', 'Good morning!'), (2, 'bob', 'Merged.'), (3, 'eva', 'Soup or salad?');
		insert into demo.cards (board_id, column_id, title) values (1, 1, 'Write the release notes'), (1, 2, 'Fix the flaky test')`)
}

func newWorld(t *testing.T, demo bool) *world {
	t.Helper()
	w := &world{db: pgtest.New(t, nil), listen: "127.0.0.1:0"}
	if demo {
		demoSchema(t, w.db)
	}
	w.start(t, demo)
	return w
}

func (w *world) start(t *testing.T, demo bool) {
	t.Helper()
	ready := make(chan string, 1)
	s, err := server.New(&server.Options{
		DatabaseURL: w.db.URL, Listen: w.listen, AdminListen: "127.0.0.1:0", DrainTimeout: 2 * time.Second,
		Public:  Handler(Options{Pool: w.db.Pool(t), Version: "v1.2.3", Demo: demo, Metrics: func() string { return "http://127.0.0.1:9187/metrics" }}),
		Logger:  slog.New(slog.NewTextHandler(io.Discard, nil)),
		OnReady: func(listen, _ string) { ready <- listen },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err, ok := <-ended; ok && err != nil {
			t.Errorf("the server ended with: %v", err)
		}
		close(ended)
		w.stop = func() {}
	}
	t.Cleanup(func() { w.stop() })
	select {
	case w.listen = <-ready:
	case err := <-ended:
		t.Fatalf("the server did not start: %v", err)
	}
	w.url = "http://" + w.listen + "/"
}

// write goes on writing, a row at a time, until the test or the returned func ends it.
func (w *world) write(t *testing.T, every time.Duration) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	pool := w.db.Pool(t)
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, err := pool.Exec(ctx, `insert into demo.messages (room_id, author, body) values ($1, 'writer', $2)`,
				1+n%3, fmt.Sprint("message ", n)); err != nil && ctx.Err() == nil {
				t.Errorf("write: %v", err)
			}
		}
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

// shot keeps a screenshot where PGCAST_SHOTS names a directory.
func shot(p *tab, name string) {
	if dir := os.Getenv("PGCAST_SHOTS"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), p.screenshot(), 0o644); err != nil {
			p.t.Error(err)
		}
	}
}

// isLive holds once the stream is subscribed.
const isLive = `document.querySelector('#state').dataset.kind === 'live'`

func TestPage(t *testing.T) {
	c := startChromium(t)

	t.Run("stream and SQL", func(t *testing.T) {
		w := newWorld(t, true)
		w.write(t, 300*time.Millisecond)
		p := c.open(t, w.url, 1440, 900, nil)
		p.until(isLive)
		p.until(`document.querySelectorAll('.row').length > 10`)
		shot(p, "desktop")
		p.quiet()
	})
}
