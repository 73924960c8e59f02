package bench

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// delivering is one kind of load on one topic that every session is subscribed to.
type delivering struct {
	name        string
	sessions    int
	flood       flooding
	perSecond   *Target
	perMillion  *Target // processor seconds of the server
	p50, p99    *Target // milliseconds from commit to client
	withLatency bool
}

const eventSize = 128 // bytes of data

// deliveries publishes 128-byte events to many sessions and looks at what each delivery
// costs the server.
func deliveries(ctx context.Context, w *world) ([]Row, error) {
	s := w.sizes
	kinds := []delivering{
		{name: fmt.Sprintf("%d sessions, flat out", s.sessions), sessions: s.sessions, flood: flooding{Publishers: 8, Window: 200},
			perSecond: atLeast(240_000), perMillion: atMost(4.5)},
		{name: fmt.Sprintf("%d sessions, one event in flight", s.sessions), sessions: s.sessions, flood: flooding{Publishers: 1, Window: 1},
			perMillion: atMost(8)},
		{name: fmt.Sprintf("%d sessions, %d events/s", s.sessions, s.slowRate), sessions: s.sessions, flood: flooding{Rate: s.slowRate},
			perMillion: atMost(12), p50: atMost(7), p99: atMost(14), withLatency: true},
		{name: fmt.Sprintf("%d sessions, flat out", s.manySessions), sessions: s.manySessions, flood: flooding{Publishers: 8, Window: 200},
			perMillion: atMost(6)},
	}
	figures := make([]struct{ rate, cost, p50, p99 []float64 }, len(kinds))
	for round := range w.opts.Rounds {
		for i := range kinds {
			k, f := &kinds[i], &figures[i]
			is, cpu, err := deliver(ctx, w, k, round)
			if err != nil {
				return nil, err
			}
			w.seen.add(is.Seen)
			n := float64(is.Seen.Delivered)
			f.rate, f.cost = append(f.rate, n/is.Seconds), append(f.cost, cpu.Seconds()/n*1e6)
			f.p50, f.p99 = append(f.p50, is.P50), append(f.p99, is.P99)
			w.say("%s: %.0f deliveries/s, %.2f CPU seconds a million", k.name, n/is.Seconds, cpu.Seconds()/n*1e6)
		}
	}
	var rows []Row
	for i, k := range kinds {
		f := figures[i]
		rows = append(rows, row(k.name, "deliveries", "1/s", f.rate, k.perSecond),
			row(k.name, "server CPU per million deliveries", "s", f.cost, k.perMillion))
		if k.withLatency {
			rows = append(rows, row(k.name, "commit to client, p50", "ms", f.p50, k.p50), row(k.name, "commit to client, p99", "ms", f.p99, k.p99))
		}
	}
	return rows, nil
}

func deliver(ctx context.Context, w *world, k *delivering, round int) (is flooded, cpu time.Duration, err error) {
	b, err := w.bed(ctx, true)
	if err != nil {
		return is, 0, err
	}
	defer b.close()
	sessions, err := b.room(ctx, k.sessions)
	if err != nil {
		return is, 0, err
	}
	if _, err := call[opened](ctx, b.load, "open", opening{Addr: b.server.listen, Sessions: sessions, Topic: "hot", Parallel: 200}); err != nil {
		return is, 0, err
	}
	f := k.flood
	f.URL, f.Topic, f.Size, f.Seconds = b.url, "hot", eventSize, w.opts.Duration.Seconds()
	run := func() error {
		cpu, err = b.server.cpu(func() error {
			is, err = call[flooded](ctx, b.load, "flood", f)
			return err
		})
		return err
	}
	if round > 0 {
		return is, cpu, run()
	}
	return is, cpu, b.profile(ctx, "deliveries-"+strings.NewReplacer(", ", "-", " ", "-", "/", "-per-").Replace(k.name), run)
}

// room gives the number of sessions that the limit of open files leaves room for, and
// says so where it is fewer than wanted.
func (b *bed) room(ctx context.Context, sessions int) (int, error) {
	limit, err := call[int](ctx, b.load, "files", nil)
	if err != nil {
		return 0, err
	}
	const others = 100 // files that are no session
	most := min(limit, filesOf(b.server.pid())) - others
	if sessions <= most {
		return sessions, nil
	}
	if most < 1 {
		return 0, fmt.Errorf("%d open files are not enough for any session; raise the hard limit (ulimit -Hn)", most+others)
	}
	b.note("only %d sessions instead of %d: the hard limit of open files (ulimit -Hn) leaves no room for more", most, sessions)
	return most, nil
}
