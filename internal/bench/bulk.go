package bench

import (
	"context"
	"fmt"
)

// bulk loads one big COPY, in a new database each time.
func bulk(ctx context.Context, w *world) ([]Row, error) {
	got := map[string][]float64{}
	var drained []float64
	for range w.opts.Rounds {
		for _, v := range []string{"bare", "attached"} {
			took, after, err := loadBulk(ctx, w, v)
			if err != nil {
				return nil, err
			}
			w.say("%s: %.1f s, all sequenced %.1f s later", v, took, after)
			got[v] = append(got[v], took)
			if v == "attached" {
				drained = append(drained, after)
			}
		}
	}
	name := fmt.Sprintf("COPY of %d rows", w.sizes.copyRows)
	return []Row{
		row(name, "bare", "s", got["bare"], nil),
		row(name, "attached", "s", got["attached"], nil),
		row(name, "attached / bare", "", ratios(got["attached"], got["bare"]), atMost(3)),
		row(name, "all sequenced after COPY", "s", drained, nil),
	}, nil
}

// loadBulk gives the seconds a COPY into a table took, and those until it was sequenced.
func loadBulk(ctx context.Context, w *world, table string) (took, after float64, err error) {
	b, err := w.bed(ctx, true, schema)
	if err != nil {
		return 0, 0, err
	}
	defer b.close()
	b.checkpoint(ctx)
	is, err := call[written](ctx, b.load, "copy", copying{URL: b.url, Table: "bench." + table, Rows: w.sizes.copyRows, Topics: w.sizes.topics})
	if err != nil {
		return 0, 0, err
	}
	d, err := b.sequenced(ctx)
	return is.Seconds, d.Seconds(), err
}
