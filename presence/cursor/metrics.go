package cursor

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	shown             prometheus.Gauge
	moves, told, idle prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "pgcast_cursor_" + name, Help: help})
	}
	m := &metrics{
		shown: prometheus.NewGauge(prometheus.GaugeOpts{Name: "pgcast_cursors", Help: "Cursors of this server's sessions."}),
		moves: counter("moves_total", "Moves that clients have sent."),
		told:  counter("shown_total", "Moves that others were shown; the rest was throttled, or went nowhere."),
		idle:  counter("idle_total", "Cursors taken away because they had not moved for long."),
	}
	if reg != nil {
		reg.MustRegister(m.shown, m.moves, m.told, m.idle)
	}
	return m
}
