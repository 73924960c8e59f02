package main

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgcast/pgcast/internal/roles"
)

func (a *app) rolesCommand() *cobra.Command {
	var o roles.Options
	var print, apply bool
	cmd := &cobra.Command{
		Use:     "roles",
		GroupID: groupTable,
		Short:   "Divide the rights in a database among an owner, servers and writers",
		Long: `Print the SQL that divides the rights in a database among three roles, or run it:

  owner   nobody can log in as it; schema pgcast and all that is in it belong to it
  server  servers run as it; it numbers events and trims them, and can add and change none
  writer  the application's role is made a member of it; it can publish, and nothing else.
          What it writes to attached tables is captured with the owner's rights

Run it after pgcast migrate up, and again after a migration or after a table was attached: it
gives what is missing, and takes back what is too much. It takes a superuser, or the role that
migrated if that may make roles. Members of the owner migrate and attach; servers must not be.`,
		Example: `  pgcast roles --print | psql
  pgcast roles --apply
  pgcast roles --apply --wal    # capture from the WAL, or be woken by it`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if print && apply {
				return usage(invalid("choose one", "--print and --apply ask for opposites"))
			}
			return a.divide(cmd.Context(), o, apply)
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	addRoles(cmd.Flags(), &o)
	cmd.Flags().BoolVar(&o.WAL, "wal", false, "servers capture from the WAL or are woken by it: gives them REPLICATION")
	cmd.Flags().BoolVar(&print, "print", false, "print the SQL, and change nothing (the default)")
	cmd.Flags().BoolVar(&apply, "apply", false, "run it, in one transaction")
	return cmd
}

// addRoles adds the flags that name the roles.
func addRoles(flags *pflag.FlagSet, o *roles.Options) {
	names := roles.Options{}.Set()
	flags.StringVar(&o.Owner, "owner", names.Owner, "the `role` that everything belongs to")
	flags.StringVar(&o.Server, "server", names.Server, "the `role` that servers run as")
	flags.StringVar(&o.Writer, "writer", names.Writer, "the `role` that applications are members of")
}

func (a *app) divide(ctx context.Context, o roles.Options, apply bool) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	sections, err := roles.Script(ctx, conn, o)
	if err != nil {
		return err
	}
	if !apply {
		return a.printRoles(sections)
	}
	statements := 0
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, s := range sections {
			for _, sql := range s.Statements {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return fmt.Errorf("%s: %w", sql, err)
				}
				statements++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	o = o.Set()
	a.sayf("ran %d statements: servers run as %s, applications are members of %s, all belongs to %s\n", statements, plain(o.Server), plain(o.Writer), plain(o.Owner))
	return nil
}

func (a *app) printRoles(sections []roles.Section) error {
	out := bufio.NewWriter(a.out)
	fmt.Fprintln(out, "begin;")
	for _, s := range sections {
		fmt.Fprintf(out, "\n-- %s\n", strings.ReplaceAll(strings.TrimSpace(s.About), "\n", "\n-- "))
		for _, sql := range s.Statements {
			fmt.Fprintf(out, "%s;\n", sql)
		}
	}
	fmt.Fprintln(out, "\ncommit;")
	return out.Flush()
}
