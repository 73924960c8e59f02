package judge

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// fromWAL tells whether a table of the database is captured from the WAL.
func fromWAL(ctx context.Context, conn *pgx.Conn) (yes bool, err error) {
	err = conn.QueryRow(ctx, "select exists (select from pgcast.attachment a where a.via = 'wal')").Scan(&yes)
	return yes, err
}

// caughtUp waits until everything that committed before it was called is captured. What is
// published then is read from the WAL behind it.
func caughtUp(t testing.TB, ctx context.Context, conn *pgx.Conn) {
	t.Helper()
	yes, err := fromWAL(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	if !yes {
		return
	}
	var id string
	if err := conn.QueryRow(ctx, "select pgcast.publish('judge', 'caught up')").Scan(&id); err != nil {
		t.Fatal(err)
	}
	Await(t, "the WAL is captured", patience, func() (done bool) {
		err := conn.QueryRow(ctx, `select exists (select from pgcast.topic t join pgcast.replay r on r.topic_id = t.id
			join pgcast.event_log e on e.id = r.event_id
			where t.name = 'judge' and pgcast.event_id(coalesce((e.origin).id, e.id), e.created_at) = $1)`, id).Scan(&done)
		if err != nil {
			t.Fatal(err)
		}
		return done
	})
}

// change is one event of a row of the table item that was captured from the WAL.
type change struct {
	key, event string
	xid        uint64
	n          *int64 // the row's; nil of one that was deleted
}

// CheckCaptured checks the log of a table that is captured from the WAL against what must
// hold whatever the order between transactions is. Of each row every update added 1 to n, so
// that a change read twice, left out or misplaced shows; the events of a transaction are not
// parted by those of another; and nothing published came twice.
func CheckCaptured(t testing.TB, url string) Verdict {
	t.Helper()
	conn := Connect(t, url)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	rows, _ := conn.Query(ctx, `select case when e.event = 'truncated' then '' else coalesce(e.data, e.old)->>'id' end as key, e.event,
			(e.origin).xid::text, case when e.event <> 'deleted' then (e.data->>'n')::bigint end
		from pgcast.replay r join pgcast.event_log e on e.id = r.event_id
		where (e.origin).xid is not null and e.event in ('created', 'updated', 'deleted', 'truncated') and e.topic like 'room:%'
		order by r.position`)
	var list []change
	var c change
	var xid string
	_, err := pgx.ForEachRow(rows, []any{&c.key, &c.event, &xid, &c.n}, func() error {
		_, err := fmt.Sscan(xid, &c.xid)
		list = append(list, c)
		return err
	})
	if err != nil {
		t.Fatal(fmt.Errorf("read what was captured: %w", err))
	}
	v := checkChanges(list)
	var doubled int
	if err := conn.QueryRow(ctx, "select count(*) - count(distinct (e.origin).id) from pgcast.event_log e where (e.origin).id is not null").Scan(&doubled); err != nil {
		t.Fatal(err)
	}
	if doubled > 0 {
		v.Doubled += doubled
		v.note("doubled: %d events of publish() stand in the log twice", doubled)
	}
	return v
}

// checkChanges is CheckCaptured's for the rows.
func checkChanges(list []change) (v Verdict) {
	type state struct {
		n     int64
		alive bool
		moved uint64 // the transaction that deleted it from one topic, which may create it in another
	}
	rows := map[string]*state{}
	over := map[uint64]bool{}
	last := uint64(0)
	for _, c := range list {
		if c.xid != last {
			if over[c.xid] {
				v.Reordered++
				v.note("reordered: events of transaction %d are parted", c.xid)
			}
			over[last], last = true, c.xid
		}
		if c.event == "truncated" {
			clear(rows)
			continue
		}
		s := rows[c.key]
		switch {
		case c.event == "deleted":
			if s == nil || !s.alive {
				v.Doubled++
				v.note("doubled: row %s was deleted when it was not there (transaction %d)", c.key, c.xid)
				continue
			}
			s.alive, s.moved = false, c.xid
		case c.n == nil:
			v.Lost++
			v.note("lost: n of row %s (transaction %d)", c.key, c.xid)
		case s == nil:
			rows[c.key] = &state{n: *c.n, alive: true}
			if c.event == "updated" {
				v.Lost++
				v.note("lost: row %s was updated before it was there (transaction %d)", c.key, c.xid)
			}
		default:
			switch moves := !s.alive && s.moved == c.xid; {
			case *c.n == s.n+1 && (s.alive && c.event == "updated" || moves && c.event == "created"):
			case *c.n <= s.n:
				v.Doubled++
				v.note("doubled: row %s %s with n = %d after n = %d (transaction %d)", c.key, c.event, *c.n, s.n, c.xid)
			default:
				v.Lost++
				v.note("lost: row %s %s with n = %d after n = %d (transaction %d)", c.key, c.event, *c.n, s.n, c.xid)
			}
			s.n, s.alive = *c.n, true
		}
	}
	return v
}
