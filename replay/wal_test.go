package replay

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
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
			notified := notifications(t, d)
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
			for end := time.Now().Add(within); woken < 20; {
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

// notifications counts all that a third session hears on pgcast's channels.
func notifications(t *testing.T, d *pgtest.DB) (heard func() int) {
	conn := d.Conn(t)
	if _, err := conn.Exec(t.Context(), "listen pgcast; listen pgcast_log; listen the_end"); err != nil {
		t.Fatal(err)
	}
	n := 0
	return func() int {
		d.Exec(t, "notify the_end")
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
