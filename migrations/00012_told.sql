-- +goose Up
-- Capture from the WAL, all that is not a row: a TRUNCATE, columns that have changed, values
-- that the WAL leaves out, and what is told when changes were lost.

-- +goose StatementBegin
create function pgcast.tell_decoded(root oid, event text, data json, at timestamptz, xid xid8, subxid bigint, session bigint, n bigint, most bigint) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  a record;
  written bigint;
begin
  select t.topic into a from pgcast.attachment t where t.relation = root;
  if session is null then
    insert into pgcast.event_log (topic, event, data, created_at, origin)
      select o.name, tell_decoded.event, tell_decoded.data, tell_decoded.at, row(tell_decoded.xid, null)::pgcast.origin
      from pgcast.topics_of(a.topic) o (name) left join pgcast.topic t on t.name = o.name order by t.id desc nulls first limit most;
  else
    insert into pgcast.stage (session, xid, n, subxid, topic, event, data)
      select tell_decoded.session, tell_decoded.xid, tell_decoded.n - 1 + row_number() over (order by t.id desc nulls first, o.name), tell_decoded.subxid, o.name, tell_decoded.event, tell_decoded.data
      from (select v.name from pgcast.topics_of(a.topic) v (name)
            union
            select s.topic from pgcast.stage s where s.session = tell_decoded.session and s.xid = tell_decoded.xid and s.topic ~ pgcast.topic_pattern(a.topic)) o (name)
      left join pgcast.topic t on t.name = o.name order by t.id desc nulls first, o.name limit most;
  end if;
  get diagnostics written = row_count;
  return written;
end $$;
-- +goose StatementEnd
comment on function pgcast.tell_decoded is 'Adds, in its place in the WAL, an event to the topics that a table''s template has produced, the newest of them if there is a limit; with a session to the stage, from number n on. Returns how many.';

-- +goose StatementBegin
create function pgcast.truncated(rel oid, at timestamptz, xid xid8, subxid bigint, session bigint, n bigint) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  root oid := pgcast.decoded_root(rel);
begin
  if root is null then
    return 0;
  elsif root <> rel then -- one partition by itself: which rows that were, the WAL does not say
    return pgcast.tell_decoded(root, 'altered', json_build_object('table', root::regclass::text), at, xid, subxid, session, n, 10000);
  end if;
  return pgcast.tell_decoded(root, 'truncated',
    (select row_to_json(d.*) from (select s.nspname as schema, c.relname as "table" from pg_class c join pg_namespace s on s.oid = c.relnamespace where c.oid = root) d),
    at, xid, subxid, session, n, null);
end $$;
-- +goose StatementEnd
comment on function pgcast.truncated is 'Adds the events of a TRUNCATE: truncated on every topic of a table, altered for a partition truncated by itself. Returns how many.';

-- +goose StatementBegin
create function pgcast.truncated_tables(rels oid[]) returns oid[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return array(
    -- Of a partitioned table Postgres names only the partitions. All of them is the whole.
    select coalesce(case when not exists (select from pg_class c join pgcast.members_of(x.root) m on m.rel = c.oid where c.relkind = 'r' and c.oid <> all (rels)) then x.root end,
                    min(x.rel))
    from (select u.rel, u.i, pgcast.decoded_root(u.rel) as root from unnest(rels) with ordinality u (rel, i)) x
    where x.root is not null group by x.root order by min(x.i));
end $$;
-- +goose StatementEnd
comment on function pgcast.truncated_tables is 'Of the tables that one TRUNCATE names in the WAL, those to call truncated() for: each attached table once.';

-- +goose StatementBegin
create function pgcast.schema_changed(rel oid, columns jsonb, at timestamptz, xid xid8, subxid bigint, session bigint, n bigint) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  root oid := pgcast.decoded_root(rel);
  r jsonb;
  list json;
begin
  if root is null then
    return 0;
  end if;
  r := pgcast.resolve_decoded(root, rel, columns);
  list := (select coalesce(json_agg(json_build_object('name', c.name, 'type', coalesce(format_type(f.type, f.mod), 'text')) order by c.i), '[]')
           from jsonb_array_elements_text(r->'captured') with ordinality c (name, i)
           left join lateral (
             select (x->>'type')::oid as type, (x->>'mod')::int as mod from jsonb_array_elements(columns) x
             where x->>'name' = c.name and exists (select from pg_type t where t.oid = (x->>'type')::oid)
             union all
             select a.atttypid, a.atttypmod from pg_attribute a join jsonb_array_elements(r->'computed') x on x->>'name' = a.attname
             where a.attrelid = root and a.attname = c.name) f on true);
  return pgcast.tell_decoded(root, 'schema', json_build_object('table', root::regclass::text, 'columns', list), at, xid, subxid, session, n, 10000);
end $$;
-- +goose StatementEnd
comment on function pgcast.schema_changed is 'Tells the topics of a table, the 10,000 newest at most, which columns its rows have from here on. Returns how many.';

-- +goose StatementBegin
create function pgcast.toast_sql(rel oid, columns jsonb, wanted text[]) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  root oid := pgcast.decoded_root(rel);
  k record;
  conditions text[] := '{}';
  keys text[] := '{}';
begin
  -- By name, and only where the columns are certainly still those of the stream.
  if root is null or exists (
    select from unnest(wanted || array(select c->>'name' from jsonb_array_elements(columns) c where (c->>'key')::boolean)) w (name)
    where not exists (select from jsonb_array_elements(columns) c join pg_attribute a on a.attrelid = rel and a.attname = w.name and not a.attisdropped
                      where c->>'name' = w.name and (c->>'type')::oid = a.atttypid
                        and (select count(distinct x->0) = 1 from pgcast.attachment t, jsonb_array_elements(t.shape || coalesce(t.names, '[]') || pgcast.shape_of(root)) x
                             where t.relation = root and x->>1 = w.name))) then
    return null;
  end if;
  for k in
    select c.col->>'name' as name, format('%I.%I', tn.nspname, t.typname) as type, format('operator(%I.%s)', o.nspname, o.oprname) as equals
    from jsonb_array_elements(columns) with ordinality c (col, place)
    join pg_attribute a on a.attrelid = rel and a.attname = c.col->>'name'
    join lateral (
      select s.nspname, p.oprname from pg_index x
      cross join lateral unnest(x.indkey::int2[], x.indclass::oid[]) u (num, opclass)
      join pg_opclass q on q.oid = u.opclass
      join pg_amop m on m.amopfamily = q.opcfamily and m.amoplefttype = q.opcintype and m.amoprighttype = q.opcintype and m.amopstrategy = 3
      join pg_operator p on p.oid = m.amopopr join pg_namespace s on s.oid = p.oprnamespace
      where x.indrelid = rel and x.indisvalid and x.indisunique and u.num = a.attnum order by x.indisprimary desc limit 1) o on true
    join pg_type t on t.oid = pgcast.base_type(a.atttypid) join pg_namespace tn on tn.oid = t.typnamespace
    where (c.col->>'key')::boolean order by c.place
  loop
    keys := keys || format('unnest($%s::pg_catalog.text[]) as "#%s"', cardinality(keys) + 1, cardinality(keys) + 1);
    conditions := conditions || format('t.%I %s k."#%s"::%s', k.name, k.equals, cardinality(keys), k.type);
  end loop;
  if keys = '{}' or cardinality(keys) <> (select count(*) from jsonb_array_elements(columns) c where (c->>'key')::boolean) then
    return null;
  end if;
  return format('select k."#0", %s from (select generate_subscripts($1::pg_catalog.text[], 1)::bigint as "#0", %s) k join only %s t on %s',
    -- format() prints as the type does; a cast to text may not.
    (select string_agg(format('case when pg_catalog.num_nulls(t.%I) = 0 then pg_catalog.format(''%%s'', t.%I) end', w.name, w.name), ', ' order by w.i) from unnest(wanted) with ordinality w (name, i)),
    array_to_string(keys, ', '), rel::regclass, array_to_string(conditions, ' and '));
end $$;
-- +goose StatementEnd
comment on function pgcast.toast_sql is 'The statement that reads, by arrays of printed keys, columns of rows whose values the WAL does not have; null where that cannot be known to be the same columns.';

-- +goose StatementBegin
create function pgcast.tell_reset(rel regclass) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  written bigint;
begin
  insert into pgcast.event_log (topic, event, data)
    select n, 'reset', json_build_object('table', rel::text) from pgcast.attachment a, pgcast.topics_of(a.topic) n where a.relation = rel;
  get diagnostics written = row_count;
  return written;
end $$;
-- +goose StatementEnd
comment on function pgcast.tell_reset is 'Tells every topic of a table that changes may be missing, and its rows must be read anew. Returns how many.';

revoke execute on all functions in schema pgcast from public;

-- +goose Down
drop function pgcast.tell_reset(regclass);
drop function pgcast.toast_sql(oid, jsonb, text[]);
drop function pgcast.schema_changed(oid, jsonb, timestamptz, xid8, bigint, bigint, bigint);
drop function pgcast.truncated_tables(oid[]);
drop function pgcast.truncated(oid, timestamptz, xid8, bigint, bigint, bigint);
drop function pgcast.tell_decoded(oid, text, json, timestamptz, xid8, bigint, bigint, bigint, bigint);
