package doctor

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/replay"
)

func checkRetention(ctx context.Context, x *exam) ([]finding, error) {
	patterns, err := x.listTables(ctx, "select pattern from pgcast.retention order by 1")
	if err != nil {
		return nil, err
	}
	var list []finding
	for _, p := range patterns {
		if _, err := pgcast.ParsePattern(p); err != nil {
			list = append(list, fail(inSQL("delete from pgcast.retention where pattern = %s", literal(p)), "the rule for %s cannot be read, and nothing at all is trimmed: %s", literal(p), oneLine(err)))
		}
	}
	if list != nil {
		return cut(list, x.limits.listed), nil
	}
	o, err := replay.LookOverdue(ctx, x.tx, x.limits.topics)
	if err != nil {
		return nil, err
	}
	looked := several(o.Looked, "topic")
	if !o.All {
		looked = "the first " + looked
	}
	if len(patterns) == 0 {
		return one(note(inSQL("select pgcast.retain('**', max_age => '7 days')"), "there is no rule: everything is kept for ever (%s)", looked))
	}
	allowed := x.limits.overdueWarn + 5*x.opts.RetentionEvery
	mend := inShell("pgcast serve --retention-every 1m # and see its log for: retention")
	if o.Age <= allowed && o.Events > x.limits.overdueMany {
		return one(warn(mend, "%s, %d keep more than their rules allow; %s has %s too many, %d in all", looked, o.Topics, o.Topic, several(o.Most, "event"), o.Events))
	}
	if o.Age <= allowed {
		return one(ok("%s, none keeps more than its rule allows by more than %s", looked, allowed))
	}
	f := warn(mend, "%s, %d keep more than their rules allow; %s has events that should have been trimmed %s ago", looked, o.Topics, o.Topic, round(o.Age))
	if o.Age > x.limits.overdueFail {
		f.state = Fail
	}
	return one(f)
}

func checkKeysKept(ctx context.Context, x *exam) ([]finding, error) {
	var oldest float64
	var size string
	err := x.tx.QueryRow(ctx, `select coalesce(extract(epoch from clock_timestamp() - (select min(created_at) from pgcast.publish_key)), 0)::float8,
		pg_size_pretty(pg_total_relation_size('pgcast.publish_key'))`).Scan(&oldest, &size)
	if err != nil {
		return nil, err
	}
	if age := seconds(oldest); age > x.limits.keyAge {
		return one(warn(inShell("pgcast serve # and see its log for: idempotency keys"), "%s, the oldest key is %s old and should be gone after 24h", size, round(age)))
	}
	return one(ok("%s, the oldest key is %s old", size, round(seconds(oldest))))
}

func checkSteps(ctx context.Context, x *exam) ([]finding, error) {
	var steps int64
	if err := x.tx.QueryRow(ctx, "select coalesce(max(step) - min(step) + 1, 0) from pgcast.progress").Scan(&steps); err != nil {
		return nil, err
	}
	if steps > x.limits.steps {
		return one(warn(inShell("pgcast serve # and see its log for: prune old steps"), "%d old steps of the sequencer are kept", steps))
	}
	return one(ok("%s kept", several(steps, "step")))
}

// checkSize compares what the log takes on disk with what its events need.
func checkSize(ctx context.Context, x *exam) ([]finding, error) {
	var size int64
	var rows, each float64
	var found string
	err := x.tx.QueryRow(ctx, `select l.size, l.rows,
		coalesce((select avg(pg_column_size(e.*)) from (select * from pgcast.event_log order by id desc limit 200) e), 0)::float8,
		format('event_log %s, replay %s, of %s in database %s', pg_size_pretty(l.size),
			pg_size_pretty(pg_total_relation_size('pgcast.replay')), pg_size_pretty(pg_database_size(current_database())), current_database())
		from (select pg_total_relation_size(oid), reltuples::float8 from pg_class where oid = 'pgcast.event_log'::regclass) l (size, rows)`).
		Scan(&size, &rows, &each, &found)
	if err != nil {
		return nil, err
	}
	// The newest events tell how large one is as stored; to each belong two index entries.
	need := rows * (each + 60)
	if rows >= 0 && size >= x.limits.bloatFrom && float64(size) > x.limits.bloat*need {
		return one(warn(inSQL("vacuum (verbose, analyze) pgcast.event_log"),
			"%s; the %.0f events kept would need about %d MB in event_log: the rest is room of trimmed ones, which only new events use again", found, rows, int64(need)>>20))
	}
	return one(ok("%s", found))
}

// checkDisk looks at the disk where the database is on this machine.
func checkDisk(ctx context.Context, x *exam) ([]finding, error) {
	var dir string
	err := x.tx.QueryRow(ctx, "select coalesce(current_setting('data_directory', true), '')").Scan(&dir)
	if isDenied(err) || dir == "" && err == nil {
		return one(skip("free space is not visible from here: role %s may not know where the data is (pg_read_all_settings)", x.facts.role))
	}
	if err != nil {
		return nil, err
	}
	free, total, err := diskSpace(dir)
	if err != nil || !x.isLocal() {
		return one(skip("free space is not visible from here: the database is on another machine, or in a container"))
	}
	part := float64(free) / float64(max(total, 1))
	found := fmt.Sprintf("%.0f %% of the disk of %s is free, %d GB", 100*part, filepath.Clean(dir), free>>30)
	m := inSQL("select pgcast.retain('**', max_age => '1 day') -- or make the disk larger")
	switch {
	case part < x.limits.diskFail:
		return one(fail(m, "%s", found))
	case part < x.limits.diskWarn:
		return one(warn(m, "%s", found))
	}
	return one(ok("%s", found))
}

// checkEventTimes looks for events from the future: the database's clock went back.
func checkEventTimes(ctx context.Context, x *exam) ([]finding, error) {
	var ahead float64
	err := x.tx.QueryRow(ctx, `select coalesce(extract(epoch from max(e.created_at) - clock_timestamp()), 0)::float8
		from (select created_at from pgcast.event_log order by id desc limit 100) e`).Scan(&ahead)
	if err != nil {
		return nil, err
	}
	if d := seconds(ahead); d > 5*time.Second {
		return one(warn(inShell("timedatectl set-ntp true # where the database runs"), "the newest events were written %s from now: the database's clock went back", round(d)))
	}
	return one(ok("the newest events are not from the future"))
}
