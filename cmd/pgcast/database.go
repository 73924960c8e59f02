package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/migrations"
)

const connectTimeout = 10 * time.Second

// findDatabase settles on the database to use: the one that was given, or else that of
// the pgcast dev running in this directory.
func (a *app) findDatabase() error {
	if a.set.DatabaseURL != "" {
		return a.set.checkDatabase()
	}
	dev, err := runningDev(a.set.DataDir)
	if err != nil {
		return err
	}
	if dev == nil {
		return a.noDatabase()
	}
	a.sayf("%s\n", a.paint(a.err).dim("using the database of the pgcast dev that runs here ("+redact(dev.DatabaseURL)+")"))
	a.set.DatabaseURL = dev.DatabaseURL
	a.set.from["database-url"] = "running pgcast dev"
	return nil
}

func (a *app) noDatabase() error {
	hint := "give one: --database-url postgres://user:password@host:5432/database, or PGCAST_DATABASE_URL, or database-url in pgcast.yaml; or start one here with pgcast dev"
	if lookupEnv(a.environ, "DATABASE_URL") != "" {
		hint = `DATABASE_URL is set; if that is the one, give --database-url "$DATABASE_URL"`
	}
	return invalid(hint, "no database to connect to")
}

// directURL is for what needs a session of its own.
func (s *settings) directURL() string {
	if s.DirectDatabaseURL != "" {
		return s.DirectDatabaseURL
	}
	return s.DatabaseURL
}

// connect opens one connection. What Postgres wants to tell the user goes to stderr.
func (a *app) connect(ctx context.Context) (*pgx.Conn, error) {
	if err := a.findDatabase(); err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(a.set.directURL())
	if err != nil {
		return nil, fmt.Errorf("read database-url: %s", reason(err, a.set.directURL()))
	}
	a.prepare(&config.Config)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return pgx.ConnectConfig(ctx, config)
}

// connectPool opens a small pool, for what wants one.
func (a *app) connectPool(ctx context.Context, size int) (*pgxpool.Pool, error) {
	if err := a.findDatabase(); err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(a.set.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("read database-url: %s", reason(err, a.set.DatabaseURL))
	}
	a.prepare(&config.ConnConfig.Config)
	config.MaxConns, config.MinConns = int32(size), 0
	return pgxpool.NewWithConfig(ctx, config)
}

func (a *app) prepare(config *pgconn.Config) {
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "pgcast"
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		a.sayf("%s: %s\n", n.Severity, plain(n.Message))
	}
	// Ctrl-C ends the statement in the database too, not only our waiting for it.
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 2 * time.Second}
	}
}

// pendingVersions asks again over another connection when there is no answer: the first may
// be one that both ends believe in and that carries nothing, and a server that starts must
// not wait for it for ever.
func pendingVersions(ctx context.Context, databaseURL string) (pending []int64, err error) {
	for range 3 {
		try, cancel := context.WithTimeout(ctx, connectTimeout)
		pending, err = migrations.Pending(try, databaseURL)
		late := try.Err() != nil && ctx.Err() == nil
		cancel()
		if !late {
			break
		}
	}
	return pending, err
}

// checkSchema refuses a database whose schema is older than this program.
func checkSchema(ctx context.Context, databaseURL string) error {
	pending, err := pendingVersions(ctx, databaseURL)
	if err != nil {
		return err
	}
	all := len(migrations.Versions())
	if len(pending) == 0 {
		return nil
	}
	what := fmt.Sprintf("%d of %d migrations have not run in this database", len(pending), all)
	if len(pending) == all {
		what = "this database has no schema pgcast yet"
	}
	return &pgcast.Error{Code: pgcast.CodeInvalid, Message: what, Hint: "run pgcast migrate up"}
}
