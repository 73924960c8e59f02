-- +goose Up
-- Who may do what. The servers ask pgcast.authorize(), once for the same claims, verb and
-- topic; as it comes it goes by the rules in pgcast.rule, and what none of them allows is
-- refused. That rules have changed travels through the log itself, as an event on the topic
-- __access, to which nobody but the servers can be subscribed.

-- +goose StatementBegin
create function pgcast.verbs() returns text[]
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
return '{connect,subscribe,history,snapshot,publish,presence,cursor,group}'::text[];
-- +goose StatementEnd
comment on function pgcast.verbs is 'What can be done, as rules and API keys name it.';

-- +goose StatementBegin
create function pgcast.pattern_contains("outer" text, "inner" text) returns boolean
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  a text[];
  b text[];
  a_tail boolean;
  b_tail boolean;
begin
  if num_nulls("outer", "inner") > 0 or octet_length("outer") not between 1 and 256 or octet_length("inner") not between 1 and 256
     or starts_with("outer", '__') or starts_with("inner", '__')
     or "outer" collate "C" !~ '^[] !#-[^-~]+$' or "inner" collate "C" !~ '^[] !#-[^-~]+$' then
    return false;
  end if;
  a := string_to_array("outer", ':');
  b := string_to_array("inner", ':');
  a_tail := a[cardinality(a)] = '**';
  b_tail := b[cardinality(b)] = '**';
  if a_tail then
    a := a[:cardinality(a) - 1];
  end if;
  if b_tail then
    b := b[:cardinality(b) - 1];
  end if;
  if '**' = any (a) or '**' = any (b) -- not at the end: no pattern
     or b_tail and not a_tail or not a_tail and cardinality(a) <> cardinality(b)
     or a_tail and cardinality(b) + b_tail::int <= cardinality(a) then
    return false;
  end if;
  for i in 1..cardinality(a) loop
    if a[i] <> '*' and a[i] <> b[i] then
      return false;
    end if;
  end loop;
  return true;
end $$;
-- +goose StatementEnd
comment on function pgcast.pattern_contains is 'Whether the first pattern selects all topics that the second one does; a topic is a pattern of one. False also where either is neither.';

-- +goose StatementBegin
create function pgcast.rule_parts(template text, out literals text[], out names text[])
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  token text[];
  problem text;
  skeleton text;
  segments text[];
begin
  literals := array[''];
  names := '{}';
  for token in select regexp_matches(template, '([^{}]+)|[{]((?:[^}]|[}][}])*)[}](?![}])|([{}])', 'g') loop
    if token[3] is not null then
      problem := 'has braces that do not match';
    elsif token[1] is not null then
      literals[cardinality(literals)] := literals[cardinality(literals)] || token[1];
    else
      names := names || replace(token[2], '}}', '}');
      literals := literals || ''::text;
    end if;
  end loop;
  skeleton := array_to_string(literals, '');
  -- What stands in a segment with a placeholder is never a wildcard.
  segments := regexp_split_to_array(array_to_string(literals, chr(1)), ':');
  problem := case
    when problem is not null then problem
    when template is null or template = '' then 'is empty'
    when skeleton <> '' and skeleton collate "C" !~ '^[] !#-[^-~]+$' then 'contains a character that a topic''s name cannot have'
    when octet_length(skeleton) > 256 or octet_length(template) > 1024 then 'is too long'
    when starts_with(literals[1], '__') then 'begins with __, which is reserved for the server'
    when '**' = any (segments[:cardinality(segments) - 1]) then 'has ** before its end'
    when exists (select from unnest(segments) s where strpos(s, chr(1)) > 0 and replace(s, chr(1), '') in ('*', '**')) then 'has a segment that could be read as a pattern'
    when '' = any (names) then 'has a placeholder without a name'
    when names && '{iat,exp,nbf,jti}' then 'has a placeholder for iat, exp, nbf or jti, by which nothing is decided'
    when (select count(*) > count(distinct n) from unnest(names) n) then 'has a placeholder twice'
    when cardinality(names) > 8 then 'has more than 8 placeholders'
  end;
  if problem is not null then
    raise exception 'pgcast: topic % of a rule %', coalesce(quote_literal(left(template, 200)), 'NULL'), problem
      using errcode = '22023', hint = 'Write a topic or a pattern, with claims in braces: user:{sub}, org:{org_id}:**. A } in a claim''s name is doubled.';
  end if;
end $$;
-- +goose StatementEnd
comment on function pgcast.rule_parts is 'Splits the topic of a rule into literals and the names of claims between them, or raises 22023 with what is wrong with it.';

-- +goose StatementBegin
create function pgcast.check_rule(verbs text[], topic text, role text, claims jsonb) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if coalesce(cardinality(verbs), 0) = 0 or array_ndims(verbs) <> 1 or not verbs <@ pgcast.verbs() or array_position(verbs, null) is not null then
    raise exception 'pgcast: these cannot be the verbs of a rule: %', coalesce(left(verbs::text, 200), 'NULL')
      using errcode = '22023', hint = 'Give some of ' || array_to_string(pgcast.verbs(), ', ') || '.';
  elsif role = '' then
    raise exception 'pgcast: the role of a rule is empty' using errcode = '22023', hint = 'Leave it out, as null, for all roles.';
  elsif jsonb_typeof(claims) is distinct from 'object' or octet_length(claims::text) > 65536 then
    raise exception 'pgcast: the claims of a rule must be a JSON object of at most 64 KiB' using errcode = '22023', hint = 'Give {} for everybody.';
  elsif claims ?| '{iat,exp,nbf,jti}' then
    raise exception 'pgcast: a rule cannot ask for iat, exp, nbf or jti' using errcode = '22023', hint = 'They differ from one token to the next; nothing is decided by them.';
  end if;
  perform pgcast.rule_parts(topic);
  return true;
end $$;
-- +goose StatementEnd
comment on function pgcast.check_rule is 'Raises 22023 with what is wrong with a rule, or returns true.';

create table pgcast.rule (
  id         bigint generated always as identity primary key,
  verbs      text[] collate "C" not null,
  topic      text collate "C" not null,
  role       text collate "C",
  claims     jsonb not null default '{}',
  created_at timestamptz not null default clock_timestamp(),
  check (pgcast.check_rule(verbs, topic, role, claims))
);
comment on table pgcast.rule is 'What is allowed to whom. What no rule allows is refused; no rule forbids. Changes are told to the servers at once.';
comment on column pgcast.rule.id is 'Number of the rule; delete it by that.';
comment on column pgcast.rule.verbs is 'What is allowed: connect, subscribe, history, snapshot, publish, presence, cursor, group.';
comment on column pgcast.rule.topic is 'With which topics: a topic, or a pattern, with claims in braces: user:{sub}. Not looked at for connect.';
comment on column pgcast.rule.role is 'Only to those whose claim role is this, or whose claim roles, an array, has it; null: to all.';
comment on column pgcast.rule.claims is 'Only to those whose claims contain these, as the operator @> has it.';
comment on column pgcast.rule.created_at is 'When it was made.';

-- +goose StatementBegin
create function pgcast.tell_access(event text, data jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = 0 as $$
begin
  -- Straight into the log, also while tables are captured from the WAL: it has no place among
  -- their changes, and must not wait until those are read.
  insert into pgcast.event_log (topic, event, data) values ('__access', tell_access.event, tell_access.data::json);
  perform pgcast.ring();
end $$;
-- +goose StatementEnd
comment on function pgcast.tell_access is 'Tells all servers, when this transaction has committed, that something about access has changed.';

-- +goose StatementBegin
create function pgcast.rules_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pgcast.tell_access('rules', '{}');
  return null;
end $$;
-- +goose StatementEnd
comment on function pgcast.rules_changed is 'Tells all servers that rules have changed: they forget what they have decided, and look at every session anew.';

-- Before there is anybody to tell.
insert into pgcast.rule (verbs, topic) values ('{connect}', '**');

create trigger changed after insert or update or delete or truncate on pgcast.rule for each statement execute function pgcast.rules_changed();
comment on trigger changed on pgcast.rule is 'Tells the servers.';

-- +goose StatementBegin
create function pgcast.allow(verbs text[], topic text, role text default null, claims jsonb default '{}') returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  rule_id bigint;
begin
  perform pgcast.check_rule(verbs, topic, role, coalesce(claims, '{}'));
  insert into pgcast.rule (verbs, topic, role, claims)
    values (allow.verbs, allow.topic, allow.role, coalesce(allow.claims, '{}')) returning id into rule_id;
  return rule_id;
end $$;
-- +goose StatementEnd
comment on function pgcast.allow is 'Adds a rule and returns its number: allow(''{subscribe,history}'', ''user:{sub}:**''), allow(''{publish}'', ''news'', role => ''editor''). It counts as soon as this transaction has committed.';

-- +goose StatementBegin
create function pgcast.claim_values(claim jsonb) returns text[]
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  if jsonb_typeof(claim) in ('string', 'number') then
    claim := jsonb_build_array(claim);
  elsif jsonb_typeof(claim) is distinct from 'array' then
    return '{}';
  end if;
  return array(
    select pgcast.encode_value(e.value #>> '{}')
    from (select v.value from jsonb_array_elements(claim) v limit 1000) e
    -- An empty value could make another topic of the rule's. What cannot be in a name need not be encoded.
    where jsonb_typeof(e.value) in ('string', 'number') and octet_length(e.value #>> '{}') between 1 and 256);
end $$;
-- +goose StatementEnd
comment on function pgcast.claim_values is 'What a claim can stand for in the topic of a rule: a string or number, or, of an array, each one among the first 1,000 elements, encoded so that it is neither a wildcard nor more than one segment.';

-- +goose StatementBegin
create function pgcast.rule_selects(template text, claims jsonb, topic text) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  parts record;
  segments text[];
  wanted text;
  places int[];
  pieces text[];
  vals text[];
  taken int := 0;
begin
  if strpos(template, '{') = 0 then
    return pgcast.pattern_contains(template, topic);
  end if;
  select p.* into parts from pgcast.rule_parts(template) p;
  if exists (select from unnest(parts.names) n where not claims ? n) then
    return false;
  end if;
  -- First as if placeholders were any segment; it looks at the name, too.
  segments := regexp_split_to_array(array_to_string(parts.literals, chr(1)), ':');
  if not pgcast.pattern_contains((select string_agg(case when strpos(s, chr(1)) > 0 then '*' else s end, ':' order by i) from unnest(segments) with ordinality u (s, i)), topic) then
    return false;
  end if;
  -- Then one by one: of each segment with placeholders, how far in it one may be after each
  -- part, since a claim can have many values.
  for i in 1..cardinality(segments) loop
    pieces := string_to_array(segments[i], chr(1));
    continue when cardinality(pieces) = 1;
    wanted := split_part(topic, ':', i);
    places := case when starts_with(wanted, pieces[1]) then array[length(pieces[1])] end;
    for k in 2..cardinality(pieces) loop
      taken := taken + 1;
      vals := pgcast.claim_values(claims->parts.names[taken]);
      places := array(
        select distinct p + length(v || pieces[k]) from unnest(places) p, unnest(vals) v
        where substr(wanted, p + 1, length(v || pieces[k])) = v || pieces[k]);
    end loop;
    if not coalesce(length(wanted) = any (places), false) then
      return false;
    end if;
  end loop;
  return true;
end $$;
-- +goose StatementEnd
comment on function pgcast.rule_selects is 'Whether the topic of a rule, with the claims put in, selects all that a topic or pattern does. A claim that is missing or empty selects nothing.';

-- +goose StatementBegin
create function pgcast.rule_allows(claims jsonb, verb text, topic text) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  r record;
begin
  for r in
    select u.topic from pgcast.rule u
    where rule_allows.verb = any (u.verbs) and rule_allows.claims @> u.claims
      and (u.role is null or rule_allows.claims->'role' = to_jsonb(u.role)
           or jsonb_typeof(rule_allows.claims->'roles') = 'array' and rule_allows.claims->'roles' @> to_jsonb(u.role))
      -- What comes before the first placeholder or wildcard, to look closer at few.
      and (rule_allows.verb = 'connect' or starts_with(rule_allows.topic, split_part(split_part(u.topic, '{', 1), '*', 1)))
  loop
    if verb = 'connect' or pgcast.rule_selects(r.topic, claims, topic) then
      return true;
    end if;
  end loop;
  return false;
end $$;
-- +goose StatementEnd
comment on function pgcast.rule_allows is 'Whether a rule allows it: whoever has these claims, to do what the verb says with a topic, or with all that a pattern selects.';

-- +goose StatementBegin
create function pgcast.authorize(claims jsonb, verb text, topic text) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return pgcast.rule_allows(claims, verb, topic);
end $$;
-- +goose StatementEnd
comment on function pgcast.authorize is 'Asked by the servers whether whoever has these claims may do what the verb says with a topic, or with all that a pattern selects; the topic is empty for connect. Only true is yes. Replace it as you need.';

-- +goose StatementBegin
create function pgcast.recheck(claims jsonb default '{}') returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if jsonb_typeof(claims) is distinct from 'object' or octet_length(claims::text) > 65536 then
    raise exception 'pgcast: the claims to look at anew must be a JSON object of at most 64 KiB'
      using errcode = '22023', hint = 'recheck(''{"sub": "ann"}'') for one, recheck() for all.';
  end if;
  perform pgcast.tell_access('recheck', jsonb_build_object('claims', claims));
end $$;
-- +goose StatementEnd
comment on function pgcast.recheck is 'Has all servers ask authorize() anew about everybody whose claims contain these: call it, by a trigger, when what authorize() goes by has changed. What is not allowed any more ends at once.';

revoke execute on all functions in schema pgcast from public;

-- +goose Down
drop function pgcast.recheck(jsonb);
drop function pgcast.authorize(jsonb, text, text);
drop function pgcast.rule_allows(jsonb, text, text);
drop function pgcast.rule_selects(text, jsonb, text);
drop function pgcast.claim_values(jsonb);
drop function pgcast.allow(text[], text, text, jsonb);
drop table pgcast.rule;
drop function pgcast.rules_changed();
drop function pgcast.tell_access(text, jsonb);
drop function pgcast.check_rule(text[], text, text, jsonb);
drop function pgcast.rule_parts(text);
drop function pgcast.pattern_contains(text, text);
drop function pgcast.verbs();
