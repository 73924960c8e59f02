package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/listener"
)

const (
	contendEvery = 250 * time.Millisecond // how soon a dead sequencer is replaced
	evictEvery   = time.Second            // how often a follower looks for a frozen one
	evictStale   = 4 * time.Second        // a living one finishes a statement every second
	slowLook     = 5 * time.Millisecond
	defaultBatch = 5000
	proveAgain   = 10 * time.Second // how often a bell that did not work is tried again

	// Between two tries to connect. Not long: while nobody sequences, everybody waits.
	soonest = 50 * time.Millisecond
	latest  = 500 * time.Millisecond
)

// rungForNothing is how long nobody is listened to after a bell for which there was nothing,
// when there was nothing the time before either.
const rungForNothing = 10 * time.Millisecond

var errProved = errors.New("the bell works now")

// Sequencer gives committed events their places, on one server at a time: each server
// runs one, the one that holds the Lead lock works, the others stand by and hear of its
// steps. It may be killed between any two statements.
type Sequencer struct {
	url     string
	pool    *pgxpool.Pool
	opts    SequencerOptions
	metrics *metrics
	retain  *Retention

	deaf        bool                  // owned by Run: the line before this one went deaf
	anotherRole sync.Once             // guards a warning
	current     atomic.Pointer[waker] // of the steps under way; nil: none are
}

// SequencerOptions; the zero value is usable.
type SequencerOptions struct {
	Wake Wake // default WakeAuto
	// Batch is the number of events one step takes at most. Default 5,000.
	Batch int
	// OnGrown is called, from Run's goroutines and without blocking them, whenever the
	// log has grown or may have: after own steps, and when another server rings.
	OnGrown func()
	// Retention tells how often trimming runs; nil for the defaults.
	Retention  *RetentionOptions
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // default slog.Default()

	// For tests of capture.
	failpoint     func(step string) error
	captureLimits captureLimits
}

// NewSequencer makes a sequencer. url must lead directly to the primary, not through a
// transaction pooler; pool may go through one. opts may be nil.
func NewSequencer(url string, pool *pgxpool.Pool, opts *SequencerOptions) *Sequencer {
	s := &Sequencer{url: url, pool: pool}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.Wake == "" {
		s.opts.Wake = WakeAuto
	}
	if s.opts.Batch <= 0 {
		s.opts.Batch = defaultBatch
	}
	if s.opts.OnGrown == nil {
		s.opts.OnGrown = func() {}
	}
	if s.opts.Logger == nil {
		s.opts.Logger = slog.Default()
	}
	s.metrics = newMetrics(s.opts.Registerer)
	s.retain = newRetention(pool, s.opts.Retention, s.metrics, s.opts.Logger)
	return s
}

// Run sequences or stands by until ctx ends. It outlives every failure of the database
// and returns ctx's error, or a *pgcast.Error when WakeNotify is asked of a server on which
// nobody can ring.
func (s *Sequencer) Run(ctx context.Context) error {
	delay := soonest
	for {
		began := time.Now()
		err := s.session(ctx)
		s.metrics.leading.Set(0)
		s.deaf = errors.Is(err, listener.ErrDeaf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var refused *pgcast.Error
		if errors.As(err, &refused) {
			return fmt.Errorf("sequence the log: %w", err)
		}
		if time.Since(began) > time.Second {
			delay = soonest
		}
		if !errors.Is(err, errDeposed) && !errors.Is(err, errProved) {
			s.metrics.reconnects.Inc()
			level := slog.LevelWarn
			if delay > soonest { // the outage has been told
				level = slog.LevelDebug
			}
			s.opts.Logger.Log(ctx, level, "sequencer: lost its line to the database, will connect again", "error", err, "after", delay)
		}
		wait := delay/2 + rand.N(delay)
		if errors.Is(err, errSilent) && delay == soonest {
			wait = rand.N(soonest / 2) // the database answers, and others' lines may be as they were
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		delay = min(2*delay, latest)
	}
}

// session is the life of one line: stand by, then lead.
func (s *Sequencer) session(ctx context.Context) error {
	line, err := listener.Reach(ctx, s.url)
	if err != nil {
		return err
	}
	defer line.Close()
	if err := s.same(ctx, line); err != nil {
		return err
	}
	waker, shared, err := s.waker(ctx, line)
	if err != nil {
		return err
	}
	if !shared {
		line.Attend(s.attendant(line, false).run)
		_, byWAL := waker.(*walWaker)
		err = s.standBy(ctx, line, !byWAL)
	}
	if err == nil {
		err = s.lead(ctx, line, waker, shared)
	}
	if ctx.Err() == nil {
		s.attendant(line, shared).end(ctx)
	}
	return err
}

// evict ends a frozen sequencer's session, but only while events wait for it.
func (s *Sequencer) evict(ctx context.Context, line *listener.Line) error {
	work := false
	err := s.attendant(line, false).run(ctx, func(ctx context.Context) (err error) {
		work, err = db.New(line.Conn()).SequencerLook(ctx)
		return err
	})
	if err != nil || !work {
		return err
	}
	evicted, err := line.Evict(ctx, evictStale)
	if errors.Is(err, listener.ErrAnotherRole) {
		s.anotherRole.Do(func() { s.opts.Logger.Warn("sequencer: use one role for all servers", "error", err) })
		return nil
	}
	if evicted {
		s.metrics.evicted.Inc()
		s.opts.Logger.Warn("sequencer: ended the session of a sequencer that had stopped answering while events waited")
	}
	return err
}

func (s *Sequencer) attendant(line *listener.Line, shared bool) attendant {
	return attendant{pool: s.pool, pid: line.Conn().PgConn().PID(), shared: shared}
}

// lead raises the term, looks after the cluster's identity and sequences until the line
// breaks or another server deposes this one.
func (s *Sequencer) lead(ctx context.Context, line *listener.Line, w waker, shared bool) error {
	a := s.attendant(line, shared)
	term := int64(0)
	err := a.run(ctx, func(ctx context.Context) (err error) {
		term, err = takeTerm(ctx, line.Conn(), shared, s.opts.Logger)
		return err
	})
	if err != nil {
		return err
	}
	s.metrics.leading.Set(1)
	defer s.metrics.lag.Set(0)
	defer s.metrics.followed.Set(0)
	s.current.Store(&w)
	defer s.current.Store(nil)
	s.opts.Logger.Info("sequencer: leading", "term", term)

	// Whoever sequenced before, maybe this server on another line, may have died between
	// a step's commit and telling of it.
	grown := make(chan struct{}, 1)
	s.opts.OnGrown()
	poke(grown)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.steps(ctx, newStepper(line.Conn(), term, s.opts.Batch), a, w, grown) })
	if w, ok := w.(*walWaker); ok {
		g.Go(func() error { return w.wal.Run(ctx) })
	}
	if s.opts.Wake != WakeWAL { // nobody notifies, followers neither
		g.Go(func() error { return s.tell(ctx, grown) })
	}
	g.Go(func() error { return s.upkeep(ctx) })
	g.Go(func() error { return s.watch(ctx) })
	g.Go(func() error { return s.retain.run(ctx) })
	g.Go(func() error { return s.capture(term, shared).run(ctx) })
	if shared {
		g.Go(func() error { return s.prove(ctx) })
	}
	return g.Wait()
}

// steps is the loop: step while there is work, then wait to be woken.
func (s *Sequencer) steps(ctx context.Context, st *stepper, a attendant, w waker, grown chan<- struct{}) error {
	q := db.New(st.conn)
	look := func(ctx context.Context) (work bool, err error) {
		err = a.run(ctx, func(ctx context.Context) error {
			work, err = q.SequencerLook(ctx)
			return err
		})
		return work, err
	}
	step := func(advance bool) (done stepped, err error) {
		err = a.run(ctx, func(ctx context.Context) error {
			done, err = st.run(ctx, advance)
			return err
		})
		return done, err
	}
	// Whoever rang has committed: that need not be looked for. But anybody may ring, and a step
	// costs a transaction and a flush also where there is nothing: after one that found nothing
	// no bell is believed before something was found.
	busy, rang, believed, advanced, dense := false, false, true, time.Time{}, breathing{}
	for {
		began, work, hollow := time.Now(), rang && believed, false
		if !work {
			if rang {
				rang, hollow = false, true
				if err := a.run(ctx, st.getUp); err != nil {
					return err
				}
			}
			var err error
			if work, err = look(ctx); err != nil {
				return fmt.Errorf("look at the log: %w", err)
			}
		}
		// A look that was slow and found nothing walked over what a transaction still
		// open has written; noting a newer snapshot keeps the next looks off it. Not more
		// than once a second: all may be slow here, and this costs a transaction.
		advance := !work && time.Since(began) > slowLook && time.Since(advanced) > time.Second
		if advance {
			advanced = time.Now()
		}
		if work || advance {
			began = time.Now()
			done, err := step(advance)
			if err != nil {
				return err
			}
			s.metrics.stepSeconds.Observe(time.Since(began).Seconds())
			s.metrics.steps.Inc()
			if done.events > 0 {
				s.metrics.sequenced.Add(float64(done.events))
				s.opts.OnGrown()
				poke(grown)
			}
			if work {
				believed = done.events > 0 || done.more || believed && !rang
				busy, rang = busy || !rang || done.events > 0 || done.more, false
				if d := dense.after(done, time.Since(began)); d > 0 {
					if err := sleep(ctx, d); err != nil {
						return err
					}
				}
				continue
			}
		}
		dense = breathing{}
		if hollow { // nobody needs to ring meanwhile
			if err := sleep(ctx, rungForNothing); err != nil {
				return err
			}
		}
		source, err := w.Wait(ctx, busy, look)
		if err != nil {
			return err
		}
		busy, rang = false, source == listener.SourceBell
		st.rise = rang
		s.metrics.wakes.WithLabelValues(string(source)).Inc()
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
