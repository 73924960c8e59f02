package doctor

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/replay"
)

// captured counts the tables that are attached with capture => 'wal'; those that only the
// publication knows of where this role may not look.
func (x *exam) captured(ctx context.Context) (n int, err error) {
	var may bool
	err = x.tx.QueryRow(ctx, `select coalesce(bool_or(has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')), false),
			(select count(*) from pg_publication p join pg_publication_rel r on r.prpubid = p.oid join pg_class t on t.oid = r.prrelid
			 join pg_namespace s on s.oid = t.relnamespace where p.pubname = 'pgcast_capture' and s.nspname <> 'pgcast')
		from pg_namespace n join pg_class c on c.relnamespace = n.oid where n.nspname = 'pgcast' and c.relname = 'attachment'`).Scan(&may, &n)
	if err != nil || !may {
		return n, err
	}
	// Of a schema that has no such column yet, none are.
	err = x.tx.QueryRow(ctx, "select count(*) from pgcast.attachment a where to_jsonb(a)->>'via' = 'wal'").Scan(&n)
	return n, err
}

// obstacle is why the WAL cannot be followed; "" where it can.
type obstacle struct {
	why  string
	mend mend
}

// replication looks once whether the WAL can be followed, by trying it: what a role may is
// not told by its attributes on every service. It must not run in a transaction.
func (x *exam) replication(ctx context.Context) (obstacle, error) {
	if x.stream != nil {
		return *x.stream, nil
	}
	var o obstacle
	err := x.inside(ctx, func() (err error) {
		o, err = x.settingsObstacle(ctx)
		return err
	})
	if err != nil {
		return o, err
	}
	if o.why == "" {
		o = x.tryReplication(ctx)
	}
	if ctx.Err() != nil {
		return o, ctx.Err()
	}
	x.stream = &o
	return o, nil
}

func (x *exam) settingsObstacle(ctx context.Context) (o obstacle, err error) {
	level, err := x.setting(ctx, "wal_level")
	if err != nil {
		return o, err
	}
	if level != "logical" {
		return obstacle{"wal_level is " + level, inSQL("alter system set wal_level = logical -- and restart Postgres")}, nil
	}
	var senders int
	err = x.tx.QueryRow(ctx, "select current_setting('max_wal_senders')::int").Scan(&senders)
	if err == nil && senders == 0 {
		o = obstacle{"max_wal_senders is 0", inSQL("alter system set max_wal_senders = 10 -- and restart Postgres")}
	}
	return o, err
}

// tryReplication makes a connection for replication, and ends it.
func (x *exam) tryReplication(ctx context.Context) obstacle {
	config, err := pgconn.ParseConfig(x.opts.DirectDatabaseURL)
	if err == nil {
		config.RuntimeParams["replication"], config.RuntimeParams["application_name"] = "database", "pgcast doctor"
		config.ConnectTimeout = x.opts.CheckTimeout
		var conn *pgconn.PgConn
		if conn, err = pgconn.ConnectConfig(ctx, config); err == nil {
			_, err = conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
			_ = conn.Close(ctx) // it has changed nothing
		}
	}
	var pg *pgconn.PgError
	switch isPg := errors.As(err, &pg); {
	case err == nil:
		return obstacle{}
	case isPg && pg.Code == "42501":
		return obstacle{"role " + x.facts.role + " may not replicate", inSQL("alter role %s replication", name(x.facts.role))}
	case isPg && pg.Code == "53300":
		return obstacle{"no WAL sender is free", inSQL("alter system set max_wal_senders = 20 -- and restart Postgres")}
	}
	return obstacle{"a connection for replication fails: " + oneLine(err),
		inWords("let direct-database-url lead to Postgres itself, and pg_hba.conf allow role %s in database %s", x.facts.role, x.facts.database)}
}

// checkReplication tells whether the WAL can be followed, where somebody wants to.
func checkReplication(ctx context.Context, x *exam) ([]finding, error) {
	var tables, slots, allSlots, senders, allSenders int
	var prepared, mine bool
	err := x.inside(ctx, func() (err error) {
		if tables, err = x.captured(ctx); err != nil {
			return err
		}
		return x.tx.QueryRow(ctx, `select (select count(*) from pg_replication_slots), current_setting('max_replication_slots')::int,
				(select count(*) from pg_stat_replication), current_setting('max_wal_senders')::int, current_setting('max_prepared_transactions') <> '0',
				exists (select from pg_replication_slots s where s.slot_name = 'pgcast_capture_' || (select oid from pg_database where datname = current_database()))`).
			Scan(&slots, &allSlots, &senders, &allSenders, &prepared, &mine)
	})
	if err != nil {
		return nil, err
	}
	o, err := x.replication(ctx)
	if err != nil {
		return nil, err
	}
	wake := x.opts.Wake == replay.WakeWAL || x.opts.Wake == replay.WakeAuto && prepared
	found := fmt.Sprintf("%d of %d slots and %d of %d WAL senders in use", slots, allSlots, senders, allSenders)
	switch {
	case o.why != "" && tables > 0:
		return one(fail(o.mend, "%s cannot be captured from the WAL: %s", several(tables, "table"), o.why))
	case o.why != "" && x.opts.Wake == replay.WakeWAL:
		return one(warn(o.mend, "wake=wal is of no use: %s", o.why))
	case o.why != "":
		return one(ok("nobody follows the WAL, and nobody could: %s", o.why))
	case slots >= allSlots && (wake || tables > 0 && !mine):
		return one(warn(inSQL("alter system set max_replication_slots = %d -- and restart Postgres; or drop one that nobody needs", allSlots+10), "%s: nobody can make one more", found))
	case senders >= allSenders-1 && (wake || tables > 0):
		return one(warn(inSQL("alter system set max_wal_senders = %d -- and restart Postgres", allSenders+10), "%s; each server may want two", found))
	}
	return one(ok("the WAL can be followed; %s", found))
}

// checkWake says how servers learn of new events, and why that way.
func checkWake(ctx context.Context, x *exam) ([]finding, error) {
	var most string
	var follows bool
	err := x.inside(ctx, func() error {
		return x.tx.QueryRow(ctx, "select current_setting('max_prepared_transactions'), exists (select from pg_publication where pubname = 'pgcast_wake')").Scan(&most, &follows)
	})
	if err != nil {
		return nil, err
	}
	o, err := x.replication(ctx)
	if err != nil {
		return nil, err
	}
	if o.why == "" && !follows {
		o = obstacle{"publication pgcast_wake is missing", inSQL("select pgcast.make_publications()")}
	}
	prepared, _ := strconv.Atoi(most)
	hears := !x.facts.pooled && !x.deaf
	silent := "the doorbell is not heard on this connection"
	if prepared > 0 {
		silent = fmt.Sprintf("nobody rings where max_prepared_transactions is above 0, and it is %d", prepared)
	}
	rings := hears && prepared == 0
	wake := x.opts.Wake
	switch {
	case wake == replay.WakePoll:
		return one(ok("poll, as it was told: at most 20 ms late"))
	case wake == replay.WakeNotify && rings, wake == replay.WakeAuto && rings:
		return one(ok("%s: the doorbell, which works here and costs least", wake))
	case wake == replay.WakeNotify:
		return one(fail(inShell("pgcast serve --wake auto"), "notify: no server can sequence, as %s", silent))
	case wake == replay.WakeWAL && o.why == "" && !x.facts.pooled:
		return one(ok("wal: servers follow the log by a temporary slot each, and no writer rings"))
	case wake == replay.WakeWAL && rings:
		return one(warn(o.mend, "wal: servers take the doorbell instead, as %s", o.why))
	case o.why == "" && hears:
		return one(ok("auto: servers follow the WAL, as %s", silent))
	case !hears:
		return one(note(inWords("give a connection without a pooler in between: --direct-database-url postgres://…"), "%s: servers poll, at most 250 ms late, as %s", wake, silent))
	}
	return one(note(o.mend, "%s: servers poll, at most 50 ms late, as %s; they would follow the WAL, but %s", wake, silent, o.why))
}

// checkDecoding tells what becomes of large transactions on their way.
func checkDecoding(ctx context.Context, x *exam) ([]finding, error) {
	tables, err := x.captured(ctx)
	if err != nil {
		return nil, err
	}
	var kilobytes int64
	var memory string
	var spilled, streamed, count int64
	err = x.tx.QueryRow(ctx, `select m.setting::bigint, current_setting('logical_decoding_work_mem'), coalesce(s.spill_txns, 0), coalesce(s.stream_txns, 0), coalesce(s.total_txns, 0)
		from pg_settings m left join pg_stat_replication_slots s on s.slot_name = 'pgcast_capture_' || (select oid from pg_database where datname = current_database())
		where m.name = 'logical_decoding_work_mem'`).Scan(&kilobytes, &memory, &spilled, &streamed, &count)
	if err != nil {
		return nil, err
	}
	found := fmt.Sprintf("logical_decoding_work_mem is %s; of %s %d were larger and sent before they committed, %d written to disk",
		memory, several(count, "transaction"), streamed, spilled)
	reset := func(to string) mend {
		return inSQL("alter system set logical_decoding_work_mem = '%s' -- then: select pg_reload_conf()", to)
	}
	switch {
	case tables == 0:
		return one(ok("no table is captured from the WAL"))
	case kilobytes < 1<<10:
		return one(note(reset("64MB"), "%s: so little that many transactions are written twice", found))
	case kilobytes > 1<<20:
		return one(note(reset("64MB"), "%s: each reader of a slot may take so much memory", found))
	}
	return one(ok("%s", found))
}
