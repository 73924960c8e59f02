package gateway

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	connects, refused, resumes, published prometheus.Counter
	errors                                *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "pgcast", Name: name, Help: help})
	}
	m := &metrics{
		connects:  counter("connects_total", "Sessions begun, over WebSocket and SSE."),
		refused:   counter("connects_refused_total", "Sessions and requests refused: limits, Origin, draining, not a handshake."),
		resumes:   counter("reconnects_total", "Subscriptions that went on from a place the client named."),
		published: counter("published_total", "Events published by clients."),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "pgcast", Name: "client_errors_total",
			Help: "Errors answered to clients, by code."}, []string{"code"}),
	}
	if reg != nil {
		reg.MustRegister(m.connects, m.refused, m.resumes, m.published, m.errors)
	}
	return m
}
