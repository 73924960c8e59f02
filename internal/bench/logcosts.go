package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/replay"
)

// filled is a log with a number of events.
type filled struct {
	*bed
	events int
	pool   *pgxpool.Pool
	probe  *replay.Probe
	log    *replay.Log
	topics []int64 // ids, by number

	step, page, trim []float64 // medians of the rounds, in milliseconds
}

// logCosts times single operations in logs of different sizes, in turns. No server runs:
// the probe sequences.
func logCosts(ctx context.Context, w *world) ([]Row, error) {
	var logs []*filled
	defer func() {
		for _, l := range logs {
			l.close()
		}
	}()
	for _, n := range w.sizes.logs {
		l, err := fill(ctx, w, n)
		if l != nil {
			logs = append(logs, l)
		}
		if err != nil {
			return nil, err
		}
	}
	for round := range w.opts.Rounds {
		for _, l := range logs {
			if err := l.round(ctx, round); err != nil {
				return nil, err
			}
		}
	}
	var rows []Row
	for _, l := range logs {
		name := fmt.Sprintf("%d events in the log", l.events)
		w.say("%s: a step %.2f ms, a page %.2f ms, a trim batch %.1f ms", name, quantile(l.step, 0.5), quantile(l.page, 0.5), quantile(l.trim, 0.5))
		rows = append(rows, row(name, "step of one event", "ms", l.step, nil), row(name, "page of 200 events", "ms", l.page, nil),
			row(name, "trim of 1,000 events", "ms", l.trim, nil))
		if small := logs[0]; l != small {
			name = fmt.Sprintf("%d events / %d", l.events, small.events)
			rows = append(rows, row(name, "step", "", ratios(l.step, small.step), atMost(1.2)),
				row(name, "page", "", ratios(l.page, small.page), atMost(1.2)),
				row(name, "trim", "", ratios(l.trim, small.trim), atMost(1.2)))
		}
	}
	return rows, nil
}

func (l *filled) close() {
	if l.probe != nil {
		l.probe.Close()
	}
	if l.pool != nil {
		l.pool.Close()
	}
	l.bed.close()
}

// fill writes so many events by transactions of 1,000, spread over the topics, and
// sequences them.
func fill(ctx context.Context, w *world, events int) (_ *filled, err error) {
	b, err := w.bed(ctx, false)
	if err != nil {
		return nil, err
	}
	l := &filled{bed: b, events: events}
	w.say("filling a log with %d events", events)
	if _, err := b.conn.Exec(ctx, "set synchronous_commit = off"); err != nil {
		return l, err
	}
	const batch = 1000
	for n := 0; n < events; n += batch {
		if _, err := b.conn.Exec(ctx, `insert into pgcast.event_log (topic, event, data)
			select 'room:' || i % $3, 'created', $4::text::json from generate_series($1::int, $2::int) i`,
			n, n+batch-1, w.sizes.logTopics, dataOf(eventSize)); err != nil {
			return l, err
		}
	}
	if l.pool, err = pgxpool.New(ctx, b.url); err != nil {
		return l, err
	}
	if l.probe, err = replay.OpenProbe(ctx, b.url, l.pool); err != nil {
		return l, err
	}
	l.log = replay.NewLog(l.pool, nil)
	for more := true; more; {
		var n int
		if n, more, err = l.probe.Step(ctx); err != nil {
			return l, err
		}
		more = more || n > 0
	}
	l.topics = make([]int64, w.sizes.logTopics)
	for i := range l.topics {
		if err := b.conn.QueryRow(ctx, "select id from pgcast.topic where name = $1", fmt.Sprint("room:", i)).Scan(&l.topics[i]); err != nil {
			return l, err
		}
	}
	if _, err := b.conn.Exec(ctx, "vacuum analyze"); err != nil {
		return l, err
	}
	b.checkpoint(ctx)
	return l, nil
}

// round times each operation some times and keeps the medians.
func (l *filled) round(ctx context.Context, round int) error {
	timed := func(n int, into *[]float64, prepare, do func(i int) error) error {
		var took []float64
		for i := range n {
			if err := prepare(i); err != nil {
				return err
			}
			began := time.Now()
			if err := do(i); err != nil {
				return err
			}
			took = append(took, milliseconds(time.Since(began)))
		}
		*into = append(*into, quantile(took, 0.5))
		return nil
	}
	nothing := func(int) error { return nil }
	s := l.sizes
	if err := timed(s.steps, &l.step, func(i int) error {
		_, err := l.conn.Exec(ctx, "select pgcast.publish('room:' || $1::int, 'bench', $2::text::jsonb)", i%s.logTopics, dataOf(eventSize))
		return err
	}, func(int) error {
		n, _, err := l.probe.Step(ctx)
		if err == nil && n != 1 {
			err = fmt.Errorf("a step took %d events instead of one", n)
		}
		return err
	}); err != nil {
		return err
	}
	// From the newest topics on: trimming begins at the others, so that pages are whole.
	kept := l.events / s.logTopics
	if err := timed(s.pages, &l.page, nothing, func(i int) error {
		topic := s.logTopics - 1 - i%max(1, s.logTopics/2)
		after := (i * 7919) % max(1, kept-200)
		_, err := l.log.Page(ctx, fmt.Sprint("room:", topic), pgcast.Seq(after), 200)
		return err
	}); err != nil {
		return err
	}
	return timed(min(s.trims, max(1, s.logTopics/2/l.opts.Rounds)), &l.trim, nothing, func(i int) error {
		full, err := l.probe.Trim(ctx, l.topics[(round*s.trims+i)%max(1, s.logTopics/2)], 1)
		if err == nil && !full {
			err = fmt.Errorf("there was less than a batch to trim")
		}
		return err
	})
}
