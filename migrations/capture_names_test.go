package migrations_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// Names that break SQL put together carelessly.
var awkwardNames = []string{
	`plain`, `a"b`, `x;drop table plain`, `%s`, `%I`, "line\nbreak", `$$`, `$capture$`, `it's`, `back\slash`, `Ünïcödé 名`, `{brace}`, `a:b`, ` `,
	`select`, `old`, `new`, `n`, `o`, `t`, `d`, `tg_op`, `shape`, `written`, `row`, `__own`, `*`, strings.Repeat("é", 31) + "x",
}

func TestCaptureNames(t *testing.T) {
	t.Parallel()
	for i, name := range awkwardNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := pgtest.New(t, nil).Conn(t)
			exec := func(sql string) {
				t.Helper()
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			column := awkwardNames[(i+1)%len(awkwardNames)]
			schema := pgx.Identifier{"s " + name}.Sanitize()
			if len(name) > 60 {
				schema = "long"
			}
			id, col := pgx.Identifier{name}.Sanitize(), pgx.Identifier{column}.Sanitize()
			table := schema + "." + id
			exec(`create schema ` + schema + `; create table ` + table + ` (` + id + ` int primary key, ` + col + ` text, secret text)`)
			// The same name is the table's and its key's.
			template := "x:{" + strings.ReplaceAll(column, "}", "}}") + "}"
			if _, err := conn.Exec(t.Context(), `select pgcast.attach($1, topic => $2, without => '{secret}', old => true)`, table, template); err != nil {
				t.Fatalf("attach(%q): %v", table, err)
			}
			exec(`insert into ` + table + ` values (1, 'r', 's')`)
			exec(`update ` + table + ` set ` + col + ` = 'q'`)
			exec(`delete from ` + table)
			exec(`truncate ` + table)
			var got []string
			rows, err := conn.Query(t.Context(), `select topic || ' ' || event || ' ' || coalesce(data->>$1, '-') || coalesce(data->>$2, '-') || coalesce(old->>$1, '-') || coalesce(old->>$2, '-')
				|| coalesce(data->>'secret', '') || coalesce(data->>'table', '') from pgcast.event_log order by id`, name, column)
			if err == nil {
				got, err = pgx.CollectRows(rows, pgx.RowTo[string])
			}
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"x:r created 1r--", "x:r deleted --1r", "x:q created 1q--", "x:q deleted --1q", "x:q truncated ----" + name, "x:r truncated ----" + name}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			// While the function is out of date, after refresh, and without a trace.
			exec(`alter table ` + table + ` add later int`)
			exec(`insert into ` + table + ` values (2, 'r', 's', 5)`)
			exec(`do $x$ begin perform pgcast.refresh(); assert not exists (select from pgcast.drift()); end $x$`)
			exec(`insert into ` + table + ` values (3, 'r', 's', 5)`)
			exec(`do $x$ begin
				assert (select count(*) = 2 and bool_and(topic = 'x:r' and data->>'later' = '5') from pgcast.event_log where data::jsonb ? 'later');
				perform pgcast.detach(relation) from pgcast.attachment;
				assert not exists (select from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace <> 'pgcast'::regnamespace) and not exists (select from pg_proc where proname like 'capture\_%\_________');
			end $x$`)
		})
	}
}

// Renamed, moved to another schema, and another table takes the old name.
func TestCaptureRenamedTable(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{sql: messages + `select pgcast.attach('messages', topic => 'a'); alter table messages rename to archive; create schema s; alter table archive set schema s; alter schema s rename to "S 2"`},
		{sql: messages + `select pgcast.attach('messages', topic => 'b')`},
		{`insert into "S 2".archive values (1); insert into messages values (2)`, []string{
			`a created {"id":1,"room_id":null,"body":null}`, `b created {"id":2,"room_id":null,"body":null}`,
		}},
		{`truncate "S 2".archive, messages`, []string{`a truncated {"schema":"S 2","table":"archive"}`, `b truncated {"schema":"public","table":"messages"}`}},
		{sql: `do $$ begin assert pgcast.refresh() = 0; assert pgcast.detach('"S 2".archive'); end $$; insert into "S 2".archive values (3)`},
		{`delete from messages; insert into messages values (4)`, []string{`b created {"id":4,"room_id":null,"body":null}`}},
		// Attached under names that once were another's.
		{sql: `select pgcast.detach('messages'); select pgcast.attach('messages', topic => 'c'); alter table messages rename to m2;` +
			messages + `select pgcast.attach('messages', topic => 'd'); alter table messages rename to m3;` +
			messages + `select pgcast.attach('messages', topic => 'e')`},
		{`insert into m2 values (5); insert into m3 values (6); insert into messages values (7)`, []string{
			`c created {"id":5,"room_id":null,"body":null}`, `d created {"id":6,"room_id":null,"body":null}`, `e created {"id":7,"room_id":null,"body":null}`,
		}},
	})
}

// The function of a table that took another's name is called like that one's, and more.
// One statement writes both, and both have row triggers.
func TestCaptureAlikeFunctions(t *testing.T) {
	t.Parallel()
	const withTrigger = messages + `create trigger x after insert on messages for each row execute function x();`
	run(t, nil, []step{
		{sql: `create function x() returns trigger language plpgsql as 'begin return null; end';` +
			withTrigger + `select pgcast.attach('messages', topic => 'old'); alter table messages rename to archive;` +
			withTrigger + `select pgcast.attach('messages', topic => 'new');
			do $$ begin assert (select count(*) = 1 from pgcast.attachment a, pgcast.attachment b where a.capture <> b.capture and starts_with(a.capture, b.capture)); end $$`},
		{`with a as (insert into archive values (1), (2) returning id) insert into messages select id + 10 from a`, []string{
			`old created {"id":1,"room_id":null,"body":null}`, `old created {"id":2,"room_id":null,"body":null}`,
			`new created {"id":11,"room_id":null,"body":null}`, `new created {"id":12,"room_id":null,"body":null}`,
		}},
		{`with m as (insert into messages values (3), (4) returning id) insert into archive select id + 10 from m`, []string{
			`new created {"id":3,"room_id":null,"body":null}`, `new created {"id":4,"room_id":null,"body":null}`,
			`old created {"id":13,"room_id":null,"body":null}`, `old created {"id":14,"room_id":null,"body":null}`,
		}},
	})
}

// Topics are bytes, whatever collation the columns have that make them: two columns of
// different ones, or one for which A and a are the same.
func TestCaptureCollations(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	if !pgtest.Value[bool](t, db, `select exists (select from pg_collation where collname = 'und-x-icu')`) {
		t.Skip("this Postgres has no ICU")
	}
	conn := db.Conn(t)
	for _, s := range []step{
		{sql: `create collation nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
			create table t (id text collate nocase primary key, a text collate nocase, b text collate "und-x-icu");
			create table first (id int primary key, a text collate nocase);
			create table parts (id text collate nocase, k int, primary key (id, k)) partition by list (k);
			create table parts_1 partition of parts for values in (1); create table parts_2 partition of parts for values in (2);
			select pgcast.attach('t', topic => 't:{a}:{b}'), pgcast.attach('first', topic => '{a}'), pgcast.attach('parts', topic => 'p:{id}')`},
		{`insert into t values ('x', 'ok', 'b'), ('y', 'ä', 'b')`, []string{
			`t:ok:b created {"id":"x","a":"ok","b":"b"}`, `t:%C3%A4:b created {"id":"y","a":"ä","b":"b"}`,
		}},
		{`update t set a = 'OK', b = 'B' where id = 'X'; update t set b = 'c' where id = 'Y'`, []string{
			`t:ok:b deleted old {"id":"x"}`, `t:OK:B created {"id":"x","a":"OK","b":"B"}`,
			`t:%C3%A4:b deleted old {"id":"y"}`, `t:%C3%A4:c created {"id":"y","a":"ä","b":"c"}`,
		}},
		{`update t set b = b`, []string{
			`t:OK:B updated {"id":"x","a":"OK","b":"B"} old {"id":"x"}`, `t:%C3%A4:c updated {"id":"y","a":"ä","b":"c"} old {"id":"y"}`,
		}},
		{`insert into first values (1, 'a'), (2, '_a'), (3, '__a'), (4, 'ä')`, []string{
			`a created {"id":1,"a":"a"}`, `_a created {"id":2,"a":"_a"}`, `%5F_a created {"id":3,"a":"__a"}`, `%C3%A4 created {"id":4,"a":"ä"}`,
		}},
		{`insert into parts values ('é', 1); update parts set id = 'É', k = 2`, []string{
			`p:%C3%A9 created {"id":"é","k":1}`, `p:%C3%A9 deleted old {"id":"é","k":1}`, `p:%C3%89 created {"id":"É","k":2}`,
		}},
		{`select pgcast.publish('first:' || a, a, null, a) from first where id < 3; select pgcast.publish(b, b, null, b) from t where id = 'x'`, []string{`first:a a`, `first:_a _a`, `B B`}},
		{sql: `select pgcast.publish('first:' || a, a, null, a), pgcast.retain(a, '1 day') from first where id < 3; select pgcast.publish(b, b, null, b) from t where id = 'x'`},
	} {
		if _, err := conn.Exec(t.Context(), s.sql); err != nil {
			t.Fatalf("%s: %v", s.sql, err)
		}
		if diff := cmp.Diff(s.want, take(t, conn)); diff != "" {
			t.Errorf("events of %s (-want +got):\n%s", s.sql, diff)
		}
	}
}
