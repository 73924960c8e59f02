package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/pgcast/pgcast/internal/roles"
	"github.com/pgcast/pgcast/listener"
	"github.com/pgcast/pgcast/migrations"
)

func (a *app) uninstallCommand() *cobra.Command {
	var yes, asJSON, dropRoles bool
	var wait time.Duration
	var names roles.Options
	cmd := &cobra.Command{
		Use:     "uninstall",
		GroupID: groupTable,
		Short:   "Remove everything that pgcast has in a database",
		Long: `Remove everything that pgcast has in a database: the triggers of attached tables,
schema pgcast with the whole log, the table in which migrations are noted, the publications,
the replication slot, and what the roles of pgcast roles were granted beside that. Your tables and
their rows stay; the roles too, which may be used in other databases, but with --drop-roles.

Without --yes it lists what there is, and removes nothing. It also cleans up after a schema
that somebody dropped by hand, or of which a part is gone. Stop the servers first; one that
still runs loses the slot it reads, and from then on logs errors.`,
		Example: `  pgcast uninstall
  pgcast uninstall --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			u := removal{yes: yes, asJSON: asJSON, wait: wait, names: names.Set(), dropRoles: dropRoles}
			return a.uninstall(cmd.Context(), u)
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	cmd.Flags().BoolVar(&yes, "yes", false, "really do it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "list as one JSON object per line")
	addWait(cmd.Flags(), &wait)
	addRoles(cmd.Flags(), &names)
	cmd.Flags().BoolVar(&dropRoles, "drop-roles", false, "drop the roles too")
	return cmd
}

// removal is what is to be removed, and how.
type removal struct {
	yes, asJSON, dropRoles bool
	wait                   time.Duration
	names                  roles.Options
}

// remain is one thing of pgcast's in a database.
type remain struct {
	Kind string `json:"kind"` // captured, slot, publication, schema, table, rights or role
	Name string `json:"name"` // as SQL writes it; a slot's as it is
	More string `json:"more"`
	Drop string `json:"-"` // what drops it within a transaction; "" where something else does
}

// remainsQuery looks in the catalogs only: the schema may be of any version, or gone.
const remainsQuery = `
	select 'captured', t.tgrelid::regclass::text, count(*) || case when count(*) = 1 then ' trigger' else ' triggers' end, '', 1 as n
	from pg_trigger t join pg_proc f on f.oid = t.tgfoid join pg_namespace s on s.oid = f.pronamespace
	where s.nspname = 'pgcast' and t.tgrelid not in (select c.oid from pg_class c where c.relnamespace = s.oid)
		and not exists (select from pg_inherits i join pg_trigger p on p.tgrelid = i.inhparent and p.tgfoid = t.tgfoid where i.inhrelid = t.tgrelid)
	group by t.tgrelid
	union all
	select 'captured', r.prrelid::regclass::text, 'from the WAL' || case when c.relreplident = 'f' then '; keeps REPLICA IDENTITY FULL' else '' end, '', 1
	from pg_publication p join pg_publication_rel r on r.prpubid = p.oid join pg_class c on c.oid = r.prrelid
	where p.pubname = 'pgcast_capture' and c.relnamespace is distinct from (select oid from pg_namespace where nspname = 'pgcast')
	union all
	select 'publication', quote_ident(p.pubname), '', format('drop publication %I', p.pubname), 2
	from pg_publication p where p.pubname in ('pgcast_wake', 'pgcast_steps', 'pgcast_capture')
	union all
	select 'schema', 'pgcast', format('%s tables, %s functions, %s', (select count(*) from pg_class c where c.relnamespace = n.oid and c.relkind = 'r'),
		(select count(*) from pg_proc f where f.pronamespace = n.oid),
		pg_size_pretty((select coalesce(sum(pg_total_relation_size(c.oid)), 0) from pg_class c where c.relnamespace = n.oid and c.relkind = 'r'))),
		'drop schema pgcast cascade', 3
	from pg_namespace n where n.nspname = 'pgcast'
	union all
	select 'table', format('%I.%I', n.nspname, c.relname), 'where migrations are noted', format('drop table %I.%I', n.nspname, c.relname), 4
	from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relname = '` + migrations.Table + `' and c.relkind = 'r' and n.nspname <> 'pgcast'
	union all
	select 'slot', s.slot_name, case when s.active then format('session %s reads it', s.active_pid) else 'nobody reads it' end, '', 5
	from pg_replication_slots s where s.database = current_database() and s.slot_name ~ '^pgcast_capture_[0-9]+$'
	union all
	select distinct 'rights', format('%s on %s %s', r.rolname, x.kind, x.name), '', format('revoke all on %s %s from %I', x.kind, x.name, r.rolname), 6
	from pg_roles r join (
		select 'table', format('%I.%I', n.nspname, c.relname), g.grantee from pg_class c join pg_namespace n on n.oid = c.relnamespace, lateral aclexplode(c.relacl) g
		where n.nspname <> 'pgcast' and c.relname <> '` + migrations.Table + `' and g.grantee <> c.relowner
		union all
		select 'table', format('%I.%I', n.nspname, c.relname), g.grantee from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace, lateral aclexplode(a.attacl) g
		where n.nspname <> 'pgcast' and g.grantee <> c.relowner
		union all
		select 'schema', quote_ident(n.nspname), g.grantee from pg_namespace n, lateral aclexplode(n.nspacl) g where n.nspname <> 'pgcast' and g.grantee <> n.nspowner
		union all
		select 'database', quote_ident(d.datname), g.grantee from pg_database d, lateral aclexplode(d.datacl) g where d.datname = current_database() and g.grantee <> d.datdba
	) x (kind, name, grantee) on x.grantee = r.oid where r.rolname in ($1, $2)
	union all
	select 'role', quote_ident(r.rolname), '', '', 7 from pg_roles r where r.rolname in ($1, $2, $3) and $4
	order by 5, 2`

// remains lists them in the order in which they are to go.
func remains(ctx context.Context, conn *pgx.Conn, u removal) ([]remain, error) {
	rows, err := conn.Query(ctx, "select kind, name, more, dropping from ("+remainsQuery+") r (kind, name, more, dropping, n)", u.names.Owner, u.names.Server, u.names.Writer, u.dropRoles)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[remain])
}

func (a *app) uninstall(ctx context.Context, u removal) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	list, err := remains(ctx, conn, u)
	if err != nil {
		return err
	}
	servers, err := a.servers(ctx, conn)
	if err != nil {
		return err
	}
	if u.asJSON {
		if err := printLines(a, list); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		a.sayf("nothing to remove: this database has nothing of pgcast\n")
		return nil
	}
	if !u.yes {
		if !u.asJSON {
			if err := a.printRemains(list); err != nil {
				return err
			}
		}
		a.sayServers(servers)
		return invalid("add --yes if that is what you want", "this removes everything that pgcast has in this database, with the whole log")
	}
	if err := mayUninstall(ctx, conn, list); err != nil {
		return err
	}
	if err := a.dropAll(ctx, conn, list, u.wait); err != nil {
		return err
	}
	for _, r := range list {
		switch r.Kind {
		case "slot":
			err = dropSlot(ctx, conn, r.Name, u.wait)
		case "role": // last, and by itself: other databases may need it
			_, err = conn.Exec(ctx, "drop role "+r.Name)
		default:
			continue
		}
		if err != nil {
			return err
		}
		a.sayf("removed %s %s\n", r.Kind, plain(r.Name))
	}
	a.sayServers(servers)
	switch list, err = remains(ctx, conn, u); {
	case err != nil:
		return err
	case len(list) > 0:
		return invalid("stop the servers, and run pgcast uninstall again", "%s %s has been made anew meanwhile", list[0].Kind, plain(list[0].Name))
	}
	a.sayf("this database has nothing of pgcast any more\n")
	return nil
}

func (a *app) printRemains(list []remain) error {
	t := a.newTable([]string{"what", "name", "more"})
	for _, r := range list {
		t.add(r.Kind, r.Name, r.More)
	}
	return t.close()
}

// servers tells of the servers that work on the database, one line each.
func (a *app) servers(ctx context.Context, conn *pgx.Conn) (list []string, err error) {
	holders, err := listener.Holders(ctx, conn)
	if err != nil {
		return nil, err
	}
	for _, h := range holders {
		if h.Lock != listener.Lead && h.Lock != listener.Follow {
			continue
		}
		at := ""
		if h.Address != "" {
			at = " at " + h.Address
		}
		list = append(list, fmt.Sprintf("a pgcast server runs on this database%s (session %d); stop it", at, h.PID))
	}
	return list, nil
}

func (a *app) sayServers(list []string) {
	for _, text := range list {
		a.sayf("%s %s\n", a.paint(a.err).yellow("warning:"), text)
	}
}

// dependentsQuery lists what is not pgcast's and would go with schema pgcast.
const dependentsQuery = `
	with recursive needs (classid, objid) as (
		select 'pg_namespace'::regclass::oid, n.oid from pg_namespace n where n.nspname = 'pgcast'
		union
		select d.classid, d.objid from needs n join pg_depend d on (d.refclassid, d.refobjid) = (n.classid, n.objid) where d.deptype in ('n', 'a', 'i', 'P', 'S')
	)
	select distinct regexp_replace(i.type || ' ' || i.identity, '^rule "_RETURN" on', 'view') from needs n, pg_identify_object(n.classid, n.objid, 0) i
	where i.type not in ('trigger', 'publication relation', 'schema') and coalesce(i.schema, '') not in ('pgcast', 'pg_toast')
	  and i.identity !~ '(^| )(for|on) (pgcast|pg_toast)\.' order by 1`

// mayUninstall refuses before anything is gone: what somebody else has built on schema
// pgcast, and slots that this role may not drop.
func mayUninstall(ctx context.Context, conn *pgx.Conn, list []remain) error {
	rows, err := conn.Query(ctx, dependentsQuery)
	if err != nil {
		return err
	}
	others, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return invalid("drop it, or change it so that it does not use schema pgcast", "%s would go with schema pgcast, and is not pgcast's", plain(others[0]))
	}
	if !slices.ContainsFunc(list, func(r remain) bool { return r.Kind == "slot" }) {
		return nil
	}
	var may bool
	var role string
	if err := conn.QueryRow(ctx, "select rolsuper or rolreplication, quote_ident(rolname) from pg_roles where rolname = current_user").Scan(&may, &role); err != nil {
		return err
	}
	if !may {
		return invalid("alter role "+role+" replication, or connect as a role that has it", "role %s may not drop the replication slot", role)
	}
	return nil
}

// lockQuery gives the tables that a transaction which drops the schema has to itself.
const lockQuery = `
	select c.oid, format('%I.%I', n.nspname, c.relname), has_table_privilege(c.oid, 'update') or has_table_privilege(c.oid, 'delete') or has_table_privilege(c.oid, 'truncate')
	from pg_class c join pg_namespace n on n.oid = c.relnamespace
	where c.relkind in ('r', 'p') and (n.nspname = 'pgcast' or c.relname = '` + migrations.Table + `' or c.oid in (
		select t.tgrelid from pg_trigger t join pg_proc f on f.oid = t.tgfoid join pg_namespace s on s.oid = f.pronamespace where s.nspname = 'pgcast'))
	order by n.nspname = 'pgcast', 2`

// lockPatience is for all locks together: less than Postgres waits before it looks for a
// deadlock, so that where a writer and we wait for each other it is us who give up. It is
// also how long writers may have to queue behind us, again and again.
const lockPatience = 400 * time.Millisecond

// dropAll drops all but the slots, or nothing.
func (a *app) dropAll(ctx context.Context, conn *pgx.Conn, list []remain, wait time.Duration) error {
	type table struct {
		OID  uint32
		Name string
		May  bool
	}
	rows, err := conn.Query(ctx, lockQuery)
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[table])
	if err != nil {
		return err
	}
	var oids []uint32
	lock := ""
	for _, t := range tables {
		oids = append(oids, t.OID)
		if t.May {
			lock += map[bool]string{true: "lock table ", false: ", "}[lock == ""] + t.Name
		}
	}
	if lock != "" {
		lock += " in access exclusive mode"
	}
	p := a.waiting(wait)
	for {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			for _, sql := range append([]string{
				"select set_config('client_min_messages', 'warning', true), set_config('lock_timeout', '" + fmt.Sprint(lockPatience.Milliseconds()) + "', true)," +
					" set_config('statement_timeout', '" + fmt.Sprint(lockPatience.Milliseconds()) + "', true)",
				fmt.Sprintf("select pg_advisory_xact_lock(%d, %d)", listener.LockClass, listener.Attach),
				lock,
				"select set_config('statement_timeout', '0', true)",
			}, dropping(list)...) {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return err
				}
			}
			return nil
		})
		if !isPostgres(err, "55P03", "57014", "40P01") || ctx.Err() != nil {
			if err == nil {
				a.sayRemoved(list)
			}
			return err
		}
		who, err := lockHolders(ctx, conn, oids)
		if err != nil {
			return err
		}
		if err := p.wait(ctx, "the tables", who); err != nil {
			return err
		}
	}
}

func dropping(list []remain) []string {
	var statements []string
	for _, r := range list {
		if r.Drop != "" {
			statements = append(statements, r.Drop)
		}
	}
	return statements
}

func (a *app) sayRemoved(list []remain) {
	for _, r := range list {
		switch r.Kind {
		case "captured":
			a.sayf("detached %s (%s)\n", plain(r.Name), r.More)
		case "rights":
			a.sayf("revoked the rights of %s\n", plain(r.Name))
		case "slot", "role": // are still there
		default:
			a.sayf("removed %s %s\n", r.Kind, plain(r.Name))
		}
	}
}

// dropSlot drops a slot whoever reads it: his session is ended, and he may come back
// before it is dropped, so it is ended again.
func dropSlot(ctx context.Context, conn *pgx.Conn, slot string, wait time.Duration) error {
	late := time.Now().Add(wait)
	for {
		_, err := conn.Exec(ctx, "select pg_drop_replication_slot(s.slot_name) from pg_replication_slots s where s.slot_name = $1", slot)
		if err == nil || isPostgres(err, "42704") { // somebody was faster
			return nil
		}
		if !isPostgres(err, "55006") || time.Now().After(late) {
			return fmt.Errorf("drop replication slot %s: %w", slot, err)
		}
		if _, err := conn.Exec(ctx, "select pg_terminate_backend(s.active_pid) from pg_replication_slots s where s.slot_name = $1 and s.active", slot); err != nil {
			return fmt.Errorf("end the session that reads replication slot %s: %w", slot, err)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// isPostgres tells errors of Postgres with one of some codes.
func isPostgres(err error, codes ...string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && slices.Contains(codes, pg.Code)
}
