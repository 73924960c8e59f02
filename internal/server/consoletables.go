package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/console"
)

// consoleTables tells the console of tables, and attaches and detaches them with the rights of
// the server's own role.
type consoleTables struct{ *Server }

const (
	mostTables = 1000 // in the list; attached ones come first
	// What an order may take in the database. It waits for whoever holds the table, and whoever
	// comes after waits for it: a writer must not wait long for that.
	orderLockWait  = 2 * time.Second
	orderStatement = 20 * time.Second
	slotMakes      = 3 // tries, as a server that runs drops a slot without tables
)

const tablesQuery = `
	select format('%I.%I', n.nspname, c.relname), case when c.relkind = 'p' then (
			select coalesce(sum(greatest(leaf.reltuples, 0)), 0) from pg_partition_tree(c.oid) t join pg_class leaf on leaf.oid = t.relid where t.isleaf)
		else greatest(c.reltuples, 0) end::bigint,
		array(select x.attname::text from pg_attribute x where x.attrelid = c.oid and x.attnum > 0 and not x.attisdropped order by x.attnum),
		array(select x.attname::text from pg_index i, unnest(i.indkey::int2[]) with ordinality k (num, place) join pg_attribute x on x.attnum = k.num
			where i.indrelid = c.oid and i.indisprimary and x.attrelid = c.oid order by k.place),
		a.topic, a.columns, a.without, a.old, a.via, e.relation is not null
	from pg_class c join pg_namespace n on n.oid = c.relnamespace
	left join pgcast.attachment a on a.relation = c.oid left join pgcast.enforcement e on e.relation = c.oid
	where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't'
		and n.nspname not in ('pgcast', 'pg_catalog', 'information_schema') and n.nspname !~ '^pg_toast' and c.relname not like 'pgcast\_%'
	order by a.relation is null, n.nspname, c.relname limit $1`

// Tables implements [console.TableSource].
func (s consoleTables) Tables(ctx context.Context) (console.Tables, error) {
	ctx, cancel := context.WithTimeout(ctx, consoleWait)
	defer cancel()
	rows, err := s.pool.Query(ctx, tablesQuery, mostTables)
	if err != nil {
		return console.Tables{}, unavailable(err)
	}
	t := console.Tables{}
	t.Tables, err = pgx.AppendRows([]console.Table{}, rows, func(row pgx.CollectableRow) (l console.Table, err error) {
		var topic, via *string
		var columns, without []string
		var old *bool
		var enforced bool
		if err = row.Scan(&l.Name, &l.Rows, &l.Columns, &l.Key, &topic, &columns, &without, &old, &via, &enforced); err != nil || topic == nil {
			return l, err
		}
		l.Attached = &console.Attachment{Topic: *topic, Columns: captured(l.Columns, columns, without), Old: *old, Capture: *via, Enforced: enforced}
		return l, nil
	})
	if err != nil {
		return t, unavailable(err)
	}
	slices.SortFunc(t.Tables, func(a, b console.Table) int { return strings.Compare(a.Name, b.Name) })
	if rows, err = s.pool.Query(ctx, `select relation, problem, mend from pgcast.drift()`); err != nil {
		return t, unavailable(err)
	}
	if t.Drift, err = pgx.AppendRows([]console.Drift{}, rows, pgx.RowToStructByPos[console.Drift]); err != nil {
		return t, unavailable(err)
	}
	return t, nil
}

// captured are the columns that are captured, where that is not all of them.
func captured(all, columns, without []string) []string {
	switch {
	case columns != nil:
		return columns
	case without != nil:
		return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return slices.Contains(without, name) })
	}
	return []string{}
}

const (
	attachArguments = `$1::text::regclass, topic => $2, columns => $3, old => $4, capture => $5`
	attachCall      = `select format('select pgcast.attach(%L', $1::text::regclass::text) || case when $2::text is not null then format(', topic => %L', $2::text) else '' end
		|| case when $3::text[] is not null then format(', columns => %L', $3::text[]) else '' end || case when $4::boolean then ', old => true' else '' end
		|| case when $5::text <> 'trigger' then format(', capture => %L', $5::text) else '' end || ')'`
	detachCall = `select format('select pgcast.detach(%L)', $1::text::regclass::text)`
)

// arguments are what the functions are told.
func arguments(o *console.Order) []any {
	if o.Action == "detach" {
		return []any{o.Table}
	}
	return []any{o.Table, o.Topic, o.Columns, o.Old, o.Capture}
}

// checked refuses what cannot be an order, and fills in what is not said.
func checked(o *console.Order) error {
	if o.Capture == "" {
		o.Capture = "trigger"
	}
	if len(o.Columns) == 0 {
		o.Columns = nil
	}
	if o.Topic != nil && *o.Topic == "" {
		o.Topic = nil
	}
	switch {
	case o.Action != "attach" && o.Action != "detach":
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "action is neither attach nor detach"}
	case o.Table == "":
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "which table?", Hint: "name it as in SQL, with its schema: public.messages"}
	case o.Capture != "trigger" && o.Capture != "wal":
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "capture is neither trigger nor wal"}
	}
	return nil
}

// Plan implements [console.TableSource].
func (s consoleTables) Plan(ctx context.Context, o console.Order) (p console.Plan, err error) {
	if err := checked(&o); err != nil {
		return p, err
	}
	err = s.inside(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if p, err = planned(ctx, tx, &o); err != nil {
			return err
		}
		return errPlanned
	})
	if errors.Is(err, errPlanned) {
		err = nil
	}
	return p, refused(err)
}

// errPlanned ends the transaction of a plan.
var errPlanned = errors.New("only planned")

// planned says what an order does, as far as the role may know.
func planned(ctx context.Context, tx pgx.Tx, o *console.Order) (p console.Plan, err error) {
	p.Statements = []string{}
	call, statements := attachCall, `select pgcast.attach_sql(`+attachArguments+`)`
	if o.Action == "detach" {
		call, statements = detachCall, `select pgcast.detach_sql($1::text::regclass)`
	}
	args := arguments(o)
	if err := tx.QueryRow(ctx, call, args...).Scan(&p.Call); err != nil {
		return p, err
	}
	if p.Barred, err = barred(ctx, tx, o); err != nil || p.Barred != "" {
		return p, err
	}
	nested, err := tx.Begin(ctx) // what is refused is not to be the end of the transaction
	if err != nil {
		return p, err
	}
	rows, err := nested.Query(ctx, statements, args...)
	if err == nil {
		p.Statements, err = pgx.AppendRows(p.Statements, rows, pgx.RowTo[string])
	}
	if refusal, is := errors.AsType[*pgconn.PgError](err); is && refusal.Code == "42501" {
		p.Barred, err = said(refusal), nil
	}
	return p, errors.Join(err, nested.Rollback(ctx))
}

// barred tells why the server's role may not carry out an order, as far as that can be told
// without trying; empty where it may, maybe.
func barred(ctx context.Context, tx pgx.Tx, o *console.Order) (why string, err error) {
	var role, owner string
	var calls, owns bool
	err = tx.QueryRow(ctx, `select quote_ident(current_user), quote_ident(pg_get_userbyid(c.relowner)), pg_has_role(c.relowner, 'usage'),
			(select bool_and(has_function_privilege(p.oid, 'execute')) from pg_proc p
				where p.pronamespace = 'pgcast'::regnamespace and p.proname::text in ($2::text, $2::text || '_sql'))
		from pg_class c where c.oid = $1::text::regclass`, o.Table, o.Action).Scan(&role, &owner, &owns, &calls)
	switch {
	case err != nil:
		return "", err
	case !calls:
		return fmt.Sprintf("the server runs as %s, which may not call pgcast.%s(): rights are divided. Run the call as a role that is a member of pgcast's owner and owns the table, then pgcast roles --apply", role, o.Action), nil
	case o.Action == "detach" && !owns:
		return fmt.Sprintf("the server runs as %s, which does not own the table. Run the call as %s", role, owner), nil
	}
	return "", nil
}

// Run implements [console.TableSource].
func (s consoleTables) Run(ctx context.Context, o console.Order) (p console.Plan, err error) {
	if err := checked(&o); err != nil {
		return p, err
	}
	for tries := slotMakes; tries > 0; tries-- {
		if o.Action == "attach" && o.Capture == "wal" {
			if err := s.openSlot(ctx, &o); err != nil {
				return p, refused(err)
			}
		}
		p, err = s.carryOut(ctx, &o)
		if refusal, is := errors.AsType[*pgconn.PgError](err); !is || refusal.Code != "55000" || o.Capture != "wal" {
			break
		}
	}
	if err != nil {
		return p, refused(err)
	}
	s.opts.Logger.Info("an operator changed what is captured", "action", o.Action, "table", o.Table)
	s.security.change()
	return p, nil
}

func (s consoleTables) carryOut(ctx context.Context, o *console.Order) (p console.Plan, err error) {
	err = s.inside(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if p, err = planned(ctx, tx, o); err != nil {
			return err
		}
		if p.Barred != "" {
			return &pgcast.Error{Code: pgcast.CodeForbidden, Message: p.Barred, Hint: p.Call}
		}
		call := `select pgcast.attach(` + attachArguments + `)::text`
		if o.Action == "detach" {
			call = `select pgcast.detach($1::text::regclass)::text`
		}
		_, err := tx.Exec(ctx, call, arguments(o)...)
		return err
	})
	return p, err
}

// openSlot makes the replication slot, if there is none, in a transaction of its own: Postgres
// makes none in one that has written, nor before those that are open have ended.
func (s consoleTables) openSlot(ctx context.Context, o *console.Order) error {
	if p, err := s.Plan(ctx, *o); err != nil || p.Barred != "" {
		return err // carrying it out says why
	}
	ctx, cancel := context.WithTimeout(ctx, orderStatement)
	defer cancel()
	var lacks bool
	if err := s.pool.QueryRow(ctx, `select not exists (select from pg_replication_slots s where s.slot_name = pgcast.slot_name())`).Scan(&lacks); err != nil || !lacks {
		return err
	}
	_, err := s.pool.Exec(ctx, `select pgcast.open_slot()`)
	if err != nil && ctx.Err() != nil {
		return &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "the replication slot is not made before the transactions that are open now have ended", Hint: "try again when they have; pgcast attach, in a terminal, says who they are"}
	}
	return err
}

// inside runs in one transaction that does not hold up others for long.
func (s consoleTables) inside(ctx context.Context, run func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, orderStatement+consoleWait)
	defer cancel()
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true), set_config('client_min_messages', 'warning', true)`,
			fmt.Sprint(orderStatement.Milliseconds()), fmt.Sprint(orderLockWait.Milliseconds())); err != nil {
			return err
		}
		return run(ctx, tx)
	})
}

// said is what Postgres says, with its hint.
func said(e *pgconn.PgError) string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + ": " + e.Hint
}

// refused makes of what Postgres says about an order what the console shows.
func refused(err error) error {
	e, is := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil:
		return nil
	case !is:
		return unavailable(err)
	case e.Code == "55P03":
		return &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "somebody holds a lock on the table", Hint: "try again when he is through; select pid, query from pg_stat_activity says who that may be"}
	case e.Code == "57014":
		return &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "it took too long, and was broken off; nothing has changed", Hint: "run the call in a terminal"}
	case e.Code == "42501":
		return &pgcast.Error{Code: pgcast.CodeForbidden, Message: e.Message, Hint: e.Hint}
	case e.Code == "42P01" || e.Code == "3F000":
		return &pgcast.Error{Code: pgcast.CodeNotFound, Message: e.Message, Hint: e.Hint}
	}
	return &pgcast.Error{Code: pgcast.CodeInvalid, Message: e.Message, Hint: e.Hint}
}
