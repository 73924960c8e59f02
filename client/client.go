// Package client is the Go client of a pgcast server. It subscribes to topics and
// patterns, keeps their places, and comes back after whatever cut it off, so that the
// app gets each event exactly once and in order:
//
//	c := client.New("ws://localhost:8080", nil)
//	go c.Run(ctx)
//	for e, err := range c.Topic("room:1", nil).Events(ctx) {
//		if err != nil {
//			return err // a Gap or Reset, too: what the app holds is to be fetched anew
//		}
//		fmt.Println(e.Topic, e.Seq, e.Name, string(e.Data))
//	}
//
// Topics are iterated by several goroutines, each at its own pace; [Topic] also publishes,
// reads history, and has presence and cursors, and [Rows] is a live table. Or all
// subscriptions come in one stream, by [Client.Subscribe] and [Client.Items].
//
// A place lives as long as the Client. [Options].Places has it outlive the process.
//
// docs/client-go.md is the reference.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// Options; the zero value of each field stands for its default.
type Options struct {
	Header     http.Header  // of the handshake, for cookies and the like
	HTTPClient *http.Client // for the handshake
	// Token gives the token, or API key, that says who this is; nil: nothing does. It is asked
	// before each connection, and before the token expires, with at most DialTimeout to answer.
	// After an error the client tries again, as after a failed connection; after a
	// [*RefusedError] Run ends.
	Token      func(context.Context) (string, error)
	MinBackoff time.Duration // before the first attempt to reconnect, and doubled with each; default 100 ms
	MaxBackoff time.Duration // default 5 s
	// DialTimeout bounds one attempt to connect. Default 10 s.
	DialTimeout time.Duration
	// ReadTimeout is how long the server may be silent; it sends a frame at least every
	// 50 s. Default 75 s.
	ReadTimeout time.Duration
	// User, an object of at most 4 KiB, says who this is where no token does: what presence,
	// groups and cursors show to others.
	User json.RawMessage
	// Places keeps the places of topics, so that another process goes on where this one was;
	// nil: nothing does. For those that are iterated by [Client.Topic].
	Places Places
	Logger *slog.Logger // default slog.Default()
}

// Client is one client of one server.
type Client struct {
	url    string
	opts   Options
	filled chan struct{} // has room for one; tells Next of the inbox
	moved  chan struct{} // has room for one; tells the reader that it may read on

	expiring chan struct{} // has room for one; tells renewals that the token expires
	entering chan struct{} // has room for one; tells entries of live state that is wanted
	done     chan struct{} // closed when Run has returned
	err      error         // Run's; set before done is closed

	rest []Item // owned by the caller of Next

	mu       sync.Mutex
	inbox    []Item // for Next
	size     int    // of the inbox in bytes
	ran      bool
	stats    Stats
	conn     *websocket.Conn // nil while there is no connection
	queue    []outgoing      // frames for this connection's writer
	wake     chan struct{}   // has room for one; tells the writer of the queue
	lastRef  int64
	calls    map[int64]*call
	order    int
	subs     map[string]*subscription
	patterns []*subscription // those of subs that are patterns, in order
	retired  []*subscription
	use      use
	held     map[string]*Topic // that are iterated, by name

	lives      map[string]*feed // by the server's own topic
	presences  map[string]*Presence
	cursors    map[string]*Cursors
	groups     map[string]*Group
	status     Status
	statusNext chan struct{} // closed with the next change

	healthy bool // a subscribe was answered in this connection
	welcome bool // the server has welcomed us in the newest connection
	lapses  int  // how often in a row our token had expired when it was shown
}

// Stats count what happened since New.
type Stats struct {
	Connected  bool
	Connects   uint64
	Events     uint64 // given to the app
	Gaps       uint64
	Resets     uint64
	Duplicates uint64 // events the server sent twice, and the app did not get twice
	Holes      uint64 // places where an event was missing, and was asked for again
	Pauses     uint64 // times that a topic stopped because its consumer was slow
}

// New makes a client of the server at url: ws, wss, http or https; without a path,
// /ws. Run connects it. opts may be nil.
func New(url string, opts *Options) *Client {
	c := &Client{
		url: url, filled: make(chan struct{}, 1), moved: make(chan struct{}, 1), done: make(chan struct{}),
		expiring: make(chan struct{}, 1), wake: make(chan struct{}, 1), calls: map[int64]*call{}, subs: map[string]*subscription{},
		held: map[string]*Topic{}, presences: map[string]*Presence{}, cursors: map[string]*Cursors{}, groups: map[string]*Group{},
		entering: make(chan struct{}, 1), status: Status{State: Idle}, statusNext: make(chan struct{}),
	}
	if opts != nil {
		c.opts = *opts
	}
	def := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&c.opts.MinBackoff, 100*time.Millisecond)
	def(&c.opts.MaxBackoff, 5*time.Second)
	def(&c.opts.DialTimeout, 10*time.Second)
	def(&c.opts.ReadTimeout, 75*time.Second)
	if c.opts.Logger == nil {
		c.opts.Logger = slog.Default()
	}
	return c
}

// RefusedError says that the server does not want this client, so that it is no use to
// come back.
type RefusedError struct {
	Code   int // close code, or status of the handshake
	Reason string
}

// Error tells the code and the reason.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("the server refused the connection with code %d: %s", e.Code, e.Reason)
}

// Run keeps the client connected until ctx ends, or until the server refuses it
// ([RefusedError]). It reconnects for ever, with growing pauses, after everything else.
// A Client runs once.
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	ran := c.ran
	c.ran = true
	c.mu.Unlock()
	if ran {
		return errors.New("this client has run already; make a new one")
	}
	err := c.run(ctx)
	end := Status{State: Closed, Err: err}
	if refused := (*RefusedError)(nil); errors.As(err, &refused) {
		end.State = Refused
	}
	c.mu.Lock()
	c.err = fmt.Errorf("the client has ended: %w", err)
	c.is(end)
	c.mu.Unlock()
	close(c.done)
	return err
}

func (c *Client) run(ctx context.Context) error {
	target, err := endpoint(c.url)
	if err != nil {
		return err
	}
	httpClient := c.opts.HTTPClient
	if httpClient == nil {
		// A transport of our own, so that no idle connection outlives Run.
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.DisableKeepAlives = true
		httpClient = &http.Client{Transport: t}
	}
	if len(c.opts.User) > 0 {
		var user map[string]json.RawMessage
		if json.Unmarshal(c.opts.User, &user) != nil || len(c.opts.User) > wire.MaxUser {
			return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "Options.User is not an object of at most 4 KiB", Hint: `as {"id":"ann","name":"Ann"}`}
		}
	}
	pause := backoff{min: c.opts.MinBackoff, max: c.opts.MaxBackoff}
	c.connecting(nil, 0)
	for {
		began := time.Now()
		err := c.session(ctx, target, httpClient)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var refused *RefusedError
		if errors.As(err, &refused) {
			if !c.lapsed(refused) {
				return err
			}
			if c.welcomed() {
				err = &hintError{error: err} // at once: there is nothing to wait for
			}
		}
		c.mu.Lock()
		if c.healthy && !errors.Is(err, errGaveUp) || time.Since(began) > c.opts.MaxBackoff {
			pause.reset()
		}
		c.healthy = false
		c.mu.Unlock()
		wait := pause.after(err)
		c.opts.Logger.Warn("pgcast client: disconnected", "error", err, "retry", wait)
		c.connecting(err, wait)
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
		c.connecting(err, 0)
	}
}

// sleep waits, and tells whether ctx lets it.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// welcomed tells whether the newest connection got as far as that.
func (c *Client) welcomed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.welcome
}

// endpoint completes the server's address.
func endpoint(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", fmt.Errorf("read the server's address %q: %w", text, err)
	}
	switch u.Scheme {
	case "ws", "wss", "http", "https":
	default:
		return "", &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%q is not a server's address", text),
			Hint: "as ws://localhost:8080 or wss://example.com/ws"}
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/ws"
	}
	return u.String(), nil
}

// session is one connection, from the handshake to its end.
func (c *Client) session(ctx context.Context, target string, httpClient *http.Client) (err error) {
	c.mu.Lock()
	c.welcome = false
	c.mu.Unlock()
	token, err := c.token(ctx)
	if err != nil {
		return err
	}
	hello, header := c.split(token)
	dial, cancel := context.WithTimeout(ctx, c.opts.DialTimeout)
	conn, resp, err := websocket.Dial(dial, target, &websocket.DialOptions{HTTPClient: httpClient, HTTPHeader: header})
	cancel()
	if err != nil {
		return handshakeError(target, resp, err)
	}
	conn.SetReadLimit(wire.MaxServerFrame)
	ctx, cancel = context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer func() { _ = conn.CloseNow() }()
	defer func() { c.disconnected(err) }()
	defer cancel()
	c.connected(conn, hello)
	helpers.Go(func() { c.write(ctx, conn) })
	helpers.Go(func() { c.renewals(ctx) })
	helpers.Go(func() { c.entries(ctx) })
	for {
		frame, err := c.read(ctx, conn)
		if err != nil {
			return closeError(err)
		}
		items, err := c.handle(&frame)
		if err := c.deliver(ctx, items); err != nil {
			return err
		}
		if err != nil {
			return err
		}
	}
}

func (c *Client) read(ctx context.Context, conn *websocket.Conn) (wire.ServerFrame, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.ReadTimeout)
	defer cancel()
	kind, text, err := conn.Read(ctx)
	if err != nil {
		return wire.ServerFrame{}, err
	}
	if kind != websocket.MessageText {
		return wire.ServerFrame{}, errors.New("the server sent a binary message")
	}
	frame, err := wire.ParseServer(text)
	if err != nil {
		return frame, fmt.Errorf("read the server's frame: %w", err)
	}
	return frame, nil
}

// Cut drops the connection as a failing network would. Run reconnects. For tests and
// demonstrations.
func (c *Client) Cut() {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn != nil {
		_ = conn.CloseNow()
	}
}

// Stats gives the counts of this moment.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Connected = c.conn != nil
	return c.stats
}
