-- name: AttachmentRefresh :one
-- Makes capture functions anew whose table has changed since; returns how many.
select pgcast.refresh()::int as refreshed;
