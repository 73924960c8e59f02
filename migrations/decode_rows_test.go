package migrations_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// both makes the same tables in two schemas, attaches those of one by trigger and those of
// the other from the WAL, writes the same to both, and compares what the topics are told.
func both(t *testing.T, w *walReader, prefix, ddl, dml string) []string {
	t.Helper()
	for _, v := range [][2]string{{"a", "trigger"}, {"b", "wal"}} {
		conn := w.db.Conn(t)
		for _, sql := range []string{"create schema if not exists " + v[0], "set search_path = " + v[0] + ", public", strings.ReplaceAll(ddl, "$capture", "capture => '"+v[1]+"'"), dml} {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%v: %.2000s", err, sql)
			}
		}
	}
	w.read(t)
	want, got := w.events(t, prefix, false), w.events(t, prefix, true)
	for i := range want { // of TRUNCATE
		want[i] = strings.Replace(want[i], `"schema":"a"`, `"schema":"b"`, 1)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%.300s (-trigger +wal):\n%s", ddl, diff)
	}
	if len(want) == 0 {
		t.Errorf("%.300s: no events", ddl)
	}
	return got
}

func TestDecodedRows(t *testing.T) {
	t.Parallel()
	const users = `create table t (id int primary key, name text, hash text, room int);`
	const write = `insert into t values (1, 'ann', 'canary', 7), (2, 'bob', 'canary', null);
		update t set hash = 'canary2'; update t set room = 8 where id = 1; update t set id = id + 10; delete from t`
	tests := []struct{ name, ddl, dml string }{
		{"all", users + `select pgcast.attach('t', topic => 'x', $capture)`, write},
		{"full", users + `alter table t replica identity full; select pgcast.attach('t', topic => 'x:{room}', $capture)`, write},
		{"old", users + `alter table t replica identity full; select pgcast.attach('t', topic => 'x:{room}:{name}', old => true, $capture)`, write},
		{"columns", users + `alter table t replica identity full; select pgcast.attach('t', topic => 'x:{room}', columns => '{name,id}', old => true, $capture)`, write},
		{"without", users + `alter table t replica identity full; select pgcast.attach('t', topic => 'x:{room}', without => '{hash}', old => true, $capture)`, write},
		{"numbers", users + `alter table t alter id type int8, alter room type numeric; select pgcast.attach('t', topic => 'x:{id}', numbers => 'text', $capture)`, write},
		{"only the key", users + `select pgcast.attach('t', topic => 'x', columns => '{id}', $capture)`, write},
		{"no key", `create table t (id int, name text, hash text, room int); alter table t replica identity full; select pgcast.attach('t', topic => 'x', without => '{hash}', $capture)`, write},
		{"identity index", `create table t (id int not null, name text, hash text, room int); create unique index on t (id); alter table t replica identity using index t_id_idx; select pgcast.attach('t', topic => 'x:{id}', $capture)`, write},
		{"key in its own order", `create table t (id int, name text, hash text, room int, primary key (room, id)); select pgcast.attach('t', topic => 'x:{id}', $capture)`,
			`insert into t values (1, 'ann', 'canary', 7), (2, 'bob', 'canary', 8); update t set hash = null; update t set room = 9; delete from t`},
		{"odd names", `create table "T ""x'\" ("Id ""\'" int primary key, "a.b" int, "#7" text, "é{}" text, f int, n int, e text, v text, "select" int);
			alter table "T ""x'\" replica identity full; select pgcast.attach('"T ""x''\"', topic => 'x:{a.b}:{é{}}}', old => true, $capture)`,
			`insert into "T ""x'\" values (1, 2, 'a', 'b/c', 3, 4, 'd', 'e', 5); update "T ""x'\" set "#7" = 'x', "é{}" = ''; delete from "T ""x'\"`},
		{"generated", `create table t (id int primary key, g int generated always as (id * 2) stored, x text, h text generated always as (upper(coalesce(x, '')) || (tableoid is not null)::text) stored);
			alter table t replica identity full; select pgcast.attach('t', topic => 'x:{g}', old => true, $capture)`,
			`insert into t values (1, default, 'a'), (2, default, null); update t set x = 'b'; update t set id = id + 5; delete from t`},
		{"generated, only data", `create table t (g int generated always as (id * 2) stored, id int primary key, s int generated always as (id * 3) stored); select pgcast.attach('t', topic => 'x', without => '{s}', $capture)`,
			`insert into t (id) values (1), (2); update t set id = id + 5; delete from t`},
		{"dropped columns", `create table t (a int, id int primary key, b int, c text); alter table t drop a, drop b, add d int default 5; select pgcast.attach('t', topic => 'x', $capture)`,
			`insert into t values (1, 'c'); update t set d = 6; delete from t`},
		{"truncate", users + `alter table t replica identity full; select pgcast.attach('t', topic => 'x:{room}', $capture)`, `insert into t values (1, 'a', 'b', 1), (2, 'a', 'b', 2); truncate t; insert into t values (1, 'a', 'b', 2)`},
		{"partitions", `create table t (id int, room int, body text, primary key (id, room)) partition by list (room);
			create table t_1 partition of t for values in (1);
			create table t_2 (body text, extra int, room int not null, id int not null); alter table t_2 drop extra; alter table t attach partition t_2 for values in (2);
			create table t_3 partition of t for values in (3) partition by range (id); create table t_3_1 partition of t_3 for values from (0) to (100);
			select pgcast.attach('t', topic => 'x:{room}', $capture)`,
			`insert into t values (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c'); insert into t_2 values ('d', 2, 4); update t set body = upper(body); update t_2 set id = 5 where id = 4; delete from t where id < 3; truncate t`},
		{"long and strange values", `create table t (id int primary key, a text, b text, c text); alter table t replica identity full; select pgcast.attach('t', topic => 'x:{a}:{b}:{c}', $capture)`,
			`insert into t values (1, repeat('a', 300), 'b', 'c'), (2, repeat('é', 5000), '/', ''), (3, '~null', null, '__'); update t set b = 'x'; delete from t`},
		{"a savepoint rolled back", users + `select pgcast.attach('t', topic => 'x', $capture)`,
			`begin; insert into t values (1); savepoint s; insert into t values (2); rollback to s; insert into t values (3); commit`},
	}
	w := newWAL(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			both(t, w, "x", tt.ddl, tt.dml)
			w.clear(t)
		})
	}
}

// As many columns as a table can have, each with its old value.
func TestDecodedWideRows(t *testing.T) {
	t.Parallel()
	var columns, set []string
	for i := range 1598 {
		columns = append(columns, fmt.Sprintf("c%d int2", i))
		if i%100 == 0 {
			set = append(set, fmt.Sprintf("c%d = %d", i, i))
		}
	}
	both(t, newWAL(t), "x", `create table t (id int primary key, room int, `+strings.Join(columns, ", ")+`); alter table t replica identity full;
		select pgcast.attach('t', topic => 'x:{room}', old => true, $capture)`,
		`insert into t (id, room, c1597) values (1, 1, 7), (2, 1, 8); update t set `+strings.Join(set, ", ")+`; update t set room = 2; delete from t`)
}

// A row that is not in the stream in full.
func TestDecodedMissing(t *testing.T) {
	t.Parallel()
	w := newWAL(t)
	w.db.Exec(t, `create table t (id int primary key, body text, "n,""" int, big text, ip inet, ch char(5)); alter table t alter big set storage external;
		select pgcast.attach('t', capture => 'wal'); insert into t values (1, 'a', 1, repeat('x', 10000), '10.0.0.1', 'c'); update t set body = 'b'`)
	w.read(t)
	got := w.events(t, "t", true)
	if want := ` updated {"id":1,"body":"b","n,\"":1,"ip":"10.0.0.1","ch":"c    "} old {"id":1}`; len(got) != 2 || got[1] != want {
		t.Errorf("an unchanged TOAST value that nobody knows: %.300q, want %q", got, want)
	}
	rel := w.relation(t, "t")
	sql := pgtest.Value[string](t, w.db, `select pgcast.toast_sql('t'::regclass, $1, '{big,ip,ch,body}')`, columns(rel))
	var i int64
	var big, ip, ch, body *string
	if err := w.conn.QueryRow(t.Context(), sql, "{7,1}").Scan(&i, &big, &ip, &ch, &body); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if i != 2 || len(*big) != 10000 || *ip != "10.0.0.1" || *ch != "c    " || *body != "b" {
		t.Errorf("read by key: row %d, %d bytes, %q, %q, %q", i, len(*big), *ip, *ch, *body)
	}
	for _, change := range []string{`alter table t rename big to other`, `alter table t rename ch to big`, `alter table t alter ip type text`, `drop table t`} {
		w.db.Exec(t, change)
		if !pgtest.Value[bool](t, w.db, `select pgcast.toast_sql($2::oid, $1, '{big,ip}') is null`, columns(rel), rel.RelationID) {
			t.Errorf("after %s a column is read that may be another", change)
		}
	}
}

// publish() in a transaction stands among its changes, and its id stays what it returned.
func TestDecodedPublish(t *testing.T) {
	t.Parallel()
	w := newWAL(t)
	w.db.Exec(t, messages+`select pgcast.publish('messages', 'before'); select pgcast.attach('messages', capture => 'wal')`)
	w.db.Exec(t, `create table id (id text)`)
	w.db.Exec(t, `insert into messages values (1, 1, 'a'); insert into id select pgcast.publish('messages', 'first', '{"a": 1}', key => 'k')`)
	id := pgtest.Value[string](t, w.db, `select id from id`)
	again := pgtest.Value[string](t, w.db, `select pgcast.publish('messages', 'second', key => 'k')`)
	w.db.Exec(t, `update messages set body = 'b'; select pgcast.detach('messages'); select pgcast.publish('messages', 'third')`)
	if n := pgtest.Value[int](t, w.db, `select count(*) from pgcast.event_log where event = 'third'`); n != 0 {
		t.Error("an event was written before those that wait in the WAL")
	}
	w.db.Exec(t, `select pgcast.attach('messages', capture => 'wal')`)
	w.read(t)
	got := pgtest.Value[string](t, w.db, `select string_agg(event, ',' order by id) from pgcast.event_log where topic = 'messages'`)
	if want := "before,created,first,updated,third"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	wire := pgtest.Value[string](t, w.db, `select pgcast.event_id(coalesce((origin).id, id), created_at) from pgcast.event_log where event = 'first'`)
	if wire != id || again != id || pgtest.Value[int](t, w.db, `select count(*) from pgcast.published`) != 0 {
		t.Errorf("ids: publish gave %s, with the same key %s, in the log it is %s", id, again, wire)
	}
	w.db.Exec(t, `select pgcast.detach('messages'); select pgcast.publish('messages', 'direct')`)
	if !pgtest.Value[bool](t, w.db, `select exists (select from pgcast.event_log where event = 'direct') and not exists (select from pgcast.published)`) {
		t.Error("with nothing captured from the WAL an event still waits there")
	}
}

// Large transactions are written to the stage, in their order.
func TestDecodedStage(t *testing.T) {
	t.Parallel()
	w := newWAL(t)
	w.staged = true
	w.db.Exec(t, messages+`alter table messages replica identity full; select pgcast.attach('messages', 'r:{room_id}', capture => 'wal');
		insert into messages values (1, 1, 'a'), (2, 2, 'b'); update messages set room_id = 3 where id = 2; select pgcast.publish('r:1', 'hello'); delete from messages where id = 1`)
	w.read(t)
	got := pgtest.Value[string](t, w.db, `select string_agg(concat_ws(' ', topic, event, data, old, (id is not null)::int, (created_at is not null)::int), e'\n' order by xid::text::bigint, n) from pgcast.stage where session = 7`)
	want := strings.Join([]string{`r:1 created {"id":1,"room_id":1,"body":"a"} 0 0`, `r:2 created {"id":2,"room_id":2,"body":"b"} 0 0`, `r:2 deleted {"id":2,"room_id":2,"body":"b"} 0 0`,
		`r:3 created {"id":2,"room_id":3,"body":"b"} 0 0`, `r:1 hello 1 1`, `r:1 deleted {"id":1} 0 0`}, "\n")
	want = strings.Replace(want, `r:2 deleted {"id":2,"room_id":2,"body":"b"}`, `r:2 deleted {"id":2}`, 1)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("staged (-want +got):\n%s", diff)
	}
	// A TRUNCATE in such a transaction is told to the topics that only the transaction knows.
	n := pgtest.Value[int](t, w.db, `select pgcast.truncated('messages'::regclass, now(), (select xid from pgcast.stage where topic = 'r:3'), 5, 7, 100)`)
	told := pgtest.Value[string](t, w.db, `select string_agg(topic || n, ' ' order by n) from pgcast.stage where event = 'truncated'`)
	if n != 2 && n != 3 || !strings.Contains(told, "r:3") {
		t.Errorf("%d topics were told of a truncate: %s", n, told)
	}
}
