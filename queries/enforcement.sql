-- name: EnforcementList :many
-- The tables whose row security holds for subscribers.
select e.relation::bigint as relation, coalesce(e.name, '')::text as name, e.role::text as role, e.claims::text[] as claims, e.key::text[] as key,
       e.literals::text[] as literals, coalesce(e.statement, '')::text as statement, coalesce(e.problem, '')::text as problem, coalesce(e.mend, '')::text as mend
from pgcast.enforced() e;

-- name: EnforcementKeys :many
-- Members of events that were too large to be read: what row they are about, as arrays.
select r.position::bigint as position,
       (select json_agg(e.data->n.name order by n.i) from unnest(sqlc.arg(key)::text[]) with ordinality n (name, i))::json as new,
       (select json_agg(e.old->n.name order by n.i) from unnest(sqlc.arg(key)::text[]) with ordinality n (name, i))::json as old
from unnest(sqlc.arg(positions)::bigint[]) p (position)
cross join lateral (select x.position, x.event_id from pgcast.replay x where x.position = p.position limit 1) r
cross join lateral (select l.data, l.old from pgcast.event_log l where l.id = r.event_id limit 1) e;
