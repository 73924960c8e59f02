package replay

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// world is a log and everything that befalls it: writers, sequencers that go statement
// by statement, and readers, all driven by one goroutine, so that it is known what came
// before what. What must hold of the log afterwards follows from that (oracle_test.go).
//
// The first thing that goes wrong is kept in err, and whatever comes after is skipped, so
// that a script of a dozen lines needs one check at its end.
type world struct {
	ctx     context.Context
	t       testing.TB
	db      *pgtest.DB
	pool    *pgxpool.Pool
	log     *Log
	admin   *pgx.Conn
	batch   int
	step    string // the statement of a step,
	peek    string // and of a look; mutants go here
	err     error
	clock   int // counts what happened
	facts   map[int]*fact
	txs     []*tx
	term    int64 // the newest
	holder  *hand // who holds the sequencer row
	hands   []*hand
	pens    []*writer
	readers []*reader
	stored  []*tx // prepared, neither committed nor rolled back
}

// fact is an event that a writer wrote, whatever became of its transaction.
type fact struct {
	n     int
	topic string
	at    int
	tx    *tx
}

// tx is one transaction of a writer.
type tx struct {
	gid   string
	facts []*fact
	saved []int // len(facts) at each open savepoint
	ended int   // when it was committed; 0 if it was not, or not yet
}

func newWorld(t testing.TB, kind pgtest.Kind) *world {
	t.Helper()
	w := &world{ctx: t.Context(), t: t, batch: 7, step: db.SequencerStep, peek: db.SequencerLook}
	w.moveTo(pgtest.New(t, &pgtest.Options{Kind: kind}))
	w.reset()
	w.hand().lead() // so that the log knows its cluster
	w.reset()
	return w
}

// moveTo goes on in another database, into which the log has been brought.
func (w *world) moveTo(d *pgtest.DB) {
	w.disconnect()
	w.db, w.pool, w.admin, w.term = d, d.Pool(w.t), d.Conn(w.t), 0
	w.log = NewLog(w.pool, nil)
}

func (w *world) disconnect() {
	for _, p := range w.pens {
		p.close()
	}
	for _, h := range w.hands {
		h.crash(false)
	}
	w.pens, w.hands, w.holder = nil, nil, nil
}

// reset begins a new history in the same database: quicker than a new one.
func (w *world) reset() {
	w.err = nil
	w.disconnect()
	for _, x := range w.stored {
		w.exec(w.admin, "rollback prepared '"+x.gid+"'")
	}
	w.readers, w.txs, w.stored, w.term = nil, nil, nil, 0
	w.facts = map[int]*fact{}
	w.exec(w.admin, `truncate pgcast.event_log, pgcast.replay, pgcast.topic, pgcast.topic_tail, pgcast.progress restart identity`)
	w.exec(w.admin, "insert into pgcast.progress values (0, 0, '1:1:', null, null)")
	w.exec(w.admin, "update pgcast.sequencer set term = 0, floor = 0")
	if w.err != nil {
		w.t.Fatal(w.err)
	}
}

func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

func (w *world) exec(conn *pgx.Conn, sql string, args ...any) {
	if w.err != nil {
		return
	}
	if _, err := conn.Exec(w.ctx, sql, args...); err != nil {
		w.fail("%.60s: %w", sql, err)
	}
}

func (w *world) tick() int { w.clock++; return w.clock }

func (w *world) connect() *pgx.Conn {
	conn, err := pgx.Connect(w.ctx, w.db.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (w *world) reader(topic string) *reader {
	r := &reader{w: w, topic: topic}
	w.readers = append(w.readers, r)
	return r
}

// writer is one connection of an application.
type writer struct {
	w    *world
	conn *pgx.Conn
	tx   *tx // open, or nil
}

func (w *world) writer() *writer {
	p := &writer{w: w, conn: w.connect()}
	w.pens = append(w.pens, p)
	return p
}

func (p *writer) close() { _ = p.conn.Close(p.w.ctx) }

// begin opens a transaction; how is what may follow BEGIN.
func (p *writer) begin(how string) *writer {
	p.w.exec(p.conn, "begin "+how)
	p.tx = &tx{}
	p.w.txs = append(p.w.txs, p.tx)
	return p
}

// xid makes the transaction take its number before it writes any event.
func (p *writer) xid() *writer {
	p.w.exec(p.conn, "select pg_current_xact_id()")
	return p
}

// publish writes one event; outside a transaction in one of its own.
func (p *writer) publish(topic string) *writer {
	return p.alone(func() {
		f := p.fact(topic)
		p.w.exec(p.conn, "select pgcast.publish($1, 'e', jsonb_build_object('n', $2::int))", topic, f.n)
	})
}

// bulk writes many events with one statement, round robin on the topics.
func (p *writer) bulk(count int, topics ...string) *writer {
	return p.alone(func() {
		first := 0
		for i := range count {
			if f := p.fact(topics[i%len(topics)]); i == 0 {
				first = f.n
			}
		}
		p.w.exec(p.conn, `insert into pgcast.event_log (topic, event, data)
			select ($3::text[])[1 + i % cardinality($3::text[])], 'e', json_build_object('n', $1::int + i) from generate_series(0, $2::int - 1) i`,
			first, count, topics)
		p.w.exec(p.conn, "select pgcast.ring()")
	})
}

func (p *writer) alone(write func()) *writer {
	if p.tx != nil {
		write()
		return p
	}
	p.begin("")
	write()
	return p.commit()
}

func (p *writer) fact(topic string) *fact {
	f := &fact{n: len(p.w.facts) + 1, topic: topic, at: p.w.tick(), tx: p.tx}
	p.w.facts[f.n] = f
	p.tx.facts = append(p.tx.facts, f)
	return f
}

func (p *writer) savepoint() *writer {
	p.tx.saved = append(p.tx.saved, len(p.tx.facts))
	p.w.exec(p.conn, fmt.Sprintf("savepoint s%d", len(p.tx.saved)))
	return p
}

// rollbackTo takes back what was written since the newest savepoint.
func (p *writer) rollbackTo() *writer {
	last := len(p.tx.saved) - 1
	p.w.exec(p.conn, fmt.Sprintf("rollback to savepoint s%d", last+1))
	p.tx.facts, p.tx.saved = p.tx.facts[:p.tx.saved[last]], p.tx.saved[:last]
	return p
}

func (p *writer) commit() *writer {
	p.w.exec(p.conn, "commit")
	p.tx.ended = p.w.tick()
	p.tx = nil
	return p
}

func (p *writer) rollback() *writer {
	p.w.exec(p.conn, "rollback")
	p.tx = nil
	return p
}

func (p *writer) prepare() *writer {
	p.tx.gid = fmt.Sprintf("%s_%d", p.w.db.Name, p.w.tick())
	p.w.exec(p.conn, "prepare transaction '"+p.tx.gid+"'")
	p.w.stored = append(p.w.stored, p.tx)
	p.tx = nil
	return p
}

// finish commits or rolls back a prepared transaction, from any session.
func (w *world) finish(i int, commit bool) {
	x := w.stored[i]
	w.stored = append(w.stored[:i:i], w.stored[i+1:]...)
	if !commit {
		w.exec(w.admin, "rollback prepared '"+x.gid+"'")
		return
	}
	w.exec(w.admin, "commit prepared '"+x.gid+"'")
	x.ended = w.tick()
}
