package listener

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
)

const (
	reopenFirst = 50 * time.Millisecond
	reopenLast  = time.Second
	// Tries in vain, for so long, and it counts as impossible.
	reopenTries  = 5
	reopenWithin = 3 * time.Second
	// What is impossible is tried again: a slot may have become free.
	reopenRefused = 5 * time.Second

	wakeTimeout = 6 * time.Second // of streams that nothing depends on
)

// Commits follows a publication of inserts through a temporary slot, and tells of each
// transaction that has committed one.
type Commits struct {
	url, publication string
	opts             CommitsOptions
	heard            atomic.Int64 // batches
	stream           atomic.Pointer[Stream]
}

// CommitsOptions say whom to tell; every function is called from Run's goroutine, must not
// block, and may be nil.
type CommitsOptions struct {
	// Committed is told the lower half of the transaction's number, and the first column of
	// the first row it has inserted. Others may not see the transaction yet, for as long as
	// its COMMIT waits for a standby.
	Committed func(xid uint32, first string)
	// Follows is called when it begins to follow; what committed before that, it is not told.
	Follows func()
	// Lost is called when it has stopped, or could not begin. impossible: for a reason that
	// does not pass by itself.
	Lost func(err error, impossible bool)
}

// NewCommits makes one; url must lead directly to the primary.
func NewCommits(url, publication string, opts CommitsOptions) *Commits {
	if opts.Committed == nil {
		opts.Committed = func(uint32, string) {}
	}
	if opts.Follows == nil {
		opts.Follows = func() {}
	}
	if opts.Lost == nil {
		opts.Lost = func(error, bool) {}
	}
	return &Commits{url: url, publication: publication, opts: opts}
}

// Run follows until ctx ends, and begins anew whenever it cannot.
func (c *Commits) Run(ctx context.Context) error {
	failed, delay, since := 0, reopenFirst, time.Now()
	for {
		follows, err := c.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if follows {
			failed, delay, since = 0, reopenFirst, time.Now()
		}
		failed++
		impossible := failed >= reopenTries && time.Since(since) > reopenWithin || isImpossible(err)
		c.opts.Lost(err, impossible)
		if impossible {
			delay = reopenRefused
		}
		if err := pause(ctx, delay/2+rand.N(delay)); err != nil {
			return err
		}
		delay = min(2*delay, reopenLast)
	}
}

func isImpossible(err error) bool {
	for _, reason := range []error{ErrNotLogical, ErrNotAllowed, ErrNoSlots, ErrNoPublication} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// follow follows once; follows tells whether it came to that.
func (c *Commits) follow(ctx context.Context) (follows bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := OpenStream(ctx, c.url, StreamOptions{Publications: []string{c.publication}, Timeout: wakeTimeout})
	if err != nil {
		return false, err
	}
	defer s.Close()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	c.stream.Store(s)
	defer c.stream.Store(nil)
	c.opts.Follows()
	var t transaction
	for batch := range s.Batches() {
		for _, m := range batch {
			if row := t.take(m.Message); row != nil {
				c.opts.Committed(t.xid, text(row))
			}
		}
		s.Confirm(batch[len(batch)-1].End) // a slot that nobody comes back to needs no WAL
		c.heard.Add(1)
	}
	return true, <-ended
}

// ask has the stream say something, if it can; heard counts up when it has.
func (c *Commits) ask() {
	if s := c.stream.Load(); s != nil {
		s.Ask()
	}
}

// transaction is the one whose messages come now: it has committed, they came in one go.
type transaction struct {
	xid  uint32
	told bool
}

// take gives the first row inserted by each transaction. (Postgres 14 sends also those that
// have none.)
func (t *transaction) take(m pglogrepl.Message) *pglogrepl.TupleData {
	switch m := m.(type) {
	case *pglogrepl.BeginMessage:
		*t = transaction{xid: m.Xid}
	case *pglogrepl.InsertMessageV2:
		if !t.told {
			t.told = true
			return m.Tuple
		}
	}
	return nil
}

func text(row *pglogrepl.TupleData) string {
	if len(row.Columns) == 0 {
		return ""
	}
	return string(row.Columns[0].Data)
}
