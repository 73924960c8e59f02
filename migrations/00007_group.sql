-- +goose Up
-- Groups, as far as they are durable: which there are, how many may be in one, and whether
-- it is closed. Who is in one is live state, and not here. Each change is told to the
-- group's topic in the same transaction, and that is how all servers learn of it.

create table pgcast.group_info (
  name        text collate "C" primary key,
  max_members integer check (max_members > 0),
  roles       text[] collate "C" not null check (cardinality(roles) between 1 and 32),
  meta        jsonb not null check (jsonb_typeof(meta) = 'object'),
  created_at  timestamptz not null default clock_timestamp(),
  closed_at   timestamptz
);
comment on table pgcast.group_info is 'The groups there are. Change it with create_group(), set_group() and close_group(), which tell the servers.';
comment on column pgcast.group_info.name is 'Name of the group; its topic is group: and the name.';
comment on column pgcast.group_info.max_members is 'How many may be in it at once; null does not limit.';
comment on column pgcast.group_info.roles is 'What a member may be; the first is what one is who does not say.';
comment on column pgcast.group_info.meta is 'What the application notes of it, a JSON object.';
comment on column pgcast.group_info.created_at is 'When it was made.';
comment on column pgcast.group_info.closed_at is 'Since when it takes nobody any more; null while it is open.';

-- +goose StatementBegin
create function pgcast.check_group(name text, max_members integer, meta jsonb, roles text[]) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if name is null or octet_length(name) not between 1 and 200 then
    raise exception 'pgcast: % is not a group''s name', coalesce(quote_literal(left(name, 60)), 'NULL')
      using errcode = '22023', hint = 'A group''s name is 1 to 200 printable ASCII bytes without " and \.';
  end if;
  perform pgcast.check_topic('group:' || name);
  if max_members < 0 then
    raise exception 'pgcast: a group of at most % members', max_members
      using errcode = '22023', hint = 'Give 1 or more, or 0 for no limit.';
  elsif jsonb_typeof(meta) <> 'object' or octet_length(meta::text) > 65536 then
    raise exception 'pgcast: a group''s meta must be a JSON object of at most 64 KiB' using errcode = '22023';
  elsif cardinality(roles) not between 1 and 32 or array_ndims(roles) <> 1 or (select bool_or(r is null or octet_length(r) > 128 or r collate "C" !~ '^[] !#-[^-~]+$') from unnest(roles) r) then
    raise exception 'pgcast: these cannot be the roles of a group'
      using errcode = '22023', hint = 'Give 1 to 32 names, each 1 to 128 printable ASCII bytes without " and \.';
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.check_group is 'Raises 22023 with what is wrong with a group''s name or settings; null is never wrong, but for the name.';

-- +goose StatementBegin
create function pgcast.tell_group(name text, event text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pgcast.publish('group:' || g.name, tell_group.event,
      jsonb_build_object('max', coalesce(g.max_members, 0), 'roles', g.roles, 'meta', g.meta))
    from pgcast.group_info g where g.name = tell_group.name collate "C";
end $$;
-- +goose StatementEnd
comment on function pgcast.tell_group is 'Publishes to a group''s topic how it is now.';

-- +goose StatementBegin
create function pgcast.create_group(name text, max_members integer default 0, meta jsonb default '{}',
  roles text[] default '{member,admin,viewer}') returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pgcast.check_group(name, max_members, meta, roles);
  insert into pgcast.group_info as g (name, max_members, meta, roles)
    values (create_group.name, nullif(create_group.max_members, 0), coalesce(create_group.meta, '{}'), coalesce(create_group.roles, '{member,admin,viewer}'))
    on conflict do nothing;
  if not found then
    return false;
  end if;
  perform pgcast.tell_group(name, 'created');
  return true;
end $$;
-- +goose StatementEnd
comment on function pgcast.create_group is 'Makes a group: create_group(''lobby'', max_members => 50, meta => ''{"game": "chess"}''). False, and nothing is done, if there is one of that name, open or closed.';

-- +goose StatementBegin
create function pgcast.set_group(name text, meta jsonb default null, max_members integer default null, roles text[] default null) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pgcast.check_group(name, max_members, meta, roles);
  update pgcast.group_info g set
      meta = coalesce(set_group.meta, g.meta),
      max_members = case when set_group.max_members is null then g.max_members else nullif(set_group.max_members, 0) end,
      roles = coalesce(set_group.roles, g.roles)
    where g.name = set_group.name collate "C" and g.closed_at is null;
  if not found then
    return false;
  end if;
  perform pgcast.tell_group(name, 'changed');
  return true;
end $$;
-- +goose StatementEnd
comment on function pgcast.set_group is 'Changes a group; null leaves something as it is, max_members => 0 takes the limit away. Nobody has to go who is there. False if there is no open group of that name.';

-- +goose StatementBegin
create function pgcast.close_group(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pgcast.check_group(name, null, null, null);
  update pgcast.group_info g set closed_at = clock_timestamp()
    where g.name = close_group.name collate "C" and g.closed_at is null;
  if not found then
    return false;
  end if;
  perform pgcast.tell_group(name, 'closed');
  return true;
end $$;
-- +goose StatementEnd
comment on function pgcast.close_group is 'Closes a group for ever: all members are out of it, on all servers, and nobody joins any more. False if there is no open group of that name.';

revoke execute on function pgcast.check_group, pgcast.tell_group, pgcast.create_group, pgcast.set_group, pgcast.close_group from public;

-- +goose Down
drop function pgcast.close_group(text);
drop function pgcast.set_group(text, jsonb, integer, text[]);
drop function pgcast.create_group(text, integer, jsonb, text[]);
drop function pgcast.tell_group(text, text);
drop function pgcast.check_group(text, integer, jsonb, text[]);
drop table pgcast.group_info;
