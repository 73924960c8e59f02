package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcast/pgcast/internal/roles"
)

// missingQuery lists which of some rights the role lacks, those on what there is.
const missingQuery = `
	with w as (select * from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality w (kind, name, privilege, col, n))
	select w.n::int - 1 from w join pg_class c on c.relname = w.name and c.relnamespace = (select oid from pg_namespace where nspname = 'pgcast')
	where w.kind in ('table', 'sequence') and not case when w.kind = 'sequence' then has_sequence_privilege(c.oid, w.privilege)
		when w.col = '' then has_table_privilege(c.oid, w.privilege) else has_column_privilege(c.oid, w.col, w.privilege) end
	union all
	select w.n::int - 1 from w join pg_proc p on p.proname = w.name and p.pronamespace = (select oid from pg_namespace where nspname = 'pgcast')
	where w.kind = 'function' and not has_function_privilege(p.oid, 'execute')
	order by 1`

// missingRights lists what a server's role must be allowed to and is not.
func (x *exam) missingRights(ctx context.Context) ([]string, error) {
	var captures bool
	err := x.tx.QueryRow(ctx, `select exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid join pg_class c on c.oid = r.prrelid
		join pg_namespace n on n.oid = c.relnamespace where p.pubname = 'pgcast_capture' and n.nspname <> 'pgcast')`).Scan(&captures)
	if err != nil {
		return nil, err
	}
	rights := roles.ServerRights(captures)
	var parts [4][]string
	for _, r := range rights {
		for i, part := range []string{r.Kind, r.Name, r.Privilege, r.Column} {
			parts[i] = append(parts[i], part)
		}
	}
	missing, err := scalars[int](ctx, x, missingQuery, parts[0], parts[1], parts[2], parts[3])
	if err != nil {
		return nil, err
	}
	list, err := scalars[string](ctx, x, `select 'usage on schema pgcast' from pg_namespace n where n.nspname = 'pgcast' and not has_schema_privilege(n.oid, 'usage')
		union all select 'execute on function pg_control_system' where not has_function_privilege('pg_control_system()', 'execute')
		union all select 'execute on function ' || p.oid::regprocedure from pg_proc p
		where p.pronamespace = 'pg_catalog'::regnamespace and p.proname = 'pg_logical_emit_message' and p.proargtypes[2] = 'text'::regtype and not has_function_privilege(p.oid, 'execute')`)
	for _, i := range missing {
		list = append(list, rights[i].String())
	}
	return list, err
}

// standing is what a role is to schema pgcast.
type standing struct {
	owns    bool // it is the owner, or a member
	divided bool // the owner is a role that nobody can log in as
	reads   bool // it sees what the sessions of others do
	local   bool // the database is on this machine
}

func checkPrivileges(ctx context.Context, x *exam) ([]finding, error) {
	missing, err := x.missingRights(ctx)
	if err != nil {
		return nil, err
	}
	s := standing{local: x.isLocal()}
	err = x.tx.QueryRow(ctx, `select pg_has_role(n.nspowner, 'usage'), not r.rolcanlogin, pg_has_role('pg_read_all_stats', 'usage')
		from pg_namespace n join pg_roles r on r.oid = n.nspowner where n.nspname = 'pgcast'`).Scan(&s.owns, &s.divided, &s.reads)
	if err != nil {
		return nil, err
	}
	list := []finding{judgePrivileges(&x.facts, s, missing)}
	if len(missing) > 0 {
		return list, nil
	}
	unread, err := scalars[string](ctx, x, `select a.relation::text from pgcast.attachment a join pg_class c on c.oid = a.relation
		where not has_schema_privilege(c.relnamespace, 'usage') or not has_table_privilege(a.relation, 'select') and exists (
			select from jsonb_array_elements_text(pgcast.resolve(a.relation, pgcast.spec_of(a.relation))->'captured') n where not has_column_privilege(a.relation, n, 'select')) order by 1`)
	if err != nil {
		return nil, err
	}
	for _, table := range unread {
		m := inSQL("grant select on %s to %s", table, name(x.facts.role))
		if s.divided {
			m = inShell("pgcast roles --apply --owner %s --server %s", shell(x.facts.owner), shell(x.facts.role))
		}
		list = append(list, warn(m, "role %s may not read %s: there are no snapshots of its topics", x.facts.role, table))
	}
	return cut(list, x.limits.listed), nil
}

// judgePrivileges says what is to be thought of a role that servers run as.
func judgePrivileges(f *facts, s standing, missing []string) finding {
	divide := inShell("pgcast roles --apply # as a superuser; then let servers run as role pgcast_server")
	more := note
	if !s.local {
		more = warn
	}
	switch {
	case len(missing) == 1 && strings.HasPrefix(missing[0], "execute on function pg_"):
		return fail(inSQL("grant %s to %s", missing[0], name(f.role)), "role %s lacks %s", f.role, missing[0])
	case len(missing) > 0 && s.divided:
		return fail(inShell("pgcast roles --apply --owner %s --server %s", shell(f.owner), shell(f.role)), "role %s lacks %s", f.role, strings.Join(missing, ", "))
	case len(missing) > 0:
		return fail(inSQL("grant %s to %s", name(f.owner), name(f.role)), "role %s lacks %s", f.role, strings.Join(missing, ", "))
	case f.superuser:
		return more(divide, "role %s is a superuser, which is more than is needed", f.role)
	case s.owns && s.divided:
		return warn(inSQL("revoke %s from %s", name(f.owner), name(f.role)), "role %s is a member of %s, which owns schema pgcast: whoever is the server can do anything to the log", f.role, f.owner)
	case s.owns && !s.local:
		return warn(divide, "role %s owns schema pgcast, which is more than is needed", f.role)
	case !s.reads:
		return note(inSQL("grant pg_read_all_stats to %s", name(f.role)),
			"role %s may do all that is needed; what other roles' sessions do is hidden from it, and from some of these checks", f.role)
	case s.owns:
		return ok("role %s owns schema pgcast and sees all sessions", f.role)
	}
	return ok("role %s may do what servers do, and no more of what the owner may, and sees all sessions", f.role)
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
		union all
		select case g.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(g.grantee)) end, lower(g.privilege_type) || ' (' || quote_ident(a.attname) || ')', c.oid::regclass::text, false
		from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace, lateral aclexplode(a.attacl) g
		where n.nspname = 'pgcast' and c.relkind = 'r' and g.grantee <> c.relowner and g.privilege_type in ('INSERT', 'UPDATE')
		order by 3, 1, 2`)
	if err != nil {
		return nil, err
	}
	// A role that gives events their places is the servers', who also trim them.
	servers, err := scalars[string](ctx, x, `select quote_ident(r.rolname) from pg_roles r join pg_class c on c.relnamespace = (select oid from pg_namespace where nspname = 'pgcast') and c.relname = 'replay',
		lateral aclexplode(c.relacl) g where g.grantee = r.oid and g.privilege_type = 'INSERT' and r.oid <> c.relowner`)
	if err != nil {
		return nil, err
	}
	mayServers := map[string]bool{}
	for _, r := range roles.ServerRights(true) {
		mayServers[r.String()] = true
	}
	grants = slices.DeleteFunc(grants, func(g grant) bool {
		return !g.Function && slices.Contains(servers, g.Grantee) && mayServers[g.Privilege+" on "+g.Object]
	})
	var list []finding
	for _, g := range grants {
		if g.Function {
			list = append(list, fail(inSQL("revoke execute on function %s from public", g.Object), "anybody may call %s", g.Object))
		} else {
			list = append(list, fail(inSQL("revoke %s on %s from %s", g.Privilege, g.Object, g.Grantee), "%s may %s %s", g.Grantee, g.Privilege, g.Object))
		}
	}
	if list == nil {
		list = append(list, ok("nobody but the owner, and servers, may write to the log or call what is not granted"))
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
