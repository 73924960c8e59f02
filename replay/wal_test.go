package replay

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/listener"
	"github.com/pgcast/pgcast/migrations"
)

// follows waits until the sequencer is woken by the WAL.
func follows(t testing.TB, r *running) {
	t.Helper()
	await(t, "it follows the WAL", func() bool { return r.metric("sequencer_wal_followed") == 1 })
}

// said collects what is logged.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

// count counts the lines that have all of the texts.
func (s *said) count(texts ...string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(s.text.String()) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			n++
		}
	}
	return n
}

func (s *said) logger() *slog.Logger { return slog.New(slog.NewTextHandler(s, nil)) }

// TestWakesByWAL: each event is found soon after its commit, also of a prepared transaction
// and beside one that stays open; nobody holds ASLEEP, and nothing is notified: neither by
// the writers nor among two servers.
func TestWakesByWAL(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]struct {
		kind pgtest.Kind
		wake Wake
	}{
		"wal":                    {pgtest.Logical, WakeWAL},
		"prepared transactions":  {pgtest.TwoPhase, WakeWAL},
		"auto, where none rings": {pgtest.TwoPhase, WakeAuto},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := pgtest.New(t, &pgtest.Options{Kind: opts.kind})
			conn, open := d.Conn(t), d.Conn(t)
			notified := bells(t, d, listener.ChannelBell, listener.ChannelLog)
			servers := []*running{run(t, d, SequencerOptions{Wake: opts.wake}), run(t, d, SequencerOptions{Wake: opts.wake})}
			leader := leading(t, servers...)
			follower := servers[0]
			if follower == leader {
				follower = servers[1]
			}
			follows(t, leader)
			if opts.wake == WakeWAL {
				await(t, "the other follows", func() bool {
					return one[int](t, conn, "select count(*)::int from pg_replication_slots where database = current_database() and active") == 2
				})
			}
			if _, err := open.Exec(t.Context(), "begin; select pgcast.publish('open', 'e')"); err != nil {
				t.Fatal(err)
			}
			before := notified()
			events, woken := 0, 0.0
			for end := time.Now().Add(within); woken < 5; { // where the cluster is busy with other tests, what it tells may come late
				if time.Now().After(end) {
					t.Fatalf("%v wakes by the WAL for %d events", woken, events)
				}
				// Not while it still polls.
				<-time.After(30 * time.Millisecond)
				grown, was := follower.grown.Load(), leader.metric("sequencer_wakes_total", "wal")
				if events%2 == 1 && opts.kind == pgtest.TwoPhase {
					if _, err := conn.Exec(t.Context(), fmt.Sprintf("begin; select pgcast.publish('a', 'e'); prepare transaction '%s'", d.Name)); err != nil {
						t.Fatal(err)
					}
					d.Exec(t, fmt.Sprintf("commit prepared '%s'", d.Name))
				} else {
					d.Exec(t, "select pgcast.publish('a', 'e')")
				}
				events++
				sequenced(t, conn, events)
				woken += leader.metric("sequencer_wakes_total", "wal") - was
				if opts.wake == WakeWAL {
					await(t, "the other server is told", func() bool { return follower.grown.Load() > grown })
				}
			}
			if _, err := open.Exec(t.Context(), "commit"); err != nil {
				t.Fatal(err)
			}
			sequenced(t, conn, events+1)
			if n := notified() - before; n != 0 && opts.wake == WakeWAL {
				t.Errorf("%d notifications", n)
			}
			if before != 0 && opts.wake == WakeWAL {
				t.Errorf("%d notifications at the start", before)
			}
			if one[int](t, conn, held, 1) != 0 {
				t.Error("somebody holds ASLEEP")
			}
			t.Logf("%d events; wakes: wal %v, poll %v, safety %v; from write to sequenced: %v", events+1, woken,
				leader.metric("sequencer_wakes_total", "poll"), leader.metric("sequencer_wakes_total", "safety"), latency(t, conn))
		})
	}
}

// latency is the median time from an event's write to its step.
func latency(t testing.TB, conn *pgx.Conn) (p50 time.Duration) {
	t.Helper()
	return one[time.Duration](t, conn, `select percentile_disc(0.5) within group (order by r.sequenced_at - e.created_at)
		from pgcast.replay r join pgcast.event_log e on e.id = r.event_id where e.topic <> 'open'`)
}

// private makes a migrated cluster of the test's own.
func private(t *testing.T, settings map[string]string) (*pgtest.DB, *devpg.Cluster) {
	t.Helper()
	c := pgtest.Private(t, &devpg.Options{Settings: settings})
	d := &pgtest.DB{URL: c.URL("postgres"), Name: "postgres"}
	if err := migrations.Up(t.Context(), d.URL); err != nil {
		t.Fatal(err)
	}
	return d, c
}

// TestFallsBackToTheBell, and says so once, and why: where the WAL cannot be followed events
// come by the bell; once it can be, by the WAL again.
func TestFallsBackToTheBell(t *testing.T) {
	t.Parallel()
	for name, play := range map[string]func(t *testing.T) (d *pgtest.DB, url, says string, mend func()){
		"role": func(t *testing.T) (*pgtest.DB, string, string, func()) {
			d := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
			d.Exec(t, fmt.Sprintf(`create role %[1]s login; grant pg_monitor to %[1]s; grant usage on schema pgcast to %[1]s;
				grant all on all tables in schema pgcast to %[1]s; grant all on all sequences in schema pgcast to %[1]s;
				grant execute on all functions in schema pgcast to %[1]s`, d.Name))
			t.Cleanup(func() { dropRole(t, d.URL, d.Name) })
			u, err := url.Parse(d.URL)
			if err != nil {
				t.Fatal(err)
			}
			u.User = url.User(d.Name)
			return d, u.String(), "alter role ... replication", func() { d.Exec(t, "alter role "+d.Name+" replication") }
		},
		"publication": func(t *testing.T) (*pgtest.DB, string, string, func()) {
			d := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
			d.Exec(t, "drop publication pgcast_wake")
			return d, d.URL, "pgcast.make_publications", func() { d.Exec(t, "select pgcast.make_publications()") }
		},
		"slots": func(t *testing.T) (*pgtest.DB, string, string, func()) {
			d, _ := private(t, map[string]string{"max_replication_slots": "1"})
			d.Exec(t, "select pg_create_logical_replication_slot('held', 'pgoutput')")
			return d, d.URL, "max_replication_slots", func() { d.Exec(t, "select pg_drop_replication_slot('held')") }
		},
		"wal_level": func(t *testing.T) (*pgtest.DB, string, string, func()) {
			d, _ := private(t, map[string]string{"wal_level": "replica"})
			return d, d.URL, "wal_level = logical", nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, address, says, mend := play(t)
			conn := d.Conn(t)
			var log said
			r := run(t, d, SequencerOptions{Wake: WakeWAL, Logger: log.logger()}, address)
			leading(t, r)
			events := 0
			await(t, "a bell wakes it", func() bool {
				asleep(t, conn)
				d.Exec(t, "select pgcast.publish('a', 'e')")
				events++
				sequenced(t, conn, events)
				return r.metric("sequencer_wakes_total", "bell") > 0
			})
			if n := log.count("level=ERROR", "wake=wal", "doorbell instead", says); n != 1 || r.metric("sequencer_wal_followed") != 0 {
				t.Errorf("said %d times", n)
			}
			if mend == nil {
				return
			}
			mend()
			follows(t, r)
			await(t, "the WAL wakes it", func() bool { // not while it still polls
				d.Exec(t, "select pgcast.publish('a', 'e')")
				events++
				sequenced(t, conn, events)
				<-time.After(20 * time.Millisecond)
				return r.metric("sequencer_wakes_total", "wal") > 0
			})
			if n := log.count("level=INFO", "can be followed now"); n != 1 {
				t.Errorf("said %d times", n)
			}
			if one[int](t, conn, held, 1) != 0 {
				t.Error("it holds ASLEEP though the WAL wakes it")
			}
		})
	}
}

// TestFollowerPolls where it cannot follow the WAL, says so once, and is not rung for.
func TestFollowerPolls(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	conn := d.Conn(t)
	d.Exec(t, "drop publication pgcast_steps")
	notified := bells(t, d, listener.ChannelBell, listener.ChannelLog)
	leader := run(t, d, SequencerOptions{Wake: WakeWAL})
	leading(t, leader)
	var log said
	follower := run(t, d, SequencerOptions{Wake: WakeWAL, Logger: log.logger()})
	await(t, "it says so", func() bool { return log.count("level=WARN", "four times a second", "make_publications") == 1 })
	d.Exec(t, "select pgcast.publish('a', 'e')")
	sequenced(t, conn, 1)
	if n := notified(); n != 0 || follower.grown.Load() != 0 {
		t.Errorf("%d notifications, told %d times", n, follower.grown.Load())
	}
	d.Exec(t, "select pgcast.make_publications()")
	await(t, "it follows and is told", func() bool { return follower.grown.Load() > 0 })
}

// TestWALSenderKilled again and again, while somebody writes: every event gets its place, soon.
func TestWALSenderKilled(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	conn := d.Conn(t)
	r := run(t, d, SequencerOptions{Wake: WakeWAL})
	leading(t, r)
	killed := 0
	for i := range 60 {
		if i%3 == 0 {
			killed += one[int](t, conn, `select count(*)::int from (select pg_terminate_backend(active_pid) from pg_replication_slots
				where database = current_database() and active_pid is not null) k`)
		}
		d.Exec(t, "select pgcast.publish('a', 'e')")
		sequenced(t, conn, i+1)
	}
	follows(t, r)
	t.Logf("%d senders killed; from write to sequenced: %v", killed, latency(t, conn))
	if killed < 3 {
		t.Error("that was no trial")
	}
	if n := r.metric("sequencer_reconnects_total"); n != 0 {
		t.Errorf("%v lines lost with a sender", n)
	}
}
