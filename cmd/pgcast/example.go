package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/pgcast/pgcast/examples"
)

func (a *app) exampleCommand() *cobra.Command {
	var remove bool
	cmd := &cobra.Command{
		Use:     "example [NAME]",
		GroupID: groupServe,
		Short:   "Set up an example application in the running pgcast dev",
		Long: `Set up an example application in the pgcast dev that runs in this directory: its
tables, in a schema of its own, and the URL of its page. Without a name, list them.

The page is served by pgcast dev. Its source, and what can be learned from it, is in
examples/ and docs/examples.md.`,
		Example: `  pgcast example
  pgcast example chat
  pgcast example kanban --remove`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeExamples,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				if remove {
					return usage(invalid("as in pgcast example kanban --remove", "--remove needs the name of an example"))
				}
				return a.listExamples()
			}
			all := examples.All()
			at := slices.IndexFunc(all, func(e examples.Example) bool { return e.Name == args[0] })
			if at < 0 {
				return usage(unknown(closest(args[0], exampleNames()), "there is no example %q; pgcast example lists them", args[0]))
			}
			if remove {
				return a.removeExample(cmd.Context(), &all[at])
			}
			return a.example(cmd.Context(), &all[at])
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	cmd.Flags().BoolVar(&remove, "remove", false, "drop the example's schema, with everything in it")
	return cmd
}

func exampleNames() []string {
	var names []string
	for _, e := range examples.All() {
		names = append(names, e.Name)
	}
	return names
}

func completeExamples(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return exampleNames(), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) listExamples() error {
	t := a.newTable([]string{"name", "what it shows"})
	for _, e := range examples.All() {
		t.add(e.Name, e.About)
	}
	return t.close()
}

// devHere gives the pgcast dev that runs here, whose database is used from now on.
func (a *app) devHere() (*devFile, error) {
	dev, err := runningDev(a.set.DataDir)
	if err != nil {
		return nil, err
	}
	if dev == nil {
		return nil, invalid("start it in another terminal, in this directory: "+commandName()+" dev; or say with --data-dir where it runs",
			"an example needs a pgcast dev, and none runs here")
	}
	a.set.DatabaseURL, a.set.DirectDatabaseURL = dev.DatabaseURL, ""
	return dev, nil
}

func (a *app) example(ctx context.Context, e *examples.Example) error {
	dev, err := a.devHere()
	if err != nil {
		return err
	}
	pool, err := a.connectPool(ctx, 1)
	if err != nil {
		return err
	}
	defer pool.Close()
	if e.Schema != "" {
		if err := makeExample(ctx, pool, e); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(a.out, dev.URL+"examples/"+e.Name+"/"); err != nil {
		return err
	}
	a.sayf("%s\n", e.Try)
	if e.Tick == "" {
		return nil
	}
	return stopped(ctx, keepTicking(ctx, pool, e))
}

// madeByExample is how the comment of an example's schema begins: another one of that name is
// somebody's own.
const madeByExample = "Made by pgcast example"

// makeExample makes an example's schema, or brings it up to date.
func makeExample(ctx context.Context, pool *pgxpool.Pool, e *examples.Example) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := ownSchema(ctx, tx, e); err != nil {
			return err
		}
		// Without arguments pgx sends it as it is, with all its statements.
		if _, err := tx.Conn().PgConn().Exec(ctx, "set local client_min_messages = warning;"+e.SQL()).ReadAll(); err != nil {
			return fmt.Errorf("make schema %s: %w", e.Schema, err)
		}
		return nil
	})
}

// ownSchema tells whether an example's schema is there; one that is not ours is an error.
func ownSchema(ctx context.Context, tx pgx.Tx, e *examples.Example) (there bool, err error) {
	var ours bool
	err = tx.QueryRow(ctx, `select count(*) > 0, coalesce(bool_and(coalesce(starts_with(obj_description(oid, 'pg_namespace'), $2), false)), true)
		from pg_namespace where nspname = $1`, e.Schema, madeByExample).Scan(&there, &ours)
	if err != nil {
		return false, fmt.Errorf("look for schema %s: %w", e.Schema, err)
	}
	if !ours {
		return false, invalid("use another database", "this database has a schema %s that is not pgcast's", e.Schema)
	}
	return there, nil
}

// keepTicking makes something happen every half second until ctx ends.
func keepTicking(ctx context.Context, pool *pgxpool.Pool, e *examples.Example) error {
	pause := time.NewTicker(500 * time.Millisecond)
	defer pause.Stop()
	for {
		if _, err := pool.Exec(ctx, e.Tick); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
	}
}

func (a *app) removeExample(ctx context.Context, e *examples.Example) error {
	if e.Schema == "" {
		a.sayf("%s has no tables: there is nothing to remove but its events, which go with time\n", e.Name)
		return nil
	}
	if _, err := a.devHere(); err != nil {
		return err
	}
	pool, err := a.connectPool(ctx, 1)
	if err != nil {
		return err
	}
	defer pool.Close()
	var there bool
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if there, err = ownSchema(ctx, tx, e); err != nil || !there {
			return err
		}
		if _, err := tx.Exec(ctx, `select pgcast.detach(a.relation) from pgcast.attachment a join pg_class c on c.oid = a.relation
			where c.relnamespace = to_regnamespace($1)`, e.Schema); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "set local client_min_messages = warning; drop schema "+pgx.Identifier{e.Schema}.Sanitize()+" cascade")
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("remove schema %s: %w", e.Schema, err)
	case there:
		a.sayf("schema %s is gone\n", e.Schema)
	default:
		a.sayf("there is no schema %s\n", e.Schema)
	}
	return nil
}
