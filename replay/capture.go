package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/listener"
)

const (
	captureEvery  = time.Second // how often it looks whether there is anything to capture
	captureSoon   = 50 * time.Millisecond
	captureTells  = time.Minute // how often the same trouble is told
	captureUnused = time.Minute // how long a slot waits for the first table
	captureName   = "pgcast capture"
	captureOf     = "pgcast_capture" // the publication
)

// errOvertaken says that another capture has written the next step.
var errOvertaken = errors.New("another server has captured on from the same place")

// capture makes events of the changes of tables that are attached with capture => 'wal', and
// of what publish() leaves while there are any. The sequencing server runs it beside its
// steps; that two of them write the same change is prevented not by who leads but by the
// primary key of pgcast.captured, so it may be killed or frozen anywhere.
type capture struct {
	url     string // leads directly to the primary
	pool    *pgxpool.Pool
	term    int64
	shared  bool   // other servers sequence in the same term
	nudge   func() // the log has grown
	metrics *captureMetrics
	log     *slog.Logger
	hook    func(step string) error // nil but in tests: what it returns breaks a session off

	limits   captureLimits
	progress bool // the newest session has stored something
	told     trouble
	unused   time.Time            // since when a slot serves nobody; zero: it does, or there is none
	warned   bool                 // of retention without a limit
	lost     map[string]time.Time // when the log was told that changes are, by reason
	current  atomic.Int64         // when it was last up to date, in nanoseconds
}

// captureLimits bound what is held in memory, and what one flush takes.
type captureLimits struct {
	changes int // of one flush,
	bytes   int // which is over when it has so many
	cache   int // bytes of rows remembered for their TOAST values
	late    int // bytes of changes that wait for the end of their large transaction
}

var captureDefaults = captureLimits{changes: 2000, bytes: 1 << 20, cache: 16 << 20, late: 4 << 20}

func (s *Sequencer) capture(term int64, shared bool) *capture {
	limits := s.opts.captureLimits
	if limits == (captureLimits{}) {
		limits = captureDefaults
	}
	return &capture{url: s.url, pool: s.pool, term: term, shared: shared, nudge: s.nudge, metrics: s.metrics.capture, log: s.opts.Logger,
		hook: s.opts.failpoint, limits: limits, told: trouble{log: s.opts.Logger}, lost: map[string]time.Time{}}
}

// run captures whenever a table is attached from the WAL, until ctx ends; it returns nothing
// but ctx's error. Whatever fails is tried again within a second.
func (c *capture) run(ctx context.Context) error {
	c.upToDate()
	measuring, stop := context.WithCancel(ctx)
	measured := make(chan struct{})
	go func() {
		defer close(measured)
		c.measure(measuring)
	}()
	defer func() {
		stop()
		<-measured
		c.clear()
	}()
	delay := captureSoon
	for {
		began := time.Now()
		wait, err := c.attempt(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c.progress || time.Since(began) > 5*time.Second {
			delay, c.progress = captureSoon, false
		}
		switch {
		case err == nil:
			c.told.over()
			delay = captureSoon
		case errors.Is(err, errDeposed), errors.Is(err, errOvertaken), c.shared && errors.Is(err, listener.ErrSlotInUse):
			// The other one captures.
			wait = captureEvery / 2
		default:
			c.metrics.interrupted.Inc()
			if !errors.Is(err, listener.ErrSlotInUse) || delay > captureSoon { // whose session was ended may take a moment to go
				c.told.tell(err)
			}
			wait, delay = delay, min(2*delay, captureEvery)
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

func (c *capture) upToDate() { c.current.Store(time.Now().UnixNano()) }

// measure goes on while capture waits: for a slot, a lock, a transaction to show.
func (c *capture) measure(ctx context.Context) {
	for sleep(ctx, captureEvery) == nil {
		lag := time.Since(time.Unix(0, c.current.Load()))
		if lag < 2*captureEvery {
			lag = 0
		}
		c.metrics.lagSeconds.Set(lag.Seconds())
	}
}

func (c *capture) clear() {
	c.metrics.lagBytes.Set(0)
	c.metrics.lagSeconds.Set(0)
	c.metrics.retained.Set(0)
}

// attempt does what there is to do, and says when to look again.
func (c *capture) attempt(ctx context.Context) (time.Duration, error) {
	state, err := c.look(ctx)
	if err != nil {
		return 0, err
	}
	switch {
	case state.Attached > 0, state.Lsn > 0 && state.HasSlot && state.IsOurs && !state.IsLost:
		c.unused = time.Time{}
		err := c.session(ctx)
		if errors.Is(err, errNothing) {
			return captureEvery, c.end(ctx)
		}
		return 0, err
	case state.HasSlot && state.Lsn == 0 && !state.Leftovers && (c.unused.IsZero() || time.Since(c.unused) < captureUnused):
		// Somebody is about to attach his first table.
		c.upToDate()
		if c.unused.IsZero() {
			c.unused = time.Now()
		}
	case state.HasSlot || state.Lsn > 0 || state.Leftovers:
		return captureEvery, c.end(ctx)
	default:
		c.unused = time.Time{}
		c.upToDate()
		c.clear()
	}
	return captureEvery, nil
}

// look asks what there is to do.
func (c *capture) look(ctx context.Context) (db.CaptureStateRow, error) {
	ctx, cancel := context.WithTimeout(ctx, attendShared)
	defer cancel()
	state, err := db.New(c.pool).CaptureState(ctx)
	if err != nil {
		return state, fmt.Errorf("look for tables captured from the WAL: %w", err)
	}
	if state.Term != c.term {
		return state, errDeposed
	}
	return state, nil
}

func (c *capture) at(step string) error {
	if c.hook == nil {
		return nil
	}
	return c.hook(step)
}

// trouble tells of errors, of the same one seldom.
type trouble struct {
	log  *slog.Logger
	last string
	at   time.Time
}

func (t *trouble) tell(err error) {
	if err.Error() == t.last && time.Since(t.at) < captureTells {
		return
	}
	t.last, t.at = err.Error(), time.Now()
	args := []any{"error", err}
	if mend := mendCapture(err); mend != "" {
		args = append(args, "mend", mend)
	}
	t.log.Error("capture: tables attached with capture 'wal' are not captured for now; will try again", args...)
}

func (t *trouble) over() {
	if t.last != "" {
		t.last = ""
		t.log.Info("capture: tables attached with capture 'wal' are captured again")
	}
}

func mendCapture(err error) string {
	pg, _ := errors.AsType[*pgconn.PgError](err)
	switch {
	case pg != nil && pg.Code == "42501":
		return "give the server's role the right, as pgcast roles --wal does; until then Postgres keeps the WAL"
	case errors.Is(err, listener.ErrNotLogical):
		return "alter system set wal_level = logical; and restart Postgres. Or attach the tables with capture => 'trigger'"
	case errors.Is(err, listener.ErrNotAllowed):
		return "alter role ... replication, and let pg_hba.conf admit it to the database; or attach the tables with capture => 'trigger'"
	case errors.Is(err, listener.ErrNoSlots):
		return "raise max_replication_slots and max_wal_senders, or drop slots that nobody uses (pg_replication_slots)"
	case errors.Is(err, listener.ErrSlotInUse):
		return "end whoever else reads the slot; it is pgcast's own"
	}
	return ""
}
