package faults

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/judge"
)

// network is what stands between clients and servers: it chooses a server for each
// connection, can be slow or a black hole, and can cut.
type network struct {
	servers []*judge.Server

	mu    sync.Mutex
	dials int
	slow  time.Duration // between two reads of a few bytes; 0: as it comes
	hole  bool          // nothing arrives, either way, and nobody is told
	conns map[*link]bool
}

func newNetwork(servers ...*judge.Server) *network {
	return &network{servers: servers, conns: map[*link]bool{}}
}

// options are those of a client that connects through the network.
func (n *network) options() client.Options {
	return client.Options{HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.dial}}}
}

// dial takes the servers in turn; one that is not ready is passed over, as by a balancer, if
// there is another.
func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	n.mu.Lock()
	n.dials++
	first := n.dials
	hole := n.hole
	n.mu.Unlock()
	if hole {
		return nil, errors.New("no route")
	}
	var err error
	for i := range n.servers {
		var c net.Conn
		s := n.servers[(first+i)%len(n.servers)]
		if len(n.servers) > 1 && !s.Ready() {
			err = errors.New("no server is ready")
			continue
		}
		if c, err = (&net.Dialer{}).DialContext(ctx, "tcp", s.Listen); err == nil {
			l := &link{Conn: c, net: n, closed: make(chan struct{})}
			n.mu.Lock()
			n.conns[l] = true
			n.mu.Unlock()
			return l, nil
		}
	}
	return nil, err
}

func (n *network) setSlow(d time.Duration) { n.mu.Lock(); n.slow = d; n.mu.Unlock() }

func (n *network) setHole(v bool) { n.mu.Lock(); n.hole = v; n.mu.Unlock() }

// cut breaks all connections.
func (n *network) cut() {
	n.mu.Lock()
	links := slices.Collect(maps.Keys(n.conns))
	n.mu.Unlock()
	for _, l := range links {
		_ = l.Close()
	}
}

type link struct {
	net.Conn
	net    *network
	once   sync.Once
	closed chan struct{}
}

func (l *link) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.net.mu.Lock()
		delete(l.net.conns, l)
		l.net.mu.Unlock()
	})
	return l.Conn.Close()
}

func (l *link) state() (slow time.Duration, hole bool) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	return l.net.slow, l.net.hole
}

func (l *link) Read(p []byte) (int, error) {
	slow, hole := l.state()
	if slow > 0 {
		select {
		case <-l.closed:
			return 0, io.ErrClosedPipe
		case <-time.After(slow):
		}
		p = p[:min(len(p), 1)]
	}
	if hole {
		<-l.closed
		return 0, io.ErrClosedPipe
	}
	k, err := l.Conn.Read(p)
	if _, hole := l.state(); hole { // it had been waiting
		<-l.closed
		return 0, io.ErrClosedPipe
	}
	return k, err
}

func (l *link) Write(p []byte) (int, error) {
	if _, hole := l.state(); hole {
		return len(p), nil
	}
	return l.Conn.Write(p)
}

// ends notes how a client's connections end, and how long it was without one.
type ends struct {
	mu       sync.Mutex
	abnormal []string // ends that no close frame told of
	told     int      // with 1001
	since    time.Time
	took     []time.Duration
}

// Handle takes what the client logs.
func (e *ends) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		err, ok := a.Value.Any().(error)
		if !ok {
			return true
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.since.IsZero() {
			e.since = time.Now()
		}
		switch {
		case websocket.CloseStatus(err) == websocket.StatusGoingAway:
			e.told++
		case strings.HasPrefix(err.Error(), "connect to"): // the handshake was refused
		default:
			e.abnormal = append(e.abnormal, err.Error())
		}
		return true
	})
	return nil
}

// back notes that the client is connected.
func (e *ends) back() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.since.IsZero() {
		e.took = append(e.took, time.Since(e.since))
		e.since = time.Time{}
	}
}

func (e *ends) Enabled(context.Context, slog.Level) bool { return true }
func (e *ends) WithAttrs([]slog.Attr) slog.Handler       { return e }
func (e *ends) WithGroup(string) slog.Handler            { return e }

// everywhere starts a client whose connections go to all servers in turn.
func everywhere(t *testing.T, n *network, name string, e *ends, topics ...string) *judge.Reader {
	t.Helper()
	o := n.options()
	if e != nil {
		o.Logger = slog.New(e)
	}
	return judge.NewReader(t, "http://"+n.servers[0].Listen, name, &judge.ReaderOptions{Client: o, Arrival: true}, topics...)
}
