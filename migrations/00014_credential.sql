-- +goose Up
-- What is known of credentials: which are revoked, the API keys of backends, and tickets that
-- stand for a caller once. Secrets are never stored, only their SHA-256.

create table pgcast.revocation (
  kind       text collate "C" not null check (kind in ('sub', 'jti', 'session')),
  value      text collate "C" not null check (octet_length(value) between 1 and 8192),
  revoked_at timestamptz not null default clock_timestamp(),
  until      timestamptz not null check (isfinite(until)),
  primary key (kind, value)
);
create index revocation_until on pgcast.revocation (until);
comment on index pgcast.revocation_until is 'By it those are found and deleted that have ended.';
comment on table pgcast.revocation is 'Whose tokens and sessions do not count any more. Change it with revoke() and unrevoke(), which tell the servers.';
comment on column pgcast.revocation.kind is 'sub: all tokens of somebody, issued until then; jti: one token; session: one session.';
comment on column pgcast.revocation.value is 'The claim''s value, or the session''s id.';
comment on column pgcast.revocation.revoked_at is 'When. Tokens of a sub that were issued later count.';
comment on column pgcast.revocation.until is 'Until when it holds: no token lives longer.';

-- +goose StatementBegin
create function pgcast.revoke(sub text default null, jti text default null, session text default null, until interval default '30 days') returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_kind text := case when sub is not null then 'sub' when jti is not null then 'jti' else 'session' end;
  v_value text := coalesce(sub, jti, session);
  r pgcast.revocation;
begin
  if num_nonnulls(sub, jti, session) <> 1 or octet_length(v_value) not between 1 and 8192 then
    raise exception 'pgcast: what is to be revoked?' using errcode = '22023', hint = 'Give one: sub => ''ann'', jti => ''…'' or session => ''…''.';
  elsif until is null or until <= interval '0' or not isfinite(until) then
    raise exception 'pgcast: a revocation must hold for some time' using errcode = '22023', hint = 'Give as long as tokens live: until => ''1 day''.';
  end if;
  insert into pgcast.revocation as t (kind, value, until) values (v_kind, v_value, clock_timestamp() + revoke.until)
    on conflict (kind, value) do update set revoked_at = excluded.revoked_at, until = greatest(t.until, excluded.until)
    returning * into r;
  perform pgcast.tell_access('revoked', jsonb_build_object(r.kind, r.value, 'at', extract(epoch from r.revoked_at), 'until', extract(epoch from r.until)));
end $$;
-- +goose StatementEnd
comment on function pgcast.revoke is 'Has all servers refuse, as soon as this transaction has committed, all tokens that were issued to a sub until now, one token by its jti, or a session; what is live of them ends. until is for how long: as long as tokens live.';

-- +goose StatementBegin
create function pgcast.unrevoke(sub text default null, jti text default null, session text default null) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_kind text := case when sub is not null then 'sub' when jti is not null then 'jti' else 'session' end;
  v_value text := coalesce(sub, jti, session);
begin
  if num_nonnulls(sub, jti, session) <> 1 then
    raise exception 'pgcast: what is not to be revoked any more?' using errcode = '22023', hint = 'Give one: sub => ''ann'', jti => ''…'' or session => ''…''.';
  end if;
  delete from pgcast.revocation r where r.kind = v_kind and r.value = v_value;
  if not found then
    return false;
  end if;
  perform pgcast.tell_access('unrevoked', jsonb_build_object(v_kind, v_value));
  return true;
end $$;
-- +goose StatementEnd
comment on function pgcast.unrevoke is 'Takes a revocation back; false if there is none.';

create table pgcast.api_key (
  id           text collate "C" primary key,
  name         text not null,
  hash         bytea not null,
  verbs        text[] collate "C" not null,
  topics       text[] collate "C" not null,
  claims       jsonb not null default '{}',
  created_at   timestamptz not null default clock_timestamp(),
  expires_at   timestamptz check (isfinite(expires_at)),
  revoked_at   timestamptz,
  last_used_at timestamptz
);
comment on table pgcast.api_key is 'Keys of backends. Make them with create_api_key(), end them with revoke_api_key().';
comment on column pgcast.api_key.id is 'The part of the key by which it is found; no secret.';
comment on column pgcast.api_key.name is 'Whose it is: the claim sub is key: and the name. Several may have the same, as while one takes another''s place.';
comment on column pgcast.api_key.hash is 'SHA-256 of the whole key. The key itself is not stored.';
comment on column pgcast.api_key.verbs is 'All it may do; connect goes without saying.';
comment on column pgcast.api_key.topics is 'With which topics and patterns.';
comment on column pgcast.api_key.claims is 'Claims it has besides, for row rules.';
comment on column pgcast.api_key.created_at is 'When it was made.';
comment on column pgcast.api_key.expires_at is 'From then on it is refused; null: never.';
comment on column pgcast.api_key.revoked_at is 'Since when it is refused; null: it is not.';
comment on column pgcast.api_key.last_used_at is 'When it was last used, to about a minute; null: never.';

-- +goose StatementBegin
create function pgcast.key_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pgcast.tell_access('keys', jsonb_build_object('id', old.id));
  return null;
end $$;
-- +goose StatementEnd
comment on function pgcast.key_changed is 'Tells all servers that an API key, or, without an id, any of them, is not what it was.';

create trigger changed after update of id, name, hash, verbs, topics, claims, expires_at, revoked_at or delete on pgcast.api_key
  for each row execute function pgcast.key_changed();
comment on trigger changed on pgcast.api_key is 'Tells the servers.';
create trigger emptied after truncate on pgcast.api_key for each statement execute function pgcast.key_changed();
comment on trigger emptied on pgcast.api_key is 'Tells the servers, without an id: all keys.';

-- +goose StatementBegin
create function pgcast.create_api_key(name text, verbs text[], topics text[], expires_at timestamptz default null, claims jsonb default '{}') returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  -- gen_random_uuid() has 122 bits from the system's generator for secrets.
  key_id text := left(encode(sha256(uuid_send(gen_random_uuid())), 'hex'), 16);
  key text := 'pgk_' || key_id || '_' || encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex');
  t text;
begin
  if name is null or octet_length(name) > 128 or name collate "C" !~ '^[]!#-[^-~]+$' then
    raise exception 'pgcast: % is not the name of an API key', coalesce(quote_literal(left(name, 60)), 'NULL')
      using errcode = '22023', hint = 'Give 1 to 128 printable ASCII bytes without blanks, " and \.';
  elsif coalesce(cardinality(verbs), 0) = 0 or array_ndims(verbs) <> 1 or not verbs <@ pgcast.verbs() or array_position(verbs, null) is not null then
    raise exception 'pgcast: these cannot be the verbs of an API key: %', coalesce(left(verbs::text, 200), 'NULL')
      using errcode = '22023', hint = 'Give some of ' || array_to_string(pgcast.verbs(), ', ') || '.';
  elsif coalesce(cardinality(topics), 0) not between 1 and 100 or array_ndims(topics) <> 1 then
    raise exception 'pgcast: an API key is for 1 to 100 topics or patterns' using errcode = '22023', hint = 'Give {**} for all.';
  elsif jsonb_typeof(claims) is distinct from 'object' or octet_length(claims::text) > 8192 then
    raise exception 'pgcast: the claims of an API key must be a JSON object of at most 8 KiB' using errcode = '22023';
  end if;
  foreach t in array topics loop
    if not pgcast.pattern_contains(t, t) then
      raise exception 'pgcast: % is neither a topic nor a pattern', coalesce(quote_literal(left(t, 60)), 'NULL')
        using errcode = '22023', hint = 'A topic is 1 to 256 printable ASCII bytes without " and \; * is one segment, a last ** any tail.';
    end if;
  end loop;
  insert into pgcast.api_key (id, name, hash, verbs, topics, claims, expires_at)
    values (key_id, create_api_key.name, sha256(convert_to(key, 'UTF8')), create_api_key.verbs, create_api_key.topics, create_api_key.claims, nullif(create_api_key.expires_at, 'infinity'));
  return key;
end $$;
-- +goose StatementEnd
comment on function pgcast.create_api_key is 'Makes an API key and returns it, this once: create_api_key(''billing'', ''{publish}'', ''{invoice:**}''). It may do these verbs with these topics and nothing else, whatever the rules say.';

-- +goose StatementBegin
create function pgcast.revoke_api_key(id text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update pgcast.api_key k set revoked_at = clock_timestamp() where k.id = revoke_api_key.id collate "C" and k.revoked_at is null;
  return found;
end $$;
-- +goose StatementEnd
comment on function pgcast.revoke_api_key is 'Has all servers refuse an API key from now on, given its id, the part between the underscores; false if there is none that counts.';

-- Unlogged: a ticket lives for seconds, and after a crash clients ask for new ones.
create unlogged table pgcast.ticket (
  hash       bytea primary key,
  claims     json not null,
  expires_at timestamptz not null
);
create index ticket_expires_at on pgcast.ticket (expires_at);
comment on index pgcast.ticket_expires_at is 'By it those are found and deleted that nobody has used.';
comment on table pgcast.ticket is 'Tickets that stand for a caller once, until they are used or expire.';
comment on column pgcast.ticket.hash is 'SHA-256 of the ticket. The ticket itself is not stored.';
comment on column pgcast.ticket.claims is 'What is known of whom it stands for.';
comment on column pgcast.ticket.expires_at is 'Until when it can be used.';

revoke execute on all functions in schema pgcast from public;

-- +goose Down
drop table pgcast.ticket;
drop function pgcast.revoke_api_key(text);
drop function pgcast.create_api_key(text, text[], text[], timestamptz, jsonb);
drop table pgcast.api_key;
drop function pgcast.key_changed();
drop function pgcast.unrevoke(text, text, text);
drop function pgcast.revoke(text, text, text, interval);
drop table pgcast.revocation;
