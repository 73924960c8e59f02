package replay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
	"github.com/pgcast/pgcast/internal/pgtest"
)

func seqs(events []pgcast.Event) (list []int) {
	for _, e := range events {
		list = append(list, int(e.Seq))
	}
	return list
}

func positions(events []pgcast.Event) (list []int) {
	for _, e := range events {
		list = append(list, int(e.Position))
	}
	return list
}

func (w *world) same(what string, got, want any, err error) {
	if g, x := fmt.Sprint(got), fmt.Sprint(want); g != x || err != nil {
		w.fail("%s: %s, %v; want %s", what, g, err, x)
	}
}

func pattern(text string) pgcast.Pattern {
	p, err := pgcast.ParsePattern(text)
	if err != nil {
		panic(err)
	}
	return p
}

// readings are what Log promises, each on a log of its own; the mutants go through them
// too. Six events: a 1, b 1, a 2, b 2, a 3, b 3 at the positions 1 to 6; each has 100
// bytes that do not compress, only the fourth has none.
var readings = map[string]func(*world){
	"read": func(w *world) {
		all, _, err := w.log.Read(w.ctx, 0, "", 10)
		w.same("all", positions(all), []int{1, 2, 3, 4, 5, 6}, err)
		some, _, err := w.log.Read(w.ctx, 2, "", 3)
		w.same("three after 2", positions(some), []int{3, 4, 5}, err)
		w.same("their topics", []string{some[0].Topic, some[1].Topic, some[2].Topic}, []string{"a", "b", "a"}, nil)
		w.same("their seqs", seqs(some), []int{2, 2, 3}, nil)
		none, _, err := w.log.Read(w.ctx, 6, "", 10)
		w.same("after the end", len(none), 0, err)
		none, _, err = w.log.Read(w.ctx, math.MaxInt64, "", 10)
		w.same("far after the end", len(none), 0, err)
	},
	"read within a budget": func(w *world) {
		w.log.opts.MaxRead = 210 // two of about 104
		two, _, err := w.log.Read(w.ctx, 0, "", 10)
		w.same("after 0", positions(two), []int{1, 2}, err)
		w.log.opts.MaxRead = 50
		one, _, err := w.log.Read(w.ctx, 2, "", 10)
		w.same("one event larger than the budget", positions(one), []int{3}, err)
		page, err := w.log.Page(w.ctx, "a", 1, 10)
		w.same("page", seqs(page.Events), []int{2}, err)
		for after, at := pgcast.Position(0), 1; after < 6; at += 2 {
			list, next, err := w.log.Scan(w.ctx, pattern("a"), after, 6, 10)
			if after = next; at < 6 {
				w.same("scan", positions(list), []int{at}, err)
			}
		}
	},
	"oversize": func(w *world) {
		w.log.opts.MaxEvent = 99
		list, _, err := w.log.Read(w.ctx, 2, "", 2)
		w.same("read", []bool{list[0].Oversize, list[0].Data == nil, list[1].Oversize, list[1].Data == nil}, []bool{true, true, false, true}, err)
		page, err := w.log.Page(w.ctx, "b", 0, 2)
		w.same("page", []bool{page.Events[0].Oversize, page.Events[1].Oversize}, []bool{true, false}, err)
		list, _, err = w.log.Scan(w.ctx, pattern("*"), 2, 4, 2)
		w.same("scan", []bool{list[0].Oversize, list[1].Oversize}, []bool{true, false}, err)
		w.log.opts.MaxEvent = 100
		list, _, err = w.log.Read(w.ctx, 0, "", 1)
		w.same("just not oversize", []any{list[0].Oversize, len(list[0].Data)}, []any{false, 100}, err)
	},
	"page": func(w *world) {
		page, err := w.log.Page(w.ctx, "b", 1, 1)
		w.same("b after 1", []any{page.Tail, page.Head, seqs(page.Events), page.Events[0].Position}, []any{1, 3, []int{2}, 4}, err)
		page, err = w.log.Page(w.ctx, "b", 3, 5)
		w.same("at the head", []any{page.Tail, page.Head, len(page.Events)}, []any{1, 3, 0}, err)
		page, err = w.log.Page(w.ctx, "b", math.MaxInt64, 5)
		w.same("beyond the head", []any{page.Tail, page.Head, len(page.Events)}, []any{1, 3, 0}, err)
		page, err = w.log.Page(w.ctx, "nobody", 0, 5)
		w.same("no such topic", []any{page.Tail, page.Head, len(page.Events)}, []any{1, 0, 0}, err)
	},
	"scan": func(w *world) {
		list, next, err := w.log.Scan(w.ctx, pattern("b"), 0, 6, 2)
		w.same("two of b", []any{positions(list), next}, []any{[]int{2, 4}, 4}, err)
		list, next, err = w.log.Scan(w.ctx, pattern("b"), 4, 6, 2)
		w.same("the last of b", []any{positions(list), next}, []any{[]int{6}, 6}, err)
		list, next, err = w.log.Scan(w.ctx, pattern("**"), 1, 3, 10)
		w.same("a part of all", []any{positions(list), next}, []any{[]int{2, 3}, 3}, err)
		list, next, err = w.log.Scan(w.ctx, pattern("*:x"), 0, 6, 10)
		w.same("nothing", []any{len(list), next}, []any{0, 6}, err)
		list, next, err = w.log.Scan(w.ctx, pattern("**"), 6, 2, 10)
		w.same("backwards", []any{len(list), next}, []any{0, 6}, err)
		list, next, err = w.log.Scan(w.ctx, pattern("**"), math.MaxInt64, 6, 10)
		w.same("from far away", []any{len(list), next}, []any{0, math.MaxInt64}, err)
		gap, err := w.log.ScanGap(w.ctx, pattern("**"), 0)
		w.same("nothing is trimmed", gap, 0, err)
	},
	"scan gap": func(w *world) {
		w.exec(w.admin, "insert into pgcast.topic_tail select t.id, 3, p, e.id, e.created_at from pgcast.topic t, pgcast.event_log e, (values ('a', 3), ('b', 4)) v(name, p) where e.id = p and t.name = v.name")
		for _, c := range []struct {
			pattern string
			after   pgcast.Position
			want    int
		}{{"a", 0, 3}, {"a", 2, 3}, {"a", 3, 0}, {"*", 0, 4}, {"*", 3, 4}, {"*", 4, 0}, {"c", 0, 0}} {
			gap, err := w.log.ScanGap(w.ctx, pattern(c.pattern), c.after)
			w.same(fmt.Sprint(c.pattern, " after ", c.after), gap, c.want, err)
		}
	},
	"places": func(w *world) {
		all, _, err := w.log.Read(w.ctx, 0, "", 6)
		if err != nil || len(all) != 6 {
			w.fail("read: %d, %v", len(all), err)
			return
		}
		row, at, _ := all[2].ID.Parts()
		places, position, err := w.log.Places(w.ctx, []pgcast.Ask{
			{Topic: "b", After: 2},
			{Topic: "a", After: 2, ID: all[2].ID},
			{Topic: "a", After: 1, ID: all[2].ID},                       // another event stands there
			{Topic: "b", After: 2, ID: all[2].ID},                       // in another topic
			{Topic: "a", After: 2, ID: pgcast.MakeID(row, at.Add(1e6))}, // as after a restore
			{Topic: "a", After: 2, ID: "nonsense"},
			{Topic: "nobody", After: 5, ID: all[0].ID},
			{Topic: "a", After: 9, ID: all[2].ID},
			{Topic: "a", After: 3, ID: all[4].ID},
		})
		var known []int
		for i, p := range places {
			if want := (pgcast.Place{Tail: 1, Head: 3, Known: p.Known}); p != want && i != 6 {
				w.fail("place %d is %v", i, p)
			}
			if p.Known {
				known = append(known, i)
			}
		}
		w.same("known", known, []int{1, 8}, err)
		w.same("of nobody", places[6], pgcast.Place{Tail: 1}, nil)
		w.same("position", position, 6, nil)
		places, _, err = w.log.Places(w.ctx, nil)
		w.same("no asks", len(places), 0, err)

		for _, c := range []struct {
			at   pgcast.Position
			id   pgcast.ID
			want bool
		}{{3, all[2].ID, true}, {2, all[2].ID, false}, {3, pgcast.MakeID(row, at.Add(1e6)), false}, {3, "nonsense", false}, {99, all[2].ID, false}} {
			knows, err := w.log.Knows(w.ctx, c.at, c.id)
			w.same(fmt.Sprint(c.id, " at ", c.at), knows, c.want, err)
		}
	},
	"places after trimming": func(w *world) {
		all, _, err := w.log.Read(w.ctx, 0, "", 6)
		if err != nil || len(all) != 6 {
			w.fail("read: %d, %v", len(all), err)
			return
		}
		w.exec(w.admin, "delete from pgcast.retention")
		w.retain("a", "", 1)
		w.pass(newRetention(w.pool, nil, newMetrics(nil), discard))
		row, at, _ := all[2].ID.Parts()
		places, _, err := w.log.Places(w.ctx, []pgcast.Ask{
			{Topic: "a", After: 2, ID: all[2].ID}, // it has seen the newest trimmed one
			{Topic: "a", After: 2, ID: pgcast.MakeID(row, at.Add(1e6))},
			{Topic: "a", After: 1, ID: all[0].ID}, // nobody knows any more
			{Topic: "a", After: 3, ID: all[4].ID},
		})
		want := []pgcast.Place{{Tail: 3, Head: 3, Known: true}, {Tail: 3, Head: 3}, {Tail: 3, Head: 3}, {Tail: 3, Head: 3, Known: true}}
		w.same("places", places, want, err)
		knows, err := w.log.Knows(w.ctx, 3, all[2].ID)
		w.same("at the newest trimmed position", knows, true, err)
		knows, err = w.log.Knows(w.ctx, 3, all[0].ID)
		w.same("another id there", knows, false, err)
		knows, err = w.log.Knows(w.ctx, 1, all[0].ID)
		w.same("before it, where every id is believed", knows, true, err)
	},
}

// six makes the log that the readings read.
func (w *world) six() {
	w.batch = 1000
	w.exec(w.admin, `insert into pgcast.event_log (topic, event, data)
		select (array['a', 'b'])[1 + i % 2], 'e', case when i <> 3 then
			to_json((select string_agg(substr(md5(i::text || j), 1, 32), '' order by j) from generate_series(1, 3) j) || '..') end
		from generate_series(0, 5) i`)
	w.hand().lead().drain()
	w.log.opts = NewLog(nil, nil).opts
}

func TestLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Doorbell)
	for name, read := range readings {
		w.reset()
		w.six()
		read(w)
		if w.err != nil {
			t.Errorf("%s: %v", name, w.err)
		}
	}
}

func TestLogMutants(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Doorbell)
	for _, m := range []struct {
		mutant
		sql string
	}{
		{mutant{"once more", "read", []string{"position > (select $2", "position >= (select $2"}}, db.LogRead},
		{mutant{"skip one", "read", []string{"where position > (select $2", "where position % 4 <> 0 and position > (select $2"}}, db.LogRead},
		{mutant{"backwards", "read", []string{"order by position limit", "order by position desc limit"}}, db.LogRead},
		{mutant{"nothing for the large", "read within a budget", []string{"x.nth = 1 or", ""}}, db.LogRead},
		{mutant{"no budget", "read within a budget", []string{"x.total <= $4", "0 <= $4"}}, db.LogRead},
		{mutant{"nothing for the large page", "read within a budget", []string{"x.nth = 1 or", ""}}, db.TopicPage},
		{mutant{"nothing for the large scan", "read within a budget", []string{"x.nth = 1 or", ""}}, db.LogScan},
		{mutant{"limit off by one", "oversize", []string{"s.size <= $1", "s.size < $1"}}, db.LogRead},
		{mutant{"once more", "page", []string{"r.seq > (select $4", "r.seq >= (select $4"}}, db.TopicPage},
		{mutant{"once more", "scan", []string{"position > $2", "position >= $2"}}, db.LogScan},
		{mutant{"too far", "scan", []string{"position <= $3", "position <= 1 + $3"}}, db.LogScan},
		{mutant{"any topic", "scan", []string{"where t.name ~ $5", "where t.name ~ '.' or t.name ~ $5"}}, db.LogScan},
		{mutant{"the oldest gap", "scan gap", []string{"order by tt.position desc", "order by tt.position"}}, db.LogScanGap},
		{mutant{"gap once more", "scan gap", []string{"tt.position > $1", "tt.position >= $1"}}, db.LogScanGap},
		{mutant{"believe the number alone", "places", []string{"and e.created_at = a.created_at", ""}}, db.TopicPlaces},
		{mutant{"believe the id alone", "places", []string{"and r.seq = a.after", ""}}, db.TopicPlaces},
		{mutant{"believe any topic", "places", []string{"where r.topic_id = t.id and r.seq = a.after", "where r.seq = a.after"}}, db.TopicPlaces},
		{mutant{"forget the trimmed", "places after trimming", []string{"or coalesce(tt.tail - 1 = a.after", "or false and coalesce(tt.tail - 1 = a.after"}}, db.TopicPlaces},
		{mutant{"believe the trimmed number alone", "places after trimming", []string{"and tt.created_at = a.created_at", ""}}, db.TopicPlaces},
		{mutant{"forget the trimmed position", "places after trimming", []string{"where tt.position = $1::bigint and", "where false and"}}, db.LogKnows},
	} {
		w.reset()
		w.six()
		w.log.queries = db.New(rewriter{w.pool, m.sql, m.apply(t, m.sql)})
		if readings[m.scenario] == nil {
			t.Fatalf("there is no %q", m.scenario)
		}
		func() {
			defer func() {
				if p := recover(); p != nil {
					w.fail("panic: %v", p)
				}
			}()
			readings[m.scenario](w)
		}()
		w.log.queries = db.New(w.pool)
		if w.err == nil {
			t.Errorf("%s survives %q", m.name, m.scenario)
		} else if strings.Contains(w.err.Error(), "SQLSTATE 42") {
			t.Errorf("%s is no SQL: %v", m.name, w.err)
		}
	}
}

// TestScanStretch scans over more places than one look takes.
func TestScanStretch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Doorbell)
	w.batch = 10_000
	w.writer().bulk(2*stretch, "x").publish("y")
	w.hand().lead().drain()
	if w.err != nil {
		t.Fatal(w.err)
	}
	var ends []int
	var got []pgcast.Event
	for after := pgcast.Position(0); after < 2*stretch+1; {
		list, next, err := w.log.Scan(t.Context(), pattern("y"), after, 2*stretch+1, 100)
		if err != nil {
			t.Fatal(err)
		}
		got, after = append(got, list...), next
		ends = append(ends, int(next))
	}
	if !slices.Equal(ends, []int{stretch, 2 * stretch, 2*stretch + 1}) || len(got) != 1 || got[0].Position != 2*stretch+1 {
		t.Errorf("looked up to %v and found %v", ends, got)
	}
}

// TestLogUnavailable: whatever the database does not answer can be tried again.
func TestLogUnavailable(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	log := NewLog(d.Pool(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range map[string]func() error{
		"Position": func() error { _, err := log.Position(ctx); return err },
		"Read":     func() error { _, _, err := log.Read(ctx, 0, "", 1); return err },
		"Scan":     func() error { _, _, err := log.Scan(ctx, pattern("a"), 0, 1, 1); return err },
		"ScanGap":  func() error { _, err := log.ScanGap(ctx, pattern("a"), 0); return err },
		"Knows":    func() error { _, err := log.Knows(ctx, 1, "1-1"); return err },
		"Page":     func() error { _, err := log.Page(ctx, "a", 0, 1); return err },
		"Places":   func() error { _, _, err := log.Places(ctx, []pgcast.Ask{{Topic: "a"}}); return err },
		"Publish":  func() error { _, err := log.Publish(ctx, "a", "e", nil, ""); return err },
		"Identity": func() error { _, err := log.Identity(ctx); return err },
	} {
		err := call()
		if !errors.Is(err, pgcast.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		} else if text := err.Error(); !strings.Contains(text, ": ") || !strings.HasSuffix(text, "context canceled") {
			t.Errorf("%s does not say what was tried and why it failed: %s", name, text)
		}
	}
}
