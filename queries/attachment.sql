-- name: AttachmentWatch :many
-- Makes capture functions anew whose table has changed, tells topics what has become of
-- their tables, and gives what is wrong with the capture of attached tables.
select w.relation::text as relation, w.problem::text as problem, w.mend::text as mend, coalesce(w.told, '')::text as told from pgcast.watch() w;

-- name: AttachmentWatchState :one
-- Another text whenever AttachmentWatch may have something new to say.
select pgcast.watch_state()::text as state;
