package e2e

import (
	"context"
	"sort"
	"syscall"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/devpg"
)

func allRooms() []string {
	return []string{"room:0", "room:1", "room:2", "room:3", "room:4"}
}

// A server killed 20 times under load loses, doubles and reorders nothing: not for
// clients of topics, not for clients of a pattern.
func TestServerKilled(t *testing.T) {
	db := newDatabase(t)
	s := startServer(t, db.URL)
	s.waitReady()
	topics := startReader(t, s, "topics", allRooms()...)
	pattern := startReader(t, s, "pattern", "room:*")
	w := startWriters(t, db.URL, 3)
	for range 20 {
		before := topics.events()
		await(t, "events flow", 30*time.Second, func() bool { return topics.events() > before+20 })
		s.kill()
		s.start()
	}
	s.waitReady()
	w.stop()
	n := judge(t, db.URL, topics, pattern)
	t.Logf("20 kills, %d transactions, %d events", w.committed.Load(), n)
}

// Postgres restarted 5 times fast and 5 times as by a crash: nothing lost, doubled or
// reordered, and nothing delivered that the crash took back.
func TestPostgresRestarts(t *testing.T) {
	cluster, url := newCluster(t)
	s := startServer(t, url)
	s.waitReady()
	topics := startReader(t, s, "topics", allRooms()...)
	pattern := startReader(t, s, "pattern", "**")
	w := startWriters(t, url, 3)
	var recovered []time.Duration
	for i := range 10 {
		before := topics.events()
		await(t, "events flow", 30*time.Second, func() bool { return topics.events() > before+20 })
		mode := devpg.Fast
		if i%2 == 1 {
			mode = devpg.Immediate
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := cluster.Restart(ctx, mode)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		before = topics.events()
		recovered = append(recovered, await(t, "events flow again", 30*time.Second, func() bool { return topics.events() > before }))
	}
	w.stop()
	n := judge(t, url, topics, pattern)
	t.Logf("10 restarts, %d transactions, %d events; first event after the server accepts again: median %v", w.committed.Load(), n, median(recovered))
}

// Of two servers the sequencing one is killed, again and again: the other takes over,
// and the clients of both see the same streams. Promised: within a second.
func TestTakeOver(t *testing.T) {
	db := newDatabase(t)
	servers := []*server{startServer(t, db.URL), startServer(t, db.URL)}
	var readers []*reader
	for _, s := range servers {
		s.waitReady()
		readers = append(readers, startReader(t, s, "of "+s.listen, allRooms()...))
	}
	w := startWriters(t, db.URL, 2)
	var took []time.Duration
	for range 6 {
		leader := leading(t, servers)
		other := readers[1-leader]
		before := other.events()
		await(t, "events flow", 30*time.Second, func() bool { return other.events() > before+20 })
		servers[leader].kill()
		before = other.events()
		// What was sequenced already still flows; wait for more than can be under way.
		took = append(took, await(t, "the other server takes over", 5*time.Second, func() bool {
			return other.events() > before && servers[1-leader].leads()
		}))
		servers[leader].start()
		servers[leader].waitReady()
	}
	w.stop()
	n := judge(t, db.URL, readers...)
	t.Logf("6 take-overs, %d events; from kill -9 to events of the new sequencer: median %v, longest %v", n, median(took), took[len(took)-1])
}

// A sequencing server that is frozen while events wait is put aside, and does no harm
// when it thaws.
func TestFrozenSequencer(t *testing.T) {
	db := newDatabase(t)
	servers := []*server{startServer(t, db.URL), startServer(t, db.URL)}
	var readers []*reader
	for _, s := range servers {
		s.waitReady()
		readers = append(readers, startReader(t, s, "of "+s.listen, "room:*"))
	}
	w := startWriters(t, db.URL, 2)
	var took []time.Duration
	for range 2 {
		leader := leading(t, servers)
		other := readers[1-leader]
		before := other.events()
		await(t, "events flow", 30*time.Second, func() bool { return other.events() > before+20 })
		servers[leader].signal(syscall.SIGSTOP)
		took = append(took, await(t, "the other server puts the frozen one aside", 30*time.Second, func() bool {
			return servers[1-leader].leads()
		}))
		before = other.events()
		await(t, "events flow", 30*time.Second, func() bool { return other.events() > before+20 })
		servers[leader].signal(syscall.SIGCONT)
		await(t, "the thawed one stands by", 10*time.Second, func() bool { return !servers[leader].leads() })
	}
	w.stop()
	n := judge(t, db.URL, readers...)
	t.Logf("2 freezes, %d events; from SIGSTOP to the other's lead: %v", n, took)
}

// SIGTERM: not ready at once, clients told to come back, gone within 10 s, code 0.
func TestDrain(t *testing.T) {
	db := newDatabase(t)
	s := startServer(t, db.URL)
	s.waitReady()
	r := startReader(t, s, "drained", allRooms()...)
	w := startWriters(t, db.URL, 2)
	await(t, "events flow", 30*time.Second, func() bool { return r.events() > 20 })
	s.signal(syscall.SIGTERM)
	began := time.Now()
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("draining took %v", took)
	}
	s.start()
	s.waitReady()
	w.stop()
	judge(t, db.URL, r)
}

// leading finds the server that sequences.
func leading(t *testing.T, servers []*server) (index int) {
	t.Helper()
	await(t, "a server leads", 30*time.Second, func() bool {
		for i, s := range servers {
			if s.leads() {
				index = i
				return true
			}
		}
		return false
	})
	return index
}

func median(d []time.Duration) time.Duration {
	sort.Slice(d, func(i, j int) bool { return d[i] < d[j] })
	return d[len(d)/2]
}
