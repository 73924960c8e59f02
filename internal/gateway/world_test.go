package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/replay"
)

var discard = slog.New(slog.DiscardHandler)

// setup is how a world differs from the usual one.
type setup struct {
	Options
	hub       fanout.HubOptions
	log       replay.LogOptions
	heartbeat time.Duration
	closeWait time.Duration
	signIn    time.Duration
	small     bool            // the kernel takes little for a peer that does not read
	trace     pgx.QueryTracer // of all that is asked of the database; nil: of nothing
}

// smallBuffers is a listener whose connections have small send buffers.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(32 << 10)
	}
	return c, err
}

// world is a gateway on a real log, behind a real listener.
type world struct {
	db       *pgtest.DB
	pool     *pgxpool.Pool
	log      *replay.Log
	hub      *fanout.Hub
	gate     *Gateway
	http     *httptest.Server
	identity atomic.Pointer[string]
	registry *prometheus.Registry

	open, closed atomic.Int64 // requests under way, and connections that have ended
}

// logged is a log that a test can read while it is written.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newWorld(t testing.TB, change func(*setup)) *world {
	t.Helper()
	// Clients read, and answer pings, only while a test does, which may be slow.
	s := setup{Options: Options{WriteTimeout: 5 * time.Minute, PingInterval: 5 * time.Minute}}
	if change != nil {
		change(&s)
	}
	w := &world{db: pgtest.New(t, nil), registry: prometheus.NewRegistry()}
	w.pool = w.db.Pool(t)
	if s.trace != nil {
		cfg := w.pool.Config()
		cfg.ConnConfig.Tracer = s.trace
		traced, err := pgxpool.NewWithConfig(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(traced.Close)
		w.pool = traced
	}
	w.log = replay.NewLog(w.pool, &s.log)
	s.hub.Encode, s.hub.Logger, s.hub.Registerer = wire.AppendEventBody, discard, w.registry
	if s.hub.Snapshots.Encoding = SnapshotEncoding; s.hub.Snapshots.Source == nil {
		s.hub.Snapshots.Source = w.log
	}
	w.hub = fanout.NewHub(w.log, w.log, s.hub)
	follower := fanout.NewFollower(w.log, w.hub, &fanout.FollowerOptions{Logger: discard})
	sequencer := replay.NewSequencer(w.db.URL, w.pool, &replay.SequencerOptions{OnGrown: follower.Wake,
		Retention: &replay.RetentionOptions{Every: 20 * time.Millisecond}, Logger: discard})
	w.setIdentity("7423950021478312.1")
	s.Identity = func() string { return *w.identity.Load() }
	if s.Logger == nil {
		s.Logger = discard
	}
	s.Registerer = w.registry
	if s.Tables == nil {
		s.Tables = w.log.Tables
	}
	w.gate = New(w.hub, w.log, w.log, s.Options)
	if s.heartbeat > 0 {
		w.gate.heartbeat = s.heartbeat
	}
	if s.signIn > 0 {
		w.gate.signIn = s.signIn
	}
	if s.closeWait > 0 {
		w.gate.closeWait = s.closeWait
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", w.gate)
	mux.Handle("/topics/", w.gate.Topics())
	mux.Handle("/groups/", w.gate.Groups())
	mux.Handle("/tickets", w.gate.SignIn())
	mux.Handle("/__ws/auth", w.gate.SignIn())
	w.http = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.open.Add(1)
		defer w.open.Add(-1)
		mux.ServeHTTP(rw, r)
	}))
	w.http.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			w.closed.Add(1)
		}
	}
	if s.small {
		w.http.Listener = smallBuffers{w.http.Listener}
	}
	w.http.Start()
	t.Cleanup(w.http.Close)
	running(t, follower.Run)
	running(t, sequencer.Run)
	running(t, w.gate.Run)
	t.Cleanup(func() {
		for _, c := range w.gate.all() {
			c.kill(nil)
		}
		await(t, "all sessions are gone", func() bool { return len(w.hub.Sessions()) == 0 && w.clients() == 0 })
	})
	await(t, "the follower has caught up", follower.CaughtUp)
	return w
}

// running runs something until the test ends.
func running(t testing.TB, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return run(ctx) })
	t.Cleanup(sync.OnceFunc(func() {
		cancel()
		if err := g.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	}))
}

func (w *world) setIdentity(s string) { w.identity.Store(&s) }

// address is the host and port of the listener.
func (w *world) address() string { return strings.TrimPrefix(w.http.URL, "http://") }

// clients counts the gateway's clients, those in their handshake included.
func (w *world) clients() int {
	w.gate.mu.Lock()
	defer w.gate.mu.Unlock()
	return len(w.gate.clients)
}

// publish adds n events of about size bytes to a topic, in one transaction; their data
// begins with their number in it.
func (w *world) publish(t testing.TB, topic string, n, size int) {
	t.Helper()
	_, err := w.pool.Exec(context.Background(), `select pgcast.publish($1, 'said', jsonb_build_object('n', i, 'pad', repeat('x', $3)))
		from generate_series(1, $2) i order by i`, topic, n, size)
	if err != nil {
		t.Fatalf("publish to %s: %v", topic, err)
	}
}

// sequenced waits until everything written so far has come to the hub.
func (w *world) sequenced(t testing.TB) {
	t.Helper()
	await(t, "everything has come to the hub", func() bool {
		return pgtest.Value[int64](t, w.db, `select count(*) from pgcast.event_log e
			where not exists (select from pgcast.replay r where r.event_id = e.id)`) == 0 &&
			w.hub.Position() == w.position(t)
	})
}

func (w *world) position(t testing.TB) pgcast.Position {
	t.Helper()
	p, err := w.log.Position(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// idOf is the id of a topic's event.
func (w *world) idOf(t testing.TB, topic string, seq int64) pgcast.ID {
	t.Helper()
	page, err := w.log.Page(context.Background(), topic, pgcast.Seq(seq-1), 1)
	if err != nil || len(page.Events) != 1 || page.Events[0].Seq != pgcast.Seq(seq) {
		t.Fatalf("event %d of %s: %v, %v", seq, topic, page.Events, err)
	}
	return page.Events[0].ID
}

// counter reads a metric's value, summed over its labels.
func (w *world) counter(t testing.TB, name string) (sum float64) {
	t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "pgcast_"+name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
