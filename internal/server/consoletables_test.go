package server

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/console"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/replay"
)

// table gives one of the list.
func (o *operator) table(name string) console.Table {
	o.t.Helper()
	t := want[console.Tables](o, "tables")
	i := slices.IndexFunc(t.Tables, func(l console.Table) bool { return l.Name == name })
	if i < 0 {
		o.t.Fatalf("%s is not among %+v", name, t.Tables)
	}
	return t.Tables[i]
}

// A table is attached as was planned, its writes are events, and it is detached.
func TestConsoleTables(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	const odd = `public."a'b; drop table plain"`
	db.Exec(t, `create table public.plain (id int primary key, room int, secret text); create table `+odd+` (x int, y int, primary key (y, x))`)
	o := &operator{start(t, db.URL, nil).awaitReady(t), t, ""}
	if l := o.table("public.plain"); l.Attached != nil || !slices.Equal(l.Columns, []string{"id", "room", "secret"}) || !slices.Equal(l.Key, []string{"id"}) {
		t.Errorf("plain is %+v", l)
	}
	if l := o.table(odd); !slices.Equal(l.Key, []string{"y", "x"}) {
		t.Errorf("the odd one is %+v", l)
	}
	topic := "room:{room}"
	attach := console.Order{Action: "attach", Table: "public.plain", Topic: &topic, Columns: []string{"id", "room"}, Old: true}
	var p console.Plan
	if status := o.do("POST", "tables/plan", attach, &p); status != http.StatusOK {
		t.Fatalf("plan: %d", status)
	}
	if p.Call != `select pgcast.attach('plain', topic => 'room:{room}', columns => '{id,room}', old => true)` || p.Barred != "" || len(p.Statements) < 3 {
		t.Errorf("the plan is %+v", p)
	}
	if o.table("public.plain").Attached != nil {
		t.Error("planning attaches")
	}
	var ran console.Plan
	if status := o.do("POST", "tables/run", attach, &ran); status != http.StatusOK || ran.Call != p.Call || !slices.Equal(ran.Statements, p.Statements) {
		t.Errorf("run: %d %+v", status, ran)
	}
	if a := o.table("public.plain").Attached; a == nil || a.Topic != topic || !slices.Equal(a.Columns, []string{"id", "room"}) || !a.Old || a.Capture != "trigger" || a.Enforced {
		t.Errorf("it is attached as %+v", a)
	}
	db.Exec(t, `insert into public.plain values (1, 7, 'canary')`)
	await(t, "its write is an event", func() bool { return want[console.TopicDetail](o, "topic?name=room:7").Head == 1 })
	db.Exec(t, `alter table public.plain disable trigger all`)
	if d := want[console.Tables](o, "tables").Drift; len(d) == 0 || d[0].Mend == "" {
		t.Errorf("the drift is %+v", d)
	}
	for _, again := range []console.Order{{Action: "attach", Table: odd}, {Action: "detach", Table: odd}, {Action: "detach", Table: "public.plain"}} {
		if status := o.do("POST", "tables/run", again, nil); status != http.StatusOK {
			t.Errorf("%+v: %d", again, status)
		}
	}
	if l := want[console.Tables](o, "tables"); len(l.Tables) != 2 || slices.ContainsFunc(l.Tables, func(l console.Table) bool { return l.Attached != nil }) || len(l.Drift) != 0 {
		t.Errorf("at the end there are %+v", l)
	}
	for name, status := range map[string]int{"public.none": 404, "plain; drop table plain": 400, "": 400, "pgcast.topic": 400} {
		var text string
		if got := o.do("POST", "tables/run", console.Order{Action: "attach", Table: name}, &text); got != status {
			t.Errorf("attach %q: %d %s", name, got, text)
		}
	}
	for _, bad := range []any{console.Order{Action: "drop", Table: "plain"}, console.Order{Action: "attach", Table: "plain", Capture: "magic"}, map[string]int{"other": 1}, strings.Repeat("x", maxOrder+1)} {
		if got := o.do("POST", "tables/plan", bad, nil); got != http.StatusBadRequest {
			t.Errorf("%.60v: %d", bad, got)
		}
	}
	// Whoever holds the table is not waited for long.
	conn := db.Conn(t)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `insert into public.plain values (2, 7, '')`); err != nil {
		t.Fatal(err)
	}
	if got := o.do("POST", "tables/run", attach, nil); got != http.StatusServiceUnavailable {
		t.Errorf("while somebody writes: %d", got)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// To attach by WAL makes the replication slot, which to detach the last such table gives back.
func TestConsoleTablesFromTheWAL(t *testing.T) {
	t.Parallel()
	attach := console.Order{Action: "attach", Table: "public.note", Capture: "wal"}
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	db.Exec(t, `create table public.note (id int primary key)`)
	o := &operator{start(t, db.URL, nil).awaitReady(t), t, ""}
	slots := func() int {
		return pgtest.Value[int](t, db, `select count(*)::int from pg_replication_slots where slot_name = pgcast.slot_name()`)
	}
	var p console.Plan
	if status := o.do("POST", "tables/plan", attach, &p); status != http.StatusOK || p.Call != `select pgcast.attach('note', capture => 'wal')` || p.Barred != "" || slots() != 0 {
		t.Fatalf("plan: %d %+v, %d slots", status, p, slots())
	}
	if status := o.do("POST", "tables/run", attach, nil); status != http.StatusOK {
		t.Fatalf("run: %d", status)
	}
	if a := o.table("public.note").Attached; a == nil || a.Capture != "wal" || slots() != 1 {
		t.Errorf("it is attached as %+v, with %d slots", a, slots())
	}
	db.Exec(t, `insert into public.note values (1)`)
	await(t, "its write is an event", func() bool { return want[console.TopicDetail](o, "topic?name=note").Head == 1 })
	if status := o.do("POST", "tables/run", console.Order{Action: "detach", Table: "public.note"}, nil); status != http.StatusOK {
		t.Errorf("detach: %d", status)
	}
	await(t, "the slot is given back", func() bool { return slots() == 0 })
}

// With the rights of a server's role everything is shown, and what it may not do is said, with
// what to run by hand.
func TestConsoleServerRole(t *testing.T) {
	t.Parallel()
	w := newTroupe(t, pgtest.Doorbell, false)
	w.exec(w.deploy, `select pgcast.attach('shop.item', topic => 'room:{room_id}', without => '{secret}')`)
	w.apply()
	var looks atomic.Int64
	o := &operator{start(t, w.server, func(o *Options) {
		o.Wake, o.Logger = replay.WakeNotify, slog.New(slog.NewTextHandler(w.logged, nil))
		o.Health = func(context.Context) ([]console.Finding, error) {
			return []console.Finding{{Name: "connection", State: "ok", Found: "look " + string(rune('0'+looks.Add(1)))}}, nil
		}
	}).awaitReady(t), t, ""}
	w.exec(w.writer, `insert into shop.item values (1, 1, 'cup', 'canary')`)
	await(t, "the topic is there", func() bool { return len(want[console.Topics](o, "topics").Topics) == 1 })
	if d := want[console.TopicDetail](o, "topic?name=room:1"); !slices.Equal(d.Tables, []string{"shop.item"}) || !slices.Equal(d.Key, []string{"id"}) {
		t.Errorf("the topic is %+v", d)
	}
	if a := o.table("shop.item").Attached; a == nil || !slices.Equal(a.Columns, []string{"id", "room_id", "title"}) {
		t.Errorf("it is attached as %+v", a)
	}
	if v := want[console.Overview](o, "overview"); v.Totals.Topics != 1 || v.Sequencer.Term == 0 {
		t.Errorf("the overview is %+v", v)
	}
	for _, order := range []console.Order{{Action: "attach", Table: "shop.wide"}, {Action: "detach", Table: "shop.item"}} {
		var p console.Plan
		if status := o.do("POST", "tables/plan", order, &p); status != http.StatusOK || !strings.Contains(p.Barred, "may not call pgcast."+order.Action) ||
			p.Call != "select pgcast."+order.Action+"('"+order.Table+"')" || len(p.Statements) != 0 {
			t.Errorf("plan: %d %+v", status, p)
		}
		var text string
		if status := o.do("POST", "tables/run", order, &text); status != http.StatusForbidden || !strings.Contains(text, string(pgcast.CodeForbidden)) {
			t.Errorf("run: %d %s", status, text)
		}
	}
	first := want[console.Health](o, "health")
	if again := want[console.Health](o, "health"); first.Results[0].Found != "look 1" || again.At != first.At || looks.Load() != 1 {
		t.Errorf("health: %+v, then %+v", first, again)
	}
	if fresh := want[console.Health](o, "health?fresh=1"); fresh.Results[0].Found != "look 2" {
		t.Errorf("looked at anew: %+v", fresh)
	}
	w.mayAll()
}
