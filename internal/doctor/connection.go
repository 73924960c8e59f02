package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/listener"
	"github.com/pgcast/pgcast/replay"
)

// facts are what later checks want to know of the database; the first one learns them.
type facts struct {
	known     bool
	version   int // as server_version_num
	release   string
	standby   bool
	database  string
	role      string
	superuser bool
	schema    bool   // pgcast is there
	owner     string // of schema pgcast; "" without
	server    server
	pooled    bool // a pooler answers: the session is another than it said
}

// server tells one running Postgres from another.
type server struct {
	database uint32
	started  time.Time
}

const factsQuery = `select current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery(),
	current_database()::text, current_user::text, coalesce((select rolsuper from pg_roles where rolname = current_user), false),
	exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'pgcast' and c.relname = 'event_log'),
	coalesce((select pg_get_userbyid(nspowner)::text from pg_namespace where nspname = 'pgcast'), ''),
	(select oid from pg_database where datname = current_database()), pg_postmaster_start_time(), pg_backend_pid()`

// checkConnection connects for all other checks.
func checkConnection(ctx context.Context, x *exam) ([]finding, error) {
	if err := x.connect(ctx); err != nil {
		x.cause = "no connection to the database"
		return one(fail(mendConnecting(err, x.opts.DirectDatabaseURL), "%s", oneLine(err)))
	}
	var nearest time.Duration
	for range 5 {
		began := time.Now()
		if err := x.conn.Ping(ctx); err != nil {
			x.cause = "the connection broke at once"
			return one(fail(inWords("look into the database's log"), "connected, but then: %s", oneLine(err)))
		}
		if took := time.Since(began); nearest == 0 || took < nearest {
			nearest = took
		}
	}
	f := &x.facts
	var pid uint32
	err := x.conn.QueryRow(ctx, factsQuery).Scan(&f.version, &f.release, &f.standby, &f.database, &f.role, &f.superuser,
		&f.schema, &f.owner, &f.server.database, &f.server.started, &pid)
	if err != nil {
		x.cause = "the database does not answer as a Postgres does"
		return one(fail(inWords("give the URL of a Postgres"), "connected, but then: %s", oneLine(err)))
	}
	f.known, f.pooled = true, pid != x.conn.PgConn().PID()
	found := ok("%s, database %s as %s, %s a round trip", x.conn.PgConn().Conn().RemoteAddr(), f.database, f.role, round(nearest))
	if nearest > x.limits.roundTrip {
		found.state, found.mend = Note, inWords("run pgcast nearer to the database")
	}
	return one(found)
}

// mendConnecting says what to do about an error of connecting.
func mendConnecting(err error, url string) mend {
	config, perr := pgx.ParseConfig(url)
	if perr != nil {
		return inWords("write postgres://user:password@host:5432/database")
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch {
		case strings.HasPrefix(pg.Code, "28"):
			return inWords("correct user and password in database-url, or add a line for them to pg_hba.conf")
		case pg.Code == "3D000":
			return inSQL("create database %s", name(config.Database))
		case pg.Code == "42501":
			return inSQL("grant connect on database %s to %s", name(config.Database), name(config.User))
		case pg.Code == "53300":
			return inWords("end some connections, or raise max_connections and restart Postgres")
		case pg.Code == "57P03":
			return inWords("wait until the database has started, or see its log for why it does not")
		}
	}
	return inShell("pg_isready -h %s -p %d", config.Host, config.Port)
}

// checkPool looks at where the servers' pools connect to.
func checkPool(ctx context.Context, x *exam) ([]finding, error) {
	url := x.opts.DatabaseURL
	conns := [2]*pgx.Conn{}
	for i := range conns {
		conn, err := dial(ctx, url, x.opts.CheckTimeout, func(*pgx.ConnConfig) {})
		if err != nil {
			return one(fail(mendConnecting(err, url), "database-url: %s", oneLine(err)))
		}
		defer hangUp(conn)
		conns[i] = conn
	}
	var is server
	var standby bool
	err := conns[0].QueryRow(ctx, `select (select oid from pg_database where datname = current_database()), pg_postmaster_start_time(), pg_is_in_recovery()`,
		pgx.QueryExecModeExec).Scan(&is.database, &is.started, &standby)
	if err != nil {
		return nil, err
	}
	if is.database != x.facts.server.database || !is.started.Equal(x.facts.server.started) {
		return one(fail(inWords("let database-url and direct-database-url lead to the same database"),
			"database-url leads to another database than direct-database-url%s", map[bool]string{true: ": a standby"}[standby]))
	}
	// Two sessions that prepare the same statement meet in a pooler that does not keep them apart.
	for range 5 {
		for _, conn := range conns {
			var n int
			err := conn.QueryRow(ctx, "select $1::int", 1).Scan(&n)
			if preparedElsewhere(err) {
				return one(fail(inWords("add default_query_exec_mode=exec to database-url, or set max_prepared_statements in PgBouncer 1.21 or newer"),
					"prepared statements do not work over database-url: %s", oneLine(err)))
			} else if err != nil {
				return nil, err
			}
		}
	}
	if url == x.opts.DirectDatabaseURL {
		return one(ok("database-url is the direct connection, and prepared statements work"))
	}
	return one(ok("database-url leads to the same database as direct-database-url, and prepared statements work"))
}

// preparedElsewhere tells the errors of prepared statements that a pooler has mixed up.
func preparedElsewhere(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "26000" || pg.Code == "42P05" || pg.Code == "08P01")
}

func checkEncryption(_ context.Context, x *exam) ([]finding, error) {
	conn := x.conn.PgConn().Conn()
	if _, is := conn.(*tls.Conn); is {
		return one(ok("encrypted"))
	}
	if _, is := conn.(*net.UnixConn); is {
		return one(ok("a local socket"))
	}
	if at, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil && at.Addr().Unmap().IsLoopback() {
		return one(ok("not encrypted, and does not leave this machine"))
	}
	return one(note(inWords("add sslmode=verify-full to database-url"), "not encrypted, to %s", conn.RemoteAddr()))
}

func checkVersion(_ context.Context, x *exam) ([]finding, error) {
	if major := x.facts.version / 10000; major < devpg.MinVersion {
		return one(fail(inWords("upgrade to PostgreSQL %d or newer", devpg.MinVersion), "PostgreSQL %s", x.facts.release))
	}
	return one(ok("PostgreSQL %s", x.facts.release))
}

func checkEncoding(ctx context.Context, x *exam) ([]finding, error) {
	var encoding string
	if err := x.tx.QueryRow(ctx, "select current_setting('server_encoding')").Scan(&encoding); err != nil {
		return nil, err
	}
	if encoding != "UTF8" {
		return one(fail(inSQL("create database %s_utf8 encoding 'UTF8' template template0 -- then dump this one into it", name(x.facts.database)),
			"encoding %s", encoding))
	}
	return one(ok("UTF8"))
}

func checkPrimary(ctx context.Context, x *exam) ([]finding, error) {
	if x.facts.standby {
		return one(fail(inWords("give the URL of the primary, or of all with target_session_attrs=read-write"), "a read-only standby"))
	}
	var readOnly bool
	if err := x.tx.QueryRow(ctx, "select reset_val = 'on' from pg_settings where name = 'default_transaction_read_only'").Scan(&readOnly); err != nil {
		return nil, err
	}
	if readOnly {
		return one(fail(inSQL("alter role %s in database %s set default_transaction_read_only = off", name(x.facts.role), name(x.facts.database)),
			"the primary, but default_transaction_read_only is on"))
	}
	return one(ok("the primary, and writable"))
}

// checkDoorbell does what the sequencer does when it starts: it rings its own bell.
func checkDoorbell(ctx context.Context, x *exam) ([]finding, error) {
	line, err := listener.Reach(ctx, x.opts.DirectDatabaseURL)
	if err != nil {
		return nil, err
	}
	defer line.Close()
	began := time.Now()
	if err = line.Listen(ctx, listener.ChannelBell); err == nil {
		if err = line.Prove(ctx, listener.ChannelBell); err != nil {
			_ = line.Unlisten(ctx, listener.ChannelBell) // the session may go to somebody else next
		}
	}
	if err == nil {
		return one(ok("rang our own bell and heard it after %s", round(time.Since(began))))
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	x.deaf = true
	f := warn(inWords("give a connection without a pooler in between: --direct-database-url postgres://…"),
		"servers will poll, at most 250 ms late, and cannot use session locks: %s", oneLine(err))
	if x.facts.pooled {
		f.found = "a pooler answers; " + f.found
	}
	if x.opts.Wake == replay.WakeNotify {
		f.state, f.found = Fail, "no server can sequence with wake=notify: "+oneLine(err)
	}
	return one(f)
}

// checkTimeouts tries what the sequencer sets in its session, for this transaction only.
func checkTimeouts(ctx context.Context, x *exam) ([]finding, error) {
	if _, is := x.conn.PgConn().Conn().(*net.UnixConn); is {
		return one(ok("a local socket, which needs none"))
	}
	var user, idle string
	if err := x.tx.QueryRow(ctx, "select set_config('tcp_user_timeout', '3000', true), set_config('tcp_keepalives_idle', '1', true)").Scan(nil, nil); err != nil {
		return one(warn(inWords("run Postgres on Linux, or a server that supports tcp_user_timeout"), "%s", oneLine(err)))
	}
	if err := x.tx.QueryRow(ctx, "select current_setting('tcp_user_timeout'), current_setting('tcp_keepalives_idle')").Scan(&user, &idle); err != nil {
		return nil, err
	}
	if user == "0" || idle == "0" {
		return one(note(inWords("run Postgres on Linux, where both exist"),
			"tcp_user_timeout is %s and tcp_keepalives_idle %s although set: a local socket behind a proxy, or an operating system without them", user, idle))
	}
	return one(ok("tcp_user_timeout and keepalives work"))
}

// checkClock compares two clocks: the answer was given between asking and hearing it.
func checkClock(ctx context.Context, x *exam) ([]finding, error) {
	var skew, off time.Duration
	for i := range 5 {
		began := time.Now()
		var there time.Time
		if err := x.tx.QueryRow(ctx, "select clock_timestamp()").Scan(&there); err != nil {
			return nil, err
		}
		took := time.Since(began)
		if i == 0 || took/2 < off {
			skew, off = there.Sub(began.Add(took/2)), took/2
		}
	}
	if skew.Abs() > x.limits.clockSkew+off {
		return one(warn(inShell("timedatectl set-ntp true # here and where the database runs"),
			"the database's clock is %s %s ours", round(skew.Abs()), map[bool]string{true: "ahead of", false: "behind"}[skew > 0]))
	}
	return one(ok("%s apart, ±%s", round(skew.Abs()), round(off)))
}
