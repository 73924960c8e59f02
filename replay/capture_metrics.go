package replay

import "github.com/prometheus/client_golang/prometheus"

// captureMetrics are of capture from the WAL.
type captureMetrics struct {
	events, transactions, poisoned, interrupted prometheus.Counter
	resets                                      *prometheus.CounterVec
	lagBytes, lagSeconds, retained              prometheus.Gauge
}

// The reasons for a reset.
const (
	resetMissing = "missing" // the slot was dropped
	resetLost    = "lost"    // Postgres has removed WAL that the slot needed
	resetMoved   = "moved"   // it has gone on without us
	resetCluster = "cluster" // the place belongs to another cluster
)

func newCaptureMetrics(reg prometheus.Registerer) *captureMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pgcast", Subsystem: "capture", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "pgcast", Subsystem: "capture", Name: name, Help: help})
	}
	m := &captureMetrics{
		events:       counter("events_total", "Changes and calls of publish() this server has read from the WAL and made events of."),
		transactions: counter("transactions_total", "Transactions this server has captured from the WAL."),
		poisoned:     counter("poisoned_total", "Changes read from the WAL that could not become events; their topics were told degraded."),
		interrupted:  counter("interrupted_total", "Times capture from the WAL was broken off by an error, and began anew."),
		resets: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pgcast", Subsystem: "capture", Name: "resets_total",
			Help: "Times changes were lost to capture from the WAL, and the topics told reset: the slot was missing, lost, moved by somebody else, or of another cluster."}, []string{"reason"}),
		lagBytes:   gauge("lag_bytes", "WAL that has not been captured yet; measured by the sequencing server."),
		lagSeconds: gauge("lag_seconds", "For how long capture from the WAL has not been up to date, 0 while it is; measured by the sequencing server."),
		retained:   gauge("slot_retained_bytes", "WAL that Postgres keeps for the replication slot; measured by the sequencing server."),
	}
	for _, reason := range []string{resetMissing, resetLost, resetMoved, resetCluster} {
		m.resets.WithLabelValues(reason) // from the start, so that an alert sees the first one too
	}
	if reg != nil {
		reg.MustRegister(m.events, m.transactions, m.poisoned, m.interrupted, m.resets, m.lagBytes, m.lagSeconds, m.retained)
	}
	return m
}
