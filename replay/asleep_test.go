package replay

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// TestSleepsBesideAnOpenTransaction: what a transaction still open has written while the
// sequencer slept is walked over by a few looks, not by every one until it ends.
func TestSleepsBesideAnOpenTransaction(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn, open := d.Conn(t), d.Conn(t)
	r := run(t, d, SequencerOptions{})
	asleep(t, conn)
	const events = 200_000
	if _, err := open.Exec(t.Context(), `begin; insert into pgcast.event_log (topic, event, data)
		select 'a', 'e', '{}' from generate_series(1, $1) i`, pgx.QueryExecModeSimpleProtocol, events); err != nil {
		t.Fatal(err)
	}
	xid := one[int64](t, open, "select pg_current_xact_id()::text::bigint")
	awaitFor(t, within/4, "the looks do not come by it any more", func() bool {
		return one[bool](t, conn, "select pg_snapshot_xmax(seen)::text::bigint > $1 from pgcast.progress order by step desc limit 1", xid)
	})
	asleep(t, conn)
	if _, err := open.Exec(t.Context(), "commit"); err != nil {
		t.Fatal(err)
	}
	d.Exec(t, "select pgcast.publish('a', 'e')") // who writes to the log by hand does not ring
	sequenced(t, conn, events+1)
	if n := r.metric("sequencer_reconnects_total"); n != 0 {
		t.Errorf("%v lines lost to slow looks", n)
	}
}

// TestFalseBells: anybody may ring. A bell that tells of nothing costs a look, which takes no
// transaction number and writes nothing, and the next true one still wakes.
func TestFalseBells(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	r := run(t, d, SequencerOptions{})
	for round := range 3 {
		asleep(t, conn)
		steps, heard := r.metric("sequencer_steps_total"), r.metric("sequencer_wakes_total", "bell")
		await(t, "it has heard 50 false bells", func() bool {
			if _, err := conn.Exec(t.Context(), "notify pgcast"); err != nil {
				t.Fatal(err)
			}
			return r.metric("sequencer_wakes_total", "bell")-heard >= 50
		})
		if n := r.metric("sequencer_steps_total") - steps; n > 10 { // slow looks have it note where it stands, once a second
			t.Errorf("%v steps for 50 false bells", n)
		}
		asleep(t, conn)
		heard = r.metric("sequencer_wakes_total", "bell")
		d.Exec(t, "select pgcast.publish('a', 'e')")
		sequenced(t, conn, round+1)
		if r.metric("sequencer_wakes_total", "bell") == heard {
			t.Error("a true bell was not heard after false ones")
		}
	}
}

// TestNudge: what this process adds to the log needs no bell.
func TestNudge(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	r := run(t, d, SequencerOptions{})
	events := 0
	await(t, "a nudge wakes it", func() bool { // a look may have come first
		asleep(t, conn)
		d.Exec(t, "insert into pgcast.event_log (topic, event) values ('a', 'e')") // rings nobody
		r.s.nudge()
		events++
		sequenced(t, conn, events)
		return r.metric("sequencer_wakes_total", "capture") > 0
	})
	NewSequencer(d.URL, d.Pool(t), nil).nudge() // nobody sequences, nothing happens
}
