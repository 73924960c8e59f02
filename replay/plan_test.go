package replay

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/listener"
)

// TestPlans looks at how Postgres answers each hot query: on an empty log, on a grown
// one, and on one where a single transaction wrote most of it; with fresh statistics and
// with none; with the parameters known and with a generic plan. None may read a large
// table from end to end, and what it reads in all is bounded by what it was asked for.
func TestPlans(t *testing.T) {
	t.Parallel()
	p := newPlans(t)
	p.check("empty")
	p.kept("empty")
	p.grow()
	p.check("grown, no statistics")
	p.exec(analyze)
	p.check("grown")
	p.kept("grown")
	p.exec(skew)
	p.exec(analyze)
	p.check("skewed")
	p.kept("skewed")
	p.exec(`delete from pg_statistic where starelid in (select oid from pg_class where relnamespace = 'pgcast'::regnamespace);
		update pg_class set reltuples = -1, relpages = 0 where relnamespace = 'pgcast'::regnamespace`)
	p.check("skewed, no statistics")
	p.exec(busy)
	p.exec(analyze)
	p.kept("few topics")
}

// kept makes sure that what readers ask is not planned anew at each call, which takes longer
// the larger the log is: Postgres keeps a plan only if it seems no dearer than one made for
// the very arguments. The pool's sessions cannot force it by a setting: they may be a pooler's.
func (p *plans) kept(stage string) {
	p.t.Helper()
	for _, a := range idle {
		if !strings.HasPrefix(a.name, "Log") && !strings.HasPrefix(a.name, "Topic") || a.args == "" {
			continue
		}
		p.exec("prepare asked as " + a.sql)
		for range 10 {
			p.exec("execute asked(" + a.args + ")")
		}
		var kept, made int
		err := p.conn.QueryRow(p.t.Context(), "select generic_plans, custom_plans from pg_prepared_statements where name = 'asked'", pgx.QueryExecModeSimpleProtocol).Scan(&kept, &made)
		if err != nil {
			p.t.Fatal(err)
		}
		p.exec("deallocate asked")
		if made > 5 {
			p.t.Errorf("%s: %s: planned anew %d times of 10", stage, a.name, made)
		}
	}
}

const analyze = "analyze pgcast.event_log, pgcast.replay, pgcast.topic, pgcast.topic_tail, pgcast.progress, pgcast.publish_key"

// 1 topic of 100,000 events and 20,000 of 10 each; 30,000 transactions; 9,000 topics have
// been trimmed; and as many steps as one held snapshot keeps from being pruned. busy: 20 topics
// have it all.
const (
	burn = `do $$ begin
		for i in 1..30000 loop
			begin perform pg_current_xact_id(); raise exception using errcode = 'P0001'; exception when others then end;
		end loop; end $$`
	grow = `
	truncate pgcast.event_log, pgcast.replay, pgcast.topic, pgcast.progress restart identity;
	insert into pgcast.topic (name) select 't:' || i from generate_series(1, 20001) i;
	insert into pgcast.event_log (topic, event, data, xid)
		select case when i % 3 = 0 then 't:1' else 't:' || 2 + i % 20000 end, 'created', json_build_object('n', i),
			(pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 30000 + i / 10)::text::xid8
		from generate_series(0, 299999) i;
	insert into pgcast.replay (topic_id, seq, position, event_id)
		select substr(topic, 3)::bigint, row_number() over (partition by topic order by id), id, id from pgcast.event_log order by id;
	insert into pgcast.topic_tail select t.id, 2, r.position, r.event_id, now()
		from pgcast.topic t join pgcast.replay r on r.topic_id = t.id and r.seq = 1 where t.id % 2 = 0 and t.id < 18000;
	delete from pgcast.replay r using pgcast.topic_tail tt where tt.topic_id = r.topic_id and r.seq < tt.tail and r.topic_id < 17000;
	insert into pgcast.publish_key select 't:1', i, i, now() - i * interval '1.9 s' from generate_series(1, 50000) i;
	insert into pgcast.progress select i, i * 6, format('%s:%s:', i, i)::pg_snapshot from generate_series(1, 49999) i;
	insert into pgcast.progress values (50000, 300000, pg_current_snapshot())`
	busy = `
	truncate pgcast.event_log, pgcast.replay, pgcast.topic, pgcast.topic_tail restart identity;
	insert into pgcast.topic (name) select 't:' || i from generate_series(1, 20) i;
	insert into pgcast.event_log (topic, event, data) select 't:' || 1 + i % 20, 'created', json_build_object('n', i) from generate_series(0, 299999) i;
	insert into pgcast.replay (topic_id, seq, position, event_id) select 1 + (id - 1) % 20, 1 + (id - 1) / 20, id, id from pgcast.event_log order by id`
	skew = `insert into pgcast.event_log (topic, event, data) select 't:1', 'created', json_build_object('n', i) from generate_series(1, 200000) i`
)

type plans struct {
	t                *testing.T
	conn, late, line *pgx.Conn
}

func newPlans(t *testing.T) *plans {
	d := pgtest.New(t, nil)
	line, err := listener.Dial(t.Context(), d.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(line.Close)
	p := &plans{t, d.Conn(t), d.Conn(t), line.Conn()}
	for _, table := range []string{"event_log", "replay", "topic", "topic_tail", "progress"} {
		p.exec("alter table pgcast." + table + " set (autovacuum_enabled = false)")
	}
	return p
}

func (p *plans) exec(sql string) {
	p.t.Helper()
	p.on(p.conn, sql)
}

func (p *plans) on(conn *pgx.Conn, sql string) {
	p.t.Helper()
	if _, err := conn.Exec(p.t.Context(), sql); err != nil {
		p.t.Fatalf("%.80s: %v", sql, err)
	}
}

func (p *plans) grow() {
	p.exec(burn)
	p.exec(grow)
	p.exec("vacuum pgcast.event_log, pgcast.replay, pgcast.topic, pgcast.topic_tail, pgcast.progress")
}

// asked is one query as it is asked: sql with literal arguments, and the most pages it
// may touch.
type asked struct {
	name, sql, args string
	pages           int
	pool            bool // not asked on the sequencer's own line, with its settings
}

var idle = []asked{
	{"SequencerLook", db.SequencerLook, "", 60, false}, // some for each transaction that ran at the last step
	{"SequencerStep, nothing to do", db.SequencerStep, "0, 5000, true", 120, false},
	{"SequencerWaiting", db.SequencerWaiting, "", 12, true},
	{"ProgressPrune", db.ProgressPrune, "0", 25000, true},
	{"ProgressPrune, nothing", db.ProgressPrune, "60000", 12, true},
	{"LogPosition", db.LogPosition, "", 6, true},
	{"LogRead, at the end", db.LogRead, "1000000, 300000, 500, 4000000, 300000, 'now'", 160, true}, // chunks rolled back here left dead entries,
	{"LogRead, 100", db.LogRead, "1000000, 150000, 100, 4000000, 150000, 'now'", 1210, true},
	{"LogScan, a stretch for one topic", db.LogScan, "1000000, 150000, 155000, 5000, '^t:77$', 500, 4000000", 25000, true},
	{"LogScanGap", db.LogScanGap, "299990, '^t:.*$'", 20, true},
	{"LogKnows", db.LogKnows, "150000, 150000, 'epoch'", 20, true},
	{"TopicPage, at the end of a large topic", db.TopicPage, "1000000, 4000000, 't:1', 100000, 500", 150, true},
	{"TopicPage, 100 of a large topic", db.TopicPage, "1000000, 4000000, 't:1', 50000, 100", 1000, true},
	{"TopicPage, of a small topic", db.TopicPage, "1000000, 4000000, 't:4004', 0, 500", 120, true},
	{"TopicPage, of no topic", db.TopicPage, "1000000, 4000000, 'nobody', 0, 500", 12, true},
	{"TopicPlaces, 1", db.TopicPlaces, "'{0}', '{t:1}', '{500}', '{3000}', '{epoch}'", 40, true},
	{"TopicPlaces, 100", db.TopicPlaces, places(100), 3000, true},
	{"RetentionTopics", db.RetentionTopics, "10000, 500", 12000, true},
	{"RetentionTail, 100", db.RetentionTail, "1, 100, 1000, 0", 100, true},
	{"RetentionDelete, nothing", db.RetentionDelete, "1, 0, 1000", 16, true},
	{"RetentionDelete, little", db.RetentionDelete, "17998, 0, 1000", 60, true},
	{"RetentionKeys", db.RetentionKeys, "", 25000, true},
}

var few = []asked{
	{"SequencerLook", db.SequencerLook, "", 60, false},
	{"SequencerStep", db.SequencerStep, "0, 5000, false", 500, false},
	{"SequencerWaiting", db.SequencerWaiting, "", 16, true},
}

var bulk = []asked{
	{"SequencerLook", db.SequencerLook, "", 600, false},
	{"SequencerStep, only the target", db.SequencerStep, "0, 5000, false", 3000, false},
	{"SequencerWaiting", db.SequencerWaiting, "", 600, true},
}

var chunk = []asked{
	{"SequencerLook", db.SequencerLook, "", 60, false},
	{"SequencerStep", db.SequencerStep, "0, 5000, false", 100000, false},
}

func places(n int) string {
	ords, topics := make([]string, n), make([]string, n)
	for i := range n {
		ords[i], topics[i] = fmt.Sprint(i), fmt.Sprintf("t:%d", 1+i*100)
	}
	list := func(l []string) string { return "'{" + strings.Join(l, ",") + "}'" }
	return strings.Join([]string{list(ords), list(topics), list(slices.Repeat([]string{"2"}, n)),
		list(slices.Repeat([]string{"4000"}, n)), list(slices.Repeat([]string{"epoch"}, n))}, ", ")
}

func (p *plans) check(stage string) {
	p.t.Helper()
	p.seen()
	p.ask(stage+", nothing new", idle)
	// Two transactions come, one goes on that was open at the last step.
	p.on(p.late, "begin; insert into pgcast.event_log (topic, event) values ('t:70', 'late')")
	p.seen()
	p.on(p.late, "commit")
	p.exec("insert into pgcast.event_log (topic, event) select 't:' || i * 50, 'new' from generate_series(1, 5) i")
	p.exec("insert into pgcast.event_log (topic, event) values ('t:1', 'new'), ('new', 'new')")
	p.ask(stage+", few new", few)
	p.seen()
	// A transaction larger than a step comes, beside a larger one that stays open.
	p.on(p.late, "begin; insert into pgcast.event_log (topic, event) select 't:80', 'open' from generate_series(1, 10000)")
	p.exec("insert into pgcast.event_log (topic, event) select 't:' || i % 100, 'bulk' from generate_series(1, 12000) i")
	p.ask(stage+", bulk", bulk)
	p.exec("begin; prepare step as " + db.SequencerStep)
	p.exec("execute step(0, 5000, false); commit; deallocate all")
	p.ask(stage+", chunk", chunk)
	p.on(p.late, "rollback")
}

// seen notes that everything so far is sequenced.
func (p *plans) seen() {
	p.exec("insert into pgcast.progress select step + 1, position, pg_current_snapshot() from pgcast.progress order by step desc limit 1")
}

func (p *plans) ask(stage string, list []asked) {
	for _, mode := range []string{"custom", "generic"} {
		for _, a := range list {
			conn := p.line
			if a.pool {
				conn = p.conn
			}
			p.on(conn, "begin; set local plan_cache_mode = force_"+mode+"_plan")
			p.on(conn, "prepare asked as "+a.sql)
			call := "execute asked"
			if a.args != "" {
				call += "(" + a.args + ")"
			}
			root := p.explain(conn, call)
			p.on(conn, "rollback; deallocate all")
			name := fmt.Sprintf("%s, %s: %s", stage, mode, a.name)
			scan := root.find(func(n *node) bool { return n.Type == "Seq Scan" && slices.Contains(large, n.Relation) })
			if scan != nil && !strings.HasPrefix(stage, "empty") {
				p.t.Errorf("%s: reads all of %s\n%s", name, scan.Relation, root.text(""))
			} else if got := root.pages(); got > a.pages {
				p.t.Errorf("%s: touches %d pages, more than %d\n%s", name, got, a.pages, root.text(""))
			} else if testing.Verbose() {
				p.t.Logf("%s: %d pages", name, got)
			}
		}
	}
}

var large = []string{"event_log", "replay", "topic", "topic_tail", "progress", "publish_key"}

// node is one node of a plan.
type node struct {
	Type     string  `json:"Node Type"`
	Relation string  `json:"Relation Name"`
	Index    string  `json:"Index Name"`
	Sub      string  `json:"Subplan Name"`
	Rows     float64 `json:"Actual Rows"`
	Loops    float64 `json:"Actual Loops"`
	Removed  float64 `json:"Rows Removed by Filter"`
	Hit      int     `json:"Shared Hit Blocks"`
	Read     int     `json:"Shared Read Blocks"`
	Plans    []*node
}

func (p *plans) explain(conn *pgx.Conn, call string) *node {
	p.t.Helper()
	var text []byte
	if err := conn.QueryRow(p.t.Context(), "explain (analyze, buffers, format json) "+call, pgx.QueryExecModeSimpleProtocol).Scan(&text); err != nil {
		p.t.Fatalf("explain %s: %v", call, err)
	}
	var answer []struct{ Plan *node }
	if err := json.Unmarshal(text, &answer); err != nil {
		p.t.Fatal(err)
	}
	return answer[0].Plan
}

func (n *node) find(is func(*node) bool) *node {
	if is(n) {
		return n
	}
	for _, c := range n.Plans {
		if found := c.find(is); found != nil {
			return found
		}
	}
	return nil
}

// pages counts each touch of a page. A part that writes and that nobody reads from runs
// after the rest, and Postgres does not count it into the whole.
func (n *node) pages() int {
	sum := n.Hit + n.Read
	for _, c := range n.Plans {
		if c.Type == "ModifyTable" {
			sum += c.Hit + c.Read
		}
	}
	return sum
}

func (n *node) text(indent string) string {
	s := fmt.Sprintf("%s%s %s %s %s rows=%v loops=%v removed=%v pages=%d\n", indent, n.Sub, n.Type, n.Relation, n.Index, n.Rows, n.Loops, n.Removed, n.Hit+n.Read)
	for _, c := range n.Plans {
		s += c.text(indent + "  ")
	}
	return s
}
