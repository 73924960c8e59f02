package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgcast/pgcast"
)

// eyes are a role and what it is told of a caller.
type eyes struct {
	role    string
	table   int64
	claims  string // a JSON object
	subject string
}

func (l *RowLens) eyes(t *secured) *eyes {
	e := &eyes{role: t.Role, table: t.Relation, claims: l.shown(t)}
	if t.Claims == nil || slices.Contains(t.Claims, "sub") {
		if json.Unmarshal(l.claims["sub"], &e.subject) != nil {
			e.subject = string(l.claims["sub"]) // a number, say
		}
	}
	return e
}

// become makes a transaction the role's, to its end: with the claims where PostgREST, and
// who follows it, has them. The role comes last: it might not be allowed the others.
const become = `select pg_catalog.set_config('row_security', 'on', true), pg_catalog.set_config('request.jwt.claims', $2, true),
	pg_catalog.set_config('pgcast.claims', $2, true), pg_catalog.set_config('request.jwt.claim.sub', $3, true), pg_catalog.set_config('role', $1, true)`

// errBypassed says that row security does not hold for the role: then nothing is shown.
var errBypassed = errors.New("row security does not hold for the role")

// open makes a snapshot's transaction the role's.
func (e *eyes) open(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, become, pgx.QueryExecModeExec, e.role, e.claims, e.subject); err != nil {
		return err
	}
	var holds bool
	if err := tx.QueryRow(ctx, "select pg_catalog.row_security_active($1::pg_catalog.oid)", pgx.QueryExecModeExec, e.table).Scan(&holds); err != nil {
		return err
	}
	if !holds {
		return errBypassed
	}
	return nil
}

// Snapshot reads what a topic holds; see [Log.Snapshot]. Of a table whose row security is
// enforced the rows are those that the role sees.
func (l *RowLens) Snapshot(ctx context.Context, topic string, begin func(pgcast.Snapshot) error, take func(pgcast.Row) error) error {
	t, several := l.of(topic)
	switch {
	case len(l.tables) == 0:
		return errNotLoaded
	case several:
		return &pgcast.Error{Code: pgcast.CodeForbidden, Message: "there is no snapshot of this topic"}
	case t == nil:
		return l.security.log.Snapshot(ctx, topic, begin, take)
	}
	return l.security.log.snapshot(ctx, topic, l.eyes(t), begin, take)
}

// failure is of a check; until then no other is made of the same.
type failure struct {
	err   error
	times int
	until time.Time
}

// How long to wait after a check that failed, and how many of those are remembered.
const (
	firstPause  = 200 * time.Millisecond
	longPause   = 5 * time.Second
	maxFailures = 10_000
)

// paused tells that it is not yet tried again; nil: it has not failed.
func (f *failure) paused() bool { return f != nil && time.Now().Before(f.until) }

// failed gives the newest failure of a table and claims; nil: there is none.
func (s *Security) failed(name string) *failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures[name]
}

// slot waits for a place among the checks under way.
func (s *Security) slot(ctx context.Context) (release func(), err error) {
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// visible tells the numbers of the keys whose rows are visible. What fails is not tried
// again at once, whoever asks: one caller's claims may make a policy fail, or take long.
func (l *RowLens) visible(ctx context.Context, t *secured, keys []string) (map[int]bool, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	s := l.security
	e := l.eyes(t)
	name := fmt.Sprintf("%d %q %q %s", t.Relation, t.Key, e.role, e.claims)
	if last := s.failed(name); last.paused() {
		return nil, last.err
	}
	release, err := s.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	last := s.failed(name)
	if last.paused() { // the same was asked meanwhile, as about another topic
		return nil, last.err
	}
	began := time.Now()
	// Not with the caller's own ctx: to break off a check costs a connection to the database.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.Timeout+5*time.Second)
	defer cancel()
	visible, err := s.check(bounded, t, e, keys)
	s.metrics.checks.Observe(time.Since(began).Seconds())
	s.metrics.rows.Add(float64(len(keys)))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.failures, name)
		return visible, nil
	}
	s.metrics.failed.Inc()
	s.stale.Store(true)
	err = unavailable("check which rows of "+t.Name+" may be shown", err)
	f := &failure{err: err, times: 1}
	if last != nil {
		f.times = last.times + 1
	} else {
		s.opts.Logger.Warn("row security: rows could not be checked, and are not shown until they can be", "table", t.Name, "role", t.Role, "error", err)
	}
	f.until = time.Now().Add(min(firstPause<<min(f.times-1, 10), longPause))
	if len(s.failures) >= maxFailures {
		maps.DeleteFunc(s.failures, func(_ string, f *failure) bool { return time.Now().After(f.until) })
		if len(s.failures) >= maxFailures {
			clear(s.failures)
		}
	}
	s.failures[name] = f
	return nil, err
}

// check asks the database, in one round trip: a transaction that reads only, and is rolled
// back. Its statements are not kept, for what a kept one was planned for is another role.
func (s *Security) check(ctx context.Context, t *secured, e *eyes, keys []string) (map[int]bool, error) {
	statement := t.Statement
	if now := s.state.Load().of(t.Relation); now != nil {
		if statement = now.Statement; !slices.Equal(now.Key, t.Key) {
			statement = "" // which has the values of the key by their numbers
		}
	}
	if statement == "" {
		return nil, errors.New("its key is another one than when enforce() was called")
	}
	conn, err := s.log.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release() // throws away one that is in a transaction
	raw := conn.Conn().PgConn()
	text := func(list ...string) (params [][]byte) {
		for _, p := range list {
			params = append(params, []byte(p))
		}
		return params
	}
	b := &pgconn.Batch{}
	b.ExecParams("begin isolation level read committed read only", nil, nil, nil, nil)
	b.ExecParams("select pg_catalog.set_config('statement_timeout', $1, true), pg_catalog.set_config('lock_timeout', $1, true), pg_catalog.set_config('jit', 'off', true)",
		text(strconv.FormatInt(s.opts.Timeout.Milliseconds(), 10)), []uint32{pgtype.TextOID}, nil, nil)
	b.ExecParams(become, text(e.role, e.claims, e.subject), []uint32{pgtype.TextOID, pgtype.TextOID, pgtype.TextOID}, nil, nil)
	b.ExecParams(statement, text("["+strings.Join(keys, ",")+"]"), []uint32{pgtype.TextOID}, nil, nil)
	b.ExecParams("rollback", nil, nil, nil, nil)
	results, err := raw.ExecBatch(ctx, b).ReadAll()
	if err == nil && (len(results) != 5 || len(results[3].Rows) != 1 || len(results[3].Rows[0]) != 2) {
		err = fmt.Errorf("%d answers", len(results))
	}
	if err != nil {
		if !raw.IsClosed() && raw.TxStatus() != 'I' {
			_, rolled := raw.Exec(ctx, "rollback").ReadAll()
			err = errors.Join(err, rolled)
		}
		return nil, err
	}
	answer := results[3].Rows[0]
	if string(answer[0]) != "t" {
		return nil, errBypassed
	}
	visible := map[int]bool{}
	for n := range strings.SplitSeq(string(answer[1]), ",") {
		if n == "" {
			continue
		}
		i, err := strconv.Atoi(n)
		if err != nil {
			return nil, err
		}
		visible[i] = true
	}
	return visible, nil
}
