package pgtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/migrations"
)

// migrated gives the name of a database on which all migrations have run; the first
// process that asks makes it.
func (s *shared) migrated(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.template != "" {
		return s.template, nil
	}
	// Changed migrations make another name, so nobody ever clones an outdated one.
	name := "migrated_" + migrations.Sum()[:16]
	lock, err := devpg.WaitLock(ctx, filepath.Join(s.dir, "template"))
	if err != nil {
		return "", err
	}
	defer lock.Unlock()
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	var whole bool
	err = conn.QueryRow(ctx, "select datistemplate from pg_database where datname = $1", name).Scan(&whole)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", err
	}
	if !whole {
		if err := makeMigrated(ctx, conn, name, s.url(name)); err != nil {
			return "", err
		}
	}
	s.template = name
	return name, nil
}

func makeMigrated(ctx context.Context, conn *pgx.Conn, name, url string) error {
	for _, sql := range []string{
		"drop database if exists " + name + " with (force)", // half made by a process that was killed
		"create database " + name + " template template0",
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	if err := migrations.Up(ctx, url); err != nil {
		return err
	}
	// A template that nobody can be connected to can always be cloned.
	sql := "alter database " + name + " with is_template true allow_connections false"
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// create clones a template.
func (s *shared) create(ctx context.Context, name, template string) error {
	sql := "create database " + name + " template " + template
	if s.at.Version >= 15 {
		// Copying files beats writing them through the WAL, as 14 also does.
		sql += " strategy file_copy"
	}
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// drop drops a database with all that a test may have left in it. What DROP DATABASE
// does not do even WITH (FORCE): end prepared transactions and active replication slots.
func drop(ctx context.Context, url func(string) string, name string) error {
	conn, err := pgx.Connect(ctx, url("postgres"))
	if err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	defer conn.Close(ctx)
	for {
		_, err := conn.Exec(ctx, "drop database if exists "+name+" with (force)")
		if err == nil {
			return nil
		}
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "55006" { // object_in_use
			return fmt.Errorf("drop database %s: %w", name, err)
		}
		if clearErr := clearOut(ctx, conn, url(name), name); clearErr != nil {
			return fmt.Errorf("drop database %s: %w: %w", name, err, clearErr)
		}
		select { // a terminated backend takes a moment to go
		case <-ctx.Done():
			return fmt.Errorf("drop database %s: %w", name, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func clearOut(ctx context.Context, conn *pgx.Conn, url, name string) error {
	if _, err := conn.Exec(ctx, "select pg_terminate_backend(active_pid) from pg_replication_slots where database = $1 and active", name); err != nil {
		return err
	}
	rows, err := conn.Query(ctx, "select gid from pg_prepared_xacts where database = $1", name)
	if err != nil {
		return err
	}
	gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(gids) == 0 {
		return err
	}
	inside, err := pgx.Connect(ctx, url) // they can be ended only from within
	if err != nil {
		return err
	}
	defer inside.Close(ctx)
	for _, gid := range gids {
		quoted, err := inside.PgConn().EscapeString(gid)
		if err != nil {
			return err
		}
		if _, err := inside.Exec(ctx, "rollback prepared '"+quoted+"'"); err != nil {
			return err
		}
	}
	return nil
}
