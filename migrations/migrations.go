// Package migrations holds the goose migrations that make schema pgcast, embedded in
// the binary. The stock goose command runs the same files:
//
//	goose -dir migrations -table pgcast_goose_db_version postgres "$URL" up
package migrations

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib" // the database/sql driver goose runs on
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Table is where goose notes which migrations have run. It has a name of its own so
// that pgcast's migrations and a team's own never mix up their version numbers.
const Table = "pgcast_goose_db_version"

//go:embed *.sql
var files embed.FS

// Sum is a hash over all migration files; it changes whenever one of them does.
func Sum() string {
	h := sha256.New()
	names, _ := fs.Glob(files, "*.sql") // the pattern is well formed, and an embed.FS cannot fail
	for _, name := range names {
		text, _ := files.ReadFile(name)
		fmt.Fprintf(h, "%s %d\n", name, len(text))
		h.Write(text)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Up runs every migration that has not run yet, under a session lock, so that any
// number of servers may start at once.
func Up(ctx context.Context, databaseURL string) error {
	return with(databaseURL, func(p *goose.Provider) error {
		if _, err := p.Up(ctx); err != nil {
			return fmt.Errorf("migrate up: %w", err)
		}
		return nil
	})
}

// Down takes back the newest migration. Taking back the first drops schema pgcast
// with the whole log in it.
func Down(ctx context.Context, databaseURL string) error {
	return with(databaseURL, func(p *goose.Provider) error {
		if _, err := p.Down(ctx); err != nil {
			return fmt.Errorf("migrate down: %w", err)
		}
		return nil
	})
}

// Status lists the migrations, oldest first.
func Status(ctx context.Context, databaseURL string) (list []*goose.MigrationStatus, err error) {
	err = with(databaseURL, func(p *goose.Provider) error {
		if list, err = p.Status(ctx); err != nil {
			return fmt.Errorf("read migration status: %w", err)
		}
		return nil
	})
	return list, err
}

// becomeOwner makes what a migration makes belong to whom everything else does, be it a role
// that nobody can log in as: whoever migrates must be a member of it.
const becomeOwner = `select set_config('role', pg_get_userbyid(n.nspowner), false)
	from pg_namespace n join pg_class c on c.relowner = n.nspowner
	where n.nspname = 'pgcast' and c.relname = '` + Table + `' and c.relkind = 'r' and pg_get_userbyid(n.nspowner) <> current_user and pg_has_role(n.nspowner, 'member')`

func with(databaseURL string, do func(*goose.Provider) error) error {
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, becomeOwner, pgx.QueryExecModeSimpleProtocol)
		return err
	}))
	defer db.Close()
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return fmt.Errorf("make the migration lock: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(Table), goose.WithSessionLocker(locker))
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	return do(p)
}
