package migrations

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Versions lists the versions of the migrations in this program, oldest first. To know
// which of them a database has, without making goose's table where there is none, compare
// it with [Table].
func Versions() []int64 {
	names, _ := fs.Glob(files, "*.sql") // sorted; the pattern is well formed, and an embed.FS cannot fail
	var list []int64
	for _, name := range names {
		number, _, _ := strings.Cut(name, "_")
		if v, err := strconv.ParseInt(number, 10, 64); err == nil {
			list = append(list, v)
		}
	}
	return list
}

// Pending lists those of Versions that have not run in a database, all of them where none
// has. It only reads, and waits for nobody: Status would wait for a server that is just
// migrating, or for one that has vanished and whose lock Postgres still keeps.
func Pending(ctx context.Context, databaseURL string) ([]int64, error) {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }() // nothing was written
	rows, _ := conn.Query(ctx, "select version_id from "+Table+" where is_applied", pgx.QueryExecModeSimpleProtocol)
	ran, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if pg := new(pgconn.PgError); errors.As(err, &pg) && pg.Code == "42P01" { // there is no such table
		return Versions(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read which migrations have run: %w", err)
	}
	return slices.DeleteFunc(Versions(), func(v int64) bool { return slices.Contains(ran, v) }), nil
}
