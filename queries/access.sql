-- name: AccessDecide :many
-- Asks authorize() for each of the topics, as the callers whose claims they point at.
with who as materialized (
  select w.i, w.claims::jsonb as claims from (select unnest(sqlc.arg(claims)::text[]) as claims, generate_subscripts(sqlc.arg(claims)::text[], 1) as i) w
), ask as materialized (
  select unnest(sqlc.arg(who)::int[]) as who, unnest(sqlc.arg(verbs)::text[]) as verb, unnest(sqlc.arg(topics)::text[]) as topic, generate_subscripts(sqlc.arg(who)::int[], 1) as n
)
select ask.n::int as n, coalesce(pgcast.authorize(who.claims, ask.verb, ask.topic), false)::boolean as allowed
from ask join who on who.i = ask.who;

-- name: AccessLimit :exec
-- For this transaction only: how long its statements may take, in milliseconds, and as which
-- role they run; empty is the role there is.
select set_config('statement_timeout', sqlc.arg(milliseconds)::text, true),
       case when sqlc.arg(role)::text <> '' then set_config('role', sqlc.arg(role)::text, true) end;

-- name: AccessRules :many
select r.id, r.verbs::text[] as verbs, r.topic, coalesce(r.role, '')::text as role, r.claims::text as claims from pgcast.rule r order by r.id;

-- name: AccessAllow :one
select pgcast.allow(sqlc.arg(verbs)::text[], sqlc.arg(topic)::text, sqlc.narg(role)::text, sqlc.arg(claims)::text::jsonb)::bigint as id;

-- name: AccessForbid :execrows
delete from pgcast.rule where id = sqlc.arg(id)::bigint;

-- name: AccessRecheck :exec
select pgcast.recheck(sqlc.arg(claims)::text::jsonb);

-- name: RevocationList :many
-- Those that hold, of so many seconds; 0: all.
select r.kind, r.value, r.revoked_at, r.until from pgcast.revocation r
where r.until > now() and (sqlc.arg(seconds)::float8 = 0 or r.revoked_at > now() - make_interval(secs => sqlc.arg(seconds)::float8));

-- name: RevocationAdd :exec
select pgcast.revoke(sqlc.narg(sub)::text, sqlc.narg(jti)::text, sqlc.narg(session)::text, make_interval(secs => sqlc.arg(seconds)::float8));

-- name: RevocationEnd :one
select pgcast.unrevoke(sqlc.narg(sub)::text, sqlc.narg(jti)::text, sqlc.narg(session)::text)::boolean as done;

-- name: RevocationExpired :execrows
delete from pgcast.revocation where (kind, value) in (
  select kind, value from pgcast.revocation where until >= '-infinity' and until < now() - interval '1 hour' limit 10000);

-- name: KeyFind :one
select k.id, k.name, k.hash, k.verbs::text[] as verbs, k.topics::text[] as topics, k.claims::text as claims,
       coalesce(k.expires_at, 'epoch')::timestamptz as expires_at, (k.expires_at is not null)::boolean as expires, (k.revoked_at is not null)::boolean as revoked
from pgcast.api_key k where k.id = sqlc.arg(id)::text;

-- name: KeyUsed :exec
update pgcast.api_key set last_used_at = clock_timestamp() where id = sqlc.arg(id)::text;

-- name: KeyCreate :one
select pgcast.create_api_key(sqlc.arg(name)::text, sqlc.arg(verbs)::text[], sqlc.arg(topics)::text[], sqlc.narg(expires_at)::timestamptz, sqlc.arg(claims)::text::jsonb)::text as key;

-- name: KeyRevoke :one
select pgcast.revoke_api_key(sqlc.arg(id)::text)::boolean as done;

-- name: TicketIssue :exec
insert into pgcast.ticket (hash, claims, expires_at)
values (sqlc.arg(hash)::bytea, sqlc.arg(claims)::text::json, clock_timestamp() + make_interval(secs => sqlc.arg(seconds)::float8));

-- name: TicketRedeem :one
-- Of two who bring the same ticket at once, one finds it.
delete from pgcast.ticket where hash = sqlc.arg(hash)::bytea and expires_at > clock_timestamp() returning claims::text as claims;

-- name: TicketExpired :execrows
delete from pgcast.ticket where hash = any (array(
  select hash from pgcast.ticket where expires_at >= '-infinity' and expires_at < now() limit 10000));
