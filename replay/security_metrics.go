package replay

import "github.com/prometheus/client_golang/prometheus"

type securityMetrics struct {
	tables  prometheus.Gauge
	checks  prometheus.Histogram
	rows    prometheus.Counter
	failed  prometheus.Counter
	refused prometheus.Counter
}

func newSecurityMetrics(r prometheus.Registerer) *securityMetrics {
	m := &securityMetrics{
		tables: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "pgcast", Name: "row_security_tables", Help: "Tables whose row security is enforced."}),
		checks: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "pgcast", Name: "row_security_check_seconds", Help: "How long it took to ask the database which rows of a batch of events are visible, by claims and not by subscriber.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}}),
		rows:    prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pgcast", Name: "row_security_rows_total", Help: "Rows asked about."}),
		failed:  prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pgcast", Name: "row_security_failures_total", Help: "Checks that failed or took too long. What they were about is not shown, and asked again."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pgcast", Name: "row_security_gone_total", Help: "Events of which only the key was shown, or nothing, once for each that see the same."}),
	}
	if r != nil {
		r.MustRegister(m.tables, m.checks, m.rows, m.failed, m.refused)
	}
	return m
}
