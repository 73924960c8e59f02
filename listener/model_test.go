package listener_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// This file proves the doorbell, by which writers wake a sleeping sequencer
// without a NOTIFY under load: it visits every state that any interleaving of
// their steps can reach.
//
// The sequencer sleeps only while it holds the advisory lock ASLEEP exclusively;
// capture asks for the same lock, shared and until the end of the writer's
// transaction. Refused, the writer rings; granted, it need not, since the
// sequencer cannot fall asleep before that transaction is visible. Whether this
// ever loses a wake-up is a matter of the order of single steps on both sides,
// so an order is what the model runs: each side is a line of atomic steps, and a
// variant of the protocol is another line.
//
// The model has no clock. What only a timeout repairs (the safety look once a
// second, a black-holed connection found out by ringing one's own bell) counts
// as lost: the protocol has to hold without it.
//
// The sequencer does, over and over,
//
//	snapshot, sequence  a statement takes its snapshot; all it sees gets its place
//	try                 pg_try_advisory_lock(ASLEEP); refused: back to the first step
//	drain               read what bells have arrived
//	skip                not the next step, if that snapshot saw something new
//	wait                block until a bell arrives
//	unlock              pg_advisory_unlock(ASLEEP)
//
// and a writer does, besides begin, insert, savepoint, rollbackTo and abort,
//
//	ask                 pg_try_advisory_xact_lock_shared(ASLEEP); refused: pg_notify
//	visible             the parts of COMMIT: others see the transaction,
//	release             its locks are gone,
//	bell                its NOTIFY, if any, reaches those who listen

// compound names the steps that usually go together. The order in commit is
// that of CommitTransaction in Postgres's xact.c: ProcArrayEndTransaction,
// ResourceOwnerRelease of the locks, AtCommit_Notify.
var compound = strings.NewReplacer("look", "snapshot sequence", "commit", "visible release bell")

const (
	designed = "look try drain look wait unlock"
	once     = "begin insert ask commit"
	twice    = once + " " + once

	refused    = ": refused"
	maxWriters = 3
)

// world is one state of everything; the search remembers which it has been in.
type world struct {
	// Commits become visible one after the other, so a snapshot is no more than
	// how many of them it sees, and what is sequenced no more than the last
	// snapshot looked at: the comparison the real sequencer makes.
	committed, snapshot, sequenced uint8

	asleep holder
	bells  uint8 // arrived on the LISTEN connection, unread
	died   bool  // a connection has; there is one death in a history
	broken bool  // the LISTEN connection is dead and the sequencer has not noticed

	pc      uint8 // the sequencer's next step
	writers [maxWriters]writer
}

type holder uint8 // who has ASLEEP exclusively

const (
	nobody holder = iota
	sequencer
	ghost // a backend of the sequencer whose client has already gone
)

// writer is one session and its transaction.
type writer struct {
	pc                  uint8
	open                bool  // begun, not yet visible
	level               uint8 // where a statement runs now: outer, or inner to a savepoint
	wrote, holds, rings uint8 // the levels that wrote, hold ASLEEP shared, will ring
}

const outer, inner uint8 = 1, 2

// protocol is one variant, ready to run.
type protocol struct {
	sequencer []string
	writers   [][]string
	mortal    string // what may happen once: dies (the LISTEN connection) or lockDies
	apart     bool   // ASLEEP is held on another connection than LISTEN
	trusting  bool   // after a new LISTEN, wait on as if nothing had happened
}

// newProtocol puts one sequencer and n writers together.
func newProtocol(steps, first, others string, n int) *protocol {
	program := func(text, standard string) []string {
		return strings.Fields(compound.Replace(cmp.Or(text, standard)))
	}
	p := &protocol{sequencer: program(steps, designed)}
	for range n {
		p.writers = append(p.writers, program(others, once))
	}
	p.writers[0] = program(first, once)
	return p
}

// move is one edge of the search: who did which step, and how it went.
type move struct{ who, step, how string }

// next yields every world one move away from w.
func (p *protocol) next(w world, yield func(world, move)) {
	p.sequencerStep(w, yield)
	for i := range p.writers {
		p.writerStep(w, i, yield)
	}
	p.misfortune(w, yield)
}

func (p *protocol) sequencerStep(w world, yield func(world, move)) {
	m := move{who: "sequencer", step: p.sequencer[w.pc]}
	at := w.pc
	w.pc = (w.pc + 1) % uint8(len(p.sequencer))

	// A look that goes through the pool does not notice a dead connection.
	needsListen := m.step == "drain" || m.step == "wait" || !p.apart && (m.step == "try" || m.step == "unlock")
	if w.broken && needsListen {
		w.broken, w.pc = false, 0
		if p.trusting && m.step == "wait" {
			w.pc = at
		}
		if w.asleep == sequencer { // still, because it is held apart
			w.asleep = nobody
		}
		yield(w, move{who: m.who, step: "relisten"})
		return
	}

	switch m.step {
	case "snapshot":
		w.snapshot = w.committed
	case "sequence":
		w.sequenced = w.snapshot
	case "try":
		shared := slices.ContainsFunc(w.writers[:], func(t writer) bool { return t.holds != 0 })
		if w.asleep == nobody && !shared {
			w.asleep, m.how = sequencer, ": granted"
		} else {
			w.pc, m.how = 0, refused
		}
	case "skip":
		if w.snapshot > w.sequenced {
			w.pc++
		}
	case "unlock":
		if w.asleep == sequencer {
			w.asleep = nobody
		}
	case "drain", "wait":
		// The network decides how many bells have got here by now. Waiting ends
		// with the first of them; a drain may read none.
		for left := range w.bells {
			rung := w
			rung.bells = left
			yield(rung, move{m.who, m.step, ": hears a bell"})
		}
		if m.step == "wait" {
			return
		}
	default:
		panic("not a step of the sequencer: " + m.step)
	}
	yield(w, m)
}

func (p *protocol) writerStep(w world, i int, yield func(world, move)) {
	t := &w.writers[i]
	if int(t.pc) == len(p.writers[i]) {
		return
	}
	m := move{who: [maxWriters]string{"writer 1", "writer 2", "writer 3"}[i], step: p.writers[i][t.pc]}
	t.pc++
	switch m.step {
	case "begin":
		t.open, t.level = true, outer
	case "insert":
		t.wrote |= t.level
	case "ask":
		// Shared locks conflict with the exclusive one only, and a try never waits.
		if w.asleep == nobody {
			t.holds, m.how = t.holds|t.level, ": granted"
		} else {
			t.rings, m.how = t.rings|t.level, refused
		}
	case "savepoint":
		t.level = inner
	case "rollbackTo":
		// Postgres undoes rows, locks and notifications alike.
		t.wrote, t.holds, t.rings = t.wrote&outer, t.holds&outer, t.rings&outer
	case "abort":
		*t = writer{pc: t.pc}
	case "visible":
		if t.wrote != 0 {
			w.committed++
		}
		t.open, t.level, t.wrote = false, 0, 0
	case "release":
		t.holds = 0
	case "bell":
		if t.rings != 0 && !w.broken { // else nobody hears it
			w.bells++
		}
		t.rings = 0
	default:
		panic("not a step of a writer: " + m.step)
	}
	yield(w, m)
}

// misfortune is what befalls the sequencer's connections, at any moment. A
// connection has two ends: the backend may be gone, and its locks with it,
// before the sequencer notices; or the sequencer may have given up a connection
// whose backend still holds ASLEEP, and be refused by its own ghost.
func (p *protocol) misfortune(w world, yield func(world, move)) {
	if w.asleep == ghost {
		freed := w
		freed.asleep = nobody
		yield(freed, move{who: "ghost", step: "ends"})
	}
	if w.died || p.mortal == "" {
		return
	}
	m := move{who: "connection", step: p.mortal}
	w.died = true
	if p.mortal == "dies" {
		w.broken, w.bells = true, 0
	}
	if lockToo := p.mortal == "lockDies" || !p.apart; w.asleep == sequencer && lockToo {
		w.asleep = ghost
		yield(w, m)
		w.asleep = nobody
	}
	yield(w, m)
}

// lost says that the sequencer sleeps on a committed event and nothing under
// way will wake it. Under way is the bell of a transaction that has committed;
// one that an open transaction is going to ring counts only if we are patient,
// because it may stay open for ever.
func (p *protocol) lost(w *world, patient bool) bool {
	if p.sequencer[w.pc] != "wait" || w.broken || w.bells > 0 || w.sequenced == w.committed {
		return false
	}
	return !slices.ContainsFunc(w.writers[:], func(t writer) bool { return t.rings != 0 && (patient || !t.open) })
}

// search visits every reachable world, breadth first, so that the first lost
// wake-up it meets is also a nearest one; trace is the way there, empty if there
// is none. taken has the steps that led somewhere new, and refusals.
func (p *protocol) search(patient bool) (states int, taken map[string]bool, trace string) {
	type node struct {
		world
		from int32
	}
	taken = map[string]bool{"": true}
	queue := []node{{}}
	been := map[world]struct{}{{}: {}}
	for i := 0; i < len(queue); i++ {
		if p.lost(&queue[i].world, patient) {
			for ; i > 0; i = int(queue[i].from) {
				trace = p.between(queue[queue[i].from].world, queue[i].world) + trace
			}
			break
		}
		p.next(queue[i].world, func(w world, m move) {
			if m.how == refused {
				taken[m.step+refused] = true
			}
			if _, ok := been[w]; !ok {
				been[w], taken[m.step] = struct{}{}, true
				queue = append(queue, node{w, int32(i)})
			}
		})
	}
	return len(queue), taken, trace
}

// between finds the move that led from one world to the next, as a line of text.
func (p *protocol) between(from, to world) (line string) {
	p.next(from, func(w world, m move) {
		if w == to {
			line = fmt.Sprintf("\n\t%-10s %s%s", m.who, m.step, m.how)
		}
	})
	return line
}

func TestDoorbellNeverLosesAWakeUp(t *testing.T) {
	sizes := []struct {
		writers int
		mortal  string
	}{{2, ""}, {2, "dies"}, {3, ""}, {3, "dies"}}
	for _, tt := range []struct {
		name      string
		sequencer string // designed, if empty
		first     string // what the first writer does,
		others    string // and the others: once, if empty
		apart     bool
		sizes     int // how many of the sizes; three, if zero
	}{
		{name: "as designed", sizes: 4},
		{name: "drain before the try", sequencer: "drain look try look wait unlock"},
		{name: "no drain", sequencer: "look try look wait unlock"},
		{name: "last look read-only", sequencer: "look try drain snapshot skip wait unlock", sizes: 4},
		{name: "look before unlock", sequencer: "look try drain look wait look unlock"},
		{name: "ask before insert", first: "begin ask insert commit", others: "begin ask insert commit"},
		{name: "one asks before insert", first: "begin ask insert commit"},
		// A listener that another bell has woken may read this one before the
		// ringer's locks are gone.
		{name: "bell before release", first: "begin insert ask visible bell release", others: "begin insert ask visible bell release"},
		// LISTEN does not die in silence, the lock does: see the losing variants.
		{name: "lock on another connection", apart: true},

		{name: "two statements", first: "begin insert ask insert ask commit"},
		{name: "savepoint rolled back", first: "begin insert ask savepoint insert ask rollbackTo commit"},
		{name: "statement after a rollback", first: "begin savepoint insert ask rollbackTo insert ask commit"},
		{name: "all rolled back to a savepoint", first: "begin savepoint insert ask rollbackTo commit"},
		{name: "transaction rolled back", first: "begin insert ask abort"},
		{name: "transaction open for ever", first: "begin insert ask"},
		{name: "two transactions", first: twice},
		{name: "two transactions each", first: twice, others: twice, sizes: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, size := range sizes[:cmp.Or(tt.sizes, 3)] {
				p := newProtocol(tt.sequencer, tt.first, tt.others, size.writers)
				p.mortal, p.apart = size.mortal, tt.apart
				states, taken, trace := p.search(false)
				t.Logf("%d writers, the connection %-5s %6d states", size.writers, cmp.Or(size.mortal, "lives"), states)
				if trace != "" {
					t.Fatalf("a wake-up is lost:%s", trace)
				}
				// Nor may the proof be empty: everything the programs name must
				// have happened, and each side must also have been refused.
				all := slices.Concat(p.sequencer, slices.Concat(p.writers...))
				for _, s := range append(all, size.mortal, "try"+refused, "ask"+refused) {
					if !taken[s] {
						t.Errorf("%s: never happened", s)
					}
				}
			}
		})
	}
}

// TestDoorbellLosingVariants is the other half of the proof. Each detail of the
// design is there because a wake-up is lost without it, and a model that did
// not find these would say nothing about the rest.
func TestDoorbellLosingVariants(t *testing.T) {
	for _, tt := range []struct {
		name      string
		sequencer string
		writer    string
		sets      protocol
	}{
		{name: "drain after the last look", sequencer: "look try look drain wait unlock"},
		{name: "no look after the try", sequencer: "look try drain wait unlock"},
		{name: "no look after the try, drain before", sequencer: "drain look try wait unlock"},
		// The try and the look in one statement, or in one REPEATABLE READ transaction.
		{name: "last snapshot older than the lock", sequencer: "look snapshot try drain sequence wait unlock"},
		{name: "lock on another connection, which dies", sets: protocol{mortal: "lockDies", apart: true}},
		{name: "lock released before visible", writer: "begin insert ask release visible bell"},
		{name: "bell before visible", writer: "begin insert ask bell visible release"},

		{name: "no look after a new LISTEN", sets: protocol{mortal: "dies", trusting: true}},
		{name: "lock released with the statement", writer: "begin insert ask release insert commit"},
		// Capture that remembers outside the transaction that it has asked.
		{name: "asked once, in a savepoint rolled back", writer: "begin savepoint insert ask rollbackTo insert commit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for n := 2; n <= maxWriters; n++ {
				p := newProtocol(tt.sequencer, tt.writer, tt.writer, n)
				p.mortal, p.apart, p.trusting = tt.sets.mortal, tt.sets.apart, tt.sets.trusting
				states, _, trace := p.search(true)
				if trace == "" {
					t.Fatalf("%d writers: no wake-up is lost in %d states", n, states)
				}
				if n == 2 {
					t.Logf("asleep on a committed event after%s", trace)
				}
			}
		})
	}
}
