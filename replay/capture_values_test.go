package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// sums gives a topic's events with long values as their length and first letter.
const sums = `select array_agg(event || ' ' || coalesce((select string_agg(key || '=' || case when length(value) > 100 then left(value, 1) || length(value) else coalesce(value, 'null') end, ' ')
	from json_each_text(data)), '-') order by seq) from pgcast.history where topic = 'a'`

// TestCaptureToast: a large value that an UPDATE does not change, and Postgres therefore does
// not send, is in the event all the same: from the rows seen before, or read by key.
func TestCaptureToast(t *testing.T) {
	t.Parallel()
	d := streaming(t, "create table a (id int primary key, n int, big text, other text)", "alter table a alter column big set storage external",
		"alter table a alter column other set storage external", "select pgcast.attach('a', capture => 'wal')",
		"insert into a select i, 0, repeat('x', 1000000), repeat('o', 5000) from generate_series(1, 2) i")
	conn := d.Conn(t)
	r := run(t, d, SequencerOptions{Logger: discard})
	sequenced(t, conn, 2)
	want := []string{"created id=1 n=0 big=x1000000 other=o5000", "created id=2 n=0 big=x1000000 other=o5000"}
	check := func(what string, more ...string) {
		t.Helper()
		want = append(want, more...)
		sequenced(t, conn, len(want))
		if diff := cmp.Diff(want, one[[]string](t, conn, sums)); diff != "" {
			t.Fatalf("%s: %s", what, diff)
		}
	}
	script(t, conn, "update a set n = 1 where id = 1", "update a set big = repeat('y', 9000) where id = 1", "update a set n = 2 where id = 1")
	check("remembered", "updated id=1 n=1 big=x1000000 other=o5000", "updated id=1 n=1 big=y9000 other=o5000", "updated id=1 n=2 big=y9000 other=o5000")
	script(t, conn, "update a set id = 3 where id = 1", "update a set n = 3 where id = 3")
	check("with another key", "updated id=3 n=2 big=y9000 other=o5000", "updated id=3 n=3 big=y9000 other=o5000")
	script(t, conn, "update a set other = null where id = 3", "update a set n = 4 where id = 3")
	check("null is a value", "updated id=3 n=3 big=y9000 other=null", "updated id=3 n=4 big=y9000 other=null")

	r.stop()
	script(t, conn, "update a set n = 5")
	script(t, conn, "update a set n = 6 where id = 2", "delete from a where id = 2") // gone before anybody can read it
	run(t, d, SequencerOptions{Logger: discard})
	check("read by key", "updated id=2 n=5", "updated id=3 n=5 big=y9000 other=null", "updated id=2 n=6", "deleted -")
	script(t, conn, "update a set n = 7 where id = 3")
	check("remembered from reading", "updated id=3 n=7 big=y9000 other=null")

	// In a transaction that is sent before its end: what it has changed itself, what it has
	// rolled back, and what it has not touched.
	script(t, conn, "insert into a values (10, 0, repeat('a', 3000), repeat('b', 3000)), (11, 0, repeat('c', 3000), repeat('d', 3000))")
	check("two more", "created id=10 n=0 big=a3000 other=b3000", "created id=11 n=0 big=c3000 other=d3000")
	fill := "insert into a select i, 0, repeat('f', 200), null from generate_series(%d, %d) i"
	script(t, conn, "begin", "update a set big = repeat('A', 4000) where id = 10", fmt.Sprintf(fill, 1001, 1600), "update a set n = 1 where id in (10, 11)",
		fmt.Sprintf(fill, 2001, 2600), "savepoint s", "update a set big = repeat('Z', 4000) where id = 11", fmt.Sprintf(fill, 3001, 3600), "rollback to s",
		"update a set n = 2 where id = 11", fmt.Sprintf(fill, 4001, 4600), "update a set n = 3 where id = 10", "commit")
	await(t, "all are captured", func() bool {
		return one[int](t, conn, "select count(*)::int from pgcast.history where topic = 'a'") >= len(want)+1805
	})
	var got []string
	for _, e := range one[[]string](t, conn, sums)[len(want):] {
		if !strings.HasPrefix(e, "created") {
			got = append(got, e)
		}
	}
	if diff := cmp.Diff([]string{"updated id=10 n=0 big=A4000 other=b3000", "updated id=10 n=1 big=A4000 other=b3000", "updated id=11 n=1 big=c3000 other=d3000",
		"updated id=11 n=2 big=c3000 other=d3000", "updated id=10 n=3 big=A4000 other=b3000"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestCapturePoison: a change that cannot become an event is left out, counted and told;
// those beside it are not.
func TestCapturePoison(t *testing.T) {
	for _, mem := range []string{"64MB", "64kB"} {
		t.Run(mem, func(t *testing.T) {
			t.Parallel()
			d := logical(t, "create table a (id int primary key, v text)", "create table b (id int primary key)", "select pgcast.attach('a', capture => 'wal')",
				"select pgcast.attach('b', capture => 'wal')",
				`create function poison() returns trigger language plpgsql as $$ begin
					if new.data->>'v' = 'bad' then raise exception 'poisoned by %', new.data; end if; return new; end $$`,
				"create trigger poison before insert on pgcast.event_log for each row execute function poison()",
				"create trigger poison before insert on pgcast.stage for each row execute function poison()")
			d.Exec(t, "alter database "+d.Name+" set logical_decoding_work_mem = '"+mem+"'")
			conn := d.Conn(t)
			said := &book{}
			r := run(t, d, SequencerOptions{Logger: said.logger()})
			d.Exec(t, "insert into a select i, case when i in (7, 700) then 'bad' else 'good' end from generate_series(1, 1500) i; insert into b values (1)")
			d.Exec(t, "insert into a values (2000, 'bad')")
			d.Exec(t, "insert into a values (3000, 'good')")
			await(t, "the last one is captured", func() bool { return slices.Contains(eventsOf(t, conn, "a"), `created {"id":3000,"v":"good"}`) })
			got := eventsOf(t, conn, "a")
			created := slices.DeleteFunc(slices.Clone(got), func(e string) bool { return !strings.HasPrefix(e, "created") })
			if len(created) != 1499 || len(eventsOf(t, conn, "b")) != 1 {
				t.Errorf("%d of 1499 good rows, and %d of b", len(created), len(eventsOf(t, conn, "b")))
			}
			if !slices.Contains(got, `degraded {"table" : "public.a"}`) && !slices.Contains(got, `degraded {"table" : "a"}`) {
				t.Error("the topic was not told degraded")
			}
			if n := r.metric("capture_poisoned_total"); n != 3 {
				t.Errorf("%v are counted", n)
			}
			if !said.has("SQLSTATE P0001") || said.has("poisoned by") {
				t.Error("it is not logged, or with the value")
			}
			whole(t, conn, -1)
		})
	}
}

// TestCaptureRacesNumbers: others draw from the sequence meanwhile, and an update that moves a
// row to another topic needs two numbers that follow each other.
func TestCaptureRacesNumbers(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table a (id int primary key, v text)", "alter table a replica identity full", "select pgcast.attach('a', topic => 'v:{v}', capture => 'wal')",
		"insert into a select i, 'x' from generate_series(1, 500) i")
	conn, other := d.Conn(t), d.Conn(t)
	capturing(t, d, nil)
	sequenced(t, conn, 500)
	over, drawn := atomic.Bool{}, make(chan error, 1)
	go func() {
		for !over.Load() {
			if _, err := other.Exec(t.Context(), "select nextval('pgcast.event_log_id_seq')"); err != nil {
				drawn <- err
				return
			}
		}
		drawn <- nil
	}()
	d.Exec(t, "update a set v = 'y'")
	for range 20 {
		d.Exec(t, "update a set v = case v when 'x' then 'y' else 'x' end where id <= 50")
	}
	sequenced(t, conn, 500+1000+2000)
	over.Store(true)
	if err := <-drawn; err != nil && !errors.Is(err, t.Context().Err()) {
		t.Error(err)
	}
}

// TestCaptureAttachAgain: other options, without any change to the table.
func TestCaptureAttachAgain(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table a (id int primary key, v text, secret text)", "select pgcast.attach('a', capture => 'wal')")
	conn := d.Conn(t)
	capturing(t, d, nil)
	script(t, conn, "insert into a values (1, 'x', 's')")
	sequenced(t, conn, 1)
	script(t, conn, "select pgcast.attach('a', without => '{secret}', capture => 'wal')", "insert into a values (2, 'x', 's')")
	await(t, "the next is captured", func() bool { return slices.Contains(eventsOf(t, conn, "a"), `created {"id":2,"v":"x"}`) })
	script(t, conn, "select pgcast.attach('a', without => '{secret}')", "insert into a values (3, 'x', 's')")
	await(t, "by trigger", func() bool { return slices.Contains(eventsOf(t, conn, "a"), `created {"id":3,"v":"x"}`) })
	await(t, "the slot is dropped", func() bool { return !one[bool](t, conn, hasSlot) })
}

// TestCaptureBesideBusyDatabases: while other databases of the cluster write all the time, a
// WAL sender that has nothing for us says nothing by itself. It is asked how far it is, or
// triggers could not take over, and Postgres would keep the WAL.
func TestCaptureBesideBusyDatabases(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table a (id int primary key)", "select pgcast.attach('a', capture => 'wal')")
	conn := d.Conn(t)
	other := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical, Empty: true})
	other.Exec(t, "create table busy (v text)")
	ctx, cancel := context.WithCancel(t.Context())
	g, ctx := errgroup.WithContext(ctx)
	for range 2 {
		writer := other.Conn(t)
		g.Go(func() error {
			for ctx.Err() == nil {
				if _, err := writer.Exec(context.WithoutCancel(ctx), "insert into busy select repeat('x', 500) from generate_series(1, 20)"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	capturing(t, d, nil)
	script(t, conn, "insert into a values (1)")
	sequenced(t, conn, 1)
	for range 3 {
		script(t, conn, "select pgcast.attach('a')", "select pgcast.open_slot()", "select pgcast.attach('a', capture => 'wal')")
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestCapturePublicationAltered: tables are attached and detached while a transaction is open
// that writes to others.
func TestCapturePublicationAltered(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table a (id int primary key)", "create table b (id int primary key)", "create table c (id int primary key)",
		"select pgcast.attach('a', capture => 'wal')", "select pgcast.attach('b', capture => 'wal')")
	conn, writer := d.Conn(t), d.Conn(t)
	capturing(t, d, nil)
	script(t, writer, "begin", "insert into a values (1)")
	script(t, conn, "select pgcast.attach('c', capture => 'wal')", "insert into c values (1)", "alter publication pgcast_capture set (publish = 'insert, update, delete, truncate')")
	script(t, writer, "insert into a values (2)", "savepoint s", "insert into c values (2)", "rollback to s", "insert into c values (3)")
	script(t, conn, "select pgcast.detach('b')")
	script(t, writer, "insert into a values (4)", "commit", "insert into a values (5)")
	sequenced(t, conn, 6)
	if a, c := eventsOf(t, conn, "a"), eventsOf(t, conn, "c"); !slices.Equal(a, []string{`created {"id":1}`, `created {"id":2}`, `created {"id":4}`, `created {"id":5}`}) ||
		!slices.Equal(c, []string{`created {"id":1}`, `created {"id":3}`}) {
		t.Errorf("a: %v, c: %v", a, c)
	}
}

// TestCaptureShapes: the topics learn of a new shape before its first row, whenever capture
// comes to read it; partitions have their columns in another order.
func TestCaptureShapes(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table a (id int primary key, v text, w int)", "create table p (id int primary key, v text) partition by range (id)",
		"create table p1 (v text, gone int, id int primary key)", "alter table p1 drop column gone", "alter table p attach partition p1 for values from (0) to (100)",
		"create table p2 partition of p for values from (100) to (200)",
		"select pgcast.attach('a', capture => 'wal')", "select pgcast.attach('p', capture => 'wal')",
		"insert into a values (1, 'x', 1)", "alter table a rename column v to body", "insert into a values (2, 'y', 2)", "alter table a drop column w",
		"insert into a values (3, 'z')", "alter table a alter column body type varchar(20)", "insert into a values (4, '4')",
		"insert into p values (1, 'one'), (101, 'two')", "update p set id = 102 where id = 1", "truncate p2", "truncate p")
	conn := d.Conn(t)
	r := capturing(t, d, nil)
	schema := func(columns string) string {
		return `schema {"table" : "public.a", "columns" : [{"name" : "id", "type" : "integer"}, ` + columns + `]}`
	}
	told := func(topic string) []string { // what the watch tells comes when it comes
		return slices.DeleteFunc(eventsOf(t, conn, topic), func(e string) bool { return strings.HasPrefix(e, "altered") && topic == "a" })
	}
	await(t, "all are captured", func() bool { return len(told("a")) >= 7 && len(eventsOf(t, conn, "p")) >= 6 })
	if diff := cmp.Diff([]string{`created {"id":1,"v":"x","w":1}`, schema(`{"name" : "body", "type" : "text"}, {"name" : "w", "type" : "integer"}`), `created {"id":2,"body":"y","w":2}`,
		schema(`{"name" : "body", "type" : "text"}`), `created {"id":3,"body":"z"}`, schema(`{"name" : "body", "type" : "character varying(20)"}`), `created {"id":4,"body":"4"}`}, told("a")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{`created {"id":1,"v":"one"}`, `created {"id":101,"v":"two"}`, `deleted was {"id":1}`, `created {"id":102,"v":"one"}`,
		`altered {"table" : "public.p"}`, `truncated {"schema":"public","table":"p"}`}, eventsOf(t, conn, "p")); diff != "" {
		t.Error(diff)
	}
	// It is remembered over a restart.
	r.stop()
	script(t, conn, "insert into a values (5, '5')")
	capturing(t, d, nil)
	await(t, "the next one is captured", func() bool { return len(told("a")) >= 8 })
	if got := told("a"); got[7] != `created {"id":5,"body":"5"}` || len(got) != 8 {
		t.Errorf("after a restart: %v", got[7:])
	}
}

// TestCaptureBlame: the log does not quote values.
func TestCaptureBlame(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, nil).Conn(t)
	for sql, want := range map[string]string{
		`select 'top "secret"'::int`:                                  "invalid input syntax for type integer: … (SQLSTATE 22P02)",
		"do $$ begin raise exception 'the row (%)', 'secret'; end $$": "SQLSTATE P0001",
		"select pgcast.no_such('secret')":                             `ERROR: function pgcast.no_such(unknown) does not exist (SQLSTATE 42883)`,
	} {
		_, err := conn.Exec(t.Context(), sql)
		if got := blame(err); got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
}

// TestCaptureAttachedAnew: what is attached in another way is read in that way from then on.
func TestCaptureAttachedAnew(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table a (id int primary key, v text)", "create table b (id int primary key, v text)",
		"select pgcast.attach('a', capture => 'wal')", "select pgcast.attach('b', capture => 'wal')")
	conn := d.Conn(t)
	capturing(t, d, nil)
	script(t, conn, "insert into a values (1, 'open')", "insert into b values (1, 'open')")
	total(t, conn, 2)
	script(t, conn, "select pgcast.attach('a', without => '{v}', capture => 'wal')", "insert into a values (2, 'secret')", "insert into b values (2, 'open')")
	total(t, conn, 4)
	if diff := cmp.Diff([]string{`created {"id":1,"v":"open"}`, `created {"id":2}`}, eventsOf(t, conn, "a")); diff != "" {
		t.Error(diff)
	}
	script(t, conn, "select pgcast.detach('a')", "insert into a values (3, 'secret')", "select pgcast.attach('a', topic => 'again', capture => 'wal')", "insert into a values (4, 'x')")
	total(t, conn, 5)
	if diff := cmp.Diff([]string{`created {"id":4,"v":"x"}`}, eventsOf(t, conn, "again")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{`created {"id":1,"v":"open"}`, `created {"id":2,"v":"open"}`}, eventsOf(t, conn, "b")); diff != "" {
		t.Error(diff)
	}
}
