package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcast/pgcast/replay"
)

// setting reads one of Postgres's settings as a new session of this role would have it.
func (x *exam) setting(ctx context.Context, name string) (value string, err error) {
	err = x.tx.QueryRow(ctx, "select reset_val from pg_settings where name = $1", name).Scan(&value)
	if err != nil {
		return "", fmt.Errorf("read setting %s: %w", name, err)
	}
	return value, nil
}

func checkWALLevel(ctx context.Context, x *exam) ([]finding, error) {
	level, err := x.setting(ctx, "wal_level")
	if err != nil {
		return nil, err
	}
	captured, err := x.captured(ctx)
	if err != nil {
		return nil, err
	}
	logical := inSQL("alter system set wal_level = logical -- and restart Postgres")
	switch {
	case level != "logical" && captured > 0:
		return one(fail(logical, "%s, and %s captured from the WAL", level, several(captured, "table")))
	case level != "logical" && x.opts.Wake == replay.WakeWAL:
		return one(warn(logical, "%s, and servers are told wake=wal", level))
	}
	switch level {
	case "minimal":
		return one(warn(inSQL("alter system set wal_level = replica -- and restart Postgres"), "minimal: no standby and no point-in-time recovery, so a lost disk is a lost log"))
	case "replica":
		return one(ok("replica; following the WAL instead of ringing, and capturing from it instead of by triggers, would need logical"))
	}
	return one(ok("%s", level))
}

func checkPrepared(ctx context.Context, x *exam) ([]finding, error) {
	most, err := x.setting(ctx, "max_prepared_transactions")
	if err != nil {
		return nil, err
	}
	if most == "0" {
		return one(ok("max_prepared_transactions is 0: writers may ring the doorbell"))
	}
	unset := inSQL("alter system set max_prepared_transactions = 0 -- and restart Postgres, if nobody needs PREPARE TRANSACTION")
	if x.opts.Wake == replay.WakeNotify {
		return one(fail(unset, "max_prepared_transactions is %s: a server with wake=notify ends at once", most))
	}
	return one(note(unset, "max_prepared_transactions is %s: writers do not ring, and servers follow the WAL or poll; see wake", most))
}

func checkDurability(ctx context.Context, x *exam) ([]finding, error) {
	var list []finding
	for _, s := range []struct{ name, means string }{
		{"fsync", "what was delivered may be gone after a crash"},
		{"full_page_writes", "a crash may leave torn pages"},
	} {
		value, err := x.setting(ctx, s.name)
		if err != nil {
			return nil, err
		}
		if value != "on" {
			list = append(list, fail(inSQL("alter system set %s = on -- then: select pg_reload_conf()", s.name), "%s is %s: %s", s.name, value, s.means))
		}
	}
	commit, err := x.setting(ctx, "synchronous_commit")
	if err != nil {
		return nil, err
	}
	if commit == "off" {
		list = append(list, note(inSQL("alter system set synchronous_commit = on -- then: select pg_reload_conf()"),
			"synchronous_commit is off: a crash may take back what writers were told is committed; nothing of it was delivered"))
	}
	if list == nil {
		list = append(list, ok("fsync and full_page_writes are on, synchronous_commit is %s", commit))
	}
	return list, nil
}

// checkStandbys looks for commits that wait for a standby which is not there.
func checkStandbys(ctx context.Context, x *exam) ([]finding, error) {
	names, err := x.setting(ctx, "synchronous_standby_names")
	if err != nil {
		return nil, err
	}
	var all, synchronous, unseen int
	err = x.tx.QueryRow(ctx, `select count(*), count(*) filter (where sync_state in ('sync', 'quorum')), count(*) filter (where state is null)
		from pg_stat_replication r where not exists (select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')`).Scan(&all, &synchronous, &unseen)
	if err != nil {
		return nil, err
	}
	switch {
	case names != "" && synchronous == 0 && unseen == 0:
		return one(fail(inSQL("alter system reset synchronous_standby_names -- then: select pg_reload_conf(); or start the standby"),
			"synchronous_standby_names is %s, and no such standby is connected: commits wait for ever", names))
	case names != "":
		return one(ok("%s, of which %d synchronous", several(all, "standby connection"), synchronous))
	case all > 0:
		return one(note(inWords("set synchronous_standby_names, if a failover must not lose commits"),
			"%s, none synchronous: a failover may lose the newest commits, and clients who saw them are told reset", several(all, "standby connection")))
	}
	return one(ok("no standby is waited for"))
}

func checkActivities(ctx context.Context, x *exam) ([]finding, error) {
	value, err := x.setting(ctx, "track_activities")
	if err != nil {
		return nil, err
	}
	if value != "on" {
		return one(warn(inSQL("alter system set track_activities = on -- then: select pg_reload_conf()"), "track_activities is %s", value))
	}
	return one(ok("track_activities is on"))
}

// checkSessionLimits looks for limits that end the sessions and statements of servers.
// The sequencer's own session switches them off; the pool's sessions do not.
func checkSessionLimits(ctx context.Context, x *exam) ([]finding, error) {
	type limit struct {
		Name  string
		Value int64 // milliseconds
	}
	limits, err := collect[limit](ctx, x, `select name, reset_val::bigint from pg_settings
		where name in ('statement_timeout', 'idle_session_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout') order by name`)
	if err != nil {
		return nil, err
	}
	var list []finding
	for _, l := range limits {
		reset := inSQL("alter role %s set %s = 0", name(x.facts.role), l.Name)
		switch {
		case l.Value == 0:
		case l.Name == "idle_session_timeout":
			list = append(list, note(reset, "%s is %d ms for role %s: idle connections of the pools are ended and made anew", l.Name, l.Value, x.facts.role))
		case l.Name != "idle_in_transaction_session_timeout" && l.Value < 10_000:
			list = append(list, warn(reset, "%s is %d ms for role %s: reads of the log and retention may not finish", l.Name, l.Value, x.facts.role))
		}
	}
	if list == nil {
		list = append(list, ok("no timeout for role %s is in the way", x.facts.role))
	}
	return list, nil
}

// checkConnections counts whether one server more would find room.
func checkConnections(ctx context.Context, x *exam) ([]finding, error) {
	var most, reserved, used, ours, role, database int
	err := x.tx.QueryRow(ctx, `select current_setting('max_connections')::int,
		current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true), '0')::int,
		(select count(*) from pg_stat_activity where datid is not null or backend_type = 'client backend'),
		(select count(*) from pg_stat_activity where application_name = 'pgcast' and datname = current_database()),
		(select rolconnlimit from pg_roles where rolname = current_user), (select datconnlimit from pg_database where datname = current_database())`).
		Scan(&most, &reserved, &used, &ours, &role, &database)
	if err != nil {
		return nil, err
	}
	// Besides the pool: the sequencer's line, two snapshots that are read, each of which may hold
	// its tables by another one, one who looks after them, and what a server uses now and then.
	wants := x.opts.PoolSize + 8
	if x.opts.Access {
		wants += 12 // who decides on callers and on rows
	}
	free := most - reserved - used + 1 // this one goes
	found := fmt.Sprintf("%d of %d in use, %d of them by servers; a server may want %d", used, most, ours, wants)
	raise := inSQL("alter system set max_connections = %d -- and restart Postgres; or lower pool-size", most+2*wants)
	switch limit := leastLimit(role, database); {
	case free <= 0:
		return one(fail(raise, "%s, and none is free", found))
	case free+ours < wants:
		return one(warn(raise, "%s, and %d are free", found, free))
	case limit >= 0 && limit < wants:
		return one(warn(inSQL("alter role %s connection limit -1; alter database %s connection limit -1", name(x.facts.role), name(x.facts.database)),
			"role or database is limited to %s; a server may want %d", several(limit, "connection"), wants))
	}
	return one(ok("%s", found))
}

// leastLimit gives the lower of two limits of which -1 is none.
func leastLimit(a, b int) int {
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

// checkVacuum looks whether what is deleted is cleaned up.
func checkVacuum(ctx context.Context, x *exam) ([]finding, error) {
	var list []finding
	for _, s := range []string{"autovacuum", "track_counts"} {
		value, err := x.setting(ctx, s)
		if err != nil {
			return nil, err
		}
		if value != "on" {
			list = append(list, warn(inSQL("alter system set %s = on -- then: select pg_reload_conf()", s), "%s is %s", s, value))
		}
	}
	type table struct {
		Name       string
		Options    []string
		Live, Dead int64
		Last       string
	}
	tables, err := collect[table](ctx, x, `select c.oid::regclass::text, c.reloptions, s.n_live_tup, s.n_dead_tup,
			coalesce(to_char(greatest(s.last_autovacuum, s.last_vacuum) at time zone 'utc', 'YYYY-MM-DD HH24:MI') || ' UTC', 'never')
		from pg_class c join pg_stat_all_tables s on s.relid = c.oid
		where c.relnamespace = (select oid from pg_namespace where nspname = 'pgcast') and c.relkind = 'r' order by s.n_dead_tup desc, 1`)
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		if slices.Contains(t.Options, "autovacuum_enabled=false") || slices.Contains(t.Options, "autovacuum_enabled=off") {
			list = append(list, warn(inSQL("alter table %s reset (autovacuum_enabled)", t.Name), "%s: autovacuum is off (%s)", t.Name, strings.Join(t.Options, ", ")))
		}
		if t.Dead > x.limits.deadRows && t.Dead > t.Live {
			list = append(list, warn(inSQL("vacuum (analyze) %s", t.Name),
				"%s has about %d dead rows beside %d living ones; last vacuum: %s", t.Name, t.Dead, t.Live, t.Last))
		}
	}
	var age int64
	if err := x.tx.QueryRow(ctx, "select age(datfrozenxid) from pg_database where datname = current_database()").Scan(&age); err != nil {
		return nil, err
	}
	freeze := inSQL("vacuum (freeze)")
	switch {
	case age >= x.limits.xidFail:
		list = append(list, fail(freeze, "the oldest transaction number in use is %d old; at 2,000,000,000 Postgres stops writing", age))
	case age >= x.limits.xidWarn:
		list = append(list, warn(freeze, "the oldest transaction number in use is %d old: vacuum does not keep up", age))
	}
	if list == nil {
		list = append(list, ok("autovacuum is on and keeps up; the oldest transaction number in use is %d old", age))
	}
	return list, nil
}
