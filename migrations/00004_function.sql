-- +goose Up
-- Capture, the upper half: attach() and detach(). Each makes a list of statements and
-- runs exactly those, so that --print shows what would happen.

-- +goose StatementBegin
create function pgcast.members_of(root oid) returns table (rel oid, depth int)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive tree (rel, depth) as (
    select root, 0
    union all
    select i.inhrelid, t.depth + 1 from tree t join pg_inherits i on i.inhparent = t.rel
  )
  select t.rel, min(t.depth) from tree t group by t.rel order by min(t.depth), t.rel
$$;
-- +goose StatementEnd
comment on function pgcast.members_of is 'A table with all its partitions or inheritance children, itself first.';

-- +goose StatementBegin
create function pgcast.capture_statement(rel oid, op text, spec jsonb, source text default null) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  root oid;
  r jsonb;
begin
  -- Members know columns by the root's numbers. Only its triggers have no argument.
  select r.tgrelid into root from pg_trigger m join pg_trigger r on r.tgfoid = m.tgfoid
    where m.tgrelid = rel and m.tgnargs > 0 and r.tgnargs = 0 limit 1;
  r := pgcast.resolve(coalesce(root, rel), spec);
  if root is not null then
    r := r || '{"listed": true}'; -- the root's columns, in its order
  end if;
  return pgcast.event_sql(r, op, source);
end $$;
-- +goose StatementEnd
comment on function pgcast.capture_statement is 'The capturing statement for a table whose columns are no longer what its capture function was made for.';

-- +goose StatementBegin
create function pgcast.capture_truncate(rel oid, moment text, is_member boolean, spec jsonb) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  being text[] := string_to_array(nullif(current_setting('pgcast.truncating', true), ''), ',');
  is_tree boolean := exists (select from pg_inherits i where i.inhparent = rel);
  is_partitioned boolean := (select c.relkind = 'p' from pg_class c where c.oid = rel);
  written bigint := 0;
begin
  if moment = 'AFTER' then
    if not is_member and (is_partitioned or not is_tree) then
      insert into pgcast.event_log (topic, event, data)
        select t, 'truncated', (select row_to_json(d.*) from (select n.nspname as schema, c.relname as "table") d)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace, pgcast.topics_of(spec->>'topic') t where c.oid = rel;
      get diagnostics written = row_count;
    end if;
    perform set_config('pgcast.truncating', coalesce(array_to_string(array_remove(being, rel::text), ','), ''), true);
    return written;
  end if;
  -- Truncating a partition, or some of the tables of an inheritance tree (ONLY cannot be
  -- told apart), takes away some rows of the topics: they are deleted one by one. The
  -- triggers of a whole partitioned table run before those of its partitions.
  if is_partitioned or is_member then
    if exists (select from unnest(being) b join pg_partition_ancestors(rel) a on a.relid = b::oid) then
      return 0;
    end if;
    perform set_config('pgcast.truncating', array_to_string(being || rel::text, ','), true);
    if not is_member then
      return 0; -- the AFTER trigger says it once
    end if;
  elsif not is_tree then
    return 0;
  end if;
  if not has_table_privilege(rel, 'select') or row_security_active(rel) then
    raise warning 'pgcast: cannot read %, the rows truncated from it are not captured', rel::regclass;
    return 0;
  end if;
  -- TRUNCATE may have named a partition before this table: its rows are done.
  execute pgcast.capture_statement(rel, 'DELETE', spec, format('(select t.* from %s%s t where t.tableoid <> all (%L::oid[]))',
    case when is_partitioned then '' else 'only ' end, rel::regclass, coalesce(being, '{}')));
  get diagnostics written = row_count;
  return written;
exception when others then
  raise warning 'pgcast: a truncate of % was not captured: %', rel::regclass, sqlerrm;
  return 0;
end $$;
-- +goose StatementEnd
comment on function pgcast.capture_truncate is 'Captures a TRUNCATE: truncated on every topic of the table, or deleted for each row of a member truncated by itself.';

-- +goose StatementBegin
create function pgcast.dollar_quote(body text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  tag text := '$capture$';
begin
  while strpos(body, tag) > 0 loop
    tag := '$capture' || md5(body || tag) || '$';
  end loop;
  return tag || body || tag;
end $$;
-- +goose StatementEnd
comment on function pgcast.dollar_quote is 'Quotes a function body with a tag that does not occur in it.';

-- +goose StatementBegin
create function pgcast.capture_body(rel oid, capture text, spec jsonb, by_row boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  is_partitioned boolean := (select c.relkind = 'p' from pg_class c where c.oid = rel);
  layouts text[] := array(select distinct pgcast.layout_of(m.rel) from pgcast.members_of(rel) m);
  is_tree boolean := is_partitioned or (select count(*) > 1 from pgcast.members_of(rel));
  r jsonb := pgcast.resolve(rel, spec);
  is_plain boolean := pgcast.is_plain(rel);
  guard text;
  known text;
  -- What a value looks like must not depend on the writer's session. Where it does not anyway
  -- the function is not given the settings (capture_sql): they cost a tenth of it. Then they are
  -- set for the moment in which the types may be others.
  pin text := case when is_plain then E'    was := pgcast.print_as(''{UTC,ISO,postgres,1,hex,C}'');\n' else '' end;
  branches text := '';
  branch text;
  op text;
begin
  if cardinality(layouts) > 1 then
    -- Some members have their columns in another order, or more of them.
    r := r || '{"listed": true}';
  end if;
  guard := case when is_tree then format('row_to_json(shape)::text = any (%L::text[])', array(select l from unnest(layouts) l order by 1))
                when (r->>'listed')::boolean and jsonb_typeof(spec->'columns') <> 'array'
                  then format('row_to_json(shape)::text = %L', layouts[1])
                -- A column that was added at the end changes nothing.
                else format('starts_with(row_to_json(shape)::text, %L)', rtrim(layouts[1], '}')) end;
  -- To look at the shape costs a statement. Where a table stands alone, an expression tells
  -- first whether it is as it was when this was made, with its types: for a writer's session
  -- that is a comparison of two numbers (has_layout). Not so after an ALTER TABLE, nor after a
  -- restore, where the table has another oid.
  known := (select format('tg_relid = %s and pgcast.has_layout(%s, %L, %L)', rel, rel, array_agg(c.name order by c.num),
                          pgcast.layout_of(rel) || string_agg(', ' || a.atttypid, '' order by c.num))
            from pgcast.live_columns(rel) c join pg_attribute a on a.attrelid = rel and a.attnum = c.num having not is_tree and count(*) > 0);
  foreach op in array '{INSERT,UPDATE,DELETE}'::text[] loop
    branch := format(E'      %s;\n      get diagnostics written = row_count;\n', pgcast.event_sql(r, op));
    if op = 'UPDATE' and is_tree then
      branch := format(E'      if (select count(*) from pgcast_old) = (select count(*) from pgcast_new) then\n%s'
                       '      else\n      %s;\n      get diagnostics written = row_count;\n      end if;\n',
                       branch, pgcast.event_sql(r, 'UPDATE BY KEY'));
    end if;
    if op <> 'INSERT' or is_tree or (r->>'listed')::boolean or r->'values' <> '[]' or is_plain then
      branch := format(
        E'    select t.* into shape from %s t limit 0;\n'
        '    if %s then\n%s'
        '    else\n'
        '      is_stale := true;\n'
        '    end if;\n', case op when 'DELETE' then 'pgcast_old' else 'pgcast_new' end, guard, branch);
      if known is not null then
        branch := format(E'    if %s then\n      %s;\n      get diagnostics written = row_count;\n    else\n%s%s    end if;\n', known,
          pgcast.event_sql(r || jsonb_build_object('plain', pgcast.plain_columns(rel)), op), pin, branch);
      end if;
    end if;
    branches := branches || format(E'  %s tg_op = %L then\n%s', case when op = 'INSERT' then 'if' else 'elsif' end, op, branch);
  end loop;
  return format(
    E'\n'
    '#variable_conflict use_column\n'
    'declare\n'
    '  written bigint := 0;\n'
    '  shape record;\n'
    '  is_stale boolean := false;\n'
    '  was text[];\n'
    '%s'
    'begin\n'
    '%s'
    '  if lower(current_setting(''pgcast.capture'', true)) in (''off'', ''false'', ''0'', ''no'')%s then\n'
    '    return null;\n'
    '  end if;\n'
    '%s'
    '  else\n'
    '%s'
    '    written := pgcast.capture_truncate(tg_relid, tg_when, tg_nargs > 0, %L);\n'
    '  end if;\n'
    '  if is_stale then -- until pgcast.refresh() has run\n'
    '    begin\n'
    '      execute pgcast.capture_statement(tg_relid, %s, %L);\n'
    '      get diagnostics written = row_count;\n'
    '    exception when others then\n'
    '      raise warning ''pgcast: a write to %% was not captured: %%'', tg_relid::regclass, sqlerrm;\n'
    '    end;\n'
    '  end if;\n'
    '  if was is not null then\n'
    '    perform pgcast.print_as(was);\n'
    '  end if;\n'
    '  if written > 0 and current_setting(''max_prepared_transactions'') = ''0'' then\n'
    '    if not pg_try_advisory_xact_lock_shared(1885823841, 1) then\n'
    '      if pg_notification_queue_usage() < 0.5 then\n'
    '        perform pg_notify(''pgcast'', '''');\n'
    '      end if;\n'
    '    end if;\n'
    '  end if;\n'
    '  return null;\n'
    'end ',
    case when by_row then E'  mark text;\n  marks text;\n' else '' end,
    case when by_row then format(
      -- The first row's trigger captures the whole statement, so that what the table's
      -- own row triggers write comes after it; the statement's trigger then has no work.
      E'  mark := format('',%%s/%%s/%%s;'', pg_trigger_depth(), tg_op, %L);\n'
      '  marks := coalesce(current_setting(''pgcast.captured'', true), '''');\n'
      '  if tg_level = ''ROW'' then\n'
      '    if strpos(marks, mark) > 0 then\n'
      '      return null;\n'
      '    end if;\n'
      '    perform set_config(''pgcast.captured'', marks || mark, true);\n'
      '  elsif strpos(marks, mark) > 0 then\n'
      '    perform set_config(''pgcast.captured'', replace(marks, mark, ''''), true);\n'
      '    return null;\n'
      '  end if;\n', capture) else '' end,
    case when by_row then '' else ' or tg_level = ''ROW''' end ||
    case when is_partitioned then E'\n    or tg_nargs > 0 and pg_partition_root(tg_relid) is null /* detached since */'
         when is_tree then E'\n    or tg_nargs > 0 and not exists (select from pg_inherits i where i.inhrelid = tg_relid) /* no child any more */'
         else '' end,
    branches, pin, spec,
    case when is_tree then 'case when tg_op = ''UPDATE'' then ''UPDATE BY KEY'' else tg_op end' else 'tg_op' end, spec);
end $$;
-- +goose StatementEnd
comment on function pgcast.capture_body is 'The body of a table''s capture function.';

-- +goose StatementBegin
create function pgcast.capture_owner() returns oid
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when pg_has_role(n.nspowner, case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end)
              then n.nspowner else (select r.oid from pg_roles r where r.rolname = current_user) end
  from pg_namespace n where n.nspname = 'pgcast'
$$;
-- +goose StatementEnd
comment on function pgcast.capture_owner is 'Whose the capture functions are to be that the caller makes: the schema''s owner''s, who may be a role that nobody can log in as, or his own where he may not give them away.';

-- +goose StatementBegin
create function pgcast.capture_sql(rel oid, capture text, spec jsonb, by_row boolean) returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  name text := format('pgcast.%I()', capture);
begin
  -- The plan of the session's first statement is kept: it must not be one that is only good for
  -- few rows (nested loop) or for many (a big hash table, compiled code). Growing the log's
  -- files takes its turns, on a busy disk for longer than a writer's lock_timeout allows; no
  -- write may fail for that.
  return next format(
    E'create or replace function %s returns trigger\n'
    'language plpgsql security definer\n'
    'set search_path = pg_catalog, pg_temp%s\n'
    'set enable_nestloop = off set enable_hashjoin = off set jit = off set lock_timeout = 0\n'
    'as %s', name,
    case when pgcast.is_plain(rel) then '' else ' set timezone = ''UTC'' set datestyle = ''ISO'' set intervalstyle = ''postgres'''
      || E'\nset extra_float_digits = 1 set bytea_output = ''hex'' set lc_monetary = ''C''' end, pgcast.dollar_quote(pgcast.capture_body(rel, capture, spec, by_row)));
  return next format('revoke execute on function %s from public', name);
  return next format('comment on function %s is %L', name, 'pgcast: writes the events of ' || rel::regclass);
  if pgcast.capture_owner() <> (select r.oid from pg_roles r where r.rolname = current_user) then
    return next format('alter function %s owner to %I', name, pg_get_userbyid(pgcast.capture_owner()));
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.capture_sql is 'The statements that make a table''s capture function.';

-- +goose StatementBegin
create function pgcast.row_triggers(rel oid, capture text, is_ours boolean) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  -- AFTER ... FOR EACH ROW is bit 1 without bit 2. Postgres collects no transition
  -- tables for row triggers of partitioned and inherited tables.
  select exists (select from pg_trigger t join pg_proc f on f.oid = t.tgfoid
                 where t.tgrelid = rel and not t.tgisinternal and t.tgtype & 3 = 1 and t.tgtype & 28 <> 0
                   and (f.pronamespace = 'pgcast'::regnamespace and f.proname = capture) = is_ours)
    and (is_ours or not exists (select from pg_inherits i where rel in (i.inhrelid, i.inhparent)) and (select c.relkind = 'r' from pg_class c where c.oid = rel))
$$;
-- +goose StatementEnd
comment on function pgcast.row_triggers is 'Whether a table has AFTER ROW triggers, of its own or of its capture function.';

-- +goose StatementBegin
create function pgcast.trigger_sql(rel oid, capture text, is_member boolean, is_owner boolean, by_row boolean) returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  t record;
begin
  -- Triggers fire in the order of their names: these before all others, so that a
  -- statement's own events precede those of the writes it triggers.
  for t in
    select '00_pgcast_' || v.suffix || w.suffix as name, v.timing, w.level,
           case when v.refs <> '' then ' referencing ' || v.refs else '' end as refs
    from (values
      ('insert', 'after insert', 'new table as pgcast_new'),
      ('update', 'after update', 'old table as pgcast_old new table as pgcast_new'),
      ('delete', 'after delete', 'old table as pgcast_old'),
      ('before_truncate', 'before truncate', ''),
      ('truncate', 'after truncate', '')) v (suffix, timing, refs)
    join (values ('', 'statement'), ('_row', 'row')) w (suffix, level) on w.level = 'statement' or by_row and v.refs <> ''
    where v.suffix <> 'before_truncate' or is_member or exists (select from pg_inherits i where i.inhparent = rel)
       or (select c.relkind = 'p' from pg_class c where c.oid = rel)
  loop
    return next format('create or replace trigger %I %s on %s%s for each %s execute function pgcast.%I(%s)',
      t.name, t.timing, rel::regclass, t.refs, t.level, capture, case when is_member then quote_literal('member') else '' end);
    if is_owner then
      -- Not for rows: a logical replication worker runs them without transition tables.
      if t.level = 'statement' then
        return next format('alter table %s enable always trigger %I', rel::regclass, t.name);
      end if;
      return next format('comment on trigger %I on %s is %L', t.name, rel::regclass, 'pgcast: captures writes; taken away by pgcast.detach()');
    end if;
  end loop;
end $$;
-- +goose StatementEnd
comment on function pgcast.trigger_sql is 'The statements that make a table''s capture triggers.';

revoke execute on all functions in schema pgcast from public;

-- +goose Down
drop function pgcast.trigger_sql(oid, text, boolean, boolean, boolean);
drop function pgcast.row_triggers(oid, text, boolean);
drop function pgcast.capture_sql(oid, text, jsonb, boolean);
drop function pgcast.capture_owner();
drop function pgcast.capture_body(oid, text, jsonb, boolean);
drop function pgcast.dollar_quote(text);
drop function pgcast.capture_truncate(oid, text, boolean, jsonb);
drop function pgcast.capture_statement(oid, text, jsonb, text);
drop function pgcast.members_of(oid);
