-- +goose Up
-- The log: what was written (event_log), in which order (topic, replay), how far the
-- sequencer is (sequencer, progress), and what retention has taken away (topic_tail).

-- +goose StatementBegin
do $$
begin
  if current_setting('server_version_num')::int < 140000 then
    raise exception 'pgcast needs PostgreSQL 14 or newer, this is %', current_setting('server_version');
  end if;
  if current_setting('server_encoding') <> 'UTF8' then
    raise exception 'pgcast needs a database with encoding UTF8, this one has %', current_setting('server_encoding')
      using hint = 'events are JSON, and JSON is UTF-8; create the database with ENCODING ''UTF8''';
  end if;
end $$;
-- +goose StatementEnd

create schema if not exists pgcast;
comment on schema pgcast is 'pgcast: committed writes as gap-free topics. See https://github.com/pgcast/pgcast';

create type pgcast.origin as (
  xid xid8,
  id  bigint
);
comment on type pgcast.origin is 'Where an event comes from that capture has read from the WAL: the transaction that made the change (xid), or the number publish() has given its id (id).';

create table pgcast.event_log (
  id         bigint generated always as identity (cache 1) primary key,
  topic      text collate "C" not null,
  event      text collate "C" not null,
  data       json,
  old        json,
  xid        xid8 not null default pg_current_xact_id(),
  created_at timestamptz not null default clock_timestamp(),
  -- One column for two numbers: with nine, each row would take eight bytes more.
  origin     pgcast.origin
);
-- Not n_distinct by sampling: after one bulk load the planner would believe in a
-- handful of transactions and read the whole log to find one of them.
alter table pgcast.event_log alter column xid set (n_distinct = -1);
create index event_log_xid on pgcast.event_log (xid);
comment on index pgcast.event_log_xid is 'By it the sequencer finds what has committed since it last looked.';
comment on table pgcast.event_log is 'Every event as its writer''s own transaction wrote it; append-only, no counter, nothing two writers could queue on.';
comment on column pgcast.event_log.id is 'Identity number; the order of events within one transaction and among overlapping ones.';
comment on column pgcast.event_log.topic is 'Name of the topic the event belongs to.';
comment on column pgcast.event_log.event is 'created, updated, deleted, truncated, or what publish was given.';
comment on column pgcast.event_log.data is 'The row, or what was published. Null for deleted, where old has the key.';
comment on column pgcast.event_log.old is 'For updated and deleted: the old key, and the old values where the attachment captures them.';
comment on column pgcast.event_log.xid is 'The writer''s transaction; a forged one would hide an event, so only SECURITY DEFINER functions insert here.';
comment on column pgcast.event_log.created_at is 'When the event was written, not when it was committed. Of a change read from the WAL: when it was committed.';
comment on column pgcast.event_log.origin is 'Of events read from the WAL; null: the row''s own xid and id count.';

create table pgcast.topic (
  id   bigint generated always as identity primary key,
  name text collate "C" not null unique
);
comment on table pgcast.topic is 'Names of the topics. A topic''s head is its newest replay row, so that no counter row is ever updated.';
comment on column pgcast.topic.id is 'Short name of the topic inside the log.';
comment on column pgcast.topic.name is '1 to 256 printable ASCII bytes; segments are split by a colon.';

create table pgcast.replay (
  topic_id     bigint not null,
  seq          bigint not null,
  position     bigint not null,
  event_id     bigint not null,
  sequenced_at timestamptz not null default clock_timestamp(),
  primary key (topic_id, seq),
  constraint replay_position unique (position),
  constraint replay_event_id unique (event_id)
);
comment on table pgcast.replay is 'The order of the log. Written by the sequencer only; a double would be an error, never a duplicate.';
comment on column pgcast.replay.topic_id is 'The topic, as in pgcast.topic.';
comment on column pgcast.replay.seq is 'Place in the topic: 1, 2, 3 without holes.';
comment on column pgcast.replay.position is 'Place in the whole log: 1, 2, 3 without holes.';
comment on column pgcast.replay.event_id is 'The event, as in pgcast.event_log.';
comment on column pgcast.replay.sequenced_at is 'When it got its place; retention by age counts from here.';

create table pgcast.topic_tail (
  topic_id   bigint primary key,
  tail       bigint not null,
  position   bigint not null,
  event_id   bigint not null,
  created_at timestamptz not null
);
create index topic_tail_position on pgcast.topic_tail (position);
comment on index pgcast.topic_tail_position is 'By it a reader of the whole log finds what was trimmed after its place.';
comment on table pgcast.topic_tail is 'What retention has trimmed. Apart from the order itself, because trimming and sequencing would deadlock on a shared row.';
comment on column pgcast.topic_tail.topic_id is 'The topic, as in pgcast.topic.';
comment on column pgcast.topic_tail.tail is 'Seq of the oldest kept event; everything before it is gone.';
comment on column pgcast.topic_tail.position is 'Position of the newest trimmed event.';
comment on column pgcast.topic_tail.event_id is 'Identity number of the newest trimmed event, so that a client that saw exactly that one can still be recognised.';
comment on column pgcast.topic_tail.created_at is 'Creation time of the newest trimmed event.';

create table pgcast.sequencer (
  singleton         boolean primary key default true check (singleton),
  term              bigint not null default 0,
  system_identifier bigint,
  timeline          integer,
  floor             bigint not null default 0
);
insert into pgcast.sequencer default values;
comment on table pgcast.sequencer is 'One row: who may sequence (term) and on which cluster the log was last sequenced.';
comment on column pgcast.sequencer.singleton is 'Always true: there is one row.';
comment on column pgcast.sequencer.term is 'Raised by each new sequencer; a step whose term is not this one does nothing.';
comment on column pgcast.sequencer.system_identifier is 'Cluster the log was last sequenced on; null before the first time.';
comment on column pgcast.sequencer.timeline is 'Timeline the log was last sequenced on.';
comment on column pgcast.sequencer.floor is 'Events up to this id came with a restore: their xid means nothing here, only their replay row tells whether they are sequenced.';

create table pgcast.progress (
  step     bigint primary key,
  position bigint not null,
  seen     pg_snapshot not null,
  target   pg_snapshot,
  upto     bigint,
  check ((target is null) = (upto is null))
);
insert into pgcast.progress values (0, 0, '1:1:', null, null);
comment on table pgcast.progress is 'How far the sequencer is: the newest row counts. Append-only (old rows are deleted in batches), because one row updated per step slows down with every step while anybody holds an old snapshot.';
comment on column pgcast.progress.step is 'Number of the step that wrote the row.';
comment on column pgcast.progress.position is 'Last position given out.';
comment on column pgcast.progress.seen is 'Snapshot whose visible transactions are sequenced.';
comment on column pgcast.progress.target is 'While a large batch is taken in chunks: the snapshot being worked towards.';
comment on column pgcast.progress.upto is 'While a large batch is taken in chunks: the last event id done.';

create view pgcast.history as
  select t.name as topic, r.seq, r.position, e.event, e.data, e.old, e.created_at, r.sequenced_at
  from pgcast.replay r
  join pgcast.topic t on t.id = r.topic_id
  join pgcast.event_log e on e.id = r.event_id;
comment on view pgcast.history is 'The sequenced log, for people: select * from pgcast.history where topic = ''room:1'' order by seq desc limit 20.';

create table pgcast.publish_key (
  topic      text collate "C" not null,
  key        text collate "C" not null,
  event_id   bigint not null,
  created_at timestamptz not null,
  primary key (topic, key)
);
create index publish_key_created_at on pgcast.publish_key (created_at);
comment on index pgcast.publish_key_created_at is 'By it the keys of more than 24 hours ago are found and deleted.';
comment on table pgcast.publish_key is 'Idempotency keys of publish(), kept for 24 hours: the same topic and key again returns the first event.';
comment on column pgcast.publish_key.topic is 'Topic the key was used on.';
comment on column pgcast.publish_key.key is 'The caller''s key, 1 to 256 bytes.';
comment on column pgcast.publish_key.event_id is 'The event the first call made.';
comment on column pgcast.publish_key.created_at is 'Creation time of that event.';

-- +goose StatementBegin
create function pgcast.event_id(id bigint, created_at timestamptz) returns text
language sql immutable strict parallel safe set search_path = pg_catalog, pg_temp
return to_hex(id) || '-' || to_hex((extract(epoch from created_at) * 1000000)::bigint);
-- +goose StatementEnd
comment on function pgcast.event_id is 'The opaque id an event has on the wire.';

-- +goose StatementBegin
create function pgcast.check_topic(topic text) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  if topic is null or octet_length(topic) > 256 or topic collate "C" !~ '^[] !#-[^-~]+$' then
    raise exception 'pgcast: % is not a topic name', coalesce(quote_literal(left(topic, 60)), 'NULL')
      using errcode = '22023', hint = 'A topic is 1 to 256 printable ASCII bytes without " and \; encode other bytes as %XX.';
  elsif starts_with(topic collate "C", '__') then
    raise exception 'pgcast: topic % is the server''s own', quote_literal(left(topic, 60))
      using errcode = '22023', hint = 'Names that begin with __ are reserved.';
  elsif topic collate "C" ~ '(^|:)[*][*]?(:|$)' then
    raise exception 'pgcast: topic % is a pattern', quote_literal(left(topic, 60))
      using errcode = '22023', hint = 'A segment * or ** selects topics; an event belongs to exactly one topic.';
  end if;
  return topic;
end $$;
-- +goose StatementEnd
comment on function pgcast.check_topic is 'Returns the topic''s name, or raises 22023 with what is wrong with it.';

-- +goose StatementBegin
create function pgcast.ring() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- NOTIFY makes PREPARE TRANSACTION fail. Where that is possible nobody rings, and
  -- the sequencer, who knows the setting too, polls instead.
  if current_setting('max_prepared_transactions') <> '0' then
    return;
  end if;
  -- Granted: the sequencer is awake, and cannot fall asleep before this transaction
  -- has ended, because it would need the same lock exclusively.
  if pg_try_advisory_xact_lock_shared(1885823841, 1) then
    return;
  end if;
  -- A full queue would abort the caller's transaction; the safety look finds the event.
  if pg_notification_queue_usage() < 0.5 then
    perform pg_notify('pgcast', '');
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.ring is 'The doorbell: wakes the sequencer at this transaction''s commit if it sleeps, and keeps it awake until then if it does not.';

-- +goose StatementBegin
-- Whatever it waits for here (files of the log that grow, a lock on it, another transaction
-- that holds the key), the caller's lock_timeout is meant for his own locks: no write may fail
-- for ours. statement_timeout still bounds it.
create function pgcast.publish(topic text, event text, data jsonb default null, key text default null) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = 0 as $$
declare
  new_id bigint;
  new_at timestamptz := clock_timestamp();
  first_id text;
begin
  perform pgcast.check_topic(topic);
  if event is null or octet_length(event) > 128 or event collate "C" !~ '^[] !#-[^-~]+$' then
    raise exception 'pgcast: % is not an event name', coalesce(quote_literal(left(event, 60)), 'NULL')
      using errcode = '22023', hint = 'An event name is 1 to 128 printable ASCII bytes without " and \.';
  end if;
  new_id := nextval('pgcast.event_log_id_seq');
  if key is not null then
    if octet_length(key) not between 1 and 256 then
      raise exception 'pgcast: an idempotency key is 1 to 256 bytes long, this one has %', octet_length(key)
        using errcode = '22023', hint = 'Use a UUID, or a hash of what makes the call unique.';
    end if;
    loop
      insert into pgcast.publish_key as k (topic, key, event_id, created_at)
        values (publish.topic, publish.key, new_id, new_at) on conflict do nothing;
      exit when found;
      select pgcast.event_id(k.event_id, k.created_at) into first_id from pgcast.publish_key k
        where k.topic = publish.topic collate "C" and k.key = publish.key collate "C"; -- the caller's column may have its own
      if found then
        return first_id;
      end if; -- it was so old that it has just been deleted
    end loop;
  end if;
  -- In its place among the changes of tables whose changes are read from the WAL; and after
  -- the last of them is detached, not before what waits to be read there.
  if exists (select from pgcast.attachment a where a.via = 'wal') or exists (select from pgcast.published) then
    insert into pgcast.published (id, topic, event, data, created_at)
      values (new_id, publish.topic, publish.event, publish.data::json, new_at);
  else
    insert into pgcast.event_log (id, topic, event, data, created_at) overriding system value
      values (new_id, publish.topic, publish.event, publish.data::json, new_at);
    perform pgcast.ring();
  end if;
  return pgcast.event_id(new_id, new_at);
end $$;
-- +goose StatementEnd
comment on function pgcast.publish is 'Adds an event to a topic in the caller''s own transaction and returns its id. With a key, the same topic and key within 24 hours returns the first event''s id and adds nothing; it waits for a transaction still open that used them.';

create table pgcast.retention (
  pattern   text collate "C" primary key,
  max_age   interval check (max_age > interval '0'),
  max_count bigint check (max_count > 0)
);
insert into pgcast.retention values ('**', interval '7 days', null);
comment on table pgcast.retention is 'How long events are kept, by topic pattern; the pattern with most literal segments wins. A null limit does not limit; both null is for ever.';
comment on column pgcast.retention.pattern is 'A topic, or a pattern: * is one segment, a last ** is any tail.';
comment on column pgcast.retention.max_age is 'Events sequenced longer ago than this are trimmed.';
comment on column pgcast.retention.max_count is 'Only this many newest events of a topic are kept.';

-- +goose StatementBegin
create function pgcast.retain(pattern text, max_age interval default null, max_count bigint default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if pattern is null or octet_length(pattern) > 256 or pattern collate "C" !~ '^[] !#-[^-~]+$' or pattern collate "C" ~ '(^|:)[*][*]:' or starts_with(pattern collate "C", '__') then
    raise exception 'pgcast: % is not a topic or pattern', coalesce(quote_literal(left(pattern, 60)), 'NULL')
      using errcode = '22023', hint = 'Segments are split by a colon; * is one segment, ** is any tail and must be last; names that begin with __ are reserved.';
  end if;
  insert into pgcast.retention as r (pattern, max_age, max_count) values (retain.pattern, retain.max_age, retain.max_count)
    on conflict on constraint retention_pkey do update set max_age = excluded.max_age, max_count = excluded.max_count;
end $$;
-- +goose StatementEnd
comment on function pgcast.retain is 'Sets how long events of the matching topics are kept: retain(''room:*'', max_age => ''1 day'', max_count => 1000). Both null keeps them for ever.';

revoke execute on all functions in schema pgcast from public;

-- +goose Down
drop schema pgcast cascade;
