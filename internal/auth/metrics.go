package auth

import "github.com/prometheus/client_golang/prometheus"

type authorizerMetrics struct {
	remembered, asked, failed prometheus.Counter
	took                      prometheus.Histogram
}

func newAuthorizerMetrics(r prometheus.Registerer) *authorizerMetrics {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pgcast_access_decisions_total",
		Help: "Decisions on what callers may do: remembered, asked of the database, or failed, which allows nothing."}, []string{"by"})
	m := &authorizerMetrics{remembered: decisions.WithLabelValues("memory"), asked: decisions.WithLabelValues("database"), failed: decisions.WithLabelValues("failure"),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "pgcast_access_ask_seconds",
			Help: "How long the database took to decide on the questions that went to it together.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)})}
	if r != nil {
		r.MustRegister(decisions, m.took)
	}
	return m
}
