package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// wanted is what a server does with schema pgcast, and so must be allowed to.
const wanted = `values ('event_log', 'select'), ('event_log', 'delete'), ('replay', 'select'), ('replay', 'insert'), ('replay', 'delete'),
	('topic', 'select'), ('topic', 'insert'), ('topic_tail', 'select'), ('topic_tail', 'insert'), ('topic_tail', 'update'),
	('sequencer', 'select'), ('sequencer', 'update'), ('progress', 'select'), ('progress', 'insert'), ('progress', 'delete'),
	('publish_key', 'select'), ('publish_key', 'delete'), ('retention', 'select'), ('attachment', 'select'),
	('published', 'select'), ('published', 'delete'), ('captured', 'select'), ('captured', 'insert'), ('captured', 'delete'),
	('stage', 'select'), ('stage', 'insert'), ('stage', 'delete'),
	('projection', 'select'), ('enforcement', 'select')`

func checkPrivileges(ctx context.Context, x *exam) ([]finding, error) {
	var missing []string
	var owns, reads bool
	err := x.tx.QueryRow(ctx, `select array(
			select w.privilege || ' on pgcast.' || w.tbl from (`+wanted+`) w (tbl, privilege)
			join pg_class c on c.relname = w.tbl and c.relnamespace = n.oid where not has_table_privilege(c.oid, w.privilege)
			union all select 'usage on schema pgcast' where not has_schema_privilege(n.oid, 'usage')
			union all select 'execute on function pgcast.' || p.proname from pg_proc p
			where p.pronamespace = n.oid and p.proname in ('publish', 'refresh', 'watch', 'watch_state', 'drift', 'slot_name', 'open_slot', 'close_slot', 'make_publications',
				'snapshot_sql', 'compacted', 'enforced') and not has_function_privilege(p.oid, 'execute')
			union all select 'execute on function pg_control_system' where not has_function_privilege('pg_control_system()', 'execute')
			union all select 'execute on function ' || p.oid::regprocedure from pg_proc p
			where p.pronamespace = 'pg_catalog'::regnamespace and p.proname = 'pg_logical_emit_message' and p.proargtypes[2] = 'text'::regtype and not has_function_privilege(p.oid, 'execute')),
		pg_has_role(n.nspowner, 'usage'), pg_has_role('pg_read_all_stats', 'usage')
		from pg_namespace n where n.nspname = 'pgcast'`).Scan(&missing, &owns, &reads)
	if err != nil {
		return nil, err
	}
	become := inSQL("grant %s to %s", name(x.facts.owner), name(x.facts.role))
	switch {
	case len(missing) == 1 && strings.HasPrefix(missing[0], "execute on function pg_"):
		return one(fail(inSQL("grant %s to %s", missing[0], name(x.facts.role)), "role %s lacks %s", x.facts.role, missing[0]))
	case len(missing) > 0:
		return one(fail(become, "role %s lacks %s", x.facts.role, strings.Join(missing, ", ")))
	case !owns:
		return one(warn(become, "role %s may do all that is needed, but is not a member of %s, which owns schema pgcast", x.facts.role, x.facts.owner))
	case x.facts.superuser:
		return one(note(inSQL("create role pgcast_server login; grant create on database %s to pgcast_server -- then migrate as that role", name(x.facts.database)),
			"role %s is a superuser, which is more than is needed", x.facts.role))
	case !reads:
		return one(note(inSQL("grant pg_read_all_stats to %s", name(x.facts.role)),
			"role %s may do all that is needed; what other roles' sessions do is hidden from it, and from some of these checks", x.facts.role))
	}
	return one(ok("role %s owns schema pgcast and sees all sessions", x.facts.role))
}

// checkGrants looks for doors that the migrations do not open.
func checkGrants(ctx context.Context, x *exam) ([]finding, error) {
	type grant struct {
		Grantee, Privilege, Object string
		Function                   bool
	}
	grants, err := collect[grant](ctx, x, `
		select case g.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(g.grantee)) end, 'execute', p.oid::regprocedure::text, true
		from pg_proc p join pg_namespace n on n.oid = p.pronamespace, lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
		where n.nspname = 'pgcast' and g.grantee = 0
		union all
		select case g.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(g.grantee)) end, lower(g.privilege_type), c.oid::regclass::text, false
		from pg_class c join pg_namespace n on n.oid = c.relnamespace, lateral aclexplode(c.relacl) g
		where n.nspname = 'pgcast' and c.relkind = 'r' and g.grantee <> c.relowner and g.privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
		order by 3, 1, 2`)
	if err != nil {
		return nil, err
	}
	var list []finding
	for _, g := range grants {
		if g.Function {
			list = append(list, fail(inSQL("revoke execute on function %s from public", g.Object), "anybody may call %s", g.Object))
		} else {
			list = append(list, fail(inSQL("revoke %s on %s from %s", g.Privilege, g.Object, g.Grantee), "%s may %s %s", g.Grantee, g.Privilege, g.Object))
		}
	}
	if list == nil {
		list = append(list, ok("nobody but the owner may write to the log or call what is not granted"))
	}
	return cut(list, x.limits.listed), nil
}

// checkSwitch looks for roles and databases whose writes are never captured.
func checkSwitch(ctx context.Context, x *exam) ([]finding, error) {
	type off struct{ Database, Role string }
	offs, err := collect[off](ctx, x, `select coalesce((select datname from pg_database where oid = s.setdatabase), ''),
			coalesce((select rolname from pg_roles where oid = s.setrole), '')
		from pg_db_role_setting s, unnest(s.setconfig) c
		where lower(c) in ('pgcast.capture=off', 'pgcast.capture=false', 'pgcast.capture=0', 'pgcast.capture=no')
		  and s.setdatabase in (0, (select oid from pg_database where datname = current_database())) order by 1, 2`)
	if err != nil {
		return nil, err
	}
	var list []finding
	for _, o := range offs {
		switch {
		case o.Role == "":
			list = append(list, fail(inSQL(`alter database %s reset "pgcast.capture"`, name(o.Database)), "database %s has pgcast.capture = off: no write is captured", o.Database))
		default:
			where := ""
			if o.Database != "" {
				where = " in database " + name(o.Database)
			}
			list = append(list, warn(inSQL(`alter role %s%s reset "pgcast.capture"`, name(o.Role), where), "role %s has pgcast.capture = off: nothing it writes is captured", o.Role))
		}
	}
	var mine string
	if err := x.tx.QueryRow(ctx, `select coalesce(lower(current_setting('pgcast.capture', true)), '')`).Scan(&mine); err != nil {
		return nil, err
	}
	if list == nil && slices.Contains([]string{"off", "false", "0", "no"}, mine) {
		list = append(list, fail(inWords("take pgcast.capture out of postgresql.conf, or of the server's command line, and reload"),
			"the server's settings have pgcast.capture = %s: no write is captured", mine))
	}
	if list == nil {
		list = append(list, ok("no role and no database has it switched off"))
	}
	return list, nil
}

// hidden says that some sessions could not be looked at.
func hidden(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %s of other roles could not be looked at (grant pg_read_all_stats)", several(n, "session"))
}
