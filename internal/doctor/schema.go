package doctor

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/migrations"
)

// checkMigrations reads goose's table, and does not ask goose, which would make one.
func checkMigrations(ctx context.Context, x *exam) ([]finding, error) {
	var noted bool
	if err := x.tx.QueryRow(ctx, "select to_regclass($1) is not null", name(migrations.Table)).Scan(&noted); err != nil {
		return nil, err
	}
	up := inShell("pgcast migrate up")
	switch {
	case !noted && !x.facts.schema:
		return one(fail(up, "this database has no schema pgcast"))
	case !noted:
		return one(fail(inWords("connect with a search_path on which %s is", migrations.Table),
			"schema pgcast is there, but not table %s, where migrations are noted", migrations.Table))
	}
	rows, err := x.tx.Query(ctx, "select distinct version_id from "+name(migrations.Table)+" where is_applied and version_id > 0 order by 1")
	if err != nil {
		return nil, err
	}
	ran, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, err
	}
	ours := migrations.Versions()
	var pending, unknown []string
	for _, v := range ours {
		if !slices.Contains(ran, v) {
			pending = append(pending, fmt.Sprintf("%05d", v))
		}
	}
	for _, v := range ran {
		if !slices.Contains(ours, v) {
			unknown = append(unknown, fmt.Sprintf("%05d", v))
		}
	}
	switch {
	case len(pending) > 0:
		return one(fail(up, "%d of %d have not run: %s", len(pending), len(ours), strings.Join(pending, ", ")))
	case !x.facts.schema:
		return one(fail(inSQL("drop table %s -- then pgcast migrate up", name(migrations.Table)), "all are noted as run, but schema pgcast is not there"))
	case len(unknown) > 0:
		return one(warn(inWords("run a pgcast as new as the database, or a newer one"), "the database has some that this pgcast does not know: %s", strings.Join(unknown, ", ")))
	}
	return one(ok("all %d have run", len(ours)))
}

// checkObjects looks at what the migrations made for what somebody changed since.
func checkObjects(ctx context.Context, x *exam) ([]finding, error) {
	type fault struct{ Found, Mend string }
	faults, err := collect[fault](ctx, x, `
		select format('index %s is invalid', i.indexrelid::regclass),
		       case when c.relname ~ '_cc(new|old)[0-9]*$' then format('drop index %s', i.indexrelid::regclass)
		            else format('reindex index concurrently %s', i.indexrelid::regclass) end
		from pg_index i join pg_class c on c.oid = i.indexrelid
		where c.relnamespace = 'pgcast'::regnamespace and not (i.indisvalid and i.indisready)
		union all
		select format('table %s is unlogged: a crash empties it', c.oid::regclass), format('alter table %s set logged', c.oid::regclass)
		from pg_class c where c.relnamespace = 'pgcast'::regnamespace and c.relkind = 'r' and c.relpersistence = 'u' and c.relname not in ('stage', 'ticket')
		union all
		select format('numbers of events are handed out %s at a time, so that their order is lost', s.seqcache), 'alter sequence pgcast.event_log_id_seq cache 1'
		from pg_sequence s where s.seqrelid = 'pgcast.event_log_id_seq'::regclass and s.seqcache <> 1
		union all
		select 'the planner estimates pgcast.event_log.xid by sampling, and may read the whole log for one transaction',
		       'alter table pgcast.event_log alter column xid set (n_distinct = -1)'
		from pg_attribute a where a.attrelid = 'pgcast.event_log'::regclass and a.attname = 'xid' and 'n_distinct=-1' <> all (coalesce(a.attoptions, '{}'))
		union all
		select format('table %s lacks index %s', e.tbl, e.idx), e.mend
		from (values ('event_log', 'event_log_pkey', 'alter table pgcast.event_log add primary key (id)'),
		             ('event_log', 'event_log_xid', 'create index concurrently event_log_xid on pgcast.event_log (xid)'),
		             ('replay', 'replay_pkey', 'alter table pgcast.replay add primary key (topic_id, seq)'),
		             ('replay', 'replay_position', 'alter table pgcast.replay add constraint replay_position unique (position)'),
		             ('replay', 'replay_event_id', 'alter table pgcast.replay add constraint replay_event_id unique (event_id)')) e (tbl, idx, mend)
		where not exists (select from pg_class c where c.relnamespace = 'pgcast'::regnamespace and c.relname = e.idx and c.relkind = 'i')
		union all
		select format('function %s runs with its owner''s rights and without a search_path of its own', p.oid::regprocedure),
		       format('alter function %s set search_path = pg_catalog, pg_temp', p.oid::regprocedure)
		from pg_proc p where p.pronamespace = 'pgcast'::regnamespace and p.prosecdef
		  and not exists (select from unnest(p.proconfig) c where c like 'search_path=%')
		order by 1`)
	if err != nil {
		return nil, err
	}
	var list []finding
	for _, f := range faults {
		list = append(list, fail(inSQL("%s", f.Mend), "%s", f.Found))
	}
	if list == nil {
		list = append(list, ok("tables, indexes, sequence and functions are as the migrations made them"))
	}
	return cut(list, x.limits.listed), nil
}

// toldElsewhere are problems of each table captured from the WAL that are really one problem.
var toldElsewhere = regexp.MustCompile(`^(wal_level is |replication slot |publication pgcast_capture is gone)`)

// checkDrift asks the schema itself what is wrong with the attached tables.
func checkDrift(ctx context.Context, x *exam) ([]finding, error) {
	var attached int
	if err := x.tx.QueryRow(ctx, "select count(*) from pgcast.attachment").Scan(&attached); err != nil {
		return nil, err
	}
	if attached == 0 {
		return one(note(inShell("pgcast attach TABLE"), "no table is attached"))
	}
	type drift struct{ Table, Problem, Mend string }
	drifts, err := collect[drift](ctx, x, "select relation, problem, mend from pgcast.drift()")
	if err != nil {
		return nil, err
	}
	var list []finding
	elsewhere := 0
	for _, d := range drifts {
		if toldElsewhere.MatchString(d.Problem) {
			elsewhere++
			continue
		}
		f := fail(inSQL("%s", d.Mend), "%s: %s", d.Table, d.Problem)
		if !strings.HasPrefix(d.Mend, "select ") && !strings.HasPrefix(d.Mend, "alter ") {
			f.mend.with = Words // what cannot be mended here
		}
		if d.Mend == "select pgcast.refresh()" {
			f.state = Warn // a server that sequences does that by itself
		}
		list = append(list, f)
	}
	switch {
	case list != nil:
	case elsewhere > 0:
		list = append(list, skip("%s attached; what is wrong with all that are captured from the WAL is told by wal-level, publications and capture-slot", several(attached, "table")))
	default:
		list = append(list, ok("%s attached, and capture is as it should be", several(attached, "table")))
	}
	return cut(list, x.limits.listed), nil
}

// checkIdentity tells whether pgcast has met this cluster already.
func checkIdentity(ctx context.Context, x *exam) ([]finding, error) {
	var stored, elsewhere, timeline, ahead bool
	err := x.tx.QueryRow(ctx, `select s.system_identifier is not null,
			s.system_identifier is distinct from c.system_identifier,
			s.timeline is distinct from ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int,
			(select pg_snapshot_xmax(p.seen) > pg_snapshot_xmax(pg_current_snapshot()) from pgcast.progress p order by p.step desc limit 1)
		from pgcast.sequencer s, pg_control_system() c`).Scan(&stored, &elsewhere, &timeline, &ahead)
	if err != nil {
		return nil, err
	}
	start := inShell("pgcast serve")
	switch {
	case !stored:
		return one(ok("the log has not been sequenced yet"))
	case elsewhere || ahead:
		return one(note(start, "the log was last sequenced on another cluster; it is re-based when a server starts, and clients that know only a seq are reset"))
	case timeline:
		return one(note(start, "the log was last sequenced before a failover or restore; the next server to start notes that, and clients that know only a seq are reset"))
	}
	return one(ok("the cluster the log was last sequenced on"))
}

// checkKeys looks for attached tables whose rows nobody can tell apart.
func checkKeys(ctx context.Context, x *exam) ([]finding, error) {
	list, err := x.listTables(ctx, `select c.oid::regclass::text from pgcast.attachment a join pg_class c on c.oid = a.relation
		where not exists (select from pg_index i where i.indrelid = c.oid and i.indisvalid and (i.indisprimary or i.indisreplident)) order by 1`)
	if err != nil {
		return nil, err
	}
	var findings []finding
	for _, table := range list {
		findings = append(findings, note(inWords("alter table %s add primary key, on the columns that tell its rows apart", table), "%s has no primary key", table))
	}
	if findings == nil {
		findings = append(findings, ok("every attached table has a primary key, or a replica identity"))
	}
	return cut(findings, x.limits.listed), nil
}

// checkReplicaIdentity looks for published tables that Postgres does not let anybody
// update. Capture by triggers needs no replica identity.
func checkReplicaIdentity(ctx context.Context, x *exam) ([]finding, error) {
	list, err := x.listTables(ctx, `select distinct c.oid::regclass::text
		from pgcast.attachment a, lateral pgcast.members_of(a.relation) m join pg_class c on c.oid = m.rel join pg_namespace n on n.oid = c.relnamespace
		join pg_publication_tables t on t.schemaname = n.nspname and t.tablename = c.relname join pg_publication p on p.pubname = t.pubname
		where c.relkind = 'r' and (p.pubupdate or p.pubdelete)
		  and case c.relreplident when 'f' then false when 'n' then true
		      when 'd' then not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary and i.indisvalid)
		      else not exists (select from pg_index i where i.indrelid = c.oid and i.indisreplident and i.indisvalid) end order by 1`)
	if err != nil {
		return nil, err
	}
	var findings []finding
	for _, table := range list {
		findings = append(findings, fail(inSQL("alter table %s replica identity full", table),
			"%s is in a publication and has no replica identity: its updates and deletes fail", table))
	}
	if findings == nil {
		findings = append(findings, ok("no published table lacks one; triggers need none"))
	}
	return cut(findings, x.limits.listed), nil
}

func (x *exam) listTables(ctx context.Context, query string) ([]string, error) {
	rows, err := x.tx.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
