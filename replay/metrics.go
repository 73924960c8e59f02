package replay

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast/listener"
)

type metrics struct {
	sequenced, steps, reconnects, refused, trimmed, evicted prometheus.Counter
	wakes, changes                                          *prometheus.CounterVec
	leading, lag, drift, queue, followed                    prometheus.Gauge
	stepSeconds                                             prometheus.Histogram
	capture                                                 *captureMetrics
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pgcast", Name: name, Help: help})
	}
	m := &metrics{
		capture:    newCaptureMetrics(reg),
		sequenced:  counter("events_sequenced_total", "Events this server has given their place in the log."),
		steps:      counter("sequencer_steps_total", "Steps of the sequencer that committed."),
		reconnects: counter("sequencer_reconnects_total", "Times the sequencer's line to the database was lost or given up."),
		refused:    counter("sequencer_kept_awake_total", "Times an open writer kept the idle sequencer from waiting for the bell."),
		trimmed:    counter("events_trimmed_total", "Events deleted by retention."),
		evicted:    counter("sequencer_evictions_total", "Frozen sequencers of other servers whose session this server ended."),
		wakes: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pgcast", Name: "sequencer_wakes_total",
			Help: "What made the sequencer look at the log: bell, look (the last one before sleeping), safety (nothing told of it), poll, wal (a commit was decoded), capture (this server added to the log)."}, []string{"source"}),
		leading: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "pgcast", Name: "sequencer_leading",
			Help: "1 while this server sequences, 0 while it follows."}),
		queue: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "pgcast", Name: "notify_queue_usage",
			Help: "How full the cluster's NOTIFY queue is, 0 to 1; from 0.5 on nobody rings; measured by the sequencing server."}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "pgcast", Name: "sequencing_lag_seconds",
			Help: "Age of the oldest committed event that has no place yet, 0 when there is none; measured by the sequencing server."}),
		followed: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "pgcast", Name: "sequencer_wal_followed",
			Help: "1 while this server sequences and is woken by the WAL."}),
		drift: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "pgcast", Name: "capture_drift",
			Help: "Things wrong with the capture of attached tables, see pgcast attached; measured by the sequencing server."}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pgcast", Name: "capture_changes_total",
			Help: "Attached tables that were dropped (gone) or whose columns were altered, as found and told by this server while it sequences."}, []string{"event"}),
		stepSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "pgcast", Name: "sequencer_step_seconds",
			Help: "Time of one step, commit included.", Buckets: prometheus.ExponentialBuckets(0.00025, 2, 14)}),
	}
	// From the start, so that an alert sees the first one too.
	for _, source := range []listener.Source{listener.SourceBell, listener.SourceLook, listener.SourceSafety, listener.SourcePoll, listener.SourceWAL, listener.SourceCapture} {
		m.wakes.WithLabelValues(string(source))
	}
	for _, event := range []string{"gone", "altered"} {
		m.changes.WithLabelValues(event)
	}
	if reg != nil {
		reg.MustRegister(m.sequenced, m.steps, m.reconnects, m.refused, m.trimmed, m.evicted, m.wakes, m.changes, m.leading, m.lag, m.queue, m.followed, m.drift, m.stepSeconds)
	}
	return m
}

func (m *metrics) setFollowed(yes bool) {
	if yes {
		m.followed.Set(1)
	} else {
		m.followed.Set(0)
	}
}
