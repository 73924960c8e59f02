package bench

import (
	"context"
	"fmt"
)

// memory connects idle sessions, each subscribed to one of many topics, and looks at how
// much more of the server is resident.
func memory(ctx context.Context, w *world) ([]Row, error) {
	var each []float64
	sessions := w.sizes.manySessions
	for round := range w.opts.Rounds {
		var kb float64
		var err error
		if kb, sessions, err = remember(ctx, w, sessions, round); err != nil {
			return nil, err
		}
		each = append(each, kb)
	}
	return []Row{row(fmt.Sprintf("%d idle sessions", sessions), "resident, each", "KB", each, atMost(15))}, nil
}

// remember gives the memory of one session, in a server of its own, and how many there
// were.
func remember(ctx context.Context, w *world, sessions, round int) (kb float64, n int, err error) {
	b, err := w.bed(ctx, true)
	if err != nil {
		return 0, 0, err
	}
	defer b.close()
	if n, err = b.room(ctx, sessions); err != nil {
		return 0, 0, err
	}
	before, err := residentOf(b.server.pid())
	if err != nil {
		return 0, 0, err
	}
	if _, err := call[opened](ctx, b.load, "open", opening{Addr: b.server.listen, Sessions: n, Topics: w.sizes.topics, Prefix: "room:", Parallel: 200}); err != nil {
		return 0, 0, err
	}
	if _, err := call[struct{}](ctx, b.load, "hold", w.sizes.settle.Seconds()); err != nil {
		return 0, 0, err
	}
	after, err := residentOf(b.server.pid())
	if err != nil {
		return 0, 0, err
	}
	w.say("%d sessions: %.1f MB before, %.1f MB with them", n, float64(before)/1e6, float64(after)/1e6)
	if round == 0 && w.opts.Profiles != "" {
		err = b.fetch(ctx, "/debug/pprof/heap?gc=1", "memory-heap")
	}
	return float64(after-before) / float64(n) / 1000, n, err
}
