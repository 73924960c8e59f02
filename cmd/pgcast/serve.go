package main

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/pgcast/pgcast/internal/perimeter"
	"github.com/pgcast/pgcast/internal/server"
)

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "serve",
		GroupID: groupServe,
		Short:   "Run the server",
		Long: `Run the server: clients subscribe at ws://HOST:PORT/ws.

Any number of servers may run on one database. All serve clients, and one of them at a
time gives new events their places; when it goes another takes over at once.

SIGTERM and Ctrl-C drain: clients are told to come back, and the server ends within
--drain-timeout. A second one ends it at once.`,
		Example: `  pgcast serve --database-url "postgres://app@db.internal/app?sslmode=verify-full"
  PGCAST_DATABASE_URL=postgres://app@localhost/app pgcast serve --migrate
  pgcast serve --config /etc/pgcast.yaml --allowed-origins https://app.example.com`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context()) },
	}
	addSettings(cmd.Flags(), forDatabase|forServer|forServe)
	return cmd
}

func (a *app) serve(ctx context.Context) error {
	if err := a.set.check(); err != nil {
		return err
	}
	if err := a.findDatabase(); err != nil {
		return err
	}
	log := a.logger(slog.LevelInfo)
	if a.set.Migrate {
		if err := a.migrateTo(ctx, a.set.directURL()); err != nil {
			return err
		}
	} else if err := checkSchema(ctx, a.set.directURL()); err != nil {
		return err
	}
	s, err := server.New(a.serverOptions(log))
	if err != nil {
		return err
	}
	return stopped(ctx, s.Run(ctx))
}

// serverOptions hands the settings on.
func (a *app) serverOptions(log *slog.Logger) *server.Options {
	s := a.set
	var only func(http.Handler) http.Handler
	access := s.access()
	if !s.InsecureOpen && !access.On && perimeter.Loopback(s.Listen) {
		only = perimeter.Hosts(s.AllowedOrigins, "use http://localhost with the port; or name the hosts it is reached by with --allowed-origins; or start it with access rules, or with --insecure-open")
	}
	return &server.Options{
		DatabaseURL: s.DatabaseURL, DirectDatabaseURL: s.directURL(),
		Listen: s.Listen, AdminListen: s.AdminListen, AllowedOrigins: s.AllowedOrigins,
		Wake: s.Wake, PoolSize: s.PoolSize, RetentionEvery: s.RetentionEvery,
		MaxFrame: s.MaxFrame, MaxEvent: s.MaxEvent,
		MaxSubscriptions: s.MaxSubscriptions, MaxSessions: s.MaxSessions, RingSize: s.RingSize,
		MaxSessionsPerAddress: s.MaxPerAddress, MaxSessionsPerSubject: s.MaxPerSubject, Compression: s.Compression == "on",
		AdminToken: s.AdminToken, TLSCertFile: s.TLSCertFile, TLSKeyFile: s.TLSKeyFile, Guard: only,
		SnapshotFresh: s.SnapshotFresh, SpoolDir: s.SpoolDir,
		WriteTimeout: s.WriteTimeout, PingInterval: s.PingInterval, DrainTimeout: s.DrainTimeout,
		NoConsole: s.Console == "off", Health: a.health,
		Profile: s.Profile, Live: s.Live, Access: access, Logger: log, Version: version().version,
	}
}

// stopped forgives an error that only says that we were asked to stop.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && isCanceled(err) {
		return nil
	}
	return err
}
