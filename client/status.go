package client

import (
	"context"
	"iter"
	"slices"
	"time"
)

// State is what the connection of a client is doing.
type State string

// The states.
const (
	Idle       State = "idle"       // Run has not been called
	Connecting State = "connecting" // not connected yet, or again
	Online     State = "online"     // the server has welcomed us
	Refused    State = "refused"    // the server does not want this client: Run has returned
	Closed     State = "closed"     // Run has returned
)

// Status is what a client knows of its connection.
type Status struct {
	State    State
	Err      error     // why the last connection ended, or could not be made; nil while Online
	RetryAt  time.Time // when it is tried again; zero if it is being tried, or not to be
	Degraded []string  // backends that the server says are degraded: redis, postgres; sorted
}

// Status gives the status of this moment.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status.copy()
}

func (s Status) copy() Status {
	s.Degraded = slices.Clone(s.Degraded)
	return s
}

// StatusChanges gives the status of this moment, and then the newest whenever it is another
// one, until the caller breaks, ctx ends, or Run has returned, of which it tells first.
func (c *Client) StatusChanges(ctx context.Context) iter.Seq[Status] {
	return func(yield func(Status) bool) {
		for {
			c.mu.Lock()
			s, next := c.status.copy(), c.statusNext
			c.mu.Unlock()
			if !yield(s) || s.State == Refused || s.State == Closed {
				return
			}
			select {
			case <-next:
			case <-ctx.Done():
				return
			}
		}
	}
}

// is changes the status. The caller holds mu.
func (c *Client) is(s Status) {
	c.status = s
	close(c.statusNext)
	c.statusNext = make(chan struct{})
}

// connecting says that there is no connection, why, and after which pause one is tried.
func (c *Client) connecting(err error, wait time.Duration) {
	s := Status{State: Connecting, Err: err}
	if wait > 0 {
		s.RetryAt = time.Now().Add(wait)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.is(s)
}

// backend notes that a backend of the server is degraded, or is no more.
func (c *Client) backend(name string, degraded bool) {
	s := c.status.copy()
	at, there := slices.BinarySearch(s.Degraded, name)
	switch {
	case degraded && !there:
		s.Degraded = slices.Insert(s.Degraded, at, name)
	case !degraded && there:
		s.Degraded = slices.Delete(s.Degraded, at, at+1)
	default:
		return
	}
	c.is(s)
}

// while gives a context that ends with ctx, and when Run has returned.
func (c *Client) while(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		select {
		case <-c.done:
			cancel(c.err)
		case <-ended:
		}
	}()
	return ctx, func() {
		close(ended)
		<-gone
		cancel(nil)
	}
}
