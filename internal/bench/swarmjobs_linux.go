package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

func swarmJobs() map[string]job {
	return map[string]job{"open": openJob, "flood": floodJob, "pace": paceJob, "hold": holdJob, "files": filesJob}
}

// filesJob raises the limit of open files as far as it goes and tells what it is then.
func filesJob(context.Context, *loader, json.RawMessage) (any, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	return int(min(limit.Cur, 1<<30)), nil
}

// patience is how long the load waits for what must come.
const patience = 2 * time.Minute

func openJob(ctx context.Context, l *loader, with json.RawMessage) (any, error) {
	var o opening
	if err := json.Unmarshal(with, &o); err != nil {
		return nil, err
	}
	l.swarm.close()
	s, err := newSwarm(o.Addr)
	if err != nil {
		return nil, err
	}
	l.swarm = s
	s.socks = make([]sock, o.Sessions)
	for i := range s.socks {
		t := i % max(1, o.Topics)
		s.socks[i] = sock{topic: o.Topic, after: -1}
		if o.Topic == "" {
			s.socks[i].topic = fmt.Sprint(o.Prefix, t)
		}
		if o.Resume {
			s.socks[i].after, s.socks[i].want, s.socks[i].id = o.After, o.Want, o.IDs[t]
		}
	}
	began := time.Now()
	var failed error
	err = s.until(ctx, patience, func() bool {
		for s.opened < len(s.socks) && s.opened-s.ready < o.Parallel && failed == nil {
			failed = s.open(s.opened)
		}
		return failed != nil || s.ready == len(s.socks) && (!o.Resume || s.finished == len(s.socks))
	})
	if err = errors.Join(failed, err); err != nil {
		return nil, err
	}
	done := opened{All: milliseconds(time.Since(began)), Seen: s.seen()}
	var took []float64
	for i := range s.socks {
		took = append(took, milliseconds(s.socks[i].had-s.socks[i].asked))
	}
	done.P50, done.P99 = quantile(took, 0.5), quantile(took, 0.99)
	return done, nil
}

func floodJob(ctx context.Context, l *loader, with json.RawMessage) (any, error) {
	var f flooding
	if err := json.Unmarshal(with, &f); err != nil {
		return nil, err
	}
	s := l.swarm
	if s == nil {
		return nil, errors.New("nobody is connected")
	}
	var conns []*pgx.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close(context.WithoutCancel(ctx))
		}
	}()
	const publish = "select pgcast.publish($1, 'bench', $2::text::jsonb)"
	args := []any{f.Topic, dataOf(f.Size)}
	// Each statement is to be prepared, and every client's path gone once.
	for range max(1, f.Publishers) {
		conn, err := pgx.Connect(ctx, f.URL)
		if err != nil {
			return nil, err
		}
		conns = append(conns, conn)
		if _, err := conn.Exec(ctx, publish, args...); err != nil {
			return nil, err
		}
	}
	clients := int64(len(s.socks))
	if err := s.until(ctx, patience, func() bool { return s.delivered.Load() >= clients*int64(len(conns)) }); err != nil {
		return nil, err
	}

	base, lost, doubled := s.delivered.Load(), s.lost, s.doubled
	first := s.socks[0].after
	s.record, s.arrivals = f.Window == 0, nil
	began := s.now()
	end := began + time.Duration(f.Seconds*float64(time.Second))
	var published atomic.Int64
	var acked []time.Duration
	err := s.during(ctx, patience+end-began, func(ctx context.Context) (err error) {
		if f.Window == 0 {
			acked, err = paced(ctx, conns[0], publish, func(int) []any { return args },
				f.Rate, max(1, int(f.Seconds*float64(f.Rate))), s.began)
			published.Store(int64(len(acked)))
			return err
		}
		g, ctx := errgroup.WithContext(ctx)
		var begun atomic.Int64
		for _, conn := range conns {
			g.Go(func() (err error) {
				for s.now() < end && err == nil {
					if n := begun.Add(1); (n-int64(f.Window))*clients > s.delivered.Load()-base {
						begun.Add(-1)
						err = pause(ctx, 50*time.Microsecond)
					} else if _, err = conn.Exec(ctx, publish, args...); err == nil {
						published.Add(1)
					}
				}
				return err
			})
		}
		return g.Wait()
	}, func() bool { return s.delivered.Load()-base >= published.Load()*clients })
	if err != nil {
		return nil, err
	}
	done := flooded{Published: published.Load(), Seconds: (s.now() - began).Seconds(),
		Seen: seen{s.delivered.Load() - base, s.lost - lost, s.doubled - doubled}}
	if s.record {
		late := make([]float64, 0, len(s.arrivals))
		for _, a := range s.arrivals {
			if i := a.seq - first - 1; i >= 0 && i < int64(len(acked)) {
				late = append(late, milliseconds(a.at-acked[i]))
			}
		}
		done.P50, done.P99 = quantile(late, 0.5), quantile(late, 0.99)
		s.record, s.arrivals = false, nil
	}
	return done, nil
}

// paceJob writes rows of an attached table at a rate, and reads their events.
func paceJob(ctx context.Context, l *loader, with json.RawMessage) (any, error) {
	var p pacing
	if err := json.Unmarshal(with, &p); err != nil {
		return nil, err
	}
	s := l.swarm
	if s == nil || len(s.socks) != 1 {
		return nil, errors.New("one client must be connected")
	}
	conn, err := pgx.Connect(ctx, p.URL)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	base, lost, doubled := s.delivered.Load(), s.lost, s.doubled
	s.record, s.arrivals = true, nil
	n := p.count()
	var acked []time.Duration
	err = s.during(ctx, patience+time.Duration(p.Seconds*float64(time.Second)), func(ctx context.Context) (err error) {
		acked, err = paced(ctx, conn, "insert into "+p.Table+" (room, body) values (1, $1)", func(int) []any { return []any{body} }, p.Rate, n, s.began)
		return err
	}, func() bool { return len(s.arrivals) >= n })
	if err != nil {
		return nil, err
	}
	late := make([]float64, n)
	for i := range late {
		late[i] = milliseconds(s.arrivals[i].at - acked[i])
	}
	s.record, s.arrivals = false, nil
	return lateness{Events: n, P50: quantile(late, 0.5), P99: quantile(late, 0.99),
		Seen: seen{s.delivered.Load() - base, s.lost - lost, s.doubled - doubled}}, nil
}

// holdJob keeps the clients connected, and answers pings, for so many seconds.
func holdJob(ctx context.Context, l *loader, with json.RawMessage) (any, error) {
	var seconds float64
	if err := json.Unmarshal(with, &seconds); err != nil {
		return nil, err
	}
	end := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	err := l.swarm.until(ctx, patience+time.Until(end), func() bool { return time.Now().After(end) })
	return struct{}{}, err
}
