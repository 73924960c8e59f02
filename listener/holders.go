package listener

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Holder is a session that holds one of pgcast's locks, in the present database.
type Holder struct {
	Lock    Lock
	Shared  bool
	PID     int
	App     string        // application_name; "" where hidden
	Address string        // "" for a local socket, and where hidden
	Active  bool          // works on a statement; false where hidden
	Since   time.Duration // since its state changed; below 0 where hidden
}

// Holders lists who holds pgcast's locks, by lock and then by session. What other roles'
// sessions do is hidden from roles without pg_read_all_stats.
func Holders(ctx context.Context, conn interface {
	Query(context.Context, string, ...any) (pgx.Rows, error)
}) ([]Holder, error) {
	rows, err := conn.Query(ctx, `select l.objid::int, l.mode = 'ShareLock', l.pid, coalesce(a.application_name, ''),
			coalesce(host(a.client_addr), ''), coalesce(a.state = 'active', false),
			coalesce(extract(epoch from clock_timestamp() - a.state_change), -1)::float8
		from pg_locks l left join pg_stat_activity a on a.pid = l.pid
		where l.locktype = 'advisory' and l.granted and l.classid = $1::int::oid and l.objsubid = 2 and l.pid is not null
		  and l.database = (select oid from pg_database where datname = current_database())
		order by l.objid, l.pid`, LockClass)
	if err != nil {
		return nil, fmt.Errorf("look who holds the locks: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h Holder, err error) {
		var since float64
		err = row.Scan(&h.Lock, &h.Shared, &h.PID, &h.App, &h.Address, &h.Active, &since)
		h.Since = time.Duration(since * float64(time.Second))
		return h, err
	})
	if err != nil {
		return nil, fmt.Errorf("look who holds the locks: %w", err)
	}
	return list, nil
}
