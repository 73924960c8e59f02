-- name: CaptureState :one
-- What there is to capture from the WAL, how far that is, and what has become of the slot.
-- Numbers of the WAL as numbers: what is subtracted from them fits.
select (select term from pgcast.sequencer)::bigint as term,
       c.step::bigint as step, coalesce(c.lsn - '0/0', 0)::bigint as lsn,
       -- Not one that came with a dump, of whose WAL this cluster knows nothing.
       coalesce(c.system_identifier = i.system_identifier and c.slot = pgcast.slot_name() and c.lsn <= pg_current_wal_flush_lsn(), false)::boolean as is_here,
       (select count(*) from pgcast.attachment a where a.via = 'wal')::int as attached,
       exists (select from pgcast.published)::boolean as leftovers,
       (s.slot_name is not null)::boolean as has_slot,
       coalesce(s.plugin = 'pgoutput' and s.database = current_database(), false)::boolean as is_ours,
       coalesce(s.active_pid, 0)::int as active_pid,
       coalesce(s.wal_status = 'lost', false)::boolean as is_lost,
       coalesce(s.confirmed_flush_lsn - '0/0', 0)::bigint as confirmed,
       coalesce(greatest(pg_current_wal_lsn() - s.restart_lsn, 0), 0)::bigint as retained,
       (pg_current_wal_flush_lsn() - '0/0')::bigint as flushed,
       i.system_identifier::bigint as cluster,
       pgcast.slot_name()::text as slot,
       current_setting('wal_level')::text as wal_level,
       -- Or by what some hosts have instead of the attribute.
       (select r.rolreplication or r.rolsuper or exists (select from pg_catalog.pg_roles h where h.rolname = 'rds_replication' and pg_has_role(h.oid, 'usage'))
        from pg_catalog.pg_roles r where r.rolname = current_user)::boolean as may_replicate,
       (current_setting('max_slot_wal_keep_size') = '-1')::boolean as is_unlimited
from (select step, lsn, slot, system_identifier from pgcast.captured order by step desc limit 1) c
cross join pg_control_system() i
left join pg_catalog.pg_replication_slots s on s.slot_name = pgcast.slot_name();

-- name: CaptureAdopt :exec
-- Begins at a place. Two that add the same step: only one of them can.
insert into pgcast.captured (step, lsn, term, slot, system_identifier)
select sqlc.arg(step)::bigint, case when sqlc.arg(lsn)::bigint > 0 then '0/0'::pg_lsn + sqlc.arg(lsn)::bigint end, sqlc.arg(term)::bigint,
       case when sqlc.arg(lsn)::bigint > 0 then pgcast.slot_name() end,
       case when sqlc.arg(lsn)::bigint > 0 then (select i.system_identifier from pg_control_system() i) end;

-- name: CaptureReset :exec
-- Tells the topics of all tables captured from the WAL that changes are missing.
select pgcast.tell_reset(a.relation) from pgcast.attachment a where a.via = 'wal' order by a.relation;

-- name: CaptureLeftovers :one
select pgcast.move_published()::bigint as moved;

-- name: CaptureAlone :one
-- Whether the slot may go: nobody is attaching a table, and none is attached. Held to the
-- transaction's end.
select (pg_try_advisory_xact_lock(1885823841, 4) and not exists (select from pgcast.attachment a where a.via = 'wal'))::boolean as is_alone;

-- name: CaptureDropSlot :exec
select pg_drop_replication_slot(s.slot_name) from pg_catalog.pg_replication_slots s where s.slot_name = pgcast.slot_name();

-- name: CaptureOpenSlot :exec
select pgcast.open_slot();

-- name: CaptureEvict :exec
-- Ends the capture of a server that sequenced before and may have stopped answering.
select pg_terminate_backend(a.pid) from pg_catalog.pg_stat_activity a
where a.application_name = 'pgcast capture' and a.datname = current_database() and a.usename = current_user and a.pid <> pg_backend_pid();

-- name: CaptureVoid :exec
-- What another session has left unfinished.
delete from pgcast.stage where session <> sqlc.arg(session)::bigint;

-- name: CaptureTables :many
-- The attached table that a table of the stream belongs to, and its shape when last seen.
select a.relation::oid::bigint as root, coalesce(a.decoded::text, '')::text as decoded, a.relation::text as name
from pgcast.attachment a
where a.relation = pgcast.decoded_root((sqlc.arg(relation)::bigint)::oid);

-- name: CaptureDegraded :exec
-- Tells the topics of a table that a change of it could not become an event.
select pgcast.tell(a.topic, 'degraded', a.relation::text) from pgcast.attachment a where a.relation = (sqlc.arg(root)::bigint)::oid;

-- name: CapturedPrune :execrows
-- Old steps go in batches.
delete from pgcast.captured where step in (
  select c.step from pgcast.captured c where c.step < (select max(step) - 10 from pgcast.captured) order by c.step limit 10000);

-- name: CaptureCheck :one
-- What a capturing transaction must know before it writes: whether it still may, whether the
-- transactions whose changes it writes can be seen by everybody (Postgres streams them once
-- they are flushed, which is a moment earlier), another text whenever an attachment is
-- another one, and about which number transactions have got to.
select s.term::bigint as term, (select c.step from pgcast.captured c order by c.step desc limit 1)::bigint as step,
       (select coalesce(bool_and(pg_visible_in_snapshot(x, pg_current_snapshot())), true) from unnest(sqlc.arg(xids)::xid8[]) x)::boolean as is_visible,
       (select count(*) || '/' || coalesce(sum(hashtextextended(a.xmin::text, hashtid(a.ctid))::numeric), 0) from pgcast.attachment a where a.decoded is not null)::text as attachments,
       pg_snapshot_xmax(pg_current_snapshot())::text as newest
from pgcast.sequencer s;

-- name: CaptureVersions :many
-- Which attachment is another one.
select a.relation::oid::bigint as root, (a.xmin || ' ' || a.ctid)::text as version from pgcast.attachment a where a.decoded is not null;

-- name: CaptureIds :many
select nextval('pgcast.event_log_id_seq')::bigint as id from generate_series(1, sqlc.arg(n)::int);

-- name: CaptureAdvance :exec
-- Two that add the same step: only one of them can.
insert into pgcast.captured (step, lsn, term, slot, system_identifier)
values (sqlc.arg(step)::bigint, sqlc.arg(lsn)::pg_lsn, sqlc.arg(term)::bigint, sqlc.arg(slot)::text, sqlc.arg(system_identifier)::bigint);

-- name: CaptureMove :execrows
-- The events of a large transaction that has committed, out of the stage. What publish() has
-- left goes with them; what is no longer there has become an event already.
with gone as (
  delete from pgcast.published where id in (select s.id from pgcast.stage s
    where s.session = sqlc.arg(session)::bigint and s.xid = sqlc.arg(xid)::xid8 and s.id is not null) returning id
)
insert into pgcast.event_log (id, topic, event, data, old, created_at, origin) overriding system value
select nextval('pgcast.event_log_id_seq'), m.topic, m.event, m.data, m.old, coalesce(m.created_at, sqlc.arg(at)::timestamptz),
       row(case when m.id is null then m.xid end, m.id)::pgcast.origin
from (select s.* from pgcast.stage s where s.session = sqlc.arg(session)::bigint and s.xid = sqlc.arg(xid)::xid8
      and (s.id is null or s.id in (select id from gone)) order by s.n) m;

-- name: CaptureUnstage :execrows
delete from pgcast.stage where session = sqlc.arg(session)::bigint and xid = sqlc.arg(xid)::xid8;

-- name: CaptureUndo :execrows
-- A subtransaction was rolled back.
delete from pgcast.stage where session = sqlc.arg(session)::bigint and xid = sqlc.arg(xid)::xid8 and subxid = sqlc.arg(subxid)::bigint;

-- name: CaptureTruncated :many
-- The tables whose topics are to be told of a TRUNCATE that names these.
select t.rel::bigint as rel from unnest(pgcast.truncated_tables(sqlc.arg(relations)::oid[])) t (rel);

-- name: CaptureShape :exec
-- The shape in which a table was seen last.
update pgcast.attachment set decoded = sqlc.arg(decoded)::jsonb where relation = (sqlc.arg(root)::bigint)::oid;
