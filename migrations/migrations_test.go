package migrations_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

// Rules for everything in schema pgcast, generated functions included. Each query finds
// what breaks one.
func TestSchemaRules(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, messages+partitioned+`select pgcast.attach('messages', topic => '{body}', old => true), pgcast.attach('p', numbers => 'text')`)
	conn := db.Conn(t)
	const functions = ` from pg_proc p where pronamespace = 'pgcast'::regnamespace and `
	tests := []struct{ name, sql string }{
		{"functions without a pinned search_path", `select oid::regprocedure::text` + functions + `
			not coalesce('search_path=pg_catalog, pg_temp' = any (proconfig), false)`},
		{"functions that PUBLIC may execute", `select oid::regprocedure::text` + functions + `has_function_privilege('public', oid, 'execute')`},
		{"functions without a comment", `select oid::regprocedure::text` + functions + `obj_description(oid, 'pg_proc') is null`},
		{"functions that begin a subtransaction and say they are parallel safe", `select oid::regprocedure::text` + functions + `proparallel = 's' and prosrc ~ 'exception when'`},
		{"overloaded functions", `select proname::text` + functions + `true group by 1 having count(*) > 1`},
		{"relations without a comment", `select relname::text from pg_class where relnamespace = 'pgcast'::regnamespace and relkind in ('r', 'v') and obj_description(oid, 'pg_class') is null`},
		{"indexes without a comment, but those of constraints", `select indexrelid::regclass::text from pg_index i join pg_class c on c.oid = indexrelid
			where relnamespace = 'pgcast'::regnamespace and not exists (select from pg_constraint where conindid = indexrelid) and obj_description(indexrelid, 'pg_class') is null`},
		{"columns without a comment", `select relname || '.' || attname from pg_class c join pg_attribute a on a.attrelid = c.oid
			where relnamespace = 'pgcast'::regnamespace and relkind = 'r' and attnum > 0 and not attisdropped and col_description(c.oid, attnum) is null`},
		{"relations PUBLIC has a right to", `select oid::regclass::text from pg_class where relnamespace = 'pgcast'::regnamespace and relacl::text ~ '[{,]='`},
		{"triggers without a comment", `select tgname::text from pg_trigger where not tgisinternal and obj_description(oid, 'pg_trigger') is null`},
	}
	for _, tt := range tests {
		rows, _ := conn.Query(t.Context(), tt.sql)
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else if len(list) > 0 {
			t.Errorf("%s: %q", tt.name, list)
		}
	}
}

// Functions are compiled under the settings of the session that calls them first.
func TestUnusualSession(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{sql: `set standard_conforming_strings = off; set quote_all_identifiers = on; set transform_null_equals = on; set search_path = ''; set default_transaction_isolation = serializable`},
		{sql: `create table public.messages ("room\_id" int, body text); select pgcast.attach('public.messages', topic => 'room:{room\\_id}:{body}', numbers => 'text')`},
		{`insert into public.messages values (1, 'é'); update public.messages set body = null`, []string{
			`room:1:%C3%A9 created {"room\\_id":1,"body":"é"}`, `room:1:%C3%A9 deleted old {"room\\_id":1,"body":"é"}`, `room:1:~null created {"room\\_id":1,"body":null}`,
		}},
		{`alter table public.messages rename body to "b\"; delete from public.messages; truncate public.messages`, []string{
			`room:1:~null deleted old {"room\\_id":1,"b\\":null}`,
			`room:1:%C3%A9 truncated {"schema":"public","table":"messages"}`, `room:1:~null truncated {"schema":"public","table":"messages"}`,
		}},
		{sql: `do $$ begin assert pgcast.refresh() = 1; assert pgcast.refresh() = 0; assert not exists (select from pgcast.drift()); end $$`},
		{sql: `set quote_all_identifiers = off; do $$ begin assert pgcast.refresh() = 0; assert not exists (select from pgcast.drift()); end $$`},
		{sql: `select pgcast.publish('room:1', 'e', null, 'key'), pgcast.retain('room:*', '1 day')`, want: []string{`room:1 e`}},
	})
}

// Objects that look alike, planted first on a path, are not used by what runs with the
// owner's rights.
func TestHijack(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	role := pgx.Identifier{db.Name}.Sanitize()
	db.Exec(t, messages+`create role `+role+`; grant insert on messages to `+role+`; create schema evil; grant all on schema evil to `+role+`;
		grant temp on database `+role+` to `+role+`; select pgcast.attach('messages', topic => 'r:{body}')`)
	_, err := conn.Exec(t.Context(), `set role `+role+`; set search_path = evil, pg_temp, pg_catalog;
		create function evil.caught() returns void language plpgsql as $$ begin raise exception 'hijacked as %', current_user; end $$;
		create function evil.row_to_json(anyelement) returns json language sql as $$ select evil.caught(); select '{}'::json $$;
		create function evil.row_to_json(record) returns json language plpgsql as $$ begin perform evil.caught(); end $$;
		create function evil.octet_length(text) returns int language plpgsql as $$ begin perform evil.caught(); end $$;
		create function evil.current_setting(text, boolean) returns text language plpgsql as $$ begin perform evil.caught(); end $$;
		create function evil.concat(text, text) returns text language plpgsql as $$ begin perform evil.caught(); end $$;
		create operator evil.|| (leftarg = text, rightarg = text, function = evil.concat);
		create temp table event_log (topic text, event text, data json); create temp table pgcast_new (id int); create temp table pg_class (oid oid);
		insert into public.messages values (1, 1, 'b'), (2, 2, 'é')`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `reset role; reset search_path`); err != nil {
		t.Fatal(err)
	}
	want := []string{`r:b created {"id":1,"room_id":1,"body":"b"}`, `r:%C3%A9 created {"id":2,"room_id":2,"body":"é"}`}
	if diff := cmp.Diff(want, take(t, conn)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := conn.Exec(t.Context(), `drop owned by `+role+`; drop role `+role); err != nil {
		t.Error(err)
	}
}

// All the way down leaves nothing, also with tables attached; and up again.
func TestDownAndUp(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, messages+`select pgcast.attach('messages')`)
	list, err := migrations.Status(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	for range list {
		if err := migrations.Down(t.Context(), db.URL); err != nil {
			t.Fatal(err)
		}
		db.Exec(t, `insert into messages select coalesce(max(id), 0) + 1 from messages`)
	}
	if n := pgtest.Value[int](t, db, `select (select count(*) from pg_namespace where nspname = 'pgcast') + (select count(*) from pg_trigger)`); n != 0 {
		t.Errorf("%d things left after going down", n)
	}
	if err := migrations.Up(t.Context(), db.URL); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `select pgcast.attach('messages'); insert into messages values (0)`)
	if n := pgtest.Value[int](t, db, `select count(*) from pgcast.event_log`); n != 1 {
		t.Errorf("%d events after up again, want 1", n)
	}
}
