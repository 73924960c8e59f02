package server

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/console"
)

const (
	monitorKept   = 15 * 60                // samples, one a second
	monitorLooks  = 10 * time.Second       // for which somebody who asked for the overview is taken to look at it
	monitorTotals = 5 * time.Second        // how often topics are counted meanwhile
	monitorWait   = 900 * time.Millisecond // for the database to tell where the log's head is
	countedTopics = 200_000                // above that the database's own estimate has to do
)

// monitor keeps what the console's overview shows: a sample a second, of what this server has in
// memory. Only while somebody looks at it the database is asked as well.
type monitor struct {
	server *Server
	looked atomic.Int64 // when the overview was last asked for, in nanoseconds

	mu      sync.Mutex
	samples []console.Sample // a ring; guarded by mu
	next    int              // guarded by mu: where the next one goes
	heads   []head           // guarded by mu: of the log, that this server has not come to when they were read; oldest first
	told    bool             // guarded by mu: the database has told where the head is since the last sample
	term    int64            // guarded by mu
	topics  int64            // guarded by mu
	counted time.Time        // guarded by mu: topics
}

// head is where the log was at a moment.
type head struct {
	position pgcast.Position
	at       time.Time
}

func newMonitor(s *Server) *monitor {
	return &monitor{server: s, samples: make([]console.Sample, 0, monitorKept)}
}

// run takes samples until ctx ends.
func (m *monitor) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	before, at := m.server.hub.Figures(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if m.watched() {
			m.ask(ctx)
		}
		figures, now := m.server.hub.Figures(), time.Now()
		m.add(sampleOf(&before, &figures, now.Sub(at)), figures.Position, now)
		before, at = figures, now
	}
}

func (m *monitor) watched() bool { return time.Now().UnixNano()-m.looked.Load() < int64(monitorLooks) }

// sampleOf is what happened between two looks.
func sampleOf(before, now *fanout.Figures, took time.Duration) console.Sample {
	per := func(n float64) float64 { return max(0, n) / took.Seconds() }
	s := console.Sample{Events: per(float64(now.Events - before.Events)), Deliveries: per(float64(now.Deliveries - before.Deliveries)),
		Behind: now.Behind, Sequencing: *millis(now.Slowest)}
	latency := now.Latency.Since(&before.Latency)
	if d, ok := latency.Quantile(0.5); ok {
		s.P50 = millis(d)
	}
	if d, ok := latency.Quantile(0.99); ok {
		s.P99 = millis(d)
	}
	return s
}

// add keeps a sample.
func (m *monitor) add(s console.Sample, position pgcast.Position, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.At, s.Sessions = now.UnixMilli(), m.server.gateway.Count()
	for len(m.heads) > 0 && m.heads[0].position <= position {
		m.heads = m.heads[1:]
	}
	if m.told {
		late := time.Duration(0)
		if len(m.heads) > 0 {
			late = now.Sub(m.heads[0].at)
		}
		s.Replication = millis(late)
	} else {
		m.heads = nil
	}
	m.told = false
	if len(m.samples) < monitorKept {
		m.samples = append(m.samples, s)
		return
	}
	m.samples[m.next] = s
	m.next = (m.next + 1) % monitorKept
}

// ask reads where the log's head is, and now and then how many topics there are.
func (m *monitor) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, monitorWait)
	defer cancel()
	at := time.Now()
	position, err := m.server.log.Position(ctx)
	if err != nil {
		return // the sample says that it cannot be told
	}
	m.mu.Lock()
	if n := len(m.heads); n == 0 || m.heads[n-1].position < position {
		m.heads = append(m.heads, head{position, at})
	}
	m.told = true
	count := at.Sub(m.counted) > monitorTotals
	m.mu.Unlock()
	if count {
		m.count(ctx, at)
	}
}

func (m *monitor) count(ctx context.Context, at time.Time) {
	var term, topics int64
	err := m.server.pool.QueryRow(ctx, `select s.term, case when c.reltuples > $1 then c.reltuples::bigint else (select count(*) from pgcast.topic where not starts_with(name, '__')) end
		from pgcast.sequencer s, pg_class c where c.oid = 'pgcast.topic'::regclass`, countedTopics).Scan(&term, &topics)
	if err != nil {
		return // what was counted before is shown
	}
	m.mu.Lock()
	m.term, m.topics, m.counted = term, topics, at
	m.mu.Unlock()
}

// overview gives the samples after a moment, and how things are now.
func (m *monitor) overview(ctx context.Context, since int64) (console.Overview, error) {
	if first := !m.watched(); first {
		m.looked.Store(time.Now().UnixNano())
		ctx, cancel := context.WithTimeout(ctx, monitorWait)
		m.count(ctx, time.Now()) // not to begin with figures of long ago
		cancel()
	}
	m.looked.Store(time.Now().UnixNano())
	s := m.server
	leads, wake := s.sequencer.State()
	o := console.Overview{Samples: []console.Sample{}, Sequencer: console.Sequencer{Mine: leads, Wake: string(wake)}, Degraded: s.gateway.Degraded()}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.samples {
		if sample := m.samples[(m.next+i)%len(m.samples)]; sample.At > since {
			o.Samples = append(o.Samples, sample)
		}
	}
	o.Sequencer.Term = m.term
	o.Totals = console.Totals{Topics: m.topics, Events: int64(s.hub.Position()), Sessions: s.gateway.Count(), Subscriptions: s.hub.Subscriptions()}
	return o, nil
}
