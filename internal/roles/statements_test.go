package roles_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/pgtest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares a text with a file, which a person has read.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: if that is meant, go test ./internal/roles -update (-want +got):\n%s", path, diff)
	}
}

// court tries statements as roles; whatever they do is undone.
type court struct {
	t     *testing.T
	conn  *pgx.Conn
	names map[string]string // of the database's own roles, by what stands in golden files
}

func newCourt(t *testing.T) *court {
	db := pgtest.New(t, nil)
	server, wal := names(db), names(db)
	wal.Server, wal.WAL = db.Name+"_wal", true
	stranger := db.Name + "_stranger"
	setUp(t, db, server)
	forget(t, db, wal.Server, stranger)
	db.Exec(t, `create role `+stranger+`; create schema shop; create table shop.item (id int primary key, room_id int, title text, secret text);
		create table shop.plain (id int primary key);
		select pgcast.attach('shop.item', topic => 'room:{room_id}', without => '{secret}');
		grant usage on schema shop to `+server.Writer+`; grant select, insert, update, delete, truncate on shop.item, shop.plain to `+server.Writer)
	apply(t, db, server)
	// The other server is given its rights beside the first one.
	apply(t, db, wal)
	apply(t, db, server)
	return &court{t, db.Conn(t), map[string]string{"server": server.Server, "server --wal": wal.Server, "writer": server.Writer, "stranger": stranger, "owner": server.Owner}}
}

// parties are who is tried, in the order of the golden files' columns.
var parties = []string{"server", "server --wal", "writer", "stranger"}

// may tells whether a role may do something: it is done, or fails for another reason.
func (c *court) may(party, sql string) bool {
	c.t.Helper()
	ctx := c.t.Context()
	for _, s := range []string{"begin", "set local statement_timeout = '20s'", "set local session authorization " + pgx.Identifier{c.names[party]}.Sanitize()} {
		if _, err := c.conn.Exec(ctx, s); err != nil {
			c.t.Fatal(err)
		}
	}
	_, err := c.conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	if _, err := c.conn.Exec(ctx, "rollback"); err != nil {
		c.t.Fatalf("after %s: %v", sql, err)
	}
	var pg *pgconn.PgError
	if err != nil && !errors.As(err, &pg) {
		c.t.Fatalf("%s: %v", sql, err)
	}
	return err == nil || pg.Code != "42501"
}

// TestStatements tries every statement on everything of pgcast's as each role: reading, writing,
// forging, altering, dropping, calling, and the ways around that Postgres has.
func TestStatements(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	var out strings.Builder
	tried := 0
	end := func() { // of a line
		text := strings.TrimRight(out.String(), " ") + "\n"
		out.Reset()
		out.WriteString(text)
	}
	line := func(what, sql string) {
		fmt.Fprintf(&out, "%-60s", what)
		for _, party := range parties {
			tried++
			answer := "no"
			if c.may(party, sql) {
				answer = "MAY"
			}
			fmt.Fprintf(&out, "  %-*s", len(party), answer)
		}
		end()
	}
	head := func(what string) {
		fmt.Fprintf(&out, "\n%-60s  %s\n", what, strings.Join(parties, "  "))
	}

	for _, table := range list(t, c.conn, `select relname::text from pg_class where relnamespace = 'pgcast'::regnamespace and relkind in ('r', 'p') order by 1`) {
		head("table " + table)
		name := "pgcast." + pgx.Identifier{table}.Sanitize()
		for _, s := range []string{"select count(*) from %s", "insert into %s default values", "delete from %s", "truncate %s", "lock table %s in access exclusive mode", "alter table %s add column x int",
			"alter table %s disable trigger all", "create trigger x after insert on %s execute function pg_catalog.suppress_redundant_updates_trigger()", "create index on %s ((1))",
			"create rule x as on insert to %s do nothing", "drop table %s cascade"} {
			line(strings.TrimSuffix(strings.SplitN(strings.ReplaceAll(s, "%s", table), " execute", 2)[0], " ((1))"), strings.ReplaceAll(s, "%s", name))
		}
		for _, verb := range []string{"update", "insert"} {
			may := map[string][]string{}
			columns := list(t, c.conn, `select attname::text from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum`, name)
			for _, col := range columns {
				sql := fmt.Sprintf("update %s set %s = default", name, pgx.Identifier{col}.Sanitize())
				if verb == "insert" {
					sql = fmt.Sprintf("insert into %s (%s) overriding system value select %s from %s limit 0", name, pgx.Identifier{col}.Sanitize(), "null", "(values (1)) x")
				}
				for _, party := range parties {
					tried++
					if c.may(party, sql) {
						may[party] = append(may[party], col)
					}
				}
			}
			for _, party := range parties {
				if n := len(may[party]); n > 0 {
					fmt.Fprintf(&out, "  %s may %s %s\n", party, verb, map[bool]string{true: "all columns", false: strings.Join(may[party], ", ")}[n == len(columns)])
				}
			}
		}
	}

	head("sequences")
	for _, s := range list(t, c.conn, `select relname::text from pg_class where relnamespace = 'pgcast'::regnamespace and relkind = 'S' order by 1`) {
		line("nextval "+s, fmt.Sprintf("select nextval('pgcast.%s')", s))
		line("setval "+s, fmt.Sprintf("select setval('pgcast.%s', 1)", s))
		line("alter sequence "+s, fmt.Sprintf("alter sequence pgcast.%s restart", s))
	}

	head("functions")
	for _, f := range list(t, c.conn, `select p.proname || '(' || coalesce((select string_agg('null::' || format_type(a, null), ', ' order by i) from unnest(p.proargtypes::oid[]) with ordinality u (a, i)), '') || ')'
		from pg_proc p where p.pronamespace = 'pgcast'::regnamespace and p.prorettype <> 'trigger'::regtype and p.proname <> 'row_json' and not p.proisstrict order by 1 -- of nothing, those are not even called`) {
		name, _, _ := strings.Cut(f, "(")
		fmt.Fprintf(&out, "%-60s", name)
		for _, party := range parties {
			tried++
			err := c.call(party, f)
			fmt.Fprintf(&out, "  %-*s", len(party), map[bool]string{true: "MAY", false: "no"}[err])
		}
		end()
	}

	head("the log")
	owner := pgx.Identifier{c.names["owner"]}.Sanitize()
	for _, s := range []struct{ what, sql string }{
		{"forge the transaction of an event", `insert into pgcast.event_log (topic, event, xid) values ('a', 'b', '1')`},
		{"forge an event", `insert into pgcast.event_log (topic, event, data) values ('a', 'b', '1')`},
		{"forge a place in a topic", `insert into pgcast.replay (topic_id, seq, position, event_id) values (1, 1, 1, 1)`},
		{"move what is counted", `update pgcast.progress set position = 0`},
		{"say which transactions are sequenced", `update pgcast.progress set seen = '1:1:'`},
		{"depose the sequencer", `update pgcast.sequencer set term = term + 1`},
		{"change what an event says", `update pgcast.event_log set data = '2'`},
		{"change when an event was", `update pgcast.event_log set created_at = now()`},
		{"trim", `delete from pgcast.event_log; delete from pgcast.replay`},
		{"keep for another time", `update pgcast.retention set max_age = '1 s'`},
		{"forge a group", `insert into pgcast.group_info values ('g', 1, '{a}', '{}')`},
		{"attach", `select pgcast.attach('shop.plain')`},
		{"detach", `select pgcast.detach('shop.item')`},
		{"detach by hand", `delete from pgcast.attachment`},
		{"read through the view", `select * from pgcast.history`},
		{"publish", `select pgcast.publish('a', 'b')`},
	} {
		line(s.what, s.sql)
	}
	head("the schema, the application's tables, and ways around")
	capture := list(t, c.conn, `select quote_ident(capture) from pgcast.attachment`)[0]
	for _, s := range []struct{ what, sql string }{
		{"create a table in schema pgcast", `create table pgcast.x ()`},
		{"create a function in schema pgcast", `create function pgcast.x() returns int language sql as 'select 1'`},
		{"replace publish()", `create or replace function pgcast.publish(topic text, event text, data jsonb default null, key text default null) returns text language sql as 'select 1'`},
		{"replace authorize()", `create or replace function pgcast.authorize(claims jsonb, verb text, topic text) returns boolean language sql as 'select true'`},
		{"allow oneself everything", `select pgcast.allow('{connect,subscribe,publish}', '**')`},
		{"make an API key", `select pgcast.create_api_key('x', '{publish}', '{**}')`},
		{"tell servers what has not happened", `select pgcast.tell_access('unrevoked', '{}')`},
		{"tell it by publishing", `do $$ begin perform pgcast.publish('__access', 'unrevoked'); exception when invalid_parameter_value then raise insufficient_privilege; end $$`},
		{"alter publish()", `alter function pgcast.publish set search_path = public`},
		{"alter a capture function", `alter function pgcast.` + capture + `() reset all`},
		{"use a capture function elsewhere", `create temp table mine (id int, room_id int, title text, secret text); create trigger t after insert on mine referencing new table as pgcast_new for each statement execute function pgcast.` + capture + `()`},
		{"drop the schema", `drop schema pgcast cascade`},
		{"rename the schema", `alter schema pgcast rename to x`},
		{"write to an attached table", `insert into shop.item values (1, 1, 'a', 'b')`},
		{"truncate an attached table", `truncate shop.item`},
		{"read captured columns", `select id, room_id, title from shop.item`},
		{"read a column that is not captured", `select secret from shop.item`},
		{"read a table that is not attached", `select * from shop.plain`},
		{"disable the triggers", `alter table shop.item disable trigger all`},
		{"drop a trigger", `drop trigger "00_pgcast_insert" on shop.item`},
		{"set session_replication_role", `set session_replication_role = replica`},
		{"become the owner", `set role ` + owner},
		{"become a superuser", `set role postgres`},
		{"make oneself a superuser", `alter role current_user superuser`},
		{"make a member of the owner", `grant ` + owner + ` to current_user`},
		{"bypass row security", `alter role current_user bypassrls`},
		{"make a role", `create role x_of_nobody`},
		{"create a schema", `create schema x`},
		{"create a publication", `create publication x`},
		{"drop a publication", `drop publication pgcast_capture`},
		{"alter a publication", `alter publication pgcast_wake drop table pgcast.event_log`},
		{"write a file", `copy (select 1) to '/tmp/x_of_nobody'`},
		{"run a program", `copy (select 1) to program 'true'`},
		{"read a file", `select pg_read_file('PG_VERSION')`},
		{"end the sessions of others", `select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres' and pid <> pg_backend_pid() and backend_type = 'walwriter'; select pg_reload_conf()`},
		{"make an event trigger", `create event trigger x on ddl_command_start execute function pg_catalog.suppress_redundant_updates_trigger()`},
		{"note a migration", `delete from public.pgcast_goose_db_version`},
	} {
		line(s.what, s.sql)
	}
	golden(t, "statements.txt", strings.TrimPrefix(out.String(), "\n"))
	t.Logf("%d statements tried", tried)
}

// call tells whether a role gets as far as into a function.
func (c *court) call(party, f string) bool {
	var may bool
	name, _, _ := strings.Cut(f, "(")
	ctx := c.t.Context()
	for _, s := range []string{"begin", "set local session authorization " + pgx.Identifier{c.names[party]}.Sanitize()} {
		if _, err := c.conn.Exec(ctx, s); err != nil {
			c.t.Fatal(err)
		}
	}
	_, err := c.conn.Exec(ctx, "select pgcast."+f)
	var pg *pgconn.PgError
	if err != nil && !errors.As(err, &pg) {
		c.t.Fatal(err)
	}
	may = err == nil || !strings.Contains(pg.Message, "permission denied for function "+name) && !strings.Contains(pg.Message, "permission denied for schema pgcast")
	if _, err := c.conn.Exec(ctx, "rollback"); err != nil {
		c.t.Fatal(err)
	}
	return may
}
