//go:build unix

package replay

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestCaptureWaitsForTheRest: a transaction's rows come in parts, and whatever takes Postgres
// long between two of them (others of its changes, which are not for us) must not look like a
// server that froze: the same would happen the next time, and for ever.
func TestCaptureWaitsForTheRest(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table a (id int primary key, v text)", "select pgcast.attach('a', capture => 'wal')")
	conn, other := d.Conn(t), d.Conn(t)
	var armed atomic.Bool
	stopped := make(chan int)
	r := capturing(t, d, func(step string) error {
		if step != "begin" || !armed.Load() {
			return nil
		}
		var sender int
		err := other.QueryRow(t.Context(), "select active_pid from pg_replication_slots where slot_name = pgcast.slot_name()").Scan(&sender)
		if err == nil {
			err = syscall.Kill(sender, syscall.SIGSTOP)
			stopped <- sender
		}
		return err
	})
	await(t, "it captures", func() bool {
		return one[bool](t, conn, "select active from pg_replication_slots where slot_name = pgcast.slot_name()")
	})
	armed.Store(true)
	const rows = 25000 // far more than is on its way at once
	d.Exec(t, fmt.Sprintf("insert into a select i, repeat('x', 1000) from generate_series(1, %d) i", rows))
	const open = `select exists (select from pg_stat_activity where application_name = 'pgcast capture' and datname = current_database()
		and state like 'idle in transaction%%' and xact_start < clock_timestamp() - interval '%d seconds')`
	// It may also have been about to store no more than how far it is.
	for in := false; !in; {
		sender := <-stopped
		for since := time.Now(); !in && time.Since(since) < 4*time.Second; {
			in = one[bool](t, conn, fmt.Sprintf(open, 1))
		}
		if !in {
			if err := syscall.Kill(sender, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			continue
		}
		armed.Store(false)
		defer syscall.Kill(sender, syscall.SIGCONT)
		// Longer than a transaction of capture may stand still (connect).
		await(t, "it has waited long", func() bool {
			return one[bool](t, conn, fmt.Sprintf(open, 7)) || r.metric("capture_interrupted_total") > 0
		})
	}
	if n := r.metric("capture_interrupted_total"); n != 0 {
		t.Errorf("it was broken off %v times", n)
	}
}

// TestCaptureWaitsForItsSlot: to make a slot takes until the transactions open have ended.
func TestCaptureWaitsForItsSlot(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table a (id int primary key)", "create table other (id int)", "select pgcast.attach('a', capture => 'wal')")
	conn, writer := d.Conn(t), d.Conn(t)
	script(t, writer, "begin", "insert into other values (1)")
	d.Exec(t, "select pg_drop_replication_slot(pgcast.slot_name())")
	r := capturing(t, d, nil)
	const waits = `select exists (select from pg_stat_activity where application_name = 'pgcast capture' and datname = current_database()
		and wait_event_type = 'Lock' and query_start < clock_timestamp() - interval '%d seconds')`
	await(t, "it waits", func() bool { return one[bool](t, conn, fmt.Sprintf(waits, 0)) })
	began := time.Now()
	await(t, "it has waited long", func() bool {
		return one[bool](t, conn, fmt.Sprintf(waits, 4)) || time.Since(began) > 10*time.Second
	})
	if lag := r.metric("capture_lag_seconds"); lag < 2 {
		t.Errorf("it lags by %v s", lag)
	}
	script(t, writer, "commit")
	await(t, "it has a slot", func() bool { return one[bool](t, conn, hasSlot) && r.metric("capture_resets_total", resetMissing) == 1 })
	if n := r.metric("capture_interrupted_total"); n != 0 {
		t.Errorf("it gave up %v times", n)
	}
	d.Exec(t, "insert into a values (1)")
	await(t, "it captures", func() bool {
		return one[bool](t, conn, "select exists (select from pgcast.history where event = 'created')")
	})
}
