// Package doctor looks at everything that can be wrong around the database and the Redis
// pgcast runs on, and says of each thing what it found, why it matters and what mends it. Run changes
// nothing, Fix mends what it may: each check runs in a read-only transaction of its own that ends in a rollback,
// with a timeout of its own, so that one which fails or hangs hides no other.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/presence/shared"
	"github.com/pgcast/pgcast/replay"
)

// State says how a check came out.
type State string

// The states, from best to worst; Skip says nothing either way.
const (
	OK   State = "ok"
	Note State = "note" // works, and is worth knowing
	Warn State = "warn" // works, but not as it should, or not for long, or may not be looked at
	Fail State = "fail" // does not work
	Skip State = "skip" // was not looked at, because something else is wrong

	Fixed State = "fixed" // was wrong, and was mended; only Fix tells that
)

// With says what a Mend is: what to give it to.
type With string

// The kinds of mends.
const (
	SQL   With = "sql"   // a statement for the database, by a role that may
	Shell With = "shell" // a command
	Words With = "words" // something to do that no single command does
)

// Result is what one check found. A check that finds several things wrong gives several
// results of the same name.
type Result struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	Found string `json:"found"`     // in figures, where there are any
	Why   string `json:"why"`       // it matters
	Mend  string `json:"mend"`      // "" where there is nothing to mend
	With  With   `json:"mend_with"` // "" without a Mend
}

// Options are the settings of the servers that run, or will run, on the database.
// DatabaseURL is required; the zero value of each other field stands for its default.
type Options struct {
	DatabaseURL       string
	DirectDatabaseURL string // default DatabaseURL
	Wake              replay.Wake
	PoolSize          int           // default 10
	Access            bool          // there is access control
	MaxSessions       int           // 0: the default of 100,000, which not everybody needs
	RetentionEvery    time.Duration // default 1 minute
	// RedisURL is that of live state; "" where each server has its own. RedisPrefix and
	// RedisCAFile are as servers have them.
	RedisURL, RedisPrefix, RedisCAFile string
	CheckTimeout                       time.Duration // of each check; default 8 s
}

// Doctor examines one database; see Run.
type Doctor struct {
	opts   Options
	limits limits
	checks []check
}

// New makes a doctor. It connects to nothing yet.
func New(opts *Options) *Doctor {
	d := &Doctor{opts: *opts, limits: usual, checks: catalogue}
	o := &d.opts
	if o.DirectDatabaseURL == "" {
		o.DirectDatabaseURL = o.DatabaseURL
	}
	if o.Wake == "" {
		o.Wake = replay.WakeAuto
	}
	if o.PoolSize <= 0 {
		o.PoolSize = 10
	}
	if o.RetentionEvery <= 0 {
		o.RetentionEvery = time.Minute
	}
	if o.CheckTimeout <= 0 {
		o.CheckTimeout = 8 * time.Second
	}
	return d
}

// need is what must be right before a check can look at anything.
type need int

const (
	nothing    need = 0
	connection need = 1              // to the database
	primary    need = 2 | connection // which is no standby
	schema     need = 4 | connection // with schema pgcast in it
	alone      need = 8              // no transaction of ours open: a pooler may have one session only
	live       need = 16             // Redis answers
)

// check is one of the things to look at.
type check struct {
	name string
	need need
	why  string
	run  func(context.Context, *exam) ([]finding, error)
}

// finding is one thing that a check found.
type finding struct {
	state State
	found string
	mend  mend
}

type mend struct {
	with With
	text string
}

func inSQL(format string, args ...any) mend   { return mend{SQL, fmt.Sprintf(format, args...)} }
func inShell(format string, args ...any) mend { return mend{Shell, fmt.Sprintf(format, args...)} }
func inWords(format string, args ...any) mend { return mend{Words, fmt.Sprintf(format, args...)} }

func ok(format string, args ...any) finding {
	return finding{state: OK, found: fmt.Sprintf(format, args...)}
}
func note(m mend, format string, args ...any) finding {
	return finding{Note, fmt.Sprintf(format, args...), m}
}
func warn(m mend, format string, args ...any) finding {
	return finding{Warn, fmt.Sprintf(format, args...), m}
}
func fail(m mend, format string, args ...any) finding {
	return finding{Fail, fmt.Sprintf(format, args...), m}
}
func skip(format string, args ...any) finding {
	return finding{state: Skip, found: fmt.Sprintf(format, args...)}
}

// one is for checks that find exactly one thing.
func one(f finding) ([]finding, error) { return []finding{f}, nil }

// Names lists the checks in the order in which Run tells of them.
func Names() []string {
	names := make([]string, len(catalogue))
	for i, c := range catalogue {
		names[i] = c.name
	}
	return names
}

// Run makes every check, one after the other, and tells each result as soon as it is
// known. The error is tell's, or ctx's; what is wrong with the database is a result.
func (d *Doctor) Run(ctx context.Context, tell func(Result) error) error {
	x := &exam{opts: d.opts, limits: d.limits}
	defer x.close()
	for _, c := range d.checks {
		findings := x.make(ctx, c)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for _, f := range findings {
			if err := tell(Result{Name: c.name, State: f.state, Found: f.found, Why: c.why, Mend: f.mend.text, With: f.mend.with}); err != nil {
				return err
			}
		}
	}
	return nil
}

// exam is one run of the checks.
type exam struct {
	opts   Options
	limits limits

	conn  *pgx.Conn // nil: none, or it broke
	tx    pgx.Tx    // of the check that runs
	facts facts
	cause string        // why there is no connection
	redis *shared.Facts // nil: none, or it does not answer

	deaf   bool      // the doorbell was not heard
	stream *obstacle // to following the WAL; nil: not tried yet
}

// make makes one check. Whatever goes wrong with it is a finding of it.
func (x *exam) make(ctx context.Context, c check) []finding {
	ctx, cancel := context.WithTimeout(ctx, x.opts.CheckTimeout)
	defer cancel()
	if c.need&live != 0 && x.opts.RedisURL == "" {
		return nil // check redis has said so
	}
	if why := x.lacks(c.need); why != "" {
		return []finding{skip("%s", why)}
	}
	if c.need&connection == 0 || c.need&alone != 0 {
		list, err := c.run(ctx, x)
		return x.explain(ctx, list, err)
	}
	var list []finding
	err := x.inside(ctx, func() (err error) {
		list, err = c.run(ctx, x)
		return err
	})
	return x.explain(ctx, list, err)
}

// lacks tells what is missing for a check, or "".
func (x *exam) lacks(n need) string {
	switch {
	case n&connection != 0 && !x.facts.known:
		return "not looked at: " + x.cause
	case n&primary == primary && x.facts.standby:
		return "not looked at: the database is a standby"
	case n&schema == schema && !x.facts.schema:
		return "not looked at: this database has no schema pgcast"
	case n&live != 0 && x.redis == nil:
		return "not looked at: no connection to Redis"
	}
	return ""
}

// inside runs a check in a transaction that can change nothing, and that the database
// itself ends if we cannot.
func (x *exam) inside(ctx context.Context, run func() error) error {
	if err := x.connect(ctx); err != nil {
		return err
	}
	tx, err := x.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = tx.Rollback(late) // it has changed nothing
	}()
	if _, err := tx.Exec(ctx, "select set_config('statement_timeout', $1, true), set_config('lock_timeout', $1, true)",
		fmt.Sprint(x.opts.CheckTimeout.Milliseconds())); err != nil {
		return err
	}
	x.tx = tx
	return run()
}

var errLost = errors.New("no connection")

// connect opens the connection, again if it broke in the check before.
func (x *exam) connect(ctx context.Context) error {
	if x.conn != nil && !x.conn.IsClosed() {
		return nil
	}
	// Without prepared statements, which a pooler in between may mix up.
	conn, err := dial(ctx, x.opts.DirectDatabaseURL, x.opts.CheckTimeout, func(c *pgx.ConnConfig) { c.DefaultQueryExecMode = pgx.QueryExecModeExec })
	if err != nil {
		x.facts.known, x.cause = false, "the connection was lost and cannot be made again" // the rest need not try
		return fmt.Errorf("%w: %w", errLost, err)
	}
	x.conn = conn
	return nil
}

func dial(ctx context.Context, url string, patience time.Duration, change func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.ConnectTimeout = patience
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "pgcast doctor"
	}
	change(config)
	return pgx.ConnectConfig(ctx, config)
}

func (x *exam) close() { hangUp(x.conn) }

func hangUp(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the server ends the session whether it hears this or not
}

// explain turns the error of a check into a finding beside those it has made.
func (x *exam) explain(ctx context.Context, list []finding, err error) []finding {
	if err == nil {
		return list
	}
	var pg *pgconn.PgError
	isPg := errors.As(err, &pg)
	switch {
	case errors.Is(err, errLost):
		return append(list, fail(mendConnecting(err, x.opts.DirectDatabaseURL), "could not look: %s", oneLine(err)))
	case isPg && pg.Code == "42501":
		f := warn(inWords("connect as a role that may do this"), "could not look: %s", pg.Message)
		if x.facts.owner != "" {
			f.mend = inSQL("grant %s to %s", name(x.facts.owner), name(x.facts.role))
		}
		return append(list, f)
	case isPg && (pg.Code == "3F000" || pg.Code == "42P01" || pg.Code == "42883" || pg.Code == "42703") && x.facts.known:
		return append(list, skip("not looked at: %s; see migrations", pg.Message))
	case isPg && (pg.Code == "57014" || pg.Code == "55P03"), errors.Is(ctx.Err(), context.DeadlineExceeded):
		return append(list, warn(inSQL("select pid, pg_blocking_pids(pid), query from pg_stat_activity where cardinality(pg_blocking_pids(pid)) > 0"),
			"could not look: no answer within %s; the database is very busy, or somebody holds a lock", x.opts.CheckTimeout))
	}
	return append(list, fail(inWords("look into the database's log"), "could not look: %s", oneLine(err)))
}
