-- +goose Up
-- Tables change under their attachments. refresh() mends what pgcast can mend by itself;
-- drift() names the rest, and the statement with which the table's owner mends it.

-- +goose StatementBegin
create function pgcast.spec_of(tbl regclass) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  a record;
  live jsonb := pgcast.shape_of(tbl);
  stamp text := pgcast.stamp_of(tbl);
  shape jsonb;
  parts record;
begin
  select t.* into a from pgcast.attachment t where t.relation = tbl;
  -- After a restore elsewhere the numbers are others, and only the names count.
  shape := case when a.stamp = stamp then a.shape else '[]' end;
  select p.* into parts from pgcast.topic_parts(a.topic) p;
  return jsonb_build_object(
    'topic', pgcast.topic_template(parts.literals, array(
      select coalesce(now.name, u.name) from unnest(parts.names, pgcast.current_names(parts.names, shape, live)) with ordinality u (name, now, i),
             lateral (select u.now as name) now order by u.i)),
    'columns', case when a.columns is not null then array(
      select distinct coalesce(u.now, u.name) from unnest(a.columns, pgcast.current_names(a.columns, shape, live)) u (name, now) order by 1) end,
    -- The old name too: whatever is called so later was secret once.
    'without', case when a.without is not null then array(
      select distinct n from unnest(a.without || array_remove(pgcast.current_names(a.without, shape, live), null)) n order by 1) end,
    'old', a.old, 'numbers', a.numbers, 'shape', live, 'stamp', stamp);
end $$;
-- +goose StatementEnd
comment on function pgcast.spec_of is 'An attachment''s options by today''s names of the columns.';

-- +goose StatementBegin
create function pgcast.refresh() returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set client_min_messages = warning as $$
declare
  a record;
  f record;
  spec jsonb;
  by_row boolean;
  statement text;
  changed integer := 0;
begin
  -- Somebody is attaching, or refreshing: next time.
  if not pg_try_advisory_xact_lock(1885823841, 4) then
    return 0;
  end if;
  for a in select t.* from pgcast.attachment t loop
    select p.prosrc, pg_has_role(p.proowner, 'usage') as is_ours into f
      from pg_proc p where p.pronamespace = 'pgcast'::regnamespace and p.proname = a.capture;
    if found and not f.is_ours then
      continue; -- drift() tells whose it is
    end if;
    if not exists (select from pg_class c where c.oid = a.relation) then
      execute format('drop function if exists pgcast.%I() cascade', a.capture);
      delete from pgcast.attachment t where t.relation = a.relation;
      changed := changed + 1;
      continue;
    end if;
    spec := pgcast.spec_of(a.relation);
    by_row := pgcast.row_triggers(a.relation, a.capture, true);
    if pgcast.capture_body(a.relation, a.capture, spec, by_row) is distinct from f.prosrc then
      for statement in select pgcast.capture_sql(a.relation, a.capture, spec, by_row) loop
        execute statement;
      end loop;
      changed := changed + 1;
    end if;
    update pgcast.attachment t
      set topic = spec->>'topic', shape = spec->'shape', stamp = spec->>'stamp',
          columns = case when a.columns is not null then array(select jsonb_array_elements_text(spec->'columns')) end,
          without = case when a.without is not null then array(select jsonb_array_elements_text(spec->'without')) end
      where t.relation = a.relation
        and (t.topic, t.shape, t.stamp) is distinct from (spec->>'topic', spec->'shape', spec->>'stamp');
  end loop;
  return changed;
end $$;
-- +goose StatementEnd
comment on function pgcast.refresh is 'Makes capture functions anew whose table has changed, and forgets dropped tables. Returns how many. Cheap when there is nothing to do.';

-- +goose StatementBegin
create function pgcast.attach_call(tbl regclass) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('select pgcast.attach(%L, topic => %L', tbl, s.spec->>'topic')
    || case when a.columns is not null then format(', columns => %L', array(select jsonb_array_elements_text(s.spec->'columns'))) else '' end
    || case when a.without is not null then format(', without => %L', array(select n from jsonb_array_elements_text(s.spec->'without') n
                                                                           where n in (select c.name from pgcast.live_columns(tbl) c))) else '' end
    || case when a.old then ', old => true' else '' end
    || case when a.numbers <> 'json' then format(', numbers => %L', a.numbers) else '' end || ')'
  from pgcast.attachment a, lateral (select pgcast.spec_of(a.relation)) s (spec) where a.relation = tbl
$$;
-- +goose StatementEnd
comment on function pgcast.attach_call is 'The call that attaches a table again as it is attached.';

-- +goose StatementBegin
create function pgcast.drift() returns table (relation text, problem text, mend text)
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
#variable_conflict use_column
declare
  a record;
  m record;
  f record;
  missing text[];
  again text;
begin
  for a in select t.*, t.relation::text as name from pgcast.attachment t order by t.relation::text loop
    if not exists (select from pg_class c where c.oid = a.relation) then
      return query values (a.name, format('the table was dropped; its topic was %s', a.topic), 'select pgcast.refresh()');
      continue;
    end if;
    again := pgcast.attach_call(a.relation);
    select p.oid, p.prosrc, pg_get_userbyid(p.proowner) as owner into f
      from pg_proc p where p.pronamespace = 'pgcast'::regnamespace and p.proname = a.capture;
    if not found then
      return query values (a.name, 'its capture function is gone; nothing is captured', again);
      continue;
    elsif f.prosrc <> pgcast.capture_body(a.relation, a.capture, pgcast.spec_of(a.relation), pgcast.row_triggers(a.relation, a.capture, true)) then
      return query values (a.name, format('the table has changed since its capture function was made; role %I can make it anew', f.owner), 'select pgcast.refresh()');
    end if;
    if pgcast.row_triggers(a.relation, a.capture, false) and not pgcast.row_triggers(a.relation, a.capture, true) then
      return query values (a.name, 'it has row triggers since it was attached; what they write may come before what they were triggered by', again);
    end if;
    if exists (select from pg_subscription_rel s where s.srrelid = a.relation) then
      return query values (a.name, 'a subscription writes to it, and Postgres runs no statement triggers for that', 'attach the table where it is published');
    end if;
    for m in select x.rel, x.rel::regclass::text as name, x.depth > 0 as is_member, c.relkind
             from pgcast.members_of(a.relation) x join pg_class c on c.oid = x.rel order by x.depth, c.relname loop
      if m.relkind = 'f' then
        return query values (m.name, format('it is a foreign table; writes to it through %s fail', a.name), format('select pgcast.detach(%L)', a.name));
        continue;
      end if;
      if m.is_member and exists (select from pgcast.attachment o where o.relation = m.rel) then
        return query values (m.name, format('it is attached by itself, and belongs to %s, which is attached', a.name),
                             format('select pgcast.detach(%L); %s', m.name, again));
        continue;
      end if;
      missing := array(select w.name from unnest('{insert,update,delete,truncate}'::text[]) w (name)
                       where not exists (select from pg_trigger t where t.tgrelid = m.rel and t.tgfoid = f.oid and t.tgname = '00_pgcast_' || w.name));
      if cardinality(missing) > 0 then
        return query values (m.name, case when m.is_member then 'what is written straight into it is not captured: no trigger for ' else 'not captured: no trigger for ' end
                             || array_to_string(missing, ', '), again);
      end if;
      return query
        select m.name, case t.tgenabled when 'D' then format('trigger %I is disabled', t.tgname)
                                        else format('trigger %I does not fire with session_replication_role = replica', t.tgname) end,
               format('alter table %s enable always trigger %I', m.name, t.tgname)
        from pg_trigger t where t.tgrelid = m.rel and t.tgfoid = f.oid and t.tgtype & 1 = 0 and t.tgenabled <> 'A' order by t.tgname;
    end loop;
    return query
      select t.tgrelid::regclass::text, format('it belonged to %s once, and still has its triggers; they do nothing', a.name), again
      from pg_trigger t where t.tgfoid = f.oid and t.tgrelid not in (select x.rel from pgcast.members_of(a.relation) x)
      group by t.tgrelid order by 1;
  end loop;
end $$;
-- +goose StatementEnd
comment on function pgcast.drift is 'Where attached tables are not captured as they should be, and the statement with which an owner mends it.';

revoke execute on function pgcast.spec_of, pgcast.refresh, pgcast.attach_call, pgcast.drift from public;

-- +goose Down
drop function pgcast.drift();
drop function pgcast.attach_call(regclass);
drop function pgcast.refresh();
drop function pgcast.spec_of(regclass);
