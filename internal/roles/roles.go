// Package roles writes the SQL that divides the rights in a database among three roles: an
// owner that cannot log in and that everything of pgcast's belongs to, one that servers run as,
// and one for applications that write. The log is safe from the last two as far as a database
// can say: neither can forge, change or take away what is in it, but for what servers trim.
package roles

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/migrations"
)

// Options name the roles; the zero value of each field stands for its default.
type Options struct {
	Owner  string // default pgcast_owner
	Server string // default pgcast_server
	Writer string // default pgcast_writer
	// WAL says that servers capture from the WAL or are woken by it, which takes REPLICATION.
	WAL bool
}

// Set gives the options with the defaults in their places.
func (o Options) Set() Options {
	for _, f := range []struct {
		field *string
		value string
	}{{&o.Owner, "pgcast_owner"}, {&o.Server, "pgcast_server"}, {&o.Writer, "pgcast_writer"}} {
		if *f.field == "" {
			*f.field = f.value
		}
	}
	return o
}

// Section is a few statements that belong together.
type Section struct {
	About      string
	Statements []string // without a semicolon at the end
}

// Script gives what makes the roles of a database as they should be, for a role that may: a
// superuser, or whoever migrated, with CREATEROLE. It reads the database, and changes nothing.
// Run again, after a migration or after a table was attached, it does what is missing, and
// takes back what is too much. The error says so where schema pgcast is missing.
func Script(ctx context.Context, conn *pgx.Conn, options Options) ([]Section, error) {
	w := &writer{ctx: ctx, conn: conn, Options: options.Set()}
	if w.Owner == w.Server || w.Owner == w.Writer || w.Server == w.Writer {
		return nil, fmt.Errorf("%w: the three roles must be different ones", ErrNames)
	}
	var there bool
	err := conn.QueryRow(ctx, "select current_database(), exists (select from pg_class where relnamespace = to_regnamespace('pgcast') and relname = 'event_log')").Scan(&w.database, &there)
	if err != nil {
		return nil, fmt.Errorf("look for schema pgcast: %w", err)
	}
	if !there {
		return nil, ErrNoSchema
	}
	for _, part := range []func() error{w.roles, w.ownership, w.rights, w.tables} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	return w.sections, nil
}

// writer writes one script.
type writer struct {
	Options
	ctx      context.Context
	conn     *pgx.Conn
	database string
	sections []Section
}

func (w *writer) add(about string, statements ...string) {
	if len(statements) > 0 {
		w.sections = append(w.sections, Section{about, statements})
	}
}

// quote writes a name; plainly where it is surely no word of SQL's.
func quote(name string) string {
	if strings.HasPrefix(name, "pgcast_") && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == "" {
		return name
	}
	return pgx.Identifier{name}.Sanitize()
}

// literal writes a string constant.
func literal(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return " E'" + strings.ReplaceAll(s, `\`, `\\`) + "'"
	}
	return "'" + s + "'"
}

// strings reads a list of statements.
func (w *writer) strings(sql string, args ...any) ([]string, error) {
	rows, err := w.conn.Query(w.ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// roles makes those that are missing, and takes from the others what they must not have.
func (w *writer) roles() error {
	var list []string
	for _, r := range []struct{ name, may string }{{w.Owner, "nologin"}, {w.Server, "login"}, {w.Writer, "nologin"}} {
		body := fmt.Sprintf(" begin if not exists (select from pg_roles where rolname = %s) then create role %s %s; end if; end ", literal(r.name), quote(r.name), r.may)
		tag := "$$"
		for strings.Contains(body, tag) {
			tag = "$x" + tag[1:]
		}
		list = append(list, "do "+tag+body+tag)
	}
	wrong, err := w.strings(`select format('alter role %I', r.rolname)
			|| case when r.rolname = $1 and r.rolcanlogin then ' nologin' when r.rolname = $2 and not r.rolcanlogin then ' login' else '' end
			|| case when r.rolsuper then ' nosuperuser' else '' end || case when r.rolcreaterole then ' nocreaterole' else '' end
			|| case when r.rolbypassrls and r.rolname = $3 then ' nobypassrls' else '' end
			|| case when r.rolreplication and not (r.rolname = $2 and $4) then ' noreplication' else '' end
		from pg_roles r where r.rolname in ($1, $2, $3) and (r.rolname = $1 and r.rolcanlogin or r.rolname = $2 and not r.rolcanlogin or r.rolsuper or r.rolcreaterole
			or r.rolbypassrls and r.rolname = $3 or r.rolreplication and not (r.rolname = $2 and $4)) order by r.rolname`, w.Owner, w.Server, w.Writer, w.WAL)
	if err != nil {
		return fmt.Errorf("look at the roles: %w", err)
	}
	list = append(list, wrong...)
	if w.WAL {
		list = append(list, fmt.Sprintf("alter role %s replication", quote(w.Server)))
	}
	// A member could do all that the others can, and forge what he likes.
	members, err := w.strings(`select format('revoke %I from %I', o.rolname, m.rolname) from pg_auth_members a
		join pg_roles o on o.oid = a.roleid join pg_roles m on m.oid = a.member
		where o.rolname = $1 and m.rolname in ($2, $3) or o.rolname = $2 and m.rolname = $3 order by 1`, w.Owner, w.Server, w.Writer)
	if err != nil {
		return fmt.Errorf("look at who is a member of the roles: %w", err)
	}
	list = append(list, members...)
	// Only a member can give something to a role, or migrate in its name.
	join, err := w.strings(`select format('grant %I to %I', $1::text, r.rolname) from pg_roles r where r.rolname = current_user and not r.rolsuper and r.rolname not in ($1, $2, $3)
		and not coalesce((select pg_has_role(o.oid, 'usage') from pg_roles o where o.rolname = $1), false)`, w.Owner, w.Server, w.Writer)
	if err != nil {
		return fmt.Errorf("look at the role that is connected: %w", err)
	}
	list = append(list, join...)
	about := "Roles. " + w.Server + " has no password yet: \\password " + w.Server
	if w.WAL {
		about += "\nREPLICATION lets it read, from the WAL, every change of every database of this cluster\nthat is published, and copy the whole cluster where pg_hba.conf admits it to replication."
	}
	w.add(about, list...)
	return nil
}

// ownership gives everything of pgcast's to the owner.
func (w *writer) ownership() error {
	create := fmt.Sprintf("grant create on database %s to %s", quote(w.database), quote(w.Owner))
	list, err := w.strings(`with o as (select coalesce((select oid from pg_roles where rolname = $1), 0) as oid)
		select sql from (
			select 0, '', format('alter schema pgcast owner to %I', $1::text) as sql from pg_namespace n, o where n.nspname = 'pgcast' and n.nspowner <> o.oid
			union all
			select 1, c.relname::text, format('alter %s %s owner to %I', case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end, format('%I.%I', n.nspname, c.relname), $1::text)
			from pg_class c join pg_namespace n on n.oid = c.relnamespace, o
			where (n.nspname = 'pgcast' and c.relkind in ('r', 'p', 'v', 'S') or c.relname = $2 and c.relkind = 'r') and c.relowner <> o.oid
				and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i') and c.relkind = 'S')
			union all
			select 2, t.typname::text, format('alter type pgcast.%I owner to %I', t.typname, $1::text) from pg_type t left join pg_class c on c.oid = t.typrelid, o
			where t.typnamespace = 'pgcast'::regnamespace and (t.typtype = 'c' and c.relkind = 'c' or t.typtype in ('e', 'd')) and t.typowner <> o.oid
			union all
			select 3, p.proname::text, format('alter function %s owner to %I', p.oid::regprocedure, $1::text) from pg_proc p, o where p.pronamespace = 'pgcast'::regnamespace and p.proowner <> o.oid
			union all
			select 4, b.pubname::text, format('alter publication %I owner to %I', b.pubname, $1::text) from pg_publication b, o
			where b.pubname in ('pgcast_wake', 'pgcast_steps', 'pgcast_capture') and b.pubowner <> o.oid) x (n, name, sql) order by n, name`, w.Owner, migrations.Table)
	if err != nil {
		return fmt.Errorf("look at what belongs to whom: %w", err)
	}
	w.add("What is pgcast's belongs to a role that nobody can log in as. It makes publications, which\ntakes CREATE on the database.", append([]string{create}, list...)...)
	return nil
}

// rights gives servers and writers what is theirs, and no more.
func (w *writer) rights() error {
	tables, err := w.strings(`select relname::text from pg_class where relnamespace = 'pgcast'::regnamespace and relkind in ('r', 'p', 'v', 'S')`)
	if err != nil {
		return fmt.Errorf("list the tables: %w", err)
	}
	procs, err := w.strings(`select proname::text from pg_proc where pronamespace = 'pgcast'::regnamespace`)
	if err != nil {
		return fmt.Errorf("list the functions: %w", err)
	}
	both := quote(w.Server) + ", " + quote(w.Writer)
	w.add("Nothing but what follows.",
		"revoke all on schema pgcast from "+both,
		"revoke all on all tables in schema pgcast from "+both,
		"revoke all on all sequences in schema pgcast from "+both,
		"revoke all on all functions in schema pgcast from "+both,
		"grant usage on schema pgcast to "+both)
	var list []string
	for _, o := range relations {
		if !slices.Contains(tables, o.name) {
			continue // a schema that is older, or newer
		}
		what := o.server
		if w.WAL && o.wal != "" {
			what = strings.TrimPrefix(what+", "+o.wal, ", ")
		}
		if what == "" {
			continue
		}
		kind := "table"
		if what == "usage" {
			kind = "sequence"
		}
		list = append(list, fmt.Sprintf("grant %s on %s pgcast.%s to %s", what, kind, quote(o.name), quote(w.Server)))
	}
	// A server that starts looks which migrations have run.
	noted, err := w.strings(`select format('grant select on table %I.%I to %I', n.nspname, c.relname, $2::text) from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where c.relname = $1 and c.relkind = 'r'`, migrations.Table, w.Server)
	if err != nil {
		return fmt.Errorf("look where migrations are noted: %w", err)
	}
	w.add("What servers do: number events and trim them.", append(list, noted...)...)
	calls := func(may func(who int) bool) string {
		var names []string
		for _, name := range slices.Sorted(maps.Keys(functions)) {
			if may(functions[name]) && slices.Contains(procs, name) {
				names = append(names, "pgcast."+name)
			}
		}
		return strings.Join(names, ",\n  ")
	}
	w.add("What servers call.", fmt.Sprintf("grant execute on function\n  %s\n  to %s",
		calls(func(who int) bool { return who == byServer || who == byAll || who == byWAL && w.WAL }), quote(w.Server)))
	w.add("What writers call. Capture needs nothing of them: it runs with the owner's rights.\nGive this role to the application's: grant "+quote(w.Writer)+" to …",
		fmt.Sprintf("grant execute on function\n  %s\n  to %s", calls(func(who int) bool { return who == byAll }), quote(w.Writer)))
	return nil
}

// tables gives servers what snapshots read of attached tables, and the owner what capture
// looks at.
func (w *writer) tables() error {
	list, err := w.strings(attachedQuery, w.Owner, w.Server)
	if err != nil {
		return fmt.Errorf("look at the attached tables: %w", err)
	}
	w.add("Attached tables: snapshots read, as the server's role, the columns that are captured; capture\nlooks at a table's shape. Run this again when you have attached another one.", list...)
	return nil
}
