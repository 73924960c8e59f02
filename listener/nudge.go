package listener

import (
	"context"
	"sync"
	"time"
)

// nudge ends a wait from another goroutine. A nudge that comes while nobody waits ends the
// next wait at once; several are as one. The zero value is ready to use.
type nudge struct {
	mu  sync.Mutex
	due bool
	end context.CancelFunc // of the wait under way, or nil
}

// Nudge tells that the log has grown: it ends the Wait under way, or else the next one, at
// once. It never blocks, and may be called from any goroutine.
func (n *nudge) Nudge() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.due = true
	if n.end != nil {
		n.end()
	}
}

// during gives a context that a nudge ends too, until done is called.
func (n *nudge) during(ctx context.Context) (wait context.Context, done func()) {
	wait, end := context.WithCancel(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.end = end; n.due {
		end()
	}
	return wait, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.end = nil
		end()
	}
}

// taken tells whether there was a nudge, and forgets it. Whoever asks looks at the log
// afterwards.
func (n *nudge) taken() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	was := n.due
	n.due = false
	return was
}

// pause waits, at most until a nudge.
func (n *nudge) pause(ctx context.Context, d time.Duration) (Source, error) {
	wait, done := n.during(ctx)
	defer done()
	err := pause(wait, d)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case n.taken():
		return SourceCapture, nil
	}
	return SourcePoll, err
}
