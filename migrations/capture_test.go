package migrations_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// A step is SQL and the events it must write, each as "topic event data old {...}". The
// SQL of one step runs on one connection, the same for all steps of a test.
type step struct {
	sql  string
	want []string
}

// run runs steps on a database of their own.
func run(t *testing.T, opts *pgtest.Options, steps []step) {
	t.Helper()
	conn := pgtest.New(t, opts).Conn(t)
	for _, s := range steps {
		if _, err := conn.Exec(t.Context(), s.sql); err != nil {
			t.Fatalf("%s: %v", s.sql, err)
		}
		if diff := cmp.Diff(s.want, take(t, conn)); diff != "" {
			t.Fatalf("events of %s (-want +got):\n%s", s.sql, diff)
		}
	}
}

// take reads the events written since it was last called, in id order.
func take(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
		with mark as (select coalesce(nullif(current_setting('test.taken', true), ''), '0')::bigint as id)
		select e.topic || ' ' || e.event || coalesce(' ' || e.data::text, '') || coalesce(' old ' || e.old::text, ''),
		       set_config('test.taken', e.id::text, false)
		from mark, lateral (select * from pgcast.event_log e where e.id > mark.id order by e.id) e`)
	if err != nil {
		t.Fatalf("read events: %v", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (line string, err error) {
		err = row.Scan(&line, nil)
		return line, err
	})
	if err != nil {
		t.Fatalf("read events: %v", err)
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

const messages = `create table messages (id int primary key, room_id int, body text);`

func TestCapture(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{sql: messages + `select pgcast.attach('public.messages', topic => 'room:{room_id}')`},
		{`insert into messages values (1, 1, 'a'), (2, 2, 'b'), (3, null, 'c')`, []string{
			`room:1 created {"id":1,"room_id":1,"body":"a"}`,
			`room:2 created {"id":2,"room_id":2,"body":"b"}`,
			`room:~null created {"id":3,"room_id":null,"body":"c"}`,
		}},
		{`update messages set body = 'd' where id = 1`, []string{
			`room:1 updated {"id":1,"room_id":1,"body":"d"} old {"id":1}`,
		}},
		{`update messages set id = 10 where id = 1`, []string{
			`room:1 updated {"id":10,"room_id":1,"body":"d"} old {"id":1}`,
		}},
		{`update messages set room_id = 2`, []string{
			`room:2 updated {"id":2,"room_id":2,"body":"b"} old {"id":2}`,
			`room:~null deleted old {"id":3}`,
			`room:2 created {"id":3,"room_id":2,"body":"c"}`,
			`room:1 deleted old {"id":10}`,
			`room:2 created {"id":10,"room_id":2,"body":"d"}`,
		}},
		{`delete from messages where id < 10`, []string{
			`room:2 deleted old {"id":2}`,
			`room:2 deleted old {"id":3}`,
		}},
		{`truncate messages`, []string{
			`room:1 truncated {"schema":"public","table":"messages"}`,
			`room:2 truncated {"schema":"public","table":"messages"}`,
			`room:~null truncated {"schema":"public","table":"messages"}`,
		}},
		{sql: `update messages set body = body; delete from messages`},
	})
}

func TestCaptureDefaultTopic(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{sql: messages + `select pgcast.attach('messages')`},
		{`insert into messages values (1, 1, 'a'), (2, 1, 'b')`, []string{
			`messages created {"id":1,"room_id":1,"body":"a"}`,
			`messages created {"id":2,"room_id":1,"body":"b"}`,
		}},
		{`update messages set id = id + 10, body = upper(body)`, []string{
			`messages updated {"id":11,"room_id":1,"body":"A"} old {"id":1}`,
			`messages updated {"id":12,"room_id":1,"body":"B"} old {"id":2}`,
		}},
		{`delete from messages where id = 11`, []string{`messages deleted old {"id":11}`}},
		{`truncate messages`, []string{`messages truncated {"schema":"public","table":"messages"}`}},
		{sql: `create table "__Räume{1}:*" (a int); select pgcast.attach('"__Räume{1}:*"')`},
		{`insert into "__Räume{1}:*" values (1)`, []string{`%5F_R%C3%A4ume%7B1%7D%3A%2A created {"a":1}`}},
	})
}

func TestCaptureSwitch(t *testing.T) {
	t.Parallel()
	steps := []step{{sql: messages + `select pgcast.attach('messages')`}}
	for _, off := range []string{"off", "OFF", "false", "0", "no"} {
		steps = append(steps, step{sql: `begin; set local pgcast.capture = '` + off + `'; insert into messages values (1); update messages set body = ''; delete from messages; truncate messages; commit`})
	}
	for _, on := range []string{"on", "true", "1", ""} {
		steps = append(steps, step{
			`begin; set local pgcast.capture = '` + on + `'; delete from messages; insert into messages values (1); set local pgcast.capture = off; delete from messages; commit`,
			[]string{`messages created {"id":1,"room_id":null,"body":null}`},
		})
	}
	run(t, nil, append(steps, step{`insert into messages values (1)`, []string{`messages created {"id":1,"room_id":null,"body":null}`}}))
}

func TestDetach(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	count := func() int64 {
		return pgtest.Value[int64](t, db, `select (select count(*) from pg_proc) + (select count(*) from pg_trigger)
			+ (select count(*) from pgcast.attachment) + (select count(*) from pg_description) + (select count(*) from pg_depend)`)
	}
	db.Exec(t, messages+`create table other (id int)`)
	before := count()
	db.Exec(t, `select pgcast.attach('messages'); select pgcast.attach('other', topic => 'x')`)
	if !pgtest.Value[bool](t, db, `select pgcast.detach('messages') and pgcast.detach('other')`) {
		t.Error("detach of an attached table gave false")
	}
	if after := count(); after != before {
		t.Errorf("catalog rows: %d before attach, %d after detach", before, after)
	}
	db.Exec(t, `insert into messages values (1, 1, 'a')`)
	if pgtest.Value[bool](t, db, `select pgcast.detach('messages') or exists (select from pgcast.event_log)`) {
		t.Error("a detached table is still captured")
	}
}

// What --print shows is what attach runs.
func TestAttachSQL(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	state := func() string {
		return pgtest.Value[string](t, db, `select string_agg(x, e'\n' order by x) from (
			select pg_get_functiondef(oid) || coalesce(proacl::text, '') || coalesce(obj_description(oid, 'pg_proc'), '') from pg_proc where proname like 'capture%' and prorettype = 'trigger'::regtype
			union all select pg_get_triggerdef(oid) || tgenabled::text || coalesce(obj_description(oid, 'pg_trigger'), '') from pg_trigger
			union all select (to_jsonb(a) - 'attached_at')::text from pgcast.attachment a) x (x)`)
	}
	db.Exec(t, messages+`select pgcast.attach('messages', 'room:{room_id}', without => '{body}', old => true, numbers => 'text')`)
	want := state()
	db.Exec(t, `create table script as select s, i from pgcast.attach_sql('messages', 'room:{room_id}', without => '{body}', old => true, numbers => 'text') with ordinality x (s, i)`)
	db.Exec(t, pgtest.Value[string](t, db, `select string_agg(s, '; ') from pgcast.detach_sql('messages') s`))
	db.Exec(t, pgtest.Value[string](t, db, `select string_agg(s, e';\n' order by i) from script`))
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(state(), "\n")); diff != "" {
		t.Errorf("attach() and its printed script differ (-attach +script):\n%s", diff)
	}
}

// What detach --print shows is for other databases too, where a table's oid is another.
func TestDetachSQL(t *testing.T) {
	t.Parallel()
	here, there := pgtest.New(t, nil), pgtest.New(t, nil)
	there.Exec(t, `create table first (id int)`)
	for _, db := range []*pgtest.DB{here, there} {
		db.Exec(t, messages+`select pgcast.attach('messages')`)
	}
	there.Exec(t, pgtest.Value[string](t, here, `select string_agg(s, '; ') from pgcast.detach_sql('messages') s`))
	if n := pgtest.Value[int](t, there, `select (select count(*) from pgcast.attachment) + (select count(*) from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace <> 'pgcast'::regnamespace)`); n != 0 {
		t.Errorf("%d traces left by a script from another database", n)
	}
}
