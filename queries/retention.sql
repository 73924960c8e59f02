-- name: RetentionList :many
select pattern, coalesce(extract(epoch from max_age), 0)::float8 as max_age_seconds, coalesce(max_count, 0)::bigint as max_count
from pgcast.retention;

-- name: RetentionTopics :many
-- A page of topics with their bounds and the age of their oldest kept event.
select t.id, t.name, coalesce(tt.tail, 1)::bigint as tail,
       coalesce((select r.seq from pgcast.replay r where r.topic_id = t.id order by r.seq desc limit 1), tt.tail - 1, 0)::bigint as head,
       coalesce(extract(epoch from clock_timestamp() - (select r.sequenced_at from pgcast.replay r
                 where r.topic_id = t.id and r.seq >= coalesce(tt.tail, 1) order by r.seq limit 1)), -1)::float8 as oldest_seconds,
       exists (select from pgcast.replay r where r.topic_id = t.id and r.seq < coalesce(tt.tail, 1)) as leftover
from pgcast.topic t left join pgcast.topic_tail tt on tt.topic_id = t.id
where t.id > sqlc.arg(after)::bigint order by t.id limit sqlc.arg(max_topics)::int;

-- name: RetentionTail :execrows
-- Moves a topic's tail: over at most batch events that are beyond the count or older
-- than the age (0: no such limit). The events go after this has committed.
with bound as materialized (
  select coalesce((select tt.tail from pgcast.topic_tail tt where tt.topic_id = sqlc.arg(topic_id)::bigint), 1) as tail,
         coalesce((select r.seq from pgcast.replay r where r.topic_id = sqlc.arg(topic_id)::bigint order by r.seq desc limit 1), 0) as head
), kept as materialized (
  select r.seq, r.position, r.event_id, r.sequenced_at from pgcast.replay r
  where r.topic_id = sqlc.arg(topic_id)::bigint and r.seq >= (select tail from bound)
  order by r.seq limit sqlc.arg(batch)::int
), newest as (
  select k.seq, k.position, k.event_id from kept k, bound b
  where (sqlc.arg(max_count)::bigint > 0 and k.seq <= b.head - sqlc.arg(max_count)::bigint)
     or (sqlc.arg(max_age_seconds)::float8 > 0 and k.sequenced_at < clock_timestamp() - make_interval(secs => sqlc.arg(max_age_seconds)::float8))
  order by k.seq desc limit 1
)
insert into pgcast.topic_tail (topic_id, tail, position, event_id, created_at)
select sqlc.arg(topic_id)::bigint, n.seq + 1, n.position, coalesce((e.origin).id, e.id), e.created_at
from newest n join pgcast.event_log e on e.id = n.event_id
on conflict (topic_id) do update set tail = excluded.tail, position = excluded.position,
  event_id = excluded.event_id, created_at = excluded.created_at
where pgcast.topic_tail.tail < excluded.tail;

-- name: RetentionDelete :execrows
-- Deletes a batch of what lies before the topic's tail. The caller knows where that may
-- begin, so that rows which are deleted but which an old snapshot still keeps are not
-- walked over by each batch again.
with gone as (
  delete from pgcast.replay where topic_id = sqlc.arg(topic_id)::bigint and seq in (
    select r.seq from pgcast.replay r
    where r.topic_id = sqlc.arg(topic_id)::bigint and r.seq >= sqlc.arg(start)::bigint
      and r.seq < (select tt.tail from pgcast.topic_tail tt where tt.topic_id = sqlc.arg(topic_id)::bigint)
    order by r.seq limit sqlc.arg(batch)::int)
  returning event_id
)
-- An array, not a join: with a guessed number of rows that could read the whole log.
delete from pgcast.event_log where id = any (array(select event_id from gone));

-- name: RetentionKeys :execrows
-- now(), not clock_timestamp(): an index serves no volatile bound. A lower one, which
-- says nothing, keeps the planner without statistics from expecting a third of the table.
delete from pgcast.publish_key where ctid = any (array(
  select ctid from pgcast.publish_key where created_at >= '-infinity' and created_at < now() - interval '24 hours'
  order by created_at limit 10000));
