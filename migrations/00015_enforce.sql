-- +goose Up
-- Row security: tables whose events and snapshots are shown to a caller only as far as
-- Postgres would show the row to a role with the caller's claims. What Postgres would show is
-- asked of Postgres; here stands of which tables, as whom, and how.

create table pgcast.enforcement (
  relation    regclass primary key references pgcast.attachment (relation) on delete cascade,
  role        text not null,
  claims      text[],
  key         text[] not null,
  enforced_at timestamptz not null default clock_timestamp()
);
comment on table pgcast.enforcement is 'Attached tables whose row security holds for subscribers too. Written by enforce() and unenforce(); whoever detaches a table takes it away.';
comment on column pgcast.enforcement.relation is 'The attached table.';
comment on column pgcast.enforcement.role is 'The role as which callers see its rows.';
comment on column pgcast.enforcement.claims is 'Claims that its policies depend on; callers that have these in common see the same. Null: all.';
comment on column pgcast.enforcement.key is 'Columns of its key when that was said. If they have changed nothing is shown, for events would name other rows.';
comment on column pgcast.enforcement.enforced_at is 'Since when.';

-- +goose StatementBegin
create function pgcast.topics_overlap(a text, b text) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  hole constant text := chr(1);
  x text[] := string_to_array(array_to_string((pgcast.topic_parts(a)).literals, hole), ':');
  y text[] := string_to_array(array_to_string((pgcast.topic_parts(b)).literals, hole), ':');
  p text;
  q text;
begin
  -- No value makes a colon, so segments can be compared one by one.
  if cardinality(x) <> cardinality(y) then
    return false;
  end if;
  for i in 1..cardinality(x) loop
    -- A name that would begin with __ begins with %5F.
    p := case when i = 1 and starts_with(x[i], '_') and a ~ '[{]' then hole || substr(x[i], 2) else x[i] end;
    q := case when i = 1 and starts_with(y[i], '_') and b ~ '[{]' then hole || substr(y[i], 2) else y[i] end;
    if strpos(p, hole) = 0 and strpos(q, hole) = 0 then
      if p <> q then
        return false;
      end if;
    elsif not (starts_with(split_part(p, hole, 1), split_part(q, hole, 1)) or starts_with(split_part(q, hole, 1), split_part(p, hole, 1)))
       or not (starts_with(split_part(reverse(p), hole, 1), split_part(reverse(q), hole, 1)) or starts_with(split_part(reverse(q), hole, 1), split_part(reverse(p), hole, 1))) then
      return false;
    end if;
  end loop;
  return true;
end $$;
-- +goose StatementEnd
comment on function pgcast.topics_overlap is 'Whether two templates could make the same topic. When in doubt, true.';

-- +goose StatementBegin
create function pgcast.may_become(role text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from pg_roles r where r.rolname = role
    and pg_has_role(current_user, r.oid, case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end))
$$;
-- +goose StatementEnd
comment on function pgcast.may_become is 'Whether the caller may SET ROLE to a role.';

-- +goose StatementBegin
create function pgcast.enforcement_trouble(tbl regclass, role text, out problem text, out mend text)
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  c record;
  r record;
  spec jsonb;
  unreadable text;
begin
  select t.relrowsecurity, t.relforcerowsecurity, t.relowner, t.relnamespace into c from pg_class t where t.oid = tbl;
  if not found then
    problem := 'it does not exist any more';
    mend := format('select pgcast.detach(%s)', tbl::oid);
    return;
  end if;
  select u.oid, u.rolsuper, u.rolbypassrls into r from pg_roles u where u.rolname = role;
  if not found then
    problem := format('there is no role %I', role);
    mend := format('create role %I nologin;', role);
    return;
  end if;
  if not c.relrowsecurity then
    problem := 'row security is not enabled on it';
    mend := format('alter table %s enable row level security;', tbl);
    return;
  elsif r.rolsuper or r.rolbypassrls then
    problem := format('role %I is not subject to row security: it is %s', role, case when r.rolsuper then 'a superuser' else 'allowed to bypass it' end);
    mend := 'name a role that is neither';
    return;
  elsif not c.relforcerowsecurity and pg_has_role(r.oid, c.relowner, 'usage') then
    problem := format('role %I owns it, and row security does not hold for owners', role);
    mend := format('alter table %s force row level security;', tbl);
    return;
  elsif not has_schema_privilege(r.oid, c.relnamespace, 'usage') then
    problem := format('role %I may not use schema %s', role, c.relnamespace::regnamespace);
    mend := format('grant usage on schema %s to %I;', c.relnamespace::regnamespace, role);
    return;
  end if;
  spec := pgcast.resolve(tbl, pgcast.spec_of(tbl));
  select n.name into unreadable from jsonb_array_elements_text((spec->'captured') || (spec->'values')) n (name)
    where n.name is not null and not has_column_privilege(r.oid, tbl, n.name, 'select') limit 1;
  if unreadable is not null then
    problem := format('role %I may not read column %I', role, unreadable);
    mend := format('grant select on %s to %I;', tbl, role);
  elsif jsonb_typeof(spec->'key') is distinct from 'array' then
    problem := 'its events do not say which row they are about';
    mend := format('alter table %s add primary key (...); and attach it again', tbl);
  elsif not pgcast.may_become(role) then
    problem := format('role %I may not become %I', current_user, role);
    mend := format('grant %I to %I;', role, current_user);
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.enforcement_trouble is 'Why a table''s rows cannot be shown as a role sees them, and what mends that; null if they can.';

-- +goose StatementBegin
create function pgcast.check_unshared(tbl regclass) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  o record;
begin
  select x.relation, x.topic as theirs, a.topic as ours into o from pgcast.attachment a join pgcast.attachment x on x.relation <> a.relation and pgcast.topics_overlap(x.topic, a.topic)
    where a.relation = tbl
      and exists (select from pgcast.enforcement e where e.relation in (a.relation, x.relation)) order by x.relation limit 1;
  if found then
    raise exception 'pgcast: events of % (%) and of % (%) could be of one topic, and the row security of one of them is enforced', tbl, o.ours, o.relation, o.theirs
      using errcode = '55000', hint = 'Attach one of them with a topic of its own: topic => ''orders:{id}''.';
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.check_unshared is 'Raises if a table''s topics could be those of another one, and row security is enforced on one of the two.';

-- +goose StatementBegin
create function pgcast.tell_enforced() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pgcast.tell_access('enforced', '{}');
  return null;
end $$;
-- +goose StatementEnd
comment on function pgcast.tell_enforced is 'Tells the servers that the rows of other tables, or other rows, are to be shown.';

-- For each row: that a table goes which is not in it is a statement on it, too.
create trigger changed after insert or update or delete on pgcast.enforcement
  for each row execute function pgcast.tell_enforced();
comment on trigger changed on pgcast.enforcement is 'Servers learn of it from the log, with everything else in order.';
create trigger truncated after truncate on pgcast.enforcement
  for each statement execute function pgcast.tell_enforced();
comment on trigger truncated on pgcast.enforcement is 'As for each row.';

-- +goose StatementBegin
create function pgcast.guard_enforced() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pgcast.check_unshared(new.relation);
  if exists (select from pgcast.enforcement e where e.relation = new.relation) then
    perform pgcast.tell_access('enforced', '{}');
  end if;
  return null;
end $$;
-- +goose StatementEnd
comment on function pgcast.guard_enforced is 'Keeps a table from being attached to topics of a table whose row security is enforced, and tells the servers when such a table is attached otherwise.';

create trigger attachment_guard after insert or update of topic, columns, without, old, numbers on pgcast.attachment
  for each row execute function pgcast.guard_enforced();
comment on trigger attachment_guard on pgcast.attachment is 'Rows of two tables in one topic could not be told apart.';

-- +goose StatementBegin
create function pgcast.enforce(tbl regclass, role text, claims text[] default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  trouble record;
begin
  perform pg_advisory_xact_lock(1885823841, 4); -- as attach()
  if not exists (select from pgcast.attachment a where a.relation = tbl) then
    raise exception 'pgcast: % is not attached', coalesce(tbl::text, 'NULL')
      using errcode = '55000', hint = format('select pgcast.attach(%L, topic => ...);', tbl);
  elsif role is null then
    raise exception 'pgcast: no role as which the rows of % are seen', tbl
      using errcode = '22023', hint = 'Name the role that your policies are for: role => ''authenticated''.';
  elsif claims = '{}' or array_ndims(claims) > 1 or exists (select from unnest(claims) n where n is null or n = '' or n in ('iat', 'exp', 'nbf', 'jti')) then
    raise exception 'pgcast: % are not claims that a policy can depend on', coalesce(quote_literal(claims), 'NULL')
      using errcode = '22023', hint = 'Name claims that are the same in all tokens of a caller, not iat, exp, nbf or jti: claims => ''{sub}''. Null is all of them.';
  end if;
  trouble := pgcast.enforcement_trouble(tbl, role);
  if trouble.problem is not null then
    raise exception 'pgcast: the row security of % cannot be enforced: %', tbl, trouble.problem using errcode = '55000', hint = trouble.mend;
  end if;
  if not exists (select from pg_policy p where p.polrelid = tbl) then
    raise notice 'pgcast: % has no policy: nobody will see any of its rows', tbl;
  end if;
  -- A snapshot is read as the role, and these are in the statement. They do no more than
  -- put together what they are given.
  execute format('grant usage on schema pgcast to %I', role);
  execute format('grant execute on function pgcast.encode_value(text), pgcast.expand_topic(text[], text[]), pgcast.row_json(record), pgcast.quote_numbers(json) to %I', role);
  insert into pgcast.enforcement as e (relation, role, claims, key)
    values (tbl, enforce.role, (select array_agg(distinct n order by n) from unnest(enforce.claims) n),
            array(select jsonb_array_elements_text(pgcast.resolve(tbl, pgcast.spec_of(tbl))->'key')))
    on conflict (relation) do update set role = excluded.role, claims = excluded.claims, key = excluded.key;
  perform pgcast.check_unshared(tbl);
end $$;
-- +goose StatementEnd
comment on function pgcast.enforce is 'From then on the events and snapshots of an attached table are shown to a caller only as far as Postgres would show the row, as it is now, to a role with the caller''s claims: enforce(''public.documents'', role => ''authenticated'', claims => ''{sub}''). claims names those that the policies depend on.';

-- +goose StatementBegin
create function pgcast.unenforce(tbl regclass) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  delete from pgcast.enforcement e where e.relation = tbl;
  return found;
end $$;
-- +goose StatementEnd
comment on function pgcast.unenforce is 'Shows a table''s events to all who may see the topic again. False if that was so.';

-- +goose StatementBegin
create function pgcast.visible_sql(tbl regclass, key text[]) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
declare
  k record;
  n int := 0;
  columns text[] := '{}';
  conditions text[] := '{}';
  spec jsonb := pgcast.resolve(tbl, pgcast.spec_of(tbl));
begin
  if jsonb_typeof(spec->'key') is distinct from 'array' then
    return null;
  elsif array(select jsonb_array_elements_text(spec->'key')) is distinct from key then
    return null;
  end if;
  for k in
    select u.name, format('%I.%I', tn.nspname, t.typname) as type, format('operator(%I.%s)', o.nspname, o.oprname) as equals
    from unnest(key) with ordinality u (name, place)
    join pg_attribute a on a.attrelid = tbl and a.attname = u.name and not a.attisdropped
    join lateral (
      select s.nspname, p.oprname from pg_index x
      cross join lateral unnest(x.indkey::int2[], x.indclass::oid[]) i (num, opclass)
      join pg_opclass q on q.oid = i.opclass
      join pg_amop m on m.amopfamily = q.opcfamily and m.amoplefttype = q.opcintype and m.amoprighttype = q.opcintype and m.amopstrategy = 3
      join pg_operator p on p.oid = m.amopopr join pg_namespace s on s.oid = p.oprnamespace
      where x.indrelid = tbl and x.indisvalid and x.indisunique and i.num = a.attnum order by x.indisprimary desc limit 1) o on true
    join pg_type t on t.oid = pgcast.base_type(a.atttypid) join pg_namespace tn on tn.oid = t.typnamespace
    order by u.place
  loop
    n := n + 1;
    columns := columns || format('"%s" %s', n, k.type);
    conditions := conditions || format('t.%I %s r."%s"', k.name, k.equals, n);
  end loop;
  if n = 0 or n <> cardinality(key) then
    return null;
  end if;
  -- Whatever the search_path, which is the policies'. The columns are named for Postgres to
  -- see whether the role may read them.
  return format('select pg_catalog.row_security_active(%s::pg_catalog.oid), pg_catalog.array_to_string(array(select j.n'
    ' from pg_catalog.json_array_elements($1::pg_catalog.json) with ordinality j (key, n) cross join lateral pg_catalog.json_to_record(j.key) r (%s)'
    ' join %s t on %s where row(%s) is null or true), pg_catalog.text '','')',
    tbl::oid, array_to_string(columns, ', '), tbl, array_to_string(conditions, ' and '),
    (select string_agg(format('t.%I', c.name), ', ') from jsonb_array_elements_text(spec->'captured') c (name)));
end $$;
-- +goose StatementEnd
comment on function pgcast.visible_sql is 'The statement that tells which rows of a table are visible: $1 is a JSON array of keys, each with members "1", "2" and so on; it gives whether row security holds for the caller, and the numbers of the keys whose rows he sees. Null where the key has changed.';

-- +goose StatementBegin
create function pgcast.enforced() returns table (relation oid, name text, role text, claims text[], key text[], literals text[], statement text, problem text, mend text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  e record;
  trouble record;
begin
  for e in select x.relation, x.role, x.claims, x.key, a.topic from pgcast.enforcement x join pgcast.attachment a on a.relation = x.relation order by x.relation loop
    relation := e.relation;
    name := e.relation::regclass;
    role := e.role;
    claims := e.claims;
    key := e.key;
    literals := (pgcast.topic_parts(e.topic)).literals;
    statement := null;
    begin
      trouble := pgcast.enforcement_trouble(e.relation, e.role);
      problem := trouble.problem;
      mend := trouble.mend;
      if exists (select from pg_class c where c.oid = e.relation) then
        -- With today's names of the columns.
        literals := array(select jsonb_array_elements_text(pgcast.resolve(e.relation, pgcast.spec_of(e.relation))->'literals'));
        statement := pgcast.visible_sql(e.relation, e.key);
        if statement is null and problem is null then
          problem := 'its key is another one now';
          mend := format('select pgcast.enforce(%L, %L%s);', name, role, case when claims is null then '' else format(', %L', claims) end);
        end if;
      end if;
    exception when others then
      -- Of one table; the others are to be shown as they are.
      literals := (pgcast.topic_parts(e.topic)).literals;
      statement := null;
      problem := format('it cannot be told how to look at it: %s', sqlerrm);
      mend := format('select pgcast.unenforce(%L);', name);
    end;
    return next;
  end loop;
end $$;
-- +goose StatementEnd
comment on function pgcast.enforced is 'The tables whose row security is enforced: as whom, the literal parts of their topics, the statement of visible_sql(), and what is wrong.';

revoke execute on function pgcast.topics_overlap, pgcast.may_become, pgcast.enforcement_trouble, pgcast.check_unshared, pgcast.tell_enforced, pgcast.guard_enforced,
  pgcast.enforce, pgcast.unenforce, pgcast.visible_sql, pgcast.enforced from public;

-- +goose Down
drop function pgcast.enforced();
drop function pgcast.visible_sql(regclass, text[]);
drop function pgcast.unenforce(regclass);
drop function pgcast.enforce(regclass, text, text[]);
drop trigger attachment_guard on pgcast.attachment;
drop function pgcast.guard_enforced();
drop table pgcast.enforcement;
drop function pgcast.tell_enforced();
drop function pgcast.check_unshared(regclass);
drop function pgcast.enforcement_trouble(regclass, text);
drop function pgcast.may_become(text);
drop function pgcast.topics_overlap(text, text);
