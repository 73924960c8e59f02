package bench

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
)

// seenBefore is the number of each topic's events that all who resume had seen.
const seenBefore = 50

// resume lets clients come back, each after the same place of its topic, to events that
// nobody was there to see: they have to come from the log. Once through a door that lets
// some in at a time, as a client's own pace or a proxy does, and once all in the same
// moment.
func resume(ctx context.Context, w *world) ([]Row, error) {
	s := w.sizes
	ways := []struct {
		name               string
		parallel           int
		p50, p99, together *Target
	}{
		{fmt.Sprintf("%d at a time", s.resumeParallel), s.resumeParallel, atMost(20), atMost(70), atMost(400)},
		{"all in one moment", s.resumeSessions, nil, nil, atMost(400)},
	}
	figures := make([]struct{ all, p50, p99, reads []float64 }, len(ways))
	for range w.opts.Rounds {
		for i, way := range ways {
			is, reads, err := comeBack(ctx, w, way.parallel)
			if err != nil {
				return nil, err
			}
			w.seen.add(is.Seen)
			w.say("%s: each after %.1f ms (p50), %.1f ms (p99), all after %.0f ms; %.1f reads of the log a topic", way.name, is.P50, is.P99, is.All, reads)
			f := &figures[i]
			f.all, f.p50, f.p99, f.reads = append(f.all, is.All), append(f.p50, is.P50), append(f.p99, is.P99), append(f.reads, reads)
		}
	}
	var rows []Row
	for i, way := range ways {
		f, name := figures[i], fmt.Sprintf("%d clients, %d missed events each, %s, %s", s.resumeSessions, s.missed, plural(s.resumeTopics, "topic"), way.name)
		rows = append(rows,
			row(name, "subscribe to last missed event, p50", "ms", f.p50, way.p50),
			row(name, "subscribe to last missed event, p99", "ms", f.p99, way.p99),
			row(name, "all, with their handshakes", "ms", f.all, way.together),
			row(name, "log reads, each topic", "", f.reads, atMost(5)))
	}
	return rows, nil
}

// comeBack is one turn, with a new server, which has nothing in memory.
func comeBack(ctx context.Context, w *world, parallel int) (is opened, reads float64, err error) {
	s := w.sizes
	b, err := w.bed(ctx, true)
	if err != nil {
		return is, 0, err
	}
	defer b.close()
	if _, err := b.conn.Exec(ctx, `select count(pgcast.publish('room:' || t, 'bench', $1::text::jsonb))
		from generate_series(1, $2::int) i, generate_series(0, $3::int - 1) t`, dataOf(eventSize), seenBefore+s.missed, s.resumeTopics); err != nil {
		return is, 0, err
	}
	if _, err := b.sequenced(ctx); err != nil {
		return is, 0, err
	}
	found, err := b.conn.Query(ctx, `select pgcast.event_id(e.id, e.created_at) from pgcast.replay r
		join pgcast.topic t on t.id = r.topic_id join pgcast.event_log e on e.id = r.event_id
		where r.seq = $1 order by substr(t.name, 6)::int`, seenBefore)
	if err != nil {
		return is, 0, err
	}
	ids, err := pgx.CollectRows(found, pgx.RowTo[pgcast.ID])
	if err != nil {
		return is, 0, err
	}
	count := func() (float64, error) {
		text, err := b.server.get(ctx, "/metrics")
		return figure(text, "pgcast_log_reads_total") - figure(text, `pgcast_log_reads_total{kind="follow"}`), err
	}
	before, err := count()
	if err != nil {
		return is, 0, err
	}
	sessions, err := b.room(ctx, s.resumeSessions)
	if err != nil {
		return is, 0, err
	}
	is, err = call[opened](ctx, b.load, "open", opening{Addr: b.server.listen, Sessions: sessions, Topics: s.resumeTopics, Prefix: "room:",
		Parallel: parallel, Resume: true, After: seenBefore, Want: int64(seenBefore + s.missed), IDs: ids})
	if err != nil {
		return is, 0, err
	}
	if want := int64(sessions * s.missed); is.Seen.Delivered != want {
		return is, 0, fmt.Errorf("%d missed events were delivered, not %d", is.Seen.Delivered, want)
	}
	after, err := count()
	return is, (after - before) / float64(s.resumeTopics), err
}
