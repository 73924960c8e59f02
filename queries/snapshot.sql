-- name: SnapshotPlace :one
-- Where the log stands in the snapshot of this transaction. What is sequenced and visible has
-- committed before; but a change read from the WAL may have been captured before its own
-- transaction shows in snapshots. Where there is one that does not show yet, the topic's
-- place is before it (hidden: its seq, else 0). Who captured it began later than it, so that
-- an index finds the few there can be.
select pg_current_snapshot()::text as snapshot, c.system_identifier::bigint as system_identifier,
       ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int as timeline,
       (select p.position from pgcast.progress p order by p.step desc limit 1)::bigint as position,
       coalesce((select r.seq from pgcast.replay r where r.topic_id = t.id order by r.seq desc limit 1),
                (select tt.tail - 1 from pgcast.topic_tail tt where tt.topic_id = t.id), 0)::bigint as head,
       coalesce(case when exists (select from pgcast.attachment a where a.via = 'wal') then
         (select min(r.seq) from pgcast.event_log e join pgcast.replay r on r.event_id = e.id
          where e.xid >= pg_snapshot_xmin(pg_current_snapshot()) and e.topic = sqlc.arg(topic)::text and r.topic_id = t.id
            and not pg_visible_in_snapshot((e.origin).xid, pg_current_snapshot())) end, 0)::bigint as hidden
from pg_control_system() c left join pgcast.topic t on t.name = sqlc.arg(topic)::text;

-- name: SnapshotStatements :many
select coalesce(s.rel, '')::text as relation, s.statement::text as statement from pgcast.snapshot_sql(sqlc.arg(topic)::text) s;

-- name: SnapshotWaited :one
-- Whether somebody waits for a lock that a read of these tables keeps from him.
select exists (select from pg_catalog.pg_locks l where not l.granted and l.locktype = 'relation' and l.mode = 'AccessExclusiveLock'
  and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
  and l.relation in (select h.relation from pg_catalog.pg_locks h where h.pid = pg_backend_pid() and h.locktype = 'relation' and h.granted))::boolean as waited;
