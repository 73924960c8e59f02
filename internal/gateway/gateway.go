// Package gateway is the server's side of the wire protocol over WebSocket: it reads
// clients' frames, turns them into a fanout.Session's requests, and writes the session's
// items to the connection. docs/protocol.md is the protocol's normative text.
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
)

// Publisher adds events to the log.
type Publisher interface {
	Publish(ctx context.Context, topic, event string, data json.RawMessage, key string) (pgcast.ID, error)
}

// Historian reads single topics, and the log by pattern.
type Historian interface {
	Page(ctx context.Context, topic string, after pgcast.Seq, max int) (pgcast.Page, error)
	Scan(ctx context.Context, p pgcast.Pattern, after, upto pgcast.Position, max int) ([]pgcast.Event, pgcast.Position, error)
	ScanGap(ctx context.Context, p pgcast.Pattern, after pgcast.Position) (pgcast.Position, error)
}

// Gateway serves WebSocket sessions.
type Gateway struct {
	hub     *fanout.Hub
	publish Publisher
	history Historian
	opts    Options
	metrics *metrics

	slots chan struct{} // one for each request under way

	heartbeat time.Duration // a session that was sent nothing for so long is sent hb
	closeWait time.Duration // for the client's answer to a close frame

	mu       sync.Mutex
	clients  map[*client]struct{}
	draining bool
	empty    chan struct{} // closed when draining and the last client has gone
}

// Options; the zero value of each field stands for its default.
type Options struct {
	// Origins are host patterns (path.Match) of web pages that may connect, beside those
	// of the request's own host.
	Origins          []string
	MaxFrame         int // bytes of a client's frame; default 256 KiB
	MaxSubscriptions int // of one session; default 1,000
	MaxSessions      int // default 100,000
	// MaxRequests bounds the publishes and history reads under way at once, of all
	// sessions together; the others wait. The reader of the log must never wait for a
	// database connection behind them. Default 3.
	MaxRequests  int
	WriteTimeout time.Duration // for which a client may read nothing; default 30 s
	PingInterval time.Duration // of silence after which a client is pinged; default 25 s
	// Identity names the cluster and timeline the log is on. Default: none, which never
	// changes.
	Identity   func() string
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // default slog.Default()
}

const (
	pongWait       = 15 * time.Second // after a ping
	heartbeatEvery = 50 * time.Second // the peer protocol's client closes after 150 s without a frame
	closeWait      = 2 * time.Second
	askTimeout     = 10 * time.Second // for the log to answer one frame
	drainJitter    = 2 * time.Second  // over which clients are asked to come back
	badFrames      = 100              // of one session, after which it is closed
)

// New makes a gateway; Run looks after its sessions.
func New(hub *fanout.Hub, publish Publisher, history Historian, opts Options) *Gateway {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&opts.MaxFrame, 256<<10)
	def(&opts.MaxSubscriptions, 1000)
	def(&opts.MaxSessions, 100_000)
	def(&opts.MaxRequests, 3)
	if opts.WriteTimeout <= 0 {
		opts.WriteTimeout = 30 * time.Second
	}
	if opts.PingInterval <= 0 {
		opts.PingInterval = 25 * time.Second
	}
	if opts.Identity == nil {
		opts.Identity = func() string { return "0" }
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	return &Gateway{hub: hub, publish: publish, history: history, opts: opts, metrics: newMetrics(opts.Registerer),
		slots: make(chan struct{}, opts.MaxRequests), heartbeat: heartbeatEvery, closeWait: closeWait, clients: map[*client]struct{}{}, empty: make(chan struct{})}
}

// slot waits for room among the requests under way.
func (g *Gateway) slot(ctx context.Context) (release func(), err error) {
	select {
	case g.slots <- struct{}{}:
		return func() { <-g.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ServeHTTP upgrades a request to a session and returns; the session lives on.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &client{g: g, conn: &conn{timeout: g.opts.WriteTimeout}, names: map[string]struct{}{}}
	if !g.admit(c) {
		g.metrics.refused.Inc()
		w.Header().Set("Retry-After", "1")
		http.Error(w, "no room for another session, or going away; come back in a moment", http.StatusServiceUnavailable)
		return
	}
	ws, err := websocket.Accept(&hijacker{w, c.conn}, r, &websocket.AcceptOptions{
		OriginPatterns: g.opts.Origins, CompressionMode: websocket.CompressionDisabled,
		OnPingReceived: func(_ context.Context, payload []byte) bool {
			c.conn.answer(payload)
			return false
		}})
	if err != nil {
		g.metrics.refused.Inc()
		g.forget(c)
		return // Accept has answered
	}
	c.conn.heard()
	c.conn.lastWrite.Store(time.Now().UnixNano())
	ws.SetReadLimit(-1) // read has its own, so as to be the one who closes
	c.ws = ws
	g.open(c)
	g.metrics.connects.Inc()
	// In a goroutine of its own: returning lets go of net/http's buffers and stack.
	go c.run()
}

func (g *Gateway) admit(c *client) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.draining || len(g.clients) >= g.opts.MaxSessions {
		return false
	}
	g.clients[c] = struct{}{}
	return true
}

// open gives the client its session; from here on Drain and check see it.
func (g *Gateway) open(c *client) {
	session := g.hub.NewSession(c)
	g.mu.Lock()
	c.session = session
	draining := g.draining
	g.mu.Unlock()
	if draining {
		session.Finish(errDraining)
	}
}

func (g *Gateway) forget(c *client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.clients, c)
	if g.draining && len(g.clients) == 0 {
		close(g.empty)
	}
}

func (g *Gateway) all() []*client {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*client, 0, len(g.clients))
	for c := range g.clients {
		if c.session != nil {
			list = append(list, c)
		}
	}
	return list
}

// Run pings silent clients, ends those that do not answer, and keeps quiet connections
// warm, until ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	tick := time.NewTicker(max(g.opts.PingInterval/25, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			for _, c := range g.all() {
				g.check(c, now)
			}
		}
	}
}

// check must not wait for a client: it writes in goroutines of their own.
func (g *Gateway) check(c *client, now time.Time) {
	since := func(nanos int64) time.Duration { return now.Sub(time.Unix(0, nanos)) }
	heard, wrote, pinged := c.conn.lastHeard.Load(), c.conn.lastWrite.Load(), c.conn.lastPing.Load()
	switch {
	case pinged > heard && since(pinged) > min(pongWait, g.opts.PingInterval) && !c.conn.writing():
		c.kill(errSilent)
	case pinged <= heard && since(heard) > g.opts.PingInterval:
		go c.conn.ping()
	case since(wrote) > g.heartbeat:
		go c.conn.beat()
	}
}

var (
	errSilent   = errors.New("the peer does not answer pings")
	errDraining = errors.New("the server is going away")
)

// Drain refuses new sessions, lets the others send what they have ready and tells their
// clients to come back, each after another while. It returns when all have gone; when
// ctx ends first, the rest is cut off (and resumes elsewhere like after any cut).
func (g *Gateway) Drain(ctx context.Context) error {
	g.mu.Lock()
	g.draining = true
	if len(g.clients) == 0 {
		close(g.empty)
	}
	g.mu.Unlock()
	for _, c := range g.all() {
		go c.session.Finish(errDraining) // may have to wait for a slow client
	}
	select {
	case <-g.empty:
		return nil
	case <-ctx.Done():
	}
	left := g.all()
	for _, c := range left {
		c.kill(errDraining)
	}
	return fmt.Errorf("drain: %d sessions had to be cut off: %w", len(left), ctx.Err())
}

func retryHint() string { return fmt.Sprintf("retry=%d", rand.N(drainJitter).Milliseconds()) }
