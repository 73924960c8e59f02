package bench

import (
	"context"
	"fmt"
	"time"
)

// The tables differ in how they are captured, and in what Postgres writes to the WAL of them.
const walSchema = `
create schema bench;
create table bench.bare (id bigint generated always as identity primary key, room int not null, body text not null);
create table bench.attached (like bench.bare including all);
create table bench.wal (like bench.bare including all);
create table bench.by_key (like bench.bare including all);
create table bench.by_row (like bench.bare including all);
alter table bench.wal replica identity full;
alter table bench.by_row replica identity full;
select pgcast.attach('bench.attached', topic => 'trigger:{room}');`

// A slot is made in a transaction of its own.
var walStatements = []string{walSchema, "select pgcast.open_slot()", "select pgcast.attach('bench.wal', topic => 'room:{room}', capture => 'wal')"}

// walBed is a bed with a table captured from the WAL; nil, with a note, where Postgres does not
// write what is needed.
func (w *world) walBed(ctx context.Context) (*bed, error) {
	var level string
	if err := w.admin.QueryRow(ctx, "show wal_level").Scan(&level); err != nil {
		return nil, err
	}
	if level != "logical" {
		w.note("wal_level is %s: capture from the WAL was not measured, which needs logical", level)
		return nil, nil
	}
	b, err := w.bed(ctx, false, walStatements...)
	if err == nil {
		if b.server, err = w.startServer(ctx, b.url, "--wake", "wal"); err != nil {
			b.close()
		}
	}
	return b, err
}

// wal measures what capture from the WAL costs and how long it takes: what writers pay while
// the server is paused, the same with everything on the same cores, latency, decoding, and
// the choices that are there.
func wal(ctx context.Context, w *world) (rows []Row, err error) {
	b, err := w.walBed(ctx)
	if b == nil {
		return nil, err
	}
	defer b.close()
	for _, part := range []func(context.Context, *bed) ([]Row, error){walWriters, walIdentity, walPublish, walLatency, walDecoding} {
		got, err := part(ctx, b)
		rows = append(rows, got...)
		if err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// turns has some writers run each of the statements in turn, round by round, and gives commits
// a second. Paused turns are taken with the server stopped; between any two everything written
// is captured.
func (b *bed) turns(ctx context.Context, writers int, paused bool, statements ...string) ([][]float64, error) {
	got := make([][]float64, len(statements))
	for round := range b.opts.Rounds {
		for i := range statements {
			at := (i + round) % len(statements)
			b.checkpoint(ctx)
			job := writing{URL: b.url, Statement: statements[at], Writers: writers, Topics: b.sizes.topics, Seconds: b.opts.Duration.Seconds()}
			var is written
			run := func() (err error) { is, err = call[written](ctx, b.load, "write", job); return err }
			if paused {
				run = b.paused(run)
			}
			if err := run(); err != nil {
				return nil, err
			}
			got[at] = append(got[at], float64(is.Commits)/is.Seconds)
			if _, err := b.captured(ctx); err != nil {
				return nil, err
			}
		}
	}
	return got, nil
}

// paused gives f run while the server is stopped: Postgres is left to itself.
func (b *bed) paused(f func() error) func() error {
	return func() error {
		if err := freeze(b.server.pid(), true); err != nil {
			return fmt.Errorf("pause the server: %w", err)
		}
		err := f()
		if thaw := freeze(b.server.pid(), false); err == nil {
			err = thaw
		}
		return err
	}
}

// captured waits until all that committed before is in the log, and has its place.
func (b *bed) captured(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	var id string
	if err := b.conn.QueryRow(ctx, "select pgcast.publish('mark', 'bench')").Scan(&id); err != nil {
		return 0, err
	}
	for {
		var done bool
		err := b.conn.QueryRow(ctx, `select exists (select from pgcast.topic t join pgcast.replay r on r.topic_id = t.id join pgcast.event_log e on e.id = r.event_id
			where t.name = 'mark' and pgcast.event_id(coalesce((e.origin).id, e.id), e.created_at) = $1)`, id).Scan(&done)
		if err != nil || done {
			return time.Since(began), err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

func insertInto(table string) string {
	return "insert into bench." + table + " (room, body) values ($1, $2)"
}

// walWriters: one row a transaction, bare, captured by a trigger, captured from the WAL.
func walWriters(ctx context.Context, b *bed) (rows []Row, err error) {
	for _, paused := range []bool{true, false} {
		for _, n := range b.sizes.walWriters {
			got, err := b.turns(ctx, n, paused, insertInto("bare"), insertInto("attached"), insertInto("wal"))
			if err != nil {
				return rows, err
			}
			name, target := fmt.Sprintf("%s, everything on the same cores", plural(n, "writer")), (*Target)(nil)
			if paused {
				name, target = fmt.Sprintf("%s, the server paused", plural(n, "writer")), atLeast(0.95)
			}
			b.say("%s: bare %.0f, by trigger %.0f, from the WAL %.0f commits/s", name, quantile(got[0], 0.5), quantile(got[1], 0.5), quantile(got[2], 0.5))
			rows = append(rows,
				row(name, "bare", "commits/s", got[0], nil),
				row(name, "captured by a trigger", "commits/s", got[1], nil),
				row(name, "captured from the WAL", "commits/s", got[2], nil),
				row(name, "captured from the WAL / bare", "", ratios(got[2], got[0]), target),
				row(name, "captured by a trigger / bare", "", ratios(got[1], got[0]), nil))
		}
	}
	return rows, nil
}

// walIdentity: updates of one row a transaction, of a table whose old rows are in the WAL and of
// one of which only the key would be. Nobody captures either.
func walIdentity(ctx context.Context, b *bed) (rows []Row, err error) {
	for _, table := range []string{"by_key", "by_row"} {
		if _, err := b.conn.Exec(ctx, "insert into bench."+table+" (room, body) select g, $1 from generate_series(1, $2::int) g", body, b.sizes.topics); err != nil {
			return nil, err
		}
	}
	update := func(table string) string { return "update bench." + table + " set body = $2 where id = $1::int" }
	for _, n := range b.sizes.walWriters {
		got, err := b.turns(ctx, n, true, update("by_key"), update("by_row"))
		if err != nil {
			return rows, err
		}
		name := fmt.Sprintf("%s, updates", plural(n, "writer"))
		b.say("%s: by key %.0f, REPLICA IDENTITY FULL %.0f commits/s", name, quantile(got[0], 0.5), quantile(got[1], 0.5))
		rows = append(rows,
			row(name, "REPLICA IDENTITY DEFAULT", "commits/s", got[0], nil),
			row(name, "REPLICA IDENTITY FULL", "commits/s", got[1], nil),
			row(name, "FULL / DEFAULT", "", ratios(got[1], got[0]), nil))
	}
	return rows, nil
}

// walPublish: publish() by the table it uses beside captured tables, and the same said by a
// message in the WAL, which capture does not read.
func walPublish(ctx context.Context, b *bed) (rows []Row, err error) {
	const publish = "select pgcast.publish('plain:' || $1::int, 'note', to_jsonb($2::text))"
	const message = `select pg_logical_emit_message(true, 'pgcast', json_build_object('id', nextval('bench.ids'), 'topic', pgcast.check_topic('plain:' || $1::int),
		'event', 'note', 'data', to_jsonb($2::text), 'at', clock_timestamp())::text)`
	if _, err := b.conn.Exec(ctx, "create sequence bench.ids"); err != nil {
		return nil, err
	}
	for _, n := range b.sizes.walWriters {
		got, err := b.turns(ctx, n, true, publish, message)
		if err != nil {
			return rows, err
		}
		name := fmt.Sprintf("%s, publish()", plural(n, "writer"))
		b.say("%s: by the table %.0f, by a message %.0f commits/s", name, quantile(got[0], 0.5), quantile(got[1], 0.5))
		rows = append(rows,
			row(name, "by the table", "commits/s", got[0], nil),
			row(name, "by pg_logical_emit_message", "commits/s", got[1], nil),
			row(name, "by the table / by a message", "", ratios(got[0], got[1]), nil))
	}
	return rows, nil
}

// walLatency is latency's for a server that is woken by the WAL: of a table captured by a
// trigger, and of one captured from the WAL.
func walLatency(ctx context.Context, b *bed) (rows []Row, err error) {
	p := pacing{URL: b.url, Rate: b.sizes.rate, Seconds: b.opts.Duration.Seconds()}
	for _, c := range []struct{ table, topic, what string }{
		{"attached", "trigger:1", "woken by the WAL, captured by a trigger"}, {"wal", "room:1", "captured from the WAL"},
	} {
		if _, err := call[opened](ctx, b.load, "open", opening{Addr: b.server.listen, Sessions: 1, Topics: 1, Topic: c.topic, Parallel: 1}); err != nil {
			return rows, err
		}
		var late50, late99 []float64
		p.Table = "bench." + c.table
		for range b.opts.Rounds {
			is, err := call[lateness](ctx, b.load, "pace", p)
			if err != nil {
				return rows, err
			}
			b.seen.add(is.Seen)
			late50, late99 = append(late50, is.P50), append(late99, is.P99)
		}
		name := fmt.Sprintf("%d writes/s, %s", b.sizes.rate, c.what)
		b.say("%s: p50 %.2f ms, p99 %.2f ms", name, quantile(late50, 0.5), quantile(late99, 0.5))
		rows = append(rows, row(name, "commit to client, p50", "ms", late50, atMost(5)), row(name, "commit to client, p99", "ms", late99, nil))
	}
	return rows, nil
}

// walDecoding writes while the server is paused and times how long it then takes until all of
// it is captured, and has its place: of transactions of 100 rows, and of a single one.
func walDecoding(ctx context.Context, b *bed) (rows []Row, err error) {
	const insert = "insert into bench.wal (room, body) select 1 + g %% %d, '%s' from generate_series(1, %d) g"
	for _, each := range []int{100, b.sizes.walRows} {
		var log, all []float64
		for range b.opts.Rounds {
			b.checkpoint(ctx)
			var before int
			if err := b.conn.QueryRow(ctx, "select count(*) from pgcast.event_log").Scan(&before); err != nil {
				return rows, err
			}
			write := func() error {
				_, err := b.conn.Exec(ctx, fmt.Sprintf("do $$ begin for i in 1..%d loop "+insert+"; commit; end loop; end $$", max(1, b.sizes.walRows/each), b.sizes.topics, body, each))
				return err
			}
			if err := b.paused(write)(); err != nil {
				return rows, err
			}
			began := time.Now()
			n := b.sizes.walRows / each * each
			for {
				var now int
				if err := b.conn.QueryRow(ctx, "select count(*) from pgcast.event_log").Scan(&now); err != nil {
					return rows, err
				}
				if now >= before+n {
					break
				}
				if err := pause(ctx, 10*time.Millisecond); err != nil {
					return rows, err
				}
			}
			log = append(log, float64(n)/time.Since(began).Seconds())
			if _, err := b.captured(ctx); err != nil {
				return rows, err
			}
			all = append(all, float64(n)/time.Since(began).Seconds())
		}
		name := fmt.Sprintf("%d rows, %d a transaction", b.sizes.walRows, each)
		b.say("%s: %.0f events/s into the log, %.0f with their places", name, quantile(log, 0.5), quantile(all, 0.5))
		rows = append(rows, row(name, "decoded into the log", "events/s", log, nil), row(name, "with their places", "events/s", all, nil))
	}
	return rows, nil
}
