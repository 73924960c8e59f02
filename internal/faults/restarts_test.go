package faults

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/judge"
)

// restart restarts Postgres again and again under load. Clients keep their connections.
func restart(t *testing.T, m judge.Mode, r *row, mode devpg.Mode, writers string) (delivered, caughtUp []time.Duration) {
	cluster, url := m.Cluster(t, nil)
	s := stage(t, url, 1, m.Flags()...)
	s.writers = judge.StartWriters(t, url+writers, 3, seed)
	for range r.trials {
		s.flow()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := cluster.Restart(ctx, mode)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		up := time.Now()
		conn := judge.Connect(t, url)
		written := judge.Value[int](t, url, "select count(*) from pgcast.event_log")
		// Where the WAL is read this comes after all that committed before it.
		delivered = append(delivered, probe(t, conn, s.topics[0], "room:0"))
		judge.Await(t, "caught up", time.Minute, func() bool { return s.topics[0].Events() >= written })
		caughtUp = append(caughtUp, time.Since(up))
		_ = conn.Close(context.Background())
	}
	s.end(r)
	lost := 0
	for _, c := range s.readers() {
		lost += int(c.Client.Stats().Connects) - 1
	}
	r.count("client connections lost", lost, 0)
	return delivered, caughtUp
}

func TestFault01PostgresFastRestart(t *testing.T) {
	inModes(t, judge.Modes, func(t *testing.T, m judge.Mode) {
		r := beginIn(t, m, "1", "Postgres restarted (fast) under load")
		r.trials = trials(1, 5, 20)
		delivered, _ := restart(t, m, r, devpg.Fast, "")
		r.latency("from accepting again to the first new event at the client", delivered, time.Second)
	})
}

func TestFault02PostgresCrash(t *testing.T) {
	later(t)
	inModes(t, judge.Modes, func(t *testing.T, m judge.Mode) {
		r := beginIn(t, m, "2", "Postgres crashes under load")
		r.trials = trials(1, 5, 20)
		_, caughtUp := restart(t, m, r, devpg.Immediate, "")
		r.latency("from accepting again to caught up", caughtUp, 2*time.Second)
	})
}

// Writers that do not wait for the disk lose commits in a crash; no client may have seen one.
func TestFault03CrashAsyncCommit(t *testing.T) {
	later(t)
	inModes(t, sources, func(t *testing.T, m judge.Mode) {
		r := beginIn(t, m, "3", "Postgres crashes, writers with synchronous_commit=off")
		r.trials = trials(1, 5, 50)
		restart(t, m, r, devpg.Immediate, "&synchronous_commit=off")
		r.count("events delivered that the crash took back", r.Phantom, 0)
	})
}

// Sessions of the server are ended at random moments.
func TestFault08BackendsTerminated(t *testing.T) {
	inModes(t, judge.Modes, func(t *testing.T, m judge.Mode) {
		r := beginIn(t, m, "8", "a server's database sessions terminated, at random moments")
		r.trials = trials(2, 40, 400)
		db := m.Database(t)
		s := stage(t, db.URL, 1, m.Flags()...)
		s.write(2)
		s.flow()
		random := random(t)
		conn := judge.Connect(t, db.URL)
		ended := 0
		var took []time.Duration
		for range r.trials {
			// One failure at a time: a server whose sessions break at once again backs off.
			judge.Pause(t.Context(), time.Second+time.Duration(random.IntN(300))*time.Millisecond)
			var n int
			err := conn.QueryRow(t.Context(), `select count(pg_terminate_backend(pid)) from (
				select pid from pg_stat_activity where datname = current_database() and application_name = 'pgcast'
				order by md5(pid::text || $1::text) limit $2) a`, fmt.Sprint(random.Uint32()), 1+random.IntN(2)).Scan(&n)
			if err != nil {
				t.Fatal(err)
			}
			ended += n
			took = append(took, probe(t, conn, s.topics[0], "room:1"))
		}
		s.end(r)
		t.Logf("%d sessions ended", ended)
		r.latency("from an event's commit, just after the termination, to the client", took, 250*time.Millisecond)
	})
}
