package server

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/replay"
)

// How often it is read anew which tables' row security is enforced, beside when the log
// tells that something has changed.
const (
	securityEvery = 30 * time.Second
	securityAgain = 250 * time.Millisecond // after a failure, and where a table was altered
)

// securityChecks is how many checks of rows are under way at once. Others decide how long
// they take, so their connections are beside those that everything else has.
const securityChecks = 4

// security shows rows as the tables' policies have it. Its methods are safe for concurrent
// use once run has begun.
type security struct {
	rows    *replay.Security
	hub     atomic.Pointer[fanout.Hub]
	logger  *slog.Logger
	changed chan struct{}
	loading sync.Mutex // held while it is read what is enforced
}

var _ fanout.QuickLens = (*replay.RowLens)(nil)

func newSecurity(rows *replay.Security, logger *slog.Logger) *security {
	return &security{rows: rows, logger: logger, changed: make(chan struct{}, 1)}
}

// change says that other tables may be enforced, or otherwise. It never waits.
func (s *security) change() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// lens gives how a topic, or a pattern, is shown to a caller; nil: as it is.
func (s *security) lens(claims *auth.Claims, topic string) fanout.Lens {
	if l := s.rows.Lens(claims.Decided(), topic); l != nil {
		return l
	}
	return nil
}

// stale tells whether a topic is to be seen otherwise by now than through a lens.
func (s *security) stale(topic string, lens fanout.Lens) bool {
	for {
		switch l := lens.(type) {
		case nil:
			return !s.rows.Current(topic, nil)
		case *replay.RowLens:
			return !s.rows.Current(topic, l)
		case interface{ Inner() fanout.Lens }:
			lens = l.Inner()
		default:
			return false
		}
	}
}

// load reads what is enforced, and ends the sessions that see something otherwise.
func (s *security) load(ctx context.Context) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	changed, err := s.rows.Load(ctx)
	if hub := s.hub.Load(); err == nil && changed && hub != nil {
		hub.Refocus()
	}
	return err
}

// run reads what is enforced until ctx ends. Until it has done so for the first time no rows
// are shown. Where there is no access control nobody is anybody, and all is shown to all: then
// it says so, and does no more.
func (s *security) run(ctx context.Context, access bool) error {
	soon := time.NewTicker(securityAgain)
	defer soon.Stop()
	due := time.Time{}
	for told := 0; ; {
		switch err := s.load(ctx); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			due = time.Now() // what is known goes on to hold; the database is down for all
		default:
			due = time.Now().Add(securityEvery)
		}
		if n := s.rows.Tables(); !access && n != told {
			if told = n; n > 0 {
				s.logger.Warn("row security is to be enforced, and is not: without access control everybody sees all rows", "tables", n, "hint", "serve with --access=rules")
			}
		}
		for wait := true; wait; {
			select {
			case <-s.changed:
				wait = false
			case now := <-soon.C:
				wait = now.Before(due) && !s.rows.Stale()
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}
