package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/judge"
)

// Updates that leave a large column alone do not write it to the WAL. Of one table the old
// values are there, of the other only the key; the server is killed in between, so that what
// it remembers of the rows is gone.
func TestFault40ToastUnchanged(t *testing.T) {
	inModes(t, sources, func(t *testing.T, m judge.Mode) {
		r := beginIn(t, m, "40", "updates of a small column beside a large one that Postgres stores apart")
		r.trials = trials(60, 600, 6000)
		db := m.Database(t)
		db.Exec(t, `create table kept (id int primary key, room int not null, n int not null, body text);
			create table keyed (like kept including all);
			alter table kept replica identity full;
			create table truth (tbl text, id int, n int, body text, primary key (tbl, id, n))`)
		for _, table := range []string{"kept", "keyed"} {
			capture := ""
			if m == judge.WALCapture {
				capture = ", capture => 'wal'"
			}
			db.Exec(t, fmt.Sprintf("select pgcast.attach('%[1]s', topic => '%[1]s'%[2]s)", table, capture))
		}
		s := stage(t, db.URL, 1, m.Flags()...)
		conn := judge.Connect(t, db.URL)
		random := random(t)
		for i := range r.trials {
			if i == r.trials/2 {
				s.servers[0].Kill()
			}
			if i == r.trials*2/3 {
				s.servers[0].Start()
			}
			if err := toastWrite(t.Context(), conn, random, []string{"kept", "keyed"}[i%2]); err != nil {
				t.Fatal(err)
			}
		}
		s.servers[0].WaitReady()
		s.end(r)
		const events = `from pgcast.history h join truth on truth.tbl = h.topic and truth.id = (h.data->>'id')::int and truth.n = (h.data->>'n')::int
			where h.topic in ('kept', 'keyed') and h.event in ('created', 'updated')`
		count := func(cond string) int {
			return judge.Value[int](t, db.URL, "select count(*)::int "+events+" and "+cond)
		}
		written := judge.Value[int](t, db.URL, "select count(*)::int from truth")
		r.count("events of the rows, more or fewer than were written", count("true")-written, 0)
		r.count("events with anything else than the row's large column", count("h.data->'body' is not null and md5(h.data->>'body') <> truth.body"), 0)
		out := count("h.data->'body' is null")
		gone := count("h.data->'body' is null and not exists (select from keyed where keyed.id = (h.data->>'id')::int)")
		r.count("events without it though the row is there", out-gone, 0)
		r.figure("events without it, of rows that were gone when they were read", fmt.Sprint(gone), "no bound", true)
	})
}

// toastWrite writes rows with columns of 10 to 200 kB that do not compress.
func toastWrite(ctx context.Context, conn *pgx.Conn, r *rand.Rand, table string) error {
	const large = "(select string_agg(md5(random()::text || i), '') from generate_series(1, $2::int) i)"
	const remember = " insert into truth select '%[1]s', id, n, md5(body) from x"
	id := r.IntN(8)
	sql := "with x as (insert into %[1]s select $1, 0, coalesce((select max(n) from truth where tbl = '%[1]s' and id = $1), 0) + 1, " + large +
		" on conflict (id) do update set n = %[1]s.n + 1 returning *)" + remember
	args := []any{id, 300 + r.IntN(6000)}
	switch r.IntN(8) {
	case 0:
		sql, args = "delete from %[1]s where id = $1", []any{id}
	case 1:
		if table == "kept" { // of the other a read may see a later change
			sql = "with x as (update %[1]s set n = n + 1, body = " + large + " where id = $1 returning *)" + remember
		}
	}
	_, err := conn.Exec(ctx, fmt.Sprintf(sql, table), args...)
	return err
}

// The table changes its shape while it is written: whoever follows its topic is told of the
// new shape before the first row that has it.
func TestFault41DDL(t *testing.T) {
	later(t)
	m := judge.WALCapture
	r := beginIn(t, m, "41", "columns added, dropped, renamed and retyped under load")
	r.trials = trials(8, 40, 400)
	db := m.Database(t)
	db.Exec(t, `create table shape (id bigint generated always as identity primary key, a text);
		select pgcast.attach('shape', topic => 'shape', capture => 'wal')`)
	s := stage(t, db.URL, 1, m.Flags()...)
	s.write(1)
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	defer writing.Wait()
	defer stop()
	conn := judge.Connect(t, db.URL)
	writing.Go(func() {
		for ctx.Err() == nil {
			_, _ = conn.Exec(ctx, "insert into shape default values")
			judge.Pause(ctx, time.Millisecond)
		}
	})
	random := random(t)
	names := []string{"a"}
	changes := 0
	var took []time.Duration
	told := func() int {
		return judge.Value[int](t, db.URL, "select count(*)::int from pgcast.history where topic = 'shape' and event = 'schema'")
	}
	for i := range r.trials {
		var sql string
		switch at := random.IntN(len(names)); {
		case i%4 == 0:
			names = append(names, fmt.Sprint("added", i))
			sql = fmt.Sprintf("alter table shape add column added%d int default %d", i, i)
		case i%4 == 1:
			sql = fmt.Sprintf("alter table shape rename column %s to renamed%d", names[at], i)
			names[at] = fmt.Sprint("renamed", i)
		case i%4 == 2:
			sql = fmt.Sprintf("alter table shape alter column %s type varchar(%d)", names[at], 100+i)
		case len(names) > 1:
			sql = "alter table shape drop column " + names[at]
			names = slices.Delete(names, at, at+1)
		default:
			continue
		}
		judge.Exec(t, db.URL, sql)
		began := time.Now()
		changes++
		judge.Await(t, "the topic is told after "+sql, time.Minute, func() bool { return told() >= changes })
		took = append(took, time.Since(began))
	}
	stop()
	writing.Wait()
	s.end(r)
	r.latency("until the topic is told", took, 10*time.Second)
	r.count("rows of a shape that was not told before", untold(t, db.URL), 0)
	r.count("times the topic was told, over the changes", told()-changes, 0)
}

// untold counts the rows whose columns are not those of the newest event schema.
func untold(t *testing.T, url string) (n int) {
	t.Helper()
	conn := judge.Connect(t, url)
	rows, _ := conn.Query(t.Context(), "select event, data from pgcast.history where topic = 'shape' order by seq")
	names := []string{"a", "id"}
	var event string
	var data []byte
	_, err := pgx.ForEachRow(rows, []any{&event, &data}, func() error {
		switch event {
		case "schema":
			var shape struct{ Columns []struct{ Name string } }
			if err := json.Unmarshal(data, &shape); err != nil {
				return err
			}
			names = nil
			for _, c := range shape.Columns {
				names = append(names, c.Name)
			}
			slices.Sort(names)
		case "created":
			var row map[string]any
			if err := json.Unmarshal(data, &row); err != nil {
				return err
			}
			if has := slices.Sorted(maps.Keys(row)); !slices.Equal(has, names) {
				t.Logf("a row has %s, told was %s", strings.Join(has, ", "), strings.Join(names, ", "))
				n++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Tables come to and leave the publication while transactions write that began before.
func TestFault53PublicationAltered(t *testing.T) {
	later(t)
	m := judge.WALCapture
	r := beginIn(t, m, "53", "the publication altered in the middle of transactions")
	r.trials = trials(5, 60, 600)
	db := m.Database(t)
	db.Exec(t, "create table side (id int, room int not null, note text, primary key (id, room))")
	s := stage(t, db.URL, 1, m.Flags()...)
	s.write(2)
	s.flow()
	conn := judge.Connect(t, db.URL)
	for i := range r.trials {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		write := func() {
			if _, err := tx.Exec(t.Context(), "insert into item (room, n) select g % 5, 1 from generate_series(1, 10) g"); err != nil {
				t.Fatal(err)
			}
		}
		write()
		judge.Exec(t, db.URL, "select pgcast.attach('side', topic => 'side:{room}', capture => 'wal')")
		write()
		judge.Exec(t, db.URL, "insert into side values ($1, 1)", i)
		// What is not yet read of a table that is detached is not captured any more.
		judge.Await(t, "the row of the other table is captured", time.Minute, func() bool {
			return judge.Value[int](t, db.URL, "select count(*)::int from pgcast.event_log where topic = 'side:1' and event = 'created'") > i
		})
		judge.Exec(t, db.URL, "select pgcast.detach('side')")
		write()
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.end(r)
	came := judge.Value[int](t, db.URL, "select count(*)::int from pgcast.history where topic = 'side:1' and event = 'created'")
	r.count("events of the other table, more or fewer than were written while it was attached", came-r.trials, 0)
}

// The server is killed at any moment between reading, writing, committing and confirming.
func TestFault53KilledBetweenSteps(t *testing.T) {
	m := judge.WALCapture
	r := beginIn(t, m, "53", "the server killed (SIGKILL) at random moments of a capture step")
	r.trials = trials(4, 40, 400)
	db := m.Database(t)
	// Small transactions are streamed before they commit, too.
	db.Exec(t, "alter database "+db.Name+" set logical_decoding_work_mem = '64kB'")
	s := stage(t, db.URL, 1, m.Flags()...)
	s.write(2)
	conn := judge.Connect(t, db.URL)
	random := random(t)
	for range r.trials {
		s.flow()
		if _, err := conn.Exec(t.Context(), "insert into item (room, n, note) select g % 5, 1, repeat('x', 100) from generate_series(1, 2000) g"); err != nil {
			t.Fatal(err)
		}
		judge.Pause(t.Context(), time.Duration(random.IntN(60))*time.Millisecond)
		s.servers[0].Kill()
		s.servers[0].Start()
		s.servers[0].WaitReady()
	}
	s.end(r)
	r.count("changes lost or read twice", r.Lost+r.Doubled+r.Missed, 0)
}

// One transaction of a million rows, beside others.
func TestFault53LargeTransaction(t *testing.T) {
	later(t)
	m := judge.WALCapture
	rows := trials(50_000, 1_000_000, 1_000_000)
	r := beginIn(t, m, "53", fmt.Sprintf("one transaction of %d rows", rows))
	db := m.Database(t)
	if rows < 1_000_000 {
		db.Exec(t, "alter database "+db.Name+" set logical_decoding_work_mem = '1MB'") // it is streamed all the same
	}
	server := judge.StartServer(t, db.URL, m.Flags()...)
	server.WaitReady()
	other := judge.NewReader(t, "http://"+server.Listen, "other", &judge.ReaderOptions{Arrival: true}, "room:0")
	probes(t, db.URL, other, "room:0", 20)
	before := server.Memory()
	peak := before
	watch := func(what string, limit time.Duration, done func() bool) time.Duration {
		t.Helper()
		return judge.Await(t, what, limit, func() bool {
			peak = max(peak, server.Memory())
			return done()
		})
	}
	conn := judge.Connect(t, db.URL)
	var beside []time.Duration
	committed := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "insert into item (room, n, note) select 4, 1, repeat('x', 50) from generate_series(1, $1::int)", rows)
		committed <- err
	}()
	writer := judge.Connect(t, db.URL)
	open := true
	for open {
		select {
		case err := <-committed:
			if err != nil {
				t.Fatal(err)
			}
			open = false
		default:
			peak = max(peak, server.Memory())
			beside = append(beside, probe(t, writer, other, "room:0"))
		}
	}
	captured := watch("all of it is in the log", 10*time.Minute, func() bool {
		return judge.Value[bool](t, db.URL, "select exists (select from pgcast.event_log where topic = 'room:4')")
	})
	after := probe(t, writer, other, "room:0")
	watch("all of it has a place", 10*time.Minute, func() bool {
		return judge.Value[bool](t, db.URL, "select (select count(*) from pgcast.event_log where topic = 'room:4') = (select count(*) from pgcast.replay r join pgcast.topic t on t.id = r.topic_id where t.name = 'room:4')")
	})
	judge.Sequenced(t, db.URL)
	log := judge.Log(t, db.URL)
	r.Add(judge.CheckLog(log))
	r.Add(judge.CheckCaptured(t, db.URL))
	r.Add(judge.Against(t, log, other))
	r.check()
	came := 0
	for _, f := range log {
		if f.Topic == "room:4" {
			came++
		}
	}
	r.count("events of its rows, more or fewer than were written", came-rows, 0)
	if len(beside) > 1 {
		beside = beside[:len(beside)-1] // the last may have committed behind it
	}
	r.latency("other topics, from commit to client, while it is open", beside, time.Second)
	r.figure("from its commit until it is in the log, and another topic's next event", fmt.Sprint(round(captured), ", ", round(after)), "no bound", true)
	r.most("memory of the server grown, MiB", (peak-before)>>20, 128, 256)
	left := judge.Value[int](t, db.URL, "select count(*)::int from pgcast.stage")
	r.count("rows left in the stage", left, 0)
}
