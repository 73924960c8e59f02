package migrations_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/pgtest"
)

func TestAttachRefuses(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `
		create table plain (id int primary key, a text, "B c" int);
		create view a_view as select 1 as a;
		create materialized view matview as select 1 as a;
		create sequence counter;
		create type composite as (a int);
		create extension postgres_fdw;
		create server s foreign data wrapper postgres_fdw;
		create foreign table remote (a int) server s;
		create table parted (a int, b int) partition by list (a);
		create table parted_1 partition of parted for values in (1) partition by list (b);
		create table parted_1_1 partition of parted_1 for values in (1);
		create table mixed (a int) partition by list (a);
		create foreign table mixed_1 partition of mixed for values in (1) server s;
		create table parent (a int);
		create table child () inherits (parent);
		create table lone_parent (a int);
		create table lone_child () inherits (lone_parent);
		create table two_parents () inherits (parent, lone_parent);
		select pgcast.attach('parent'), pgcast.attach('lone_child')`)
	const notTable, undefined, badValue, state = "42809", "42703", "22023", "55000"
	tests := []struct{ call, code, message, hint string }{
		{`null`, "42P01", "no table", "pgcast.attach('public.messages')"},
		{`'nowhere'`, "42P01", `relation "nowhere" does not exist`, ""},
		{`'pg_class'`, notTable, "pg_class cannot be attached: it is a system table", "ordinary"},
		{`'information_schema.sql_features'`, notTable, "system table", ""},
		{`(select reltoastrelid from pg_class where relname = 'plain')`, notTable, "system table", ""},
		{`'pgcast.event_log'`, notTable, "part of pgcast itself", ""},
		{`'a_view'`, notTable, "it is a view", "tables below it"},
		{`'matview'`, notTable, "materialized view", ""},
		{`'remote'`, notTable, "foreign table", ""},
		{`'counter'`, notTable, "not a table", ""},
		{`'plain_pkey'`, notTable, "not a table", ""},
		{`'composite'`, notTable, "not a table", ""},
		{`'passing'`, notTable, "temporary table", ""},
		{`'parted_1'`, notTable, "partition of public.parted", "pgcast.attach('public.parted')"},
		{`'parted_1_1'`, notTable, "partition of public.parted", "pgcast.attach('public.parted')"},
		{`'mixed'`, notTable, "public.mixed_1 is a foreign table", "writes to them would fail"},
		{`'child'`, state, "inherits from public.parent, which is attached", "Attach public.parent again"},
		{`'lone_parent'`, state, "public.lone_child is attached by itself", "pgcast.detach('public.lone_child')"},
		{`'plain', topic => '{x}'`, undefined, "public.plain has no column x", `Its columns: id, a, B c.`},
		{`'plain', topic => '{A}'`, undefined, `has no column "A"`, "id, a"},
		{`'plain', topic => '{}'`, undefined, "no column", "id, a"},
		{`'plain', columns => '{id,x}'`, undefined, "has no column x", "id, a"},
		{`'plain', without => '{ctid}'`, undefined, "has no column ctid", "id, a"},
		{`'plain', columns => '{id,NULL}'`, undefined, "has no column NULL", "id, a"},
		{`'plain', columns => '{}'`, badValue, "no columns", "Leave columns out"},
		{`'plain', columns => '{id}', without => '{a}'`, badValue, "not both", "without what is not"},
		{`'plain', columns => '{a}'`, badValue, "leave out its primary key", "which row they mean"},
		{`'plain', without => '{id}'`, badValue, "leave out its primary key", ""},
		{`'plain', numbers => 'string'`, badValue, "'string'", "'text'"},
		{`'plain', numbers => null`, badValue, "NULL", "'text'"},
		{`'plain', old => null`, badValue, "", "true or false"},
		{`'plain', topic => ''`, badValue, "not a topic name", "printable ASCII"},
		{`'plain', topic => 'a"{id}'`, badValue, "cannot have", "printable ASCII"},
		{`'plain', topic => 'é'`, badValue, "not a topic name", ""},
		{`'plain', topic => '__x'`, badValue, "the server's own", ""},
		{`'plain', topic => '__{id}'`, badValue, "begins with __", ""},
		{`'plain', topic => 'a:*'`, badValue, "is a pattern", ""},
		{`'plain', topic => 'a:{id}:**'`, badValue, "as a pattern", ""},
		{`'plain', topic => 'a:*{id}'`, badValue, "as a pattern", ""},
		{`'plain', topic => '{id}*:a'`, badValue, "as a pattern", ""},
		{`'plain', topic => 'a{id'`, badValue, "braces", "{name}"},
		{`'plain', topic => 'a}{id}'`, badValue, "braces", ""},
		{`'plain', topic => '{id}}'`, badValue, "braces", ""},
		{`'plain', topic => repeat('a', 257)`, badValue, "not a topic name", ""},
		{`'plain', topic => repeat('a', 129) || '{id}'`, badValue, "more than 128 bytes", ""},
	}
	conn := db.Conn(t)
	if _, err := conn.Exec(t.Context(), `create temp table passing (a int)`); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		_, err := conn.Exec(t.Context(), "select pgcast.attach("+tt.call+")")
		var pg *pgconn.PgError
		if !errors.As(err, &pg) {
			t.Errorf("attach(%s): got %v, want error %s", tt.call, err, tt.code)
		} else if pg.Code != tt.code || !strings.Contains(pg.Message, tt.message) || !strings.Contains(pg.Hint, tt.hint) {
			t.Errorf("attach(%s): got %s %q hint %q, want %s %q hint %q", tt.call, pg.Code, pg.Message, pg.Hint, tt.code, tt.message, tt.hint)
		}
	}
	if n := pgtest.Value[int](t, db, `select count(*) from pgcast.attachment`); n != 2 {
		t.Errorf("%d attachments after refusals, want 2", n)
	}
}

// Who may attach: a role with rights in schema pgcast and TRIGGER on the table.
func TestAttachPrivileges(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	role := pgtest.Value[string](t, db, `select quote_ident(current_database())`)
	db.Exec(t, `create role `+role+`; create table plain (id int primary key, a text); insert into plain values (0)`)
	conn := db.Conn(t)
	grants := []struct{ grant, code, message string }{
		{``, "42501", "permission denied for schema pgcast"},
		{`grant usage on schema pgcast to ` + role, "42501", "permission denied for function attach"},
		{`grant execute on all functions in schema pgcast to ` + role, "42501", "may not create capture functions"},
		{`grant create on schema pgcast to ` + role + `; grant select, insert, update, delete on all tables in schema pgcast to ` + role,
			"42501", "no permission to create triggers on public.plain"},
		{`grant trigger on plain to ` + role, "", ""},
	}
	for _, g := range grants {
		_, err := conn.Exec(t.Context(), `reset role; `+g.grant)
		if err == nil {
			_, err = conn.Exec(t.Context(), `set role `+role)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Exec(t.Context(), `select pgcast.attach('public.plain')`)
		var pg *pgconn.PgError
		switch {
		case g.code == "" && err != nil:
			t.Fatalf("attach after %s: %v", g.grant, err)
		case g.code != "" && (!errors.As(err, &pg) || pg.Code != g.code || !strings.Contains(pg.Message, g.message)):
			t.Errorf("attach after %s: got %v, want %s %q", g.grant, err, g.code, g.message)
		}
	}
	// Not its owner: no ENABLE ALWAYS, but detach takes everything away all the same.
	db.Exec(t, `insert into plain values (1, 'a')`)
	if got := pgtest.Value[string](t, db, `select data::text from pgcast.event_log`); got != `{"id":1,"a":"a"}` {
		t.Errorf("captured %s", got)
	}
	if _, err := conn.Exec(t.Context(), `select pgcast.detach('public.plain')`); err != nil {
		t.Errorf("detach: %v", err)
	}
	if n := pgtest.Value[int](t, db, `select count(*) from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace <> 'pgcast'::regnamespace`); n != 0 {
		t.Errorf("%d triggers left after detach", n)
	}
	db.Exec(t, `drop owned by `+role+`; drop role `+role)
}
