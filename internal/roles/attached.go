package roles

// attachedQuery lists the grants on attached tables: of schemas the owner and the server use
// the tables, and the types of their columns; of tables the server may read the columns that
// are captured, and those that the topic and the key are made of. The owner reads partitions
// and children, to capture a TRUNCATE of one by itself.
const attachedQuery = `
	with tables as (
		select a.relation::oid as root, m.rel, m.depth, a.via, a.columns is null and a.without is null as is_whole,
			pgcast.resolve(a.relation, pgcast.spec_of(a.relation)) as r
		from pgcast.attachment a join pg_class c on c.oid = a.relation, lateral pgcast.members_of(a.relation) m
	), columns as (
		select t.root, t.rel, string_agg(quote_ident(l.name), ', ' order by l.num) as list
		from tables t, lateral pgcast.live_columns(t.rel) l
		where l.name in (select jsonb_array_elements_text(t.r->'captured') union select jsonb_array_elements_text(t.r->'values')
			union select jsonb_array_elements_text(case when jsonb_typeof(t.r->'key') = 'array' then t.r->'key' else '[]' end))
		group by t.root, t.rel
	), schemas as (
		select c.relnamespace as oid from tables t join pg_class c on c.oid = t.rel
		union
		select y.typnamespace from tables t, lateral pgcast.live_columns(t.rel) l join pg_attribute a on a.attnum = l.num
			join pg_type y on y.oid in (a.atttypid, pgcast.base_type(a.atttypid)) where a.attrelid = t.rel
	)
	select sql from (
		select 0, n.nspname::text, format('grant usage on schema %I to %I, %I', n.nspname, $1::text, $2::text) as sql
		from schemas s join pg_namespace n on n.oid = s.oid where n.nspname not in ('pg_catalog', 'information_schema', 'pgcast')
		union all
		select 1, t.rel::regclass::text, format('grant select%s on %s to %I', case when t.is_whole then '' else ' (' || k.list || ')' end, format('%I.%I', n.nspname, c.relname), $2::text)
		from tables t join columns k on (k.root, k.rel) = (t.root, t.rel) join pg_class c on c.oid = t.rel join pg_namespace n on n.oid = c.relnamespace
		where t.depth = 0 or t.via = 'wal'
		union all
		select 2, t.rel::regclass::text, format('grant select on %I.%I to %I', n.nspname, c.relname, $1::text)
		from tables t join pg_class c on c.oid = t.rel join pg_namespace n on n.oid = c.relnamespace where t.depth > 0
		union all
		select 3, v.sql, v.sql from (select current_setting('server_version_num')::int >= 160000) has (options), (select distinct role from pgcast.enforcement) e,
			lateral (values (case when has.options then format('grant %I to %I with inherit false, set true', e.role, $2::text) end),
				(case when not has.options then format('alter role %I noinherit', $2::text) end), (case when not has.options then format('grant %I to %I', e.role, $2::text) end)) v (sql)
		where v.sql is not null and exists (select from pg_roles r where r.rolname = e.role)) x (n, name, sql) order by n, name`
