package presence

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	rosters, entries                                 prometheus.Gauge
	changes, repairs, missed, buried, failures, full prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, kind string) *metrics {
	labels := prometheus.Labels{"kind": kind}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "pgcast_live_" + name, Help: help, ConstLabels: labels})
	}
	m := &metrics{
		rosters:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "pgcast_live_topics", Help: "Topics whose live state is kept here.", ConstLabels: labels}),
		entries:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "pgcast_live_entries", Help: "Entries of this server's own sessions.", ConstLabels: labels}),
		changes:  counter("changes_total", "Changes of live state given to the shared store."),
		repairs:  counter("repairs_total", "Topics put right in the shared store: it had been emptied, or a call's outcome was unknown."),
		missed:   counter("missed_total", "Times that messages of other servers were lost and the topic was read again."),
		buried:   counter("buried_total", "Entries taken away because their server had gone without a word."),
		failures: counter("failures_total", "Calls of the shared store that failed, each topic's for itself."),
		full:     counter("full_total", "Joins refused because there was no room."),
	}
	if reg != nil {
		reg.MustRegister(m.rosters, m.entries, m.changes, m.repairs, m.missed, m.buried, m.failures, m.full)
	}
	return m
}
