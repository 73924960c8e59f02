package server

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast/internal/console"
	"github.com/pgcast/pgcast/internal/perimeter"
)

// withConsole is the admin listener's handler with the console before it, whose page is open
// and whose answers are not.
func (s *Server) withConsole(admin http.Handler) http.Handler {
	o := &console.Options{Me: s.aboutMe, Overview: s.monitor.overview, Sessions: consoleSessions{s},
		Topics: consoleTopics{s}, Tables: consoleTables{s}, Health: s.health().tell}
	if s.opts.AdminToken != "" {
		o.Shown = perimeter.Is(s.opts.AdminToken)
	}
	o.Socket = s.gateway.Operators(o.Shown)
	page := console.New(o)
	// No mux: it would lead //healthz to another path, past the token.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/console" || strings.HasPrefix(r.URL.Path, "/console/") {
			page.ServeHTTP(w, r)
			return
		}
		admin.ServeHTTP(w, r)
	})
}

// consoleAt is the page's address, "off" where there is none.
func (s *Server) consoleAt(admin string) string {
	switch {
	case s.opts.NoConsole:
		return "off"
	case s.cert != nil:
		return "https://" + admin + "/console/"
	}
	return "http://" + admin + "/console/"
}

func (s *Server) aboutMe() console.Me {
	me := console.Me{Version: s.opts.Version, Database: databaseOf(s.pool), Access: s.authority != nil}
	if at := s.address.Load(); at != nil {
		scheme := "ws://"
		if s.cert != nil {
			scheme = "wss://"
		}
		me.Listen = scheme + *at
	}
	return me
}

// databaseOf says where a pool leads to, without who is let in.
func databaseOf(pool *pgxpool.Pool) string {
	c := pool.Config().ConnConfig
	return c.Host + ":" + strconv.Itoa(int(c.Port)) + "/" + c.Database
}

// consoleSessions tells the console of sessions.
type consoleSessions struct{ *Server }

// Sessions implements [console.SessionSource].
func (s consoleSessions) Sessions(search string, limit int) console.Sessions {
	list, total := s.gateway.Sessions(search, limit)
	answer := console.Sessions{Sessions: make([]console.SessionLine, len(list)), Total: total}
	if at := s.address.Load(); at != nil {
		answer.Server = *at
	}
	for i, l := range list {
		line := console.SessionLine{ID: l.ID, Subject: l.Subject, User: l.User, Transport: l.Transport, Operator: l.Operator, Address: l.Address,
			Since: l.Since.UnixMilli(), Subscriptions: l.Topics, SubscriptionCount: l.Count, Behind: l.Behind}
		if l.RTT > 0 {
			line.RTT = millis(l.RTT)
		}
		if !l.Expires.IsZero() {
			at := l.Expires.UnixMilli()
			line.Expires = &at
		}
		answer.Sessions[i] = line
	}
	return answer
}

// Disconnect implements [console.SessionSource].
func (s consoleSessions) Disconnect(id string) bool {
	there := s.gateway.Disconnect(id)
	if there {
		s.opts.Logger.Info("an operator ended a session", "session", id)
	}
	return there
}

// millis is a duration in milliseconds, to the microsecond.
func millis(d time.Duration) *float64 {
	ms := float64(d.Microseconds()) / 1000
	return &ms
}
