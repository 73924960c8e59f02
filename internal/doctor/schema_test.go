package doctor

import (
	"fmt"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

func TestMigrations(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Empty: true})
	rs := examine(t, db.URL, nil)
	rs.want(t, "migrations", Fail, "no schema pgcast", "pgcast migrate up")
	for _, name := range []string{"schema", "triggers", "lag", "retention", "sequencer", "cluster-identity"} {
		rs.want(t, name, Skip, "no schema pgcast")
	}
	if err := migrations.Up(t.Context(), db.URL); err != nil {
		t.Fatal(err)
	}
	examine(t, db.URL, nil, "migrations").want(t, "migrations", OK, "all")

	db.Exec(t, "insert into "+migrations.Table+" (version_id, is_applied) values (99, true)")
	examine(t, db.URL, nil, "migrations").want(t, "migrations", Warn, "does not know: 00099", "newer")
	db.Exec(t, "delete from "+migrations.Table+" where version_id in (99, 6)")
	db.Exec(t, "drop function pgcast.drift; create table public.t (id int primary key)")
	db.Exec(t, "select pgcast.attach('public.t')")
	rs = examine(t, db.URL, nil, "migrations", "triggers")
	rs.want(t, "migrations", Fail, fmt.Sprintf("1 of %d have not run: 00006", len(migrations.Versions())))
	rs.want(t, "triggers", Skip, "drift", "see migrations")
	db.Exec(t, "alter table "+migrations.Table+" rename to x")
	examine(t, db.URL, nil, "migrations").want(t, "migrations", Fail, "but not table "+migrations.Table)
	db.Exec(t, "alter table x rename to "+migrations.Table)
	db.Exec(t, "drop schema pgcast cascade; insert into "+migrations.Table+" (version_id, is_applied) values (6, true)")
	examine(t, db.URL, nil, "migrations").want(t, "migrations", Fail, "noted as run", "drop table")
}

func TestObjects(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	examine(t, db.URL, nil, "schema").want(t, "schema", OK)
	run(t, conn, `alter sequence pgcast.event_log_id_seq cache 10; alter table pgcast.publish_key set unlogged;
		alter table pgcast.event_log alter column xid reset (n_distinct); drop index pgcast.event_log_xid;
		alter table pgcast.replay drop constraint replay_event_id;
		alter function pgcast.publish reset search_path;
		update pg_index set indisvalid = false where indexrelid = 'pgcast.topic_tail_position'::regclass;
		create index topic_tail_position_ccnew on pgcast.topic_tail (position);
		update pg_index set indisvalid = false where indexrelid = 'pgcast.topic_tail_position_ccnew'::regclass`)
	rs := examine(t, db.URL, nil, "schema")
	rs.want(t, "schema", Fail, "10 at a time", "cache 1")
	rs.want(t, "schema", Fail, "pgcast.publish_key is unlogged", "set logged")
	rs.want(t, "schema", Fail, "by sampling", "n_distinct = -1")
	rs.want(t, "schema", Fail, "lacks index event_log_xid", "create index concurrently")
	rs.want(t, "schema", Fail, "lacks index replay_event_id", "add constraint")
	rs.want(t, "schema", Fail, "pgcast.publish(text,text,jsonb,text)", "set search_path")
	rs.want(t, "schema", Fail, "topic_tail_position is invalid", "reindex index concurrently")
	rs.want(t, "schema", Fail, "topic_tail_position_ccnew is invalid", "drop index")
	rs.mends(t, conn, "schema")
	examine(t, db.URL, nil, "schema").want(t, "schema", OK)
}

func TestRoles(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	name, url := role(t, db, "")
	examine(t, db.URL, nil, "privileges").want(t, "privileges", Note, "superuser")
	run(t, conn, "revoke connect on database "+db.Name+" from public")
	rs := examine(t, url, nil)
	rs.want(t, "connection", Fail, "permission denied for database", "grant connect on database")
	rs.mends(t, conn, "connection")

	// A role that may nothing: each check says what it lacks, and none is silent.
	rs = examine(t, url, nil)
	rs.want(t, "privileges", Fail, "lacks", "select on pgcast.event_log", "usage on schema pgcast", `grant "postgres" to`)
	for _, check := range []string{"triggers", "lag", "retention", "size", "publish-keys", "steps", "sequencer", "cluster-identity"} {
		rs.want(t, check, Warn, "could not look: permission denied for schema pgcast", `grant "postgres" to "`+name+`"`)
	}
	rs.want(t, "disk", Skip, "may not know")

	// What other roles' sessions do is hidden from it, and that is told.
	run(t, conn, "grant usage on schema pgcast to "+name+"; grant all on all tables in schema pgcast to "+name+"; grant execute on all functions in schema pgcast to "+name)
	begin(t, db, "select 1")
	rs = examine(t, url, nil, "privileges", "grants", "long-transactions", "triggers", "lag", "size", "retention")
	rs.want(t, "privileges", Note, "may do all that is needed", "grant pg_read_all_stats")
	rs.want(t, "long-transactions", OK, "could not be looked at (grant pg_read_all_stats)")
	rs.want(t, "grants", Fail, name+" may insert pgcast.event_log", "revoke insert on pgcast.event_log from "+name)
	rs.want(t, "triggers", Note)
	rs.want(t, "lag", OK)
	rs.want(t, "size", OK)
	rs.want(t, "retention", OK)

	run(t, conn, "grant execute on function pgcast.publish to public")
	rs = examine(t, db.URL, func(d *Doctor) { d.limits.listed = 100 }, "grants")
	rs.want(t, "grants", Fail, "anybody may call pgcast.publish", "from public")
	rs.mends(t, conn, "grants")
	examine(t, db.URL, nil, "grants").want(t, "grants", OK)

	// An owner that is no superuser.
	run(t, conn, "grant create on database "+db.Name+" to "+name)
	run(t, conn, "alter schema pgcast owner to "+name)
	run(t, conn, `do $$ declare r record; begin
		for r in select c.oid::regclass as o, c.relkind from pg_class c where c.relnamespace = 'pgcast'::regnamespace and c.relkind in ('r', 'v') loop
			execute format('alter table %s owner to `+name+`', r.o);
		end loop;
		for r in select p.oid::regprocedure as o from pg_proc p where p.pronamespace = 'pgcast'::regnamespace loop
			execute format('alter function %s owner to `+name+`', r.o);
		end loop; end $$`)
	rs = examine(t, url, nil, "privileges")
	rs.want(t, "privileges", Note, "what other roles' sessions do is hidden", "grant pg_read_all_stats")
	rs.mends(t, conn, "privileges")
	examine(t, url, nil, "privileges").want(t, "privileges", OK, "owns schema pgcast")
}

func TestCaptureSwitch(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	name, url := role(t, db, "")
	examine(t, db.URL, nil, "capture-switch").want(t, "capture-switch", OK)
	run(t, conn, "alter role "+name+" set pgcast.capture = 'Off'")
	run(t, conn, "alter role "+name+" in database "+db.Name+" set pgcast.capture = off")
	run(t, conn, "alter database "+db.Name+" set pgcast.capture = false")
	rs := examine(t, db.URL, nil, "capture-switch")
	rs.want(t, "capture-switch", Warn, "role "+name, `in database "`+db.Name+`" reset`)
	rs.want(t, "capture-switch", Warn, "role "+name, `"`+name+`" reset`)
	rs.want(t, "capture-switch", Fail, "database "+db.Name, "no write is captured")
	rs.mends(t, conn, "capture-switch")
	examine(t, db.URL, nil, "capture-switch").want(t, "capture-switch", OK)
	// As if it stood in the server's settings.
	rs = examine(t, url+"&options=-c%20pgcast.capture%3Doff", nil, "capture-switch")
	rs.want(t, "capture-switch", Fail, "server's settings", "postgresql.conf")
}

func TestTables(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	names := []string{"triggers", "primary-keys", "replica-identity"}
	examine(t, db.URL, nil, names...).want(t, "triggers", Note, "no table is attached", "pgcast attach")

	run(t, conn, `create table a (id int primary key, b text); select pgcast.attach('a');
		create table p (id int primary key) partition by range (id); create table p1 partition of p for values from (0) to (10);
		select pgcast.attach('p')`)
	rs := examine(t, db.URL, nil, names...)
	rs.want(t, "triggers", OK, "2 tables attached")
	rs.want(t, "primary-keys", OK)
	rs.want(t, "replica-identity", OK)

	run(t, conn, `alter table a disable trigger "00_pgcast_insert"; create table p2 partition of p for values from (10) to (20);
		create table nokey (x int); select pgcast.attach('nokey'); alter table a add column c int;
		create publication `+db.Name+` for table nokey, a`)
	rs = examine(t, db.URL, nil, names...)
	rs.want(t, "triggers", Fail, `"00_pgcast_insert" is disabled`, "enable always trigger")
	rs.want(t, "triggers", Fail, "p2: what is written straight into it is not captured", "select pgcast.attach('public.p'")
	rs.want(t, "triggers", Warn, "a: the table has changed", "select pgcast.refresh()")
	rs.want(t, "primary-keys", Note, "nokey has no primary key")
	rs.want(t, "replica-identity", Fail, "nokey", "replica identity full")
	rs.mends(t, conn, "triggers")
	rs.mends(t, conn, "replica-identity")
	rs = examine(t, db.URL, nil, names...)
	rs.want(t, "triggers", OK, "3 tables")
	rs.want(t, "replica-identity", OK)

	run(t, conn, `do $$ begin for i in 1..30 loop execute format('create table many%s (x int)', i); perform pgcast.attach(format('many%s', i)::regclass); end loop; end $$`)
	examine(t, db.URL, nil, names...).want(t, "primary-keys", Note, "and 11 more like these")
}
