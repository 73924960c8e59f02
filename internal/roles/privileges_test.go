package roles_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// privilegesQuery lists what a role was granted in a database that is not its own, by object.
const privilegesQuery = `
	with r as (select oid from pg_roles where rolname = $1), granted (kind, name, what) as (
		select 'database', '', g.privilege_type || case when g.is_grantable then '!' else '' end from pg_database d, lateral aclexplode(d.datacl) g, r where d.datname = current_database() and g.grantee = r.oid
		union all
		select 'schema', n.nspname::text, g.privilege_type || case when g.is_grantable then '!' else '' end from pg_namespace n, lateral aclexplode(n.nspacl) g, r where g.grantee = r.oid and n.nspowner <> r.oid
		union all
		select case c.relkind when 'S' then 'sequence' else 'table' end, n.nspname || '.' || c.relname, g.privilege_type || case when g.is_grantable then '!' else '' end
		from pg_class c join pg_namespace n on n.oid = c.relnamespace, lateral aclexplode(c.relacl) g, r where g.grantee = r.oid and c.relowner <> r.oid
		union all
		select 'table', n.nspname || '.' || c.relname, g.privilege_type || case when g.is_grantable then '!' else '' end || ' (' || string_agg(a.attname, ', ' order by a.attnum) || ')'
		from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace, lateral aclexplode(a.attacl) g, r where g.grantee = r.oid
		group by n.nspname, c.relname, g.privilege_type, g.is_grantable
		union all
		select 'function', n.nspname || '.' || p.proname, g.privilege_type || case when g.is_grantable then '!' else '' end from pg_proc p join pg_namespace n on n.oid = p.pronamespace, lateral aclexplode(p.proacl) g, r where g.grantee = r.oid and p.proowner <> r.oid
	)
	select kind || ' ' || name || ': ' || lower(string_agg(what, ', ' order by what)) from granted group by kind, name order by array_position('{database,schema,table,sequence,function}', kind), name`

// TestPrivileges compares all that the roles have been granted, and what they are, with a file:
// a right more is seen in review.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	var out strings.Builder
	for _, party := range []string{"owner", "server", "server --wal", "writer"} {
		attributes := list(t, c.conn, `select concat_ws(' ', case when rolcanlogin then 'login' else 'nologin' end, case when rolsuper then 'SUPERUSER' end, case when rolcreaterole then 'CREATEROLE' end,
			case when rolcreatedb then 'CREATEDB' end, case when rolreplication then 'replication' end, case when rolbypassrls then 'BYPASSRLS' end,
			(select 'member of ' || string_agg(roleid::regrole::text, ', ') from pg_auth_members where member = r.oid)) from pg_roles r where rolname = $1`, c.names[party])
		fmt.Fprintf(&out, "role %s: %s\n", party, strings.Join(attributes, ""))
		for _, line := range list(t, c.conn, privilegesQuery, c.names[party]) {
			fmt.Fprintf(&out, "  %s\n", line)
		}
	}
	golden(t, "privileges.txt", out.String())
}

// TestDefiners looks at all that runs with other rights than the caller's, capture functions
// included: it belongs to a role that nobody can log in as and that is no superuser, it finds
// names in pg_catalog first and among temporary objects last, and PUBLIC cannot call it.
func TestDefiners(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	c.exec(`select pgcast.refresh()`)
	const functions = `select p.oid::regprocedure::text from pg_proc p join pg_roles o on o.oid = p.proowner where p.pronamespace = 'pgcast'::regnamespace and `
	for what, sql := range map[string]string{
		"belong to a role that can log in, or to a superuser":  functions + `(o.rolcanlogin or o.rolsuper)`,
		"have no pinned search_path, or not with pg_temp last": functions + `not coalesce('search_path=pg_catalog, pg_temp' = any (p.proconfig), false)`,
		"can be called by PUBLIC":                              functions + `has_function_privilege('public', p.oid, 'execute')`,
		"can be called by writers, and run with their rights":  functions + `not p.prosecdef and has_function_privilege('` + c.names["writer"] + `', p.oid, 'execute')`,
		"can be granted on by whom they were granted to":       functions + `exists (select from aclexplode(p.proacl) g where g.is_grantable and g.grantee <> p.proowner)`,
	} {
		if bad := list(t, c.conn, sql); len(bad) > 0 {
			t.Errorf("these functions %s: %q", what, bad)
		}
	}
	if n := list(t, c.conn, `select p.proname::text from pg_proc p where p.pronamespace = 'pgcast'::regnamespace and p.prosecdef`); len(n) < 7 {
		t.Errorf("only %q run with the owner's rights", n)
	}
	for what, sql := range map[string]string{
		"relations of another owner": `select c.oid::regclass::text from pg_class c where (c.relnamespace = 'pgcast'::regnamespace or c.relname = 'pgcast_goose_db_version') and c.relkind <> 'c' and pg_get_userbyid(c.relowner) <> $1`,
		"types of another owner":     `select y.oid::regtype::text from pg_type y where y.typnamespace = 'pgcast'::regnamespace and pg_get_userbyid(y.typowner) <> $1`,
		"publications of another":    `select pubname::text from pg_publication where pubname ~ '^pgcast' and pg_get_userbyid(pubowner) <> $1`,
	} {
		if bad := list(t, c.conn, sql, c.names["owner"]); len(bad) > 0 {
			t.Errorf("%s: %q", what, bad)
		}
	}
}

func (c *court) exec(sql string) {
	c.t.Helper()
	if _, err := c.conn.Exec(c.t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		c.t.Fatalf("%s: %v", sql, err)
	}
}

// TestHijack plants what looks like pg_catalog's, in schema public, in a schema of the writer's
// own, and among temporary objects (CVE-2018-1058 and its kin), and then calls all that runs
// with the owner's rights, and writes to attached tables. Nothing planted is ever run as
// somebody else than the writer.
func TestHijack(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	writer := pgx.Identifier{c.names["writer"]}.Sanitize()
	c.exec(`create schema evil; grant all on schema evil, public to ` + writer + `; grant temp on database ` + c.conn.Config().Database + ` to ` + writer + `;
		create table evil.loot (who text, what text); grant all on evil.loot to ` + writer)
	plant := func(schema string) string {
		list := `create function ` + schema + `.caught(what text) returns void language plpgsql as $$ begin
			if current_user <> '` + c.names["writer"] + `' then insert into evil.loot values (current_user, what); end if; end $$;`
		for _, f := range []struct{ name, args, returns, value string }{
			{"row_to_json", "anyelement", "json", "'{}'"}, {"octet_length", "text", "int", "1"}, {"current_setting", "text", "text", "'0'"}, {"current_setting", "text, boolean", "text", "'0'"},
			{"nextval", "text", "bigint", "1"}, {"clock_timestamp", "", "timestamptz", "'epoch'"}, {"pg_notify", "text, text", "void", "null"}, {"left", "text, int", "text", "''"},
			{"quote_literal", "text", "text", "''"}, {"coalesce", "text", "text", "''"}, {"format", "text", "text", "''"}, {"pg_try_advisory_xact_lock_shared", "int, int", "boolean", "true"},
			{"pg_notification_queue_usage", "", "float8", "0"}, {"to_hex", "bigint", "text", "'1'"}, {"jsonb_typeof", "jsonb", "text", "'object'"}, {"cardinality", "text[]", "int", "1"},
			{"starts_with", "text, text", "boolean", "false"}, {"pg_current_xact_id", "", "xid8", "'1'"}, {"event_id", "bigint, timestamptz", "text", "'1'"}, {"check_topic", "text", "text", "'a'"},
		} {
			list += fmt.Sprintf(`create function %[1]s.%[2]s(%[3]s) returns %[4]s language plpgsql as $$ begin perform %[1]s.caught('%[2]s'); return %[5]s; end $$;`,
				schema, pgx.Identifier{f.name}.Sanitize(), f.args, f.returns, map[bool]string{true: "", false: f.value}[f.returns == "void"])
		}
		for i, o := range []struct{ op, left, right, returns, value string }{
			{"=", "text", "text", "boolean", "true"}, {"<>", "text", "text", "boolean", "true"}, {"~", "text", "text", "boolean", "false"}, {"!~", "text", "text", "boolean", "true"},
			{"||", "text", "text", "text", "'x'"}, {">", "int", "int", "boolean", "true"}, {"<", "float8", "numeric", "boolean", "true"}, {"=", "oid", "oid", "boolean", "true"}, {"->>", "jsonb", "text", "text", "'x'"},
		} {
			list += fmt.Sprintf(`create function %[1]s.op%[2]d(%[3]s, %[4]s) returns %[5]s language plpgsql as $$ begin perform %[1]s.caught('%[6]s'); return %[7]s; end $$;
				create operator %[1]s.%[6]s (leftarg = %[3]s, rightarg = %[4]s, function = %[1]s.op%[2]d);`, schema, i, o.left, o.right, o.returns, o.op, o.value)
		}
		return list
	}
	c.exec(`set session authorization ` + writer + `;` + plant("evil") + plant("public") + plant("pg_temp") + `
		create temp table event_log (topic text, event text, data json); create temp table pgcast_new (id int); create temp table pg_class (oid oid); create temp table attachment (relation oid, via text);
		create temp table publish_key (topic text, key text); create temp table group_info (name text); create temp table topic (id int, name text);
		create domain pg_temp.text as pg_catalog.text check (pg_temp.octet_length(value::pg_catalog.text) > 100); create domain pg_temp.jsonb as pg_catalog.jsonb; create type pg_temp.xid8 as enum ('a')`)
	for i, path := range []string{`evil, public, pg_temp, pg_catalog`, `pg_temp, evil, pg_catalog`, `public, pg_catalog`, `''`} {
		c.exec(`set search_path = ` + path + `; insert into shop.item values (1, 1, 'é', 'x'), (2, 2, 'b', 'x'); update shop.item set room_id = room_id + 1; delete from shop.item; truncate shop.item`)
		c.exec(`select pgcast.publish('room:1', 'said', '{"a":1}', 'key` + strconv.Itoa(i) + `'), pgcast.create_group('g'), pgcast.set_group('g', '{"a":1}'), pgcast.close_group('g'), pgcast.create_group('h', 1, '{}', '{a}')`)
	}
	c.exec(`reset session authorization; reset search_path; do $$ begin perform pgcast.refresh(), pgcast.watch_state(); perform pgcast.watch(); perform pgcast.move_published(); end $$`)
	if loot := list(t, c.conn, `select distinct who || ' ran ' || what from evil.loot order by 1`); len(loot) > 0 {
		t.Errorf("hijacked: %q", loot)
	}
	got := list(t, c.conn, `select topic || ' ' || event || ' ' || count(*) from pgcast.event_log where topic like 'room%' group by topic, event order by 1`)
	want := []string{"room:1 created 4", "room:1 deleted 4", "room:1 said 4", "room:1 truncated 4", "room:2 created 8", "room:2 deleted 8", "room:2 truncated 4", "room:3 created 4", "room:3 deleted 4", "room:3 truncated 4"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("captured %q, want %q", got, want)
	}
}
