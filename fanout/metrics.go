package fanout

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	bytes, errors               prometheus.Counter
	reads, notices              *prometheus.CounterVec
	latency                     prometheus.Histogram
	snapshots                   *prometheus.CounterVec
	snapshotRows, snapshotBytes prometheus.Counter
	spooled                     *prometheus.GaugeVec

	// What Figures reads, and the registry as well.
	delivered                       atomic.Uint64
	sessions, subscriptions, behind atomic.Int64
	late                            latencies
	slowest                         atomic.Int64 // from creation to here, in nanoseconds, since it was last asked for
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pgcast", Name: name, Help: help})
	}
	m := &metrics{
		bytes:  counter("delivered_bytes_total", "Bytes of event frames written to sessions."),
		errors: counter("log_read_errors_total", "Reads of the log for a session that failed and will be tried again."),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pgcast", Name: "log_reads_total",
			Help: "Reads of the log: follow (the live end), topic and pattern (subscriptions behind), place (where a subscription starts)."}, []string{"kind"}),
		notices: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pgcast", Name: "notices_total",
			Help: "Gaps and resets told to subscriptions."}, []string{"kind"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "pgcast", Name: "write_to_delivery_seconds",
			Help:    "From an event's creation in the writer's transaction to its write to a session that is live; the newest event of each write, by the database's and this server's clocks.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}),
		snapshots: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pgcast", Name: "snapshots_total",
			Help: "Snapshots of topics: read (from the database), failed (of those), shared (another one who asks gets what is read or was a moment ago)."}, []string{"kind"}),
		snapshotRows:  counter("snapshot_rows_total", "Rows, or events, read for snapshots."),
		snapshotBytes: counter("snapshot_bytes_total", "Bytes of snapshots that were read, as they are sent."),
		spooled: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "pgcast", Name: "snapshot_spool_bytes",
			Help: "Bytes of the snapshots that are kept for those who are being sent them, in memory and on disk."}, []string{"where"}),
	}
	// From the start, so that an alert sees the first one too.
	for _, kind := range []string{"follow", "topic", "pattern", "place"} {
		m.reads.WithLabelValues(kind)
	}
	for _, kind := range []string{"gap", "reset"} {
		m.notices.WithLabelValues(kind)
	}
	for _, kind := range []string{"read", "failed", "shared"} {
		m.snapshots.WithLabelValues(kind)
	}
	for _, where := range []string{"memory", "disk"} {
		m.spooled.WithLabelValues(where)
	}
	if reg != nil {
		reg.MustRegister(m.bytes, m.errors, m.reads, m.notices, m.latency, m.snapshots, m.snapshotRows, m.snapshotBytes, m.spooled)
		m.expose(reg)
	}
	return m
}

// expose registers what Figures reads.
func (m *metrics) expose(reg prometheus.Registerer) {
	gauge := func(name, help string, v *atomic.Int64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "pgcast", Name: name, Help: help},
			func() float64 { return float64(v.Load()) }))
	}
	reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "pgcast", Name: "deliveries_total", Help: "Events written to sessions."},
		func() float64 { return float64(m.delivered.Load()) }))
	gauge("sessions", "Connected sessions.", &m.sessions)
	gauge("subscriptions", "Subscriptions of all sessions.", &m.subscriptions)
	gauge("subscriptions_behind", "Subscriptions that read the log because the live ring no longer reaches back to their place.", &m.behind)
}
