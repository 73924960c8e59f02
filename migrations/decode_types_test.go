package migrations_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Values of every kind of type, as SQL: what is read from the WAL must become, to the
// letter, what a trigger makes of it.
var decodedTypes = []struct{ name, values string }{
	{"bool", `true|false`},
	{"int2", `1|-32768`},
	{"int4", `1|-2147483648`},
	{"int8", `9007199254740993|-9223372036854775808`},
	{"numeric", `1.10|123456789012345678901234567890.1234500|'NaN'|-0.000`},
	{"numeric(10,2)", `1|1.5|'NaN'`},
	{"float4", `1.1|'NaN'|'-Infinity'|3.4028235e38|1e-45|'-0'`},
	{"float8", `0.1|'NaN'|'Infinity'|1.7976931348623157e308|5e-324|0.30000000000000004|'-0'`},
	{"money", `1.5|-1234567.89`},
	{"text", `''|'a'|e'a"\\\\\n\u0001é😀{},:NULL'|'NULL'|' '|repeat('é', 300)|'__x'`},
	{"varchar(9)", `'v'|' v '`},
	{"char(3)", `'c'|''|'é'`},
	{"bpchar", `'c  '|''`},
	{`"char"`, `'c'|''|'\377'`},
	{"name", `'n'|'A b"'`},
	{"bytea", `'\x00ff'|''|'\x5c22'`},
	{"date", `'2026-01-02'|'-infinity'|'0044-03-15 BC'`},
	{"time", `'03:04'|'24:00'`},
	{"time(2)", `'03:04:05.678'`},
	{"timetz", `'03:04+02'`},
	{"timestamp", `'2026-01-02 03:04:05.678'|'infinity'|'0044-03-15 01:02 BC'`},
	{"timestamptz", `'2026-01-02 03:04:05+02'|'-infinity'`},
	{"timestamptz(0)", `'2026-01-02 03:04:05.678+02'`},
	{"interval", `'1 mon 2 days 03:00'|'-1 sec'`},
	{"interval hour to minute", `'03:00'`},
	{"uuid", `'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'`},
	{"json", `'{"k": 1e999999, "k": "\u0000"}'|'null'|' [1 ,2] '|'"x"'`},
	{"jsonb", `'{"b": 1.00, "a": [null]}'|'null'|'[1,2]'|'"x"'`},
	{"xml", `'<a>&amp;</a>'|'text'`},
	{"bit(3)", `'101'`},
	{"bit", `'1'`},
	{"varbit", `'10101'|''`},
	{"int4range", `'[1,5)'|'empty'|'(,)'`},
	{"tstzrange", `'[2026-01-02 03:04:05+02,)'`},
	{"int4multirange", `'{[1,2),[4,5)}'|'{}'`},
	{"inet", `'::1'|'10.0.0.1'|'10.0.0.1/8'`},
	{"cidr", `'10.0.0.0/8'`},
	{"macaddr", `'08:00:2b:01:02:03'`},
	{"point", `'(1,2)'`},
	{"box", `'(1,2),(3,4)'`},
	{"polygon", `'((0,0),(1,1),(2,0))'`},
	{"tsvector", `'a:1 b:2'`},
	{"tsquery", `'a & b'`},
	{"pg_lsn", `'16/B374D848'`},
	{"oid", `4294967295`},
	{"xid8", `'18446744073709551615'`},
	{"int2vector", `'1 2 3'`},
	{"regclass", `'pgcast.event_log'`},
	{"regtype", `'int4'`},
	{"jsonpath", `'$."a"[*]'`},
	{"int4[]", `'{}'|'{1,null}'|'{{1,2},{3,4}}'|'[0:1]={5,6}'`},
	{"int8[]", `'{1,null,9007199254740993}'`},
	{"numeric(10,2)[]", `'{1.5,NaN}'`},
	{"float8[]", `'{Infinity,-Infinity,NaN,0.1}'`},
	{"bool[]", `'{t,f,null}'`},
	{"text[]", `'{a,"b c",null,"NULL","",",","\"","\\"}'|'{{a},{b}}'`},
	{"char(3)[]", `'{a,b}'`},
	{"bit(3)[]", `'{101}'`},
	{"date[]", `'{2026-01-02,infinity}'`},
	{"timestamptz[]", `'{2026-01-02 03:04:05+02}'`},
	{"bytea[]", `array['\x00ff'::bytea, '\x5c22']`},
	{"json[]", `array['{"a" : 1}'::json, 'null']`},
	{"jsonb[]", `array['{"a" : 1}'::jsonb, '[]']`},
	{"box[]", `'{(1,2),(3,4);(5,6),(7,8)}'`},
	{"point[]", `'{"(1,2)"}'`},
	{"regclass[]", `'{pgcast.event_log}'`},
	{"int4range[]", `'{"[1,5)"}'`},
	{"mood", `'ok'|'it''s "so", so'`},
	{"mood[]", `'{ok,"it''s \"so\", so"}'`},
	{"price", `12.5|'NaN'`},
	{"price[]", `'{1.5,null}'`},
	{"word", `'a'|''`},
	{"word[]", `'{a,"b c"}'`},
	{"numbers", `'{1,2}'`},
	{"numbers[]", `'{"{1,2}","{3}",null}'`},
	{"flag", `true`},
	{"pair", `(5, 'x')|(null, e'"\\\\,()')|row(null, null)`},
	{"pair[]", `array[(5, 'x')::pair, null, row(null, '"')::pair]`},
	{"pair_domain", `(5, 'x')`},
	{"nested", `(1, (5, 'x'), '{1.50,2}', '2026-01-02 03:04:05+02', 'ok', true, '{"a":1}')`},
	{"nested[]", `array[(1, (5, 'x'), '{1.50,2}', '2026-01-02 03:04:05+02', 'ok', true, '{"a":1}')::nested]`},
	{"floatrange", `'[1.5,2.5)'`},
	{"hstore", `'a=>1,b=>NULL'|''`},
	{"hstore[]", `array['a=>1'::hstore]`},
	{"citext", `'Ab'`},
	{"citext[]", `'{Ab,"c d"}'`},
	{"odd", `'1'`},
	{"odd[]", `'{1}'`},
}

const decodedTypesDDL = `
	create extension hstore; create extension citext;
	create type mood as enum ('sad', 'ok', 'it''s "so", so');
	create type pair as (a int8, b text);
	create domain pair_domain as pair;
	create domain cents as numeric(20,2);
	create domain price as cents check (value >= 0);
	create domain word as text;
	create domain flag as bool;
	create domain numbers as int[] check (cardinality(value) < 9);
	create type nested as (i int, p pair, n numeric(9,2)[], t timestamptz, m mood, b bool, j jsonb);
	create type floatrange as range (subtype = float8);
	create type odd as enum ('1');
	create function odd_json(odd) returns json language sql immutable as $$ select json_build_object('odd', $1::text) $$;
	create cast (odd as json) with function odd_json(odd);
	create schema a; create schema b;`

// Those that numbers => 'text' may concern.
var numeric = []string{"int4", "int8", "numeric", "numeric(10,2)", "float8", "price", "pair", "nested", "numbers", "json"}

func TestDecodedTypes(t *testing.T) {
	t.Parallel()
	for _, numbers := range []string{"json", "text"} {
		t.Run(numbers, func(t *testing.T) {
			t.Parallel()
			w := newWAL(t)
			w.db.Exec(t, decodedTypesDDL)
			var ddl, dml strings.Builder
			for i, d := range decodedTypes {
				if numbers == "text" && !slices.Contains(numeric, strings.TrimSuffix(d.name, "[]")) {
					continue
				}
				for _, schema := range []string{"a", "b"} {
					fmt.Fprintf(&ddl, "create table %[1]s.t%[2]d (id int primary key, v %[3]s, w %[3]s default null); alter table %[1]s.t%[2]d replica identity full;\n", schema, i, d.name)
					fmt.Fprintf(&ddl, "select pgcast.attach('%[1]s.t%[2]d', topic => 't%[2]d:{v}', old => true, numbers => '%[3]s', capture => '%[4]s');\n",
						schema, i, numbers, map[string]string{"a": "trigger", "b": "wal"}[schema])
					values := strings.Split(d.values, "|")
					for j, v := range values {
						fmt.Fprintf(&dml, "insert into %s.t%d values (%d, %s);\n", schema, i, j, v)
					}
					for _, v := range values {
						fmt.Fprintf(&dml, "update %s.t%d set v = %s where id = 0;\n", schema, i, v)
					}
					fmt.Fprintf(&dml, "update %[1]s.t%[2]d set w = v; update %[1]s.t%[2]d set v = null; delete from %[1]s.t%[2]d;\n", schema, i)
				}
			}
			w.db.Exec(t, ddl.String())
			w.exec(t, "set search_path = public; "+dml.String()+" set search_path = ''")
			w.read(t)
			for i, d := range decodedTypes {
				if numbers == "text" && !slices.Contains(numeric, strings.TrimSuffix(d.name, "[]")) {
					continue
				}
				want, got := w.events(t, fmt.Sprintf("t%d:", i), false), w.events(t, fmt.Sprintf("t%d:", i), true)
				if len(want) < 4 {
					t.Errorf("%s: only %d events by trigger", d.name, len(want))
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-trigger +wal):\n%s", d.name, diff)
				}
			}
		})
	}
}
