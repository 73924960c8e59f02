package replay

import (
	"encoding/json"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
)

// placed is one row of the order, as the oracles see it.
type placed struct {
	N        int
	Topic    string // by the order
	Said     string // by the event
	Seq      int
	Position int
	ID       int64
	Xid      uint64
}

const readOrder = `select coalesce((e.data->>'n')::int, 0) as n, t.name as topic, coalesce(e.topic, '') as said,
	r.seq::int as seq, r.position::int as position, r.event_id as id, coalesce(e.xid::text, '0')::bigint as xid
from pgcast.replay r
left join pgcast.topic t on t.id = r.topic_id
left join pgcast.event_log e on e.id = r.event_id
order by r.position`

// look is the oracle that holds at every moment: the order has no hole, knows nothing
// but committed events, knows each once, and keeps to causality.
func (w *world) look() []placed {
	if w.err != nil {
		return nil
	}
	var newest int
	rows, err := w.admin.Query(w.ctx, readOrder)
	if err == nil {
		var order []placed
		if order, err = pgx.CollectRows(rows, pgx.RowToStructByPos[placed]); err == nil {
			err = w.admin.QueryRow(w.ctx, db.LogPosition).Scan(&newest)
		}
		if err == nil {
			w.judge(order, newest)
			return order
		}
	}
	w.fail("read the order: %w", err)
	return nil
}

func (w *world) judge(order []placed, newest int) {
	heads := map[string]int{}
	lastID := map[uint64]int64{}
	at := map[int]int{} // n to position
	for i, p := range order {
		f := w.facts[p.N]
		heads[p.Topic]++
		switch {
		case p.Position != i+1:
			w.fail("position %d is where %d should be", p.Position, i+1)
		case p.Seq != heads[p.Topic]:
			w.fail("topic %s: seq %d is where %d should be", p.Topic, p.Seq, heads[p.Topic])
		case p.Topic != p.Said:
			w.fail("event %d of topic %s stands in %s", p.ID, p.Said, p.Topic)
		case f == nil:
			w.fail("position %d has an event that nobody wrote", p.Position)
		case f.tx.ended == 0 || !slices.Contains(f.tx.facts, f):
			w.fail("event %d has a place, but was never committed", p.N)
		case f.topic != p.Topic:
			w.fail("event %d was written to %s and stands in %s", p.N, f.topic, p.Topic)
		case at[p.N] != 0:
			w.fail("event %d has positions %d and %d", p.N, at[p.N], p.Position)
		case lastID[p.Xid] > p.ID:
			w.fail("transaction %d: id %d comes after %d", p.Xid, p.ID, lastID[p.Xid])
		}
		at[p.N], lastID[p.Xid] = p.Position, p.ID
	}
	if newest != len(order) {
		w.fail("progress tells of position %d, the order has %d", newest, len(order))
	}
	w.causality(at)
}

// causality: what was committed before an event was written has the smaller position.
// That is more than "before its transaction began", and it is what changes of one row
// need, whose second writer waits for the first.
func (w *world) causality(at map[int]int) {
	var ends []*tx
	var facts []*fact
	for _, x := range w.txs {
		if x.ended > 0 {
			ends = append(ends, x)
			facts = append(facts, x.facts...)
		}
	}
	slices.SortFunc(ends, func(a, b *tx) int { return a.ended - b.ended })
	slices.SortFunc(facts, func(a, b *fact) int { return a.at - b.at })
	newest, missing := &fact{}, (*fact)(nil)
	for _, f := range facts {
		for len(ends) > 0 && ends[0].ended < f.at {
			for _, e := range ends[0].facts {
				if at[e.n] == 0 {
					missing = e
				} else if at[e.n] > at[newest.n] {
					newest = e
				}
			}
			ends = ends[1:]
		}
		switch {
		case at[f.n] == 0:
		case at[newest.n] > at[f.n]:
			w.fail("event %d was committed before %d was written, but has position %d, not below %d", newest.n, f.n, at[newest.n], at[f.n])
		case missing != nil:
			w.fail("event %d was committed before %d was written, but only that has a place", missing.n, f.n)
		}
	}
}

// settled is the oracle for the end: every committed event has a place, and every reader
// who comes back once more has read just the order.
func (w *world) settled() {
	order := w.look()
	for _, r := range w.readers {
		r.settled(order)
	}
	has := map[int]bool{}
	for _, p := range order {
		has[p.N] = true
	}
	for _, x := range w.txs {
		for _, f := range x.facts {
			if x.ended > 0 && !has[f.n] {
				w.fail("event %d on %s was committed and never got a place", f.n, f.topic)
			}
		}
	}
}

// finale ends what is open, sequences what is left with a new sequencer, and judges.
func (w *world) finale() error {
	for _, p := range w.pens {
		if p.tx != nil {
			p.commit()
		}
	}
	for len(w.stored) > 0 && w.err == nil {
		w.finish(0, true)
	}
	for _, h := range w.hands {
		h.crash(false)
	}
	w.hand().lead().drain()
	w.settled()
	return w.err
}

// reader follows one topic, or with topic "" the whole log, and comes back where it was.
type reader struct {
	w     *world
	topic string
	after int64
	id    pgcast.ID
	got   []pgcast.Event
}

// read takes at most max events further on.
func (r *reader) read(max int) {
	w := r.w
	if w.err != nil {
		return
	}
	var events []pgcast.Event
	if r.topic == "" {
		var err error
		if events, _, err = w.log.Read(w.ctx, pgcast.Position(r.after), "", max); err != nil {
			w.fail("%w", err)
		}
	} else {
		page, err := w.log.Page(w.ctx, r.topic, pgcast.Seq(r.after), max)
		if err != nil {
			w.fail("%w", err)
		}
		if events = page.Events; page.Tail != 1 || int64(page.Head) < r.after+int64(len(events)) {
			w.fail("topic %s: after %d the page has %d events, tail %d, head %d", r.topic, r.after, len(events), page.Tail, page.Head)
		}
	}
	for _, e := range events {
		if r.after++; r.place(e) != r.after {
			w.fail("reader of %q: %d comes where %d should", r.topic, r.place(e), r.after)
		}
		r.id = e.ID
		r.got = append(r.got, e)
	}
}

func (r *reader) place(e pgcast.Event) int64 {
	if r.topic == "" {
		return int64(e.Position)
	}
	return int64(e.Seq)
}

// comeBack asks whether the log still knows the reader's place.
func (r *reader) comeBack() {
	if r.w.err != nil || r.after == 0 {
		return
	}
	known, err := r.w.log.Knows(r.w.ctx, pgcast.Position(r.after), r.id)
	if r.topic != "" {
		var places []pgcast.Place
		places, _, err = r.w.log.Places(r.w.ctx, []pgcast.Ask{{Topic: r.topic, After: pgcast.Seq(r.after), ID: r.id}})
		known = err == nil && places[0].Known && int64(places[0].Head) >= r.after
	}
	if err != nil || !known {
		r.w.fail("reader of %q: the log does not know %s at %d any more: %v", r.topic, r.id, r.after, err)
	}
}

func (r *reader) settled(order []placed) {
	r.comeBack()
	for before := int64(-1); before != r.after && r.w.err == nil; {
		before = r.after
		r.read(5)
	}
	if r.w.err != nil {
		return
	}
	order = slices.DeleteFunc(slices.Clone(order), func(p placed) bool { return r.topic != "" && p.Topic != r.topic })
	if len(order) != len(r.got) {
		r.w.fail("reader of %q has read %d of %d events", r.topic, len(r.got), len(order))
		return
	}
	for i, p := range order {
		if e := r.got[i]; p.Topic != e.Topic || p.Seq != int(e.Seq) || p.Position != int(e.Position) || number(e) != p.N {
			r.w.fail("reader of %q has read %s %s, which is not %v", r.topic, e.ID, e.Data, p)
		}
	}
}

func number(e pgcast.Event) int {
	var data struct{ N int }
	if json.Unmarshal(e.Data, &data) != nil {
		return 0
	}
	return data.N
}
