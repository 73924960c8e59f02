package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// app is one run of the program: where it reads from and writes to, and what it was
// told. Data goes to out, talk to err.
type app struct {
	in       *os.File
	out, err *os.File
	environ  []string

	began bool      // the arguments were fine and the command runs: set by cobra's pre-run
	set   *settings // what is in force; set by cobra's pre-run
}

// run executes one command line and gives the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if !a.began {
		err = &usageError{err: err, command: cmd.CommandPath()}
	}
	a.report(ctx, err)
	return exitCode(err)
}

const (
	groupServe  = "serve"
	groupData   = "data"
	groupTable  = "table"
	groupAccess = "access"
)

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "pgcast",
		Short: "Stream committed Postgres writes to subscribed clients",
		Long: `pgcast streams committed Postgres writes to subscribed clients: every event is a
row, every topic a sequence without gaps, and a client that was away comes back
without losing or repeating one event.

Try it, no database needed:   pgcast dev
With a database of your own:  pgcast migrate up && pgcast attach public.messages && pgcast serve`,
		Version:       version().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if internalCommand(cmd) {
				a.began = true
				return nil
			}
			set, warnings, err := load(cmd.Flags(), a.environ)
			if err != nil {
				return err
			}
			a.set, a.began = set, true
			for _, w := range warnings {
				a.sayf("pgcast: %s\n", w)
			}
			return nil
		},
		Args: needsCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(suggestFlag)
	root.AddGroup(
		&cobra.Group{ID: groupServe, Title: "Run:"},
		&cobra.Group{ID: groupTable, Title: "Set up a database:"},
		&cobra.Group{ID: groupAccess, Title: "Say who may do what:"},
		&cobra.Group{ID: groupData, Title: "Read and write:"})
	root.SetHelpCommandGroupID("")
	addSettings(root.PersistentFlags(), forAll)
	root.PersistentFlags().StringP("config", "c", "", "settings `file` in YAML (default ./pgcast.yaml if there is one)")
	root.AddCommand(
		a.devCommand(), a.exampleCommand(), a.serveCommand(), a.doctorCommand(),
		a.migrateCommand(), a.attachCommand(), a.detachCommand(), a.attachedCommand(), a.enforceCommand(), a.rolesCommand(), a.uninstallCommand(),
		a.rulesCommand(), a.allowCommand(), a.revokeCommand(), a.keysCommand(),
		a.tailCommand(), a.publishCommand(), a.sqlCommand(),
		a.tokenCommand(),
		a.benchCommand(), a.benchLoadCommand(),
		a.configCommand(), a.versionCommand())
	completeSettings(root)
	return root
}

// internalCommand tells the commands that need no settings, cobra's own and version: they
// must work whatever the settings say.
func internalCommand(cmd *cobra.Command) bool {
	for c := cmd; c != nil; c = c.Parent() {
		switch c.Name() {
		case "version", "help", "completion", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd:
			return true
		}
	}
	return false
}

// needsCommand are the arguments of a command that only has others under it.
func needsCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return unknown(closest(args[0], names), "unknown command %q for %q", args[0], cmd.CommandPath())
}

// suggestFlag adds to cobra's error the flag that was probably meant.
func suggestFlag(cmd *cobra.Command, err error) error {
	var missing *pflag.NotExistError
	if !errors.As(err, &missing) || len(missing.GetSpecifiedName()) < 2 {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
	name := "--" + missing.GetSpecifiedName()
	return unknown(closest(name, names), "unknown flag %s for %q", name, cmd.CommandPath())
}

func unknown(meant, format string, args ...any) error {
	if meant == "" {
		return fmt.Errorf(format, args...)
	}
	return invalid("did you mean "+meant+"?", format, args...)
}

// lookupEnv gives a variable of the environment this run was given.
func lookupEnv(environ []string, name string) string {
	value := ""
	for _, v := range environ {
		if k, text, ok := strings.Cut(v, "="); ok && k == name {
			value = text
		}
	}
	return value
}

// readArgument gives an argument, or standard input where it is "-".
func (a *app) readArgument(arg string) (string, error) {
	if arg != "-" {
		return arg, nil
	}
	text, err := io.ReadAll(a.in)
	return string(text), err
}
