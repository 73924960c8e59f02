package replay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// twins are two tables that get the same writes in the same transactions: one is captured from
// the WAL, the other by triggers.
func twins(t testing.TB, kind pgtest.Kind) *pgtest.DB {
	t.Helper()
	d := pgtest.New(t, &pgtest.Options{Kind: kind})
	d.Exec(t, "alter database "+d.Name+" set logical_decoding_work_mem = '64kB'")
	openSlot(t, d)
	for _, name := range []string{"w", "g"} {
		d.Exec(t, fmt.Sprintf("create table %s (id int primary key, place text not null, n int, body text)", name))
		d.Exec(t, fmt.Sprintf("alter table %s replica identity full", name))
	}
	d.Exec(t, "select pgcast.attach('g', topic => 'g:{place}', old => true)")
	d.Exec(t, "select pgcast.attach('w', topic => 'w:{place}', old => true, capture => 'wal')")
	return d
}

// pair writes the twins.
type pair struct {
	conn *pgx.Conn
	rnd  *rand.Rand
	keys int // it writes only rows base+1 .. base+keys
	base int
	n    int
	said int64
}

func (p *pair) run(ctx context.Context, sql string) error {
	for _, name := range []string{"w", "g"} {
		if _, err := p.conn.Exec(ctx, strings.ReplaceAll(sql, "$T", name)); err != nil {
			return err
		}
	}
	return nil
}

// change makes one random change.
func (p *pair) change(ctx context.Context) error {
	p.n++
	id, place := p.base+1+p.rnd.IntN(p.keys), p.rnd.IntN(3)
	switch p.rnd.IntN(8) {
	case 0, 1, 2:
		return p.run(ctx, fmt.Sprintf("insert into $T values (%d, 'p%d', %d, repeat('%d', %d)) on conflict (id) do update set n = excluded.n", id, place, p.n, p.n%10, p.rnd.IntN(60)))
	case 3, 4:
		return p.run(ctx, fmt.Sprintf("update $T set n = %d where id = %d", p.n, id))
	case 5:
		return p.run(ctx, fmt.Sprintf("update $T set place = 'p%d', body = null where id = %d", place, id))
	case 6:
		return p.run(ctx, fmt.Sprintf("delete from $T where id = %d", id))
	default:
		p.said++
		_, err := p.conn.Exec(ctx, "select pgcast.publish($1, $2)", fmt.Sprintf("said:%d", p.base), fmt.Sprintf("n%d", p.said))
		return err
	}
}

// transaction makes a random one, now and then a large one, with savepoints some of which are
// rolled back.
func (p *pair) transaction(ctx context.Context) error {
	how := []string{"", "isolation level repeatable read", "isolation level serializable"}[p.rnd.IntN(3)]
	said := p.said
	if _, err := p.conn.Exec(ctx, "begin "+how); err != nil {
		return err
	}
	err := p.fill(ctx)
	if err != nil || p.rnd.IntN(8) == 0 {
		p.said = said
		if _, err := p.conn.Exec(ctx, "rollback"); err != nil {
			return err
		}
		if pg, ok := err.(*pgconn.PgError); ok && strings.HasPrefix(pg.Code, "40") {
			return nil // another writer was quicker
		}
		return err
	}
	if _, err = p.conn.Exec(ctx, "commit"); err != nil {
		p.said = said
		if pg, ok := err.(*pgconn.PgError); ok && strings.HasPrefix(pg.Code, "40") {
			return nil
		}
	}
	return err
}

func (p *pair) fill(ctx context.Context) error {
	for range 1 + p.rnd.IntN(4) {
		if p.rnd.IntN(3) > 0 {
			if err := p.change(ctx); err != nil {
				return err
			}
			continue
		}
		said := p.said
		if _, err := p.conn.Exec(ctx, "savepoint s"); err != nil {
			return err
		}
		if err := p.bulk(ctx); err != nil {
			return err
		}
		if err := p.change(ctx); err != nil {
			return err
		}
		if p.rnd.IntN(2) == 0 {
			p.said = said
			if _, err := p.conn.Exec(ctx, "rollback to s"); err != nil {
				return err
			}
		}
	}
	return nil
}

// bulk is large enough to be streamed before the transaction ends.
func (p *pair) bulk(ctx context.Context) error {
	if p.rnd.IntN(3) > 0 {
		return nil
	}
	p.n++
	return p.run(ctx, fmt.Sprintf(`insert into $T select %d + i, 'p' || i %% 3, %d, repeat('b', 40) from generate_series(1, 400) i
		on conflict (id) do update set n = excluded.n`, p.base, p.n))
}

// alike waits until everything is captured, and compares what has become of the twins.
func alike(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	const counts = `select count(*) filter (where topic like 'w%')::int, count(*) filter (where topic like 'g%')::int from pgcast.history`
	var w, g int
	await(t, "the twins have as many events", func() bool {
		if err := conn.QueryRow(t.Context(), counts).Scan(&w, &g); err != nil {
			t.Fatal(err)
		}
		return w >= g && g == one[int](t, conn, "select count(*)::int from pgcast.event_log where topic like 'g%'")
	})
	if w != g {
		t.Errorf("%d events from the WAL, %d by trigger", w, g)
	}
	// Of each row the same in the same order; of each transaction the same.
	for what, by := range map[string]string{"row": "coalesce(e.data, e.old)->>'id'", "transaction": "coalesce((e.origin).xid, e.xid)::text"} {
		order := "r.position"
		if what == "transaction" {
			order = "e.event, e.data::text, e.old::text" // one statement writes one twin
		}
		rows, err := conn.Query(t.Context(), fmt.Sprintf(`
			with x as (
				select left(e.topic, 1) as twin, %s as of, string_agg(substr(e.topic, 2) || ' ' || e.event || ' ' || coalesce(e.data::text, '-') || ' ' || coalesce(e.old::text, '-'), E'\n' order by %s) as events
				from pgcast.replay r join pgcast.event_log e on e.id = r.event_id where e.topic ~ '^[wg](:|$)' group by 1, 2)
			select coalesce(w.of, g.of) || E'\nfrom the WAL\n' || coalesce(w.events, '') || E'\nby trigger\n' || coalesce(g.events, '')
			from (select * from x where twin = 'w') w full join (select * from x where twin = 'g') g on w.of = g.of
			where w.events is distinct from g.events limit 2`, by, order))
		if err != nil {
			t.Fatal(err)
		}
		differ, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range differ {
			t.Errorf("%s %.2000s", what, d)
		}
	}
	whole(t, conn, -1)
	if left := one[int](t, conn, "select count(*)::int from pgcast.published"); left != 0 {
		t.Errorf("%d calls of publish() are left", left)
	}
}

// heard finds every call of publish() once, in order.
func heard(t testing.TB, conn *pgx.Conn, p *pair) {
	t.Helper()
	topic := fmt.Sprintf("said:%d", p.base)
	await(t, "all that was published is captured", func() bool {
		return one[int64](t, conn, "select count(*) from pgcast.history where topic = $1", topic) >= p.said
	})
	for i, e := range eventsOf(t, conn, topic) {
		if e != fmt.Sprintf("n%d", i+1) {
			t.Fatalf("event %d of %s is %s", i+1, topic, e)
		}
	}
}
