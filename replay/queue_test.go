package replay

import (
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

// TestNotifyQueueFills: somebody else's session keeps NOTIFY's queue from emptying. When
// it is half full the writers stop ringing, and the sequencer looks by itself instead of
// sleeping; when it is full, only those who notify fail.
func TestNotifyQueueFills(t *testing.T) {
	t.Parallel()
	bin := pgtest.Binaries(t)
	if bin.Version < 17 {
		t.Skipf("the queue of Postgres %d is 8 GB, which takes too long to fill; it can be set from 17 on", bin.Version)
	}
	cluster := pgtest.Private(t, &devpg.Options{Settings: map[string]string{"max_notify_queue_pages": "64"}})
	d := &pgtest.DB{URL: cluster.URL("postgres"), Name: "postgres"}
	if err := migrations.Up(t.Context(), d.URL); err != nil {
		t.Fatal(err)
	}
	conn, stuck, other := d.Conn(t), d.Conn(t), d.Conn(t)
	r := run(t, d, SequencerOptions{})
	follower := run(t, d, SequencerOptions{})
	leading(t, r, follower)
	standing(t, conn, 1)
	asleep(t, conn)
	for _, sql := range []string{"listen elsewhere", "begin", "select 1"} {
		if _, err := stuck.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	fill := func(upto string) {
		for one[bool](t, conn, "select pg_notification_queue_usage() < $1::float8", upto) {
			if _, err := other.Exec(t.Context(), "select pg_notify('elsewhere', $1)", strings.Repeat("x", 7000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	published := 0
	publish := func(n int) {
		for range n {
			d.Exec(t, "select pgcast.publish('a', 'e')")
			published++
			sequenced(t, conn, published)
		}
	}
	publish(1)
	fill("0.5")
	await(t, "the sequencer does not sleep", func() bool { return one[int](t, conn, held, 1) == 0 })
	publish(1) // it may have been about to sleep
	before := one[float64](t, conn, "select pg_notification_queue_usage()")
	safety := r.metric("sequencer_wakes_total", "safety") + follower.metric("sequencer_wakes_total", "safety")
	publish(20)
	if now := r.metric("sequencer_wakes_total", "safety") + follower.metric("sequencer_wakes_total", "safety"); now != safety {
		t.Errorf("%v of 20 events waited for the safety look", now-safety)
	}
	if now := one[float64](t, conn, "select pg_notification_queue_usage()"); now != before {
		t.Errorf("the queue was filled to %v and is to %v", before, now)
	}
	fill("0.98")
	for {
		if _, err := other.Exec(t.Context(), "select pg_notify('elsewhere', $1)", strings.Repeat("x", 7000)); err != nil {
			break // too many notifications in the NOTIFY queue
		}
	}
	publish(20)
	if _, err := stuck.Exec(t.Context(), "commit"); err != nil {
		t.Fatal(err)
	}
	asleep(t, conn)
	publish(5)
	if n := r.metric("sequencer_wakes_total", "bell") + follower.metric("sequencer_wakes_total", "bell"); n == 0 {
		t.Error("no bell rings any more")
	}
}
