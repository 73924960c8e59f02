-- name: SnapshotPlace :one
-- Where the log stands in the snapshot of this transaction. Of what is sequenced and visible
-- the transactions are visible, too; what is captured from the WAL waits until its own is.
-- is_durable: all that the snapshot shows has been flushed, as far as can be told right here.
select pg_current_snapshot()::text as snapshot, c.system_identifier::bigint as system_identifier,
       ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int as timeline,
       (select p.position from pgcast.progress p order by p.step desc limit 1)::bigint as position,
       coalesce((select r.seq from pgcast.replay r where r.topic_id = t.id order by r.seq desc limit 1),
                (select tt.tail - 1 from pgcast.topic_tail tt where tt.topic_id = t.id), 0)::bigint as head,
       (pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn() and current_setting('synchronous_standby_names') = '')::boolean as is_durable,
       pg_backend_pid()::int as pid
from pg_control_system() c left join pgcast.topic t on t.name = sqlc.arg(topic)::text;

-- name: SnapshotStatements :many
-- reader is the role that will run them; null: this one. is_whole: it may read all columns of the
-- table, which LOCK TABLE asks for.
select coalesce(s.rel, '')::text as relation, s.statement::text as statement,
       coalesce(has_table_privilege(coalesce(sqlc.narg(reader)::text, current_user)::name, s.rel, 'select'), false)::boolean as is_whole
from pgcast.snapshot_sql(sqlc.arg(topic)::text, coalesce(sqlc.narg(reader)::text, current_user)::name) s;

-- name: SnapshotWaited :one
-- Whether somebody waits for a lock that a read of tables keeps from him.
select exists (select from pg_catalog.pg_locks l where not l.granted and l.locktype = 'relation' and l.mode = 'AccessExclusiveLock'
  and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
  and l.relation in (select h.relation from pg_catalog.pg_locks h where h.pid = sqlc.arg(pid)::int and h.locktype = 'relation' and h.granted))::boolean as waited;
