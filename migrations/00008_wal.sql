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
  at   timestamptz not null default clock_timestamp()
);
insert into pgcast.captured (step, lsn, term) values (0, null, 0);
comment on table pgcast.captured is 'How far the WAL has been captured: the newest row counts. It is written in the transaction that writes the events, so that each change becomes one event; two that add the same step, only one of them commits.';
comment on column pgcast.captured.step is 'Counts up by one.';
comment on column pgcast.captured.lsn is 'Everything that committed before this is captured; null: nothing is captured from the WAL.';
comment on column pgcast.captured.term is 'Of the sequencer that wrote the row.';
comment on column pgcast.captured.slot is 'The replication slot the place belongs to.';
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
    -- Fails in a transaction that has written something: a slot does not roll back.
    if current_setting('server_version_num')::int >= 170000 then
      execute 'select pg_create_logical_replication_slot($1, ''pgoutput'', false, false, true)' using name; -- failover
    else
      perform pg_create_logical_replication_slot(name, 'pgoutput');
    end if;
  end if;
  return name;
end $$;
-- +goose StatementEnd
comment on function pgcast.open_slot is 'Makes the replication slot, if there is none, and returns its name. To be called in a transaction of its own, before the first table is attached with capture => ''wal''; it waits for the transactions that are open.';

-- +goose StatementBegin
create function pgcast.close_slot() returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  name text := pgcast.slot_name();
begin
  if exists (select from pgcast.attachment a where a.via = 'wal') then
    raise exception 'pgcast: tables are captured by slot %', name
      using errcode = '55006', hint = 'Detach them first, or attach them with capture => ''trigger''.';
  end if;
  perform pg_drop_replication_slot(s.slot_name) from pg_replication_slots s where s.slot_name = name;
  return found;
end $$;
-- +goose StatementEnd
comment on function pgcast.close_slot is 'Drops the replication slot when no table is captured by it any more; false if there was none. A server that runs does it by itself.';

-- +goose StatementBegin
create function pgcast.check_slot() returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('wal_level') <> 'logical' then
    raise exception 'pgcast: wal_level is %, capture from the WAL needs logical', current_setting('wal_level')
      using errcode = '55000', hint = 'alter system set wal_level = logical; and restart Postgres. Or capture by trigger.';
  elsif not exists (select from pg_replication_slots s where s.slot_name = pgcast.slot_name()) then
    raise exception 'pgcast: there is no replication slot %', pgcast.slot_name()
      using errcode = '55000', hint = 'select pgcast.open_slot(); first, in a transaction of its own.';
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.check_slot is 'Raises, with what to do, if nothing can be captured from the WAL.';

-- +goose StatementBegin
create function pgcast.identity_of(rel oid) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select case c.relreplident
      when 'f' then array(select l.name from pgcast.live_columns(rel) l order by l.num)
      when 'n' then '{}'
      else array(select l.name from pg_index i cross join lateral unnest(i.indkey::int2[]) with ordinality k (num, n) join pgcast.live_columns(rel) l on l.num = k.num
                 where i.indrelid = rel and i.indisvalid and i.indimmediate and k.n <= i.indnkeyatts
                   and case c.relreplident when 'd' then i.indisprimary else i.indisreplident end order by k.n) end
    from pg_class c where c.oid = rel);
end $$;
-- +goose StatementEnd
comment on function pgcast.identity_of is 'The columns whose old values Postgres writes to the WAL (REPLICA IDENTITY); empty: it cannot update or delete while the table is published.';

-- +goose StatementBegin
create function pgcast.decoding_trouble(root oid, rel oid, r jsonb, old boolean, out problem text, out mend text)
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  c record;
  identity text[] := pgcast.identity_of(rel);
  keys text[] := array(select jsonb_array_elements_text(case when jsonb_typeof(r->'key') = 'array' then r->'key' else r->'captured' end));
  topics text[] := array_remove(array(select jsonb_array_elements_text(r->'values')), null);
  computed text[];
begin
  select t.relpersistence, t.relkind, t.relreplident,
         exists (select from pg_class p where p.oid = root and p.relkind = 'p') as is_tree into c from pg_class t where t.oid = rel;
  computed := array(select a.attname::text from pg_attribute a where a.attrelid = rel and a.attgenerated = 's' and not a.attisdropped);
  mend := format('alter table %s replica identity full;', rel::regclass);
  if c.relpersistence = 'u' then
    problem := format('%s is unlogged, and never in the WAL', rel::regclass);
    mend := format('alter table %s set logged;', rel::regclass);
  elsif c.relkind = 'f' then
    problem := format('%s is a foreign table, and never in the WAL', rel::regclass);
    mend := format('select pgcast.detach(%L);', root::regclass);
  elsif exists (select from pg_index i where i.indrelid = rel and i.indisprimary and not i.indimmediate) then
    problem := format('the primary key of %s is deferrable: keys may shift from row to row, and row by row is how the WAL has them', rel::regclass);
    mend := (select format('alter table %s drop constraint %I, add primary key (%s);', rel::regclass, p.conname,
                    (select string_agg(quote_ident(l.name), ', ' order by k.n) from unnest(p.conkey) with ordinality k (num, n) join pgcast.live_columns(rel) l on l.num = k.num))
             from pg_constraint p where p.conrelid = rel and p.contype = 'p');
  elsif c.relreplident = 'f' and current_setting('server_version_num')::int >= 180000
        and exists (select from pg_attribute a where a.attrelid = rel and a.attgenerated = 'v' and not a.attisdropped) then
    problem := format('%s has REPLICA IDENTITY FULL and columns computed when they are read: while it is published Postgres refuses to update and delete its rows', rel::regclass);
    mend := format('alter table %s replica identity default;', rel::regclass);
  elsif c.relkind = 'p' and not identity @> keys or c.is_tree and old then
    problem := format('old values of partitions are in the WAL by their primary key only, as a partition made later has not its parent''s REPLICA IDENTITY', rel::regclass);
    mend := 'capture by trigger, or give the table a primary key and leave out old';
  elsif identity = '{}' and (c.relkind = 'r' or c.is_tree) then
    problem := format('%s has no REPLICA IDENTITY: while it is published Postgres refuses to update and delete its rows', rel::regclass);
  elsif not identity @> keys then
    problem := format('the REPLICA IDENTITY of %s leaves out the key (%s)', rel::regclass, array_to_string(keys, ', '));
  elsif not identity @> topics then
    problem := format('the REPLICA IDENTITY of %s leaves out %s, and the topic of a deleted row is made of it', rel::regclass,
                      (select string_agg(quote_ident(t), ', ') from unnest(topics) t where t <> all (identity)));
  elsif old and not identity @> array(select jsonb_array_elements_text(r->'captured')) then
    problem := format('the REPLICA IDENTITY of %s leaves out old values', rel::regclass);
  elsif c.relreplident <> 'f' and computed && (keys || topics) and current_setting('server_version_num')::int < 180000 then
    problem := format('this Postgres does not send generated columns, and the key or topic of %s is made of one', rel::regclass);
  end if;
  if problem is not null and mend like '%replica identity full;' and c.is_tree then
    mend := 'capture by trigger, or make the topic of columns of the primary key: a partition made later has not its parent''s REPLICA IDENTITY';
  elsif problem is null then
    mend := null;
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.decoding_trouble is 'Why a table, or one of its partitions, cannot be captured from the WAL with what its attachment wants, and what mends it; null if it can.';

-- +goose StatementBegin
create function pgcast.check_decodable(tbl regclass, r jsonb, old boolean) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  m record;
  p record;
begin
  if not (select pg_has_role(c.relowner, 'usage') from pg_class c where c.oid = tbl) then
    raise exception 'pgcast: only its owner can have % captured from the WAL', tbl
      using errcode = '42501', hint = 'Attach as a role that is a member of the owner, or capture by trigger.';
  end if;
  select b.pubname, pg_has_role(b.pubowner, 'usage') as is_ours into p from pg_publication b where b.pubname = 'pgcast_capture';
  if p.pubname is null and not has_database_privilege(current_database(), 'create') then
    raise exception 'pgcast: there is no publication pgcast_capture, and role % may not make it', quote_ident(current_user)
      using errcode = '42501', hint = format('grant create on database %I to %I; or as its owner: select pgcast.make_publications();', current_database(), current_user);
  elsif not p.is_ours then
    raise exception 'pgcast: publication pgcast_capture belongs to another role' using errcode = '42501', hint = format('alter publication pgcast_capture owner to %I;', current_user);
  end if;
  for m in select x.rel, t.relkind from pgcast.members_of(tbl) x join pg_class t on t.oid = x.rel order by x.depth, x.rel loop
    if m.rel <> tbl and (select c.relkind <> 'p' from pg_class c where c.oid = tbl) then
      raise exception 'pgcast: % cannot be captured from the WAL: it has children', tbl
        using errcode = '42809', hint = 'Capture inherited tables by trigger. Partitioned tables can be captured from the WAL.';
    end if;
    p := pgcast.decoding_trouble(tbl, m.rel, r, old);
    if p.problem is not null then
      raise exception 'pgcast: % cannot be captured from the WAL so: %', tbl, p.problem using errcode = '55000', hint = p.mend;
    end if;
  end loop;
end $$;
-- +goose StatementEnd
comment on function pgcast.check_decodable is 'Raises, with the statement that mends it, if a table cannot be captured from the WAL.';

-- +goose StatementBegin
create function pgcast.decoded_of(rel oid) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select coalesce(jsonb_object_agg(l.name, jsonb_build_array(a.atttypid::bigint, a.atttypmod)), '{}')
    from pgcast.live_columns(rel) l join pg_attribute a on a.attrelid = rel and a.attnum = l.num
    where a.attgenerated = '' or a.attgenerated = 's' and current_setting('server_version_num')::int >= 180000);
end $$;
-- +goose StatementEnd
comment on function pgcast.decoded_of is 'A table''s columns that are in the WAL, with their types.';

-- +goose StatementBegin
create function pgcast.follow_table(tbl regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp set quote_all_identifiers = off set client_min_messages = error as $$
begin
  perform pgcast.make_publications();
  if not exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where p.pubname = 'pgcast_capture' and r.prrelid = tbl) then
    execute format('alter publication pgcast_capture add table only %s', tbl);
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.follow_table is 'Puts a table into publication pgcast_capture, if it is not there.';

-- +goose StatementBegin
create function pgcast.unfollow_table(tbl regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
begin
  if exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where p.pubname = 'pgcast_capture' and r.prrelid = tbl) then
    execute format('alter publication pgcast_capture drop table only %s', tbl);
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.unfollow_table is 'Takes a table out of publication pgcast_capture, if it is there.';

-- +goose StatementBegin
create function pgcast.attach_wal_sql(tbl regclass, name text, topic text, columns text[], without text[], old boolean, numbers text) returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
begin
  -- First, as it cannot be done in a transaction that has written.
  return next 'select pgcast.open_slot()';
  -- Like CREATE TRIGGER: writers wait for a moment, and each is captured in one of the two ways.
  if exists (select from pg_proc f where f.pronamespace = 'pgcast'::regnamespace and f.proname = attach_wal_sql.name) then
    return next format('lock table %s in access exclusive mode', tbl);
  else
    return next format('lock table %s in share row exclusive mode', tbl);
  end if;
  return next format('drop function if exists pgcast.%I() cascade', name);
  return next format('select pgcast.follow_table(%L)', tbl);
  return next format(
    E'insert into pgcast.attachment as a (relation, capture, via, topic, columns, without, old, numbers, shape, stamp, kinds, decoded, names, members)\n'
    'values (%L, %L, ''wal'', %L, %L, %L, %L, %L, pgcast.shape_of(%L::regclass), pgcast.stamp_of(%L::regclass), pgcast.kinds_of(%L::regclass),\n'
    '  pgcast.decoded_of(%L::regclass), pgcast.shape_of(%L::regclass), array(select m.rel from pgcast.members_of(%L::regclass) m))\n'
    'on conflict (relation) do update set capture = excluded.capture, via = excluded.via, topic = excluded.topic, columns = excluded.columns,\n'
    '  without = excluded.without, old = excluded.old, numbers = excluded.numbers, shape = excluded.shape, stamp = excluded.stamp,\n'
    '  decoded = case when a.via = ''wal'' then a.decoded else excluded.decoded end,\n'
    '  names = (select jsonb_agg(distinct n) from jsonb_array_elements(coalesce(a.names, ''[]'') || excluded.names) n),\n'
    '  members = array(select m from unnest(a.members) m union select m from unnest(excluded.members) m)',
    tbl, name, topic, columns, without, old, numbers, tbl, tbl, tbl, tbl, tbl, tbl);
end $$;
-- +goose StatementEnd
comment on function pgcast.attach_wal_sql is 'The statements by which a table is captured from the WAL.';

revoke execute on all functions in schema pgcast from public;

-- +goose Down
-- +goose StatementBegin
do $$
begin
  if exists (select from pg_replication_slots s where s.slot_name = pgcast.slot_name() and s.active) then
    raise exception 'pgcast: a server reads replication slot %', pgcast.slot_name()
      using errcode = '55006', hint = 'Stop the servers first.';
  end if;
  perform pgcast.detach(a.relation) from pgcast.attachment a where a.via = 'wal';
end $$;
-- +goose StatementEnd
drop publication if exists pgcast_capture;
drop publication if exists pgcast_steps;
drop publication if exists pgcast_wake;
drop function pgcast.attach_wal_sql(regclass, text, text, text[], text[], boolean, text);
drop function pgcast.unfollow_table(regclass);
drop function pgcast.follow_table(regclass);
drop function pgcast.decoded_of(oid);
drop function pgcast.check_decodable(regclass, jsonb, boolean);
drop function pgcast.decoding_trouble(oid, oid, jsonb, boolean);
drop function pgcast.identity_of(oid);
drop function pgcast.check_slot();
drop function pgcast.close_slot();
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
