package migrations_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// injections are texts that would draw from sequence loot if they became part of a statement.
// What is drawn from a sequence stays so, also when the statement is undone.
func injections() (list []string) {
	const hit = "select nextval('public.loot')"
	for _, frame := range []string{
		`'; HIT; --`, `' || (HIT)::text || '`, `'||(HIT)||'`, `"; HIT; --`, `"||(HIT)||"`, `$$; HIT; --`, `$capture$; HIT; end $capture$; --`, `$1; HIT`, `); HIT; --`, `')); HIT; --`,
		`\'; HIT; --`, `\\'; HIT; --`, `'; HIT; /*`, `*/; HIT; --`, "'\n; HIT; --", "x\n; HIT;\n--", `{id}'; HIT; --`, `{id'; HIT; --}`, `{"; HIT; --}`, `{}}'||(HIT)||'}`,
		`%s%I%L'; HIT; --`, `%1$s'||(HIT)||'`, "\uff07; HIT; --", "\u02bc; HIT; --", "\u2019 or (HIT) is not null --", `' union HIT --`, `1; HIT`, `1 or (HIT) > 0`, `(HIT)`, `E'\'; HIT; --`, `U&"\0027; HIT; --`,
		`id) values (1); HIT; --`, `id" from pg_class; HIT; --`, `room:*'; HIT; --`, `int4; HIT`, `int4 = (HIT)`, `public.t; HIT`,
	} {
		list = append(list, strings.ReplaceAll(frame, "HIT", hit))
	}
	return list
}

// TestInjection passes what would become part of a statement, were it put there as it is,
// through every argument of every function that takes text, and through what is attached.
func TestInjection(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	db.Exec(t, `create sequence public.loot; create table public.t (id int primary key, room text, body text); select pgcast.attach('public.t', topic => 'room:{room}');
		select pgcast.create_group('g'); insert into public.t values (1, 'a', 'b')`)
	type function struct {
		name string
		args []string
	}
	var functions []function
	rows, err := conn.Query(t.Context(), `select p.proname::text, array(select format_type(a, null) from unnest(p.proargtypes::oid[]) with ordinality u (a, i) order by i)
		from pg_proc p where p.pronamespace = 'pgcast'::regnamespace and p.prorettype <> 'trigger'::regtype order by 1`)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var f function
		if err := rows.Scan(&f.name, &f.args); err != nil {
			t.Fatal(err)
		}
		functions = append(functions, f)
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	benign := map[string]string{"regclass": "'public.t'", "oid": "'public.t'::regclass", "oid[]": "array['public.t'::regclass::oid]", "boolean": "true", "integer": "1", "bigint": "1",
		"text": "'room'", "text[]": "'{room}'", "jsonb": `'{"topic":"room:{room}","old":true,"numbers":"json"}'`, "json": "'{}'", "timestamp with time zone": "now()", "xid8": "'1'",
		"interval": "'1 day'", "record": "row(1)", "regtype": "'text'"}
	// How a text gets into an argument; $1 is the text.
	carried := map[string][]string{
		"text":   {"$1::text"},
		"text[]": {"array[$1::text]", "array['id', $1::text]"},
		"json":   {"to_json($1::text)", "json_build_object($1::text, $1::text)"},
		"jsonb": {"to_jsonb($1::text)", "jsonb_build_object($1::text, $1::text)", "jsonb_build_array(jsonb_build_object('name', $1::text, 'type', 25, 'mod', -1, 'key', true))",
			"jsonb_build_object('topic', 'room:{room}', 'columns', array[$1::text], 'old', true, 'numbers', 'json', 'shape', '[]'::jsonb)",
			"jsonb_build_object('topic', $1::text, 'without', array[$1::text], 'old', true, 'numbers', $1::text, 'shape', '[]'::jsonb)"},
	}
	calls := 0
	for _, f := range functions {
		for i, arg := range f.args {
			for _, carry := range carried[arg] {
				args := make([]string, len(f.args))
				for k, other := range f.args {
					if args[k] = benign[other]; args[k] == "" {
						args[k] = "null"
					}
				}
				args[i] = carry
				sql := fmt.Sprintf("select count(*) from (select pgcast.%s(%s)) x", f.name, strings.Join(args, ", "))
				for _, text := range injections() {
					if calls++; calls%500 == 1 {
						looted(t, db, "before "+sql)
					}
					for _, s := range []string{"begin", "set local statement_timeout = '5s'"} {
						if _, err := conn.Exec(t.Context(), s); err != nil {
							t.Fatal(err)
						}
					}
					_, err := conn.Exec(t.Context(), sql, text)
					var pg *pgconn.PgError
					if err != nil && !errors.As(err, &pg) {
						t.Fatalf("%s: %v", sql, err)
					}
					if err != nil && (pg.Code == "42601" || pg.Code == "57014" || strings.HasPrefix(pg.Code, "XX")) && pg.Code != "" {
						t.Errorf("%s with %q: %v", sql, text, err) // a statement was made that is none
					}
					if _, err := conn.Exec(t.Context(), "rollback"); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	looted(t, db, "the end")
	t.Logf("%d calls of %d functions", calls, len(functions))

	// As names of a table and its columns, and as labels of an enum, all the way to a snapshot.
	for i, text := range injections() {
		if strings.ContainsRune(text, '\n') || i%3 == 0 {
			continue
		}
		_, err := conn.Exec(t.Context(), fmt.Sprintf(`do $x$ declare n text := left(%[1]s, 60); c text; begin
			execute format('create type public.e%[2]d as enum (%%L, %%L)', n, 'other');
			execute format('create table public.%%I (%%I int primary key, %%I public.e%[2]d)', n || %[2]d, n, n || 'x');
			perform pgcast.attach(format('public.%%I', n || %[2]d)::regclass, topic => 'e%[2]d:{' || replace(n || 'x', '}', '}}') || '}', old => true);
			execute format('insert into public.%%I values (1, %%L), (2, %%L)', n || %[2]d, n, 'other');
			execute format('update public.%%I set %%I = %%L', n || %[2]d, n || 'x', 'other');
			execute format('delete from public.%%I where %%I = 1', n || %[2]d, n);
			for c in select s.statement from pgcast.snapshot_sql('e%[2]d:other') s loop execute c; end loop;
			for c in select s.statement from pgcast.snapshot_sql('e%[2]d:' || pgcast.encode_value(n)) s loop execute c; end loop;
			perform pgcast.refresh(), (select count(*) from pgcast.drift()), pgcast.detach(format('public.%%I', n || %[2]d)::regclass);
		end $x$`, "$y$"+strings.ReplaceAll(text, "$", "S")+"$y$", i))
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	looted(t, db, "names")
}

func looted(t *testing.T, db *pgtest.DB, what string) {
	t.Helper()
	if pgtest.Value[bool](t, db, "select is_called from public.loot") {
		t.Fatalf("something was injected: %s", what)
	}
}
