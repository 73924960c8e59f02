// Package bench measures pgcast against what its promises cost: writers with and without
// capture, latency, fan-out, memory, coming back, bulk loads, the log's own operations and
// an idle server.
//
// Whatever is compared is measured side by side in one run, in turns; a figure is the
// median of the rounds. The server under test and the load are processes of their own, and
// the server's processor time and memory come from the operating system. It needs Linux.
package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pgcast/pgcast"
)

// Options of a run. Command is required.
type Options struct {
	// Command starts this program again; "serve" and LoadCommand are appended.
	Command []string
	// Environ is the environment of the processes started. It should say nothing that
	// changes what pgcast does.
	Environ []string
	// DatabaseURL is a cluster to use: a role that may create databases. Empty runs a
	// private, durable one.
	DatabaseURL string
	// BinDir is where Postgres's binaries are, if they are not found.
	BinDir string
	// Names are the measurements to run; empty for all.
	Names []string
	// Full also runs what takes hours: ten million events, ten idle minutes.
	Full bool
	// Tiny runs everything with next to no load, to see that it works.
	Tiny bool
	// Rounds of each comparison; a figure is their median. Default 3.
	Rounds int
	// Duration of one turn of one variant. Default 10 s.
	Duration time.Duration
	// Profiles is a directory for processor profiles of the server; empty takes none.
	Profiles string
	Version  string
	// Say is told what is going on, a line at a time; nil for nobody.
	Say func(line string)
}

// LoadCommand is the argument that makes this program the load: it must call Load.
const LoadCommand = "bench-load"

// Report is what a run found.
type Report struct {
	Version  string        `json:"version"`
	Began    time.Time     `json:"began"`
	Seconds  float64       `json:"seconds"`
	Rounds   int           `json:"rounds"`
	Duration time.Duration `json:"duration_ns"`
	Machine  Machine       `json:"machine"`
	Rows     []Row         `json:"rows"`
	// Lost and Doubled count over all deliveries of the run, by the seq of each event.
	Lost       int64    `json:"lost"`
	Doubled    int64    `json:"doubled"`
	Deliveries int64    `json:"deliveries"`
	Notes      []string `json:"notes,omitempty"`
}

// Row is one figure.
type Row struct {
	Measure string    `json:"measure"` // as in Names
	Case    string    `json:"case"`    // what was measured
	What    string    `json:"what"`    // what the figure is
	Figure  float64   `json:"figure"`  // median of the rounds
	Unit    string    `json:"unit"`
	Rounds  []float64 `json:"rounds"`
	Target  *Target   `json:"target,omitempty"`
	Met     *bool     `json:"met,omitempty"` // nil without a target
}

// Target is what a figure should be.
type Target struct {
	AtLeast bool    `json:"at_least"` // else at most
	Value   float64 `json:"value"`
}

func (t *Target) String() string {
	switch {
	case t == nil:
		return ""
	case t.AtLeast:
		return fmt.Sprintf("≥ %.4g", t.Value)
	}
	return fmt.Sprintf("≤ %.4g", t.Value)
}

func atLeast(v float64) *Target { return &Target{AtLeast: true, Value: v} }
func atMost(v float64) *Target  { return &Target{Value: v} }

// measurement is one of them: it gives its rows, and what it could not do as asked goes
// to world.note.
type measurement struct {
	name, about string
	run         func(context.Context, *world) ([]Row, error)
}

var measurements = []measurement{
	{"writers", "writers' throughput bare, attached, with an event row only, with pg_notify", writers},
	{"latency", "from commit to client at 50 writes a second, against a bare LISTEN loop", latency},
	{"deliveries", "deliveries a second, and server processor time for each", deliveries},
	{"memory", "resident memory of an idle session", memory},
	{"resume", "clients who all come back at once, each with missed events", resume},
	{"bulk", "COPY into a table attached and not", bulk},
	{"wal", "capture from the WAL: what writers pay, latency, decoding, REPLICA IDENTITY FULL, publish()", wal},
	{"log", "a sequencing step, a replay page and a trim batch in small and large logs", logCosts},
	{"idle", "processor time of an idle server", idle},
}

// Names lists the measurements with a line about each, in the order they run.
func Names() (list [][2]string) {
	for _, m := range measurements {
		list = append(list, [2]string{m.name, m.about})
	}
	return list
}

// Run measures. The report is not nil when anything was measured, also beside an error.
func Run(ctx context.Context, options Options) (_ *Report, err error) {
	o := options
	if o.Rounds <= 0 {
		o.Rounds = 3
	}
	if o.Duration <= 0 {
		o.Duration = 10 * time.Second
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	chosen, err := choose(o.Names)
	if err != nil {
		return nil, err
	}
	if runtime.GOOS != "linux" {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "the bench needs Linux: it reads processor time and memory of processes from /proc",
			Hint: "run it in a Linux virtual machine or container"}
	}
	w, err := newWorld(ctx, &o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	report := &Report{Version: o.Version, Began: time.Now(), Rounds: o.Rounds, Duration: o.Duration, Machine: w.machine}
	for _, m := range chosen {
		o.Say(m.name + ": " + m.about)
		var rows []Row
		if rows, err = m.run(ctx, w); err != nil {
			err = fmt.Errorf("measure %s: %w", m.name, err)
			break
		}
		for i := range rows {
			rows[i].Measure = m.name
		}
		report.Rows = append(report.Rows, rows...)
	}
	report.Seconds = time.Since(report.Began).Seconds()
	report.Lost, report.Doubled, report.Deliveries = w.seen.Lost, w.seen.Doubled, w.seen.Delivered
	report.Notes = w.notes
	if err == nil && (report.Lost > 0 || report.Doubled > 0) {
		err = fmt.Errorf("of %d deliveries %d events were lost and %d came twice", report.Deliveries, report.Lost, report.Doubled)
	}
	return report, err
}

func choose(names []string) ([]measurement, error) {
	if len(names) == 0 {
		return measurements, nil
	}
	var list []measurement
	for _, m := range measurements {
		if slices.Contains(names, m.name) {
			list = append(list, m)
		}
	}
	var all []string
	for _, m := range measurements {
		all = append(all, m.name)
	}
	for _, name := range names {
		if !slices.Contains(all, name) {
			return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("there is no measurement %q", name),
				Hint: "they are " + strings.Join(all, ", ")}
		}
	}
	return list, nil
}

// row makes a row of its rounds. target may be nil.
func row(name, what, unit string, rounds []float64, target *Target) Row {
	r := Row{Case: name, What: what, Unit: unit, Rounds: rounds, Figure: quantile(rounds, 0.5), Target: target}
	if target != nil {
		met := r.Figure <= target.Value
		if target.AtLeast {
			met = r.Figure >= target.Value
		}
		r.Met = &met
	}
	return r
}

// ratios divides round by round: what was measured in one turn had the same machine.
func ratios(a, b []float64) []float64 {
	list := make([]float64, min(len(a), len(b)))
	for i := range list {
		if b[i] != 0 {
			list[i] = a[i] / b[i]
		}
	}
	return list
}

// quantile gives the value below which a share of the list lies.
func quantile(list []float64, share float64) float64 {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	if share == 0.5 && len(sorted)%2 == 0 {
		return (sorted[len(sorted)/2-1] + sorted[len(sorted)/2]) / 2
	}
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}
