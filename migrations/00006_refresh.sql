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
create function pgcast.tell(template text, event text, tbl text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- No more than the table and that something is wrong: who subscribes to rows need not
  -- learn of roles and triggers. And not to a million topics, for one ALTER TABLE.
  insert into pgcast.event_log (topic, event, data)
    select n, tell.event, case when tbl is not null then json_build_object('table', tbl) end
    from pgcast.topics_of(template) n left join pgcast.topic t on t.name = n order by t.id desc nulls first limit 10000;
  perform pgcast.ring();
end $$;
-- +goose StatementEnd
comment on function pgcast.tell is 'Adds an event about a table (gone, altered, degraded, recovered) to the topics its template has produced, the 10,000 newest at most.';

-- +goose StatementBegin
create function pgcast.refresh() returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp set client_min_messages = warning
-- A detached partition still has a trigger that goes with the function: writers would queue
-- behind us, behind whoever reads it.
set lock_timeout = '50ms' as $$
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
    begin -- each by itself: one that fails must not keep the others waiting
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
      if a.via = 'wal' then
        changed := changed + pgcast.refresh_followed(a.relation);
      end if;
      by_row := pgcast.row_triggers(a.relation, a.capture, true);
      if a.via = 'trigger' and pgcast.capture_body(a.relation, a.capture, spec, by_row) is distinct from f.prosrc then
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
    exception when others then
      raise warning 'pgcast: could not refresh the capture of %: %', a.relation, sqlerrm;
    end;
  end loop;
  return changed;
end $$;
-- +goose StatementEnd
comment on function pgcast.refresh is 'Makes capture functions anew whose table has changed, and forgets dropped tables. Returns how many. Cheap when there is nothing to do.';

-- +goose StatementBegin
create function pgcast.attach_call(tbl regclass, spec jsonb, with_old boolean default false) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('select pgcast.attach(%L, topic => %L', tbl, s.spec->>'topic')
    || case when a.columns is not null then format(', columns => %L', array(select jsonb_array_elements_text(s.spec->'columns'))) else '' end
    || case when a.without is not null then format(', without => %L', array(select n from jsonb_array_elements_text(s.spec->'without') n
                                                                           where n in (select c.name from pgcast.live_columns(tbl) c))) else '' end
    || case when a.old or with_old then ', old => true' else '' end
    || case when a.numbers <> 'json' then format(', numbers => %L', a.numbers) else '' end
    || case when a.via <> 'trigger' then format(', capture => %L', a.via) else '' end || ')'
  from pgcast.attachment a, lateral (select attach_call.spec) s (spec) where a.relation = tbl
$$;
-- +goose StatementEnd
comment on function pgcast.attach_call is 'The call that attaches a table again as it is attached, or so that old values are captured too.';

-- +goose StatementBegin
create function pgcast.drift() returns table (relation text, problem text, mend text, attached regclass)
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
#variable_conflict use_column
declare
  a record;
  m record;
  f record;
  missing text[];
  spec jsonb;
  again text;
begin
  for a in select t.*, t.relation::text as name from pgcast.attachment t order by t.relation::text loop
    if not exists (select from pg_class c where c.oid = a.relation) then
      return query values (a.name, format('the table was dropped; its topic was %s', a.topic), 'select pgcast.refresh()', a.relation);
      continue;
    end if;
    spec := pgcast.spec_of(a.relation);
    again := pgcast.attach_call(a.relation, spec);
    return query select d.relation, d.problem, d.mend, a.relation from pgcast.drift_followed(a.relation, spec, again) d;
    if a.via = 'wal' then
      continue;
    end if;
    select p.oid, p.prosrc, pg_get_userbyid(p.proowner) as owner into f
      from pg_proc p where p.pronamespace = 'pgcast'::regnamespace and p.proname = a.capture;
    if not found then
      return query values (a.name, 'its capture function is gone; nothing is captured', again, a.relation);
      continue;
    elsif f.prosrc <> pgcast.capture_body(a.relation, a.capture, spec, pgcast.row_triggers(a.relation, a.capture, true)) then
      return query values (a.name, format('the table has changed since its capture function was made; role %I can make it anew', f.owner), 'select pgcast.refresh()', a.relation);
    end if;
    if pgcast.row_triggers(a.relation, a.capture, false) and not pgcast.row_triggers(a.relation, a.capture, true) then
      return query values (a.name, 'it has row triggers since it was attached; what they write may come before what they were triggered by', again, a.relation);
    end if;
    if exists (select from pg_subscription_rel s where s.srrelid = a.relation) then
      return query values (a.name, 'a subscription writes to it, and Postgres runs no statement triggers for that', 'attach the table where it is published', a.relation);
    end if;
    for m in select x.rel, x.rel::regclass::text as name, x.depth > 0 as is_member, c.relkind
             from pgcast.members_of(a.relation) x join pg_class c on c.oid = x.rel order by x.depth, c.relname loop
      if m.relkind = 'f' then
        return query values (m.name, format('it is a foreign table; writes to it through %s fail', a.name), format('select pgcast.detach(%L)', a.name), a.relation);
        continue;
      end if;
      if m.is_member and exists (select from pgcast.attachment o where o.relation = m.rel) then
        return query values (m.name, format('it is attached by itself, and belongs to %s, which is attached', a.name),
                             format('select pgcast.detach(%L); %s', m.name, again), a.relation);
        continue;
      end if;
      missing := array(select w.name from unnest('{insert,update,delete,truncate}'::text[]) w (name)
                       where not exists (select from pg_trigger t where t.tgrelid = m.rel and t.tgfoid = f.oid and t.tgname = '00_pgcast_' || w.name));
      if cardinality(missing) > 0 then
        return query values (m.name, case when m.is_member then 'what is written straight into it is not captured: no trigger for ' else 'not captured: no trigger for ' end
                             || array_to_string(missing, ', '), again, a.relation);
      end if;
      return query
        select m.name, case t.tgenabled when 'D' then format('trigger %I is disabled', t.tgname)
                                        else format('trigger %I does not fire with session_replication_role = replica', t.tgname) end,
               format('alter table %s enable always trigger %I', m.name, t.tgname), a.relation
        from pg_trigger t where t.tgrelid = m.rel and t.tgfoid = f.oid and t.tgtype & 1 = 0 and t.tgenabled <> 'A' order by t.tgname;
    end loop;
    return query
      select t.tgrelid::regclass::text, format('it belonged to %s once, and still has its triggers; they do nothing', a.name), again, a.relation
      from pg_trigger t where t.tgfoid = f.oid and t.tgrelid not in (select x.rel from pgcast.members_of(a.relation) x)
      group by t.tgrelid order by 1;
  end loop;
end $$;
-- +goose StatementEnd
comment on function pgcast.drift is 'Where attached tables are not captured as they should be, and the statement with which an owner mends it.';

-- +goose StatementBegin
create function pgcast.watch() returns table (relation text, problem text, mend text, told text)
language plpgsql security definer set search_path = pg_catalog, pg_temp set client_min_messages = warning as $$
#variable_conflict use_column
declare
  a record;
  wrong jsonb;
  dropped jsonb;
  -- If not, somebody is attaching, or refreshing: told next time.
  alone boolean := pg_try_advisory_xact_lock(1885823841, 4);
begin
  if alone then
    begin
      -- refresh() forgets dropped tables; their name has gone already.
      select jsonb_agg(jsonb_build_object('relation', t.relation::oid, 'topic', t.topic)) into dropped from pgcast.attachment t
        where not exists (select from pg_class c where c.oid = t.relation);
      perform pgcast.refresh();
      for a in select d->>'relation' as relation, d->>'topic' as topic from jsonb_array_elements(dropped) d
               where not exists (select from pgcast.attachment t where t.relation::oid = (d->>'relation')::oid) loop
        perform pgcast.tell(a.topic, 'gone', null);
        return query values (a.relation, format('the table was dropped; its topic was %s', a.topic), 'nothing to mend', 'gone');
      end loop;
    exception when others then
      raise warning 'pgcast: could not refresh the capture of altered tables: %', sqlerrm;
    end;
  end if;
  select coalesce(jsonb_agg(jsonb_build_object('relation', d.relation, 'problem', d.problem, 'mend', d.mend, 'attached', d.attached::oid)), '[]')
    into wrong from pgcast.drift() d;
  if alone then
    for a in select t.relation, t.relation::text as name, t.topic, t.kinds, coalesce(t.trouble, '{}') as trouble,
                    pgcast.kinds_of(t.relation) as kinds_now,
                    array(select w->>'relation' || ': ' || (w->>'problem') from jsonb_array_elements(wrong) w
                          where (w->>'attached')::oid = t.relation order by 1) as trouble_now
             from pgcast.attachment t join pg_class c on c.oid = t.relation loop
      if a.kinds <> a.kinds_now then
        perform pgcast.tell(a.topic, 'altered', a.name);
        return query values (a.name, 'its columns were altered, and rows may have changed with them', 'nothing to mend', 'altered');
      end if;
      if a.trouble <> a.trouble_now then
        perform pgcast.tell(a.topic, case when a.trouble_now = '{}' then 'recovered' else 'degraded' end, a.name);
      end if;
      update pgcast.attachment t set kinds = a.kinds_now, trouble = nullif(a.trouble_now, '{}')
        where t.relation = a.relation and (t.kinds, coalesce(t.trouble, '{}')) is distinct from (a.kinds_now, a.trouble_now);
    end loop;
  end if;
  return query select w->>'relation', w->>'problem', w->>'mend', null::text from jsonb_array_elements(wrong) w;
end $$;
-- +goose StatementEnd
comment on function pgcast.watch is 'refresh() and drift(), and tells the topics of the tables what has changed since the last time: gone, altered, degraded, recovered. Rows with told are what has happened, the others what is wrong. Called by the sequencing server.';

-- +goose StatementBegin
create function pgcast.watch_state() returns text
language sql stable security definer set search_path = pg_catalog, pg_temp set jit = off as $$
  with recursive tree (rel) as (
    select a.relation::oid from pgcast.attachment a
    union
    select i.inhrelid from tree t join pg_inherits i on i.inhparent = t.rel
  ), versions (version) as (
    select 'a' || a.xmin || a.ctid from pgcast.attachment a
    union all select 'c' || c.xmin || c.ctid from pg_class c join tree t on c.oid = t.rel
    union all select 'u' || u.xmin || u.ctid from pg_attribute u join tree t on u.attrelid = t.rel
    union all select 'i' || i.xmin || i.ctid from pg_index i join tree t on i.indrelid = t.rel
    union all select 'h' || h.xmin || h.ctid from pg_inherits h
    union all select 't' || t.xmin || t.ctid from pg_trigger t
    union all select 'f' || f.xmin || f.ctid from pg_proc f where f.pronamespace = 'pgcast'::regnamespace
    union all select 'y' || y.xmin || y.ctid from pg_type y where y.oid >= 16384 and y.typtype <> 'c' and y.typelem = 0
    union all select 'k' || k.xmin || k.ctid from pg_cast k
    union all select 'n' || n.xmin || n.ctid from pg_namespace n
    union all select 'm' || m.xmin || m.ctid from pg_auth_members m
    union all select 's' || s.xmin || s.ctid from pg_subscription_rel s
    union all select 'b' || b.xmin || b.ctid from pg_publication b
    union all select 'r' || r.xmin || r.ctid from pg_publication_rel r
    union all select 'l' || l.slot_name || coalesce(l.wal_status, '') from pg_replication_slots l
              where l.slot_name = 'pgcast_capture_' || (select d.oid from pg_database d where d.datname = current_database())
  )
  select count(*) || '/' || sum(hashtextextended(v.version, 0)::numeric) from versions v
$$;
-- +goose StatementEnd
comment on function pgcast.watch_state is 'Another text whenever something that watch() looks at may have changed; much cheaper than to look.';

revoke execute on function pgcast.watch_state, pgcast.spec_of, pgcast.tell, pgcast.refresh, pgcast.attach_call, pgcast.drift, pgcast.watch from public;

-- +goose Down
drop function pgcast.watch_state();
drop function pgcast.watch();
drop function pgcast.drift();
drop function pgcast.attach_call(regclass, jsonb, boolean);
drop function pgcast.refresh();
drop function pgcast.tell(text, text, text);
drop function pgcast.spec_of(regclass);
