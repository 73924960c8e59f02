package replay

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/listener"
	"github.com/pgcast/pgcast/migrations"
)

// long asks for the tests that take minutes.
func long() bool { return os.Getenv("PGCAST_TEST_LONG") == "1" }

// TestIdleLooksCostNothing counts transaction numbers and WAL in a cluster where nobody
// else does anything.
func TestIdleLooksCostNothing(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Private(t, &devpg.Options{Settings: map[string]string{"autovacuum": "off"}})
	if err := migrations.Up(t.Context(), cluster.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	line, err := listener.Dial(t.Context(), cluster.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	conn := line.Conn()
	if _, err := conn.Exec(t.Context(), "select pgcast.publish('a', 'e')"); err != nil {
		t.Fatal(err)
	}
	term, err := takeTerm(t.Context(), conn, false, discard)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newStepper(conn, term, 100).run(t.Context(), false); err != nil {
		t.Fatal(err)
	}

	spent := func() (xids, wal int64) {
		err := conn.QueryRow(t.Context(), `select pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
			(pg_current_wal_insert_lsn() - '0/0')::bigint`).Scan(&xids, &wal)
		if err != nil {
			t.Fatal(err)
		}
		return xids, wal
	}
	q := db.New(conn)
	xids, wal := spent()
	for range 200 {
		if work, err := q.SequencerLook(t.Context()); err != nil || work {
			t.Fatal(work, err)
		}
		// What goes on beside the looks while nothing happens.
		if _, err := q.SequencerWaiting(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := prune(t.Context(), q, 0); err != nil {
			t.Fatal(err)
		}
	}
	moreXids, moreWAL := spent()
	// A background process may note now and then which transactions run.
	if moreXids != xids || moreWAL-wal > 1000 {
		t.Errorf("200 looks cost %d transaction numbers and %d bytes of WAL", moreXids-xids, moreWAL-wal)
	}
	if _, err := newStepper(conn, term, 100).run(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if xids, wal := spent(); xids == moreXids || wal == moreWAL {
		t.Error("a step that writes costs nothing either, so this test cannot fail")
	}
}

// pace is a log that is stepped on, and how long each look and step took.
type pace struct {
	t           *testing.T
	db          *pgtest.DB
	writer      *pgx.Conn
	st          *stepper
	looks, took []time.Duration
}

func newPace(t *testing.T) *pace {
	p := &pace{t: t, db: pgtest.New(t, nil)}
	line, err := listener.Dial(t.Context(), p.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(line.Close)
	term, err := takeTerm(t.Context(), line.Conn(), false, discard)
	if err != nil {
		t.Fatal(err)
	}
	p.st = newStepper(line.Conn(), term, 5000)
	if _, err := p.st.run(t.Context(), false); err != nil { // the first start's re-base comes to its end
		t.Fatal(err)
	}
	p.writer = p.db.Conn(t)
	if _, err := p.writer.Exec(t.Context(), "set synchronous_commit = off"); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pace) step() {
	if _, err := p.writer.Exec(p.t.Context(), "select pgcast.publish('hot', 'e')"); err != nil {
		p.t.Fatal(err)
	}
	began := time.Now()
	if work, err := db.New(p.st.conn).SequencerLook(p.t.Context()); err != nil || !work {
		p.t.Fatal(work, err)
	}
	p.looks = append(p.looks, time.Since(began))
	began = time.Now()
	if done, err := p.st.run(p.t.Context(), false); err != nil || done.events != 1 {
		p.t.Fatal(done, err)
	}
	p.took = append(p.took, time.Since(began))
}

// TestStepCostUnderOldSnapshot holds one old snapshot and steps on and on: nothing that a
// step touches may pile up. Another log, where no snapshot is held,
// tells what the machine is busy with meanwhile.
func TestStepCostUnderOldSnapshot(t *testing.T) {
	steps, most := 2000, func(first time.Duration) time.Duration { return 4*first + time.Millisecond }
	if long() {
		steps, most = 40_000, func(first time.Duration) time.Duration { return 2 * first }
	}
	p, other := newPace(t), newPace(t)
	q := db.New(p.db.Conn(t))
	window := steps / 10
	for range window { // the generic plan is chosen, the caches are warm
		p.step()
		other.step()
	}
	p.looks, p.took, other.took = nil, nil, nil

	old := p.db.Conn(t)
	if _, err := old.Exec(t.Context(), "begin isolation level repeatable read; select count(*) from pgcast.progress"); err != nil {
		t.Fatal(err)
	}
	pruned, err := int64(0), error(nil)
	for i := range steps {
		p.step()
		if i < window || i >= steps-window {
			other.step()
		}
		if i%window == window-1 {
			if pruned, err = prune(t.Context(), q, pruned); err != nil {
				t.Fatal(err)
			}
		}
	}
	first, last := median(p.took[:window]), median(p.took[steps-window:])
	otherFirst, otherLast := median(other.took[:window]), median(other.took[window:])
	t.Logf("under one old snapshot, median of %d: a step took %v at first, %v after %d steps; a look %v and %v; a step elsewhere %v and %v",
		window, first, last, steps, median(p.looks[:window]), median(p.looks[steps-window:]), otherFirst, otherLast)
	if busier := max(1, float64(otherLast)/float64(otherFirst)); last > most(time.Duration(busier*float64(first))) {
		t.Errorf("a step took %v after %d steps, %v at first", last, steps, first)
	}

	began := time.Now()
	if _, err = prune(t.Context(), q, pruned); err != nil {
		t.Fatal(err)
	}
	t.Logf("pruning with nothing to prune took %v", time.Since(began))
	if n := pgtest.Value[int](t, p.db, "select count(*)::int from pgcast.progress"); n > 12 {
		t.Errorf("%d steps are left after pruning", n)
	}
	if _, err := old.Exec(t.Context(), "commit"); err != nil {
		t.Fatal(err)
	}
}

func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}

// TestProgressPrune deletes in batches, remembers where it was, and always leaves the
// newest steps, chunks in the making included.
func TestProgressPrune(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	q := db.New(conn)
	steps := func() []int64 {
		rows, err := conn.Query(t.Context(), "select step from pgcast.progress order by step")
		if err != nil {
			t.Fatal(err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if stop, err := prune(t.Context(), q, 0); err != nil || stop != 0 || len(steps()) != 1 {
		t.Fatal("an empty log: ", stop, err, steps())
	}
	d.Exec(t, "insert into pgcast.progress select i, i, '5:5:' from generate_series(1, 25000) i")
	p, err := q.ProgressPrune(t.Context(), 0)
	if err != nil || p.Stop != 10000 || !p.More || steps()[0] != 10000 {
		t.Fatal("a batch: ", p, err, steps()[0])
	}
	stop, err := prune(t.Context(), q, p.Stop)
	if list := steps(); err != nil || stop != 24990 || len(list) != 11 || list[0] != 24990 {
		t.Fatal("the rest: ", stop, err, list)
	}
	if again, err := prune(t.Context(), q, stop); err != nil || again != stop || len(steps()) != 11 {
		t.Fatal("nothing: ", again, err, steps())
	}
	// A server that sequenced before and comes back remembers a place long gone.
	if again, err := prune(t.Context(), q, 30000); err != nil || again != 30000 || len(steps()) != 11 {
		t.Fatal("beyond the end: ", again, err, steps())
	}
}
