package bench

import (
	"context"
	"fmt"
)

// latency writes at a steady rate and times each event from the moment its commit was
// acknowledged to the moment a client has it: a pgcast client of an attached table, and a
// bare LISTEN loop, which Postgres tells in the commit itself.
func latency(ctx context.Context, w *world) ([]Row, error) {
	b, err := w.bed(ctx, true, schema)
	if err != nil {
		return nil, err
	}
	defer b.close()
	// Rows are written to room 1.
	if _, err := call[opened](ctx, b.load, "open", opening{Addr: b.server.listen, Sessions: 1, Topics: 1, Topic: "room:1", Parallel: 1}); err != nil {
		return nil, err
	}
	p := pacing{URL: b.url, Rate: w.sizes.rate, Seconds: w.opts.Duration.Seconds(), Channel: "bench"}
	var fsync, late50, late99, listen50, listen99 []float64
	for range w.opts.Rounds {
		f, err := fsyncTime(ctx, b.conn, w.sizes.fsyncs)
		if err != nil {
			return nil, err
		}
		fsync = append(fsync, f)
		p.Table = "bench.attached"
		is, err := call[lateness](ctx, b.load, "pace", p)
		if err != nil {
			return nil, err
		}
		w.seen.add(is.Seen)
		late50, late99 = append(late50, is.P50), append(late99, is.P99)
		p.Table = "bench.notify"
		if is, err = call[lateness](ctx, b.load, "listen", p); err != nil {
			return nil, err
		}
		listen50, listen99 = append(listen50, is.P50), append(listen99, is.P99)
	}
	flush := quantile(fsync, 0.5)
	w.say("p50 %.2f ms, p99 %.2f ms; LISTEN %.2f and %.2f ms; a flush takes %.2f ms", quantile(late50, 0.5), quantile(late99, 0.5),
		quantile(listen50, 0.5), quantile(listen99, 0.5), flush)
	name := fmt.Sprintf("%d writes/s", w.sizes.rate)
	return []Row{
		row(name, "one flush", "ms", fsync, nil),
		row(name, "commit to client, p50", "ms", late50, atMost(1+flush)),
		row(name, "commit to client, p99", "ms", late99, atMost(5)),
		row(name, "commit to LISTEN, p50", "ms", listen50, nil),
		row(name, "commit to LISTEN, p99", "ms", listen99, nil),
	}, nil
}
