package replay

import (
	"errors"

	"github.com/jackc/pgx/v5"
)

// hand is a sequencer that is moved by hand, one statement at a time if need be.
type hand struct {
	w    *world
	conn *pgx.Conn
	st   *stepper
	pc   int // next statement of the step's transaction
	done stepped
}

// The statements of a step's transaction.
const (
	atBegin = iota
	atSet
	atHold
	atStep
	atCommit
)

func (w *world) hand() *hand {
	h := &hand{w: w}
	w.hands = append(w.hands, h)
	return h
}

// blocked tells that taking the sequencer row would wait for another hand.
func (h *hand) blocked() bool { return h.w.holder != nil && h.w.holder != h }

// leads tells whether the hand has a term, maybe an outdated one.
func (h *hand) leads() bool { return h.st != nil }

// lead takes the term from whoever has it.
func (h *hand) lead() *hand {
	if h.w.err != nil {
		return h
	}
	if h.conn == nil {
		h.conn = h.w.connect()
	}
	term, err := takeTerm(h.w.ctx, h.conn, false, discard)
	if err != nil {
		h.w.fail("lead: %w", err)
		return h
	}
	if term <= h.w.term && h.w.term != 0 {
		h.w.fail("term %d is not above %d", term, h.w.term)
	}
	h.w.term, h.pc = term, atBegin
	h.st = newStepper(h.conn, term, h.w.batch)
	h.st.step = h.w.step
	return h
}

// run makes a whole step.
func (h *hand) run() *hand { return h.whole(false) }

func (h *hand) whole(advance bool) *hand {
	if h.w.err != nil {
		return h
	}
	done, err := h.st.run(h.w.ctx, advance)
	switch deposed := h.st.term != h.w.term; {
	case deposed && !errors.Is(err, errDeposed):
		h.w.fail("term %d is over (it is %d), but its step gave %v, %v", h.st.term, h.w.term, done, err)
	case !deposed && err != nil:
		h.w.fail("step: %w", err)
	}
	h.done = done
	return h
}

func (h *hand) look() (work bool, err error) {
	err = h.conn.QueryRow(h.w.ctx, h.w.peek).Scan(&work)
	return work, err
}

// drain makes steps until there is no work left.
func (h *hand) drain() *hand {
	for steps := 0; h.w.err == nil; steps++ {
		work, err := h.look()
		if err != nil {
			h.w.fail("look: %w", err)
		}
		if !work {
			return h
		}
		if steps > 100+2*len(h.w.facts)/h.w.batch {
			h.w.fail("after %d steps there is still work", steps)
		}
		h.run()
	}
	return h
}

// statement makes the next statement of a step's transaction.
func (h *hand) statement() *hand {
	if h.w.err != nil {
		return h
	}
	q := h.st.transaction(false, false).QueuedQueries[h.pc]
	rows, err := h.conn.Query(h.w.ctx, q.SQL, q.Arguments...)
	n := 0
	if err == nil {
		for rows.Next() {
			n++
		}
		err = rows.Err()
	}
	if err != nil {
		h.w.fail("step, statement %d: %w", h.pc, err)
		return h
	}
	switch current := h.st.term == h.w.term; h.pc {
	case atHold:
		if got := n == 1; got != current {
			h.w.fail("term %d of %d, row held: %t", h.st.term, h.w.term, got)
		} else if got {
			h.w.holder = h
		}
	case atStep:
		if n > 0 && !current {
			h.w.fail("term %d of %d made a step", h.st.term, h.w.term)
		}
	case atCommit:
		if h.w.holder == h {
			h.w.holder = nil
		}
	}
	h.pc = (h.pc + 1) % (atCommit + 1)
	return h
}

// until makes statements up to, but not including, one of them, or until it would wait.
func (h *hand) until(pc int) *hand {
	for h.w.err == nil && h.pc != pc && (h.pc != atHold || !h.blocked()) {
		h.statement()
	}
	return h
}

// crash ends the hand wherever it is: its connection is cut, or its backend terminated.
func (h *hand) crash(terminate bool) {
	if h.conn == nil {
		return
	}
	pid := h.conn.PgConn().PID()
	if terminate {
		h.w.exec(h.w.admin, "select pg_terminate_backend($1)", pid)
	} else {
		_ = h.conn.PgConn().Conn().Close() // without a goodbye
	}
	_ = h.conn.Close(h.w.ctx)
	if h.w.holder == h {
		h.w.holder = nil
	}
	h.conn, h.st, h.pc = nil, nil, atBegin
}
