package replay

import (
	"fmt"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// scenarios are short histories, each around one way to go wrong. The sequencer passes
// them all, and each of its mutants (mutant_test.go) fails the one that is named there.
var scenarios = map[string]func(*world){
	"several topics": func(w *world) {
		p, h := w.writer(), w.hand().lead()
		for range 3 {
			p.begin("").publish("a").publish("b").publish("a").publish("c").commit()
			h.run()
			w.look()
		}
		w.placed(12)
	},
	"rolled back": func(w *world) {
		p, q, h := w.writer(), w.writer(), w.hand().lead()
		p.begin("").publish("a").savepoint().publish("a").rollbackTo().publish("b")
		q.begin("").publish("a").rollback()
		h.drain()
		p.commit()
		h.drain()
		w.placed(2)
	},
	"late committer": func(w *world) {
		p, q, h := w.writer(), w.writer(), w.hand().lead()
		p.begin("").publish("a")
		q.publish("a")
		h.drain()
		w.placed(1) // the open transaction delays only its own
		q.publish("b")
		h.drain()
		w.placed(2)
		p.commit()
		h.drain()
		w.placed(3)
	},
	"late number": func(w *world) {
		// The same row twice: the second writer has the smaller xid and the larger id.
		p, q, h := w.writer(), w.writer(), w.hand().lead()
		p.begin("").xid()
		q.begin("").xid().publish("a").commit()
		p.publish("a").commit()
		h.drain()
		w.placed(2)
	},
	"batch exactly": func(w *world) {
		p, h := w.writer(), w.hand().lead()
		for _, n := range []int{w.batch, w.batch + 1, 2 * w.batch, 2*w.batch + 1, 1} {
			p.bulk(n, "a", "b")
			h.drain()
		}
		w.placed(6*w.batch + 3)
	},
	"chunks": func(w *world) {
		p, q, r, h := w.writer(), w.writer(), w.writer(), w.hand().lead()
		p.begin("").xid()
		q.begin("").bulk(10, "a", "b")
		p.bulk(10, "b", "c")
		q.bulk(5, "a").commit()
		p.bulk(5, "a").publish("d").commit()
		h.run().run() // the target, the first chunk
		r.bulk(2*w.batch, "a", "d")
		w.look()
		for range 4 {
			h.run()
			w.look()
		}
		h.drain()
		w.placed(31 + 2*w.batch)
	},
	"late committer, chunks": func(w *world) {
		p, q, h := w.writer(), w.writer(), w.hand().lead()
		p.begin("").publish("a")
		q.publish("b")
		h.drain() // now the open one is in the list of those in progress
		q.bulk(2*w.batch, "a", "b")
		p.commit()
		h.run().run()
		w.look()
		h.drain()
		w.placed(2*w.batch + 2)
	},
	"commit during chunks": func(w *world) {
		p, q, h := w.writer(), w.writer(), w.hand().lead()
		p.begin("").publish("a")
		q.bulk(3*w.batch, "a", "b")
		h.run().run()
		p.publish("b").commit()
		q.publish("a")
		w.look()
		h.run()
		w.look()
		h.drain()
		w.placed(3*w.batch + 3)
	},
	"crash during chunks": func(w *world) {
		p, h, g := w.writer(), w.hand().lead(), w.hand()
		p.bulk(4*w.batch, "a", "b")
		h.run().run().until(atCommit).crash(true)
		g.lead().run().statement().statement().statement().statement().crash(false)
		h.lead().drain()
		w.placed(4 * w.batch)
	},
	"unknown commit": func(w *world) {
		p, h := w.writer(), w.hand().lead()
		p.bulk(3, "a", "b")
		h.until(atCommit).statement().crash(false) // committed, and nobody heard it
		h.lead().drain()
		w.placed(3)
	},
	"deposed": func(w *world) {
		p, h, g := w.writer(), w.hand().lead(), w.hand()
		h.until(atHold)
		g.lead()
		p.publish("a")
		h.until(atBegin) // fails if a statement did anything
		h.run()
		w.placed(0)
		g.run()
		w.placed(1)
	},
	"commit during a step": func(w *world) {
		p, h := w.writer(), w.hand().lead()
		gate := w.connect()
		w.exec(gate, "select pg_advisory_lock(77)") // only the mutant meets it
		p.publish("a")
		h.until(atStep)
		stepped := make(chan error, 1)
		q := h.st.transaction(false, false).QueuedQueries[atStep]
		go func() {
			_, err := h.conn.Exec(w.ctx, q.SQL, q.Arguments...)
			stepped <- err
		}()
		var err error
		done := false
		await(w.t, "the step is done or waits", func() bool {
			select {
			case err = <-stepped:
				done = true
			default:
			}
			var waits bool
			_ = w.admin.QueryRow(w.ctx, `select exists (select from pg_locks where not granted and objid = 77
				and database = (select oid from pg_database where datname = current_database()))`).Scan(&waits)
			return done || waits
		})
		p.publish("a")
		w.exec(gate, "select pg_advisory_unlock(77)")
		if !done {
			err = <-stepped
		}
		if err != nil {
			w.fail("step: %w", err)
		}
		h.pc++
		h.until(atBegin)
		h.drain()
		w.placed(2)
	},
	"restored into a younger cluster": func(w *world) { restored(w, true) },
	"restored into an older cluster":  func(w *world) { restored(w, false) },
	"all trimmed": func(w *world) {
		p, h := w.writer(), w.hand().lead()
		p.bulk(3, "a")
		h.drain()
		w.look()
		r := newRetention(w.pool, nil, newMetrics(nil), nil)
		w.exec(w.admin, "update pgcast.replay set sequenced_at = sequenced_at - interval '8 days'")
		if _, err := r.pass(w.ctx); err != nil {
			w.fail("%w", err)
		}
		p.publish("a")
		h.drain()
		page, err := w.log.Page(w.ctx, "a", 0, 10)
		if got := fmt.Sprint(page.Tail, page.Head, len(page.Events)); err != nil || got != "4 4 1" {
			w.fail("tail, head and events are %s, %v", got, err)
		}
		w.forget()
	},
}

// restored has a part of the log sequenced, then moves it into another cluster, whose
// transactions are far behind the log's, or far ahead.
func restored(w *world, younger bool) {
	p, h := w.writer(), w.hand().lead()
	p.bulk(3, "a", "b")
	h.drain()
	p.bulk(2*w.batch, "b", "c") // not sequenced when it was dumped
	old := 3 + 2*w.batch
	h.crash(false)
	w.exec(w.admin, "update pgcast.sequencer set system_identifier = 42")
	if younger {
		const far = "pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 1000000"
		w.exec(w.admin, "update pgcast.event_log set xid = ("+far+" + id % 7)::text::xid8")
		w.exec(w.admin, "update pgcast.progress set seen = format('%1$s:%1$s:', "+far+")::pg_snapshot")
	} else {
		w.exec(w.admin, "update pgcast.event_log set xid = (3 + id % 7)::text::xid8")
		w.exec(w.admin, "update pgcast.progress set seen = '3:20:5,7'")
	}
	late := w.writer().begin("").publish("a") // open while the log is re-based
	p.publish("c")
	h.lead().drain()
	w.placed(old + 1)
	p.publish("c")
	h.drain()
	w.placed(old + 2)
	late.commit()
	h.drain()
	w.placed(old + 3)
	// The cluster comes to transaction numbers that came along, a few at a time.
	w.exec(w.admin, "update pgcast.event_log set xid = pg_current_xact_id() where id <= 3")
	h.drain()
	w.placed(old + 3)
	for i := range 3 {
		p.publish("a")
		h.drain()
		w.placed(old + 4 + i)
	}
	w.exec(w.admin, "update pgcast.event_log set xid = pg_current_xact_id() where id <= 3")
	p.bulk(3*w.batch, "a")
	h.drain()
	w.placed(old + 6 + 3*w.batch)
}

// placed judges the order and how many events it has.
func (w *world) placed(want int) {
	if order := w.look(); w.err == nil && len(order) != want {
		w.fail("%d events have a place, not %d", len(order), want)
	}
}

// forget makes an end of the history, so that the finale judges only what comes after.
func (w *world) forget() {
	if err := w.err; err == nil {
		w.reset()
	}
}

func TestScenarios(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Doorbell)
	for name, play := range scenarios {
		w.reset()
		play(w)
		if err := w.finale(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
