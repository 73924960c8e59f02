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
