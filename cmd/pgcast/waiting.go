package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/pflag"
)

func addWait(flags *pflag.FlagSet, wait *time.Duration) {
	flags.DurationVar(wait, "wait", time.Minute, "how long to wait for other sessions' transactions at most")
}

// waiting is that for others' transactions, with words: who they are is said when
// it is found out, and when it changes.
type waiting struct {
	app  *app
	most time.Duration
	late time.Time
	said string
}

func (a *app) waiting(most time.Duration) *waiting {
	return &waiting{app: a, most: most, late: time.Now().Add(most)}
}

// wait waits a moment; or, when it has been long enough, says what to do.
func (p *waiting) wait(ctx context.Context, what string, who []openTransaction) error {
	if time.Now().After(p.late) {
		return p.over(what, who)
	}
	p.say(what, who)
	return pause(ctx, 500*time.Millisecond)
}

func (p *waiting) say(what string, who []openTransaction) {
	if text := listTransactions(who); text != p.said {
		p.app.sayf("waiting for %s: %s\n", what, text)
		p.said = text
	}
}

func (p *waiting) over(what string, who []openTransaction) error {
	hint := "try again, or wait longer: --wait 10m"
	for _, t := range who {
		if t.End != "" {
			hint = "let it end, or end it: " + t.End + "; or wait longer: --wait 10m"
			break
		}
	}
	return invalid(hint, "waited %s for %s: %s", p.most, what, listTransactions(who))
}

// openTransaction is one that has to end before something can be done.
type openTransaction struct {
	Who string // told to people; stays the same while it is the same
	End string // the statement that ends it
}

func listTransactions(list []openTransaction) string {
	if len(list) == 0 {
		return "somebody has just had a transaction open"
	}
	var names []string
	for _, t := range list {
		names = append(names, plain(t.Who))
	}
	const most = 5
	if more := len(names) - most; more > 0 {
		names = append(names[:most:most], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// whoColumns makes an openTransaction of a row of pg_stat_activity. What other roles do may
// be hidden.
const whoColumns = `format('session %s (%s%s%s; transaction of %s)', a.pid, a.usename,
		case when a.application_name <> '' then ', ' || a.application_name else '' end,
		case when a.state like 'idle in transaction%' then ', idle in transaction' else '' end,
		coalesce(to_char(a.xact_start at time zone 'utc', 'HH24:MI:SS') || ' UTC', 'unknown age')),
	format('select pg_terminate_backend(%s)', a.pid)`

// lockHolders lists the sessions that hold a lock on some tables, or the lock that attach
// and detach take.
func lockHolders(ctx context.Context, conn *pgx.Conn, tables []uint32) ([]openTransaction, error) {
	rows, err := conn.Query(ctx, `select `+whoColumns+` from pg_stat_activity a where a.pid <> pg_backend_pid() and a.pid in (
			select l.pid from pg_locks l where l.granted and l.database = (select oid from pg_database where datname = current_database())
			and (l.locktype = 'relation' and l.relation = any ($1) or l.locktype = 'advisory' and (l.classid, l.objid, l.objsubid) = (1885823841, 4, 2)))
		order by a.xact_start`, tables)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[openTransaction])
}

// blockersOf lists the transactions that a session waits for at this moment.
func blockersOf(ctx context.Context, conn *pgx.Conn, pid uint32) ([]openTransaction, error) {
	rows, err := conn.Query(ctx, `select `+whoColumns+` from pg_stat_activity a where a.pid = any (pg_blocking_pids($1))
		union all
		select format('prepared transaction %L of %s in %s', p.gid, p.owner, p.database), format('rollback prepared %L', p.gid)
		from pg_locks l join pg_prepared_xacts p on p.transaction = l.transactionid where l.pid = $1 and l.locktype = 'transactionid' and not l.granted
		order by 1`, pid)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[openTransaction])
}

// pause waits, or ends with the context.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
