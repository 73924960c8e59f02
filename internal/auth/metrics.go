package auth

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
)

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

type jwksMetrics struct{ fetched, failed prometheus.Counter }

// newJWKSMetrics makes them; age gives how old the keys are in seconds.
func newJWKSMetrics(r prometheus.Registerer, age func() float64) *jwksMetrics {
	fetches := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pgcast_access_jwks_fetches_total",
		Help: "How often the keys of an identity provider were fetched, and how that ended."}, []string{"result"})
	m := &jwksMetrics{fetched: fetches.WithLabelValues("ok"), failed: fetches.WithLabelValues("failed")}
	if r != nil {
		r.MustRegister(fetches, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pgcast_access_jwks_age_seconds",
			Help: "How long ago the keys of an identity provider were fetched; -1: they never were."}, age))
	}
	return m
}

type credentialMetrics struct{ accepted, refused, unavailable prometheus.Counter }

func newCredentialMetrics(r prometheus.Registerer) *credentialMetrics {
	all := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pgcast_access_credentials_total",
		Help: "Tokens and API keys that were shown: accepted, refused, or unavailable, which is neither, for want of keys to verify them."}, []string{"result"})
	m := &credentialMetrics{all.WithLabelValues("accepted"), all.WithLabelValues("refused"), all.WithLabelValues("unavailable")}
	if r != nil {
		r.MustRegister(all)
	}
	return m
}

func (m *credentialMetrics) count(err error) {
	switch {
	case m == nil:
	case err == nil:
		m.accepted.Inc()
	case errors.Is(err, pgcast.ErrUnavailable):
		m.unavailable.Inc()
	default:
		m.refused.Inc()
	}
}
