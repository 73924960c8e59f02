-- name: LogPosition :one
-- The newest position given out.
select position from pgcast.progress order by step desc limit 1;

-- name: LogRead :many
-- The whole log after a position. Lateral lookups with limit 1, and an upper end of the
-- range that says nothing, keep this a walk along the position index whatever the
-- planner believes: a range with one end and a limit, both unknown, is for it a third of
-- the table, better read from end to end. budget bounds the bytes of one read
-- (stored bytes: what is compressed counts compressed), and an event whose payload is
-- larger than max comes without it. continues tells, by the same look, whether the event at
-- after is the one with the given id: the log may be another copy by now.
-- (select x) instead of x hides from the planner what is asked for. A plan made for the very
-- arguments would else seem cheaper than the one it has kept, in a large log always, and
-- would be made anew at each call: that took as long as a third of the read.
with last as materialized (
  select exists (select from pgcast.event_log e
                 where coalesce((e.origin).id, e.id) = sqlc.arg(last_id)::bigint and e.created_at = sqlc.arg(last_created_at)::timestamptz
                   and e.id = (select r.event_id from pgcast.replay r where r.position = sqlc.arg(after)::bigint)) as known
)
select (select known from last)::boolean as continues, x.position::bigint as position, x.seq::bigint as seq, x.topic::text as topic, x.id::bigint as id, x.event::text as event,
       (case when s.size <= sqlc.arg(max_size)::bigint then x.data end)::json as data,
       (case when s.size <= sqlc.arg(max_size)::bigint then x.old end)::json as old,
       (s.size > sqlc.arg(max_size)::bigint)::boolean as oversize,
       x.created_at::timestamptz as created_at, x.xid::text as xid
from (
  select r.position, r.seq, t.name as topic, e.id, e.xid, e.event, e.data, e.old, e.created_at,
         sum(coalesce(pg_column_size(e.data), 0) + coalesce(pg_column_size(e.old), 0)) over w as total,
         row_number() over w as nth
  from (select topic_id, seq, position, event_id from pgcast.replay
        where position > (select sqlc.arg(after)::bigint) and position <= 9223372036854775807
        order by position limit (select sqlc.arg(max_events)::int)) r
  cross join lateral (select name from pgcast.topic where id = r.topic_id limit 1) t
  cross join lateral (select coalesce((l.origin).id, l.id) as id, coalesce((l.origin).xid, l.xid) as xid, l.event, l.data, l.old, l.created_at
                      from pgcast.event_log l where l.id = r.event_id limit 1) e
  window w as (order by r.position)
) x
cross join lateral (select coalesce(octet_length(x.data::text), 0)::bigint + coalesce(octet_length(x.old::text), 0) as size) s
where x.nth = 1 or x.total <= sqlc.arg(budget)::bigint
order by x.position;

-- name: LogScan :many
-- The events of the topics a pattern selects, in a stretch of the log.
select x.position::bigint as position, x.seq::bigint as seq, x.topic::text as topic, x.id::bigint as id, x.event::text as event,
       (case when s.size <= sqlc.arg(max_size)::bigint then x.data end)::json as data,
       (case when s.size <= sqlc.arg(max_size)::bigint then x.old end)::json as old,
       (s.size > sqlc.arg(max_size)::bigint)::boolean as oversize,
       x.created_at::timestamptz as created_at, x.xid::text as xid, x.matched::bigint as matched
from (
  select r.position, r.seq, r.name as topic, e.id, e.xid, e.event, e.data, e.old, e.created_at,
         sum(coalesce(pg_column_size(e.data), 0) + coalesce(pg_column_size(e.old), 0)) over w as total,
         row_number() over w as nth, count(*) over () as matched
  from (select s.seq, s.position, s.event_id, t.name
        from (select topic_id, seq, position, event_id from pgcast.replay
              where position > sqlc.arg(after)::bigint and position <= sqlc.arg(upto)::bigint
              order by position limit sqlc.arg(stretch)::int) s
        cross join lateral (select name from pgcast.topic where id = s.topic_id limit 1) t
        where t.name ~ sqlc.arg(pattern)::text
        order by s.position limit sqlc.arg(max_events)::int) r
  cross join lateral (select coalesce((l.origin).id, l.id) as id, coalesce((l.origin).xid, l.xid) as xid, l.event, l.data, l.old, l.created_at
                      from pgcast.event_log l where l.id = r.event_id limit 1) e
  window w as (order by r.position)
) x
cross join lateral (select coalesce(octet_length(x.data::text), 0)::bigint + coalesce(octet_length(x.old::text), 0) as size) s
where x.nth = 1 or x.total <= sqlc.arg(budget)::bigint
order by x.position;

-- name: LogScanGap :one
-- Position of the newest trimmed event that a pattern selects, after a position; 0 if none.
select coalesce((
  select tt.position from pgcast.topic_tail tt
  cross join lateral (select name from pgcast.topic where id = tt.topic_id limit 1) t
  where tt.position > sqlc.arg(after)::bigint and tt.position <= 9223372036854775807 and t.name ~ sqlc.arg(pattern)::text
  order by tt.position desc limit 1), 0)::bigint as position;

-- name: LogKnows :one
-- Whether the event at a position is the one a client says it saw there. Of a trimmed one
-- that is no longer known, but for the newest of each topic; positions have no holes, so
-- one that was given out and holds nothing is trimmed.
select (
  exists (select from pgcast.replay r join pgcast.event_log e on e.id = r.event_id
          where r.position = sqlc.arg(position)::bigint and coalesce((e.origin).id, e.id) = sqlc.arg(id)::bigint and e.created_at = sqlc.arg(created_at)::timestamptz)
  or exists (select from pgcast.topic_tail tt
             where tt.position = sqlc.arg(position)::bigint and tt.event_id = sqlc.arg(id)::bigint and tt.created_at = sqlc.arg(created_at)::timestamptz)
  or not exists (select from pgcast.replay r where r.position = sqlc.arg(position)::bigint)
     and not exists (select from pgcast.topic_tail tt where tt.position = sqlc.arg(position)::bigint)
     and sqlc.arg(position)::bigint between 1 and (select p.position from pgcast.progress p order by p.step desc limit 1)
)::boolean as known;

-- name: TopicPage :many
-- One topic after a seq, and the topic's tail and head as of the same look: retention
-- moves the tail first and deletes after, so what lies at or behind the tail is whole.
-- (select x): as in LogRead.
with t as materialized (
  select t.id, t.name, coalesce(tt.tail, 1) as tail,
         coalesce((select r.seq from pgcast.replay r where r.topic_id = t.id order by r.seq desc limit 1), tt.tail - 1, 0) as head
  from pgcast.topic t left join pgcast.topic_tail tt on tt.topic_id = t.id
  where t.name = sqlc.arg(topic)::text
), x as (
  select r.position, r.seq, e.id, e.xid, e.event, e.data, e.old, e.created_at,
         sum(coalesce(pg_column_size(e.data), 0) + coalesce(pg_column_size(e.old), 0)) over w as total,
         row_number() over w as nth
  from (select p.seq, p.position, p.event_id from t cross join lateral
          (select r.seq, r.position, r.event_id from pgcast.replay r
           where r.topic_id = t.id and r.seq > (select sqlc.arg(after)::bigint) and r.seq >= t.tail
           order by r.seq limit (select sqlc.arg(max_events)::int)) p) r
  cross join lateral (select coalesce((l.origin).id, l.id) as id, coalesce((l.origin).xid, l.xid) as xid, l.event, l.data, l.old, l.created_at
                      from pgcast.event_log l where l.id = r.event_id limit 1) e
  window w as (order by r.seq)
)
select t.tail::bigint as tail, t.head::bigint as head,
       coalesce(x.position, 0)::bigint as position, coalesce(x.seq, 0)::bigint as seq, coalesce(x.id, 0)::bigint as id,
       coalesce(x.event, '')::text as event,
       (case when s.size <= sqlc.arg(max_size)::bigint then x.data end)::json as data,
       (case when s.size <= sqlc.arg(max_size)::bigint then x.old end)::json as old,
       coalesce(s.size > sqlc.arg(max_size)::bigint, false)::boolean as oversize,
       coalesce(x.created_at, 'epoch')::timestamptz as created_at, coalesce(x.xid::text, '')::text as xid
from t left join x on x.nth = 1 or x.total <= sqlc.arg(budget)::bigint
cross join lateral (select coalesce(octet_length(x.data::text), 0)::bigint + coalesce(octet_length(x.old::text), 0) as size) s
order by x.seq;

-- name: TopicPlaces :many
-- Tail and head of topics, and whether the event at after is the one the client says
-- it saw there (id 0: it did not say). (select x): as in LogRead.
select a.ord::int as ord, coalesce(tt.tail, 1)::bigint as tail,
       coalesce((select r.seq from pgcast.replay r where r.topic_id = t.id order by r.seq desc limit 1), tt.tail - 1, 0)::bigint as head,
       (a.id <> 0 and (
         exists (select from pgcast.replay r join pgcast.event_log e on e.id = r.event_id
                 where r.topic_id = t.id and r.seq = a.after and coalesce((e.origin).id, e.id) = a.id and e.created_at = a.created_at)
         or coalesce(tt.tail - 1 = a.after and tt.event_id = a.id and tt.created_at = a.created_at, false)
       ))::boolean as known,
       (select position from pgcast.progress order by step desc limit 1)::bigint as position
from (select unnest((select sqlc.arg(ords)::int[])) as ord, unnest((select sqlc.arg(topics)::text[])) as topic, unnest((select sqlc.arg(afters)::bigint[])) as after,
             unnest((select sqlc.arg(ids)::bigint[])) as id, unnest((select sqlc.arg(created_ats)::timestamptz[])) as created_at) a
left join lateral (select id from pgcast.topic where name = a.topic limit 1) t on true
left join lateral (select * from pgcast.topic_tail where topic_id = t.id limit 1) tt on true
order by a.ord;

-- name: EventPublish :one
-- data as text: where a pooler allows no prepared statements, types are guessed from Go's,
-- and JSON is bytes there.
select pgcast.publish(sqlc.arg(topic)::text, sqlc.arg(event)::text, sqlc.narg(data)::text::jsonb, sqlc.narg(key)::text)::text as id;
