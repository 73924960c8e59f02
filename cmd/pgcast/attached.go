package main

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
)

func (a *app) attachedCommand() *cobra.Command {
	var asJSON, check bool
	cmd := &cobra.Command{
		Use:     "attached",
		GroupID: groupTable,
		Short:   "List the attached tables, and what is wrong with them",
		Long: `List the attached tables and how they were attached. Where one is not captured as it
should be any more, because it was altered, has a new partition or a disabled trigger,
that is said on standard error, with the SQL that mends it.

With --check only such problems are listed, and the exit code is 1 if there are any.`,
		Example: `  pgcast attached
  pgcast attached --json | jq -r .table
  pgcast attached --check || echo 'somebody should look at this'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if check {
				return a.checkAttached(cmd.Context(), asJSON)
			}
			return a.attached(cmd.Context(), asJSON)
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object per line")
	cmd.Flags().BoolVar(&check, "check", false, "list only what is wrong, and fail if anything is")
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
	Capture    string    `json:"capture"` // trigger or wal
	AttachedAt time.Time `json:"attached_at"`
	Enforced   *string   `json:"enforced"` // the role as which callers see its rows; null: they see all
}

func (a *app) attached(ctx context.Context, asJSON bool) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	list, err := collect[attachedRow](ctx, conn,
		`select case when c.oid is null then a.relation::text else format('%I.%I', n.nspname, c.relname) end, topic, columns, without, old, numbers, via, attached_at, e.role
		from pgcast.attachment a left join pgcast.enforcement e on e.relation = a.relation left join pg_class c on c.oid = a.relation left join pg_namespace n on n.oid = c.relnamespace order by 1`)
	if err != nil {
		return err
	}
	problems, err := collect[drift](ctx, conn, driftQuery)
	if err != nil {
		return err
	}
	if asJSON {
		err = printLines(a, list)
	} else {
		if len(list) == 0 {
			a.sayf("no table is attached; attach one with: %s attach TABLE\n", commandName())
		}
		t := a.newTable([]string{"table", "topic", "columns", "capture", "options"})
		for _, r := range list {
			t.add(r.Table, r.Topic, r.columns(), r.Capture, r.options())
		}
		err = t.close()
	}
	p := a.paint(a.err)
	for _, d := range problems {
		a.sayf("%s %s: %s\n%s %s\n", p.yellow("drift:"), plain(d.Table), plain(d.Problem), p.dim(" mend:"), plain(d.Mend))
	}
	return err
}

// drift is a table that is not captured as it should be.
type drift struct {
	Table   string `json:"table"`
	Problem string `json:"problem"`
	Mend    string `json:"mend"`
}

const driftQuery = `select relation, problem, mend from pgcast.drift()`

func (a *app) checkAttached(ctx context.Context, asJSON bool) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	problems, err := collect[drift](ctx, conn, driftQuery)
	if err != nil || len(problems) == 0 {
		return err
	}
	if asJSON {
		err = printLines(a, problems)
	} else {
		t := a.newTable([]string{"table", "problem", "mend"})
		for _, d := range problems {
			t.add(d.Table, d.Problem, d.Mend)
		}
		err = t.close()
	}
	if err != nil {
		return err
	}
	return invalid("run the statements in the last column as the owner of the table", "what is attached has drifted in %d places", len(problems))
}

func collect[T any](ctx context.Context, conn *pgx.Conn, query string) ([]T, error) {
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
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
	if r.Enforced != nil {
		list = append(list, "rows as "+*r.Enforced+" sees them")
	}
	return strings.Join(list, ", ")
}
