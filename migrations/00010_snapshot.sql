-- +goose Up
-- Snapshots: from a topic's name back to the rows that belong to it, and, for a topic that
-- no table makes events of, the newest event of each key.

create table pgcast.projection (
  pattern text collate "C" primary key,
  key     text[] not null
);
comment on table pgcast.projection is 'Of topics without a table: which members of data say what an event is about, by topic pattern; the pattern with most literal segments wins. Where none selects the topic it is member id.';
comment on column pgcast.projection.pattern is 'A topic, or a pattern: * is one segment, a last ** is any tail.';
comment on column pgcast.projection.key is 'Members of data, which together are the key: id, or user.id for a member of a member. None: every event counts by itself.';

-- +goose StatementBegin
create function pgcast.project(pattern text, key text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if pattern is null or octet_length(pattern) > 256 or pattern collate "C" !~ '^[] !#-[^-~]+$' or pattern collate "C" ~ '(^|:)[*][*]:' or starts_with(pattern collate "C", '__') then
    raise exception 'pgcast: % is not a topic or pattern', coalesce(quote_literal(left(pattern, 60)), 'NULL')
      using errcode = '22023', hint = 'Segments are split by a colon; * is one segment, ** is any tail and must be last; names that begin with __ are reserved.';
  elsif array_ndims(key) > 1 or exists (select from unnest(key) k where k is null or k ~ '(^|[.])([.]|$)') then
    raise exception 'pgcast: % is not a key', quote_literal(key)
      using errcode = '22023', hint = 'Name members of data: ''{id}'', or ''{user.id,kind}'' for two that count together; ''{}'' for events that count by themselves.';
  end if;
  if key is null then
    delete from pgcast.projection p where p.pattern = project.pattern collate "C";
    return;
  end if;
  insert into pgcast.projection as p (pattern, key) values (project.pattern, project.key)
    on conflict on constraint projection_pkey do update set key = excluded.key;
end $$;
-- +goose StatementEnd
comment on function pgcast.project is 'Sets which members of data are the key of the matching topics'' events: project(''chat:*'', ''{message.id}''). Null goes back to member id.';

-- +goose StatementBegin
create function pgcast.projection_of(topic text) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return coalesce((
    select p.key
    from pgcast.projection p,
         lateral (select '^' || string_agg(case s when '*' then '[^:]*' when '**' then '.*' else regexp_replace(s, '([^A-Za-z0-9])', E'\\\\\\1', 'g') end, ':' order by i) || '$',
                         sum(case s when '**' then 0 when '*' then 1 else 1000 end)
                  from regexp_split_to_table(p.pattern, ':') with ordinality u (s, i)) x (expression, weight)
    where topic collate "C" ~ x.expression
    order by x.weight desc, p.pattern limit 1), '{id}');
end $$;
-- +goose StatementEnd
comment on function pgcast.projection_of is 'Which members of data are the key of a topic''s events.';

-- +goose StatementBegin
create function pgcast.event_key(event text, data json, old json, key text[]) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  parts text[] := '{}';
  part text;
  path text[];
begin
  for i in 1..cardinality(key) loop
    path := string_to_array(key[i], '.');
    part := (data #> path)::text;
    if event = 'deleted' and (part is null or part = 'null') then
      part := (old #> path)::text;
    end if;
    if part is null or part = 'null' then
      return null;
    end if;
    parts := parts || part;
  end loop;
  return case when cardinality(key) > 0 then array_to_string(parts, ',') end;
end $$;
-- +goose StatementEnd
comment on function pgcast.event_key is 'What an event is about, as JSON; null if it says nothing of that. The key of a deleted one may be in old.';

-- +goose StatementBegin
create function pgcast.compacted(topic text) returns table (seq bigint, id bigint, created_at timestamptz, event text, data json, old json)
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
  members text[] := pgcast.projection_of(topic);
  of bigint := (select t.id from pgcast.topic t where t.name = compacted.topic);
  first bigint := (select coalesce(max(tt.tail), 1) from pgcast.topic_tail tt where tt.topic_id = of);
begin
  -- The payloads are looked up once more for the few that remain, instead of sorting all.
  return query
    with kept as materialized (
      select r.seq, r.event_id, e.event, pgcast.event_key(e.event, e.data, e.old, members) as key
      from pgcast.replay r cross join lateral (select l.event, l.data, l.old from pgcast.event_log l where l.id = r.event_id limit 1) e
      where r.topic_id = of and r.seq >= first
    ), newest as (
      select k.seq, k.event_id, k.event, k.key, row_number() over (partition by k.key order by k.seq desc) as nth
      from kept k
      where k.event <> 'truncated' and k.seq > coalesce((select max(t.seq) from kept t where t.event = 'truncated'), 0)
    )
    select n.seq, coalesce((e.origin).id, e.id), e.created_at, e.event, e.data, e.old
    from newest n join pgcast.event_log e on e.id = n.event_id
    where n.event <> 'deleted' and (n.nth = 1 or n.key is null)
    order by n.seq;
end $$;
-- +goose StatementEnd
comment on function pgcast.compacted is 'A topic''s newest event of each key, in order: deleted takes a key away, truncated everything before it.';

-- +goose StatementBegin
create function pgcast.decode_value(value text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if strpos(value, '%') = 0 then
    return value;
  end if;
  return convert_from(decode((
    select string_agg(coalesce(lower(m[1]), encode(convert_to(m[2], 'UTF8'), 'hex')), '' order by i)
    from regexp_matches(value, '%([0-9A-F]{2})|([^%]+)', 'g') with ordinality u (m, i)), 'hex'), 'UTF8');
exception when others then
  return null; -- bytes that no value has
end $$;
-- +goose StatementEnd
comment on function pgcast.decode_value is 'The reverse of encode_value(); null for what it cannot have made of a value.';

-- +goose StatementBegin
create function pgcast.split_topic(literals text[], topic text, out fits boolean, out vals text[], out is_exact boolean)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  part constant text := '(~null|(?:[A-Za-z0-9_.-]|%[0-9A-F]{2})*)';
  expression text := '^' || (select string_agg(regexp_replace(l, '([^A-Za-z0-9])', E'\\\\\\1', 'g'), part order by i) from unnest(literals) with ordinality u (l, i)) || '$';
  found text[];
begin
  fits := false;
  is_exact := false;
  if cardinality(literals) = 1 then
    fits := topic = literals[1];
    is_exact := fits;
    vals := '{}';
    return;
  end if;
  found := regexp_match(topic, expression);
  if found is null and literals[1] = '_' and starts_with(topic, '%5F') then
    found := regexp_match('_' || substr(topic, 4), expression); -- it began with __
  end if;
  if found is null then
    -- ~empty; hashed; or began with __, of which one belongs to what follows the first value.
    fits := topic = '~empty' and array_to_string(literals, '') = ''
      or topic ~ '^.{191}~[0-9a-f]{64}$' and (starts_with(topic, literals[1]) or literals[1] = '_')
      or literals[1] = '' and starts_with(topic, '%5F');
    return;
  end if;
  vals := array(select case when f <> '~null' then pgcast.decode_value(f) end from unnest(found) with ordinality u (f, i) order by i);
  -- Between two values there must be what no value can contain, or there are several ways to split.
  is_exact := not exists (select from unnest(literals[2:cardinality(literals) - 1]) l where l !~ '[^A-Za-z0-9_.%~-]');
  fits := not is_exact or not exists (select from unnest(found, vals) u (f, v) where u.v is null and u.f <> '~null');
end $$;
-- +goose StatementEnd
comment on function pgcast.split_topic is 'Whether a template with those literals can have produced a topic, of which values if that can be told (else vals is null), and whether they can be no others.';

-- +goose StatementBegin
create function pgcast.is_input(value text, type regtype) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres' as $$
begin
  execute format('select %L::%s', value, type);
  return true;
exception
  when data_exception then
    return false;
  when others then
    return null; -- such as a type in a schema that we may not use
end $$;
-- +goose StatementEnd
comment on function pgcast.is_input is 'Whether a text can be read as a value of a type; null if that cannot be told.';

-- +goose StatementBegin
create function pgcast.value_sql(rel oid, col text, value text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  t record;
  type text;
begin
  if value is null then
    return format('t.%I is null', col);
  end if;
  select p.oid, p.typtype, p.typname, p.typnamespace::regnamespace::text as schema into t
    from pgcast.live_columns(rel) c join pg_attribute a on a.attrelid = rel and a.attnum = c.num
    join pg_type p on p.oid = pgcast.base_type(a.atttypid) where c.name = col;
  -- Types of which two values that are printed alike are equal, and whose text is read back
  -- as the same value. The comparison is then of the column's own kind, which an index serves.
  if t.typtype is distinct from 'e' and t.oid <> all (array['bool', 'int2', 'int4', 'int8', 'numeric', 'float4', 'float8', 'text', 'varchar', 'bpchar',
       'uuid', 'date', 'timestamp', 'timestamptz']::regtype[]) then
    return null;
  end if;
  type := format('%s.%I', t.schema, t.typname);
  return case pgcast.is_input(value, t.oid::regtype) when true then format('t.%I operator(pg_catalog.=) %L::%s', col, value, type) when false then 'false' end;
end $$;
-- +goose StatementEnd
comment on function pgcast.value_sql is 'A condition that all rows fulfil whose column is printed as the value; null where there is none better than that.';

-- +goose StatementBegin
create function pgcast.snapshot_sql(topic text, reader name default current_user) returns table (rel text, statement text)
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set quote_all_identifiers = off as $$
declare
  a record;
  spec jsonb;
  r jsonb;
  parts record;
  conditions text[];
  names text[];
  key text[];
  plain text[];
  denied boolean;
  is_attached boolean := false;
begin
  for a in select t.relation from pgcast.attachment t order by t.relation::regclass::text loop
    spec := pgcast.spec_of(a.relation);
    r := pgcast.resolve(a.relation, spec);
    select s.* into parts from pgcast.split_topic(array(select jsonb_array_elements_text(r->'literals')), topic) s;
    continue when not parts.fits;
    plain := pgcast.plain_columns(a.relation);
    names := array(select jsonb_array_elements_text(r->'values'));
    -- Values that are never long make no name that is hashed.
    continue when parts.vals is null and topic ~ '~[0-9a-f]{64}$' and names <@ plain and array_position(names, null) is null
      and octet_length(array_to_string(array(select jsonb_array_elements_text(r->'literals')), '')) + 36 * cardinality(names) <= 256;
    is_attached := true;
    conditions := '{}';
    if parts.is_exact then
      for i in 1..cardinality(names) loop
        if names[i] is not null then
          conditions := conditions || pgcast.value_sql(a.relation, names[i], parts.vals[i]);
        elsif parts.vals[i] is not null then
          conditions := conditions || 'false'::text; -- the column is gone
        end if;
      end loop;
    end if;
    r := r || jsonb_build_object('plain', plain);
    conditions := array_remove(conditions, null) || format('(%s) collate "C" = %L', pgcast.topic_sql(r, 't'), topic);
    key := case when jsonb_typeof(r->'key') = 'array' then array(select jsonb_array_elements_text(r->'key')) end;
    names := case when (r->>'listed')::boolean then array(select jsonb_array_elements_text(r->'captured')) end;
    denied := not has_table_privilege(reader, a.relation, 'select') and (names is null or exists (
      select from unnest(names || array(select jsonb_array_elements_text(r->'values'))) n
      where n is not null and not has_column_privilege(reader, a.relation, n, 'select')));
    if denied or not has_schema_privilege(reader, (select c.relnamespace from pg_class c where c.oid = a.relation), 'usage') then
      raise exception 'pgcast: role % may not read %, so there is no snapshot of its topics', quote_ident(reader), a.relation::regclass
        using errcode = '42501', hint = format('grant usage on schema %s to %I; grant select%s on %s to %I;',
          (select c.relnamespace::regnamespace from pg_class c where c.oid = a.relation), reader,
          case when names is null then '' else (select format(' (%s)', string_agg(distinct quote_ident(n), ', ')) from unnest(names || array(select jsonb_array_elements_text(r->'values'))) n where n is not null) end,
          a.relation::regclass, reader);
    end if;
    rel := a.relation::regclass;
    statement := format('select (%s)::text as data, (%s)::text as key from %s t where %s', pgcast.row_sql(r, names, 't'),
      case when key is null then 'null' else pgcast.row_sql(r, key, 't', true) end, a.relation::regclass, array_to_string(conditions, ' and '));
    return next;
  end loop;
  if not is_attached then
    rel := null;
    statement := format('select c.seq, c.id, c.created_at, c.event, c.data::text as data, c.old::text as old from pgcast.compacted(%L) c', topic);
    return next;
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.snapshot_sql is 'The statements that select what a topic holds now: rows of each table that can have produced it (data, key), or, where rel is null, its newest events (seq, id, created_at, event, data, old). reader is the role that will run them.';

-- +goose StatementBegin
create function pgcast.sources() returns table (rel text, literals text[], is_short boolean, captured text[], key text[], old boolean, mend text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set quote_all_identifiers = off as $$
declare
  a record;
  spec jsonb;
  r jsonb;
  names text[];
begin
  for a in select t.relation from pgcast.attachment t order by t.relation::regclass::text loop
    spec := pgcast.spec_of(a.relation);
    r := pgcast.resolve(a.relation, spec);
    rel := a.relation::regclass;
    literals := array(select jsonb_array_elements_text(r->'literals'));
    names := array(select jsonb_array_elements_text(r->'values'));
    -- As in snapshot_sql().
    is_short := cardinality(names) = 0 or names <@ pgcast.plain_columns(a.relation) and array_position(names, null) is null
      and octet_length(array_to_string(literals, '')) + 36 * cardinality(names) <= 256;
    captured := array(select jsonb_array_elements_text(r->'captured'));
    key := case when jsonb_typeof(r->'key') = 'array' then array(select jsonb_array_elements_text(r->'key')) else captured end;
    old := (r->>'old')::boolean;
    mend := pgcast.attach_call(a.relation, spec, true);
    return next;
  end loop;
end $$;
-- +goose StatementEnd
comment on function pgcast.sources is 'Attached tables as a filter sees them: the literal parts of their topics'' names and whether such names are never hashed, what their events have in data, and in old, and the call that has them capture old values too.';

revoke execute on all functions in schema pgcast from public;

-- +goose Down
drop function pgcast.sources();
drop function pgcast.snapshot_sql(text, name);
drop function pgcast.value_sql(oid, text, text);
drop function pgcast.is_input(text, regtype);
drop function pgcast.split_topic(text[], text);
drop function pgcast.decode_value(text);
drop function pgcast.compacted(text);
drop function pgcast.event_key(text, json, json, text[]);
drop function pgcast.projection_of(text);
drop function pgcast.project(text, text[]);
drop table pgcast.projection;
