-- name: GroupFind :one
-- What is durable about a group; no row if there is none.
select coalesce(g.max_members, 0)::int as max_members, g.roles::text[] as roles, g.meta::text as meta, (g.closed_at is not null)::boolean as closed
from pgcast.group_info g where g.name = sqlc.arg(name)::text;

-- name: GroupCreate :one
select pgcast.create_group(sqlc.arg(name)::text, sqlc.arg(max_members)::int, sqlc.arg(meta)::text::jsonb)::boolean as created;

-- name: GroupSet :one
-- Nulls leave something as it is.
select pgcast.set_group(sqlc.arg(name)::text, sqlc.narg(meta)::text::jsonb, sqlc.narg(max_members)::int)::boolean as done;

-- name: GroupClose :one
select pgcast.close_group(sqlc.arg(name)::text)::boolean as done;
