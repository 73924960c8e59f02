package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/listener"
)

// awaitLog waits until the server has said something, and tells how long that took.
func awaitLog(t *testing.T, s *judge.Server, text string, limit time.Duration) time.Duration {
	t.Helper()
	return judge.Await(t, fmt.Sprintf("the server says %q", text), limit, func() bool { return strings.Contains(s.Log(), text) })
}

// The sequencer's line becomes a black hole, both ways or only for what Postgres answers. The
// server notices, names it, and goes on with a new line.
func TestFault09And10BlackHole(t *testing.T) {
	for _, half := range []bool{false, true} {
		number, fault := "9", "black hole between Postgres and the sequencer's line"
		if half {
			number, fault = "10", "half-open line: Postgres hears, and its answers vanish"
		}
		black := func(t *testing.T, m judge.Mode) {
			if half {
				later(t)
			}
			r := beginIn(t, m, number, fault)
			r.trials = trials(1, 3, 20)
			db := m.Database(t)
			proxy := pgtest.NewProxy(t, db.URL)
			s := stage(t, db.URL, 1, append(m.Flags(), "--direct-database-url", proxy.URL)...)
			conn := judge.Connect(t, db.URL)
			lost := func() float64 { n, _ := s.servers[0].Metric("pgcast_sequencer_reconnects_total", ""); return n }
			var detected, late []time.Duration
			for range r.trials {
				probe(t, conn, s.topics[0], "room:0")
				judge.Await(t, "the sequencer leads", time.Minute, s.servers[0].Leads)
				before := lost()
				if half {
					proxy.FreezeAnswers()
				} else {
					proxy.Freeze()
				}
				began := time.Now()
				late = append(late, probe(t, conn, s.topics[0], "room:0"))
				judge.Await(t, "it is noticed", time.Minute, func() bool { return lost() > before })
				detected = append(detected, min(time.Since(began), late[len(late)-1]))
			}
			s.end(r)
			if !strings.Contains(s.servers[0].Log(), "lost its line to the database") {
				t.Error("the log does not name it")
			}
			r.latency("until it is noticed", detected, 3*time.Second)
			r.latency("an event written at that moment comes after", late, 3250*time.Millisecond)
		}
		t.Run(number, func(t *testing.T) { inModes(t, judge.Modes, black) })
	}
}

// Postgres answers late and slowly, while clients come back and writers write.
func TestFault11SlowPostgres(t *testing.T) {
	later(t)
	r := begin(t, "11", "Postgres answers 500 ms late, at 64 kB/s, while 200 clients resume")
	db := judge.Database(t, nil)
	proxy := pgtest.NewProxy(t, db.URL)
	const pool, snapshots = 5, 2 // those for snapshots are of the same pool
	s := stage(t, db.URL, 0)
	s.serve(proxy.URL, "--pool-size", fmt.Sprint(pool))
	s.write(1)
	s.flow()
	memory := s.servers[0].Memory()
	proxy.Slow(500*time.Millisecond, 64<<10)
	n := newNetwork(s.servers...)
	var clients []*judge.Reader
	for i := range 200 {
		clients = append(clients, everywhere(t, n, fmt.Sprint("client ", i), nil, judge.Rooms()[i%5]))
	}
	most := 0
	for range trials(20, 50, 300) {
		n := judge.Value[int](t, db.URL, "select count(*)::int from pg_stat_activity where datname = current_database() and application_name = 'pgcast'")
		most = max(most, n-1) // one is the sequencer's
		judge.Pause(t.Context(), 100*time.Millisecond)
	}
	grown := s.servers[0].Memory() - memory
	proxy.Slow(0, 0)
	s.writers.Stop()
	r.judge(db.URL, append(clients, s.readers()...)...)
	r.most("most database sessions of the pool of 5 and 2 for snapshots", most, pool+snapshots, pool+snapshots)
	r.most("memory grown, MiB", grown>>20, 64, 192)
}

// The NOTIFY queue is full: nobody's write fails because of capture, delivery goes on, and
// the queue is usable again once the culprit is gone.
func TestFault12NotifyQueueFull(t *testing.T) {
	later(t)
	r := begin(t, "12", "the NOTIFY queue full, held by a foreign listener that reads nothing")
	bin := newer(t, 16)
	cluster, url := judge.Cluster(t, &devpg.Options{Binaries: bin, Settings: map[string]string{"max_notify_queue_pages": "64"}})
	s := stage(t, url, 1)
	s.write(3)
	s.flow()
	other := cluster.URL("postgres")
	culprit := judge.Connect(t, other+"&application_name=culprit")
	for _, sql := range []string{"listen nobody", "begin", "select 1"} {
		if _, err := culprit.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	foreign := judge.Connect(t, other)
	full := false
	for range 2000 {
		_, err := foreign.Exec(t.Context(), "select pg_notify('nobody', repeat('x', 7000) || gen_random_uuid())")
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "54000" {
			full = true
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !full {
		t.Fatal("the queue did not become full")
	}
	failed := s.writers.Failed.Load()
	conn := judge.Connect(t, url)
	var late []time.Duration
	for range trials(3, 8, 30) {
		late = append(late, probe(t, conn, s.topics[0], "room:0"))
		judge.Pause(t.Context(), time.Second)
	}
	r.count("writes that failed because of capture", int(s.writers.Failed.Load()-failed), 0)
	_ = culprit.Close(t.Context())
	unwedged := judge.Await(t, "the queue is usable again", 30*time.Second, func() bool {
		_, err := foreign.Exec(t.Context(), "select pg_notify('nobody', 'x')")
		return err == nil
	})
	s.flow()
	s.end(r)
	if !strings.Contains(s.servers[0].Log(), "the NOTIFY queue fills up") {
		t.Error("the log does not name it")
	}
	r.latency("from an event's commit to the client, while the queue is full", late, 250*time.Millisecond)
	r.latency("until the queue is usable again", []time.Duration{unwedged}, 2*time.Second)
}

// The server never leaves a transaction open, and Postgres would end one that it did.
func TestFault13IdleInTransaction(t *testing.T) {
	later(t)
	r := begin(t, "13", "an idle transaction on the listening line")
	db := judge.Database(t, nil)
	s := stage(t, db.URL, 1)
	s.write(2)
	look := judge.Connect(t, db.URL)
	most := 0.0
	for range 200 {
		var age float64
		err := look.QueryRow(t.Context(), `select coalesce(max(extract(epoch from clock_timestamp() - state_change)), 0)::float8 from pg_stat_activity
			where datname = current_database() and application_name = 'pgcast' and state like 'idle in transaction%'`).Scan(&age)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, age)
		judge.Pause(t.Context(), 10*time.Millisecond)
	}
	line, err := listener.Dial(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	if _, err := line.Conn().Exec(t.Context(), "begin"); err != nil {
		t.Fatal(err)
	}
	pid := line.Conn().PgConn().PID()
	took := judge.Await(t, "Postgres ends the line that idles in a transaction", time.Minute, func() bool {
		return judge.Value[int](t, db.URL, "select count(*)::int from pg_stat_activity where pid = $1", pid) == 0
	})
	s.end(r)
	r.figure("longest idle transaction of a server, seen in 200 looks", fmt.Sprintf("%.0f ms", 1000*most), "≤ 100 ms", most <= 0.1)
	r.latency("until Postgres ends one", []time.Duration{took}, 5500*time.Millisecond)
}

// A foreign session holds the lock that every notifying commit in the cluster needs.
func TestFault15GlobalLockHeld(t *testing.T) {
	r := begin(t, "15", "a foreign session stalls while it holds NOTIFY's global lock")
	cluster, url := judge.Cluster(t, nil)
	judge.Exec(t, url, "create table bare (like item including all)")
	s := stage(t, url, 1)
	probes(t, url, s.topics[0], "room:0", 5)
	conn := judge.Connect(t, url)
	commits := func() (attached, bare []time.Duration) {
		insert := func(table string) time.Duration {
			began := time.Now()
			if _, err := conn.Exec(t.Context(), "insert into "+table+" (room, n) values (0, 1)"); err != nil {
				t.Fatal(err)
			}
			return time.Since(began)
		}
		for range trials(50, 200, 1000) {
			attached = append(attached, insert("item"))
			bare = append(bare, insert("bare"))
		}
		return attached, bare
	}
	judge.Exec(t, url, "insert into bare (room, n) values (0, 0)")
	attachedBefore, bareBefore := commits()
	// A notifying commit that waits for a standby that does not exist, frozen there, so that
	// it goes on waiting when nobody else does any more.
	judge.Exec(t, url, "create database other")
	foreign := judge.Connect(t, cluster.URL("other"))
	pid := int(foreign.PgConn().PID())
	judge.Exec(t, url, "alter system set synchronous_standby_names = 'nobody'")
	judge.Exec(t, url, "select pg_reload_conf()")
	judge.Await(t, "the setting holds", 10*time.Second, func() bool {
		return judge.Value[string](t, cluster.URL("other"), "show synchronous_standby_names") == "nobody"
	})
	stalled := make(chan struct{})
	var enough atomic.Bool
	go func() { // again and again, until one of its commits waits
		defer close(stalled)
		for !enough.Load() {
			if _, err := foreign.Exec(context.Background(), "select pg_notify('x', '1'), pg_current_xact_id()"); err != nil {
				return
			}
		}
	}()
	judge.Await(t, "it waits for the standby", time.Minute, func() bool {
		return judge.Value[bool](t, cluster.URL("other"), "select coalesce(bool_or(wait_event = 'SyncRep'), false) from pg_stat_activity where pid = $1", pid)
	})
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	enough.Store(true)
	frozen := true
	thaw := func() {
		if frozen {
			_ = syscall.Kill(pid, syscall.SIGCONT)
			frozen = false
		}
	}
	defer thaw()
	resetNames(t, cluster)
	// Who rings now waits as long as the lock is held; nobody can help that but by noticing.
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ringer := judge.Connect(t, url)
	rang := make(chan error, 1)
	go func() {
		_, err := ringer.Exec(ctx, "insert into item (room, n) values (0, 1)")
		rang <- err
	}()
	noticed := awaitLog(t, s.servers[0], "commits that notify are held up", 30*time.Second)
	judge.Await(t, "the sequencer stays awake", 30*time.Second, func() bool {
		return judge.Value[int](t, url, "select count(*)::int from pg_locks where locktype = 'advisory' and classid = 1885823841 and objid = 1") == 0
	})
	t.Logf("the sequencer stays awake after %v", time.Since(began))
	attached, bare := commits()
	come := probes(t, url, s.topics[0], "room:0", trials(20, 60, 300))
	thaw()
	<-stalled
	if err := <-rang; err != nil {
		t.Errorf("the write that rang: %v", err)
	}
	s.end(r)
	r.latency("until it is noticed and named", []time.Duration{noticed}, 3*time.Second)
	r.latency("from an event's commit to the client, from then on", come, 250*time.Millisecond)
	both := func(took []time.Duration) string {
		return fmt.Sprint(round(percentile(took, 0.5)), ", ", round(percentile(took, 0.95)), ", ", round(percentile(took, 0.99)))
	}
	x, y := percentile(attachedBefore, 0.99), percentile(attached, 0.99)
	r.figure("p50, p95, p99 of a commit to the attached table, before and while the lock is held", both(attachedBefore)+"; "+both(attached), "p99 within 10 %", float64(y) <= 1.1*float64(x))
	x, y = percentile(bare, 0.99), percentile(attached, 0.99)
	r.figure("the same of an unattached table", both(bareBefore)+"; "+both(bare), "the attached one's p99 within 10 %", float64(y) <= 1.1*float64(x))
	r.because("an attached table's commit has the trigger and the event's row in it, fault or not; the lock adds nothing to it, which is what the figure above tells")
}

// resetNames takes the standbys' names back by a session that does not wait for one.
func resetNames(t *testing.T, c *devpg.Cluster) {
	t.Helper()
	url := c.URL("postgres") + "&synchronous_commit=local"
	judge.Exec(t, url, "alter system reset synchronous_standby_names")
	judge.Exec(t, url, "select pg_reload_conf()")
	judge.Await(t, "nobody waits for a standby", 10*time.Second, func() bool {
		return judge.Value[string](t, url, "show synchronous_standby_names") == ""
	})
}

// LISTEN fails, as it does where the commit log was truncated under old notifications.
func TestFault16ListenFails(t *testing.T) {
	r := begin(t, "16", "LISTEN fails (58P01)")
	db := judge.Database(t, nil)
	proxy := pgtest.NewProxy(t, db.URL)
	proxy.Refuse("listen", "58P01", "could not access status of transaction 12345")
	s := stage(t, db.URL, 0)
	s.serve(proxy.URL)
	took := probes(t, db.URL, s.topics[0], "room:0", trials(5, 30, 100))
	named := strings.Contains(s.servers[0].Log(), "58P01")
	proxy.Refuse("", "", "")
	s.write(2)
	s.flow()
	s.end(r)
	if !named {
		t.Error("the log does not name it")
	}
	r.latency("from an event's commit to the client", took, 250*time.Millisecond)
}

// Events are written at every moment around the death of a listening line.
func TestFault25ReconnectWindow(t *testing.T) {
	r := begin(t, "25", "an event is written at random moments around a reconnect of the listening line")
	r.trials = trials(3, 40, 400)
	db := judge.Database(t, nil)
	s := stage(t, db.URL, 1)
	random := random(t)
	conn, killer := judge.Connect(t, db.URL), judge.Connect(t, db.URL)
	var took []time.Duration
	for range r.trials {
		judge.Await(t, "the sequencer leads", time.Minute, s.servers[0].Leads)
		_, err := killer.Exec(t.Context(), `select pg_terminate_backend(l.pid) from pg_locks l where locktype = 'advisory' and objid = 2
			and database = (select oid from pg_database where datname = current_database())`)
		if err != nil {
			t.Fatal(err)
		}
		judge.Pause(t.Context(), time.Duration(random.IntN(150_000))*time.Microsecond)
		took = append(took, probe(t, conn, s.topics[0], "room:0"))
		judge.Pause(t.Context(), time.Duration(trials(0, 1000, 1000))*time.Millisecond) // the next is a failure of its own
	}
	s.end(r)
	r.latency("from its commit to the client", took, 250*time.Millisecond)
}
