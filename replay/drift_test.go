package replay

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// lines is a log that a test can read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

// What becomes of attached tables is told: in the log, as a figure, and to their topics,
// each once. Promised within 10 s, waited for much longer.
func TestDriftIsTold(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	d.Exec(t, `create table chat (id int primary key, room int, body text);
		create table board (id int primary key);
		create table quiet (id int primary key);
		select pgcast.attach('chat', topic => 'room:{room}'), pgcast.attach('board'), pgcast.attach('quiet');
		insert into chat values (1, 1, 'a'), (2, 2, 'b')`)
	log := &lines{}
	r := run(t, d, SequencerOptions{Logger: slog.New(slog.NewTextHandler(log, nil))})
	history := func(topic string) []string {
		t.Helper()
		rows, _ := conn.Query(t.Context(), `select event || coalesce(' ' || data::text, '') from pgcast.history where topic = $1 and event <> 'created' order by seq`, topic)
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	told := func(what string, want map[string][]string) {
		t.Helper()
		got := map[string][]string{}
		await(t, what, func() bool {
			for topic := range want {
				got[topic] = history(topic)
				if len(got[topic]) < len(want[topic]) {
					return false
				}
			}
			return true
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	const degraded, recovered, altered = `degraded {"table" : "public.chat"}`, `recovered {"table" : "public.chat"}`, `altered {"table" : "public.chat"}`
	rooms := func(list ...string) map[string][]string { return map[string][]string{"room:1": list, "room:2": list} }

	d.Exec(t, `alter table chat disable trigger "00_pgcast_insert"`)
	told("a disabled trigger", rooms(degraded))
	await(t, "the figure says so", func() bool { return r.metric("capture_drift") == 1 })
	if n := log.count("is disabled"); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
	d.Exec(t, `alter table chat enable always trigger "00_pgcast_insert"`)
	told("enabled again", rooms(degraded, recovered))
	await(t, "the figure says so", func() bool { return r.metric("capture_drift") == 0 })
	d.Exec(t, `alter table chat alter body type varchar(10)`)
	told("a rewritten table", rooms(degraded, recovered, altered))
	d.Exec(t, `drop table board`)
	told("a dropped table", map[string][]string{"board": {"gone"}})
	await(t, "both are counted and logged", func() bool {
		return r.metric("capture_changes_total") == 2 && log.count("event=altered") == 1 && log.count("event=gone") == 1
	})
	if n := r.metric("capture_drift"); n != 0 {
		t.Errorf("what has passed is still counted as wrong: %v", n)
	}
	d.Exec(t, `insert into chat values (3, 1, 'c')`)
	await(t, "events go on", func() bool {
		return pgtest.Value[int](t, d, `select count(*)::int from pgcast.history where topic = 'room:1' and event = 'created'`) == 2
	})
	if list := history("quiet"); len(list) > 0 {
		t.Errorf("a table that nothing happened to: %v", list)
	}
	if list := history("room:2"); slices.Contains(list, "gone") || len(list) != 3 {
		t.Errorf("room:2 was told %v", list)
	}
	if n := log.count("no longer wrong"); n != 1 {
		t.Errorf("the mending is logged %d times", n)
	}
}

// A new sequencing server does not tell again what was told.
func TestDriftIsToldOnce(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	d.Exec(t, `create table chat (id int primary key); select pgcast.attach('chat'); alter table chat disable trigger "00_pgcast_update"`)
	for range 2 {
		r := run(t, d, SequencerOptions{})
		await(t, "it is found", func() bool { return r.metric("capture_drift") == 1 })
		r.stop()
	}
	if n := pgtest.Value[int](t, d, `select count(*)::int from pgcast.event_log where event = 'degraded'`); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// One table whose capture cannot be refreshed keeps neither the others waiting nor the
// writers of the table: a detached partition has a trigger that goes with the function of
// its dropped root.
func TestDriftLocksNobodyOut(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	d.Exec(t, `create table root (id int) partition by list (id); create table part partition of root for values in (1);
		create table board (id int primary key); create table chat (id int primary key);
		select pgcast.attach('root'), pgcast.attach('board'), pgcast.attach('chat');
		alter table root detach partition part`)
	reader, err := d.Conn(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Exec(t.Context(), `select from part`); err != nil {
		t.Fatal(err)
	}
	d.Exec(t, `drop table root; drop table board; alter table chat add body text`)
	told := func() map[string]int {
		return pgtest.Value[map[string]int](t, d, `select coalesce(jsonb_object_agg(topic || ' ' || event, n), '{}') from (select topic, event, count(*) as n from pgcast.event_log group by topic, event) x`)
	}
	for range 2 {
		d.Exec(t, `select pgcast.watch()`)
		if diff := cmp.Diff(map[string]int{"board gone": 1, "chat altered": 1}, told()); diff != "" {
			t.Error(diff)
		}
	}
	if n := pgtest.Value[int](t, d, `select count(*)::int from pgcast.drift() where problem like '%was dropped%'`); n != 1 {
		t.Errorf("%d dropped tables are still to be forgotten", n)
	}
	if err := reader.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d.Exec(t, `select pgcast.watch()`)
		if diff := cmp.Diff(map[string]int{"board gone": 1, "chat altered": 1, "root gone": 1}, told()); diff != "" {
			t.Error(diff)
		}
	}
}

// While nothing has changed a look costs next to nothing; what changed before the table
// was attached again is told all the same.
func TestDriftLooksAtChanges(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	d.Exec(t, `create table chat (id int primary key); select pgcast.attach('chat')`)
	q := db.New(d.Pool(t))
	see := func(before string, maySkip bool) (state string, found []db.AttachmentWatchRow) {
		t.Helper()
		state, found, err := look(t.Context(), q, before, maySkip)
		if err != nil {
			t.Fatal(err)
		}
		return state, found
	}
	state, found := see("", true)
	if found == nil || len(found) > 0 {
		t.Errorf("the first look found %v", found)
	}
	if now, found := see(state, true); found != nil || now != state {
		t.Error("it looks although nothing has changed")
	}
	if _, found := see(state, false); found == nil {
		t.Error("it does not look although it should")
	}
	d.Exec(t, `alter table chat add body text; select pgcast.attach('chat')`)
	state, found = see(state, true)
	if len(found) != 1 || found[0].Told != "altered" {
		t.Errorf("found %v", found)
	}
	if state, found = see(state, true); len(found) != 0 { // the look itself has noted what was told
		t.Errorf("then %v", found)
	}
	if _, found = see(state, true); found != nil {
		t.Errorf("and then %v", found)
	}
}
