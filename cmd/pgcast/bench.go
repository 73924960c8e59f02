package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgcast/pgcast/internal/bench"
)

func (a *app) benchCommand() *cobra.Command {
	var o bench.Options
	var jsonFile string
	var list strings.Builder
	var names []string
	for _, m := range bench.Names() {
		names = append(names, m[0])
		fmt.Fprintf(&list, "  %-11s %s\n", m[0], m[1])
	}
	cmd := &cobra.Command{
		Use:     "bench [MEASUREMENT...]",
		GroupID: groupServe,
		Short:   "Measure pgcast on this machine, side by side with what it is compared to",
		Long: `Measure pgcast on this machine. What is compared runs side by side, in turns; a figure is
the median of the rounds. Postgres, the server under test and the load are processes of
their own. Needs Linux.

The measurements; without a name all of them run, which takes about half an hour:
` + list.String() + `
A private Postgres with durable commits is started for it. With --database-url, which here
must be given as a flag, another cluster is used: one that nobody else needs meanwhile, as
a superuser. Databases named pgcast_bench_… are made in it and dropped again.

Nothing is left behind, also after Ctrl-C.`,
		Example: `  pgcast bench
  pgcast bench deliveries resume --rounds 5 --json result.json
  pgcast bench deliveries --profile profiles && go tool pprof -top profiles/*.pprof`,
		Args:      cobra.ArbitraryArgs,
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Rounds < 1 || o.Rounds > 25 || o.Duration < 100*time.Millisecond || o.Duration > time.Hour {
				return usage(invalid("--rounds is 1 to 25, --duration 100ms to 1h", "these turns cannot be measured"))
			}
			o.Names = args
			return a.bench(cmd, o, jsonFile)
		},
	}
	addSettings(cmd.Flags(), forBench)
	f := cmd.Flags()
	f.String("database-url", "", "cluster to use instead of a private one, as a `url` of any of its databases")
	f.BoolVar(&o.Full, "full", false, "also measure what takes hours: 10,000,000 events in the log, ten idle minutes")
	f.IntVar(&o.Rounds, "rounds", 3, "turns of each variant; a figure is their median")
	f.DurationVar(&o.Duration, "duration", 10*time.Second, "of one turn")
	f.StringVar(&jsonFile, "json", "", "also write the report as JSON to a `file`; - for standard output, without the table")
	f.StringVar(&o.Profiles, "profile", "", "take processor profiles of the server under its loads, into a `directory`")
	f.BoolVar(&o.Tiny, "tiny", false, "next to no load, to see that everything runs; the figures mean nothing")
	_ = f.MarkHidden("tiny")
	return cmd
}

func (a *app) bench(cmd *cobra.Command, o bench.Options, jsonFile string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	o.Command, o.BinDir, o.Version = []string{exe}, a.set.PGBin, version().version
	if cmd.Flags().Changed("database-url") {
		o.DatabaseURL = a.set.DatabaseURL
	}
	for _, v := range a.environ {
		if !strings.HasPrefix(v, envPrefix) { // settings are not for the server under test
			o.Environ = append(o.Environ, v)
		}
	}
	o.Say = func(line string) { a.sayf("%s\n", line) }
	report, err := bench.Run(cmd.Context(), o)
	if report == nil {
		return err
	}
	if jsonFile != "-" {
		err = errors.Join(err, a.printBench(report))
	}
	if jsonFile != "" {
		err = errors.Join(err, a.writeBench(report, jsonFile))
	}
	return err
}

func (a *app) writeBench(report *bench.Report, path string) error {
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if path == "-" {
		_, err = a.out.Write(text)
		return err
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func (a *app) printBench(r *bench.Report) error {
	t := a.newTable([]string{"measurement", "case", "what", "figure", "unit", "target", "met"})
	for _, row := range r.Rows {
		met := ""
		switch {
		case row.Met == nil:
		case *row.Met:
			met = "yes"
		default:
			met = "NO"
		}
		t.add(row.Measure, row.Case, row.What, significant(row.Figure), row.Unit, row.Target.String(), met)
	}
	if err := t.close(); err != nil {
		return err
	}
	m := r.Machine
	_, err := fmt.Fprintf(a.out, "\n%s, %d cores, Linux %s, Postgres %s (fsync %s), %s; a flush takes %.2f ms\n%d deliveries, %d lost, %d doubled\n",
		m.CPU, m.Cores, m.Kernel, m.Postgres, m.Settings["fsync"], m.Go, m.Fsync, r.Deliveries, r.Lost, r.Doubled)
	for _, n := range r.Notes {
		if err == nil {
			_, err = fmt.Fprintln(a.out, n)
		}
	}
	return err
}

// significant prints about three digits of a figure.
func significant(v float64) string {
	if v >= 100 || v <= -100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// benchLoadCommand is what the bench starts to make its load.
func (a *app) benchLoadCommand() *cobra.Command {
	return &cobra.Command{
		Use:    bench.LoadCommand,
		Short:  "Be the load of a bench: commands come on standard input",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.Load(cmd.Context(), a.in, a.out)
		},
	}
}
