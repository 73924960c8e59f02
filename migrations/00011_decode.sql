-- +goose Up
-- Capture from the WAL, the conversion: from what Postgres' logical decoding sends of a row,
-- each value as text, to the events that a trigger would have written. It is Postgres that
-- converts: the server sends arrays of texts, one per column, and runs the statement made here.

-- +goose StatementBegin
create function pgcast.decoded_root(rel oid) returns oid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  root oid;
begin
  -- One that is captured by triggers again may still have changes in the WAL from before.
  select a.relation into root from pgcast.attachment a
    where a.decoded is not null and (a.relation = coalesce(pg_partition_root(rel)::oid, rel) or rel = any (a.members))
    order by a.relation = coalesce(pg_partition_root(rel)::oid, rel) desc limit 1;
  return root;
end $$;
-- +goose StatementEnd
comment on function pgcast.decoded_root is 'The attached table that a table in the WAL belongs to: itself, or the root of the partitions it is or was one of; null if there is none.';

-- +goose StatementBegin
create function pgcast.cast_to_json(type oid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return type >= 16384 and exists (select from pg_cast c where c.castsource = type and c.casttarget = 'json'::regtype and c.castmethod = 'f');
end $$;
-- +goose StatementEnd
comment on function pgcast.cast_to_json is 'Whether JSON of a type''s values is made by a cast that somebody wrote.';

-- +goose StatementBegin
create function pgcast.reading_type(type oid, is_exact boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  base oid := pgcast.base_type(type);
  t record;
  e record;
  element text;
begin
  select format('%I.%I', n.nspname, p.typname) as name, p.typtype, p.typelem, p.typsubscript = 'array_subscript_handler'::regproc as is_array
    into t from pg_type p join pg_namespace n on n.oid = p.typnamespace where p.oid = base;
  if not found then
    return 'pg_catalog.text'; -- dropped since
  elsif t.is_array then
    select p.typdelim, p.typarray <> base /* int2vector */ or q.typsubscript = 'array_subscript_handler'::regproc as is_own into e
      from pg_type p left join pg_type q on q.oid = pgcast.base_type(p.oid) where p.oid = t.typelem;
    element := case when not e.is_own then pgcast.reading_type(t.typelem, is_exact) end;
    return case when e.is_own or element = 'pg_catalog.text' and e.typdelim <> ',' then t.name else element || '[]' end;
  elsif is_exact or t.typtype = 'c' or pgcast.cast_to_json(base)
    or base in ('bool'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'float4'::regtype, 'float8'::regtype, 'numeric'::regtype,
                'date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype, 'json'::regtype) then
    return t.name;
  elsif base = 'jsonb'::regtype then
    return 'pg_catalog.json';
  end if;
  -- All others are, in JSON, a string of what they are printed as, and that is what there is.
  return 'pg_catalog.text';
end $$;
-- +goose StatementEnd
comment on function pgcast.reading_type is 'The type to read a column''s printed values as, so that their JSON is that of the type itself; exact where more than JSON is made of them.';

-- +goose StatementBegin
create function pgcast.resolve_decoded(root oid, rel oid, columns jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off set plan_cache_mode = force_generic_plan as $$
declare
  a record;
  parts record;
  live jsonb := pgcast.shape_of(root);
  shape jsonb;
  known jsonb; -- what the columns' numbers are and have been called
  fields jsonb;
  vals text[];
  key_nums int[];
  key text[];
  computed jsonb;
  captured text[];
begin
  select t.*, coalesce(t.columns, t.without) as listed, t.columns is not null as only_listed, t.stamp = pgcast.stamp_of(root) as is_here
    into a from pgcast.attachment t where t.relation = root;
  select p.* into parts from pgcast.topic_parts(a.topic) p;
  shape := case when a.is_here then a.shape else '[]' end;
  known := shape || case when a.is_here then coalesce(a.names, '[]') else '[]' end;
  -- The stream has names, as they were when the row was written. A name may have been that of
  -- several columns: where columns are left out, none is let through that could be one of them.
  with k as materialized (select (e->>0)::int as num, e->>1 as name from jsonb_array_elements(known) e),
       s as materialized (select (e->>0)::int as num, e->>1 as name from jsonb_array_elements(shape) e),
       v as materialized (select (e->>0)::int as num, e->>1 as name from jsonb_array_elements(live) e),
       x as (
         select n.name, jsonb_agg(n.num order by n.num) as nums, bool_and(n.is_listed) as all_listed, bool_or(n.is_listed) as any_listed
         from (select u.num, u.name, case
                 when a.listed is null then null
                 when not a.only_listed then u.num in (select k.num from k where k.name = any (a.listed))
                 when not a.is_here then u.name = any (a.listed)
                 -- New: it may have taken the place of one that is gone.
                 when u.num not in (select k.num from k) then u.name = any (a.listed) and u.name not in (select s.name from s join v on v.num = s.num)
                 when u.num in (select s.num from s) then u.num in (select s.num from s where s.name = any (a.listed))
                 else u.num not in (select k.num from k where k.name <> all (a.listed)) -- dropped
               end as is_listed
               from (select k.num, k.name from k union select v.num, v.name from v) u) n
         group by n.name)
  select jsonb_agg(jsonb_build_object(
           'i', c.i, 'name', c.col->>'name', 'type', (c.col->>'type')::bigint, 'key', (c.col->>'key')::boolean, 'nums', coalesce(x.nums, '[]'),
           'sent', case when a.listed is null then true
                        when x.nums is null then false
                        when a.only_listed then x.all_listed
                        else not x.any_listed and c.col->>'name' <> all (a.listed) end) order by c.i)
    into fields
    from jsonb_array_elements(columns) with ordinality c (col, i) left join x on x.name = c.col->>'name';
  -- A template's column by its number, else by its name.
  vals := array(
    select (select f->>'name' from jsonb_array_elements(fields) f
            where f->'nums' @> s.num or f->>'name' = u.name
            order by (f->'nums' = jsonb_build_array(s.num)) is true desc, (f->'nums' @> s.num) is true desc, f->>'name' = u.name desc limit 1)
    from unnest(parts.names) with ordinality u (name, i)
    left join lateral (select e->0 as num from jsonb_array_elements(shape) e where e->>1 = u.name limit 1) s on true
    order by u.i);
  -- Stored generated columns are not sent before version 18, and are worked out.
  select jsonb_agg(jsonb_build_object('name', l->>1, 'num', l->0, 'type', t.atttypid::bigint, 'as', pg_get_expr(d.adbin, d.adrelid)) order by (l->>0)::int) into computed
    from jsonb_array_elements(live) l
    join pg_attribute t on t.attrelid = rel and t.attname = l->>1 and t.attgenerated = 's'
    join pg_attrdef d on d.adrelid = rel and d.adnum = t.attnum
    where not exists (select from jsonb_array_elements(fields) f where f->>'name' = l->>1 or f->'nums' @> (l->0))
      and case when a.listed is null then true
               when a.only_listed then l->>1 = any (pgcast.current_names(a.columns, shape, live))
               else l->>1 <> all (a.without || array_remove(pgcast.current_names(a.without, shape, live), null)) end
      -- Only of columns that are in the stream, and certainly the same.
      and not exists (
        select from pg_depend p join pg_attribute r on r.attrelid = p.refobjid and r.attnum = p.refobjsubid
        where p.classid = 'pg_attrdef'::regclass and p.objid = d.oid and p.refclassid = 'pg_class'::regclass and p.refobjid = rel and p.refobjsubid > 0
          and p.refobjsubid <> t.attnum
          and not exists (select from jsonb_array_elements(fields) f where f->>'name' = r.attname and f->>'type' = r.atttypid::text));
  vals := array(select coalesce(v.name, (select c->>'name' from jsonb_array_elements(computed) c where c->>'name' = parts.names[v.i]))
                from unnest(vals) with ordinality v (name, i) order by v.i);
  -- In the table's order, which is the stream's, but for what is worked out, and for partitions.
  captured := array(
    select o.name from (
      select f->>'name' as name, (f->>'sent')::boolean as is_sent, (f->>'i')::int as i,
             case when rel <> root then n.num end as root_num,
             coalesce(max(x.num) over (order by (f->>'i')::int), 0) as num
      from jsonb_array_elements(fields) f
      cross join lateral (select min(e::int) as num from jsonb_array_elements_text(f->'nums') e) x
      left join (select (k->>0)::int as num, k->>1 as name from jsonb_array_elements(live) k) n on n.name = f->>'name'
      union all
      select c->>'name', true, 0, null, (c->>'num')::int from jsonb_array_elements(computed) c) o
    where o.is_sent order by coalesce(o.root_num, o.num), o.i);
  select array_agg(k.num order by k.i) into key_nums
    from (select i.indkey::int2[] as nums, i.indnkeyatts from pg_index i
          where i.indrelid = root and i.indisvalid and (i.indisprimary or i.indisreplident)
          order by i.indisprimary desc limit 1) x,
         lateral unnest(x.nums) with ordinality k (num, i) where k.i <= x.indnkeyatts;
  key := (select array_agg(c.name order by k.i) from unnest(key_nums) with ordinality k (num, i)
          join lateral (select f->>'name' as name from jsonb_array_elements(fields) f where f->'nums' @> to_jsonb(k.num)
                        order by f->'nums' = jsonb_build_array(k.num) desc limit 1) c on c.name = any (captured));
  if live = '[]' then -- dropped since; with REPLICA IDENTITY FULL all are the key
    key := (select array_agg(f->>'name' order by (f->>'i')::int) from jsonb_array_elements(fields) f
            where (f->>'key')::boolean and (f->>'sent')::boolean and exists (select from jsonb_array_elements(fields) g where not (g->>'key')::boolean));
  end if;
  select jsonb_agg(f || jsonb_build_object('as', pgcast.reading_type((f->>'type')::oid, computed is not null or f->>'name' = any (vals)
                     and exists (select from pg_cast c where c.castsource = pgcast.base_type((f->>'type')::oid) and c.casttarget = 'text'::regtype and c.castmethod = 'f')))
                   order by (f->>'i')::int) into fields
    from jsonb_array_elements(fields) f;
  return (
    select jsonb_build_object(
      'literals', parts.literals, 'values', vals, 'captured', captured, 'key', key, 'old', a.old, 'late', false,
      'fields', fields, 'computed', coalesce(computed, '[]'),
      'big', coalesce(jsonb_object_agg(c.name, case when c.base in ('int8'::regtype, 'numeric'::regtype) then 1 else 2 end)
               filter (where a.numbers = 'text' and c.base in ('int8'::regtype, 'numeric'::regtype, 'int8[]'::regtype, 'numeric[]'::regtype)), '{}'),
      'plain', coalesce(jsonb_agg(c.name) filter (where c.type in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype)), '[]'),
      'odd', coalesce(bool_or(pgcast.cast_to_json(c.base) or pgcast.cast_to_json(t.typelem)), false))
    from (select f->>'name' as name, (f->>'type')::oid as type, pgcast.base_type((f->>'type')::oid) as base
          from jsonb_array_elements(fields || coalesce(computed, '[]')) f) c
    left join pg_type t on t.oid = c.base);
end $$;
-- +goose StatementEnd
comment on function pgcast.resolve_decoded is 'What resolve() says of a table, for rows in the WAL whose columns are those given: by the names they had then, and how their values are read.';

-- +goose StatementBegin
create function pgcast.decoded_side(r jsonb, rel oid, alias text, first integer, needed text[], by_subscript boolean,
                                    out unnests text, out source text, out unused text)
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  f record;
  list text[] := '{}';
  expressions text[] := '{}';
  others text[] := '{}';
  value text;
  computed text;
begin
  for f in
    select x->>'name' as name, x->>'as' as type, first - 1 + (x->>'i')::int as place,
           -- Of a type without an array type, or whose arrays have another separator, the texts.
           coalesce((select p.typarray <> 0 and p.typdelim = ',' from pg_type p where p.oid = (x->>'as')::regtype), false) and x->>'as' not like '%[]' as is_typed
    from jsonb_array_elements(r->'fields') x order by (x->>'i')::int
  loop
    if f.name <> all (needed) then
      others := others || format('$%s::text is null', f.place);
      continue;
    end if;
    value := format('$%s::%s[]', f.place, case when f.is_typed then f.type else 'pg_catalog.text' end);
    if by_subscript then
      value := format('(%s)[f."#0"]', value);
    else
      list := list || format('unnest(%s) as "#%s"', value, f.place);
      value := format('f."#%s"', f.place);
    end if;
    expressions := expressions || format('%s as %I', case when f.is_typed then value else format('%s::%s', value, f.type) end, f.name);
  end loop;
  unnests := array_to_string(list, ', ');
  unused := array_to_string(others, ' or ');
  source := 'select ' || array_to_string(expressions, ', ');
  computed := (select string_agg(format('(%s) as %I', c->>'as', c->>'name'), ', ') from jsonb_array_elements(r->'computed') c);
  if computed is not null then
    source := format('select v.*, %s from (%s, %s::oid as tableoid) v', computed, source, rel);
  end if;
  source := format('lateral (%s) %s', source, alias);
end $$;
-- +goose StatementEnd
comment on function pgcast.decoded_side is 'Parts of a statement of decoded_sql() for the new or the old values: what to take apart, the rows it gives, and the parameters it does not need.';

-- +goose StatementBegin
create function pgcast.decoded_sql(rel oid, columns jsonb, op text, staged boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  root oid;
  r jsonb;
  names text[];
  key text[];
  old_key text;
  old_row text;
  n record;
  o record;
  width integer := jsonb_array_length(columns);
  wide boolean;
  needed text[];
  needed_old text[];
  both_topics boolean;
  old_r jsonb;
  target text := case when staged then 'insert into pgcast.stage (session, xid, n, subxid, topic, event, data, old)'
                      else 'insert into pgcast.event_log (id, topic, event, data, old, created_at, origin) overriding system value' end;
  result text := case when staged then '$5::bigint, e."#3", e."#1"%s, e."#4", %s, %s, %s, %s'
                      else 'e."#1"%s, %s, %s, %s, %s, e."#2", row(e."#3", null)::pgcast.origin' end;
  meta text := 'unnest($1::bigint[]) as "#1", generate_subscripts($1::bigint[], 1) as "#0", unnest($2::timestamptz[]) as "#2", unnest($3::xid8[]) as "#3", '
            || 'unnest($4::bigint[]) as "#4", unnest($6::text[]) as "#6"';
  unused text;
  told text := 'case when e."#6" is null then e.data else pgcast.leave_out(e.data, e."#6"::text[]) end';
begin
  if rel = 'pgcast.published'::regclass then
    return pgcast.decoded_published_sql(columns, op, staged);
  end if;
  root := pgcast.decoded_root(rel);
  if root is null then
    return null;
  end if;
  r := pgcast.resolve_decoded(root, rel, columns);
  names := array(select jsonb_array_elements_text(r->'captured'));
  key := case when jsonb_typeof(r->'key') = 'array' then array(select jsonb_array_elements_text(r->'key')) end;
  old_key := pgcast.row_sql(r, coalesce(key, names), 'o', key is not null);
  old_row := case when (r->>'old')::boolean and key is not null then format('coalesce(%s, %s)', pgcast.row_sql(r, names, 'o'), old_key) else old_key end;
  -- What is worked out may need any of the others.
  needed := case when r->'computed' <> '[]' then array(select f->>'name' from jsonb_array_elements(r->'fields') f)
                 else names || array(select jsonb_array_elements_text(r->'values')) end;
  needed_old := case when (r->>'old')::boolean or key is null then names else key end || array(select jsonb_array_elements_text(r->'values'));
  if exists (select from jsonb_array_elements(r->'computed') c where c->>'name' = any (needed_old)) then
    old_r := r;
    needed_old := needed;
  else
    old_r := r || '{"computed": []}';
  end if;
  needed := array_remove(needed, null);
  needed_old := array_remove(needed_old, null);
  -- A list of SELECT has 1664 places.
  wide := cardinality(needed) + cardinality(needed_old) > 1600;
  both_topics := r->'values' <> '[]';
  if op = 'INSERT' then
    n := pgcast.decoded_side(r, rel, 'n', 7, needed, false);
  elsif op = 'DELETE' then
    o := pgcast.decoded_side(old_r, rel, 'o', 7, needed_old, false);
  elsif op = 'UPDATE' then
    n := pgcast.decoded_side(r, rel, 'n', 7, needed, false);
    o := pgcast.decoded_side(old_r, rel, 'o', 7 + width, needed_old, wide);
  else
    return null;
  end if;
  if op = 'INSERT' then
    unused := concat_ws(' or ', 'true', '$5::bigint is null', nullif(n.unused, ''));
    return format('%s select %s from (select f.*, %s as topic, %s as data from (select %s) f, %s where %s offset 0) e', target,
      format(result, '', 'e.topic', quote_literal('created'), told, 'null'), pgcast.topic_sql(r, 'n'), pgcast.row_sql(r, names, 'n'),
      concat_ws(', ', meta, nullif(n.unnests, '')), n.source, unused);
  elsif op = 'DELETE' then
    unused := concat_ws(' or ', 'true', '$5::bigint is null', nullif(o.unused, ''));
    return format('%s select %s from (select f.*, %s as topic, %s as old from (select %s) f, %s where %s offset 0) e', target,
      format(result, '', 'e.topic', quote_literal('deleted'), 'null', 'e.old'), pgcast.topic_sql(r, 'o'), old_row,
      concat_ws(', ', meta, nullif(o.unnests, '')), o.source, unused);
  end if;
  unused := concat_ws(' or ', 'true', '$5::bigint is null', nullif(n.unused, ''), nullif(o.unused, ''));
  return format('%s select %s from (select f."#1", f."#2", f."#3", f."#4", f."#6", %s as topic, %s as data, %s as was, %s as old from (select %s) f, %s, %s where %s offset 0) e%s', target,
    case when both_topics then format(result, ' + v.k - 1', 'case v.k when 1 then e.was else e.topic end',
           $q$case when v.k = 2 then 'created' when e.was = e.topic then 'updated' else 'deleted' end$q$,
           format('case when v.k = 2 or e.was = e.topic then %s end', told), 'case when v.k = 1 then e.old end')
         else format(result, '', 'e.topic', quote_literal('updated'), told, 'e.old') end,
    pgcast.topic_sql(r, 'n'), pgcast.row_sql(r, names, 'n'), case when both_topics then pgcast.topic_sql(r, 'o') else 'null' end, old_row,
    concat_ws(', ', meta, nullif(n.unnests, ''), nullif(o.unnests, '')), n.source, o.source, unused,
    -- A row that moved to another topic leaves the old one and appears in the new one.
    case when both_topics then $q$ cross join lateral unnest(case when e.was = e.topic then '{1}'::integer[] else '{1,2}' end) v (k)$q$ else '' end);
end $$;
-- +goose StatementEnd
comment on function pgcast.decoded_sql is 'The statement that writes the events of rows from the WAL, given as arrays of printed values; null if nothing is captured of them.';

-- +goose StatementBegin
create function pgcast.decoded_published_sql(columns jsonb, op text, staged boolean) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  c jsonb := (select jsonb_object_agg(x->>'name', 6 + i) from jsonb_array_elements(columns) with ordinality u (x, i));
  source text;
begin
  if op <> 'INSERT' then
    return null;
  end if;
  source := format('(select unnest($1::bigint[]) as n, unnest($2::timestamptz[]) as at, unnest($3::xid8[]) as xid, unnest($4::bigint[]) as subxid, unnest($6::text[]) as missing, '
    'unnest($%s::bigint[]) as id, unnest($%s::text[]) as topic, unnest($%s::text[]) as event, unnest($%s::json[]) as data, unnest($%s::timestamptz[]) as created_at) f',
    c->>'id', c->>'topic', c->>'event', c->>'data', c->>'created_at');
  if staged then
    return format('insert into pgcast.stage (session, xid, n, subxid, topic, event, data, created_at, id) '
      'select $5::bigint, f.xid, f.n, f.subxid, f.topic, f.event, f.data, f.created_at, f.id from %s', source);
  end if;
  -- The row is the right to write the event: of two who move it, one finds it.
  return format('with taken as (delete from pgcast.published p where p.id = any ($%s::bigint[]) returning p.id) '
    'insert into pgcast.event_log (id, topic, event, data, created_at, origin) overriding system value '
    'select f.n, f.topic, f.event, f.data, f.created_at, row(null, f.id)::pgcast.origin from %s join taken t on t.id = f.id where true or $5::bigint is null', c->>'id', source);
end $$;
-- +goose StatementEnd
comment on function pgcast.decoded_published_sql is 'The statement that moves what publish() has left in pgcast.published to the log. The transactions it came from must be visible by then.';

-- +goose StatementBegin
create function pgcast.leave_out(data json, missing text[]) returns json
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select ('{' || coalesce(string_agg(to_json(e.key) || ':' || e.value::text, ',' order by e.i), '') || '}')::json
    from json_each(data) with ordinality e (key, value, i) where e.key <> all (missing));
end $$;
-- +goose StatementEnd
comment on function pgcast.leave_out is 'A JSON object without some of its members.';

revoke execute on all functions in schema pgcast from public;

-- +goose Down
drop function pgcast.leave_out(json, text[]);
drop function pgcast.decoded_published_sql(jsonb, text, boolean);
drop function pgcast.decoded_sql(oid, jsonb, text, boolean);
drop function pgcast.decoded_side(jsonb, oid, text, integer, text[], boolean);
drop function pgcast.resolve_decoded(oid, oid, jsonb);
drop function pgcast.reading_type(oid, boolean);
drop function pgcast.cast_to_json(oid);
drop function pgcast.decoded_root(oid);
