package server

import (
	"fmt"
	"net/http"
	"net/http/pprof"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pgcast/pgcast/client/js"
	"github.com/pgcast/pgcast/internal/perimeter"
	"github.com/pgcast/pgcast/internal/static"
)

func (s *Server) publicHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/ws", s.gateway)
	mux.Handle("/topics/", s.gateway.Topics())
	mux.Handle("/groups/", s.gateway.Groups())
	mux.Handle("/tickets", s.gateway.SignIn())
	mux.Handle("/__ws/auth", s.gateway.SignIn())
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /openapi.json", apiDoc("openapi.json"))
	mux.HandleFunc("GET /asyncapi.json", apiDoc("asyncapi.json"))
	mux.Handle("GET /client/", browserClient())
	if s.opts.Public != nil {
		mux.Handle("/", s.opts.Public)
	}
	if s.opts.Guard != nil {
		return s.opts.Guard(mux)
	}
	return mux
}

// browserClient serves the TypeScript client as modules, to pages of any origin: it has no
// secrets.
func browserClient() http.Handler {
	files := static.Handler("/client/", js.Files())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Cross-Origin-Resource-Policy", "cross-origin")
		files.ServeHTTP(w, r)
	})
}

func (s *Server) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	s.limits(mux)
	s.access(mux)
	if s.opts.Profile {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index) // and those it lists
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	admin := perimeter.NoBrowsers(mux)
	if s.opts.AdminToken != "" {
		admin = perimeter.Token(s.opts.AdminToken, admin, "/healthz", "/readyz")
	}
	if !s.opts.NoConsole {
		admin = s.withConsole(admin)
	}
	if s.opts.AdminToken == "" && perimeter.Loopback(s.opts.AdminListen) {
		return perimeter.Hosts(nil, "use localhost, or 127.0.0.1, or start it with an admin token")(admin)
	}
	return admin
}

// healthz says that the process lives; restarting it would not help with anything else.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }

// readyz says whether clients should be sent here.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	switch {
	case s.draining.Load():
		http.Error(w, "draining", http.StatusServiceUnavailable)
	case !s.follower.CaughtUp():
		http.Error(w, "not caught up with the log, or the database cannot be read", http.StatusServiceUnavailable)
	case s.authority != nil && s.authority.authorizer.Halted():
		http.Error(w, "who may do what is not known yet", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ready")
	}
}

// poolCollector exports the connection pool's figures.
type poolCollector struct{ pool *pgxpool.Pool }

var (
	poolInUse = prometheus.NewDesc("pgcast_pool_connections_in_use", "Database connections of the pool in use.", nil, nil)
	poolOpen  = prometheus.NewDesc("pgcast_pool_connections_open", "Database connections of the pool.", nil, nil)
	poolMax   = prometheus.NewDesc("pgcast_pool_connections_max", "Database connections the pool may open.", nil, nil)
	poolWaits = prometheus.NewDesc("pgcast_pool_waits_total", "Times somebody had to wait for a connection of the pool.", nil, nil)
)

// Describe sends the collector's descriptions.
func (c poolCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- poolInUse
	ch <- poolOpen
	ch <- poolMax
	ch <- poolWaits
}

// Collect sends the pool's figures of this moment.
func (c poolCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.pool.Stat()
	ch <- prometheus.MustNewConstMetric(poolInUse, prometheus.GaugeValue, float64(s.AcquiredConns()))
	ch <- prometheus.MustNewConstMetric(poolOpen, prometheus.GaugeValue, float64(s.TotalConns()))
	ch <- prometheus.MustNewConstMetric(poolMax, prometheus.GaugeValue, float64(s.MaxConns()))
	ch <- prometheus.MustNewConstMetric(poolWaits, prometheus.CounterValue, float64(s.EmptyAcquireCount()))
}
