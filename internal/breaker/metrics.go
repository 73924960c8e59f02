package breaker

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	state   *prometheus.GaugeVec
	changes *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, backend string) *metrics {
	labels := prometheus.Labels{"backend": backend}
	m := &metrics{
		state:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "pgcast_backend_state", Help: "1 for the state the backend is in.", ConstLabels: labels}, []string{"state"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pgcast_backend_changes_total", Help: "Changes of the backend's state, by the new one.", ConstLabels: labels}, []string{"state"}),
	}
	for _, s := range []State{Healthy, Broken, Probing} {
		m.changes.WithLabelValues(string(s)) // there from the beginning, at 0
	}
	m.show(Healthy)
	if reg != nil {
		reg.MustRegister(m.state, m.changes)
	}
	return m
}

func (m *metrics) show(now State) {
	for _, s := range []State{Healthy, Broken, Probing} {
		v := 0.0
		if s == now {
			v = 1
		}
		m.state.WithLabelValues(string(s)).Set(v)
	}
}

func (m *metrics) set(to State) {
	m.show(to)
	m.changes.WithLabelValues(string(to)).Inc()
}
