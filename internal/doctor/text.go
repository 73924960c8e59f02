package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// name writes an identifier for SQL.
func name(ident string) string { return pgx.Identifier{ident}.Sanitize() }

// literal writes a text for SQL.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// shell writes a text for a shell.
func shell(text string) string {
	if strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// oneLine is for errors that list every address they tried.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\t' }), " ")
}

// round shows a duration with as many digits as anybody reads.
func round(d time.Duration) time.Duration {
	switch {
	case d.Abs() >= time.Minute:
		return d.Round(time.Second)
	case d.Abs() >= time.Second:
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// several is "1 table", "2 tables".
func several[N int | int64](n N, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "x"):
		return fmt.Sprintf("%d %ses", n, what)
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// cut keeps the first findings, and says how many more there are.
func cut(list []finding, most int) []finding {
	if len(list) <= most {
		return list
	}
	more := len(list) - most
	last := list[most]
	last.found, last.mend = fmt.Sprintf("and %d more like these", more), mend{}
	return append(list[:most:most], last)
}

// collect reads all rows of a query, made in the check's transaction.
func collect[T any](ctx context.Context, x *exam, query string, args ...any) ([]T, error) {
	rows, err := x.tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

// scalars gives the rows of a query of one column.
func scalars[T any](ctx context.Context, x *exam, query string, args ...any) ([]T, error) {
	rows, err := x.tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[T])
}

// isDenied tells Postgres's "permission denied".
func isDenied(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}
