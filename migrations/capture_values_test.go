package migrations_test

import (
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// A row of every kind of type, and its JSON, which must not depend on the session.
const kindsTable = `
	create type mood as enum ('sad', 'ok');
	create type pair as (a int8, b text);
	create domain cents as numeric(20,2);
	create domain price as cents check (value >= 0);
	create table kinds (
		id int primary key, i8 int8, n numeric, f4 float4, f8 float8, c price, t text, v varchar(9), ch char(3), b bool,
		ts timestamp, tz timestamptz, d date, ti time, tt timetz, iv interval, m mood, p pair, u uuid, j json, jb jsonb,
		by bytea, bi bit(3), a int8[], na numeric[], ra tstzrange, mo money, ip inet, x xml, l point, twice int generated always as (id * 2) stored);`

const kindsRow = `insert into kinds values (
	1, 9007199254740993, 123456789012345678901234567890.1234500, 1.1, 0.1, 12.5, e'a"\\\n\u0001é😀', 'v', 'c', true,
	'2026-01-02 03:04:05.678', '2026-01-02 03:04:05+02', '2026-01-02', '03:04', '03:04+02', '1 mon 2 days 03:00', 'ok', (5, 'x'),
	'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"k": 1e999999, "k": "\u0000"}', '{"b": 1.00, "a": [null]}',
	'\x00ff', '101', '{1,null,9007199254740993}', '{1.50,NaN}', '[2026-01-02 03:04:05+02,)', '1.5', '::1', '<a>&amp;</a>', '(1,2)')`

const kindsJSON = `{"id":1,"i8":9007199254740993,"n":123456789012345678901234567890.1234500,"f4":1.1,"f8":0.1,"c":12.50,` +
	`"t":"a\"\\\n\u0001é😀","v":"v","ch":"c  ","b":true,"ts":"2026-01-02T03:04:05.678","tz":"2026-01-02T01:04:05+00:00",` +
	`"d":"2026-01-02","ti":"03:04:00","tt":"03:04:00+02","iv":"1 mon 2 days 03:00:00","m":"ok","p":{"a":5,"b":"x"},` +
	`"u":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","j":{"k": 1e999999, "k": "\u0000"},"jb":{"a": [null], "b": 1.00},` +
	`"by":"\\x00ff","bi":"101","a":[1,null,9007199254740993],"na":[1.50,"NaN"],"ra":"[\"2026-01-02 01:04:05+00\",)",` +
	`"mo":"$1.50","ip":"::1","x":"<a>&amp;</a>","l":"(1,2)","twice":2}`

func TestCaptureValues(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{sql: kindsTable + `select pgcast.attach('kinds')`},
		{kindsRow, []string{"kinds created " + kindsJSON}},
		{`set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set intervalstyle = 'iso_8601'; set extra_float_digits = -5;
		  set bytea_output = 'escape'; set standard_conforming_strings = off; set backslash_quote = off; set quote_all_identifiers = on;
		  set transform_null_equals = on; set search_path = ''; set array_nulls = off; set plpgsql.variable_conflict = error;
		  update public.kinds set twice = default`, []string{"kinds updated " + kindsJSON + ` old {"id":1}`}},
		{`set search_path = public; alter table kinds add special float8[]; insert into kinds (id, f8, n, ts, d, special)
		  values (2, 'NaN', 'NaN', 'infinity', '-infinity', '{Infinity,-Infinity,NaN}')`, []string{
			"kinds created " + `{"id":2,"i8":null,"n":"NaN","f4":null,"f8":"NaN","c":null,"t":null,"v":null,"ch":null,"b":null,"ts":"infinity",` +
				`"tz":null,"d":"-infinity","ti":null,"tt":null,"iv":null,"m":null,"p":null,"u":null,"j":null,"jb":null,"by":null,"bi":null,"a":null,` +
				`"na":null,"ra":null,"mo":null,"ip":null,"x":null,"l":null,"twice":4,"special":["Infinity","-Infinity","NaN"]}`,
		}},
	})
}

// A table whose values look the same in every session is captured without the settings they
// depend on elsewhere, until one of its columns is given another type.
func TestCaptureValuesOfAnotherType(t *testing.T) {
	t.Parallel()
	const settings = `set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set bytea_output = 'escape';`
	const unchanged = `do $$ begin assert current_setting('timezone') = 'Asia/Tokyo' and current_setting('datestyle') like 'German%'
		and current_setting('bytea_output') = 'escape' and current_setting('search_path') = '"$user", public'; end $$`
	const altered = `alter table t alter a type timestamptz using null, alter b type bytea using null, alter c type date using null;`
	const insert = `insert into t values (1, '2026-01-02 03:04:05+00', '\x00ff', '2026-01-02')`
	for _, topic := range []string{"t", "t:{c}"} {
		name := strings.Replace(topic, "{c}", "2026-01-02", 1)
		row := `{"id":1,"a":"2026-01-02T03:04:05+00:00","b":"\\x00ff","c":"2026-01-02"}`
		run(t, nil, []step{
			{sql: `create table t (id int primary key, a text, b text, c text); select pgcast.attach('t', topic => '` + topic + `')`},
			{sql: `do $$ begin assert not exists (select from pg_proc p, unnest(p.proconfig) c where p.proname like 'capture@_t@_%' escape '@' and c ilike 'timezone=%'); end $$`},
			{`insert into t values (0, '', '', '2026-01-02'); delete from t`, []string{name + ` created {"id":0,"a":"","b":"","c":"2026-01-02"}`, name + ` deleted old {"id":0}`}},
			{settings + altered + `begin;` + insert + `;` + unchanged + `; commit;` + unchanged, []string{name + " created " + row}},
			{`delete from t;` + unchanged + `; select pgcast.refresh()`, []string{name + ` deleted old {"id":1}`}},
			{insert + `;` + unchanged, []string{name + " created " + row}},
			{sql: `do $$ begin assert pgcast.refresh() = 0; assert not exists (select from pgcast.drift());
				assert exists (select from pg_proc p, unnest(p.proconfig) c where p.proname like 'capture@_t@_%' escape '@' and c ilike 'timezone=%'); end $$`},
		})
	}
}

func TestCaptureNumbersAsText(t *testing.T) {
	t.Parallel()
	asText := strings.NewReplacer(`"i8":9007199254740993`, `"i8":"9007199254740993"`, `"n":123456789012345678901234567890.1234500`, `"n":"123456789012345678901234567890.1234500"`,
		`"c":12.50`, `"c":"12.50"`, `"a":[1,null,9007199254740993]`, `"a":["1",null,"9007199254740993"]`, `"na":[1.50,"NaN"]`, `"na":["1.50","NaN"]`).Replace(kindsJSON)
	run(t, nil, []step{
		{sql: kindsTable + `select pgcast.attach('kinds', numbers => 'text')`},
		{kindsRow, []string{"kinds created " + asText}},
		{sql: `create table big (id int8 primary key, n int8); select pgcast.attach('big', old => true, numbers => 'text')`},
		{`insert into big values (1, -5); update big set n = null; delete from big`, []string{
			`big created {"id":"1","n":"-5"}`,
			`big updated {"id":"1","n":null} old {"id":"1","n":"-5"}`,
			`big deleted old {"id":"1","n":null}`,
		}},
		// A column of another type since then must not make a write fail.
		{`create table lists (id int primary key, l int8[]); select pgcast.attach('lists', numbers => 'text');
		  alter table lists alter l type text using 'x'; insert into lists values (1, '[1,2],3'); alter table lists alter l type jsonb using '{}'; insert into lists values (2, '[1, -2.5]')`, []string{
			`lists created {"id":1,"l":"[1,2],3"}`,
			`lists created {"id":2,"l":["1", "-2.5"]}`,
		}},
	})
}

func TestCaptureLists(t *testing.T) {
	t.Parallel()
	const users = `create table users (id int primary key, name text, hash text, room int);`
	run(t, nil, []step{
		{sql: users + `select pgcast.attach('users', without => '{hash}')`},
		{`insert into users values (1, 'ann', 'canary', 7); update users set hash = 'canary2'; delete from users`, []string{
			`users created {"id":1,"name":"ann","room":7}`,
			`users updated {"id":1,"name":"ann","room":7} old {"id":1}`,
			`users deleted old {"id":1}`,
		}},
		{sql: `select pgcast.attach('users', topic => 'u:{room}', columns => '{name,id}', old => true)`},
		{`insert into users values (1, 'ann', 'canary', 7); update users set hash = 'canary2', name = 'bob'; update users set room = 8; delete from users`, []string{
			`u:7 created {"id":1,"name":"ann"}`,
			`u:7 updated {"id":1,"name":"bob"} old {"id":1,"name":"ann"}`,
			`u:7 deleted old {"id":1,"name":"bob"}`,
			`u:8 created {"id":1,"name":"bob"}`,
			`u:8 deleted old {"id":1,"name":"bob"}`,
		}},
		{sql: `select pgcast.attach('users', old => true)`}, // all options are replaced
		{`insert into users values (1, 'ann', 'x', 7); delete from users`, []string{
			`users created {"id":1,"name":"ann","hash":"x","room":7}`,
			`users deleted old {"id":1,"name":"ann","hash":"x","room":7}`,
		}},
	})
}

// Virtual generated columns have no value when a row is written: they are left out.
func TestCaptureVirtualColumns(t *testing.T) {
	t.Parallel()
	if pgtest.Binaries(t).Version < 18 {
		t.Skip("virtual generated columns came with PostgreSQL 18")
	}
	run(t, nil, []step{
		{sql: `create table g (id int primary key, v int generated always as (id * 2) virtual, s int generated always as (id * 3) stored); select pgcast.attach('g', topic => 'g:{s}')`},
		{`insert into g values (1); update g set id = 2; delete from g`, []string{
			`g:3 created {"id":1,"s":3}`, `g:3 deleted old {"id":1}`, `g:6 created {"id":2,"s":6}`, `g:6 deleted old {"id":2}`,
		}},
		{sql: `do $$ begin perform pgcast.attach('g', topic => '{v}'); exception when feature_not_supported then end $$; select pgcast.attach('g', without => '{s}')`},
		{`alter table g add w int generated always as (id) virtual, add x int; insert into g values (3)`, []string{`g created {"id":3,"x":null}`}},
		{`select pgcast.refresh(); insert into g values (4)`, []string{`g created {"id":4,"x":null}`}},
	})
}

// The old key is the primary key, else the replica identity, else all there is.
func TestCaptureKey(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, table, options, old string }{
		{"primary key in its own order", `create table k (a int, b int, c int, primary key (c, a))`, ``, `{"c":3,"a":1}`},
		{"replica identity", `create table k (a int not null, b int, c int); create unique index i on k (a) include (b); alter table k replica identity using index i`, ``, `{"a":1}`},
		{"unique is not enough", `create table k (a int unique, b int, c int)`, ``, `{"a":1,"b":2,"c":3}`},
		{"nothing", `create table k (a int, b int, c int)`, ``, `{"a":1,"b":2,"c":3}`},
		{"nothing but a list", `create table k (a int, b int, c int)`, `, without => '{b}'`, `{"a":1,"c":3}`},
		{"deferrable", `create table k (a int, b int, c int, primary key (b) deferrable initially deferred)`, ``, `{"b":2}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run(t, nil, []step{
				{sql: tt.table + `; select pgcast.attach('k'` + tt.options + `)`},
				{sql: `set pgcast.capture = off; insert into k values (1, 2, 3); set pgcast.capture = on`},
				{`delete from k`, []string{`k deleted old ` + tt.old}},
			})
		})
	}
}

// A deferrable key may shift from row to row: a client that follows must not lose one.
func TestCaptureShiftingKeys(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{sql: `create table k (id int primary key deferrable, n int); insert into k values (1, 1), (2, 2), (3, 3); select pgcast.attach('k')`},
		{`update k set id = case when id = 3 then 3 else 3 - id end`, []string{
			`k deleted old {"id":1}`, `k deleted old {"id":2}`, `k updated {"id":3,"n":3} old {"id":3}`,
			`k created {"id":2,"n":1}`, `k created {"id":1,"n":2}`,
		}},
		{`update k set n = 0 where id = 3`, []string{`k updated {"id":3,"n":0} old {"id":3}`}},
	})
}

// A large row is captured like any other. What cannot be JSON is an event without data:
// a row of more than 256 MB takes the way of this type's cast, which always fails.
func TestCaptureLargeRows(t *testing.T) {
	t.Parallel()
	megabytes := 50
	if testing.Short() {
		megabytes = 2
	}
	db := pgtest.New(t, nil)
	db.Exec(t, `create table large (id int primary key, j jsonb, t text); alter table large alter j set storage external; select pgcast.attach('large')`)
	length := func() int {
		return pgtest.Value[int](t, db, `select octet_length(data::text) from pgcast.event_log order by id desc limit 1`)
	}
	db.Exec(t, `insert into large select 1, jsonb_build_object('k', repeat(repeat('x', 1000), $1 * 1000)), null`, megabytes)
	if want := len(`{"id":1,"j":{"k": ""},"t":null}`) + megabytes*1_000_000; length() != want {
		t.Errorf("created: data of %d bytes, want %d", length(), want)
	}
	db.Exec(t, `update large set t = 'y'`)
	if want := len(`{"id":1,"j":{"k": ""},"t":"y"}`) + megabytes*1_000_000; length() != want {
		t.Errorf("updated: data of %d bytes, want %d: a value outside the row was not read", length(), want)
	}
	run(t, nil, []step{
		{sql: `create type bad as enum ('1');
			create function bad_json(bad) returns json language plpgsql as $$ begin raise exception 'no'; end $$;
			create cast (bad as json) with function bad_json(bad);
			create table t (id int primary key, b bad, l bad[]); select pgcast.attach('t', old => true)`},
		{`insert into t values (1, '1'); update t set b = null; update t set l = '{1}'; delete from t`, []string{
			`t created`, `t updated {"id":1,"b":null,"l":null} old {"id":1}`, `t updated old {"id":1,"b":null,"l":null}`, `t deleted old {"id":1}`,
		}},
	})
}

// What is stored compressed may be over a thousand times larger as JSON: a small row must
// take the way that cannot fail, too.
func TestCaptureCompressedRows(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a row of 270 MB takes seconds")
	}
	db := pgtest.New(t, nil)
	if !pgtest.Value[bool](t, db, `select 'lz4' = any (enumvals) from pg_settings where name = 'default_toast_compression'`) {
		t.Skip("this Postgres has no lz4, which compresses most")
	}
	db.Exec(t, `create table source (t text compression lz4); insert into source values (repeat(chr(1), 45000000));
		create table t (id int primary key, t text compression lz4); select pgcast.attach('t')`)
	db.Exec(t, `insert into t select 1, t from source`)
	if size := pgtest.Value[int](t, db, `select pg_column_size(t) from t`); size > 200_000 {
		t.Errorf("the row takes %d bytes: this tests nothing", size)
	}
	if !pgtest.Value[bool](t, db, `select data is null from pgcast.event_log`) {
		t.Error("a row of 270 MB did not take the way that cannot fail")
	}
}
