package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/pgcast/pgcast/internal/console"
	"github.com/pgcast/pgcast/internal/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:     "doctor",
		GroupID: groupServe,
		Short:   "Look for everything that can be wrong, and say what mends it",
		Long: `Look at the database, the schema, the attached tables, the sequencer, Redis if there is one,
and this machine for everything that can be wrong. Nothing is changed, but with --fix. Give it the settings that the servers
have, best on a machine where one runs, and as the same database role.

Each line has a state: ok; note, worth knowing; warn, not as it should be, or not for
long; fail, does not work; skip, not looked at because something else is wrong. Below
what is not ok stands why it matters and what mends it: SQL for pgcast sql or psql, or a
command for the shell.

With --fix it first mends what can be mended without asking, and says each thing it has done: a
replication slot of this database by which no table is captured any more is dropped, publications
that are missing are made, what capture has left behind is moved or deleted, and capture is made
anew for tables that have changed. On a database where all is well it changes nothing.

The exit code is 1 if anything failed, with --strict also if there is a warning.`,
		Example: `  pgcast doctor
  pgcast doctor --strict --quiet || echo 'somebody should look at this'
  pgcast doctor --fix
  pgcast doctor --json | jq -r 'select(.state == "fail") | .mend'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context(), o) },
	}
	addSettings(cmd.Flags(), forDatabase|forServer)
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "one JSON object per line")
	cmd.Flags().BoolVar(&o.strict, "strict", false, "fail also if there is a warning")
	cmd.Flags().BoolVar(&o.quiet, "quiet", false, "list only what failed, and warnings")
	cmd.Flags().BoolVar(&o.fix, "fix", false, "first mend what can be mended without asking")
	cmd.Flags().BoolVar(&o.verbose, "verbose", false, "say of everything why it matters")
	return cmd
}

type doctorOptions struct{ asJSON, strict, quiet, verbose, fix bool }

func (a *app) doctor(ctx context.Context, o doctorOptions) error {
	if o.quiet && o.verbose {
		return usage(invalid("choose one", "--quiet and --verbose ask for opposites"))
	}
	if err := a.findDatabase(); err != nil {
		return err
	}
	count := map[doctor.State]int{}
	lines := json.NewEncoder(a.out)
	lines.SetEscapeHTML(false)
	tell := func(r doctor.Result) error {
		count[r.State]++
		switch {
		case o.quiet && r.State != doctor.Fail && r.State != doctor.Warn && r.State != doctor.Fixed:
			return nil
		case o.asJSON:
			return lines.Encode(r)
		}
		return a.printFinding(r, o.verbose)
	}
	d := doctor.New(a.doctorOptions())
	if o.fix {
		if err := d.Fix(ctx, tell); err != nil {
			return err
		}
		if count[doctor.Fixed]+count[doctor.Fail] == 0 {
			a.sayf("nothing to mend that --fix may\n")
		}
	}
	if err := d.Run(ctx, tell); err != nil {
		return err
	}
	a.sayf("%s\n", a.paint(a.err).dim(summary(count)))
	switch {
	case count[doctor.Fail] > 0:
		return invalid("what mends each thing is told below it", "%d of the things looked at failed", count[doctor.Fail])
	case o.strict && count[doctor.Warn] > 0:
		return invalid("what mends each thing is told below it", "there are warnings, and --strict was given")
	}
	return nil
}

// doctorOptions hands the settings on.
func (a *app) doctorOptions() *doctor.Options {
	s := a.set
	options := &doctor.Options{DatabaseURL: s.DatabaseURL, DirectDatabaseURL: s.directURL(), Wake: s.Wake,
		PoolSize: s.PoolSize, Access: s.access().On, RetentionEvery: s.RetentionEvery,
		RedisURL: s.Live.RedisURL, RedisPrefix: s.Live.RedisPrefix, RedisCAFile: s.Live.RedisCAFile}
	if s.given("max-sessions") {
		options.MaxSessions = s.MaxSessions
	}
	return options
}

// health has the doctor look, for the console.
func (a *app) health(ctx context.Context) (list []console.Finding, err error) {
	err = doctor.New(a.doctorOptions()).Run(ctx, func(r doctor.Result) error {
		list = append(list, console.Finding{Name: r.Name, State: string(r.State), Found: r.Found, Why: r.Why, Mend: r.Mend, MendWith: string(r.With)})
		return nil
	})
	return list, err
}

// doctorColumn is how wide the names are; the longest has as many letters.
var doctorColumn = func() (width int) {
	for _, name := range doctor.Names() {
		width = max(width, utf8.RuneCountInString(name))
	}
	return width
}()

// printFinding prints one result: a line, and below it what to do where something is to
// be done. The lines of a result but the first begin with blanks.
func (a *app) printFinding(r doctor.Result, verbose bool) error {
	p := a.paint(a.out)
	style := map[doctor.State]func(string) string{doctor.OK: p.green, doctor.Note: p.cyan, doctor.Warn: p.yellow, doctor.Fail: p.red, doctor.Skip: p.dim, doctor.Fixed: p.magenta}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s  %s\n", style[r.State](fmt.Sprintf("%-4s", r.State)), p.bold(fmt.Sprintf("%-*s", doctorColumn, r.Name)), plain(r.Found))
	if verbose || r.State != doctor.OK && r.State != doctor.Skip && r.State != doctor.Fixed {
		fmt.Fprintf(&b, "      %s %s\n", p.dim("why: "), r.Why)
	}
	if r.Mend != "" {
		label := map[doctor.With]string{doctor.SQL: "SQL: ", doctor.Shell: "run: ", doctor.Words: "mend:"}[r.With]
		fmt.Fprintf(&b, "      %s %s\n", p.dim(label), plain(r.Mend))
	}
	_, err := fmt.Fprint(a.out, b.String())
	return err
}

func summary(count map[doctor.State]int) string {
	var parts []string
	for _, s := range []doctor.State{doctor.Fixed, doctor.OK, doctor.Note, doctor.Warn, doctor.Fail, doctor.Skip} {
		if n := count[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	return strings.Join(parts, ", ")
}
