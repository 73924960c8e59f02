package ratelimit

import "github.com/prometheus/client_golang/prometheus"

// metrics; what a call costs is looked up beforehand.
type metrics struct {
	checks    map[Verb]map[Outcome]prometheus.Counter
	denials   *prometheus.CounterVec
	fallbacks *prometheus.CounterVec
}

// unknown is the outcome of a call nobody could decide on.
const unknown Outcome = "unavailable"

func newMetrics(reg prometheus.Registerer, l *Limiter) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pgcast_ratelimit_" + name, Help: help}, labels)
	}
	checks := counter("checks_total", "Calls that were checked, by what became of them.", "verb", "outcome")
	m := &metrics{checks: map[Verb]map[Outcome]prometheus.Counter{},
		denials:   counter("denials_total", "Calls denied, by the kind of key that a limit or ban was on.", "verb", "key"),
		fallbacks: counter("fallbacks_total", "Times that Redis did not answer and the fallback decided.", "verb")}
	for _, v := range verbs {
		m.checks[v] = map[Outcome]prometheus.Counter{}
		for _, o := range []Outcome{Allowed, Limited, Blocked, Banned, unknown} {
			m.checks[v][o] = checks.WithLabelValues(string(v), string(o))
		}
	}
	if reg != nil {
		reg.MustRegister(checks, m.denials, m.fallbacks,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pgcast_ratelimit_bans", Help: "Bans this server knows of."},
				func() float64 { return float64(l.bans.size()) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pgcast_ratelimit_local_buckets", Help: "Buckets kept in this process."},
				func() float64 { return float64(l.local.keys()) }))
	}
	return m
}

func (m *metrics) count(v Verb, o Outcome) { m.checks[v][o].Inc() }

func (m *metrics) unavailable(v Verb) { m.checks[v][unknown].Inc() }
