-- +goose Up
-- Capture from the WAL, the tables: which can be captured so, and how they are put into the
-- publication and taken out. While a table is published Postgres refuses to update and delete
-- rows of which it could not say in the WAL which they were, so that is looked at first.

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
      when 'n' then null
      else (select array_agg(l.name order by k.n) from pg_index i cross join lateral unnest(i.indkey::int2[]) with ordinality k (num, n) join pgcast.live_columns(rel) l on l.num = k.num
                 where i.indrelid = rel and i.indisvalid and i.indimmediate and k.n <= i.indnkeyatts
                   and case c.relreplident when 'd' then i.indisprimary else i.indisreplident end) end
    from pg_class c where c.oid = rel);
end $$;
-- +goose StatementEnd
comment on function pgcast.identity_of is 'The columns whose old values Postgres writes to the WAL (REPLICA IDENTITY); null: it cannot update or delete while the table is published.';

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
  elsif pgcast.decoded_of(rel) = '{}' then
    problem := format('%s has no columns that are in the WAL', rel::regclass);
    mend := 'capture by trigger';
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
  elsif c.relkind = 'p' and identity @> keys is not true or c.is_tree and old then
    problem := format('old values of partitions are in the WAL by their primary key only, as a partition made later has not its parent''s REPLICA IDENTITY', rel::regclass);
    mend := 'capture by trigger, or give the table a primary key and leave out old';
  elsif identity is null and (c.relkind = 'r' or c.is_tree) then
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
  select b.pubname, pg_has_role(b.pubowner, 'usage') as is_ours, pg_get_userbyid(f.proowner) as keeper, pg_has_role(f.proowner, b.pubowner, 'usage') as is_kept into p
    from pg_publication b, pg_proc f where b.pubname = 'pgcast_capture' and f.oid = 'pgcast.refresh'::regproc;
  if p.pubname is null and not has_database_privilege(current_database(), 'create') then
    raise exception 'pgcast: there is no publication pgcast_capture, and role % may not make it', quote_ident(current_user)
      using errcode = '42501', hint = format('grant create on database %I to %I; or as its owner: select pgcast.make_publications();', current_database(), current_user);
  elsif not p.is_ours then
    raise exception 'pgcast: publication pgcast_capture belongs to another role' using errcode = '42501', hint = format('alter publication pgcast_capture owner to %I;', current_user);
  elsif not p.is_kept then
    -- Or refresh() could not take a table out of it when it makes writes fail.
    raise exception 'pgcast: publication pgcast_capture does not belong to role %, which looks after it', quote_ident(p.keeper)
      using errcode = '42501', hint = format('grant create on database %I to %I; alter publication pgcast_capture owner to %I;', current_database(), p.keeper, p.keeper);
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
create function pgcast.await_captured(tbl regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  s record;
  mark pg_lsn := pg_current_wal_insert_lsn();
  began timestamptz := clock_timestamp();
begin
  -- Who captures stores how far it is when it has captured something, or has got on by a megabyte.
  perform pg_logical_emit_message(false, 'pgcast', repeat('x', 1200000));
  -- While nobody commits, Postgres writes whole pages of WAL only. That the one above ends on
  -- such a page this one sees to, which then waits itself.
  perform pg_logical_emit_message(false, 'pgcast', repeat('x', 50000));
  loop
    select r.active, r.wal_status, r.confirmed_flush_lsn >= mark as is_done into s from pg_replication_slots r where r.slot_name = pgcast.slot_name();
    if not found or s.wal_status = 'lost' or s.is_done then
      return; -- if there is none, nothing will come any more
    end if;
    exit when clock_timestamp() > began + case when s.active then interval '10 seconds' else '5 seconds' end; -- a server may just begin
    perform pg_sleep(0.02);
  end loop;
  raise exception 'pgcast: changes of % may be in the WAL and not captured yet: they would come after what its triggers write', tbl
    using errcode = '55000', hint = case when s.active then 'Try again when the server that captures has caught up.'
                                         else 'Start a server and try again. Or detach it first: what is not captured by then comes late.' end;
end $$;
-- +goose StatementEnd
comment on function pgcast.await_captured is 'Waits until all that is in the WAL now has been captured, 10 seconds at most.';

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
    '  names = (select jsonb_agg(distinct n) from jsonb_array_elements(case when a.stamp = excluded.stamp then coalesce(a.names, ''[]'') else ''[]'' end || excluded.names) n),\n'
    '  members = array(select m from unnest(a.members) m where a.stamp = excluded.stamp union select m from unnest(excluded.members) m)',
    tbl, name, topic, columns, without, old, numbers, tbl, tbl, tbl, tbl, tbl, tbl);
end $$;
-- +goose StatementEnd
comment on function pgcast.attach_wal_sql is 'The statements by which a table is captured from the WAL.';

-- +goose StatementBegin
create function pgcast.must_not_follow(rel oid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from pg_class c where c.oid = rel and c.relkind = 'r')
    and (pgcast.identity_of(rel) is null or pgcast.decoded_of(rel) = '{}'
         or (select c.relreplident = 'f' from pg_class c where c.oid = rel) and current_setting('server_version_num')::int >= 180000
            and exists (select from pg_attribute a where a.attrelid = rel and a.attgenerated = 'v' and not a.attisdropped));
end $$;
-- +goose StatementEnd
comment on function pgcast.must_not_follow is 'Whether Postgres refuses to update and delete a table''s rows while it is published, or has no values of theirs in the WAL.';

-- +goose StatementBegin
create function pgcast.refresh_followed(tbl regclass) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
-- More than refresh() has: writes fail already, none waits for this lock, and after a second an
-- autovacuum makes room for it.
set lock_timeout = '3s' as $$
declare
  changed integer := 0;
begin
  -- No write may fail because of us: rather let nothing be captured, which drift() tells.
  if exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid where p.pubname = 'pgcast_capture' and r.prrelid = tbl)
     and exists (select from pgcast.members_of(tbl) m where pgcast.must_not_follow(m.rel)) then
    perform pgcast.unfollow_table(tbl);
    changed := 1;
  end if;
  -- After a restore elsewhere the numbers are others.
  update pgcast.attachment t set names = n.names, members = n.members
    from (select (select jsonb_agg(distinct x) from jsonb_array_elements(case when a.is_here then coalesce(a.names, '[]') else '[]' end || pgcast.shape_of(tbl)) x) as names,
                 array(select m from unnest(a.members) m where a.is_here union select m.rel from pgcast.members_of(tbl) m order by 1) as members
          from (select x.*, x.stamp = pgcast.stamp_of(tbl) as is_here from pgcast.attachment x where x.relation = tbl) a) n
    where t.relation = tbl and (t.names, t.members) is distinct from (n.names, n.members);
  return changed;
end $$;
-- +goose StatementEnd
comment on function pgcast.refresh_followed is 'Notes a table''s new columns and partitions, and takes it out of the publication when it would make writes fail. Returns 1 if it did.';

-- +goose StatementBegin
create function pgcast.drift_followed(tbl regclass, spec jsonb, again text) returns table (relation text, problem text, mend text)
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
#variable_conflict use_column
declare
  a record;
  p record;
  f jsonb;
  m record;
  trouble record;
  is_in boolean := false;
begin
  select x.* into a from pgcast.attachment x where x.relation = tbl;
  select b.* into p from pg_publication b where b.pubname = 'pgcast_capture';
  if found then
    select to_jsonb(r) into f from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = tbl;
    is_in := found;
  end if;
  if a.via = 'trigger' then
    if is_in and a.decoded is not null then
      return query values (tbl::text, 'it is captured by triggers, and is in publication pgcast_capture too: writes become events twice',
                           format('alter publication pgcast_capture drop table %s', tbl));
    end if;
    return;
  end if;
  if current_setting('wal_level') <> 'logical' then
    return query values (tbl::text, format('wal_level is %s; nothing is captured from the WAL', current_setting('wal_level')), 'alter system set wal_level = logical; and restart Postgres');
  elsif not exists (select from pg_replication_slots s where s.slot_name = pgcast.slot_name() and s.wal_status is distinct from 'lost') then
    return query values (tbl::text, format('replication slot %s is gone; nothing is captured', pgcast.slot_name()),
                         'start a server, which makes one and tells the topics; or: select pgcast.open_slot()');
  end if;
  if p.pubname is null then
    return query values (tbl::text, 'publication pgcast_capture is gone; nothing is captured', again);
  elsif not (p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate) or p.pubviaroot then
    return query values (tbl::text, 'publication pgcast_capture has been altered; not everything is captured',
                         'alter publication pgcast_capture set (publish = ''insert, update, delete, truncate'', publish_via_partition_root = false)');
  end if;
  for m in select x.rel, x.depth > 0 as is_member, c.relkind from pgcast.members_of(tbl) x join pg_class c on c.oid = x.rel order by x.depth, c.relname loop
    trouble := pgcast.decoding_trouble(tbl, m.rel, pgcast.resolve(tbl, spec), a.old);
    if trouble.problem is not null then
      return query values (m.rel::regclass::text, trouble.problem, trouble.mend || case when is_in or p.pubname is null then '' else ' ' || again end);
    end if;
    if m.is_member and m.relkind = 'r' and (select c.relkind = 'r' from pg_class c where c.oid = tbl) then
      return query values (m.rel::regclass::text, format('what is written into it is not captured: it inherits from %s, which is captured from the WAL', tbl),
                           format('attach %s with capture => ''trigger''', tbl));
    elsif m.is_member and exists (select from pgcast.attachment o where o.relation = m.rel) then
      return query values (m.rel::regclass::text, format('it is attached by itself, and belongs to %s, which is attached', tbl), format('select pgcast.detach(%L); %s', m.rel::regclass, again));
    end if;
  end loop;
  if p.pubname is not null and not is_in then
    return query values (tbl::text, 'it is not in publication pgcast_capture; nothing is captured', again);
  elsif f->>'prqual' is not null or f->>'prattrs' is not null then
    return query values (tbl::text, 'publication pgcast_capture has only some of its rows or columns; not everything is captured',
                         format('alter publication pgcast_capture drop table %s; %s', tbl, again));
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.drift_followed is 'What drift() says of a table captured from the WAL.';

revoke execute on all functions in schema pgcast from public;

-- +goose Down
-- +goose StatementBegin
do $$
begin
  perform pgcast.detach(a.relation) from pgcast.attachment a where a.via = 'wal';
end $$;
-- +goose StatementEnd
drop function pgcast.drift_followed(regclass, jsonb, text);
drop function pgcast.refresh_followed(regclass);
drop function pgcast.must_not_follow(oid);
drop function pgcast.await_captured(regclass);
drop function pgcast.attach_wal_sql(regclass, text, text, text[], text[], boolean, text);
drop function pgcast.unfollow_table(regclass);
drop function pgcast.follow_table(regclass);
drop function pgcast.decoded_of(oid);
drop function pgcast.check_decodable(regclass, jsonb, boolean);
drop function pgcast.decoding_trouble(oid, oid, jsonb, boolean);
drop function pgcast.identity_of(oid);
drop function pgcast.check_slot();
