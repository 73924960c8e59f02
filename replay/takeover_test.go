package replay

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/listener"
)

// TestTakeOver ends the leading one of two sequencers, again and again, and measures how
// long the next event then waits for its place. Promised is 1 s.
func TestTakeOver(t *testing.T) {
	const promised, asserted, times = time.Second, 5 * time.Second, 4
	for name, end := range map[string]func(t *testing.T, leader *running, conn *pgx.Conn){
		"stopped": func(t *testing.T, leader *running, conn *pgx.Conn) { leader.stop() },
		"line terminated": func(t *testing.T, leader *running, conn *pgx.Conn) {
			if !one[bool](t, conn, "select pg_terminate_backend(("+held+"))", 2) {
				t.Fatal("nobody leads")
			}
		},
		"deposed": func(t *testing.T, leader *running, conn *pgx.Conn) {
			if _, err := conn.Exec(t.Context(), "update pgcast.sequencer set term = term + 1"); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, wake := range []Wake{WakeAuto, WakeWAL} {
			t.Run(name+", "+string(wake), func(t *testing.T) {
				t.Parallel()
				d := pgtest.New(t, &pgtest.Options{Kind: map[Wake]pgtest.Kind{WakeWAL: pgtest.Logical}[wake]})
				conn, writer := d.Conn(t), d.Conn(t)
				servers := []*running{run(t, d, SequencerOptions{Wake: wake}), run(t, d, SequencerOptions{Wake: wake})}
				var took []time.Duration
				for i := range times {
					leader := leading(t, servers...)
					if wake == WakeWAL {
						standingByWAL(t, conn)
					} else {
						standing(t, conn, 1)
					}
					end(t, leader, conn)
					began := time.Now()
					if _, err := writer.Exec(t.Context(), "select pgcast.publish('a', 'e')"); err != nil {
						t.Fatal(err)
					}
					sequenced(t, conn, i+1)
					took = append(took, time.Since(began))
					if name == "stopped" {
						for j, s := range servers {
							if s == leader {
								servers[j] = run(t, d, SequencerOptions{Wake: wake})
							}
						}
					}
				}
				t.Logf("the next event had its place after %v (median of %d)", median(took), times)
				if m := median(took); m > asserted {
					t.Errorf("the next event had its place after %v; promised are %v", m, promised)
				}
			})
		}
	}
}

// standingByWAL waits until one server is woken by the WAL and the other follows the steps.
func standingByWAL(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	await(t, "both follow the WAL", func() bool {
		return one[int](t, conn, "select count(*)::int from pg_replication_slots where database = current_database() and active") == 2
	})
}

// standing waits until that many servers stand by.
func standing(t *testing.T, conn *pgx.Conn, n int) {
	t.Helper()
	await(t, "the other stands by", func() bool {
		return one[int](t, conn, `select count(*)::int from pg_locks where locktype = 'advisory' and granted and mode = 'ShareLock' and classid = 1885823841
			and objid = 3 and database = (select oid from pg_database where datname = current_database())`) == n
	})
}

// TestFrozenIsEvicted: a sequencer that holds the lead and has stopped answering is ended
// while events wait for it, and left alone while none do.
func TestFrozenIsEvicted(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	frozen, err := listener.Dial(t.Context(), d.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer frozen.Close()
	if got, err := frozen.TryLock(t.Context(), listener.Lead, false); !got || err != nil {
		t.Fatal(got, err)
	}
	r := run(t, d, SequencerOptions{})
	standing(t, conn, 1)
	await(t, "the holder is stale", func() bool {
		return one[bool](t, conn, "select clock_timestamp() - state_change > make_interval(secs => $2) from pg_stat_activity where pid = $1", frozen.Conn().PgConn().PID(), (evictStale + evictEvery).Seconds())
	})
	if r.leads() || r.metric("sequencer_evictions_total") != 0 {
		t.Fatal("a quiet sequencer is ended though nothing waits for it")
	}
	began := time.Now()
	d.Exec(t, "select pgcast.publish('a', 'e')")
	sequenced(t, conn, 1)
	t.Logf("a frozen sequencer was replaced %v after an event began to wait", time.Since(began))
	if n := r.metric("sequencer_evictions_total"); n != 1 {
		t.Errorf("%v evictions are counted", n)
	}
}

// TestFollowersHear: the server that stands by is told of each step, and rings stop when
// nobody stands by.
func TestFollowersHear(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	leader := run(t, d, SequencerOptions{})
	leading(t, leader)
	if _, err := conn.Exec(t.Context(), "listen pgcast_log"); err != nil {
		t.Fatal(err)
	}
	publish := func(n int) {
		d.Exec(t, "select pgcast.publish('a', 'e')")
		sequenced(t, conn, n)
	}
	// told waits until the leader has asked, after its newest step, who follows.
	told := func() {
		await(t, "the leader has told of its step", func() bool {
			return one[bool](t, conn, `select exists (select from pg_stat_activity where datname = current_database() and state = 'idle'
				and query like '%FollowersRing%' and query_start > (select max(sequenced_at) from pgcast.replay))`)
		})
	}
	publish(1)
	told()
	follower := run(t, d, SequencerOptions{})
	standing(t, conn, 1)
	await(t, "the follower looks once, for what was rung before it listened", func() bool { return follower.grown.Load() > 0 })
	for i := range 5 {
		heard := follower.grown.Load()
		publish(2 + i)
		await(t, "the follower hears", func() bool { return follower.grown.Load() > heard })
	}
	if leader.grown.Load() < 6 || follower.leads() {
		t.Error("the leader is told of its own steps too")
	}
	follower.stop()
	standing(t, conn, 0)
	d.Exec(t, "select pg_notify('pgcast_log', 'alone')")
	publish(7)
	told()
	d.Exec(t, "select pg_notify('pgcast_log', 'end')")
	rings := map[string]int{}
	for upto := "alone"; upto != ""; {
		n, err := conn.WaitForNotification(t.Context())
		switch {
		case err != nil:
			t.Fatal(err)
		case n.Payload == "alone":
			upto = "end"
		case n.Payload == "end":
			upto = ""
		default:
			rings[upto]++
		}
	}
	// The ring of a step before these may have come late.
	if followed := rings["alone"]; followed < 5 || followed > 6 || rings["end"] != 0 {
		t.Errorf("%d rings for 5 steps that were followed, and %d for one that was not", followed, rings["end"])
	}
}

func TestWakes(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	r := run(t, d, SequencerOptions{Wake: WakePoll})
	leading(t, r)
	d.Exec(t, "select pgcast.publish('a', 'e')")
	sequenced(t, conn, 1)
	r.onlyPolls()

	two := pgtest.New(t, &pgtest.Options{Kind: pgtest.TwoPhase})
	s := NewSequencer(two.URL, two.Pool(t), &SequencerOptions{Wake: WakeNotify, Logger: discard})
	var refused *pgcast.Error
	if err := s.Run(t.Context()); !errors.As(err, &refused) || refused.Code != pgcast.CodeInvalid {
		t.Errorf("wake=notify beside prepared transactions: %v", err)
	}
}

// A line to another database than the pool's is refused: the log that is served would
// never grow.
func TestAnotherDatabase(t *testing.T) {
	t.Parallel()
	d, other := pgtest.New(t, nil), pgtest.New(t, nil)
	s := NewSequencer(other.URL, d.Pool(t), &SequencerOptions{Logger: discard})
	var refused *pgcast.Error
	if err := s.Run(t.Context()); !errors.As(err, &refused) || refused.Hint == "" {
		t.Errorf("Run: %v", err)
	}
}

// TestRunOutlivesFailure: a server that cannot be reached is tried again until the
// context ends.
func TestRunOutlivesFailure(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	cfg := "postgres://postgres@127.0.0.1:1/none?sslmode=disable"
	s := NewSequencer(cfg, d.Pool(t), nil)
	s.opts.Logger = discard
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	reg := s.metrics
	go func() { ended <- s.Run(ctx) }()
	await(t, "it has tried more than once", func() bool {
		m := &running{t: t, reg: registryOf(reg)}
		return m.metric("sequencer_reconnects_total") >= 2
	})
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
