package server

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/perimeter"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// secrets are the passwords and keys among the options, for the log to leave out.
func (s *Server) secrets() []string {
	o := &s.opts
	list := []string{o.AdminToken, o.Access.Secret}
	for _, text := range []string{o.DatabaseURL, o.DirectDatabaseURL, o.Live.RedisURL} {
		if c, err := pgconn.ParseConfig(text); err == nil {
			list = append(list, c.Password)
		}
		if u, err := url.Parse(text); err == nil {
			if password, ok := u.User.Password(); ok {
				_, written, _ := strings.Cut(u.User.String(), ":")
				list = append(list, password, written)
			}
		}
	}
	return list
}

// leastAdminToken is how many bytes an admin token has at least: nobody is kept from trying.
const leastAdminToken = 16

// loadCertificate reads the certificate, if there is to be TLS, and refuses a token that can
// be guessed.
func (s *Server) loadCertificate() (err error) {
	o := &s.opts
	switch {
	case o.AdminToken != "" && len(o.AdminToken) < leastAdminToken:
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "the admin token is too short", Hint: "16 bytes or more, as openssl rand -hex 32 gives them"}
	case (o.TLSCertFile == "") != (o.TLSKeyFile == ""):
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "of the TLS certificate and its key there is only one", Hint: "give both"}
	case o.TLSCertFile == "":
		return nil
	}
	if s.cert, err = perimeter.LoadCertificate(o.TLSCertFile, o.TLSKeyFile, o.Logger); err != nil {
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: err.Error(), Hint: "PEM files: the certificate before those of its authorities, and its key without a password"}
	}
	return nil
}

// secured is a listener with TLS, if there is to be.
func (s *Server) secured(l net.Listener) net.Listener {
	if s.cert == nil {
		return l
	}
	return tls.NewListener(l, s.cert.Config())
}

// warnOfPlainText says once that what is streamed can be read on its way.
func (s *Server) warnOfPlainText() {
	for _, addr := range []string{s.opts.Listen, s.opts.AdminListen} {
		if s.cert == nil && !perimeter.Loopback(addr) {
			s.opts.Logger.Warn("listening off this machine without TLS: tokens and events can be read on their way unless a proxy in front speaks TLS", "listen", addr)
		}
	}
}

// Before a request has come, and between two of them, a connection costs a buffer of 4 KiB, a goroutine and the
// kernel's part; so long it may take for its handshake and its header.
const (
	headerTimeout = 5 * time.Second
	headerBytes   = 16 << 10
	idleTimeout   = time.Minute
)

func (s *Server) httpServer(h http.Handler, name string) *http.Server {
	h = perimeter.Headers(s.cert != nil, h)
	// A body that does not come would keep its connection for ever, also where nobody reads
	// it: what is left of it is taken before the answer goes out.
	bounded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != http.NoBody {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.opts.WriteTimeout))
		}
		h.ServeHTTP(w, r)
	})
	var told atomic.Int64
	crowd := perimeter.NewCrowd(s.opts.MaxSessionsPerAddress, s.opts.MaxSessions, s.crowdKey, func(address string) {
		s.refused.WithLabelValues(name).Inc()
		// Once a minute: whoever floods a server must not flood its log.
		if now, last := time.Now().Unix(), told.Load(); now-last >= 60 && told.CompareAndSwap(last, now) {
			s.opts.Logger.Warn("too many connections at a time; further ones are refused", "listener", name, "address", address,
				"max-sessions-per-address", s.opts.MaxSessionsPerAddress, "max-sessions", s.opts.MaxSessions)
		}
	})
	return &http.Server{Handler: bounded, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytes,
		ConnState: crowd.State, ErrorLog: slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelDebug)}
}

// crowdKey is the address that a connection counts for: none where a trusted proxy speaks
// for many.
func (s *Server) crowdKey(remote net.Addr) string {
	addr := ratelimit.Address(remote.String(), nil, nil)
	for _, p := range s.opts.Live.TrustedProxies {
		if p.Contains(addr) {
			return ""
		}
	}
	return ratelimit.AddressKey(addr)
}
