package replay

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/listener"
)

// Probe runs single operations of the log, one at a time and on demand, to see what each
// costs. It sequences in a server's place, so none may run beside it.
type Probe struct {
	line    *listener.Line
	stepper *stepper
	retain  *Retention
}

// OpenProbe takes the sequencer's lock and raises the term. It is an error when a server
// sequences already.
func OpenProbe(ctx context.Context, url string, pool *pgxpool.Pool) (_ *Probe, err error) {
	line, err := listener.Dial(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			line.Close()
		}
	}()
	got, err := line.TryLock(ctx, listener.Lead, false)
	if err != nil {
		return nil, err
	}
	if !got {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "a server sequences this log already", Hint: "stop it first"}
	}
	log := slog.New(slog.DiscardHandler)
	term, err := takeTerm(ctx, line.Conn(), false, log)
	if err != nil {
		return nil, err
	}
	return &Probe{line, newStepper(line.Conn(), term, defaultBatch), newRetention(pool, &RetentionOptions{Batches: 1}, newMetrics(nil), log)}, nil
}

// Close gives the lock back.
func (p *Probe) Close() { p.line.Close() }

// Step makes one step, as large as a server's, and gives the number of events it took.
// more says that a large batch is being taken in chunks.
func (p *Probe) Step(ctx context.Context) (events int, more bool, err error) {
	done, err := p.stepper.run(ctx, false)
	return done.events, done.more, err
}

// Trim takes one batch, of a server's size, off a topic that is to keep so many events.
// full tells that the batch was a whole one.
func (p *Probe) Trim(ctx context.Context, topicID, keep int64) (full bool, err error) {
	topics, err := p.retain.queries.RetentionTopics(ctx, db.RetentionTopicsParams{After: topicID - 1, MaxTopics: 1})
	if err != nil {
		return false, fmt.Errorf("find topic %d: %w", topicID, err)
	}
	if len(topics) == 0 || topics[0].ID != topicID {
		return false, fmt.Errorf("there is no topic %d", topicID)
	}
	return p.retain.trim(ctx, topics[0], rule{maxCount: keep})
}
