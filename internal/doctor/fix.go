package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// fix is one of the things that can be mended without asking: it takes nothing away that
// anybody uses, and a server would do it too, if one ran.
type fix struct {
	name string // of the check that finds what it mends
	// is tells, in SQL, whether there is anything to mend; do mends it, in a transaction that
	// is read-write, and returns what it has done as text, or null.
	is, do string
	done   string // format of what was done
}

// noCapture is true when no table is captured from the WAL, and nobody is on the way to
// that: attach takes the lock of attachments.
const noCapture = `not exists (select from pgcast.attachment a where a.via = 'wal')
	and not exists (select from pg_replication_slots s where s.slot_name = pgcast.slot_name() and s.active)`

var fixes = []fix{
	{"publications", `exists (select from unnest('{pgcast_wake,pgcast_steps,pgcast_capture}'::text[]) w (name)
			where not exists (select from pg_publication p where p.pubname = w.name)) and has_database_privilege(current_database(), 'create')`,
		`with missing as (select string_agg(w.name, ', ' order by w.name) as names from unnest('{pgcast_wake,pgcast_steps,pgcast_capture}'::text[]) w (name)
			where not exists (select from pg_publication p where p.pubname = w.name))
		select m.names from missing m, pgcast.make_publications()`, "made publications that were missing: %s"},
	{"published", `exists (select from pgcast.published) and ` + noCapture,
		`select m.moved::text from pgcast.move_published() m (moved), pgcast.ring() where m.moved > 0`, "moved into the log what publish() had left for capture from the WAL: %s events"},
	{"capture-slot", `exists (select from pg_replication_slots s where s.slot_name = pgcast.slot_name() and s.database = current_database() and not s.active) and ` + noCapture,
		`select pgcast.slot_name() where pgcast.close_slot()`, "dropped slot %s: no table is captured by it"},
	{"published", `exists (select from pgcast.stage) and not exists (select from pg_replication_slots s where s.slot_name = pgcast.slot_name() and s.active)`,
		`with gone as (delete from pgcast.stage returning 1) select count(*)::text from gone`, "deleted %s events of large transactions that a server has left behind; they are sent once more"},
	{"triggers", `exists (select from pgcast.drift() d where d.mend = 'select pgcast.refresh()')`,
		`select nullif(pgcast.refresh(), 0)::text`, "made capture anew of tables that had changed, or forgot tables that were dropped: %s"},
}

// Fix mends what can be mended without asking, and tells each thing it has done, as a
// Result with state Fixed, and each that it could not. It never touches what is not
// pgcast's, and where there is nothing to mend, or no database, it changes nothing. The
// error is tell's, or ctx's.
func (d *Doctor) Fix(ctx context.Context, tell func(Result) error) error {
	conn, err := dial(ctx, d.opts.DirectDatabaseURL, d.opts.CheckTimeout, func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = pgx.QueryExecModeExec })
	if err != nil {
		return ctx.Err() // Run says why there is no connection
	}
	defer hangUp(conn)
	var whole bool
	err = conn.QueryRow(ctx, `select not pg_is_in_recovery() and count(*) = 4 from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = 'pgcast' and c.relname in ('event_log', 'attachment', 'published', 'stage')`).Scan(&whole)
	if err != nil || !whole {
		return ctx.Err() // Run says what is missing
	}
	for _, f := range fixes {
		r, err := d.fix(ctx, conn, f)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case err != nil:
			r = &Result{State: Fail, Found: "could not be mended: " + oneLine(err), Mend: "pgcast doctor --fix # as a role that may do this", With: Shell}
			if pg := new(pgconn.PgError); !errors.As(err, &pg) || pg.Code != "42501" {
				r.Mend = "pgcast doctor --fix # again"
			}
		case r == nil:
			continue
		}
		r.Name = f.name
		for _, c := range catalogue {
			if c.name == f.name {
				r.Why = c.why
			}
		}
		if err := tell(*r); err != nil {
			return err
		}
	}
	return nil
}

// fix makes one fix, if there is something to mend. It waits for nobody for long: what is
// locked is in somebody's hands.
func (d *Doctor) fix(ctx context.Context, conn *pgx.Conn, f fix) (*Result, error) {
	ctx, cancel := context.WithTimeout(ctx, d.opts.CheckTimeout)
	defer cancel()
	var is bool
	if err := conn.QueryRow(ctx, "select "+f.is).Scan(&is); err != nil || !is {
		return nil, err
	}
	var what *string
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range []string{
			fmt.Sprintf("set local lock_timeout = '%dms'", min(time.Second, d.opts.CheckTimeout).Milliseconds()),
			"set local client_min_messages = warning",
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		if f.name != "triggers" { // refresh() takes it, or leaves it to who has it
			if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock(1885823841, 4)"); err != nil { // nobody attaches meanwhile
				return err
			}
		}
		if err := tx.QueryRow(ctx, "select "+f.is).Scan(&is); err != nil || !is {
			return err
		}
		err := tx.QueryRow(ctx, f.do).Scan(&what)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil || what == nil {
		return nil, err
	}
	return &Result{State: Fixed, Found: fmt.Sprintf(f.done, strings.TrimSpace(*what))}, nil
}
