package replay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// trimmer is a world in which retention runs.
func trimmer(t testing.TB, opts *RetentionOptions) (*world, *Retention) {
	t.Helper()
	w := newWorld(t, pgtest.Doorbell)
	w.batch = 1000
	w.exec(w.admin, "delete from pgcast.retention")
	return w, newRetention(w.pool, opts, newMetrics(nil), discard)
}

func (w *world) retain(pattern, age string, count int64) {
	var maxAge *string
	var maxCount *int64
	if age != "" {
		maxAge = &age
	}
	if count > 0 {
		maxCount = &count
	}
	w.exec(w.admin, "select pgcast.retain($1, $2::interval, $3)", pattern, maxAge, maxCount)
}

// older makes the first events of a topic older than they are.
func (w *world) older(topic string, upto int, by string) {
	w.exec(w.admin, `update pgcast.replay set sequenced_at = sequenced_at - $3::interval
		where topic_id = (select id from pgcast.topic where name = $1) and seq <= $2`, topic, upto, by)
}

// kept tells what is left of a topic, as a reader sees it.
func (w *world) kept(topic string) string {
	page, err := w.log.Page(w.ctx, topic, 0, 10_000)
	if err != nil {
		w.fail("%w", err)
		return ""
	}
	s := fmt.Sprintf("tail %d, head %d:", page.Tail, page.Head)
	for _, e := range page.Events {
		s += fmt.Sprintf(" %d", e.Seq)
	}
	return s
}

func (w *world) keeps(topic, want string) {
	if got := w.kept(topic); got != want {
		w.fail("topic %s: %s; want %s", topic, got, want)
	}
}

func (w *world) pass(r *Retention) (more bool) {
	if w.err != nil {
		return false
	}
	more, err := r.pass(w.ctx)
	if err != nil {
		w.fail("%w", err)
	}
	return more
}

// trims are the rules of retention, each with what it leaves; the mutants go through
// them too.
var trims = map[string]func(*world, *Retention){
	"by count": func(w *world, r *Retention) {
		w.retain("a", "", 3)
		w.writer().bulk(10, "a").bulk(2, "b")
		w.hand().lead().drain()
		w.pass(r)
		w.keeps("a", "tail 8, head 10: 8 9 10")
		w.keeps("b", "tail 1, head 2: 1 2")
		if n := pgtest.Value[int](w.t, w.db, "select count(*)::int from pgcast.event_log"); n != 5 {
			w.fail("%d events are stored, not 5", n)
		}
	},
	"by age": func(w *world, r *Retention) {
		w.retain("**", "1 hour", 0)
		w.writer().bulk(10, "a")
		w.hand().lead().drain()
		w.older("a", 4, "61 minutes")
		w.pass(r)
		w.keeps("a", "tail 5, head 10: 5 6 7 8 9 10")
		w.pass(r)
		w.keeps("a", "tail 5, head 10: 5 6 7 8 9 10")
	},
	"by both": func(w *world, r *Retention) {
		w.retain("a", "1 hour", 3)
		w.retain("b", "1 hour", 3)
		w.writer().bulk(10, "a").bulk(10, "b")
		w.hand().lead().drain()
		w.older("a", 9, "61 minutes")
		w.older("b", 2, "61 minutes")
		w.pass(r)
		w.keeps("a", "tail 10, head 10: 10")
		w.keeps("b", "tail 8, head 10: 8 9 10")
	},
	"everything": func(w *world, r *Retention) {
		w.retain("**", "1 hour", 0)
		p, h := w.writer(), w.hand().lead()
		p.bulk(4, "a")
		h.drain()
		w.older("a", 4, "61 minutes")
		w.pass(r)
		w.keeps("a", "tail 5, head 4:")
		p.bulk(2, "a")
		h.drain()
		w.keeps("a", "tail 5, head 6: 5 6")
	},
	"between tail and delete": func(w *world, r *Retention) {
		// A server that dies here leaves events before the tail: nobody sees them, and
		// the next pass takes them away.
		w.retain("a", "", 3)
		w.writer().bulk(10, "a")
		w.hand().lead().drain()
		id := pgtest.Value[int64](w.t, w.db, "select id from pgcast.topic")
		if _, err := r.queries.RetentionTail(w.ctx, db.RetentionTailParams{TopicID: id, Batch: 100, MaxCount: 3}); err != nil {
			w.fail("%w", err)
		}
		w.keeps("a", "tail 8, head 10: 8 9 10")
		w.pass(r)
		w.keeps("a", "tail 8, head 10: 8 9 10")
		if n := pgtest.Value[int](w.t, w.db, "select count(*)::int from pgcast.event_log"); n != 3 {
			w.fail("%d events are stored, not 3", n)
		}
	},
	"nothing that has no place": func(w *world, r *Retention) {
		w.retain("**", "1 second", 1)
		p, h := w.writer(), w.hand().lead()
		p.bulk(3, "a")
		h.drain()
		p.bulk(2, "a")
		w.exec(w.admin, "update pgcast.event_log set created_at = created_at - interval '1 year'")
		w.pass(r)
		w.keeps("a", "tail 3, head 3: 3")
		h.drain()
		w.keeps("a", "tail 3, head 5: 3 4 5")
	},
	"for ever": func(w *world, r *Retention) {
		w.retain("**", "1 hour", 0)
		w.retain("a", "", 0)
		w.writer().bulk(2, "a", "b")
		w.hand().lead().drain()
		w.older("a", 1, "100 years")
		w.older("b", 1, "2 hours")
		w.pass(r)
		w.keeps("a", "tail 1, head 1: 1")
		w.keeps("b", "tail 2, head 1:")
	},
}

func TestRetention(t *testing.T) {
	t.Parallel()
	w, r := trimmer(t, nil)
	for name, trim := range trims {
		w.reset()
		w.exec(w.admin, "delete from pgcast.retention")
		trim(w, r)
		if w.err != nil {
			t.Errorf("%s: %v", name, w.err)
		}
	}
}

func TestRetentionMutants(t *testing.T) {
	t.Parallel()
	w, r := trimmer(t, nil)
	log := w.log
	for _, m := range []struct {
		mutant
		sql string
	}{
		{mutant{"delete the tail too", "by count", []string{"and r.seq < (select tt.tail", "and r.seq <= (select tt.tail"}}, db.RetentionDelete},
		{mutant{"delete the place only", "by count", []string{"(select event_id from gone)", "(select -event_id from gone)"}}, db.RetentionDelete},
		{mutant{"one too many", "by count", []string{"k.seq <= b.head", "k.seq <= 1 + b.head"}}, db.RetentionTail},
		{mutant{"count only", "by age", []string{"(select r.sequenced_at from", "(select now() from"}}, db.RetentionTopics},
		{mutant{"age of the writing", "nothing that has no place", []string{"from newest n join pgcast.event_log e on e.id = n.event_id", "from pgcast.event_log e cross join lateral (select 5 as seq, 5 as position, 5 as event_id) n where e.id = 5"}}, db.RetentionTail},
		{mutant{"tail moves back", "by both", []string{"order by k.seq desc limit 1", "order by k.seq limit 1"}}, db.RetentionTail},
		{mutant{"head lost with the last event", "everything", []string{"tt.tail - 1, 0) as head", "0) as head"}}, db.TopicPage},
		{mutant{"show what lies before the tail", "between tail and delete", []string{"and r.seq >= t.tail", ""}}, db.TopicPage},
		{mutant{"leave what a crash left", "between tail and delete", []string{"exists (select from pgcast.replay r where r.topic_id = t.id and r.seq < coalesce(tt.tail, 1))", "false"}}, db.RetentionTopics},
	} {
		w.reset()
		w.exec(w.admin, "delete from pgcast.retention")
		mutated := db.New(rewriter{w.pool, m.sql, m.apply(t, m.sql)})
		r.queries = mutated
		w.log = &Log{pool: log.pool, queries: mutated, opts: log.opts}
		trims[m.scenario](w, r)
		if w.err == nil {
			t.Errorf("%s survives %q", m.name, m.scenario)
		} else if strings.Contains(w.err.Error(), "SQLSTATE 42") {
			t.Errorf("%s is no SQL: %v", m.name, w.err)
		} else {
			t.Logf("%s: %v", m.name, w.err)
		}
	}
}

func TestRetentionRules(t *testing.T) {
	t.Parallel()
	w, r := trimmer(t, nil)
	for i, pattern := range []string{"**", "*", "room:*", "room:**", "room:1", "room:*:chat", "room:1:**", "*:*:chat", "*:2"} {
		w.retain(pattern, "", int64(i+1))
	}
	if w.err != nil {
		t.Fatal(w.err)
	}
	rules, err := r.rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]string{
		"lobby":         "*",
		"room:1":        "room:1",
		"room:2":        "room:*", // as many literals as *:2; the first of equals in the table
		"room:3":        "room:*",
		"room:3:x":      "room:**",
		"room:3:chat":   "room:*:chat",
		"hall:3:chat":   "*:*:chat",
		"hall:1:2:3:4":  "**",
		"room:1:x:y":    "room:1:**",
		"hall:2":        "*:2",
		"other:3:x":     "**",
		"room:3:chat:x": "room:**",
	} {
		if got := rules.of(topic).pattern.String(); got != want {
			t.Errorf("%s is kept by %s, want %s", topic, got, want)
		}
	}
	w.exec(w.admin, "delete from pgcast.retention")
	if rules, err = r.rules(t.Context()); err != nil || rules.of("room:1").maxCount != 0 || rules.of("room:1").maxAge != 0 {
		t.Errorf("without a rule: %v, %v", rules.of("room:1"), err)
	}
	for _, pattern := range []string{"", "a:**:b", "__system", "a\"", strings.Repeat("a", 257)} {
		if _, err := w.admin.Exec(t.Context(), "select pgcast.retain($1, max_count => 1)", pattern); err == nil {
			t.Errorf("%q is taken as a pattern", pattern)
		}
	}
	w.exec(w.admin, "insert into pgcast.retention values ('a:**:b')") // past retain(), which refuses it
	var bad *pgcast.Error
	if _, err := r.pass(t.Context()); !errors.As(err, &bad) || bad.Code != pgcast.CodeInvalidTopic {
		t.Errorf("a bad pattern: %v", err)
	}
}

// TestRetentionBatches trims a long topic batch by batch and forgets keys that are a day old.
func TestRetentionBatches(t *testing.T) {
	t.Parallel()
	w, r := trimmer(t, &RetentionOptions{Batch: 10, Batches: 1})
	w.retain("a", "", 3)
	w.writer().bulk(35, "a")
	w.hand().lead().drain()
	w.exec(w.admin, "select pgcast.publish('b', 'e', null, 'old'), pgcast.publish('b', 'e', null, 'new')")
	w.exec(w.admin, "update pgcast.publish_key set created_at = now() - interval '25 hours' where key = 'old'")
	passes := 1
	for ; w.pass(r); passes++ {
	}
	w.keeps("a", "tail 33, head 35: 33 34 35")
	if w.err != nil {
		t.Fatal(w.err)
	}
	if passes != 4 {
		t.Errorf("32 events in batches of 10 took %d passes, not 4", passes)
	}
	if keys := pgtest.Value[string](t, w.db, "select string_agg(key, ' ') from pgcast.publish_key"); keys != "new" {
		t.Errorf("keys left: %s", keys)
	}
}

// TestRetentionKeepsUp: a pass over many topics takes long, so it does more than one batch
// for a topic that has more, but not all at once; what a crash left comes first.
func TestRetentionKeepsUp(t *testing.T) {
	t.Parallel()
	w, r := trimmer(t, &RetentionOptions{Batch: 10, Batches: 3})
	w.retain("a", "", 3)
	w.writer().bulk(75, "a")
	w.hand().lead().drain()
	id := pgtest.Value[int64](t, w.db, "select id from pgcast.topic")
	if _, err := r.queries.RetentionTail(t.Context(), db.RetentionTailParams{TopicID: id, Batch: 5, MaxCount: 3}); err != nil {
		t.Fatal(err)
	}
	for pass, want := range []struct {
		more   bool
		tail   pgcast.Seq
		stored int
	}{{true, 36, 45}, {true, 66, 15}, {false, 73, 3}, {false, 73, 3}} {
		more := w.pass(r)
		page, err := w.log.Page(t.Context(), "a", 0, 1)
		stored := pgtest.Value[int](t, w.db, "select count(*)::int from pgcast.event_log")
		if err != nil || w.err != nil || more != want.more || page.Tail != want.tail || stored != want.stored {
			t.Errorf("pass %d: more %t, tail %d, %d stored, want %v; %v, %v", pass+1, more, page.Tail, stored, want, err, w.err)
		}
	}
}

func TestRetentionRuns(t *testing.T) {
	t.Parallel()
	w, _ := trimmer(t, nil)
	w.retain("a", "", 1)
	w.writer().bulk(30, "a")
	w.hand().lead().drain()
	if w.err != nil {
		t.Fatal(w.err)
	}
	r := newRetention(w.pool, &RetentionOptions{Every: time.Hour, Batch: 10, Batches: 1}, newMetrics(nil), discard)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.run(ctx) }()
	await(t, "the topic is trimmed in several passes", func() bool { return w.kept("a") == "tail 30, head 30: 30" })
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("run: %v", err)
	}
	pool := w.db.Pool(t)
	pool.Close()
	broken := newRetention(pool, nil, newMetrics(nil), discard)
	if _, err := broken.pass(t.Context()); err == nil {
		t.Error("a pass without a database succeeds")
	}
}
