package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/listener"
	"github.com/pgcast/pgcast/replay"
)

// session is one that has a transaction open.
type session struct {
	PID      int
	Role     string
	App      string
	Database string
	Open     float64 // seconds
	Idle     bool
}

func (s session) String() string {
	doing := "working"
	if s.Idle {
		doing = "idle in transaction"
	}
	app := ""
	if s.App != "" {
		app = ", " + s.App
	}
	return fmt.Sprintf("session %d (%s in %s%s; %s) has had a transaction open for %s", s.PID, s.Role, s.Database, app, doing, round(seconds(s.Open)))
}

// openTransactions lists sessions with a transaction older than so many seconds, oldest
// first, and counts those that are hidden from this role. database "" means all.
func (x *exam) openTransactions(ctx context.Context, database string, older time.Duration) (list []session, unseen int, err error) {
	list, err = collect[session](ctx, x, `select pid, coalesce(usename, '')::text, application_name, coalesce(datname, '')::text,
			extract(epoch from clock_timestamp() - xact_start)::float8, state like 'idle in transaction%'
		from pg_stat_activity where xact_start < clock_timestamp() - make_interval(secs => $1) and backend_type = 'client backend'
		  and pid <> pg_backend_pid() and ($2 = '' or datname = $2) order by xact_start limit 1000`, older.Seconds(), database)
	if err != nil {
		return nil, 0, err
	}
	err = x.tx.QueryRow(ctx, `select count(*) from pg_stat_activity where query = '<insufficient privilege>' and ($1 = '' or datname = $1)`, database).Scan(&unseen)
	return list, unseen, err
}

func checkLongTransactions(ctx context.Context, x *exam) ([]finding, error) {
	open, unseen, err := x.openTransactions(ctx, x.facts.database, x.limits.transaction)
	if err != nil {
		return nil, err
	}
	var list []finding
	for _, s := range open {
		list = append(list, warn(inSQL("select pg_terminate_backend(%d)", s.PID), "%s", s))
	}
	if list == nil {
		list = append(list, ok("none is open for longer than %s%s", x.limits.transaction, hidden(unseen)))
	}
	return cut(list, x.limits.listed), nil
}

func checkLeftPrepared(ctx context.Context, x *exam) ([]finding, error) {
	type prepared struct {
		GID, Owner string
		Age        float64
	}
	left, err := collect[prepared](ctx, x, `select gid, owner::text, extract(epoch from clock_timestamp() - prepared)::float8 from pg_prepared_xacts
		where database = current_database() and prepared < clock_timestamp() - make_interval(secs => $1) order by prepared`, x.limits.prepared.Seconds())
	if err != nil {
		return nil, err
	}
	var list []finding
	for _, p := range left {
		list = append(list, warn(inSQL("rollback prepared %s", literal(p.GID)), "transaction %s of %s was prepared %s ago and neither committed nor rolled back",
			literal(p.GID), p.Owner, round(seconds(p.Age))))
	}
	if list == nil {
		list = append(list, ok("none is left over"))
	}
	return cut(list, x.limits.listed), nil
}

func checkQueue(ctx context.Context, x *exam) ([]finding, error) {
	var usage float64
	if err := x.tx.QueryRow(ctx, "select pg_notification_queue_usage()").Scan(&usage); err != nil {
		return nil, err
	}
	found := fmt.Sprintf("%.3g %% full", 100*usage)
	if usage < x.limits.queueWarn {
		return one(ok("%s", found))
	}
	// The queue is cut off behind the listener that is furthest back, in whatever
	// database; one that listens stays there while it has a transaction open.
	open, unseen, err := x.openTransactions(ctx, "", 0)
	if err != nil {
		return nil, err
	}
	f := warn(inSQL("select pid, xact_start, query from pg_stat_activity where xact_start is not null order by xact_start"), "%s%s", found, hidden(unseen))
	if len(open) > 0 {
		f.mend = inSQL("select pg_terminate_backend(%d)", open[0].PID)
		f.found += "; " + open[0].String() + ", and holds it if it listens"
	}
	if usage >= x.limits.queueFail {
		f.state = Fail
		f.found += "; nobody rings any more, and servers that wait for it poll"
	}
	return one(f)
}

func checkSlots(ctx context.Context, x *exam) ([]finding, error) {
	type slot struct {
		Name, Status string
		Active       bool
		Held         int64
		Pretty       string
		Oldest       int64
		Temporary    bool
	}
	slots, err := collect[slot](ctx, x, `select s.slot_name::text, coalesce(s.wal_status, ''), s.active, coalesce(h.held, 0)::bigint, pg_size_pretty(coalesce(h.held, 0)),
			greatest(coalesce(age(s.xmin), 0), coalesce(age(s.catalog_xmin), 0))::bigint, s.temporary
		from pg_replication_slots s, lateral (select pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) as held) h
		where s.slot_name <> 'pgcast_capture_' || (select oid from pg_database where datname = current_database()) order by 4 desc, 1`)
	if err != nil {
		return nil, err
	}
	keep, err := x.setting(ctx, "max_slot_wal_keep_size") // in MB; -1: as much as it takes
	if err != nil {
		return nil, err
	}
	nobodys, err := x.listTables(ctx, `select s.slot_name::text from pg_replication_slots s
		left join pg_database d on s.slot_name = 'pgcast_capture_' || d.oid
		where s.slot_name ~ '^pgcast_capture_[0-9]+$' and (d.oid is null or s.database is distinct from d.datname) order by 1`)
	if err != nil {
		return nil, err
	}
	var list []finding
	for _, name := range nobodys {
		list = append(list, warn(inSQL("select pg_drop_replication_slot(%s)", literal(name)), "slot %s has a name as if pgcast had made it, for a database that is not there or another", name))
	}
	for _, s := range slots {
		if slices.Contains(nobodys, s.Name) {
			continue
		}
		drop := inSQL("select pg_drop_replication_slot(%s)", literal(s.Name))
		switch {
		case s.Status == "lost":
			list = append(list, warn(drop, "slot %s has lost the WAL it needs, and is good for nothing", s.Name))
		case s.Status == "unreserved":
			list = append(list, warn(inSQL("alter system set max_slot_wal_keep_size = '%dMB' -- then: select pg_reload_conf()", 2*s.Held>>20), "slot %s is about to lose the WAL it needs: it is %s behind", s.Name, s.Pretty))
		case !s.Active && !s.Temporary && keep == "-1":
			list = append(list, warn(drop, "nobody reads slot %s, which holds back %s of WAL, and without limit", s.Name, s.Pretty))
		case s.Held >= x.limits.slotBytes:
			list = append(list, warn(drop, "slot %s holds back %s of WAL", s.Name, s.Pretty))
		case s.Oldest >= x.limits.xidWarn:
			list = append(list, warn(drop, "slot %s keeps vacuum from what %d transactions have deleted", s.Name, s.Oldest))
		}
	}
	limit := "max_slot_wal_keep_size is " + keep + " MB"
	if keep == "-1" {
		limit = "max_slot_wal_keep_size sets no limit"
	}
	switch {
	case list != nil:
	case len(slots) == 0:
		list = append(list, ok("none; %s", limit))
	case !slices.ContainsFunc(slots, func(s slot) bool { return !s.Temporary }):
		list = append(list, ok("%s, temporary; %s", several(len(slots), "slot"), limit))
	case keep == "-1":
		list = append(list, note(inSQL("alter system set max_slot_wal_keep_size = '10GB' -- then: select pg_reload_conf()"),
			"%s, all read; %s: should a reader stop, the disk fills", several(len(slots), "slot"), limit))
	default:
		list = append(list, ok("%s; %s", several(len(slots), "slot"), limit))
	}
	return cut(list, x.limits.listed), nil
}

// checkSequencer looks for the server that gives events their places.
func checkSequencer(ctx context.Context, x *exam) ([]finding, error) {
	holders, err := listener.Holders(ctx, x.tx)
	if err != nil {
		return nil, err
	}
	waiting, err := replay.Waiting(ctx, x.tx)
	if err != nil {
		return nil, err
	}
	var lead *listener.Holder
	var list []finding
	following, awake, doing := 0, 0, "awake"
	byWAL := x.opts.Wake == replay.WakeWAL
	if x.opts.Wake == replay.WakeAuto {
		most, err := x.setting(ctx, "max_prepared_transactions")
		if err != nil {
			return nil, err
		}
		byWAL = most != "0"
	}
	if byWAL {
		doing = "awake, or waiting for the WAL"
	}
	for i, h := range holders {
		switch {
		case h.Lock == listener.Lead:
			lead = &holders[i]
		case h.Lock == listener.Follow:
			following++
		case h.Lock == listener.Asleep && h.Shared:
			awake++
		case h.Lock == listener.Asleep:
			doing = "asleep until a writer rings"
		}
	}
	if awake > 0 && !byWAL {
		doing = fmt.Sprintf("kept awake by %s with uncommitted events", several(awake, "session"))
	}
	for _, h := range holders {
		if h.Lock == listener.Asleep && !h.Shared && (lead == nil || lead.PID != h.PID) {
			list = append(list, warn(inSQL("select pg_terminate_backend(%d)", h.PID), "session %d holds the sequencer's lock ASLEEP and does not sequence", h.PID))
		}
	}
	switch {
	case lead == nil && x.facts.pooled:
		list = append(list, note(inWords("give direct-database-url"), "behind a pooler nobody can hold the lock; servers take turns"))
	case lead == nil && waiting > 0:
		list = append(list, fail(inShell("pgcast serve"), "no server sequences, and events have waited for %s", round(waiting)))
	case lead == nil:
		list = append(list, warn(inShell("pgcast serve"), "no server sequences"))
	case waiting > x.limits.frozen && !lead.Active && lead.Since > x.limits.frozen:
		list = append(list, fail(inSQL("select pg_terminate_backend(%d)", lead.PID), "session %d (%s) should sequence, and has asked for nothing for %s while events have waited for %s",
			lead.PID, who(*lead), round(lead.Since), round(waiting)))
	default:
		list = append(list, ok("session %d (%s) sequences, %s; %s following", lead.PID, who(*lead), doing, several(following, "other server")))
	}
	return list, nil
}

func who(h listener.Holder) string {
	switch {
	case h.App == "" && h.Address == "":
		return "of another role"
	case h.Address == "":
		return h.App
	}
	return h.App + " at " + h.Address
}

func checkLag(ctx context.Context, x *exam) ([]finding, error) {
	waiting, err := replay.Waiting(ctx, x.tx)
	if err != nil {
		return nil, err
	}
	var position int64
	var chunks bool
	err = x.tx.QueryRow(ctx, "select position, target is not null from pgcast.progress order by step desc limit 1").Scan(&position, &chunks)
	if errors.Is(err, pgx.ErrNoRows) {
		return one(fail(inSQL("insert into pgcast.progress values (0, (select coalesce(max(position), 0) from pgcast.replay), '1:1:', null, null)"),
			"pgcast.progress is empty: nothing can be sequenced"))
	}
	if err != nil {
		return nil, err
	}
	found := fmt.Sprintf("the oldest event without a place has waited for %s; %d have one", round(waiting), position)
	if chunks {
		found += "; a large transaction is being taken in chunks"
	}
	look := inSQL("select pid, state, wait_event, query from pg_stat_activity where application_name = 'pgcast'")
	switch {
	case waiting >= x.limits.lagFail && !chunks:
		return one(fail(look, "%s", found))
	case waiting >= x.limits.lagWarn:
		return one(warn(look, "%s", found))
	case waiting == 0:
		return one(ok("every committed event has its place; %d in all", position))
	}
	return one(ok("%s", found))
}
