package client

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// feed is live state of one topic or group: what the server is asked for, in each
// connection anew, and what it tells. It is told on a topic of the server's own.
type feed struct {
	c   *Client
	own string // the topic of the server's own

	// enter gives the frame that asks for it, false if nothing is wanted of it now. Called with
	// Client.mu held, as take is.
	enter func() (wire.Frame, bool)
	// take takes an event on the server's own topic.
	take func(event string, data json.RawMessage)
	// lost, if there is one, takes in that the server gives it no more, or that nobody wants it.
	lost func()

	// Guarded by Client.mu.
	watched int           // iterations that want to be told
	asked   bool          // in this connection
	ref     int64         // of a frame that has no answer but an error
	over    chan struct{} // closed when the server takes nothing of it; a new one after that
	why     error         // over is closed for
}

// follows begins to keep live state.
func (c *Client) follows(l *feed) {
	l.c, l.over = c, make(chan struct{})
	if c.lives == nil {
		c.lives = map[string]*feed{}
	}
	c.lives[l.own] = l
}

// ask has the server asked for everything that is wanted and has not been asked for.
func (l *feed) ask() {
	l.asked = false
	signal(l.c.entering)
}

// fail ends the iterations of live state that the server does not give.
func (l *feed) fail(err error) {
	l.c.opts.Logger.Warn("pgcast client: no live state", "topic", l.own, "error", err)
	if l.lost != nil {
		l.lost()
	}
	l.why = err
	close(l.over)
	l.over = make(chan struct{})
}

// watch wants to be told, until the function that it gives is called. It gives what tells
// that the server does not.
func (l *feed) watch() (over <-chan struct{}, why func() error, end func(exit *wire.Frame)) {
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.watched++; l.watched == 1 {
		l.ask()
	}
	over = l.over
	return over, func() error {
			c.mu.Lock()
			defer c.mu.Unlock()
			return l.why
		}, func(exit *wire.Frame) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if l.watched--; l.watched > 0 {
				return
			}
			if _, still := l.enter(); !still && exit != nil {
				l.forget(exit)
			}
		}
}

// forget has nothing be told any more.
func (l *feed) forget(exit *wire.Frame) {
	l.lost()
	if l.c.conn != nil {
		l.c.enqueue(exit, nil)
	}
}

// entries asks for live state in a new connection, and whenever more of it is wanted, until
// the connection ends.
func (c *Client) entries(ctx context.Context) {
	pause := backoff{min: c.opts.MinBackoff, max: c.opts.MaxBackoff}
	for {
		later, err := c.enterAll(ctx)
		if !later {
			pause.reset()
			select {
			case <-ctx.Done():
				return
			case <-c.entering:
			}
		} else if !sleep(ctx, pause.after(err)) {
			return
		}
	}
}

// maxEntries is how many answers are waited for at the same time.
const maxEntries = 32

// enterAll asks for what has not been asked for, and tells whether some of it is to be asked
// for again later.
func (c *Client) enterAll(ctx context.Context) (later bool, last error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	room := make(chan struct{}, maxEntries)
	c.mu.Lock()
	var todo []*feed
	for _, l := range c.lives {
		if !l.asked {
			todo = append(todo, l)
		}
	}
	c.mu.Unlock()
	for _, l := range todo {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			if err := c.entry(ctx, l); err != nil && ctx.Err() == nil {
				mu.Lock()
				later, last = true, err
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return later, last
}

// entry asks for live state. An error says that it is worth to ask later.
func (c *Client) entry(ctx context.Context, l *feed) error {
	c.mu.Lock()
	f, wanted := l.enter()
	if !wanted || l.asked || c.conn == nil {
		c.mu.Unlock()
		return nil
	}
	l.asked = true
	if f.Type == wire.Cursor || f.Type == wire.CursorSnapshot {
		l.ref = c.newRef()
		f.Ref = refText(l.ref)
		c.enqueue(&f, nil)
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	_, err := c.call(ctx, &call{frame: f})
	if err == nil || errors.Is(err, ErrUncertain) || ctx.Err() != nil {
		return nil // the next connection begins anew
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l.asked = false
	if temporary(err) {
		return err
	}
	l.asked = true
	l.fail(err)
	return nil
}

func temporary(err error) bool {
	return errors.Is(err, pgcast.ErrUnavailable) || errors.Is(err, pgcast.ErrRateLimited) ||
		errors.Is(err, &pgcast.Error{Code: pgcast.CodeInternal})
}

// unsubscribed does again what the end of a subscription to a topic undid: it takes the
// cursor away.
func (c *Client) unsubscribed(topic string) {
	if l := c.lives[wire.CursorOf+topic]; l != nil {
		l.ask()
	}
}

// own takes an event on a topic of the server's own. The caller holds mu.
func (c *Client) own(e pgcast.Event) {
	if e.Topic == wire.System {
		var about struct{ Backend string }
		if json.Unmarshal(e.Data, &about) == nil && about.Backend != "" {
			c.backend(about.Backend, e.Name == "degraded")
		}
		return
	}
	l := c.lives[e.Topic]
	if l == nil {
		return
	}
	if _, wanted := l.enter(); wanted { // else it is of before
		l.take(e.Name, e.Data)
	}
}

func isOwn(topic string) bool { return strings.HasPrefix(topic, "__") }

// entryFailed takes an error frame, or a denial, that is about live state.
func (c *Client) entryFailed(f *wire.ServerFrame) bool {
	ref := refOf(f)
	for own, l := range c.lives {
		switch {
		case f.Type == wire.SubscribeDenied && own == f.Topic:
			l.fail(Denied{own, f.Reason})
			return true
		case f.Type == wire.Error && ref != 0 && l.ref == ref:
			err := &pgcast.Error{Code: f.Code, Message: f.Message, RetryAfter: time.Duration(f.RetryAfter) * time.Millisecond}
			if l.ref = 0; !temporary(err) {
				l.fail(err)
			}
			return true
		}
	}
	return false
}
