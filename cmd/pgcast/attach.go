package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
)

// attachment is what pgcast.attach is told.
type attachment struct {
	table   string
	topic   *string // nil: the table's name
	columns []string
	except  []string
	old     bool
	numbers string
	capture string
	wait    time.Duration
}

const (
	byWAL    = "wal"
	makeSlot = "select pgcast.open_slot()" // as attach_sql() gives it
)

func (a *app) attachCommand() *cobra.Command {
	var at attachment
	var topic string
	var script bool
	cmd := &cobra.Command{
		Use:     "attach TABLE",
		GroupID: groupTable,
		Short:   "Make a table's writes events",
		Long: `Make a table's writes events: created, updated, deleted and truncated, in the
transaction that writes, and delivered once that has committed.

Columns in the topic are replaced by the row's values: with room:{room_id} a message of
room 7 is an event of topic room:7. A row that moves to another topic is deleted on the
old one and created on the new.

With --capture wal the writes are read from the WAL instead of by triggers: writers pay next
to nothing. That takes wal_level = logical, the table's owner, and a role that may replicate.
The replication slot is made first, if there is none; it waits for the transactions that are
open, and who holds it up is said. The last detach drops it.

Attaching again replaces all options. Names are written as in SQL, so a table's name with
capital letters needs quotes: 'public."Messages"'.`,
		Example: `  pgcast attach public.messages --topic 'room:{room_id}'
  pgcast attach users --except password_hash,email
  pgcast attach prices --numbers text --old
  pgcast attach public.orders --capture wal
  pgcast attach public.messages --print > migration.sql`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeTables(attachableTables),
		RunE: func(cmd *cobra.Command, args []string) error {
			at.table = args[0]
			if at.columns != nil && at.except != nil {
				return usage(invalid("--columns lists what is captured, --except what is not", "attach takes --columns or --except, not both"))
			}
			if cmd.Flags().Changed("topic") {
				at.topic = &topic
			}
			if script {
				return a.printStatements(cmd.Context(),
					`select pgcast.attach_sql($1::text::regclass, $2, $3, $4, $5, $6, $7)`, at.args()...)
			}
			return a.attach(cmd.Context(), &at)
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	f := cmd.Flags()
	f.StringVar(&topic, "topic", "", "`template` of the topic's name, as room:{room_id} (default the table's name)")
	f.StringSliceVar(&at.columns, "columns", nil, "capture only these `columns`, separated by commas; the key must be among them")
	f.StringSliceVar(&at.except, "except", nil, "capture all `columns` but these")
	f.BoolVar(&at.old, "old", false, "let updates and deletes carry the old values, not only the old key")
	f.StringVar(&at.numbers, "numbers", "json", "bigint and numeric as `json` numbers, or as text: JavaScript rounds above 2^53")
	f.StringVar(&at.capture, "capture", "trigger", "how writes are captured: by `trigger`, or from the wal")
	addWait(f, &at.wait)
	f.BoolVar(&script, "print", false, "print the SQL instead of running it")
	_ = cmd.RegisterFlagCompletionFunc("numbers", cobra.FixedCompletions([]string{"json", "text"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("capture", cobra.FixedCompletions([]string{"trigger", byWAL}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (at *attachment) args() []any {
	return []any{at.table, at.topic, at.columns, at.except, at.old, at.numbers, at.capture}
}

func (a *app) attach(ctx context.Context, at *attachment) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	closes, err := isByWAL(ctx, conn, at.table) // before anything is waited for: there may be no such table
	if err != nil {
		return err
	}
	if at.capture == byWAL {
		if err := mayAttach(ctx, conn, at); err != nil {
			return err
		}
	}
	var template string
	// A server that runs drops a slot without tables, and may come in between.
	for tries := 3; tries > 0; tries-- {
		if at.capture == byWAL {
			made, err := a.openSlot(ctx, conn, at.wait)
			if err != nil {
				return err
			}
			closes = closes || made
		}
		err = conn.QueryRow(ctx, `select pgcast.attach($1::text::regclass, $2, $3, $4, $5, $6, $7)`, at.args()...).Scan(&template)
		if at.capture != byWAL || !isPostgres(err, "55000") || !lacksSlot(ctx, conn) {
			break
		}
	}
	// A slot that was made for this table only, or that has served it only till now.
	if closes {
		if closeErr := a.closeSlot(ctx, conn); err == nil {
			err = closeErr
		}
	}
	if err != nil {
		return err
	}
	a.sayf("%s is attached: its writes are events of %s\n", plain(at.table), plain(template))
	a.sayf("%s\n", a.paint(a.err).dim("watch them with: "+commandName()+" tail '"+plain(patternOf(template))+"'"))
	return nil
}

// mayAttach has a table refused before the slot is made, which may take long.
func mayAttach(ctx context.Context, conn *pgx.Conn, at *attachment) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local client_min_messages = warning"); err != nil { // what is worth knowing is told once
			return err
		}
		_, err := tx.Exec(ctx, `select pgcast.attach_sql($1::text::regclass, $2, $3, $4, $5, $6, $7)`, at.args()...)
		return err
	})
}

func isByWAL(ctx context.Context, conn *pgx.Conn, table string) (is bool, err error) {
	err = conn.QueryRow(ctx, "select exists (select from pgcast.attachment a where a.relation = $1::text::regclass and a.via = $2)", table, byWAL).Scan(&is)
	return is, err
}

// patternOf gives a pattern that selects a template's topics.
func patternOf(template string) string {
	segments := strings.Split(template, ":")
	for i, s := range segments {
		if strings.ContainsAny(s, "{}") {
			segments[i] = "*"
		}
	}
	return strings.Join(segments, ":")
}

func (a *app) detachCommand() *cobra.Command {
	var script bool
	cmd := &cobra.Command{
		Use:     "detach TABLE",
		GroupID: groupTable,
		Short:   "Take away what attach has made",
		Long: `Take away everything that attach has made in a table. What was captured stays in
the log. With the last table that is captured from the WAL goes the replication slot.`,
		Example: `  pgcast detach public.messages
  pgcast detach public.messages --print`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeTables(attachedTables),
		RunE: func(cmd *cobra.Command, args []string) error {
			if script {
				return a.printStatements(cmd.Context(), `select pgcast.detach_sql($1::text::regclass)`, args[0])
			}
			return a.detach(cmd.Context(), args[0])
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	cmd.Flags().BoolVar(&script, "print", false, "print the SQL instead of running it")
	return cmd
}

func (a *app) detach(ctx context.Context, table string) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	closes, err := isByWAL(ctx, conn, table)
	if err != nil {
		return err
	}
	if closes { // what becomes of the slot is said by us
		if _, err := conn.Exec(ctx, "set client_min_messages = warning"); err != nil {
			return err
		}
	}
	var was bool
	if err := conn.QueryRow(ctx, `select pgcast.detach($1::text::regclass)`, table).Scan(&was); err != nil {
		return err
	}
	if was {
		a.sayf("%s is detached\n", plain(table))
	} else {
		a.sayf("%s was not attached\n", plain(table))
	}
	if !closes {
		return nil
	}
	return a.closeSlot(ctx, conn)
}

// printStatements prints, as a script of one transaction, what a query gives. To make the
// slot comes before: it waits for the transactions that are open.
func (a *app) printStatements(ctx context.Context, query string, args ...any) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(statements) == 0 {
		return err
	}
	if rest := slices.DeleteFunc(statements, func(s string) bool { return s == makeSlot }); len(rest) < len(statements) {
		statements = rest
		before := "-- Makes the replication slot, if there is none, as soon as the transactions that are open\n" +
			"-- have ended. In a transaction of its own: Postgres makes no slot in one that has written.\n" + makeSlot + ";\n\n"
		if _, err := fmt.Fprint(a.out, before); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(a.out, "begin;\n%s;\ncommit;\n", strings.Join(statements, ";\n"))
	return err
}

const (
	attachableTables = `select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't'
		and n.nspname not in ('pgcast', 'pg_catalog', 'information_schema') and c.relname not like 'pgcast\_%' order by 1`
	attachedTables = `select relation::text from pgcast.attachment order by 1`
)

// completeTables lets the shell complete a table's name, where a database answers.
func (a *app) completeTables(query string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if len(args) > 0 {
			return nil, none
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		names, err := a.listTables(ctx, cmd, query)
		if err != nil {
			cobra.CompDebugln(err.Error(), false)
		}
		return names, none
	}
}

func (a *app) listTables(ctx context.Context, cmd *cobra.Command, query string) (names []string, err error) {
	if a.set, _, err = load(cmd.Flags(), a.environ); err != nil {
		return nil, err
	}
	conn, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
