-- name: SequencerLook :one
-- Is anything committed that has no place yet? Read-only, so that an idle poll costs
-- no xid and no WAL. The bounds are a closed range on purpose: the planner takes a
-- range with an unknown lower end for a third of the table and would read it all.
with last as materialized (
  select p.seen, p.target, s.floor
  from (select seen, target from pgcast.progress order by step desc limit 1) p, pgcast.sequencer s
)
select (
  (select target is not null from last)
  or exists (
    select from pgcast.event_log e
    where e.xid >= (select pg_snapshot_xmax(seen) from last)
      and e.xid < pg_snapshot_xmax(pg_current_snapshot())
      and (e.id > (select floor from last) or not exists (select from pgcast.replay r where r.event_id = e.id)))
  or exists (
    select from pgcast.event_log e
    where e.xid = any (array(select x from last, pg_snapshot_xip(last.seen) x
                             where pg_visible_in_snapshot(x, pg_current_snapshot())))
      and (e.id > (select floor from last) or not exists (select from pgcast.replay r where r.event_id = e.id)))
)::boolean as work;

-- name: SequencerHold :one
-- The first statement of a step: whoever does not get the row is deposed. A statement
-- of its own, because the step must look at the log after this lock is held.
-- Servers that cannot hold a session lock (behind a transaction pooler) share a term;
-- this lock then takes their steps one after the other.
select term from pgcast.sequencer where term = sqlc.arg(term) for no key update;

-- name: SequencerStep :one
-- One step: the difference between what was visible when the last step looked (seen)
-- and what is visible to this very statement, numbered in id order. Everything is one
-- statement, so that the events it takes and the snapshot it stores are the same look.
--
-- More than batch new events: only a target is set, and the following steps take what
-- is visible in target but not in seen in chunks, by id over all transactions. Events
-- up to floor came with a restore; their xid belongs to another cluster, so only the
-- absence of a replay row tells that they are new.
--
-- The first new id is min(id + 0): min(id) would be looked for along the primary key,
-- from the log's beginning.
with last as materialized (
  select p.step, p.position, p.seen, p.target, p.upto, s.floor
  from (select step, position, seen, target, upto from pgcast.progress order by step desc limit 1) p, pgcast.sequencer s
  where s.term = sqlc.arg(term)
), fresh as materialized (
  (select e.id, e.topic from pgcast.event_log e
   where (select target is null from last)
     and e.xid >= (select pg_snapshot_xmax(seen) from last)
     and e.xid < pg_snapshot_xmax(pg_current_snapshot())
     and (e.id > (select floor from last) or not exists (select from pgcast.replay r where r.event_id = e.id))
   limit sqlc.arg(batch)::int + 1)
  union all
  (select e.id, e.topic from pgcast.event_log e
   where e.xid = any (array(select x from last, pg_snapshot_xip(last.seen) x
                            where last.target is null and pg_visible_in_snapshot(x, pg_current_snapshot())))
     and (e.id > (select floor from last) or not exists (select from pgcast.replay r where r.event_id = e.id))
   limit sqlc.arg(batch)::int + 1)
  union all
  (select e.id, e.topic from pgcast.event_log e
   where (select target is not null from last)
     and e.id > (select upto from last)
     and case when e.id <= (select floor from last)
              then not exists (select from pgcast.replay r where r.event_id = e.id)
              else pg_visible_in_snapshot(e.xid, (select target from last))
                   and not pg_visible_in_snapshot(e.xid, (select seen from last)) end
   order by e.id limit sqlc.arg(batch)::int)
), size as materialized (
  select count(*) as n, coalesce(max(id), 0) as newest, (select target is null from last) and count(*) > sqlc.arg(batch)::int as too_many from fresh
), placed as materialized (
  select f.id, f.topic,
         (select position from last) + row_number() over (order by f.id) as position,
         row_number() over (partition by f.topic order by f.id) as nth
  from fresh f where not (select too_many from size)
), named as materialized (
  -- Scalar subqueries, here and below, so that these stay index probes whatever the
  -- planner believes about the size of the batch.
  select n.topic, (select t.id from pgcast.topic t where t.name = n.topic) as topic_id
  from (select distinct topic from placed) n
), made as (
  insert into pgcast.topic (name) select topic from named where topic_id is null order by topic
  returning id, name
), head as materialized (
  select n.topic, n.topic_id,
         coalesce((select r.seq from pgcast.replay r where r.topic_id = n.topic_id order by r.seq desc limit 1),
                  (select tt.tail - 1 from pgcast.topic_tail tt where tt.topic_id = n.topic_id), 0) as seq
  from named n where n.topic_id is not null
  union all
  select m.name, m.id, 0 from made m
), written as (
  insert into pgcast.replay (topic_id, seq, position, event_id)
  select h.topic_id, h.seq + p.nth, p.position, p.id
  from placed p join head h on h.topic = p.topic order by p.position
  returning 1
), advanced as (
  insert into pgcast.progress (step, position, seen, target, upto)
  select l.step + 1,
         l.position + case when s.too_many then 0 else s.n end,
         case when s.too_many then l.seen
              when l.target is null then pg_current_snapshot()
              when s.n < sqlc.arg(batch)::int then l.target else l.seen end,
         case when s.too_many then pg_current_snapshot()
              when l.target is not null and s.n >= sqlc.arg(batch)::int then l.target end,
         case when s.too_many then
                least((select min(e.id + 0) from pgcast.event_log e
                       where e.xid >= pg_snapshot_xmax(l.seen) and e.xid < pg_snapshot_xmax(pg_current_snapshot())),
                      (select min(e.id + 0) from pgcast.event_log e
                       where e.xid = any (array(select x from pg_snapshot_xip(l.seen) x
                                                where pg_visible_in_snapshot(x, pg_current_snapshot()))))) - 1
              when l.target is not null and s.n >= sqlc.arg(batch)::int then s.newest end
  from last l, size s
  where s.n > 0 or l.target is not null or sqlc.arg(advance)::boolean
  returning step, position, target is not null as more
)
select a.step, a.position, (case when (select too_many from size) then 0 else (select n from size) end)::bigint as events,
       a.more::boolean as more
from advanced a;

-- name: SequencerLead :one
-- A new sequencer deposes whoever was it before.
update pgcast.sequencer set term = term + 1 returning term;

-- name: SequencerIdentity :one
-- Where we are: which cluster, which timeline, and whether the log was sequenced by
-- transactions that this cluster has not seen yet (restored into a younger one).
select c.system_identifier::bigint as system_identifier,
       ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int as timeline,
       (select pg_snapshot_xmax(p.seen) > pg_snapshot_xmax(pg_current_snapshot())
        from pgcast.progress p order by p.step desc limit 1)::boolean as ahead
from pg_control_system() c;

-- name: SequencerDatabase :one
-- Which database of which cluster this is; a standby is its primary's.
select (c.system_identifier || '/' || current_database())::text as database from pg_control_system() c;

-- name: SequencerRemember :exec
update pgcast.sequencer set system_identifier = sqlc.arg(system_identifier)::bigint, timeline = sqlc.arg(timeline)::int where term = sqlc.arg(term);

-- name: SequencerRebase :exec
-- Another cluster: the xids in the log and in seen mean nothing here. What has no
-- replay row is taken in chunks from the beginning, and by its replay row alone for
-- ever after (floor).
with based as (
  update pgcast.sequencer set floor = greatest(floor, (select coalesce(max(id), 0) from pgcast.event_log))
  where term = sqlc.arg(term) returning term
)
insert into pgcast.progress (step, position, seen, target, upto)
select p.step + 1, p.position, pg_current_snapshot(), pg_current_snapshot(), 0
from (select step, position from pgcast.progress order by step desc limit 1) p, based;

-- name: SequencerWaiting :one
-- Age in seconds of the oldest committed event without a place; 0 when there is none.
-- Bounded: it looks at the first few new ones only, which come in commit order nearly.
with last as materialized (
  select p.seen, s.floor from (select seen from pgcast.progress order by step desc limit 1) p, pgcast.sequencer s
)
select coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8 as seconds from (
  select e.created_at from pgcast.event_log e
  where e.xid >= (select pg_snapshot_xmax(seen) from last) and e.xid < pg_snapshot_xmax(pg_current_snapshot())
    and (e.id > (select floor from last) or not exists (select from pgcast.replay r where r.event_id = e.id))
  order by e.xid limit 10) w;

-- name: ProgressPrune :one
-- Old steps go in batches. The caller remembers where the last batch ended (0: does not
-- know), so that rows which are deleted but which an old snapshot still keeps are not
-- walked over again every time.
with span as materialized (
  select b.start, greatest(least(b.start + 10000, (select max(step) - 10 from pgcast.progress)), b.start) as stop
  from (select case when sqlc.arg(start)::bigint > 0 then sqlc.arg(start)::bigint
                    else (select min(step) from pgcast.progress) end as start) b
), gone as (
  delete from pgcast.progress where step >= (select start from span) and step < (select stop from span)
)
select stop::bigint as stop, (stop - start >= 10000)::boolean as more from span;

-- name: ProgressNewest :one
select coalesce(max(step), 0)::bigint as step from pgcast.progress;

-- name: SequencerTerm :one
select term from pgcast.sequencer;

-- name: SequencerStored :one
-- The cluster the log was last sequenced on.
select coalesce(system_identifier, 0)::bigint as system_identifier, coalesce(timeline, 0)::int as timeline from pgcast.sequencer;

-- name: NotifyState :one
-- How full NOTIFY's queue is, from 0 to 1, and whether commits that notify are held up. Asking
-- is also what lets go of the queue's end: full once, it stays so after the session that held
-- it has gone, until somebody asks.
select pg_notification_queue_usage()::float8 as usage,
       exists (select from pg_catalog.pg_locks l where l.locktype = 'object' and l.database = 0 and l.classid = 1262 and l.objid = 0
               and not l.granted and l.waitstart < clock_timestamp() - interval '500 ms')::boolean as stalled;

-- name: FollowersRing :exec
-- Rings the following servers, if there are any: each holds the lock shared. Not when
-- somebody keeps NOTIFY's queue from emptying: full, it fails whoever notifies next, and
-- the followers look at the log by themselves.
select case when not pg_try_advisory_xact_lock(1885823841, 3) and pg_notification_queue_usage() < 0.5
            then pg_notify('pgcast_log', '') end;
