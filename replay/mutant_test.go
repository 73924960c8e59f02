package replay

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// mutant is a statement with one mistake in it, and the scenario that finds it out.
type mutant struct {
	name     string
	scenario string
	edits    []string // old, new, old, new …
}

const later = `create function later() returns pg_snapshot language plpgsql volatile as $$ begin
	perform pg_advisory_lock(77); perform pg_advisory_unlock(77); return pg_current_snapshot(); end $$`

var stepMutants = []mutant{
	{"skip one", "several topics", []string{"from fresh f where not", "from fresh f where f.id <> (select max(id) from fresh having count(*) > 3) and not"}},
	{"swap two", "several topics", []string{"over (order by f.id)", "over (order by f.id # 1)", "over (partition by f.topic order by f.id)", "over (partition by f.topic order by f.id # 1)"}},
	{"swap two topics' positions", "several topics", []string{"over (order by f.id)", "over (order by f.id # 1)"}},
	{"reuse a seq", "several topics", []string{"h.seq + p.nth,", "h.seq + (p.nth + 1) / 2,"}},
	{"reuse the head", "several topics", []string{"coalesce((select r.seq from pgcast.replay r where r.topic_id = n.topic_id order by r.seq desc limit 1),\n", "coalesce("}},
	{"skip a seq", "several topics", []string{"h.seq + p.nth,", "h.seq + p.nth + 1,"}},
	{"read what has no commit", "rolled back", []string{"select count(*) as n, coalesce(max(id), 0) as newest", "select count(*) + 1 as n, coalesce(max(id), 0) as newest"}},
	{"forget those in progress", "late committer", []string{"array(select x from last, pg_snapshot_xip(last.seen) x\n                            where last.target is null and", "array(select x from last, pg_snapshot_xip(last.seen) x\n                            where false and"}},
	{"wait for the oldest", "late committer", []string{"and e.xid < pg_snapshot_xmax(pg_current_snapshot())\n     and (e.id", "and e.xid < pg_snapshot_xmin(pg_current_snapshot())\n     and (e.id",
		"when l.target is null then pg_current_snapshot()", "when l.target is null then format('%1$s:%1$s:', pg_snapshot_xmin(pg_current_snapshot()))::pg_snapshot"}},
	{"never move seen", "late committer", []string{"when l.target is null then pg_current_snapshot()", "when l.target is null then l.seen"}},
	{"number by xid", "late number", []string{"(select e.id, e.topic from", "(select e.id, e.topic, e.xid from", "order by f.id)", "order by f.xid, f.id)"}},
	{"store a later snapshot", "commit during a step", []string{"when l.target is null then pg_current_snapshot()", "when l.target is null then later()"}},
	{"skip one without a trace", "batch exactly", []string{"limit $2::int + 1)", "limit $2::int)"}},
	{"chunk by xid", "chunks", []string{"order by e.id limit $2::int)", "order by e.xid, e.id limit $2::int)"}},
	{"chunk without upto", "chunks", []string{"and e.id > (select upto from last)", ""}},
	{"chunk beyond target", "chunks", []string{"else pg_visible_in_snapshot(e.xid, (select target from last))", "else true"}},
	{"chunk what seen has", "late committer, chunks", []string{"and not pg_visible_in_snapshot(e.xid, (select seen from last)) end", "end"}},
	{"chunk from too late", "late committer, chunks", []string{"least((select min(e.id + 0)", "greatest((select min(e.id + 0)"}},
	{"seen leaps to now after chunks", "commit during chunks", []string{"when s.n < $2::int then l.target", "when s.n < $2::int then pg_current_snapshot()"}},
	{"one chunk only", "chunks", []string{"when s.n < $2::int then l.target", "when true then l.target",
		"when l.target is not null and s.n >= $2::int then l.target", "when false then l.target", "when l.target is not null and s.n >= $2::int then s.newest", "when false then s.newest"}},
	{"no fence", "deposed", []string{"where s.term = $1", "where s.term >= $1"}},
	{"floor ignored", "restored into a younger cluster", []string{"and (e.id > (select floor from last) or not exists (select from pgcast.replay r where r.event_id = e.id))", ""}},
	{"floor ignored in chunks", "restored into a younger cluster", []string{"case when e.id <= (select floor from last)", "case when false"}},
	{"floor ignored, of those in progress", "restored into an older cluster", []string{"where last.target is null and pg_visible_in_snapshot(x, pg_current_snapshot())))\n     and (e.id > (select floor from last) or not exists (select from pgcast.replay r where r.event_id = e.id))", "where last.target is null and pg_visible_in_snapshot(x, pg_current_snapshot())))\n     and e.id > (select floor from last)"}},
	{"head lost with the last event", "all trimmed", []string{"(select tt.tail - 1 from pgcast.topic_tail tt where tt.topic_id = n.topic_id)", "null"}},
}

var lookMutants = []mutant{
	{"forget those in progress", "late committer", []string{"pg_visible_in_snapshot(x, pg_current_snapshot())", "false"}},
	{"forget what came after", "rolled back", []string{"e.xid < pg_snapshot_xmax(pg_current_snapshot())", "false"}},
	{"wait for the oldest", "late committer", []string{"e.xid < pg_snapshot_xmax(", "e.xid < pg_snapshot_xmin("}},
	{"forget the chunks", "restored into a younger cluster", []string{"select target is not null from last", "select false"}},
	{"floor ignored", "restored into a younger cluster", []string{"and (e.id > (select floor from last) or not exists (select from pgcast.replay r where r.event_id = e.id))", ""}},
	{"only above the floor", "restored into an older cluster", []string{" or not exists (select from pgcast.replay r where r.event_id = e.id)", ""}},
}

// apply makes the mutant of a statement.
func (m mutant) apply(t *testing.T, sql string) string {
	t.Helper()
	for i := 0; i < len(m.edits); i += 2 {
		changed := strings.ReplaceAll(sql, m.edits[i], m.edits[i+1])
		if changed == sql {
			t.Errorf("%s: the statement has no %q", m.name, m.edits[i])
		}
		sql = changed
	}
	return sql
}

// caught tells what the scenario says of a mutant, and fails if it says nothing, or
// nothing more than that the statement is no SQL.
func (m mutant) caught(t *testing.T, w *world) {
	t.Helper()
	play := scenarios[m.scenario]
	if play == nil {
		t.Errorf("%s: there is no scenario %q", m.name, m.scenario)
		return
	}
	play(w)
	err := w.finale()
	var pg *pgconn.PgError
	switch {
	case err == nil:
		t.Errorf("%s survives %q", m.name, m.scenario)
	case errors.As(err, &pg) && strings.HasPrefix(pg.Code, "42"):
		t.Errorf("%s is no SQL: %v", m.name, err)
	default:
		t.Logf("%s: %v", m.name, err)
	}
}

func TestStepMutants(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Doorbell)
	w.exec(w.admin, later)
	for _, m := range stepMutants {
		w.reset()
		w.step = m.apply(t, db.SequencerStep)
		m.caught(t, w)
	}
}

func TestLookMutants(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Doorbell)
	for _, m := range lookMutants {
		w.reset()
		w.peek = m.apply(t, db.SequencerLook)
		m.caught(t, w)
	}
}

// rewriter is a database that makes mutants of the queries it is given.
type rewriter struct {
	db.DBTX
	from, to string
}

func (r rewriter) rewrite(sql string) string {
	if sql == r.from {
		return r.to
	}
	return sql
}

func (r rewriter) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return r.DBTX.Query(ctx, r.rewrite(sql), args...)
}

func (r rewriter) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return r.DBTX.QueryRow(ctx, r.rewrite(sql), args...)
}

func (r rewriter) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return r.DBTX.Exec(ctx, r.rewrite(sql), args...)
}
