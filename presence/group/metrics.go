package group

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	groups               prometheus.Gauge
	joins                *prometheus.CounterVec
	sent, closed, leaves prometheus.Counter
}

// The outcomes of joins.
const (
	joined  = "joined"
	full    = "full"
	closed  = "closed"
	refused = "refused" // there is no such group or role
	failed  = "failed"  // somebody could not be asked
)

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		groups: prometheus.NewGauge(prometheus.GaugeOpts{Name: "pgcast_groups", Help: "Groups that sessions here have to do with."}),
		joins:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pgcast_group_joins_total", Help: "Sessions that wanted to join a group, by outcome."}, []string{"outcome"}),
		sent:   prometheus.NewCounter(prometheus.CounterOpts{Name: "pgcast_group_sent_total", Help: "Events sent to members by role or key, each counted once."}),
		closed: prometheus.NewCounter(prometheus.CounterOpts{Name: "pgcast_group_closed_total", Help: "Groups whose memberships here ended because the group was closed."}),
		leaves: prometheus.NewCounter(prometheus.CounterOpts{Name: "pgcast_group_leaves_total", Help: "Users whose last session here has left a group."}),
	}
	for _, o := range []string{joined, full, closed, refused, failed} {
		m.joins.WithLabelValues(o)
	}
	if reg != nil {
		reg.MustRegister(m.groups, m.joins, m.sent, m.closed, m.leaves)
	}
	return m
}
