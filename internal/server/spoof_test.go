package server

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/migrations"
)

// TestSpoofedNotify floods the channels of the bells, which any role can notify, with what
// means nothing. No event comes of it, servers look at the log once in 10 ms at most for it,
// and what is really written comes all the same.
func TestSpoofedNotify(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, &devpg.Options{})
	db := &pgtest.DB{URL: c.URL("postgres"), Name: "postgres"}
	if err := migrations.Up(t.Context(), db.URL); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `create role stranger login`)
	leader := start(t, db.URL, nil).awaitReady(t)
	await(t, "it leads", func() bool { return leader.value(t, "pgcast_sequencer_leading") == 1 })
	follower := start(t, db.URL, nil).awaitReady(t)
	var peers []*peer
	for _, r := range []*running{leader, follower} {
		p := r.dial(t)
		p.send(`{"type":"subscribe","topic":"a","ref":1}`)
		p.want(wire.Subscribed)
		peers = append(peers, p)
	}
	steps, reads, looks := "pgcast_sequencer_steps_total", `pgcast_log_reads_total{kind="follow"}`, `pgcast_sequencer_wakes_total{source="bell"}`
	before := [3]float64{leader.value(t, steps), follower.value(t, reads), leader.value(t, looks)}

	const most = 2_000_000
	var sent atomic.Int64
	var flood sync.WaitGroup
	began := time.Now()
	for i, channel := range []string{"pgcast", "pgcast_log", "pgcast"} {
		conn, err := pgx.Connect(t.Context(), as(db, "stranger"))
		if err != nil {
			t.Fatal(err)
		}
		flood.Go(func() {
			defer conn.Close(context.Background())
			for n := 0; sent.Load() < most; n++ {
				// Small ones too: what comes as one transaction is heard as one bell.
				size := []int{1, 20_000}[n%2]
				sql := fmt.Sprintf("select count(pg_notify('%s', '%d/%d/' || g)) from generate_series(1, %d) g", channel, i, n, size)
				if _, err := conn.Exec(context.Background(), sql); err != nil {
					t.Error(err)
					return
				}
				sent.Add(int64(size))
			}
		})
	}
	written := 0
	for ; sent.Load() < most; written++ {
		db.Exec(t, `select pgcast.publish('a', 'said', $1::jsonb)`, fmt.Sprint(written))
		for _, p := range peers {
			p.told("a", "said", fmt.Sprint(written))
		}
	}
	flood.Wait()
	took := time.Since(began)
	after := [3]float64{leader.value(t, steps), follower.value(t, reads), leader.value(t, looks)}
	t.Logf("%d spoofed in %v, %.0f a second; beside %d events the leader woke %.0f times and made %.0f steps, the follower read %.0f times", sent.Load(), took.Round(time.Millisecond),
		float64(sent.Load())/took.Seconds(), written, after[2]-before[2], after[0]-before[0], after[1]-before[1])
	if n := pgtest.Value[int](t, db, "select count(*)::int from pgcast.event_log"); n != written {
		t.Errorf("%d events, of which %d were written", n, written)
	}
	// For each that was really written one bell and one read more, and one step that believed a bell.
	intervals := took.Seconds()/0.010 + 10
	for i, what := range []string{"steps of the leader", "reads of the follower", "bells the leader heard"} {
		if got, may := after[i]-before[i], float64(2*written)+intervals; got > may {
			t.Errorf("%s: %.0f in %v beside %d events, want at most %.0f", what, got, took, written, may)
		}
	}
}

// value gives one metric.
func (r *running) value(t testing.TB, name string) float64 {
	t.Helper()
	_, text := get(t, "http://"+r.admin+"/metrics")
	for line := range strings.Lines(text) {
		if rest, is := strings.CutPrefix(line, name+" "); is {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
