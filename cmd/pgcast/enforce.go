package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) enforceCommand() *cobra.Command {
	var role string
	var claims []string
	var off bool
	cmd := &cobra.Command{
		Use:     "enforce TABLE",
		GroupID: groupTable,
		Short:   "Show a table's rows to subscribers as its policies have it",
		Long: `Show the events and snapshots of an attached table to a caller only as far as Postgres would
show the row, as it is now, to a role with the caller's claims: the table's policies decide,
row by row. Policies find the claims where PostgREST has them, in request.jwt.claims. Of a
row that a caller does not see, or not any more, there is only an event gone with its key.

With --claims only these are told to the policies, and callers that have them in common
share what the database is asked: name them where the policies depend on few.

Who may subscribe to the table's topics at all is for the rules to say. Without access
control nothing is enforced.`,
		Example: `  pgcast enforce public.documents --role authenticated --claims sub
  pgcast enforce public.documents --off`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeTables(attachedTables),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case off && (role != "" || claims != nil):
				return usage(invalid("leave out --role and --claims", "enforce --off takes no other options"))
			case off:
				return a.unenforce(cmd.Context(), args[0])
			case role == "":
				return usage(invalid("name the role that the policies are for: --role authenticated", "enforce needs --role, or --off"))
			}
			return a.enforce(cmd.Context(), args[0], role, claims)
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	f := cmd.Flags()
	f.StringVar(&role, "role", "", "the database `role` as which callers see the rows")
	f.StringSliceVar(&claims, "claims", nil, "the `claims` that the policies depend on, separated by commas (default all)")
	f.BoolVar(&off, "off", false, "show all rows again to whoever may see the topic")
	return cmd
}

func (a *app) enforce(ctx context.Context, table, role string, claims []string) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `select pgcast.enforce($1::text::regclass, $2, $3)`, table, role, claims); err != nil {
		return err
	}
	by := "all claims"
	if claims != nil {
		by = "claims " + strings.Join(claims, ", ")
	}
	a.sayf("%s is shown to each caller as its policies have it, to role %s with %s\n", plain(table), plain(role), plain(by))
	return nil
}

func (a *app) unenforce(ctx context.Context, table string) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var was bool
	if err := conn.QueryRow(ctx, `select pgcast.unenforce($1::text::regclass)`, table).Scan(&was); err != nil {
		return err
	}
	if was {
		a.sayf("%s is shown to all who may see its topics\n", plain(table))
	} else {
		a.sayf("row security of %s was not enforced\n", plain(table))
	}
	return nil
}
