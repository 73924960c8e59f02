// Package server is one pgcast server: it wires the log's reader and sequencer, the hub
// and the gateway together and runs them behind two HTTP listeners, the public one for
// clients and the admin one for metrics.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"path"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/console"
	"github.com/pgcast/pgcast/internal/gateway"
	"github.com/pgcast/pgcast/internal/perimeter"
	"github.com/pgcast/pgcast/internal/redact"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/replay"
)

// Options of a server. DatabaseURL is required; the zero value of each other field
// stands for its default.
type Options struct {
	DatabaseURL string
	// DirectDatabaseURL leads to the primary without a pooler in between; the sequencer
	// needs a session of its own. Default: DatabaseURL.
	DirectDatabaseURL string
	PoolSize          int    // connections for reading and publishing, 2 or more; default 8. Snapshots may open 5 more
	Listen            string // of clients; default 127.0.0.1:8080
	AdminListen       string // of metrics; default 127.0.0.1:9187
	AllowedOrigins    []string
	Wake              replay.Wake
	MaxFrame          int
	MaxEvent          int
	MaxSubscriptions  int
	MaxSessions       int
	// MaxSessionsPerAddress bounds the sessions of one address, an IPv6 one being its /64, and
	// beside them its connections that are none; default 10,000. Addresses of TrustedProxies
	// are not counted, but those they speak for.
	MaxSessionsPerAddress int
	// MaxSessionsPerSubject bounds the sessions of all who have the same sub; default 1,000.
	MaxSessionsPerSubject int
	// Compression lets clients send compressed frames.
	Compression    bool
	RingSize       int
	WriteTimeout   time.Duration
	PingInterval   time.Duration
	DrainTimeout   time.Duration // for sessions to be told and flushed; default 10 s
	RetentionEvery time.Duration
	SnapshotFresh  time.Duration // for which a snapshot serves others who ask for it; default 1 s
	SpoolDir       string        // for snapshots on their way to clients; default the system's for temporary files
	Live           LiveOptions
	Access         AccessOptions
	// Public serves the public listener's paths that are not the server's own.
	Public http.Handler
	// Guard, if set, stands before everything on the public listener.
	Guard func(http.Handler) http.Handler
	// AdminToken is what those show who ask for anything at the admin listener but whether
	// the server lives and is ready; empty: nobody has to.
	AdminToken string
	// TLSCertFile and TLSKeyFile are a certificate, with those that lead to its authority, and
	// its key, in PEM, for both listeners; they may be replaced while the server runs.
	// Default: no TLS.
	TLSCertFile, TLSKeyFile string
	// NoConsole leaves the admin listener without the console at /console/.
	NoConsole bool
	// Health looks after everything around the server, for the console; nil: it has nothing to show.
	Health func(context.Context) ([]console.Finding, error)
	// Profile serves the process's profiles at /debug/pprof/ of the admin listener.
	Profile bool
	Logger  *slog.Logger // default slog.Default()
	Version string
	// OnReady is called once both listeners are open, with their real addresses.
	OnReady func(listen, admin string)
}

// Server is one pgcast server; see Run.
type Server struct {
	opts      Options
	pool      *pgxpool.Pool
	log       *replay.Log
	hub       *fanout.Hub
	follower  *fanout.Follower
	sequencer *replay.Sequencer
	gateway   *gateway.Gateway
	live      *live
	security  *security
	authority *authority // nil: there is no access control
	registry  *prometheus.Registry
	cert      *perimeter.Certificate // nil: no TLS
	refused   *prometheus.CounterVec
	monitor   *monitor               // nil: no console
	address   atomic.Pointer[string] // of the public listener, once it is open

	identity atomic.Pointer[string] // nil until the database was first read
	dialed   atomic.Bool            // the pool has connected, maybe to another database
	draining atomic.Bool
}

// New makes a server. It connects to nothing yet; settings that cannot be used are
// refused here.
func New(options *Options) (*Server, error) {
	s := &Server{opts: *options, registry: prometheus.NewRegistry()}
	o := &s.opts
	setDefault(&o.DirectDatabaseURL, o.DatabaseURL)
	setDefault(&o.Listen, "127.0.0.1:8080")
	setDefault(&o.AdminListen, "127.0.0.1:9187")
	setDefault(&o.PoolSize, 8)
	setDefault(&o.DrainTimeout, 10*time.Second)
	setDefault(&o.WriteTimeout, 30*time.Second)
	setDefault(&o.MaxSessions, 100_000)
	setDefault(&o.MaxSessionsPerAddress, 10_000)
	setDefault(&o.MaxSessionsPerSubject, 1_000)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.Logger = slog.New(redact.NewHandler(o.Logger.Handler(), s.secrets()...))
	if o.DatabaseURL == "" {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "the database URL is missing"}
	}
	if o.PoolSize < 0 {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("a pool of %d connections", o.PoolSize), Hint: "2 or more"}
	}
	cfg, err := pgxpool.ParseConfig(o.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("read the database URL: %w", err)
	}
	if _, err := pgx.ParseConfig(o.DirectDatabaseURL); err != nil {
		return nil, fmt.Errorf("read the direct database URL: %w", err)
	}
	for _, pattern := range o.AllowedOrigins {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("allowed origin %q is not a pattern", pattern)}
		}
	}
	if err := s.loadCertificate(); err != nil {
		return nil, err
	}
	cfg.MaxConns = int32(o.PoolSize) + 2*snapshotReads + 1 // a second one holds tables of which not all may be read
	if o.Access.On {
		cfg.MaxConns += accessConns + securityChecks
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "pgcast"
	}
	cfg.AfterConnect = func(context.Context, *pgx.Conn) error {
		s.dialed.Store(true)
		return nil
	}
	// Not ctx of a caller: the pool lives as long as Run.
	if s.pool, err = pgxpool.NewWithConfig(context.Background(), cfg); err != nil {
		return nil, fmt.Errorf("make the connection pool: %w", err)
	}
	if err := s.build(); err != nil {
		s.pool.Close()
		return nil, err
	}
	return s, nil
}

// snapshotReads is how many snapshots are read at once. They take long, so their connections
// are beside those that everything else has, and so is one that they share for moments.
const snapshotReads = 2

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (s *Server) build() (err error) {
	o := &s.opts
	s.refused = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pgcast_connections_refused_total",
		Help: "Connections refused before they asked for anything, because there were too many, by listener."}, []string{"listener"})
	s.registry.MustRegister(s.refused, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), poolCollector{s.pool})

	s.log = replay.NewLog(s.pool, &replay.LogOptions{MaxEvent: o.MaxEvent})
	// One of the pool's connections is left for the follower, whom nothing may hold up;
	// the sessions' reads and their requests share the others.
	reads := min(4, max(1, (o.PoolSize-1)/2))
	requests := max(1, o.PoolSize-1-reads)
	broken := s.databaseBreaker()
	ours, theirs := source{s.log, broken}, asked{s.log, broken}
	s.security = newSecurity(replay.NewSecurity(s.log, &replay.SecurityOptions{Checks: securityChecks, Registerer: s.registry, Logger: o.Logger}), o.Logger)
	var stale func(string, fanout.Lens) bool
	if o.Access.On {
		stale = s.security.stale
	}
	s.hub = fanout.NewHub(theirs, theirs, fanout.HubOptions{Stale: stale, Encode: wire.AppendEventBody, Ring: o.RingSize, Reads: reads,
		Snapshots: fanout.SnapshotOptions{Source: theirs, Encoding: gateway.SnapshotEncoding, Reads: snapshotReads,
			Fresh: o.SnapshotFresh, Dir: o.SpoolDir},
		Registerer: s.registry, Logger: o.Logger})
	s.security.hub.Store(s.hub)
	s.follower = fanout.NewFollower(ours, s.hub, &fanout.FollowerOptions{Logger: o.Logger,
		OnConnect: func(ctx context.Context) error { return ours.failed(s.identify(ctx)) },
		Moved:     func() bool { return s.dialed.Swap(false) }})
	s.sequencer = replay.NewSequencer(o.DirectDatabaseURL, s.pool, &replay.SequencerOptions{Wake: o.Wake,
		OnGrown: s.follower.Wake, Retention: &replay.RetentionOptions{Every: o.RetentionEvery},
		Registerer: s.registry, Logger: o.Logger})
	// A small budget: what is stored compressed may be some hundred times as large.
	whole := asked{replay.NewLog(s.pool, &replay.LogOptions{MaxEvent: math.MaxInt, MaxRead: 256 << 10}), broken}
	if s.live, err = s.newLive(); err != nil {
		return err
	}
	var access *gateway.Access
	if o.Access.On {
		if s.authority, err = s.newAuthority(broken); err != nil {
			return err
		}
		access = s.authority.gateway()
	}
	s.gateway = gateway.New(s.hub, theirs, theirs, gateway.Options{Whole: whole, Origins: o.AllowedOrigins, MaxFrame: o.MaxFrame,
		MaxSubscriptions: o.MaxSubscriptions, MaxSessions: o.MaxSessions,
		MaxSessionsPerAddress: o.MaxSessionsPerAddress, MaxSessionsPerSubject: o.MaxSessionsPerSubject,
		Compression: o.Compression, MaxRequests: requests, WriteTimeout: o.WriteTimeout,
		PingInterval: o.PingInterval, Identity: s.identified, Tables: theirs.Tables, Live: s.live.gateway(&o.Live),
		Limits: s.live.limits, TrustedProxies: o.Live.TrustedProxies, Access: access,
		Registerer: s.registry, Logger: o.Logger})
	if s.authority != nil {
		s.authority.watch.gateway = s.gateway
	}
	if !o.NoConsole {
		s.monitor = newMonitor(s)
	}
	return nil
}

// identify learns which cluster the database is now; sessions that know only a seq are
// reset when it is another one than they saw.
func (s *Server) identify(ctx context.Context) error {
	id, err := s.log.Identity(ctx)
	if err == nil {
		s.identity.Store(&id)
	}
	return err
}

// identified gives what identify has learned, nothing before that.
func (s *Server) identified() string {
	if id := s.identity.Load(); id != nil {
		return *id
	}
	return ""
}

// Run serves until ctx ends, then drains: not ready, no new sessions, clients told to
// come back, what is ready sent, at most DrainTimeout. The error is nil after a clean
// drain.
func (s *Server) Run(ctx context.Context) error {
	defer s.closePool()
	public, err := net.Listen("tcp", s.opts.Listen)
	if err != nil {
		return fmt.Errorf("open the public listener: %w", err)
	}
	admin, err := net.Listen("tcp", s.opts.AdminListen)
	if err != nil {
		return errors.Join(fmt.Errorf("open the admin listener: %w", err), public.Close())
	}
	address := public.Addr().String()
	s.address.Store(&address)
	front, back := s.httpServer(s.publicHandler(), "public"), s.httpServer(s.adminHandler(), "admin")
	s.warnOfPlainText()

	// The engine outlives ctx: what drains still needs the log.
	engine, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, failed := errgroup.WithContext(engine)
	g.Go(func() error { return s.follower.Run(engine) })
	g.Go(func() error { return s.sequencer.Run(engine) })
	g.Go(func() error { return s.gateway.Run(engine) })
	g.Go(func() error { return s.live.run(engine) })
	g.Go(func() error { return s.security.run(engine, s.opts.Access.On) })
	if s.authority != nil {
		g.Go(func() error { return s.authority.run(engine) })
	}
	if s.monitor != nil {
		g.Go(func() error { return s.monitor.run(engine) })
	}
	g.Go(func() error { return rest(engine, s.hub.Count, debug.FreeOSMemory) })
	g.Go(func() error { return serve(front, s.secured(public)) })
	g.Go(func() error { return serve(back, s.secured(admin)) })
	if s.opts.OnReady != nil {
		s.opts.OnReady(public.Addr().String(), admin.Addr().String())
	}
	s.opts.Logger.Info("serving", "version", s.opts.Version, "listen", public.Addr().String(), "admin", admin.Addr().String(), "console", s.consoleAt(admin.Addr().String()))

	select {
	case <-ctx.Done():
	case <-failed.Done():
	}
	s.drain(front, back)
	stop()
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// poolWait is how long the pool's connections have to say goodbye. A database that answers
// nothing any more would hold up the end for half a minute.
const poolWait = time.Second

func (s *Server) closePool() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.pool.Close()
	}()
	select {
	case <-closed:
	case <-time.After(poolWait):
		s.opts.Logger.Warn("the database does not let go of its connections; leaving without")
	}
}

func (s *Server) drain(front, back *http.Server) {
	s.draining.Store(true)
	s.opts.Logger.Info("draining", "sessions", len(s.hub.Sessions()))
	// A fifth is left for the database connections to end.
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.DrainTimeout*4/5)
	defer cancel()
	// The listeners stay open meanwhile: whoever asks is told 503, not left to guess.
	if err := s.gateway.Drain(ctx); err != nil {
		s.opts.Logger.Warn("draining took too long; the clients that were cut off resume", "error", err)
	}
	// Nothing else takes long; a request that hangs all the same is cut off.
	ctx, cancel = context.WithTimeout(context.Background(), max(s.opts.DrainTimeout/20, 100*time.Millisecond))
	defer cancel()
	for _, h := range []*http.Server{front, back} {
		if err := h.Shutdown(ctx); err != nil {
			s.opts.Logger.Warn("cut off a connection that did not end", "error", err)
			_ = h.Close()
		}
	}
}

func serve(h *http.Server, l net.Listener) error {
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}
