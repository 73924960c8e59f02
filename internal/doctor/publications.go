package doctor

import (
	"context"
	"fmt"

	"github.com/pgcast/pgcast/replay"
)

// checkPublications looks whether the publications are as the migrations made them.
func checkPublications(ctx context.Context, x *exam) ([]finding, error) {
	tables, err := x.captured(ctx)
	if err != nil {
		return nil, err
	}
	list, err := x.missingPublications(ctx, tables)
	if err != nil {
		return nil, err
	}
	type fault struct {
		Found, Mend string
		Capture     bool // it is pgcast_capture's
	}
	// What it has of attached tables is drift, which check triggers tells.
	faults, err := collect[fault](ctx, x, `
		with pub as (select p.*, w.members, w.publish from pg_publication p join (values
			('pgcast_wake', '{event_log}'::text[], 'insert'), ('pgcast_steps', '{progress}', 'insert'),
			('pgcast_capture', '{published}', 'insert, update, delete, truncate')) w (name, members, publish) on w.name = p.pubname)
		select format('publication %s publishes all tables', pubname), format('drop publication %s; select pgcast.make_publications()', pubname), pubname = 'pgcast_capture'
		from pub where puballtables
		union all
		select format('publication %s does not publish %s', pubname, publish), format('alter publication %s set (publish = %L)', pubname, publish), pubname = 'pgcast_capture'
		from pub where not pubinsert or pubname = 'pgcast_capture' and not (pubupdate and pubdelete and pubtruncate)
		union all
		select format('publication %s lacks pgcast.%s', pubname, m), format('alter publication %s add table pgcast.%s', pubname, m), pubname = 'pgcast_capture'
		from pub, unnest(members) m where not puballtables
		and not exists (select from pg_publication_rel r where r.prpubid = pub.oid and r.prrelid = (select c.oid from pg_class c where c.relname = m and c.relnamespace = 'pgcast'::regnamespace))
		union all
		select format('publication pgcast_capture has %s, which is not captured from the WAL: its changes are read for nothing', r.prrelid::regclass),
			format('alter publication pgcast_capture drop table %s', r.prrelid::regclass), false
		from pub join pg_publication_rel r on r.prpubid = pub.oid
		where pubname = 'pgcast_capture' and r.prrelid <> (select c.oid from pg_class c where c.relname = 'published' and c.relnamespace = 'pgcast'::regnamespace)
		and not exists (select from pgcast.attachment a where a.relation in (r.prrelid, pg_partition_root(r.prrelid)) and to_jsonb(a)->>'via' = 'wal')
		order by 1`)
	if err != nil {
		return nil, err
	}
	for _, f := range faults {
		if f.Capture && tables > 0 {
			list = append(list, fail(inSQL("%s", f.Mend), "%s; subscribers have missed what was written meanwhile", f.Found))
		} else {
			list = append(list, warn(inSQL("%s", f.Mend), "%s", f.Found))
		}
	}
	if list == nil {
		list = append(list, ok("all three are as they should be"))
	}
	return cut(list, x.limits.listed), nil
}

func (x *exam) missingPublications(ctx context.Context, tables int) (list []finding, err error) {
	missing, err := x.listTables(ctx, `select w.name from unnest('{pgcast_capture,pgcast_steps,pgcast_wake}'::text[]) w (name)
		where not exists (select from pg_publication p where p.pubname = w.name) order by 1`)
	if err != nil {
		return nil, err
	}
	for _, m := range missing {
		f := warn(inSQL("select pgcast.make_publications()"), "publication %s is missing", m)
		switch {
		case m == "pgcast_capture" && tables > 0:
			f.state, f.found = Fail, fmt.Sprintf("%s: %s cannot be captured", f.found, several(tables, "table"))
		case x.opts.Wake != replay.WakeWAL:
			f.state = Note
			if m == "pgcast_capture" {
				f.found += "; no table can be attached with capture => 'wal'"
			} else {
				f.found += "; servers cannot be woken by the WAL"
			}
		}
		list = append(list, f)
	}
	return list, nil
}
