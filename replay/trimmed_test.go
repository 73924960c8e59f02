package replay

import (
	"context"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast"
)

// TestTrimmedIsExplained lets writers, a sequencer and retention run while two readers
// follow: one by topic, who sees a hole only where the tail has passed it by, one by
// position, who asks what it missed.
func TestTrimmedIsExplained(t *testing.T) {
	t.Parallel()
	w, r := trimmer(t, &RetentionOptions{Batch: 50})
	w.retain("a", "", 20)
	h := w.hand().lead()
	if w.err != nil {
		t.Fatal(w.err)
	}
	const events = 3000
	ctx, stop := context.WithTimeout(t.Context(), within)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for i := range events / 10 {
			_, err := w.pool.Exec(ctx, `insert into pgcast.event_log (topic, event) select case when i % 3 = 0 then 'b' else 'a' end, 'e'
				from generate_series($1::int, $1 + 9) i`, 10*i)
			if err != nil {
				return err
			}
		}
		return nil
	})
	g.Go(func() error {
		for {
			done, err := h.st.run(ctx, false)
			if err != nil || done.position == events {
				return err
			}
		}
	})
	g.Go(func() error {
		for {
			p, err := w.log.Position(ctx)
			if err != nil {
				return err
			}
			if more, err := r.pass(ctx); err != nil || p == events && !more {
				return err
			}
		}
	})
	gaps := [2]int{}
	trimmed := func() error { // the readers come when something is gone
		for {
			if page, err := w.log.Page(ctx, "a", 0, 1); err != nil || page.Tail > 50 {
				return err
			}
		}
	}
	g.Go(func() error {
		if err := trimmed(); err != nil {
			return err
		}
		for after := pgcast.Seq(0); after < events*2/3; {
			page, err := w.log.Page(ctx, "a", after, 7)
			if err != nil {
				return err
			}
			if page.Tail > after+1 {
				after = page.Tail - 1
				gaps[0]++
			}
			for _, e := range page.Events {
				if after++; e.Seq != after {
					return fmt.Errorf("seq %d comes after %d, but the tail is %d", e.Seq, after-1, page.Tail)
				}
			}
		}
		return nil
	})
	g.Go(func() error {
		if err := trimmed(); err != nil {
			return err
		}
		pattern, _ := pgcast.ParsePattern("a")
		seq, explained := pgcast.Seq(0), false
		for after := pgcast.Position(0); after < events; {
			upto, err := w.log.Position(ctx)
			if err != nil {
				return err
			}
			list, next, err := w.log.Scan(ctx, pattern, after, upto, 7)
			if err != nil {
				return err
			}
			gap, err := w.log.ScanGap(ctx, pattern, after)
			if err != nil {
				return err
			}
			// A stretch may be trimmed to its last event, and the next one begins after the gap.
			explained = explained || gap > after
			for i, e := range list {
				if seq++; e.Seq != seq && (i > 0 || !explained) {
					return fmt.Errorf("position %d: seq %d comes after %d, and nothing was trimmed after %d", e.Position, e.Seq, seq-1, after)
				} else if e.Seq != seq {
					gaps[1]++
				}
				seq = e.Seq
			}
			explained = explained && len(list) == 0
			after = next
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if t.Logf("gaps: %d by topic, %d by position", gaps[0], gaps[1]); gaps[0] == 0 || gaps[1] == 0 {
		t.Error("a reader who began after the tail had moved met no gap")
	}
	if page, err := w.log.Page(t.Context(), "b", 0, events); err != nil || len(page.Events) != events/3 {
		t.Errorf("b, which nobody trims, has %d events, %v", len(page.Events), err)
	}
}
