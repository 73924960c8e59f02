-- +goose Up
-- attach(), detach() and the scripts they run.

-- +goose StatementBegin
create function pgcast.check_attachable(tbl regclass, capture text default 'trigger') returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  c record;
  m record;
  kind text;
begin
  select r.relkind, r.relpersistence, r.relispartition, r.relnamespace::regnamespace::text as schema into c from pg_class r where r.oid = tbl;
  if not found then
    raise exception 'pgcast: no table to attach' using errcode = '42P01', hint = 'Name a table: pgcast.attach(''public.messages'').';
  end if;
  kind := case
    when c.schema = 'pgcast' then 'is part of pgcast itself'
    when tbl::oid < 16384 or c.schema in ('pg_catalog', 'information_schema', 'pg_toast') then 'is a system table'
    when c.relkind = 'v' then 'is a view'
    when c.relkind = 'm' then 'is a materialized view'
    when c.relkind = 'f' then 'is a foreign table'
    when c.relkind not in ('r', 'p') then 'is not a table'
    when c.relpersistence = 't' then 'is a temporary table' end;
  if kind is not null then
    raise exception 'pgcast: % cannot be attached: it %', tbl, kind
      using errcode = '42809', hint = 'Attach an ordinary, partitioned or inherited table; for a view, the tables below it.';
  elsif c.relispartition then
    raise exception 'pgcast: % cannot be attached: it is a partition of %', tbl, pg_partition_root(tbl)
      using errcode = '42809', hint = format('Attach the root, which covers all partitions: pgcast.attach(%L).', pg_partition_root(tbl));
  end if;
  if not has_schema_privilege('pgcast', 'create') or not has_table_privilege('pgcast.event_log', 'insert') or not has_table_privilege('pgcast.attachment', 'insert') then
    raise exception 'pgcast: role % may not create capture functions', quote_ident(current_user)
      using errcode = '42501', hint = 'Attach as the role that ran pgcast migrate, with TRIGGER on the table.';
  end if;
  select p.rel::regclass as rel into m from (
    with recursive up (rel) as (
      select i.inhparent from pg_inherits i where i.inhrelid = tbl
      union select i.inhparent from up u join pg_inherits i on i.inhrelid = u.rel)
    select u.rel from up u) p order by p.rel in (select a.relation from pgcast.attachment a) desc limit 1;
  if m.rel in (select a.relation from pgcast.attachment a) then
    raise exception 'pgcast: % cannot be attached: it inherits from %, which is attached', tbl, m.rel
      using errcode = '55000', hint = format('Attach %s again to cover all its children.', m.rel);
  elsif m.rel is not null then
    raise notice 'pgcast: % inherits from %; what is written through the parent is not captured', tbl, m.rel;
  end if;
  for m in select x.rel::regclass as rel, r.relkind, r.relpersistence from pgcast.members_of(tbl) x join pg_class r on r.oid = x.rel loop
    if m.relkind = 'f' then
      raise exception 'pgcast: % cannot be attached: % is a foreign table', tbl, m.rel
        using errcode = '42809', hint = 'Postgres collects no transition tables from foreign tables, so writes to them would fail.';
    elsif m.rel <> tbl and exists (select from pgcast.attachment a where a.relation = m.rel) then
      raise exception 'pgcast: % cannot be attached: % is attached by itself', tbl, m.rel
        using errcode = '55000', hint = format('select pgcast.detach(%L); then attach %s.', m.rel, tbl);
    elsif exists (select from pg_trigger t join pg_proc f on f.oid = t.tgfoid join pgcast.attachment a on a.capture = f.proname
                  where t.tgrelid = m.rel and f.pronamespace = 'pgcast'::regnamespace and a.relation <> tbl
                    and m.rel in (select o.rel from pgcast.members_of(a.relation) o)) then
      raise exception 'pgcast: % cannot be attached: % belongs to another attached table', tbl, m.rel
        using errcode = '55000', hint = 'A table that inherits from several can be captured for one of them only.';
    elsif check_attachable.capture = 'trigger' and not has_table_privilege(m.rel, 'trigger') then
      raise exception 'pgcast: no permission to create triggers on %', m.rel
        using errcode = '42501', hint = format('grant trigger on %s to %I, or attach as the owner.', m.rel, current_user);
    elsif m.relpersistence = 'u' and check_attachable.capture = 'trigger' then
      raise notice 'pgcast: % is unlogged; a crash empties it and leaves no event', m.rel;
    end if;
  end loop;
end $$;
-- +goose StatementEnd
comment on function pgcast.check_attachable is 'Raises, with what to do, if a table cannot be attached by the caller.';

-- +goose StatementBegin
create function pgcast.check_columns(tbl regclass, names text[]) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  known text[] := array(select c.name from pgcast.live_columns(tbl) c order by c.num);
  unknown text := (select u.n from unnest(names) with ordinality u (n, i) where u.n is null or u.n <> all (known) order by u.i limit 1);
begin
  if unknown is not null or array_position(names, null) is not null then
    raise exception 'pgcast: % has no column %', tbl, coalesce(quote_ident(unknown), 'NULL')
      using errcode = '42703', hint = format('Its columns: %s.', array_to_string(known, ', '));
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.check_columns is 'Raises 42703 for a column that a table does not have.';

-- +goose StatementBegin
create function pgcast.attach_sql(tbl regclass, topic text default null, columns text[] default null, without text[] default null,
                                  old boolean default false, numbers text default 'json', capture text default 'trigger') returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  c record;
  m record;
  spec jsonb;
  r jsonb;
  name text;
  by_row boolean;
  statement text;
begin
  if capture is null or capture not in ('trigger', 'wal') then
    raise exception 'pgcast: % is not a way to capture', coalesce(quote_literal(capture), 'NULL')
      using errcode = '22023', hint = 'capture is ''trigger'', or ''wal'' to read changes from the write-ahead log.';
  end if;
  perform pgcast.check_attachable(tbl, capture);
  select t.relname, n.nspname, t.relowner into c from pg_class t join pg_namespace n on n.oid = t.relnamespace where t.oid = tbl;
  topic := coalesce(topic, pgcast.expand_topic('{"",""}', array[c.relname::text]));
  perform pgcast.check_columns(tbl, (pgcast.topic_parts(topic)).names);
  perform pgcast.check_columns(tbl, columns);
  perform pgcast.check_columns(tbl, without);
  if columns is not null and without is not null then
    raise exception 'pgcast: attach takes columns or without, not both'
      using errcode = '22023', hint = 'columns lists what is captured, without what is not.';
  elsif columns = '{}' then
    raise exception 'pgcast: attach with no columns' using errcode = '22023', hint = 'Leave columns out to capture all of them.';
  elsif old is null or numbers is null or numbers not in ('json', 'text') then
    raise exception 'pgcast: % is not a way to write numbers', coalesce(quote_literal(numbers), 'NULL')
      using errcode = '22023', hint = 'numbers is ''json'' (as Postgres prints them) or ''text'' (bigint and numeric as JSON strings); old is true or false.';
  end if;
  spec := jsonb_build_object('topic', topic, 'columns', columns, 'without', without, 'old', old, 'numbers', numbers,
                             'shape', pgcast.shape_of(tbl), 'stamp', pgcast.stamp_of(tbl));
  r := pgcast.resolve(tbl, spec);
  for statement in select v from jsonb_array_elements_text(r->'virtual') v where v = any (columns || (pgcast.topic_parts(topic)).names) limit 1 loop
    raise exception 'pgcast: column % of % is computed when it is read and has no value when the row is written', quote_ident(statement), tbl
      using errcode = '0A000', hint = 'Make it a STORED generated column, or leave it out.';
  end loop;
  if exists (select from pg_index i, lateral unnest(i.indkey::int2[]) with ordinality k (num, n) join pgcast.live_columns(tbl) l on l.num = k.num
             where i.indrelid = tbl and i.indisprimary and k.n <= i.indnkeyatts and l.name <> all (array(select jsonb_array_elements_text(r->'captured')))) then
    raise exception 'pgcast: the columns to capture of % leave out its primary key', tbl
      using errcode = '22023', hint = 'Updates and deletes tell by the key which row they mean.';
  end if;
  if capture = 'wal' then
    perform pgcast.check_decodable(tbl, r, old);
  end if;
  -- Named after the table: its oid would change with a dump, or where a printed script is run.
  name := (select a.capture from pgcast.attachment a where a.relation = tbl);
  if name is null then
    name := format('capture_%s_%s', left(regexp_replace(lower(c.relname), '[^a-z0-9_]', '_', 'g'), 40), left(md5(c.nspname || '.' || c.relname), 8));
    while exists (select from pgcast.attachment a where a.capture = name) loop
      name := left(name, 54) || substr(md5(name), 1, 8);
    end loop;
  end if;
  if capture = 'wal' then
    return query select pgcast.attach_wal_sql(tbl, name, topic, columns, without, old, numbers);
    return;
  end if;
  by_row := pgcast.row_triggers(tbl, name, false);
  if exists (select from pgcast.attachment a where a.relation = tbl and a.via = 'wal') then
    return next format('select pgcast.await_captured(%L)', tbl); -- most of it before writers wait
    return next format('lock table %s in share row exclusive mode', tbl);
    return next format('select pgcast.await_captured(%L)', tbl);
    return next format('select pgcast.unfollow_table(%L)', tbl);
  end if;
  return query select pgcast.capture_sql(tbl, name, spec, by_row);
  for m in select x.rel, x.depth > 0 as is_member, pg_has_role(t.relowner, 'usage') as is_owner
           from pgcast.members_of(tbl) x join pg_class t on t.oid = x.rel order by x.depth, t.relname loop
    return query select pgcast.trigger_sql(m.rel, name, m.is_member, m.is_owner, by_row);
    if not m.is_owner then
      raise notice 'pgcast: not the owner of %; writes with session_replication_role = replica will not be captured', m.rel::regclass;
    end if;
    if not by_row and exists (select from pg_trigger t where t.tgrelid = m.rel and not t.tgisinternal and t.tgtype & 3 = 1
                              and t.tgfoid not in (select f.oid from pg_proc f where f.pronamespace = 'pgcast'::regnamespace)) then
      raise notice 'pgcast: % has row triggers; what they write to attached tables may come before what they were triggered by', m.rel::regclass;
    end if;
    if m.is_member and not has_table_privilege(pgcast.capture_owner(), m.rel, 'select') then
      raise notice 'pgcast: role % may not read %; truncating it by itself will not be captured', quote_ident(pg_get_userbyid(pgcast.capture_owner())), m.rel::regclass;
    end if;
  end loop;
  -- What was once a member is left alone by the function, but should not even call it.
  for statement in
    select format('drop trigger %I on %s', t.tgname, t.tgrelid::regclass)
    from pg_trigger t join pg_proc f on f.oid = t.tgfoid join pg_class o on o.oid = t.tgrelid
    where f.pronamespace = 'pgcast'::regnamespace and f.proname = name and pg_has_role(o.relowner, 'usage')
      and (t.tgrelid not in (select x.rel from pgcast.members_of(tbl) x) or t.tgtype & 1 = 1 and not by_row)
    order by t.tgrelid, t.tgname
  loop
    return next statement;
  end loop;
  return next format(
    E'insert into pgcast.attachment as a (relation, capture, via, topic, columns, without, old, numbers, shape, stamp, kinds)\n'
    'values (%L, %L, ''trigger'', %L, %L, %L, %L, %L, pgcast.shape_of(%L::regclass), pgcast.stamp_of(%L::regclass), pgcast.kinds_of(%L::regclass))\n'
    'on conflict (relation) do update set capture = excluded.capture, via = excluded.via, topic = excluded.topic, columns = excluded.columns,\n'
    '  without = excluded.without, old = excluded.old, numbers = excluded.numbers, shape = excluded.shape, stamp = excluded.stamp', -- what was altered before is still to be told
    tbl, name, topic, columns, without, old, numbers, tbl, tbl, tbl);
end $$;
-- +goose StatementEnd
comment on function pgcast.attach_sql is 'The statements attach() would run, in order.';

-- +goose StatementBegin
create function pgcast.notice_unused() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from pgcast.attachment a where a.via = 'wal') then
    raise notice 'pgcast: no table is captured from the WAL any more; a server that runs drops the replication slot, else do: select pgcast.close_slot()';
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.notice_unused is 'Says what becomes of the replication slot when no table is captured by it any more.';

-- +goose StatementBegin
create function pgcast.attach(tbl regclass, topic text default null, columns text[] default null, without text[] default null,
                              old boolean default false, numbers text default 'json', capture text default 'trigger') returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  statement text;
  was_wal boolean := false;
  messages text := current_setting('client_min_messages');
begin
  if attach.capture = 'wal' then
    perform pgcast.check_slot();
  end if;
  perform pg_advisory_xact_lock(1885823841, 4); -- not two at once, nor together with refresh()
  for statement in select pgcast.attach_sql(tbl, topic, columns, without, old, numbers, capture) loop
    -- What goes with a function need not be told, nor that there was none.
    perform set_config('client_min_messages', case when starts_with(statement, 'drop function ') then 'warning' else messages end, true);
    execute statement;
    was_wal := was_wal or starts_with(statement, 'select pgcast.unfollow_table(');
  end loop;
  perform set_config('client_min_messages', messages, true);
  if was_wal then
    perform pgcast.notice_unused();
  end if;
  return (select a.topic from pgcast.attachment a where a.relation = tbl);
end $$;
-- +goose StatementEnd
comment on function pgcast.attach is 'Makes a table''s writes events: attach(''public.messages'', topic => ''room:{room_id}''). With capture => ''wal'' its changes are read from the write-ahead log, without a trigger. Attaching again replaces all options. Returns the topic''s template.';

-- +goose StatementBegin
create function pgcast.detach_sql(tbl regclass) returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  name text;
  via text;
begin
  select a.capture, a.via into name, via from pgcast.attachment a where a.relation = tbl;
  if name is null then
    return;
  elsif via = 'wal' then
    return next format('select pgcast.unfollow_table(%L)', tbl);
  end if;
  -- With the function go its triggers, on whatever table, also for a role that owns none of them.
  return next format('drop function if exists pgcast.%I() cascade', name);
  -- By that name, not by the table's oid: a printed script may run in another database.
  return next format('delete from pgcast.attachment where capture = %L', name);
end $$;
-- +goose StatementEnd
comment on function pgcast.detach_sql is 'The statements detach() would run, in order; none if the table is not attached.';

-- +goose StatementBegin
create function pgcast.detach(tbl regclass) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  statement text;
  is_done boolean := false;
  was_wal boolean;
  messages text := current_setting('client_min_messages');
begin
  perform pg_advisory_xact_lock(1885823841, 4);
  was_wal := exists (select from pgcast.attachment a where a.relation = tbl and a.via = 'wal');
  perform set_config('client_min_messages', 'warning', true); -- what goes with a function need not be told
  for statement in select pgcast.detach_sql(tbl) loop
    execute statement;
    is_done := true;
  end loop;
  perform set_config('client_min_messages', messages, true);
  if was_wal then
    perform pgcast.notice_unused();
  end if;
  return is_done;
end $$;
-- +goose StatementEnd
comment on function pgcast.detach is 'Takes away everything attach() made; the log stays. False if the table was not attached.';

revoke execute on all functions in schema pgcast from public;

-- +goose Down
-- +goose StatementBegin
do $$
begin
  perform pgcast.detach(a.relation) from pgcast.attachment a;
end $$;
-- +goose StatementEnd
drop function pgcast.detach(regclass);
drop function pgcast.detach_sql(regclass);
drop function pgcast.attach(regclass, text, text[], text[], boolean, text, text);
drop function pgcast.notice_unused();
drop function pgcast.attach_sql(regclass, text, text[], text[], boolean, text, text);
drop function pgcast.check_columns(regclass, text[]);
drop function pgcast.check_attachable(regclass, text);
