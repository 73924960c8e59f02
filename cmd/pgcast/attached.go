package main

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
)

func (a *app) attachedCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "attached",
		GroupID: groupTable,
		Short:   "List the attached tables",
		Long: `List the attached tables, how they were attached, and in what they have drifted from
that since: columns that are gone, partitions without capture, disabled triggers.`,
		Example: `  pgcast attached
  pgcast attached --json | jq -r .table`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.attached(cmd.Context(), asJSON) },
	}
	addSettings(cmd.Flags(), forDatabase)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object per table")
	return cmd
}

// attachedRow is one line of the list.
type attachedRow struct {
	Table      string    `json:"table"`
	Topic      string    `json:"topic"`
	Columns    []string  `json:"columns"`
	Except     []string  `json:"except"`
	Old        bool      `json:"old"`
	Numbers    string    `json:"numbers"`
	AttachedAt time.Time `json:"attached_at"`
}

func (a *app) attached(ctx context.Context, asJSON bool) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `select relation::text, topic, columns, without, old, numbers, attached_at
		from pgcast.attachment order by 1`)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[attachedRow])
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(a.out)
		enc.SetEscapeHTML(false)
		for _, r := range list {
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	if len(list) == 0 {
		a.sayf("no table is attached; attach one with: %s attach TABLE\n", commandName())
	}
	t := a.newTable([]string{"table", "topic", "columns", "options"})
	for _, r := range list {
		t.add(r.Table, r.Topic, r.columns(), r.options())
	}
	return t.close()
}

func (r *attachedRow) columns() string {
	switch {
	case r.Columns != nil:
		return strings.Join(r.Columns, ", ")
	case r.Except != nil:
		return "all but " + strings.Join(r.Except, ", ")
	}
	return "all"
}

func (r *attachedRow) options() string {
	var list []string
	if r.Old {
		list = append(list, "old")
	}
	if r.Numbers != "json" {
		list = append(list, "numbers as "+r.Numbers)
	}
	return strings.Join(list, ", ")
}
