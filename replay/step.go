package replay

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/listener"
)

// errDeposed says that another sequencer has raised the term.
var errDeposed = errors.New("another server sequences now")

// stepper runs single steps in one session. It remembers nothing but its term: what is
// done stands in pgcast.progress, so a step whose commit nobody saw is simply read back
// by the next one.
type stepper struct {
	conn  *pgx.Conn
	term  int64
	batch int    // events per step, and per chunk
	step  string // the statement; tests put mutants here
	rise  bool   // the next step begins by giving ASLEEP back
}

func newStepper(conn *pgx.Conn, term int64, batch int) *stepper {
	return &stepper{conn: conn, term: term, batch: batch, step: db.SequencerStep}
}

// stepped is what one step did.
type stepped struct {
	position pgcast.Position // the newest after it
	events   int
	more     bool // a large batch is being taken in chunks
}

// getUp gives ASLEEP back where no step follows.
func (s *stepper) getUp(ctx context.Context) error {
	s.rise = false
	if _, err := s.conn.Exec(ctx, listener.Rise); err != nil {
		return fmt.Errorf("give ASLEEP back: %w", err)
	}
	return nil
}

// run makes one step. advance lets it note a newer snapshot even if there is nothing to
// sequence. It sends the whole transaction at once: one round trip.
func (s *stepper) run(ctx context.Context, advance bool) (stepped, error) {
	rise := s.rise
	s.rise = false
	r := s.conn.SendBatch(ctx, s.transaction(advance, rise))
	done, err := s.results(r, rise)
	if cerr := r.Close(); cerr != nil {
		err = cerr // the transaction's end is not known, whatever came before
	}
	if err != nil && !errors.Is(err, errDeposed) {
		return stepped{}, fmt.Errorf("sequence a step: %w", err)
	}
	return done, err
}

func (s *stepper) transaction(advance, rise bool) *pgx.Batch {
	b := &pgx.Batch{}
	if rise { // before the transaction: nobody has to ring for as long as its commit takes
		b.Queue(listener.Rise)
	}
	b.Queue("begin isolation level read committed read write")
	b.Queue("set local synchronous_commit = on")
	b.Queue(db.SequencerHold, s.term)
	b.Queue(s.step, s.term, s.batch, advance)
	b.Queue("commit")
	return b
}

func (s *stepper) results(r pgx.BatchResults, rise bool) (done stepped, err error) {
	first := 2 // begin, set
	if rise {
		first++
	}
	for range first {
		if _, err := r.Exec(); err != nil {
			return done, err
		}
	}
	var term int64
	held := r.QueryRow().Scan(&term)
	if held != nil && !errors.Is(held, pgx.ErrNoRows) {
		return done, held
	}
	var step int64
	switch err := r.QueryRow().Scan(&step, &done.position, &done.events, &done.more); {
	case errors.Is(err, pgx.ErrNoRows):
		// Nothing new; or, without the row, nothing done.
	case err != nil:
		return done, err
	}
	if _, err := r.Exec(); err != nil { // commit
		return done, err
	}
	if held != nil {
		return done, errDeposed
	}
	return done, nil
}
