package replay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/listener"
)

// running is a sequencer as a server runs it.
type running struct {
	t     testing.TB
	s     *Sequencer
	reg   *prometheus.Registry
	grown atomic.Int64 // calls of OnGrown
	stop  context.CancelFunc
	ended chan error
}

// run starts a sequencer that ends with the test, if stop did not end it before. Its line
// may lead elsewhere than its pool.
func run(t testing.TB, d *pgtest.DB, opts SequencerOptions, line ...string) *running {
	t.Helper()
	r := &running{t: t, reg: prometheus.NewRegistry(), ended: make(chan error, 1)}
	opts.Registerer = r.reg
	if opts.Logger == nil {
		opts.Logger = discard
	}
	opts.OnGrown = func() { r.grown.Add(1) }
	r.s = NewSequencer(append(line, d.URL)[0], d.Pool(t), &opts)
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	go func() { r.ended <- r.s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-r.ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(within):
			t.Error("Run does not end with its context")
		}
	})
	return r
}

// metric adds up a metric, over all its labels or those with one value.
func (r *running) metric(name string, label ...string) (sum float64) {
	r.t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != "pgcast_"+name || len(label) > 0 && m.GetLabel()[0].GetValue() != label[0] {
				continue
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// onlyPolls finds no wake of another kind, each read on its own: it goes on polling.
func (r *running) onlyPolls() {
	r.t.Helper()
	for _, source := range []listener.Source{listener.SourceBell, listener.SourceLook, listener.SourceSafety} {
		if n := r.metric("sequencer_wakes_total", string(source)); n != 0 {
			r.t.Errorf("%v wakes by %s of one that polls", n, source)
		}
	}
	await(r.t, "it polls", func() bool { return r.metric("sequencer_wakes_total", string(listener.SourcePoll)) > 0 })
}

func (r *running) leads() bool { return r.metric("sequencer_leading") == 1 }

func leading(t testing.TB, rs ...*running) *running {
	t.Helper()
	var who *running
	await(t, "somebody leads", func() bool {
		i := slices.IndexFunc(rs, (*running).leads)
		if i >= 0 {
			who = rs[i]
		}
		return i >= 0
	})
	return who
}

// held tells whether a session other than the asking one holds one of pgcast's locks
// exclusively, and which.
const held = `select coalesce((select pid from pg_locks where locktype = 'advisory' and granted and mode = 'ExclusiveLock'
	and classid = 1885823841 and objid = $1 and database = (select oid from pg_database where datname = current_database()) limit 1), 0)`

// asleep waits until the sequencer waits for the bell.
func asleep(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	await(t, "the sequencer sleeps", func() bool { return one[int](t, conn, held, 1) != 0 })
}

func one[T any](t testing.TB, conn *pgx.Conn, sql string, args ...any) (v T) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// sequenced waits until that many events have a place, and finds the order without a hole.
func sequenced(t testing.TB, conn *pgx.Conn, events int) {
	t.Helper()
	await(t, fmt.Sprintf("%d events have a place", events), func() bool {
		return one[int](t, conn, "select coalesce((select position from pgcast.progress order by step desc limit 1), 0)::int") >= events
	})
	whole(t, conn, events)
}

// whole is the oracle for orders that are too long to look at event by event; -1: any
// number of events.
func whole(t testing.TB, conn *pgx.Conn, events int) {
	t.Helper()
	var places, top, holes, ghosts int
	err := conn.QueryRow(t.Context(), `select (select count(*) from pgcast.replay), (select coalesce(max(position), 0) from pgcast.replay),
		(select count(*) from (select 1 from pgcast.replay group by topic_id having min(seq) <> 1 or max(seq) <> count(*)) h),
		(select count(*) from pgcast.replay r left join pgcast.event_log e on e.id = r.event_id
			left join pgcast.topic t on t.id = r.topic_id where e.topic is distinct from t.name)`).Scan(&places, &top, &holes, &ghosts)
	if err != nil {
		t.Fatal(err)
	}
	if places != top || holes != 0 || ghosts != 0 || events >= 0 && places != events {
		t.Fatalf("%d places up to position %d, %d topics with holes, %d places without their event; %d events", places, top, holes, ghosts, events)
	}
}

// TestNobodyWaitsForTheSafetyLook writes in bursts, with pauses, and one by one at random
// gaps, and kills the sequencer's line now and then.
func TestNobodyWaitsForTheSafetyLook(t *testing.T) {
	t.Run("bell", func(t *testing.T) { nobodyWaits(t, pgtest.New(t, nil), SequencerOptions{}, "bell") })
	t.Run("wal", func(t *testing.T) {
		nobodyWaits(t, pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical}), SequencerOptions{Wake: WakeWAL}, "wal")
	})
}

func nobodyWaits(t *testing.T, d *pgtest.DB, opts SequencerOptions, by string) {
	conn := d.Conn(t)
	r := run(t, d, opts)
	leading(t, r)
	pool := d.Pool(t)
	published := atomic.Int64{}
	publish := func(ctx context.Context, topic string) error {
		_, err := pool.Exec(ctx, "select pgcast.publish($1, 'e')", topic)
		if err == nil {
			published.Add(1)
		}
		return err
	}
	// One by one, each when the sequencer sleeps, falls asleep or has just woken.
	single := func(ctx context.Context, n int) error {
		for range n {
			if err := sleep(ctx, rand.N(30*time.Millisecond)); err != nil {
				return err
			}
			if err := publish(ctx, "single"); err != nil {
				return err
			}
		}
		return nil
	}
	await(t, "a "+by+" wakes it", func() bool { // on a busy machine it may not fall asleep again
		if by == "bell" {
			asleep(t, conn)
		} else {
			<-time.After(30 * time.Millisecond)
		}
		if err := publish(t.Context(), "single"); err != nil {
			t.Fatal(err)
		}
		sequenced(t, conn, int(published.Load()))
		return r.metric("sequencer_wakes_total", by) > 0
	})
	if err := single(t.Context(), 60); err != nil {
		t.Fatal(err)
	}
	sequenced(t, conn, int(published.Load()))
	var p50, most time.Duration
	err := conn.QueryRow(t.Context(), `select percentile_disc(0.5) within group (order by d), max(d) from
		(select r.sequenced_at - e.created_at as d from pgcast.replay r join pgcast.event_log e on e.id = r.event_id) x`).Scan(&p50, &most)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("from write to sequenced: median %v, at most %v", p50, most)

	g, ctx := errgroup.WithContext(t.Context())
	for range 3 {
		g.Go(func() error {
			for range 10 {
				for range rand.N(60) {
					if err := publish(ctx, fmt.Sprint("burst:", rand.N(5))); err != nil {
						return err
					}
				}
				if err := sleep(ctx, rand.N(100*time.Millisecond)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error { return single(ctx, 60) })
	kills := 0
	g.Go(func() error {
		killer := d.Conn(t)
		for range 4 {
			if err := sleep(ctx, 100*time.Millisecond+rand.N(200*time.Millisecond)); err != nil {
				return err
			}
			if pid := one[int](t, killer, held, 2); pid != 0 && one[bool](t, killer, "select pg_terminate_backend($1)", pid) {
				kills++
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	sequenced(t, conn, int(published.Load()))
	t.Logf("%d events, %d killed lines; wakes: %s %v, look %v, poll %v", published.Load(), kills, by,
		r.metric("sequencer_wakes_total", by), r.metric("sequencer_wakes_total", "look"), r.metric("sequencer_wakes_total", "poll"))
	// What is decoded comes by another process, which may have had no processor for so long.
	if n := r.metric("sequencer_wakes_total", "safety"); by == "bell" && n != 0 || n > float64(published.Load())/20 {
		t.Errorf("%v events waited for the safety look", n)
	}
	if n := r.metric("events_sequenced_total"); n > float64(published.Load()) { // killed after a commit, it may count less
		t.Errorf("%v events are counted as sequenced", n)
	}
	if n := r.metric("sequencer_reconnects_total"); kills > 0 && n == 0 {
		t.Error("no reconnect is counted")
	}
}

// TestSafetyLookIsCounted takes the bell away from the writers: so the counter that the
// test above wants to be 0 can move.
func TestSafetyLookIsCounted(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	d.Exec(t, "create or replace function pgcast.ring() returns void language sql set search_path = pg_catalog, pg_temp as ''")
	r := run(t, d, SequencerOptions{})
	events := 0
	await(t, "the safety look is counted", func() bool { // it may have fallen asleep just now, and look once more
		asleep(t, conn)
		d.Exec(t, "select pgcast.publish('a', 'e')")
		events++
		sequenced(t, conn, events)
		return r.metric("sequencer_wakes_total", "safety") > 0
	})
}

// bells counts what a session of the test's own hears on channels until the test ends.
func bells(t *testing.T, d *pgtest.DB, channels ...string) (rang func() int) {
	conn := d.Conn(t)
	if _, err := conn.Exec(t.Context(), "listen "+strings.Join(append(channels, "the_end"), "; listen ")); err != nil {
		t.Fatal(err)
	}
	n := 0
	return func() int {
		// Notifications come in commit order: what was rung before this one has come. On
		// another channel, so that it wakes nobody.
		d.Exec(t, "select pg_notify('the_end', '')")
		for {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			got, err := conn.WaitForNotification(ctx)
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			if got.Channel == "the_end" {
				return n
			}
			n++
		}
	}
}

// TestBellIsRare counts NOTIFYs: one wakes a sleeper, and under load there are next to none.
func TestBellIsRare(t *testing.T) {
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	rang := bells(t, d, listener.ChannelBell)
	d.Exec(t, "select pgcast.publish('a', 'e')")
	if n := rang(); n != 0 {
		t.Errorf("%d bells while no server runs", n)
	}
	r := run(t, d, SequencerOptions{})
	asleep(t, conn)
	before := rang() // its own, to prove that the bell works
	d.Exec(t, "begin; select pgcast.publish('a', 'e'), pgcast.publish('b', 'e'); select pgcast.publish('a', 'e'); commit")
	sequenced(t, conn, 4)
	if n := rang() - before; n != 1 {
		t.Errorf("%d bells for one sleeper", n)
	}

	before = rang()
	g, ctx := errgroup.WithContext(t.Context())
	pool := d.Pool(t)
	const each = 500
	for range 4 {
		g.Go(func() error {
			for range each {
				if _, err := pool.Exec(ctx, "select pgcast.publish('load', 'e')"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	sequenced(t, conn, 4+4*each)
	n := rang() - before
	t.Logf("%d bells for %d events under load, in %v steps", n, 4*each, r.metric("sequencer_steps_total"))
	if n > 4*each/20 {
		t.Errorf("%d bells for %d events under load", n, 4*each)
	}
}

// TestPolls: where prepared transactions are allowed and the WAL is of no use, nobody rings,
// and none waits either.
func TestPolls(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, &pgtest.Options{Kind: pgtest.TwoPhase})
	conn := d.Conn(t)
	rang := bells(t, d, listener.ChannelBell)
	d.Exec(t, "drop publication pgcast_wake")
	var log said
	r := run(t, d, SequencerOptions{Logger: log.logger()})
	leading(t, r)
	await(t, "it says why it polls", func() bool { return log.count("polls instead", "make_publications") == 1 })
	before := rang()
	for i := range 8 {
		d.Exec(t, "select pgcast.publish('a', 'e')")
		sequenced(t, conn, i+1)
	}
	if n := rang() - before; n != 0 {
		t.Errorf("%d bells", n)
	}
	r.onlyPolls()
	if one[int](t, conn, held, 1) != 0 {
		t.Error("it holds ASLEEP, where no writer asks for it")
	}
}

// registryOf reads the metrics of a sequencer that registered them nowhere.
func registryOf(m *metrics) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.reconnects)
	return reg
}
