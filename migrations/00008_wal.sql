-- +goose Up
-- Logical decoding: publications, the slot, and what the sequencing server remembers of how
-- far it has read the WAL.

create table pgcast.published (
  id         bigint primary key,
  topic      text collate "C" not null,
  event      text collate "C" not null,
  data       json,
  created_at timestamptz not null
);
comment on table pgcast.published is 'While tables are captured from the WAL: events of publish() until they have been read there, in their place among the changes of those tables.';
comment on column pgcast.published.id is 'The number its id on the wire is made of.';
comment on column pgcast.published.topic is 'Name of the topic.';
comment on column pgcast.published.event is 'What publish was given.';
comment on column pgcast.published.data is 'What was published.';
comment on column pgcast.published.created_at is 'When publish was called; the other half of its id.';

create table pgcast.captured (
  step bigint primary key,
  lsn  pg_lsn,
  term bigint not null,
  slot text,
  system_identifier bigint,
  at   timestamptz not null default clock_timestamp()
);
insert into pgcast.captured (step, lsn, term) values (0, null, 0);
comment on table pgcast.captured is 'How far the WAL has been captured: the newest row counts. It is written in the transaction that writes the events, so that each change becomes one event; two that add the same step, only one of them commits.';
comment on column pgcast.captured.step is 'Counts up by one.';
comment on column pgcast.captured.lsn is 'Everything that committed before this is captured; null: nothing is captured from the WAL.';
comment on column pgcast.captured.term is 'Of the sequencer that wrote the row.';
comment on column pgcast.captured.slot is 'The replication slot the place belongs to.';
comment on column pgcast.captured.system_identifier is 'The cluster the place belongs to; elsewhere it means nothing.';
comment on column pgcast.captured.at is 'When the row was written.';

-- Unlogged: after a crash Postgres sends all of it once more, and what is written here is not
-- itself WAL to be read.
create unlogged table pgcast.stage (
  session    bigint not null,
  xid        xid8 not null,
  n          bigint not null,
  subxid     bigint not null,
  topic      text collate "C" not null,
  event      text collate "C" not null,
  data       json,
  old        json,
  created_at timestamptz,
  id         bigint,
  primary key (session, xid, n)
);
comment on table pgcast.stage is 'Events of large transactions that Postgres sends before they have committed.';
comment on column pgcast.stage.session is 'The capturing session; what another one has left is void.';
comment on column pgcast.stage.xid is 'The transaction.';
comment on column pgcast.stage.n is 'Order within the transaction.';
comment on column pgcast.stage.subxid is 'The subtransaction, which may be rolled back by itself.';
comment on column pgcast.stage.topic is 'As in pgcast.event_log.';
comment on column pgcast.stage.event is 'As in pgcast.event_log.';
comment on column pgcast.stage.data is 'As in pgcast.event_log.';
comment on column pgcast.stage.old is 'As in pgcast.event_log.';
comment on column pgcast.stage.created_at is 'Of what publish() was called for: when. Null: the moment of the commit.';
comment on column pgcast.stage.id is 'Of what publish() was called for: the number its id is made of.';

-- +goose StatementBegin
create function pgcast.slot_name() returns text
language sql stable set search_path = pg_catalog, pg_temp
return 'pgcast_capture_' || (select d.oid from pg_database d where d.datname = current_database());
-- +goose StatementEnd
comment on function pgcast.slot_name is 'Name of the replication slot by which this database''s tables are captured; slots are the cluster''s.';

-- +goose StatementBegin
create function pgcast.make_publications() returns void
language plpgsql set search_path = pg_catalog, pg_temp set client_min_messages = error as $$
begin
  -- The wake publications carry no data where the server can leave it out.
  if not exists (select from pg_publication p where p.pubname = 'pgcast_wake') then
    execute 'create publication pgcast_wake for table pgcast.event_log'
      || case when current_setting('server_version_num')::int >= 150000 then ' (id)' else '' end || ' with (publish = ''insert'')';
  end if;
  if not exists (select from pg_publication p where p.pubname = 'pgcast_steps') then
    execute 'create publication pgcast_steps for table pgcast.progress'
      || case when current_setting('server_version_num')::int >= 150000 then ' (step)' else '' end || ' with (publish = ''insert'')';
  end if;
  if not exists (select from pg_publication p where p.pubname = 'pgcast_capture') then
    -- Unpublished generated columns would make updates fail with REPLICA IDENTITY FULL.
    execute 'create publication pgcast_capture for table pgcast.published with (publish = ''insert, update, delete, truncate'''
      || case when current_setting('server_version_num')::int >= 180000 then ', publish_generated_columns = stored' else '' end || ')';
  elsif exists (select from pg_publication p where p.pubname = 'pgcast_capture' and to_jsonb(p)->>'pubgencols' = 'n') then
    alter publication pgcast_capture set (publish_generated_columns = stored); -- it was made by an older version
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.make_publications is 'Makes the publications that are missing: pgcast_wake and pgcast_steps to be woken by, pgcast_capture of the tables captured from the WAL.';

-- +goose StatementBegin
do $$
begin
  -- Without the right to make publications everything else works.
  if has_database_privilege(current_database(), 'create') then
    perform pgcast.make_publications();
  end if;
end $$;
-- +goose StatementEnd

-- +goose StatementBegin
create function pgcast.open_slot() returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  name text := pgcast.slot_name();
begin
  if current_setting('wal_level') <> 'logical' then
    raise exception 'pgcast: wal_level is %, capture from the WAL needs logical', current_setting('wal_level')
      using errcode = '55000', hint = 'alter system set wal_level = logical; and restart Postgres. Or capture by trigger.';
  end if;
  if not exists (select from pg_replication_slots s where s.slot_name = name) then
    -- Fails in a transaction that has written something: a slot does not roll back. As an
    -- expression, in a block of its own: it may leave Postgres with the resource owner of an
    -- inner transaction, so that the end of a query fails after the slot was made (XX000).
    begin
      if current_setting('server_version_num')::int >= 170000 then
        name := (pg_create_logical_replication_slot(name, 'pgoutput', false, false, true)).slot_name; -- failover
      else
        name := (pg_create_logical_replication_slot(name, 'pgoutput')).slot_name;
      end if;
    exception when internal_error then
      if not exists (select from pg_replication_slots s where s.slot_name = pgcast.slot_name()) then
        raise;
      end if;
    end;
  end if;
  return name;
end $$;
-- +goose StatementEnd
comment on function pgcast.open_slot is 'Makes the replication slot, if there is none, and returns its name. To be called in a transaction of its own, before the first table is attached with capture => ''wal''; it waits for the transactions that are open.';

-- +goose StatementBegin
-- With the owner's rights: servers may add nothing to the log where none captures from the WAL.
create function pgcast.move_published() returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  moved bigint;
begin
  with taken as (delete from pgcast.published returning *)
    insert into pgcast.event_log (topic, event, data, created_at, origin)
      select t.topic, t.event, t.data, t.created_at, row(null, t.id)::pgcast.origin from taken t order by t.id;
  get diagnostics moved = row_count;
  return moved;
end $$;
-- +goose StatementEnd
comment on function pgcast.move_published is 'Moves to the log what waits in pgcast.published, for when nobody reads the WAL any more. Returns how many.';

-- +goose StatementBegin
create function pgcast.close_slot() returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  name text := pgcast.slot_name();
  is_done boolean;
begin
  if exists (select from pgcast.attachment a where a.via = 'wal') then
    raise exception 'pgcast: tables are captured by slot %', name
      using errcode = '55006', hint = 'Detach them first, or attach them with capture => ''trigger''.';
  end if;
  perform pg_drop_replication_slot(s.slot_name) from pg_replication_slots s where s.slot_name = name;
  is_done := found;
  -- Whoever opens one later begins there, and has missed nothing.
  insert into pgcast.captured (step, lsn, term)
    select c.step + 1, null, c.term from (select * from pgcast.captured order by step desc limit 1) c where c.lsn is not null;
  perform pgcast.move_published();
  return is_done;
end $$;
-- +goose StatementEnd
comment on function pgcast.close_slot is 'Drops the replication slot when no table is captured by it any more; false if there was none. A server that runs does it by itself.';

revoke execute on all functions in schema pgcast from public;

-- +goose Down
-- +goose StatementBegin
do $$
begin
  if exists (select from pg_replication_slots s where s.slot_name = pgcast.slot_name() and s.active) then
    raise exception 'pgcast: a server reads replication slot %', pgcast.slot_name()
      using errcode = '55006', hint = 'Stop the servers first.';
  end if;
  perform pgcast.move_published();
end $$;
-- +goose StatementEnd
drop publication if exists pgcast_capture;
drop publication if exists pgcast_steps;
drop publication if exists pgcast_wake;
drop function pgcast.close_slot();
drop function pgcast.move_published();
drop function pgcast.open_slot();
drop function pgcast.make_publications();
drop function pgcast.slot_name();
drop table pgcast.stage;
drop table pgcast.captured;
drop table pgcast.published;
-- +goose StatementBegin
do $$
begin
  -- At the very end: it does not roll back.
  perform pg_drop_replication_slot(s.slot_name) from pg_replication_slots s
    where s.slot_name = 'pgcast_capture_' || (select d.oid from pg_database d where d.datname = current_database());
end $$;
-- +goose StatementEnd
