package migrations_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// held gives what the statements for a topic's snapshot select, by table.
func held(t *testing.T, conn *pgx.Conn, topic string) (list []string) {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `set local search_path = pg_catalog, pg_temp; select pgcast.print_as('{UTC,ISO,postgres,1,hex,C}')`)
	if err != nil {
		t.Fatal(err)
	}
	rows, _ := tx.Query(t.Context(), "select coalesce(rel, ''), statement from pgcast.snapshot_sql($1)", topic)
	parts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Table, SQL string }])
	if err != nil {
		t.Fatalf("%s: %v", topic, err)
	}
	for _, p := range parts {
		sql := "select coalesce(x.data, 'null') || ' ' || coalesce(x.key, 'null') from (" + p.SQL + ") x order by 1"
		if p.Table == "" {
			sql = "select format('%s %s %s', x.seq, x.event, x.data) from (" + p.SQL + ") x order by x.seq"
		}
		rows, _ := tx.Query(t.Context(), sql)
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %s: %v", topic, p.SQL, err)
		}
		for _, text := range texts {
			list = append(list, strings.TrimSpace(p.Table+" "+text))
		}
	}
	return list
}

// TestSnapshotFindsWhatCaptureWrote writes odd rows and looks for each under the topic, and
// as the data, that capture gave it, and there for no other.
func TestSnapshotFindsWhatCaptureWrote(t *testing.T) {
	t.Parallel()
	for name, table := range map[string]string{
		"int":           `create table public.x (id int primary key, a int, b text); select pgcast.attach('public.x', topic => 'x:{a}')`,
		"text":          `create table public.x (id int primary key, a int, b text); select pgcast.attach('public.x', topic => '{b}')`,
		"begins with _": `create table public.x (id int primary key, a int, b text); select pgcast.attach('public.x', topic => '_{b}')`,
		"two":           `create table public.x (id int primary key, a int, b text); select pgcast.attach('public.x', topic => 'x:{a}:{b}')`,
		"not unique":    `create table public.x (id int primary key, a int, b text); select pgcast.attach('public.x', topic => 'x:{a}-{b}.')`,
		"no separator":  `create table public.x (id int primary key, a int, b text); select pgcast.attach('public.x', topic => '{b}{b}')`,
		"fixed":         `create table public.x (id int primary key, a int, b text); select pgcast.attach('public.x', topic => 'all')`,
		"columns":       `create table public.x (id int primary key, a int, b text, c text default 'secret'); select pgcast.attach('public.x', topic => 'x:{b}', without => '{c}')`,
		"numbers":       `create table public.x (id bigint primary key, a numeric, b text); select pgcast.attach('public.x', topic => 'x:{a}', numbers => 'text')`,
		"no key":        `create table public.x (id int, a int, b text); select pgcast.attach('public.x', topic => 'x:{b}')`,
		"domain":        `create domain public.d as int check (value < 1000); create table public.x (id int primary key, a public.d, b varchar(2000)); select pgcast.attach('public.x', topic => 'x:{a}:{b}')`,
		"char":          `create table public.x (id int primary key, a float8, b char(300)); select pgcast.attach('public.x', topic => 'x:{a}:{b}')`,
		"time":          `create table public.x (id int primary key, a int, b text, c timestamptz default '2024-02-29 12:00:00.25+02', d date default '0044-03-15 BC', e jsonb default '{"a":1}', f interval default '1 mon -2 days', g bytea default '\x00ff', h money default 12.5); select pgcast.attach('public.x', topic => 'x:{c}:{d}:{e}:{f}:{g}:{h}')`,
		"partitions": `create table public.x (id int, a int, b text, primary key (id, a)) partition by list (a); create table public.x1 partition of public.x for values in (1);
			create table public.x2 partition of public.x default; select pgcast.attach('public.x', topic => 'x:{b}')`,
		"children": `create table public.x (id int primary key, a int, b text); create table public.y (more text, unique (id)) inherits (public.x);
			create function public.move() returns trigger language plpgsql as $$ begin if new.id % 2 = 0 then insert into public.y values (new.*); return null; end if; return new; end $$;
			create trigger move before insert on public.x for each row execute function public.move(); select pgcast.attach('public.x', topic => 'x:{b}')`,
		"renamed": `create table public.x (id int primary key, a int, "old" text); select pgcast.attach('public.x', topic => 'x:{old}'); alter table public.x rename "old" to b`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, nil)
			conn := db.Conn(t)
			db.Exec(t, table)
			db.Exec(t, `set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set bytea_output = 'escape'`)
			values := []string{"", "a", "A b", "é%5F", "_", "__x", "a:b", "x-1", "~null", "%", "a\nb", "0", "1", strings.Repeat("long", 200), strings.Repeat("ö", 5000)}
			for i, b := range values {
				a := any(i - 3)
				if i%7 == 6 && name != "partitions" {
					a = nil
				}
				if name == "char" && len(b) > 300 {
					b = b[:100]
				}
				if len([]rune(b)) > 2000 && name == "domain" {
					b = b[:1000]
				}
				if _, err := conn.Exec(t.Context(), "insert into public.x (id, a, b) values ($1, $2, $3)", i, a, b); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := conn.Exec(t.Context(), "insert into public.x (id, a) values (100, 5)"); err != nil {
				t.Fatal(err)
			}
			rows, _ := conn.Query(t.Context(), "select topic, data::text from pgcast.event_log where event = 'created'")
			want, total := map[string][]string{}, 0
			var topic, data string
			if _, err := pgx.ForEachRow(rows, []any{&topic, &data}, func() error {
				want[topic] = append(want[topic], data)
				total++
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if total < len(values) {
				t.Fatalf("%d events of %d rows", total, len(values))
			}
			for topic, datas := range want {
				got := map[string]int{}
				list := held(t, conn, topic)
				for _, text := range list {
					got[strings.TrimPrefix(text[:strings.LastIndex(text, "}")], "public.x ")]++
				}
				for _, d := range datas {
					key := "null"
					if name != "no key" {
						var row map[string]json.RawMessage
						if err := json.Unmarshal([]byte(d), &row); err != nil {
							t.Fatal(err)
						}
						key = fmt.Sprintf(`{"id":%s}`, row["id"])
						if name == "partitions" {
							key = fmt.Sprintf(`{"id":%s,"a":%s}`, row["id"], row["a"])
						}
					}
					line := "public.x " + d + " " + key
					if name == "no key" {
						if got[d[:len(d)-1]] == 0 {
							t.Errorf("%.100q has no row %.100s: %.300q", topic, d, list)
						}
						continue
					}
					found := false
					for _, l := range list {
						found = found || l == line
					}
					if !found {
						t.Errorf("%.100q has no row %.200s: %.300q", topic, line, list)
					}
				}
				if len(list) != len(datas) {
					t.Errorf("%.100q has %d rows, want %d", topic, len(list), len(datas))
				}
			}
			// Names that no row has.
			for _, topic := range []string{"x:17000000000000", "x:zz", "x:%ff", "x:%FF", "x:%00", "x:", "x:1:zz", "nothing"} {
				if list := held(t, conn, topic); want[topic] == nil && len(list) > 0 {
					t.Errorf("%q has %q", topic, list)
				}
			}
		})
	}
}

// TestSnapshotPlan: with an index on the column in the template, a topic's rows are found
// by it, whatever type it has.
func TestSnapshotPlan(t *testing.T) {
	t.Parallel()
	for kind, value := range map[string]string{"int": "i", "bigint": "i", "text": "'v' || i", "varchar(50)": "'v' || i", "uuid": "md5(i::text)::uuid", "numeric": "i"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, nil)
			conn := db.Conn(t)
			db.Exec(t, fmt.Sprintf(`create table public.messages (id int primary key, room_id %s, body text);
				insert into public.messages select i, %s, 'x' from generate_series(1, 20000) i; create index on public.messages (room_id); analyze public.messages;
				select pgcast.attach('public.messages', topic => 'room:{room_id}')`, kind, value))
			topic := pgtest.Value[string](t, db, "select 'room:' || room_id::text from public.messages where id = 7")
			var sql string
			if err := conn.QueryRow(t.Context(), "select statement from pgcast.snapshot_sql($1)", topic).Scan(&sql); err != nil {
				t.Fatal(err)
			}
			rows, _ := conn.Query(t.Context(), "explain "+sql)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			plan := strings.Join(lines, "\n")
			if err != nil || !strings.Contains(plan, "messages_room_id_idx") || strings.Contains(plan, "Seq Scan") {
				t.Errorf("%v: %s\n%s", err, sql, plan)
			}
			if list := held(t, conn, topic); len(list) != 1 {
				t.Errorf("%q", list)
			}
		})
	}
}

// What no row can have is known without reading the table.
func TestSnapshotOfNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `create table public.m (id int primary key, room_id int); select pgcast.attach('public.m', topic => 'room:{room_id}')`)
	conn := db.Conn(t)
	for topic, want := range map[string]string{"room:x": "where false and", "room:" + strings.Repeat("1", 186) + "~" + strings.Repeat("0", 64): "compacted", "rooms:1": "compacted", "room:~null": "is null"} {
		var sql string
		if err := conn.QueryRow(t.Context(), "select statement from pgcast.snapshot_sql($1)", topic).Scan(&sql); err != nil || !strings.Contains(sql, want) {
			t.Errorf("%s: %v: %s", topic, err, sql)
		}
	}
}

func TestSnapshotRefuses(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	role := pgx.Identifier{db.Name}.Sanitize()
	db.Exec(t, `create table public.m (id int primary key, room_id int); select pgcast.attach('public.m', topic => 'room:{room_id}');
		create role `+role+`; grant usage on schema pgcast to `+role+`; grant select on all tables in schema pgcast to `+role+`; grant execute on all functions in schema pgcast to `+role)
	conn := db.Conn(t)
	_, err := conn.Exec(t.Context(), "set role "+role+"; select pgcast.snapshot_sql('room:1')", pgx.QueryExecModeSimpleProtocol)
	if err == nil || !strings.Contains(err.Error(), "may not read public.m") {
		t.Errorf("without the right: %v", err)
	}
	if _, err := conn.Exec(t.Context(), "select pgcast.snapshot_sql('elsewhere')"); err != nil {
		t.Errorf("another topic: %v", err)
	}
	db.Exec(t, "grant select on public.m to "+role)
	if _, err := conn.Exec(t.Context(), "select pgcast.snapshot_sql('room:1')"); err != nil {
		t.Errorf("with the right: %v", err)
	}
	// A type that the role may not name is no reason to find nothing.
	db.Exec(t, `create schema apart; create type apart.kind as enum ('a', 'b'); create table public.e (id int primary key, kind apart.kind);
		select pgcast.attach('public.e', topic => 'kind:{kind}'); insert into public.e values (1, 'a'), (2, 'b'); grant select on public.e to `+role)
	if list := held(t, conn, "kind:a"); len(list) != 1 || !strings.Contains(list[0], `"kind":"a"`) {
		t.Errorf("by a type of another schema: %q", list)
	}
	db.Exec(t, `drop owned by `+role+`; drop role `+role)
}

// TestCompacted looks at topics of no table: the newest event of each key.
func TestCompacted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	db.Exec(t, `select pgcast.project('chat:*', '{message.id}'), pgcast.project('chat:**', '{nothing}'), pgcast.project('log:*', '{}'), pgcast.project('pair', '{a,b}')`)
	seqs := map[string]int{}
	write := func(topic, event, data string) {
		seqs[topic]++
		db.Exec(t, fmt.Sprintf(`with e as (select pgcast.publish('%s', '%s', '%s') id), n as (insert into pgcast.topic (name) values ('%s') on conflict do nothing),
			p as (select 1) select count(*) from e`, topic, event, data, topic))
		db.Exec(t, fmt.Sprintf(`insert into pgcast.replay (topic_id, seq, position, event_id)
			select (select id from pgcast.topic where name = '%s'), %d, (select count(*) from pgcast.event_log), (select max(id) from pgcast.event_log)`, topic, seqs[topic]))
	}
	for _, topic := range []string{"state", "chat:1", "log:1"} {
		for _, e := range []struct{ event, data string }{
			{"set", `{"id":1,"v":1,"message":{"id":9}}`}, {"set", `{"id":2,"v":1,"message":{"id":8}}`}, {"set", `{"id":"1","v":1}`}, {"note", `[1]`}, {"note", `"x"`},
			{"set", `{"id":1,"v":2,"message":{"id":8}}`}, {"deleted", `{"id":2,"message":{"id":9}}`}, {"deleted", `{"id":7}`}, {"note", `null`},
		} {
			write(topic, e.event, e.data)
		}
	}
	for topic, want := range map[string][]string{
		"state":  {`3 set {"v": 1, "id": "1"}`, `4 note [1]`, `5 note "x"`, `6 set {"v": 2, "id": 1, "message": {"id": 8}}`, `9 note null`},
		"chat:1": {`3 set {"v": 1, "id": "1"}`, `4 note [1]`, `5 note "x"`, `6 set {"v": 2, "id": 1, "message": {"id": 8}}`, `9 note null`},
		"log:1": {`1 set {"v": 1, "id": 1, "message": {"id": 9}}`, `2 set {"v": 1, "id": 2, "message": {"id": 8}}`, `3 set {"v": 1, "id": "1"}`, `4 note [1]`, `5 note "x"`,
			`6 set {"v": 2, "id": 1, "message": {"id": 8}}`, `9 note null`},
		"empty": nil,
	} {
		if got := held(t, conn, topic); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %q, want %q", topic, got, want)
		}
	}
	write("state", "truncated", "null")
	write("state", "set", `{"id":5}`)
	write("pair", "set", `{"a":1,"b":2}`)
	write("pair", "set", `{"a":1,"b":3}`)
	write("pair", "set", `{"a":1,"b":2,"new":true}`)
	for topic, want := range map[string]string{"state": `[11 set {"id": 5}]`, "pair": `[2 set {"a": 1, "b": 3} 3 set {"a": 1, "b": 2, "new": true}]`} {
		if got := fmt.Sprint(held(t, conn, topic)); got != want {
			t.Errorf("%s: %s, want %s", topic, got, want)
		}
	}
	db.Exec(t, "select pgcast.project('pair', null)")
	if got := held(t, conn, "pair"); len(got) != 3 {
		t.Errorf("without a key: %q", got)
	}
	for _, bad := range []string{`'a:**:b', '{id}'`, `'__x', '{id}'`, `null, '{id}'`, `'a', '{""}'`, `'a', '{a..b}'`, `'a', '{.a}'`, `'a', array[null]`, `'a', '{{a,b},{c,d}}'`} {
		_, err := conn.Exec(t.Context(), "select pgcast.project("+bad+")")
		if err == nil || !regexp.MustCompile("is not a (topic or pattern|key)").MatchString(err.Error()) {
			t.Errorf("project(%s): %v", bad, err)
		}
	}
}
