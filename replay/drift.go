package replay

import (
	"context"
	"maps"
	"time"

	"github.com/pgcast/pgcast/db"
)

// watchEvery is how often the sequencing server looks at what has become of the attached
// tables. It is promised that drift is told within 10 s.
const (
	watchEvery  = 7 * time.Second
	watchWithin = time.Minute
	// A look costs some 3 ms for each attached table, so it is left out while nothing has
	// changed; not for ever, for what could not be refreshed is tried again.
	mostSkipped = 8
)

// drift is one thing that is wrong with an attached table's capture.
type drift struct{ relation, problem string }

// watch lets capture follow what was altered on attached tables, and tells where it
// cannot: once in the log, and once to the topics.
func (s *Sequencer) watch(ctx context.Context) error {
	q := db.New(s.pool)
	known := map[drift]bool{}
	state, skipped := "", 0
	defer s.metrics.drift.Set(0)
	for {
		// Until this has run, the triggers of an altered table work, but slowly.
		switch now, found, err := look(ctx, q, state, skipped < mostSkipped); {
		case err == nil && now == state && found == nil:
			skipped++
		case err == nil:
			s.drifted(known, found)
			state, skipped = now, 0
		case ctx.Err() == nil:
			s.opts.Logger.Warn("sequencer: could not look for tables that are not captured as they should be; will try again", "error", err)
		}
		if err := sleep(ctx, watchEvery); err != nil {
			return err
		}
	}
}

// look looks once; found is nil where maySkip allowed not to, because nothing is other than
// in the state of the look before. A connection that both ends still believe in must not end
// the watch.
func look(ctx context.Context, q *db.Queries, before string, maySkip bool) (state string, found []db.AttachmentWatchRow, err error) {
	ctx, cancel := context.WithTimeout(ctx, watchWithin)
	defer cancel()
	// Before the look: what changes meanwhile is looked at again.
	state, err = q.AttachmentWatchState(ctx)
	if err != nil || maySkip && state == before {
		return state, nil, err
	}
	found, err = q.AttachmentWatch(ctx)
	if found == nil {
		found = []db.AttachmentWatchRow{}
	}
	return state, found, err
}

// drifted logs what has happened, and what has come and gone since the last look, and
// makes known what was found.
func (s *Sequencer) drifted(known map[drift]bool, found []db.AttachmentWatchRow) {
	now, wrong := map[drift]bool{}, 0
	for _, f := range found {
		if f.Told != "" {
			s.metrics.changes.WithLabelValues(f.Told).Inc()
			s.opts.Logger.Warn("sequencer: an attached table has changed; its topics were told", "table", f.Relation, "event", f.Told, "what", f.Problem)
			continue
		}
		wrong++
		d := drift{f.Relation, f.Problem}
		if now[d] = true; !known[d] {
			s.opts.Logger.Warn("sequencer: a table is not captured as it should be", "table", f.Relation, "problem", f.Problem, "mend", f.Mend)
		}
	}
	s.metrics.drift.Set(float64(wrong))
	for d := range known {
		if !now[d] {
			s.opts.Logger.Info("sequencer: this is no longer wrong with a table", "table", d.relation, "was", d.problem)
		}
	}
	clear(known)
	maps.Copy(known, now)
}
