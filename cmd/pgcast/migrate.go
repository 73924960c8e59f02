package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/spf13/cobra"

	"github.com/pgcast/pgcast/migrations"
)

func (a *app) migrateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "migrate",
		GroupID: groupTable,
		Short:   "Bring schema pgcast up to date, or take it back",
		Long: `Bring schema pgcast in a database up to date, or take it back.

The migrations are in the program; no files are needed. They run under a lock, so any
number of servers may start at once. The stock goose command runs the same files.`,
		Example: `  pgcast migrate up --database-url postgres://me@localhost/app
  pgcast migrate status`,
		Args: needsCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var yes, asJSON bool
	up := &cobra.Command{
		Use:   "up",
		Short: "Run the migrations that have not run yet",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.migrateUp(cmd.Context()) },
	}
	down := &cobra.Command{
		Use:   "down",
		Short: "Take back the newest migration",
		Long: `Take back the newest migration. Taking back the first one drops schema pgcast, with
the whole log in it; nothing is taken back without --yes.`,
		Example: "  pgcast migrate down --yes",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.migrateDown(cmd.Context(), yes) },
	}
	down.Flags().BoolVar(&yes, "yes", false, "really do it")
	status := &cobra.Command{
		Use:   "status",
		Short: "List the migrations and when they ran",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.migrateStatus(cmd.Context(), asJSON) },
	}
	status.Flags().BoolVar(&asJSON, "json", false, "one JSON object per line")
	for _, sub := range []*cobra.Command{up, down, status} {
		addSettings(sub.Flags(), forDatabase)
		cmd.AddCommand(sub)
	}
	return cmd
}

func (a *app) migrateUp(ctx context.Context) error {
	if err := a.findDatabase(); err != nil {
		return err
	}
	return a.migrateTo(ctx, a.set.directURL())
}

// migrateTo brings a database up to date and says what that took.
func (a *app) migrateTo(ctx context.Context, databaseURL string) error {
	list, err := migrations.Status(ctx, databaseURL)
	if err != nil {
		return err
	}
	pending := pendingMigrations(list)
	if len(pending) > 0 {
		if err := migrations.Up(ctx, databaseURL); err != nil {
			return err
		}
	}
	for _, m := range pending {
		a.sayf("ran %s\n", filepath.Base(m.Source.Path))
	}
	if len(pending) == 0 {
		a.sayf("schema pgcast is up to date\n")
	}
	return nil
}

func (a *app) migrateDown(ctx context.Context, yes bool) error {
	if err := a.findDatabase(); err != nil {
		return err
	}
	list, err := migrations.Status(ctx, a.set.directURL())
	if err != nil {
		return err
	}
	var newest *goose.MigrationStatus
	for _, m := range list {
		if m.State == goose.StateApplied {
			newest = m
		}
	}
	if newest == nil {
		a.sayf("nothing to take back: this database has no schema pgcast\n")
		return nil
	}
	name := filepath.Base(newest.Source.Path)
	if !yes {
		what := "takes back " + name
		if newest == list[0] {
			what = "drops schema pgcast with the whole log"
		}
		return invalid("add --yes if that is what you want", "this %s", what)
	}
	if err := migrations.Down(ctx, a.set.directURL()); err != nil {
		return err
	}
	a.sayf("took back %s\n", name)
	return nil
}

func (a *app) migrateStatus(ctx context.Context, asJSON bool) error {
	if err := a.findDatabase(); err != nil {
		return err
	}
	list, err := migrations.Status(ctx, a.set.directURL())
	if err != nil {
		return err
	}
	enc := json.NewEncoder(a.out)
	t := a.newTable([]string{"version", "migration", "ran"})
	for _, m := range list {
		name, ran := filepath.Base(m.Source.Path), ""
		if m.State == goose.StateApplied {
			ran = m.AppliedAt.UTC().Format(time.RFC3339)
		}
		if asJSON {
			line := map[string]any{"version": m.Source.Version, "migration": name, "ran": nil}
			if ran != "" {
				line["ran"] = ran
			}
			if err := enc.Encode(line); err != nil {
				return err
			}
			continue
		}
		if ran == "" {
			ran = "no"
		}
		t.add(name[:5], name, ran)
	}
	if asJSON {
		return nil
	}
	return t.close()
}

func pendingMigrations(list []*goose.MigrationStatus) []*goose.MigrationStatus {
	var pending []*goose.MigrationStatus
	for _, m := range list {
		if m.State == goose.StatePending {
			pending = append(pending, m)
		}
	}
	return pending
}
