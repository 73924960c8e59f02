-- +goose Up
-- Capture, the middle: from an attachment to the SQL that captures. The same functions
-- serve attach() and, for the moments between an ALTER TABLE and the next refresh(),
-- the trigger itself, so they are plpgsql, which keeps its plans, and look columns up by number and through the caches that
-- ALTER TABLE invalidates: a REPEATABLE READ writer's snapshot may be older than the table.

-- +goose StatementBegin
create function pgcast.live_columns(rel oid) returns table (num int, name text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select i, (pg_identify_object_as_address('pg_class'::regclass, rel, i)).object_names[3]
    from generate_series(1, coalesce((select relnatts from pg_class where oid = rel), 0) + 16) i -- some may be newer than the snapshot
    where has_column_privilege(rel, i::int2, 'select') is not null;
end $$;
-- +goose StatementEnd
comment on function pgcast.live_columns is 'A table''s columns that are not dropped, as of now and not as of the snapshot.';

-- +goose StatementBegin
create function pgcast.shape_of(rel oid) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_array(c.num, c.name) order by c.num), '[]') from pgcast.live_columns(rel) c);
end $$;
-- +goose StatementEnd
comment on function pgcast.shape_of is 'A table''s columns as number and name, to recognise them after a rename.';

-- +goose StatementBegin
create function pgcast.kinds_of(rel oid) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return array(select format('%I %s', c.name, format_type(a.atttypid, a.atttypmod))
               from pgcast.live_columns(rel) c join pg_attribute a on a.attrelid = rel and a.attnum = c.num order by c.num);
end $$;
-- +goose StatementEnd
comment on function pgcast.kinds_of is 'A table''s columns with their types.';

-- +goose StatementBegin
create function pgcast.stamp_of(rel oid) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  cluster bigint;
begin
  if has_function_privilege('pg_control_system()', 'execute') then
    select c.system_identifier into cluster from pg_control_system() c;
  end if;
  return format('%s/%s/%s', cluster, (select d.oid from pg_database d where d.datname = current_database()), rel);
end $$;
-- +goose StatementEnd
comment on function pgcast.stamp_of is 'Cluster, database and table that column numbers belong to.';

-- +goose StatementBegin
create function pgcast.layout_of(rel oid) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select '{' || coalesce(string_agg(to_json(c.name) || ':null', ',' order by c.num), '') || '}' from pgcast.live_columns(rel) c);
end $$;
-- +goose StatementEnd
comment on function pgcast.layout_of is 'What row_to_json prints for an empty row of the table: all names in order.';

-- +goose StatementBegin
create function pgcast.current_names(names text[], shape jsonb, live jsonb) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select array_agg(coalesce(
      (select l->>1 from jsonb_array_elements(shape) s join jsonb_array_elements(live) l on l->0 = s->0 where s->>1 = u.name),
      (select l->>1 from jsonb_array_elements(live) l where l->>1 = u.name)) order by u.i)
    from unnest(names) with ordinality u (name, i));
end $$;
-- +goose StatementEnd
comment on function pgcast.current_names is 'What columns known by the names in shape are called now; null for those that are gone.';

-- +goose StatementBegin
create function pgcast.base_type(type oid) returns oid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  t record;
begin
  loop
    select p.typtype, p.typbasetype into t from pg_type p where p.oid = type;
    if not found or t.typtype <> 'd' then
      return type;
    end if;
    type := t.typbasetype;
  end loop;
end $$;
-- +goose StatementEnd
comment on function pgcast.base_type is 'What a domain is made of; any other type itself.';

-- +goose StatementBegin
create function pgcast.resolve(rel oid, spec jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  live jsonb := pgcast.shape_of(rel);
  shape jsonb := case when spec->>'stamp' = pgcast.stamp_of(rel) then spec->'shape' else '[]' end;
  parts record;
  allowed text[];
  denied text[];
  virtual text[];
  captured text[];
  key text[];
  kinds record;
begin
  select p.* into parts from pgcast.topic_parts(spec->>'topic') p;
  if jsonb_typeof(spec->'columns') = 'array' then
    allowed := pgcast.current_names(array(select jsonb_array_elements_text(spec->'columns')), shape, live);
  elsif jsonb_typeof(spec->'without') = 'array' then
    denied := array(select jsonb_array_elements_text(spec->'without'));
    -- By number and by name: neither a renamed secret nor a new one of that name gets out.
    denied := denied || pgcast.current_names(denied, shape, live);
  end if;
  -- Columns computed when they are read have no value in a trigger, and may not be named there.
  virtual := array(select l->>1 from jsonb_array_elements(live) l join pg_attribute a on a.attrelid = rel and a.attnum = (l->>0)::int where a.attgenerated = 'v');
  captured := array(select l->>1 from jsonb_array_elements(live) with ordinality e (l, i)
                    where (allowed is null or l->>1 = any (array_remove(allowed, null)))
                      and (denied is null or l->>1 <> all (array_remove(denied, null)))
                      and l->>1 <> all (virtual) order by i);
  key := (select array_agg(l->>1 order by k.i)
          from (select i.indkey::int2[] as nums, i.indnkeyatts from pg_index i
                where i.indrelid = rel and i.indisvalid and (i.indisprimary or i.indisreplident)
                order by i.indisprimary desc limit 1) x,
               lateral unnest(x.nums) with ordinality k (num, i)
               join jsonb_array_elements(live) l on (l->>0)::int = k.num
          where k.i <= x.indnkeyatts and l->>1 = any (captured));
  select jsonb_object_agg(l->>1, case when b.type in ('int8'::regtype, 'numeric'::regtype) then 1 else 2 end)
           filter (where b.type in ('int8'::regtype, 'numeric'::regtype, 'int8[]'::regtype, 'numeric[]'::regtype)) as big,
         -- A cast to json that somebody wrote may fail where Postgres' own printing cannot.
         bool_or(t.oid >= 16384 and exists (select from pg_cast c where c.castsource in (t.oid, t.typelem) and c.casttarget = 'json'::regtype)) as odd
    into kinds
    from jsonb_array_elements(live) l
    join pg_attribute a on a.attrelid = rel and a.attnum = (l->>0)::int
    cross join lateral pgcast.base_type(a.atttypid) b (type)
    join pg_type t on t.oid = b.type;
  return jsonb_build_object(
    'literals', parts.literals,
    'values', array(select case when u.n <> all (virtual) then u.n end from unnest(pgcast.current_names(parts.names, shape, live)) with ordinality u (n, i) order by u.i),
    'captured', captured,
    'listed', allowed is not null or denied is not null or spec->>'numbers' = 'text' or virtual <> '{}',
    'virtual', virtual,
    'key', key,
    -- A key checked only at the end may shift from row to row within one statement.
    'late', key is not null and exists (select from pg_index i where i.indrelid = rel and i.indisprimary and not i.indimmediate),
    'old', (spec->>'old')::boolean,
    'big', coalesce(case when spec->>'numbers' = 'text' then kinds.big end, '{}'),
    'odd', coalesce(kinds.odd, false));
end $$;
-- +goose StatementEnd
comment on function pgcast.resolve is 'An attachment''s options with today''s names of the columns, and what follows from them.';

-- +goose StatementBegin
create function pgcast.plain_columns(rel oid) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return array(select c.name from pgcast.live_columns(rel) c join pg_attribute a on a.attrelid = rel and a.attnum = c.num
               where a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype) order by c.num);
end $$;
-- +goose StatementEnd
comment on function pgcast.plain_columns is 'A table''s columns whose values are part of a topic''s name as they are printed.';

-- +goose StatementBegin
create function pgcast.is_plain(rel oid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return not exists (select from pg_inherits i where i.inhparent = rel) and (select c.relkind = 'r' from pg_class c where c.oid = rel)
    and (select bool_and(a.atttypid in ('bool'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype, 'text'::regtype,
           'varchar'::regtype, 'bpchar'::regtype, 'uuid'::regtype, 'json'::regtype, 'jsonb'::regtype))
         from pgcast.live_columns(rel) c join pg_attribute a on a.attrelid = rel and a.attnum = c.num) is true;
end $$;
-- +goose StatementEnd
comment on function pgcast.is_plain is 'Whether a table has no children and no setting of a session changes how its values are printed.';

-- +goose StatementBegin
create function pgcast.print_as(settings text[]) returns text[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  names text[] := '{timezone,datestyle,intervalstyle,extra_float_digits,bytea_output,lc_monetary}';
  was text[];
begin
  was := array(select current_setting(u.name) from unnest(names) with ordinality u (name, i) order by u.i);
  perform set_config(u.name, u.value, true) from unnest(names, settings) u (name, value);
  return was;
end $$;
-- +goose StatementEnd
comment on function pgcast.print_as is 'Sets, for the transaction, what values look like; returns what was set.';

-- +goose StatementBegin
create function pgcast.has_layout(rel oid, columns text[], layout text) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  live text;
begin
  -- An array: a function takes 100 arguments, a table has up to 1600 columns.
  execute format('select concat_ws('', '', row_to_json(t.*), array_to_string(array[%s], '', '')) from (select (null::%s).*) t',
    (select string_agg(format('pg_typeof(t.%I)::oid', u.name), ', ' order by u.i) from unnest(columns) with ordinality u (name, i)), rel::regclass) into live;
  return live = layout;
exception when others then
  return false; -- a column is gone, or the table may not be named
end $$;
-- +goose StatementEnd
comment on function pgcast.has_layout is 'Whether a table''s columns, all in order and with their types, are those. Immutable by intent: '
  'in an expression that names the table''s oid the planner works it out once, and again after each ALTER TABLE.';

-- +goose StatementBegin
create function pgcast.topic_sql(r jsonb, alias text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  literals text[] := array(select jsonb_array_elements_text(r->'literals'));
  vals text[] := array(select jsonb_array_elements_text(r->'values'));
  plain text[] := array(select jsonb_array_elements_text(r->'plain'));
  room int := (256 - octet_length(array_to_string(literals, ''))) / greatest(cardinality(vals), 1);
  simple text[] := '{}'; -- conditions under which plain concatenation is the whole work
  terms text[] := '{}';
  args text[] := '{}';
  term text;
begin
  if cardinality(vals) = 0 then
    return quote_literal(literals[1]);
  end if;
  for i in 1..cardinality(vals) loop
    -- A column's own collation may take A for a, refuse the functions used here, or clash
    -- with another column's.
    term := format('(%s collate "C")', case when vals[i] is null then 'null::text' /* the column is gone */ else format('%s.%I::text', alias, vals[i]) end);
    args := args || term;
    if literals[i] <> '' then
      terms := terms || quote_literal(literals[i]);
    end if;
    terms := terms || term;
    if vals[i] = any (plain) and room >= 36 then -- as long as a uuid
      simple := simple || format('%s is not null', term);
      continue;
    end if;
    -- Of whatever type: the type may have changed since. Only a name that its first
    -- value begins can be empty, or begin with __.
    simple := simple || format('octet_length(%s) %s and %s !~ %L%s', term,
      case when i = 1 and literals[1] in ('', '_') then format('between 1 and %s', room) else format('<= %s', room) end, term, '[^A-Za-z0-9_.-]',
      case when i = 1 and literals[1] in ('', '_') then format(' and not starts_with(%s, %L)', term, '_') else '' end);
  end loop;
  if literals[cardinality(literals)] <> '' then
    terms := terms || quote_literal(literals[cardinality(literals)]);
  end if;
  return format('case when %s then %s else pgcast.expand_topic(%L::text[], array[%s]) end',
    array_to_string(simple, ' and '), array_to_string(terms, ' || '), literals, array_to_string(args, ', '));
end $$;
-- +goose StatementEnd
comment on function pgcast.topic_sql is 'The expression for a row''s topic.';

-- +goose StatementBegin
create function pgcast.quote_numbers(list json) returns json
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return regexp_replace(list::text, '([[,] ?)(-?[0-9][^],]*)', E'\\1"\\2"', 'g')::json; -- the cast within the block
exception when others then
  return list; -- not a list of numbers any more
end $$;
-- +goose StatementEnd
comment on function pgcast.quote_numbers is 'A JSON array of numbers with the numbers as strings.';

-- +goose StatementBegin
create function pgcast.row_sql(r jsonb, names text[], alias text, is_small boolean default false) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  row_name text := alias || '.*';
  columns text;
  expression text;
begin
  if names is not null then
    if names = '{}' then
      return quote_literal('{}') || '::json';
    end if;
    columns := (select string_agg(case r->'big'->>n when '1' then format('%s.%I::text as %I', alias, n, n)
                                                    when '2' then format('pgcast.quote_numbers(to_json(%s.%I)) as %I', alias, n, n)
                                                    else format('%s.%I', alias, n) end, ', ' order by i)
                from unnest(names) with ordinality u (n, i));
    row_name := 'd.*';
  end if;
  -- pg_column_size is cheap, and keeps the exception block of row_json for the rows that
  -- need it. It counts compressed bytes: lz4 makes 255 of one, and JSON six of each (\u0001).
  expression := case when (r->>'odd')::boolean then format('pgcast.row_json(%s)', row_name)
    when is_small then format('row_to_json(%s)', row_name)
    else format('case when pg_column_size(%s) < 150000 then row_to_json(%s) else pgcast.row_json(%s) end', row_name, row_name, row_name) end;
  return case when columns is null then expression else format('(select %s from (select %s) d)', expression, columns) end;
end $$;
-- +goose StatementEnd
comment on function pgcast.row_sql is 'The expression for a row, or some of its columns, as JSON.';

-- +goose StatementBegin
create function pgcast.event_sql(r jsonb, op text, source text default null) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  captured text[] := array(select jsonb_array_elements_text(r->'captured'));
  key text[] := case when jsonb_typeof(r->'key') = 'array' then array(select jsonb_array_elements_text(r->'key')) end;
  names text[] := case when (r->>'listed')::boolean then captured end;
  old_key text := pgcast.row_sql(r, coalesce(key, names), 'o', key is not null); -- an index keeps its keys small
  old_row text := case when (r->>'old')::boolean and key is not null
                       then format('coalesce(%s, %s)', pgcast.row_sql(r, names, 'o'), old_key) else old_key end;
  data text := pgcast.row_sql(r, names, 'n');
  by_key boolean := op = 'UPDATE BY KEY';
  late boolean := (r->>'late')::boolean;
  is_same text := case when late then '(a.topic = b.topic and a.key = b.key)' else 'a.topic = b.topic' end;
  olds text;
  news text;
begin
  if op = 'INSERT' then
    return format($q$insert into pgcast.event_log (topic, event, data)
      select %s, 'created', %s
      from pgcast_new n$q$, pgcast.topic_sql(r, 'n'), data);
  elsif op = 'DELETE' then
    return format($q$insert into pgcast.event_log (topic, event, old)
      select %s, 'deleted', %s
      from %s o$q$, pgcast.topic_sql(r, 'o'), old_row, coalesce(source, 'pgcast_old'));
  elsif op = 'UPDATE' and r->'values' = '[]' and not late then
    -- Both transition tables were filled in the same order, row for row.
    return format($q$insert into pgcast.event_log (topic, event, data, old)
      select %s, 'updated', b.data, a.old
      from (select row_number() over () as place, %s as old from pgcast_old o) a
      join (select row_number() over () as place, %s as data from pgcast_new n) b on b.place = a.place
      order by a.place$q$, pgcast.topic_sql(r, 'n'), old_row, data);
  end if;
  -- A row that moved to another topic leaves the old one and appears in the new one. By
  -- key, where a trigger kept rows from arriving in another partition. Where keys may
  -- shift, all that moved are gone before the first comes back.
  olds := format('(select row_number() over () as place, %s as topic, %s as old%s from pgcast_old o)',
    pgcast.topic_sql(r, 'o'), old_row, case when by_key or late then format(', %s::text as key', old_key) else '' end);
  news := format('(select row_number() over () as place, %s as topic, %s as data%s from pgcast_new n)',
    pgcast.topic_sql(r, 'n'), data, case when by_key or late then format(', %s::text as key', pgcast.row_sql(r, coalesce(key, names), 'n', key is not null)) else '' end);
  if by_key then -- the rows of a table without a key may be all alike
    olds := format('(select x.*, row_number() over (partition by x.key order by x.place) as nth from %s x)', olds);
    news := format('(select x.*, row_number() over (partition by x.key order by x.place) as nth from %s x)', news);
  end if;
  return format($q$insert into pgcast.event_log (topic, event, data, old)
      select case v.k when 1 then a.topic else b.topic end,
             case when v.k = 2 then 'created' when %s then 'updated' else 'deleted' end,
             case when v.k = 2 or %s then b.data end,
             case when v.k = 1 then a.old end
      from %s a %s %s b on %s
      join (values (1), (2)) v (k) on case v.k when 1 then a.place is not null else b.place is not null and %s is not true end
      order by %s$q$,
    is_same, is_same,
    olds, case when by_key then 'full join' else 'join' end, news,
    case when by_key then 'b.key = a.key and b.nth = a.nth' else 'b.place = a.place' end, is_same,
    case when late then 'v.k, coalesce(a.place, b.place)' when by_key then 'coalesce(a.place, b.place), v.k' else 'a.place, v.k' end);
end $$;
-- +goose StatementEnd
comment on function pgcast.event_sql is 'The statement that writes the events of one INSERT, UPDATE or DELETE from its transition tables.';

revoke execute on all functions in schema pgcast from public;

-- +goose Down
drop function pgcast.event_sql(jsonb, text, text);
drop function pgcast.row_sql(jsonb, text[], text, boolean);
drop function pgcast.topic_sql(jsonb, text);
drop function pgcast.has_layout(oid, text[], text);
drop function pgcast.print_as(text[]);
drop function pgcast.is_plain(oid);
drop function pgcast.plain_columns(oid);
drop function pgcast.resolve(oid, jsonb);
drop function pgcast.quote_numbers(json);
drop function pgcast.base_type(oid);
drop function pgcast.current_names(text[], jsonb, jsonb);
drop function pgcast.layout_of(oid);
drop function pgcast.stamp_of(oid);
drop function pgcast.kinds_of(oid);
drop function pgcast.shape_of(oid);
drop function pgcast.live_columns(oid);
