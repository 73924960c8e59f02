// Package gateway is the server's side of the wire protocol: it reads what clients ask
// for, turns that into a fanout.Session's requests, and writes the session's items to the
// connection: frames over WebSocket, events over SSE, or one answer over HTTP.
// docs/protocol.md and docs/http.md are the normative texts.
package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/filter"
	"github.com/pgcast/pgcast/presence/ratelimit"
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

// transport is one client's connection, of whatever kind.
type transport interface {
	// check looks after the connection, now and then, and gives a reason to cut it. It
	// must not wait for the client.
	check(now time.Time) error
	// cut closes the connection, whatever its goroutines are waiting for.
	cut()
	// whose tells who has it, nil while nobody knows, and by what public key the session can
	// be named, empty where it cannot.
	whose() (claims *auth.Claims, session string)
}

// Gateway serves sessions over WebSocket and SSE, and single requests over HTTP.
type Gateway struct {
	hub     *fanout.Hub
	publish Publisher
	history Historian
	opts    Options
	metrics *metrics
	tables  *filter.Tables

	slots   chan struct{} // one for each request under way
	tickets chan struct{} // one for each ticket that is being redeemed
	large   chan struct{} // one for each answer on its way that is larger than a frame

	heartbeat time.Duration // a session that was sent nothing for so long is sent hb
	signIn    time.Duration // within which a client has to say who it is
	closeWait time.Duration // for the client's answer to a close frame

	mu       sync.Mutex
	clients  map[transport]*fanout.Session // nil while the handshake goes on
	crowd    crowd
	rights   map[*rights]struct{}
	checks   int64     // Rechecks, in all
	doubtful []*rights // to be decided on anew
	deciding int       // goroutines that do
	draining bool
	waiting  map[string]int  // sockets by address, of those who have yet to say who they are
	revoked  []revocation    // the newest
	revokes  int64           // in all
	empty    chan struct{}   // closed when draining and the last client has gone
	degraded map[string]bool // backends
	spread   time.Duration   // when draining: over which clients are asked to come back
}

// Options; the zero value of each field stands for its default.
type Options struct {
	// Origins are host patterns (path.Match) of web pages that may connect, beside those
	// of the request's own host.
	Origins          []string
	MaxFrame         int // bytes of a client's frame; default 256 KiB
	MaxSubscriptions int // of one session; default 1,000
	MaxSessions      int // default 100,000
	// MaxSessionsPerAddress bounds those of one address, an IPv6 one being its /64; default
	// 10,000. MaxSessionsPerSubject bounds those of all who have the same sub; default 1,000.
	MaxSessionsPerAddress, MaxSessionsPerSubject int
	// Compression lets clients of WebSockets send compressed frames (RFC 7692). What they are
	// sent is not: it is framed once for all.
	Compression bool
	// MaxRequests bounds the publishes and history reads under way at once, of all
	// sessions together; the others wait. The reader of the log must never wait for a
	// database connection behind them. Default 3.
	MaxRequests  int
	WriteTimeout time.Duration // for which a client may read nothing; default 30 s
	PingInterval time.Duration // of silence after which a client is pinged; default 25 s
	// Whole reads events of any size, for answers over HTTP. Default: the history that
	// frames are made of, which leaves out what is too large for them.
	Whole Historian
	// Identity names the cluster and timeline the log is on; empty while the log could not
	// be read yet, when nobody can be told where they stand and so nobody is let in.
	// Default: one that never changes.
	Identity func() string
	// Tables gives the attached tables, for filters to be checked against; nil: there are none.
	Tables func(context.Context) ([]pgcast.Table, error)
	Live   Live
	Access *Access            // nil: whoever connects may do everything
	Limits *ratelimit.Limiter // nil: nothing is limited
	// TrustedProxies are those whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	Registerer     prometheus.Registerer // nil: no metrics
	Logger         *slog.Logger          // default slog.Default()
}

const (
	pongWait       = 15 * time.Second // after a ping
	heartbeatEvery = 50 * time.Second // the peer protocol's client closes after 150 s without a frame
	closeWait      = 2 * time.Second
	askTimeout     = 10 * time.Second // for the log to answer one frame
	drainJitter    = 2 * time.Second  // over which clients are asked to come back, if there are many
	drainLeast     = 300 * time.Millisecond
	drainEach      = 200 * time.Microsecond // that much longer for each
	badFrames      = 100                    // of one session, after which it is closed
	refusedFree    = 50                     // of one session, before refusing slows it down
	refusedPause   = time.Millisecond       // for each refused from then on, and for each KiB of it
	refusedMost    = time.Second            // for one frame
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
	def(&opts.MaxSessionsPerAddress, 10_000)
	def(&opts.MaxSessionsPerSubject, 1_000)
	def(&opts.MaxRequests, 3)
	if opts.WriteTimeout <= 0 {
		opts.WriteTimeout = 30 * time.Second
	}
	if opts.PingInterval <= 0 {
		opts.PingInterval = 25 * time.Second
	}
	if opts.Whole == nil {
		opts.Whole = history
	}
	if opts.Identity == nil {
		opts.Identity = func() string { return "0" }
	}
	if opts.Access != nil {
		own := *opts.Access
		if own.TicketTTL <= 0 {
			own.TicketTTL = 30 * time.Second
		}
		if own.DecisionTTL <= 0 {
			own.DecisionTTL = decisionTTL
		}
		opts.Access = &own
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	g := &Gateway{hub: hub, publish: publish, history: history, opts: opts, metrics: newMetrics(opts.Registerer),
		slots: make(chan struct{}, opts.MaxRequests), tickets: make(chan struct{}, redeemers), large: make(chan struct{}, opts.MaxRequests), heartbeat: heartbeatEvery, signIn: signInWithin, closeWait: closeWait, clients: map[transport]*fanout.Session{}, crowd: newCrowd(opts.MaxSessionsPerAddress, opts.MaxSessionsPerSubject), rights: map[*rights]struct{}{}, waiting: map[string]int{}, degraded: map[string]bool{}, empty: make(chan struct{})}
	load := g.attached
	if opts.Tables == nil {
		load = nil
	}
	g.tables = filter.NewTables(load)
	return g
}

// ServeHTTP upgrades a request to a session and returns; the session lives on.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.opts.Access != nil && !g.admitPage(w, r) {
		return
	}
	a, r, err := g.identify(w, r, byTicket|byCookie|bySubprotocol)
	r = a.of(r)
	if limited := g.limitRequest(r, ratelimit.Connect, ratelimit.Ask{Cost: 1}); limited != nil {
		err = limited
	} else if err == nil && a.claims != nil {
		err = g.allow(r.Context(), a.claims, auth.Connect, "")
	}
	g.upgrade(w, r, a, err, nil)
}

// upgrade makes a session of a handshake, or refuses it with the error. Of an operator's op is
// not nil.
func (g *Gateway) upgrade(w http.ResponseWriter, r *http.Request, a asking, err error, op *operators) {
	c := &client{g: g, conn: &conn{timeout: g.opts.WriteTimeout}, id: rand.Text(), names: map[string]struct{}{}, operators: op}
	c.system.g = g
	if err != nil {
		if c.refusal = refusal(err); c.refusal == nil || !browser(r) {
			g.metrics.refused.Inc()
			g.refuse(w, err)
			return
		}
	}
	if err := g.admit(c, g.addressOf(r), a.claims); err != nil {
		g.metrics.refused.Inc()
		g.refuse(w, err)
		return
	}
	if a.claims == nil || c.refusal != nil {
		if err := g.wait(c, g.addressOf(r)); err != nil {
			g.metrics.refused.Inc()
			g.forget(c)
			g.refuse(w, err)
			return
		}
	}
	ws, err := websocket.Accept(&hijacker{w, c.conn}, r, &websocket.AcceptOptions{
		OriginPatterns: c.origins(), CompressionMode: g.compression(), Subprotocols: []string{subprotocol},
		OnPingReceived: func(_ context.Context, payload []byte) bool {
			c.conn.answer(payload)
			return false
		},
		OnPongReceived: func(_ context.Context, payload []byte) { c.conn.ponged(payload) }})
	if err != nil {
		g.metrics.refused.Inc()
		g.forget(c)
		return // Accept has answered
	}
	c.conn.heard()
	c.conn.lastWrite.Store(time.Now().UnixNano())
	ws.SetReadLimit(-1) // read has its own, so as to be the one who closes
	c.ws = ws
	c.known(r)
	c.session = g.hub.NewSession(c)
	if a.claims != nil && c.refusal == nil {
		c.take(a.claims)
	}
	if op == nil {
		g.watchOver(c.claims.Load, c.session, c, a.checks)
	}
	g.attach(c, c.session)
	g.settle(c, c.session, a.since)
	if c.refusal == nil {
		g.metrics.connects.Inc()
	} else {
		g.metrics.refused.Inc()
	}
	// In a goroutine of its own: returning lets go of net/http's buffers and stack.
	go c.run()
}

// Why nobody is let in. Others, or this server in a moment, will.
var (
	errStarting = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "starting: the database could not be read yet"}
	errLeaving  = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "the server is going away", Hint: "come back in a moment"}
	errNoRoom   = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "no room for another session", Hint: "come back in a moment"}
)

func (g *Gateway) admit(t transport, address string, claims *auth.Claims) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.opts.Identity() == "":
		return errStarting
	case g.draining:
		return errLeaving
	case len(g.clients) >= g.opts.MaxSessions:
		return errNoRoom
	}
	if err := g.crowd.enter(t, address, subjectOf(claims)); err != nil {
		return err
	}
	g.clients[t] = nil
	return nil
}

// open gives a client its session.
func (g *Gateway) open(t transport, sink fanout.Sink) *fanout.Session {
	session := g.hub.NewSession(sink)
	g.attach(t, session)
	return session
}

// attach notes a client's session; from here on Drain and Run see it.
func (g *Gateway) attach(t transport, session *fanout.Session) {
	g.mu.Lock()
	g.clients[t] = session
	draining := g.draining
	g.mu.Unlock()
	if draining {
		session.Finish(errDraining)
	}
}

func (g *Gateway) forget(t transport) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.clients, t)
	g.crowd.leave(t)
	if c, is := t.(*client); is {
		g.unwait(c)
	}
	if g.draining && len(g.clients) == 0 {
		close(g.empty)
	}
}

// connected is a transport that has its session.
type connected struct {
	transport
	session *fanout.Session
}

// kill cuts the connection and ends the session.
func (c connected) kill(reason error) {
	c.cut()
	c.session.End(reason)
}

func (g *Gateway) all() []connected {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]connected, 0, len(g.clients))
	for t, session := range g.clients {
		if session != nil {
			list = append(list, connected{t, session})
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
				if err := c.check(now); err != nil {
					c.kill(err)
				}
			}
		}
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
	g.spread = min(max(drainLeast, time.Duration(len(g.clients))*drainEach), drainJitter)
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

// comeBack is when a client that is told to go is to come back: not all at once, and no later
// than their number asks for, since meanwhile it hears of nothing.
func (g *Gateway) comeBack() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return mathrand.N(max(g.spread, drainLeast))
}
