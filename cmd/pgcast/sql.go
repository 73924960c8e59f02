package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/spf13/cobra"

	"github.com/pgcast/pgcast"
)

func (a *app) sqlCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "sql [STATEMENT | -]",
		GroupID: groupData,
		Short:   "Run SQL in the configured database",
		Long: `Run SQL in the configured database, for machines without psql.

The statement is an argument, or comes on standard input. Several, separated by
semicolons, are one transaction, unless they begin and commit their own. Rows are
printed as a table on a terminal, separated by tabs otherwise. COPY to standard output
and from standard input works as a statement of its own.`,
		Example: `  pgcast sql "select * from pgcast.history order by position desc limit 10"
  pgcast sql < schema.sql
  pgcast sql --json "select * from public.messages" | jq .body
  pgcast sql "copy public.messages to stdout" > messages.tsv`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			arg := "-"
			if len(args) == 1 {
				arg = args[0]
			}
			if len(args) == 0 && isTerminal(a.in) {
				a.sayf("reading SQL from the terminal, Ctrl-D ends it\n")
			}
			statement, err := a.readArgument(arg)
			if err != nil {
				return err
			}
			if strings.TrimSpace(statement) == "" {
				return usage(invalid(`as in pgcast sql "select 1"`, "no SQL to run"))
			}
			in, out, alone := copyWay(statement)
			if err := checkCopy(in, out, alone, arg == "-"); err != nil {
				return err
			}
			return a.sql(cmd.Context(), statement, asJSON, in, out)
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object per row")
	return cmd
}

func (a *app) sql(ctx context.Context, statement string, asJSON, copiesIn, copiesOut bool) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if copiesIn || copiesOut {
		return a.copy(ctx, conn, statement, copiesIn)
	}
	// The simple protocol takes several statements, and gives values as Postgres prints them.
	results := conn.PgConn().Exec(ctx, statement)
	for results.NextResult() {
		if err := a.printResult(results.ResultReader(), asJSON); err != nil {
			return errors.Join(err, results.Close())
		}
	}
	if err := results.Close(); err != nil {
		return sqlError(err, statement)
	}
	return nil
}

func (a *app) printResult(r *pgconn.ResultReader, asJSON bool) error {
	fields := r.FieldDescriptions()
	header := make([]string, len(fields))
	for i, f := range fields {
		header[i] = f.Name
	}
	var err error
	switch {
	case len(fields) == 0:
	case asJSON:
		err = a.printJSONRows(r, fields)
	default:
		t := a.newTable(header)
		for r.NextRow() {
			row := make([]string, len(header))
			for i, v := range r.Values() {
				row[i] = string(v)
			}
			t.add(row...)
		}
		err = t.close()
	}
	tag, closeErr := r.Close()
	if err == nil && closeErr == nil && tag.String() != "" {
		a.sayf("%s\n", a.paint(a.err).dim(tag.String()))
	}
	return err // a failed statement is reported by the reader of all results
}

func (a *app) printJSONRows(r *pgconn.ResultReader, fields []pgconn.FieldDescription) error {
	names := jsonNames(fields)
	w := bufio.NewWriter(a.out)
	for r.NextRow() {
		w.WriteByte('{')
		for i, v := range r.Values() {
			if i > 0 {
				w.WriteByte(',')
			}
			w.Write(names[i])
			w.WriteByte(':')
			w.Write(jsonValue(fields[i].DataTypeOID, v))
		}
		w.WriteString("}\n")
	}
	return w.Flush()
}

// jsonNames are the columns' names as members of an object: a name that comes again
// gets a number, since readers keep only one of two members with the same name.
func jsonNames(fields []pgconn.FieldDescription) [][]byte {
	seen, names := map[string]int{}, make([][]byte, len(fields))
	for i, f := range fields {
		name := f.Name
		if seen[f.Name]++; seen[f.Name] > 1 {
			name += "_" + strconv.Itoa(seen[f.Name])
		}
		names[i] = jsonText(name)
	}
	return names
}

func jsonText(s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string can always be encoded
	return bytes.TrimRight(b.Bytes(), "\n")
}

// jsonValue turns a value as Postgres prints it into JSON: numbers, booleans and JSON as
// what they are, everything else as a string.
func jsonValue(oid uint32, v []byte) []byte {
	if v == nil {
		return []byte("null")
	}
	switch oid {
	case pgtype.BoolOID:
		if string(v) == "t" {
			return []byte("true")
		}
		return []byte("false")
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID,
		pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID:
		if json.Valid(v) { // NaN and Infinity are not
			return bytes.Clone(v)
		}
	case pgtype.JSONOID, pgtype.JSONBOID:
		var b bytes.Buffer
		if json.Compact(&b, v) == nil {
			return b.Bytes()
		}
	}
	return jsonText(string(v))
}

// sqlError adds the place in the statement to what Postgres says about it.
func sqlError(err error, statement string) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	known, ok := explain(err).(*pgcast.Error)
	if !ok || pg.Position == 0 {
		return err
	}
	known.Message += "\n" + pointAt(statement, int(pg.Position))
	return known
}

// pointAt shows the line of a statement that has its nth character, and marks it.
func pointAt(statement string, n int) string {
	runes := []rune(statement)
	at := min(max(n-1, 0), len(runes))
	before := string(runes[:at])
	start := strings.LastIndexByte(before, '\n') + 1
	line, _, _ := strings.Cut(statement[start:], "\n")
	label := "LINE " + strconv.Itoa(strings.Count(before, "\n")+1) + ": "
	column := utf8.RuneCountInString(before[start:])
	const around = 60 // a long line is cut to what is near the mark
	shown := []rune(line)
	if column > around {
		cut := column - around
		shown, column, label = shown[cut:], around, label+"…"
	}
	if len(shown) > column+around {
		shown = append(shown[:column+around:column+around], '…')
	}
	return label + plain(string(shown)) + "\n" + strings.Repeat(" ", utf8.RuneCountInString(label)+column) + "^"
}
