package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcast/pgcast/listener"
)

// slot is the one by which this database's tables are captured.
type slot struct {
	Name    string
	Is      bool // there is one
	Fits    bool // it is a logical one of this database, for pgoutput
	Active  bool
	PID     int
	Status  string // wal_status
	Invalid string // why, where the server tells
	Held    int64  // bytes of WAL it holds back
	Pretty  string
	Behind  string // how far what was captured is behind, in bytes
	// Failover: a standby has a copy of it; "" where the server knows no such thing.
	Failover string
	Standbys int

	Keep        int64 // max_slot_wal_keep_size in MB; -1: no limit
	IdleTimeout int64 // idle_replication_slot_timeout in seconds; 0: none
	Ago         *float64
}

// Columns that not every version has are looked up by name.
const slotQuery = `select n.name, s.slot_name is not null, coalesce(s.plugin = 'pgoutput' and s.database = current_database() and not s.temporary, false),
		coalesce(s.active, false), coalesce(s.active_pid, 0), coalesce(s.wal_status, ''), coalesce(j->>'invalidation_reason', ''),
		coalesce(h.held, 0)::bigint, pg_size_pretty(coalesce(h.held, 0)),
		pg_size_pretty(greatest(coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn), 0), 0)),
		coalesce(j->>'failover', ''),
		(select count(*) from pg_stat_replication r where not exists (select from pg_replication_slots o where o.active_pid = r.pid and o.slot_type = 'logical'))::int,
		(select setting::bigint from pg_settings where name = 'max_slot_wal_keep_size'),
		coalesce((select setting::bigint from pg_settings where name = 'idle_replication_slot_timeout'), 0),
		extract(epoch from clock_timestamp() - (select c.at from pgcast.captured c where c.lsn is not null order by c.step desc limit 1))::float8
	from (select pgcast.slot_name()) n (name)
	left join pg_replication_slots s on s.slot_name = n.name
	left join lateral (select to_jsonb(s) as j) v on true
	left join lateral (select pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) as held) h on true`

// checkCaptureSlot looks at the slot by which tables are captured.
func checkCaptureSlot(ctx context.Context, x *exam) ([]finding, error) {
	tables, err := x.captured(ctx)
	if err != nil {
		return nil, err
	}
	slots, err := collect[slot](ctx, x, slotQuery)
	if err != nil {
		return nil, err
	}
	holders, err := listener.Holders(ctx, x.tx)
	if err != nil {
		return nil, err
	}
	leads := false
	for _, h := range holders {
		leads = leads || h.Lock == listener.Lead
	}
	s := slots[0]
	drop := fmt.Sprintf("select pg_drop_replication_slot(%s)", literal(s.Name))
	captures := several(tables, "table")
	switch {
	case tables == 0 && !s.Is:
		return one(ok("no table is captured from the WAL, and there is no slot"))
	case tables == 0 && s.Active:
		return one(note(inSQL("select pg_terminate_backend(%d); select pgcast.close_slot()", s.PID), "no table is captured by slot %s, and session %d still reads it; a server drops it by itself", s.Name, s.PID))
	case tables == 0:
		return one(warn(inSQL("%s -- or: pgcast doctor --fix", drop), "no table is captured by slot %s, which holds back %s of WAL", s.Name, s.Pretty))
	case !s.Is:
		return one(fail(inSQL("select pgcast.open_slot()"), "slot %s is missing, by which %s should be captured; a server that runs makes it anew, and tells their topics reset", s.Name, captures))
	case !s.Fits:
		return one(fail(inSQL("%s -- then: select pgcast.open_slot()", drop), "slot %s is not one that pgcast has made", s.Name))
	case s.Status == "lost", s.Invalid != "":
		why := "the WAL it needs is gone"
		if s.Invalid != "" {
			why = "Postgres has invalidated it: " + s.Invalid
		}
		return one(fail(inSQL("%s -- then: select pgcast.open_slot()", drop),
			"slot %s is of no use any more, %s; a server that runs makes it anew, and tells the topics of %s reset", s.Name, why, captures))
	}
	return s.examine(x, captures, leads), nil
}

// examine looks at a slot that works, or would.
func (s slot) examine(x *exam, captures string, leads bool) (list []finding) {
	read := "nobody reads it"
	if s.Active {
		read = fmt.Sprintf("session %d reads it", s.PID)
	}
	if s.Ago != nil {
		read += fmt.Sprintf(", captured last %s ago", round(time.Duration(*s.Ago*float64(time.Second))))
	}
	found := fmt.Sprintf("slot %s for %s: %s; %s behind, holds back %s of WAL", s.Name, captures, read, s.Behind, s.Pretty)
	more := inSQL("alter system set max_slot_wal_keep_size = '%dMB' -- then: select pg_reload_conf()", max(2*s.Held>>20, 1024))
	switch {
	case s.Status == "unreserved":
		list = append(list, fail(more, "%s, and is about to lose what it needs", found))
	case !s.Active && leads:
		list = append(list, fail(inWords("see the log of the server that sequences"), "%s, although a server sequences", found))
	case !s.Active:
		list = append(list, warn(inShell("pgcast serve"), "%s", found))
	case s.Held >= x.limits.slotBytes:
		list = append(list, warn(inSQL("select pid, xact_start, query from pg_stat_activity where backend_xid is not null order by xact_start"),
			"%s; a transaction open for long keeps it so, or capture does not keep up", found))
	}
	if s.Keep < 0 {
		list = append(list, warn(inSQL("alter system set max_slot_wal_keep_size = '10GB' -- then: select pg_reload_conf()"),
			"max_slot_wal_keep_size sets no limit: while no server reads slot %s, the WAL fills the disk", s.Name))
	}
	if s.IdleTimeout > 0 {
		list = append(list, warn(inSQL("alter system set idle_replication_slot_timeout = 0 -- then: select pg_reload_conf()"),
			"idle_replication_slot_timeout is %s: when no server runs for so long, the slot is invalidated and clients are told reset", time.Duration(s.IdleTimeout)*time.Second))
	}
	if s.Failover == "false" && s.Standbys > 0 {
		list = append(list, note(inShell(`psql "%s replication=database" -c 'ALTER_REPLICATION_SLOT %s (FAILOVER true)' # while no server runs`, "dbname="+x.facts.database, s.Name),
			"slot %s is not copied to standbys: after a failover it is made anew, and clients are told reset", s.Name))
	}
	if list == nil {
		list = append(list, ok("%s", found))
	}
	return list
}

// checkPublished looks for what publish() was called for and nobody has taken from the WAL.
func checkPublished(ctx context.Context, x *exam) ([]finding, error) {
	tables, err := x.captured(ctx)
	if err != nil {
		return nil, err
	}
	var count int64
	var oldest float64
	var staged int64
	var active bool
	err = x.tx.QueryRow(ctx, `select (select count(*) from (select from pgcast.published limit 1000000) p),
			coalesce(extract(epoch from clock_timestamp() - (select min(p.created_at) from (select created_at from pgcast.published order by id limit 1000) p)), 0)::float8,
			(select count(*) from (select from pgcast.stage limit 1000000) s),
			exists (select from pg_replication_slots s where s.slot_name = pgcast.slot_name() and s.active)`).Scan(&count, &oldest, &staged, &active)
	if err != nil {
		return nil, err
	}
	var list []finding
	waited := round(seconds(oldest))
	switch {
	case count > 0 && tables == 0 && !active:
		list = append(list, warn(inShell("pgcast doctor --fix"), "%s of publish() %s waiting to be read from the WAL, the oldest for %s, and no table is captured from there any more",
			several(count, "event"), map[bool]string{true: "is", false: "are"}[count == 1], waited))
	case count > 0 && seconds(oldest) >= x.limits.lagWarn:
		list = append(list, warn(inShell("pgcast serve"), "%s of publish() waiting to be read from the WAL, the oldest for %s", several(count, "event"), waited))
	}
	if staged > 0 && !active {
		list = append(list, note(inShell("pgcast doctor --fix"), "%s of large transactions left behind by a server that ended; the next one clears them away", several(staged, "event")))
	}
	if list == nil {
		list = append(list, ok("%s of publish() on the way", several(count, "event")))
	}
	return list, nil
}
