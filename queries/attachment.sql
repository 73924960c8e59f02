-- name: AttachmentWatch :many
-- Makes capture functions anew whose table has changed, tells topics what has become of
-- their tables, and gives what is wrong with the capture of attached tables.
select w.relation::text as relation, w.problem::text as problem, w.mend::text as mend, coalesce(w.told, '')::text as told from pgcast.watch() w;

-- name: AttachmentWatchState :one
-- Another text whenever AttachmentWatch may have something new to say.
select pgcast.watch_state()::text as state;

-- name: AttachmentSources :many
-- Attached tables as a filter sees them.
select s.rel::text as relation, s.literals::text[] as literals, s.is_short::boolean as is_short, s.captured::text[] as captured, s.key::text[] as key, s.old::boolean as old, s.mend::text as mend
from pgcast.sources() s;
