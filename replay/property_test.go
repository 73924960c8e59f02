package replay

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// TestAnyInterleaving lets writers, two sequencers that steal the term from each other
// and die between any two statements, and readers that come and go do whatever they may,
// in any order, and asks the oracles after every single action.
func TestAnyInterleaving(t *testing.T) {
	t.Parallel()
	for _, kind := range []pgtest.Kind{pgtest.Doorbell, pgtest.TwoPhase} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, kind)
			rapid.Check(t, func(rt *rapid.T) { interleave(rt, w, kind == pgtest.TwoPhase) })
		})
	}
}

func interleave(rt *rapid.T, w *world, prepares bool) {
	w.reset()
	topics := []string{"a", "b:1", "c"}
	pens := []*writer{w.writer(), w.writer(), w.writer()}
	hands := []*hand{w.hand(), w.hand()}
	readers := []*reader{w.reader(""), w.reader("a"), w.reader("b:1")}
	scan := &scanner{w: w}

	draw := func(rt *rapid.T, n int, what string) int { return rapid.IntRange(0, n-1).Draw(rt, what) }
	pen := func(rt *rapid.T, open bool) *writer {
		p := pens[draw(rt, len(pens), "writer")]
		if (p.tx != nil) != open {
			rt.Skip()
		}
		return p
	}
	anyPen := func(rt *rapid.T) *writer { return pens[draw(rt, len(pens), "writer")] }
	someHand := func(rt *rapid.T, ok func(*hand) bool) *hand {
		h := hands[draw(rt, len(hands), "hand")]
		if !ok(h) {
			rt.Skip()
		}
		return h
	}
	ready := func(h *hand) bool { return h.leads() && h.pc == atBegin && !h.blocked() }

	actions := map[string]func(*rapid.T){
		"begin": func(rt *rapid.T) {
			how := rapid.SampledFrom([]string{"", "isolation level repeatable read", "isolation level serializable"}).Draw(rt, "isolation")
			p := pen(rt, false).begin(how)
			if rapid.Bool().Draw(rt, "async") {
				w.exec(p.conn, "set local synchronous_commit = off")
			}
			if rapid.Bool().Draw(rt, "early xid") {
				p.xid()
			}
		},
		"publish":  func(rt *rapid.T) { anyPen(rt).publish(topics[draw(rt, 3, "topic")]) },
		"publish2": func(rt *rapid.T) { anyPen(rt).publish(topics[draw(rt, 3, "topic")]) },
		"bulk": func(rt *rapid.T) {
			anyPen(rt).bulk(rapid.IntRange(1, 4*w.batch).Draw(rt, "events"), topics[:1+draw(rt, 3, "topics")]...)
		},
		"savepoint": func(rt *rapid.T) { pen(rt, true).savepoint() },
		"rollback to": func(rt *rapid.T) {
			p := pen(rt, true)
			if len(p.tx.saved) == 0 {
				rt.Skip()
			}
			p.rollbackTo()
		},
		"commit":   func(rt *rapid.T) { pen(rt, true).commit() },
		"commit2":  func(rt *rapid.T) { pen(rt, true).commit() },
		"rollback": func(rt *rapid.T) { pen(rt, true).rollback() },

		"lead": func(rt *rapid.T) {
			someHand(rt, func(h *hand) bool { return h.pc == atBegin && !h.blocked() }).lead()
		},
		"step":    func(rt *rapid.T) { someHand(rt, ready).run() },
		"step2":   func(rt *rapid.T) { someHand(rt, ready).run() },
		"advance": func(rt *rapid.T) { someHand(rt, ready).whole(true) },
		"statement": func(rt *rapid.T) {
			h := someHand(rt, func(h *hand) bool { return h.leads() && (h.pc != atHold || !h.blocked()) })
			h.until(draw(rt, atCommit+1, "until"))
		},
		"crash": func(rt *rapid.T) { hands[draw(rt, len(hands), "hand")].crash(rapid.Bool().Draw(rt, "terminate")) },

		"read": func(rt *rapid.T) {
			readers[draw(rt, len(readers), "reader")].read(rapid.IntRange(1, 10).Draw(rt, "max"))
		},
		"come back": func(rt *rapid.T) { readers[draw(rt, len(readers), "reader")].comeBack() },
		"scan":      func(rt *rapid.T) { scan.read(rapid.IntRange(1, 10).Draw(rt, "max")) },
		"": func(rt *rapid.T) {
			w.look()
			if w.err != nil {
				rt.Fatal(w.err)
			}
		},
	}
	if prepares {
		actions["prepare"] = func(rt *rapid.T) {
			if len(w.stored) == 5 { // the cluster allows 10, and tests share it
				rt.Skip()
			}
			pen(rt, true).prepare()
		}
		finish := func(commit bool) func(*rapid.T) {
			return func(rt *rapid.T) {
				if len(w.stored) == 0 {
					rt.Skip()
				}
				w.finish(draw(rt, len(w.stored), "prepared"), commit)
			}
		}
		actions["commit prepared"], actions["rollback prepared"] = finish(true), finish(false)
	}
	rt.Repeat(actions)
	if err := w.finale(); err != nil {
		rt.Fatal(err)
	}
	scan.settled(rt)
}
