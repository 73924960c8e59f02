package replay

import (
	"fmt"
	"testing"
	"time"
)

// TestCaptureLatency measures the way of a row from its commit to its place, at a low rate.
// Promised are 5 ms in the median.
func TestCaptureLatency(t *testing.T) {
	const promised, asserted = 5 * time.Millisecond, 100 * time.Millisecond
	d := logical(t, "create table a (id int primary key, v text)", "select pgcast.attach('a', capture => 'wal')")
	conn := d.Conn(t)
	run(t, d, SequencerOptions{Logger: discard})
	script(t, conn, "insert into a values (0, 'first')")
	sequenced(t, conn, 1)
	for i := range 60 {
		script(t, conn, fmt.Sprintf("insert into a values (%d, 'x')", i+1))
		time.Sleep(10 * time.Millisecond) // the rate
	}
	sequenced(t, conn, 61)
	var p50, p99 time.Duration
	err := conn.QueryRow(t.Context(), `select percentile_disc(0.5) within group (order by d), percentile_disc(0.99) within group (order by d) from
		(select r.sequenced_at - e.created_at as d from pgcast.replay r join pgcast.event_log e on e.id = r.event_id where e.data->>'v' = 'x') x`).Scan(&p50, &p99)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("from commit to sequenced: median %v, 99%% %v; promised are %v", p50, p99, promised)
	if p50 > asserted {
		t.Errorf("from commit to sequenced: median %v; promised are %v", p50, promised)
	}
}
