package listener_test

import (
	"fmt"
	"strings"
	"testing"
)

// This file proves waking by the WAL as model_test.go proves the doorbell: it visits every
// state that the steps of the writers, the stream and the sequencer can reach, and finds none
// in which the sequencer waits on an event that nobody will tell it of.
//
// A commit is first on disk, where the stream finds it, and then visible, in that order; both
// may be any time apart. The stream may die once, and begins anew: what was on disk then is
// not told. The sequencer does, over and over,
//
//	snapshot, sequence  all it sees gets its place
//	take                what was told is unseen; not followed, or just begun: back to the first step
//	check               which of the unseen are visible? if some: back to the first step
//	block               until something is told, or, while something is unseen, for a while
//
// The model has no clock, so the safety look does not count. Settling, which ends after a
// second in the code, ends here when all that was on disk at its beginning is visible: that a
// commit takes no longer than a second for it is what the code takes on trust (and the safety
// look makes good).

type walWorld struct {
	// Sets of writers.
	disk, visible, told, skipped, fresh, unseen, snapshot, sequenced uint8

	follows, settling, looked, died, poked bool
	pc                                     uint8
}

// walProtocol is a variant; the zero value is the code.
type walProtocol struct {
	writers   int
	trusting  bool // told is taken for visible
	forgetful bool // what is not visible at the first check is forgotten
	contented bool // whoever has found something forgets the rest
	unsettled bool // does not poll after it has begun anew
	hasty     bool // does not look once more when it has settled
	untold    bool // of the end and the new beginning of the stream
	early     bool // looks before it takes: the check comes first, the look was before it
}

const (
	walSnapshot = iota
	walSequence
	walTake
	walCheck
	walBlock
)

func (p *walProtocol) next(w walWorld, yield func(walWorld, string)) {
	for i := range p.writers {
		me := uint8(1) << i
		switch n := w; {
		case n.disk&me == 0:
			n.disk |= me
			yield(n, fmt.Sprintf("writer %d is on disk", i+1))
		case n.visible&me == 0:
			n.visible |= me
			yield(n, fmt.Sprintf("writer %d is visible", i+1))
		}
		if n := w; w.follows && w.disk&^w.told&^w.skipped&me != 0 {
			n.told |= me
			n.fresh |= me
			yield(n, fmt.Sprintf("the stream tells of writer %d", i+1))
		}
	}
	if n := w; w.follows && !w.died {
		n.follows, n.died, n.poked = false, true, !p.untold
		yield(n, "the stream dies")
	}
	if n := w; !w.follows {
		n.follows, n.settling, n.looked, n.skipped, n.poked = true, !p.unsettled, p.unsettled, w.disk, !p.untold
		yield(n, "the stream begins")
	}
	if n := w; w.settling && w.skipped&^w.visible == 0 {
		n.settling = false
		yield(n, "it has settled")
	}
	p.step(w, yield)
}

func (p *walProtocol) step(w walWorld, yield func(walWorld, string)) {
	switch w.pc {
	case walSnapshot:
		w.snapshot, w.pc = w.visible, walSequence
		yield(w, "snapshot")
	case walSequence:
		if p.contented && w.snapshot&^w.sequenced != 0 {
			w.unseen, w.fresh = 0, 0
		}
		w.sequenced, w.pc = w.snapshot, walTake
		yield(w, "sequence")
	case walTake:
		w.unseen, w.fresh, w.pc = w.unseen|w.fresh, 0, walCheck
		w.poked = false
		switch {
		case !w.follows:
			w.pc, w.unseen = walSnapshot, 0
		case w.settling:
			w.pc = walSnapshot
		case !w.looked && !p.hasty:
			w.pc, w.looked = walSnapshot, true
		}
		yield(w, "take")
	case walCheck:
		seen := w.unseen & w.visible
		if p.trusting {
			seen = w.unseen
		}
		w.unseen, w.pc = w.unseen&^seen, walBlock
		if p.forgetful {
			w.unseen = 0
		}
		if seen != 0 && !p.early {
			w.pc = walSnapshot
		}
		yield(w, "check")
	case walBlock:
		if w.fresh != 0 || w.unseen != 0 || w.poked {
			w.pc = walTake
			yield(w, "goes on")
		}
	}
}

// lost tells that it waits on a visible event of which nobody is going to tell.
func (w walWorld) lost() bool {
	waits := w.pc == walBlock && w.fresh == 0 && w.unseen == 0 && !w.poked && w.follows
	return waits && w.visible&^w.sequenced&(w.told|w.skipped) != 0
}

// search gives the shortest way to a lost wake-up, "" if there is none.
func (p *walProtocol) search() (states int, taken map[string]bool, trace string) {
	type node struct {
		walWorld
		from int
		by   string
	}
	queue, been := []node{{from: -1}}, map[walWorld]bool{{}: true}
	taken = map[string]bool{}
	for i := 0; i < len(queue); i++ {
		if queue[i].lost() {
			var steps []string
			for ; i > 0; i = queue[i].from {
				steps = append([]string{queue[i].by}, steps...)
			}
			return len(queue), taken, "\n\t" + strings.Join(steps, "\n\t")
		}
		p.next(queue[i].walWorld, func(w walWorld, by string) {
			taken[by] = true
			if !been[w] {
				been[w] = true
				queue = append(queue, node{w, i, by})
			}
		})
	}
	return len(queue), taken, ""
}

func TestWALNeverLosesAWakeUp(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 3; n++ {
		states, taken, trace := (&walProtocol{writers: n}).search()
		t.Logf("%d writers: %d states", n, states)
		if trace != "" {
			t.Fatalf("a wake-up is lost:%s", trace)
		}
		for _, step := range []string{"snapshot", "sequence", "take", "check", "goes on", "the stream dies", "the stream begins", "it has settled",
			fmt.Sprintf("the stream tells of writer %d", n), fmt.Sprintf("writer %d is visible", n)} {
			if !taken[step] {
				t.Errorf("%s: never happened", step)
			}
		}
	}
}

// TestWALLosingVariants: without each detail a wake-up is lost.
func TestWALLosingVariants(t *testing.T) {
	for name, p := range map[string]walProtocol{
		"told is taken for visible":          {trusting: true},
		"forgotten if not visible at once":   {forgetful: true},
		"forgotten when another was found":   {contented: true},
		"no polling after a new beginning":   {unsettled: true},
		"no look after it has settled":       {hasty: true},
		"the end of the stream goes unsaid":  {untold: true},
		"no look after the check found some": {early: true},
	} {
		p.writers = 2
		states, _, trace := p.search()
		if trace == "" {
			t.Errorf("%s: no wake-up is lost in %d states", name, states)
			continue
		}
		t.Logf("%s: waits on an event after%s", name, trace)
	}
}
