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
)

// drift is one thing that is wrong with an attached table's capture.
type drift struct{ relation, problem string }

// watch lets capture follow what was altered on attached tables, and tells where it
// cannot: once in the log, and once to the topics.
func (s *Sequencer) watch(ctx context.Context) error {
	q := db.New(s.pool)
	known := map[drift]bool{}
	defer s.metrics.drift.Set(0)
	for {
		// Until this has run, the triggers of an altered table work, but slowly.
		switch found, err := look(ctx, q); {
		case err == nil:
			s.drifted(known, found)
		case ctx.Err() == nil:
			s.opts.Logger.Warn("sequencer: could not look for tables that are not captured as they should be; will try again", "error", err)
		}
		if err := sleep(ctx, watchEvery); err != nil {
			return err
		}
	}
}

// look looks once. A connection that both ends still believe in must not end the watch.
func look(ctx context.Context, q *db.Queries) ([]db.AttachmentWatchRow, error) {
	ctx, cancel := context.WithTimeout(ctx, watchWithin)
	defer cancel()
	return q.AttachmentWatch(ctx)
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
