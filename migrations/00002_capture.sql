-- +goose Up
-- Capture, the lower half: what the generated trigger functions call, and the parts
-- that attach() builds them from. A value never reaches a topic unencoded, and nothing
-- a generated function calls may raise: the caller is somebody's INSERT.

create table pgcast.attachment (
  relation    regclass primary key,
  capture     text collate "C" not null unique,
  via         text not null default 'trigger' check (via in ('trigger', 'wal')),
  topic       text not null,
  columns     text[],
  without     text[],
  old         boolean not null,
  numbers     text not null check (numbers in ('json', 'text')),
  shape       jsonb not null,
  stamp       text not null,
  kinds       text[],
  trouble     text[],
  decoded     jsonb,
  names       jsonb,
  members     oid[],
  attached_at timestamptz not null default clock_timestamp(),
  check (columns is null or without is null)
);
comment on table pgcast.attachment is 'Tables whose writes become events. Written by attach(), detach() and refresh().';
comment on column pgcast.attachment.relation is 'The table; for a partitioned or inherited one its root.';
comment on column pgcast.attachment.capture is 'Name of the generated trigger function in schema pgcast.';
comment on column pgcast.attachment.via is 'How its writes are captured: by triggers, or from the WAL.';
comment on column pgcast.attachment.topic is 'Template of the topic''s name: room:{room_id}.';
comment on column pgcast.attachment.columns is 'Only these columns are captured; null: all.';
comment on column pgcast.attachment.without is 'All columns but these are captured; null: all.';
comment on column pgcast.attachment.old is 'Whether the old values travel with updates and deletes, or only the old key.';
comment on column pgcast.attachment.numbers is 'json: as Postgres prints them; text: bigint and numeric as JSON strings.';
comment on column pgcast.attachment.shape is 'Numbers and names of the columns when the function was made, so that a renamed column is still the same one.';
comment on column pgcast.attachment.stamp is 'Cluster, database and table the column numbers belong to; after a restore elsewhere only the names count.';
comment on column pgcast.attachment.kinds is 'The columns with their types as the topics were last told; null: not yet.';
comment on column pgcast.attachment.trouble is 'What the topics were last told is wrong with the table''s capture; null: nothing.';
comment on column pgcast.attachment.decoded is 'Of a table that is or was captured from the WAL: types of its columns as last seen there, {"name": [oid, typmod]}.';
comment on column pgcast.attachment.names is 'Likewise: all numbers and names its columns have had, since rows are read from the WAL that are older than the table''s shape.';
comment on column pgcast.attachment.members is 'Likewise: the partitions it has had.';
comment on column pgcast.attachment.attached_at is 'When the table was first attached.';

-- +goose StatementBegin
create function pgcast.encode_value(value text) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  bytes bytea;
begin
  if value is null then
    return '~null'; -- no value can produce a ~
  elsif value collate "C" ~ '^[A-Za-z0-9_.-]*$' then
    return value;
  end if;
  bytes := convert_to(value, 'UTF8');
  return (
    select coalesce(string_agg(case when chr(b) collate "C" ~ '[A-Za-z0-9_.-]' then chr(b)
                                    else '%' || lpad(upper(to_hex(b)), 2, '0') end, '' order by i), '')
    from generate_series(0, octet_length(bytes) - 1) i, lateral (select get_byte(bytes, i)) g (b));
end $$;
-- +goose StatementEnd
comment on function pgcast.encode_value is 'A column''s value as part of a topic''s name: bytes outside [A-Za-z0-9_.-] as %XX, null as ~null.';

-- +goose StatementBegin
create function pgcast.expand_topic(literals text[], vals text[]) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  name text := literals[1];
begin
  for i in 1..cardinality(vals) loop
    -- A huge value would take long to encode only to be hashed away.
    name := name || case when octet_length(vals[i]) > 8192
                         then pgcast.encode_value(left(vals[i], 256)) || '~' || encode(sha256(convert_to(vals[i], 'UTF8')), 'hex')
                         else pgcast.encode_value(vals[i]) end || literals[i + 1];
  end loop;
  if name = '' then
    return '~empty';
  elsif starts_with(name, '__') then
    name := '%5F' || substr(name, 2); -- names that begin with __ are the server's own
  end if;
  if octet_length(name) > 256 then
    name := left(name, 191) || '~' || encode(sha256(convert_to(name, 'UTF8')), 'hex');
  end if;
  return name;
end $$;
-- +goose StatementEnd
comment on function pgcast.expand_topic is 'Puts values between a template''s literal parts; whatever the values, the result is a topic''s name.';

-- +goose StatementBegin
create function pgcast.topic_parts(template text, out literals text[], out names text[])
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  token text[];
  problem text;
  skeleton text;
begin
  literals := array[''];
  names := '{}';
  for token in select regexp_matches(template, '([^{}]+)|[{]((?:[^}]|[}][}])*)[}](?![}])|([{}])', 'g') loop
    if token[3] is not null then
      raise exception 'pgcast: braces in topic % do not match', quote_literal(left(template, 200))
        using errcode = '22023', hint = 'Write a column as {name}; a } in a column''s name is doubled.';
    elsif token[1] is not null then
      literals[cardinality(literals)] := literals[cardinality(literals)] || token[1];
    else
      names := names || replace(token[2], '}}', '}');
      literals := literals || ''::text;
    end if;
  end loop;
  if cardinality(names) = 0 then
    perform pgcast.check_topic(template);
    return;
  end if;
  skeleton := array_to_string(literals, '');
  problem := case
    when skeleton <> '' and skeleton collate "C" !~ '^[] !#-[^-~]+$' then 'contains a character that a topic''s name cannot have'
    when octet_length(skeleton) > 128 then 'has more than 128 bytes outside its placeholders'
    when starts_with(literals[1], '__') then 'begins with __, which is reserved for the server'
    when exists (select from regexp_split_to_table(array_to_string(literals, chr(1)), ':') s
                 where replace(s, chr(1), '') in ('*', '**')) then 'has a segment that could be read as a pattern'
  end;
  if problem is not null then
    raise exception 'pgcast: topic % %', quote_literal(left(template, 200)), problem
      using errcode = '22023', hint = 'A topic is up to 256 printable ASCII bytes without " and \: room:{room_id}.';
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.topic_parts is 'Splits a template into literals and column names between them, or raises 22023 with what is wrong with it.';

-- +goose StatementBegin
create function pgcast.topic_template(literals text[], names text[]) returns text
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  select literals[1] || coalesce(string_agg('{' || replace(names[i], '}', '}}') || '}' || literals[i + 1], '' order by i), '')
  from generate_series(1, cardinality(names)) i
$$;
-- +goose StatementEnd
comment on function pgcast.topic_template is 'The reverse of topic_parts().';

-- +goose StatementBegin
create function pgcast.topic_pattern(template text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  literals text[] := (pgcast.topic_parts(template)).literals;
  expression text := (select string_agg(regexp_replace(l, '([^A-Za-z0-9])', E'\\\\\\1', 'g'), '(?:~null|(?:[A-Za-z0-9_.-]|%[0-9A-F]{2})*)' order by i)
                      from unnest(literals) with ordinality u (l, i));
begin
  if literals[1] = '_' then
    expression := '(?:_|%5F)' || substr(expression, 3);
  end if;
  return '^(?:' || expression || case when array_to_string(literals, '') = '' then '|~empty' else '' end || '|.{191}~[0-9a-f]{64})$';
end $$;
-- +goose StatementEnd
comment on function pgcast.topic_pattern is 'A regular expression of the topics that a template with placeholders can have produced.';

-- +goose StatementBegin
create function pgcast.topics_of(template text) returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  parts record;
  low text;
  expression text;
  first_xid xid8;
  -- This transaction's own number may lie beyond its snapshot.
  last_xid xid8 := greatest(pg_snapshot_xmax(pg_current_snapshot()), pg_current_xact_id_if_assigned());
begin
  select p.* into parts from pgcast.topic_parts(template) p;
  if cardinality(parts.names) = 0 then
    return next template;
    return;
  end if;
  -- A leading _ may have become %5F, so it bounds nothing.
  low := case when parts.literals[1] = '_' then '' else parts.literals[1] end;
  expression := pgcast.topic_pattern(template);
  -- Events that have no place yet may be in topics that have no row yet.
  select pg_snapshot_xmin(p.seen) into first_xid from pgcast.progress p order by p.step desc limit 1;
  return query
    select t.name from pgcast.topic t
    where t.name >= low and t.name < low || chr(127) and t.name ~ expression
    union
    select e.topic from pgcast.event_log e
    where e.xid >= first_xid and e.xid <= last_xid and e.topic >= low and e.topic < low || chr(127) and e.topic ~ expression
    order by 1;
end $$;
-- +goose StatementEnd
comment on function pgcast.topics_of is 'The topics there are that a template can have produced.';

-- +goose StatementBegin
create function pgcast.row_json(value record) returns json
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  result json;
begin
  result := row_to_json(value);
  -- data and old must fit into one row of the log together.
  return case when pg_column_size(result) <= 268435456 then result end;
exception when others then
  return null; -- too large for a value, or a cast to json that somebody wrote
end $$;
-- +goose StatementEnd
comment on function pgcast.row_json is 'row_to_json that gives null for what cannot be a JSON value, or is larger than 256 MB.';

revoke execute on all functions in schema pgcast from public;

-- +goose Down
drop function pgcast.row_json(record);
drop function pgcast.topics_of(text);
drop function pgcast.topic_pattern(text);
drop function pgcast.topic_template(text[], text[]);
drop function pgcast.topic_parts(text);
drop function pgcast.expand_topic(text[], text[]);
drop function pgcast.encode_value(text);
drop table pgcast.attachment;
