package faults

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/listener"
)

// others are topics that have nothing to do with the WAL: of a table captured by triggers, and
// of nothing but publish().
const others = `create table other (id int primary key, room int not null); select pgcast.attach('other', topic => 'other:{room}')`

// writeAll writes to every topic there is.
func writeAll(t *testing.T, url string, id int) {
	t.Helper()
	writeRooms(t, url, 3, 0, 1, 2, 3, 4)
	judge.Exec(t, url, "insert into other values ($1, $1 % 2)", id)
	judge.Exec(t, url, "select pgcast.publish('plain', 'note', '1')")
}

// resets counts the topics that were told to begin anew at least n times, of the table and of
// all others.
func resets(t *testing.T, url string, n int) (concerned, untouched int) {
	t.Helper()
	const sql = "select count(*)::int from (select topic from pgcast.history where event = 'reset' and (topic like 'room:%') = $1 group by topic having count(*) >= $2) x"
	return judge.Value[int](t, url, sql, true, n), judge.Value[int](t, url, sql, false, 1)
}

// told waits until every topic of the table was told n times, and that the server says why.
func toldResets(t *testing.T, r *row, s *judge.Server, url string, n int) time.Duration {
	t.Helper()
	began := time.Now()
	judge.Await(t, "the topics of the table are told to begin anew", time.Minute, func() bool {
		concerned, _ := resets(t, url, n)
		return concerned == len(judge.Rooms())
	})
	took := time.Since(began)
	if !strings.Contains(s.Log(), `"level":"ERROR"`) {
		t.Error("the server's log has no error")
	}
	return took
}

// reports the figures that all rows about a lost slot share.
func (r *row) slotFigures(t *testing.T, url string, took, late []time.Duration) {
	t.Helper()
	concerned, untouched := resets(t, url, r.trials)
	r.figure("topics of the table that were told to begin anew, each time", fmt.Sprintf("%d of %d", concerned, len(judge.Rooms())), "all", concerned == len(judge.Rooms()))
	r.count("other topics that were told so", untouched, 0)
	r.latency("until they are told", took, 5*time.Second)
	r.latency("from the commit of the next row to the client", late, 5*time.Second)
}

// wholeLog compares the log with what the clients got: folding it does not give the table any
// more where events are missing.
func (s *scene) wholeLog(r *row) {
	s.t.Helper()
	judge.Sequenced(s.t, s.url)
	log := judge.Log(s.t, s.url)
	r.Add(judge.CheckLog(log))
	r.Add(judge.Against(s.t, log, s.readers()...))
	r.check()
}

// nextRow inserts a row and tells how long after its commit it came to a client.
func (s *scene) nextRow() time.Duration {
	s.t.Helper()
	n := s.topics[0].Events()
	judge.Exec(s.t, s.url, "insert into item (room, n) values (0, 1)")
	began := time.Now()
	judge.Await(s.t, "the row comes", time.Minute, func() bool { return s.topics[0].Events() > n })
	return time.Since(began)
}

// captureSlot is the durable slot's column.
func captureSlot[T any](t *testing.T, url, column string) T {
	t.Helper()
	return judge.Value[T](t, url, "select "+column+" from pg_replication_slots where slot_name = pgcast.slot_name()")
}

// Postgres gives up a slot that holds more WAL than it may: of a server that is away, and of
// one that is frozen.
func TestFault50SlotInvalidated(t *testing.T) {
	later(t)
	r := begin(t, "50", "the slot is invalidated: max_slot_wal_keep_size of 1 MB while the server is away or frozen")
	r.trials = trials(2, 4, 10)
	m := judge.WALCapture
	_, url := m.Cluster(t, &devpg.Options{Settings: map[string]string{"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}})
	judge.Exec(t, url, others)
	s := stage(t, url, 1, m.Flags()...)
	writeAll(t, url, -1)
	s.nextRow()
	var took, late []time.Duration
	held := 0
	for i := range r.trials {
		away := i%2 == 0
		if away {
			s.servers[0].Kill()
		} else {
			s.servers[0].Signal(syscall.SIGSTOP)
		}
		writeAll(t, url, i)
		judge.Await(t, "the slot is lost", 2*time.Minute, func() bool {
			judge.Exec(t, url, "select pg_logical_emit_message(false, 'judge', repeat('x', 1000000)), pg_switch_wal()")
			judge.Exec(t, url, "checkpoint")
			return captureSlot[string](t, url, "wal_status") == "lost"
		})
		held = max(held, judge.Value[int](t, url, "select (sum(size) / 1048576)::int from pg_ls_waldir()"))
		if away {
			s.servers[0].Start()
			s.servers[0].WaitReady()
		} else {
			s.servers[0].Signal(syscall.SIGCONT)
		}
		took = append(took, toldResets(t, r, s.servers[0], url, i+1))
		late = append(late, s.nextRow())
		if status := captureSlot[string](t, url, "wal_status"); status == "lost" {
			t.Error("the slot is still the lost one")
		}
	}
	s.wholeLog(r)
	r.slotFigures(t, url, took, late)
	// What it may keep, and Postgres' own two segments and those it has yet to recycle.
	r.most("WAL on disk when it was lost, MiB", held, 96, 160)
}

// Somebody drops the slot under the server's hands.
func TestFault51SlotDropped(t *testing.T) {
	later(t)
	r := begin(t, "51", "the slot is dropped while the server streams")
	r.trials = trials(2, 10, 50)
	m := judge.WALCapture
	db := m.Database(t)
	db.Exec(t, others)
	s := stage(t, db.URL, 1, m.Flags()...)
	writeAll(t, db.URL, -1)
	s.nextRow()
	var took, late []time.Duration
	for i := range r.trials {
		conn := judge.Connect(t, db.URL)
		judge.Await(t, "the slot is dropped", time.Minute, func() bool {
			// The server may have taken it again in between.
			_, err := conn.Exec(t.Context(), `do $$ begin
				perform pg_terminate_backend(active_pid, 1000) from pg_replication_slots where slot_name = pgcast.slot_name() and active;
				perform pg_drop_replication_slot(pgcast.slot_name()); end $$`)
			return err == nil
		})
		took = append(took, toldResets(t, r, s.servers[0], db.URL, i+1))
		late = append(late, s.nextRow())
		writeAll(t, db.URL, i)
	}
	s.wholeLog(r)
	r.slotFigures(t, db.URL, took, late)
}

// Another process streams from the slot when the server comes. What it does not confirm stays.
func TestFault51SlotTaken(t *testing.T) {
	later(t)
	r := begin(t, "51", "another process streams from the slot")
	r.trials = trials(1, 5, 20)
	m := judge.WALCapture
	db := m.Database(t)
	s := stage(t, db.URL, 1, m.Flags()...)
	s.write(2)
	var late []time.Duration
	name := judge.Value[string](t, db.URL, "select pgcast.slot_name()")
	for range r.trials {
		s.flow()
		s.servers[0].Kill()
		var thief *listener.Stream
		judge.Await(t, "the slot is taken", time.Minute, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			stream, err := listener.OpenStream(ctx, db.URL, listener.StreamOptions{Slot: name, Publications: []string{"pgcast_capture"}, ApplicationName: "thief"})
			thief = stream
			return err == nil // the killed server's walsender goes at its own pace
		})
		said := len(s.servers[0].Log())
		s.servers[0].Start()
		s.servers[0].WaitReady()
		judge.Await(t, "the server says that the slot is in use", time.Minute, func() bool {
			return strings.Contains(s.servers[0].Log()[said:], "in use")
		})
		n := s.topics[0].Events()
		thief.Close()
		late = append(late, judge.Await(t, "events come", time.Minute, func() bool { return s.topics[0].Events() > n }))
	}
	s.end(r)
	concerned, untouched := resets(t, db.URL, 1)
	r.count("topics that were told to begin anew", concerned+untouched, 0)
	r.latency("from the slot being free to events at the client", late, 5*time.Second)
}

// Postgres ends a walsender that hears nothing for 2 s. Whoever reads the stream stands still
// for much longer; and the server's capture again and again, as long as it waits for a lock.
func TestFault52ConsumerStalled(t *testing.T) {
	later(t)
	stall := time.Duration(trials(8, 30, 30)) * time.Second
	m := judge.WALCapture
	r := beginIn(t, m, "52", fmt.Sprintf("wal_sender_timeout of 2 s, the consumer stalled for %v, and capture 2.5 s at a time", stall))
	r.trials = trials(2, 8, 40)
	_, url := m.Cluster(t, &devpg.Options{Settings: map[string]string{"wal_sender_timeout": "2s"}})
	s := stage(t, url, 1, m.Flags()...)
	stream, err := listener.OpenStream(t.Context(), url, listener.StreamOptions{Publications: []string{"pgcast_capture"}, ApplicationName: "stalled"})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- stream.Run(ctx) }()
	s.write(2)
	s.flow()
	began := time.Now()
	disconnects := 0
	var late []time.Duration
	for range r.trials {
		pid := captureSlot[int](t, url, "active_pid")
		tx, err := judge.Connect(t, url).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "lock table pgcast.captured in access exclusive mode"); err != nil {
			t.Fatal(err)
		}
		judge.Pause(t.Context(), 2500*time.Millisecond)
		n := s.topics[0].Events()
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		late = append(late, judge.Await(t, "events come", time.Minute, func() bool { return s.topics[0].Events() > n }))
		if now := captureSlot[*int](t, url, "active_pid"); now == nil || *now != pid {
			disconnects++
		}
	}
	judge.Pause(t.Context(), stall-time.Since(began))
	select {
	case err := <-ended:
		t.Logf("the stream that nobody read ended: %v", err)
		disconnects++
	default:
		// What was written meanwhile is there.
		select {
		case _, open := <-stream.Batches():
			if !open {
				disconnects++
			}
		case <-time.After(time.Minute):
			t.Error("the stream that nobody read has nothing")
		}
	}
	s.end(r)
	r.count("disconnects", disconnects, 0)
	r.latency("from the end of capture's stall to events at the client", late, 5*time.Second)
}
