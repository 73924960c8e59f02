package filter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
)

// What is seen of an event, whatever there is of its row.
func TestSee(t *testing.T) {
	t.Parallel()
	attached := []pgcast.Table{{Name: "public.t", Columns: []string{"id", "n", "s"}, Key: []string{"id"}, Old: true, Literals: []string{"t:", ""}, Short: true},
		{Name: "public.u", Columns: []string{"k", "n"}, Key: []string{"k"}, Literals: []string{"u"}, Short: true}}
	var broken error
	looks := 0
	tables := NewTables(func(context.Context) ([]pgcast.Table, error) { looks++; return attached, broken })
	l := Lens(must(t, "n > 5"), nil, nil, tables)
	for _, c := range []struct{ topic, name, data, old, want string }{
		{"t:1", "created", `{"id":1,"n":6}`, ``, `created {"id":1,"n":6} `}, {"t:1", "created", `{"id":1,"n":5}`, ``, ``}, {"t:1", "created", ``, ``, ``},
		{"t:1", "updated", `{"id":1,"n":7}`, `{"id":1,"n":6}`, `updated {"id":1,"n":7} {"id":1,"n":6}`}, {"t:1", "updated", `{"id":1,"n":7}`, `{"id":1,"n":1}`, `entered {"id":1,"n":7} {"id":1,"n":1}`},
		{"t:1", "updated", `{"id":1,"n":1}`, `{"id":2,"n":6,"s":"x"}`, `gone  {"id":2}`}, {"t:1", "updated", `{"id":1,"n":1}`, `{"id":1,"n":2}`, ``}, {"t:1", "updated", `{"id":1,"n":null}`, `{"id":1,"n":2}`, ``},
		{"t:1", "deleted", ``, `{"id":1,"n":6}`, `deleted  {"id":1,"n":6}`}, {"t:1", "deleted", ``, `{"id":1,"n":5}`, ``},
		// As it was captured before old values were.
		{"t:1", "updated", `{"id":1,"n":7}`, `{"id":1}`, `updated {"id":1,"n":7} {"id":1}`}, {"t:1", "updated", `{"id":1,"n":1}`, `{"id":1}`, `gone  {"id":1}`}, {"t:1", "deleted", ``, `{"id":1}`, `deleted  {"id":1}`},
		// Of a table without such a column.
		{"t:1", "updated", `{"id":1}`, `{"id":1}`, `gone  {"id":1}`},
		// By another lens.
		{"t:1", "gone", ``, `{"id":1}`, `gone  {"id":1}`}, {"t:1", "gone", ``, `{"id":1,"n":1}`, ``},
		// By hand.
		{"p", "said", `{"n":6}`, ``, `said {"n":6} `}, {"p", "said", `{"n":1}`, ``, ``}, {"p", "said", ``, ``, ``}, {"p", "said", `[1]`, ``, ``}, {"p", "deleted", `{"id":1}`, ``, `deleted {"id":1} `},
		{"p", "deleted", `{"id":1,"n":1}`, ``, ``}, {"p", "updated", `{"id":1,"n":6}`, ``, `updated {"id":1,"n":6} `}, {"p", "altered", `{"n":1}`, ``, ``},
		// Of tables.
		{"t:1", "truncated", `{"schema":"public","table":"t"}`, ``, `truncated {"schema":"public","table":"t"} `}, {"t:1", "altered", `{"table":"public.t"}`, ``, `altered {"table":"public.t"} `},
		{"t:1", "reset", `{"table":"public.t"}`, ``, `reset {"table":"public.t"} `}, {"t:1", "schema", `{"table":"t","columns":[]}`, ``, `schema {"table":"t","columns":[]} `}, {"t:1", "gone", ``, ``, `gone  `},
		// Of a key of another table, and of one that is not attached any more.
		{"u", "updated", `{"k":1,"n":1}`, `{"k":3,"n":6}`, `gone  {"k":3}`}, {"v", "updated", `{"id":1,"n":1}`, `{"id":3,"n":6}`, `gone  {"id":3}`}, {"v", "updated", `{"x":1,"n":1}`, `{"x":3,"n":6}`, `gone  {}`},
	} {
		e := pgcast.Event{Topic: c.topic, Name: c.name, Data: json.RawMessage(c.data), Seq: 7, ID: "x"}
		if c.data == "" {
			e.Data = nil
		}
		if c.old != "" {
			e.Old = json.RawMessage(c.old)
		}
		list, err := l.Look(t.Context(), []*pgcast.Event{&e})
		if err != nil {
			t.Fatal(err)
		}
		quick, ok := l.(fanout.QuickLens).Try([]*pgcast.Event{&e})
		got := ""
		if g := list[0]; g != nil {
			if got = fmt.Sprintf("%s %s %s", g.Name, g.Data, g.Old); g.Seq != 7 || g.ID != "x" || g.Topic != c.topic {
				t.Errorf("%+v has become %+v", e, g)
			}
		}
		if got != c.want || !ok || (quick[0] == nil) != (list[0] == nil) {
			t.Errorf("%s %s %s %s: %q, %t", c.topic, c.name, c.data, c.old, got, ok)
		}
	}
	if looks != 1 {
		t.Errorf("the tables were looked up %d times", looks)
	}
	e := &pgcast.Event{Topic: "t:1", Name: "created", Oversize: true}
	if list, err := l.Look(t.Context(), []*pgcast.Event{e}); err != nil || list[0] != e {
		t.Errorf("%v, %v", list, err)
	}
	// Where the tables are not known it cannot be told what the key is.
	broken = errors.New("not now")
	l = Lens(must(t, "n > 5"), nil, nil, NewTables(func(context.Context) ([]pgcast.Table, error) { return nil, broken }))
	leaves := &pgcast.Event{Topic: "t:1", Name: "updated", Data: json.RawMessage(`{"id":1,"n":1}`), Old: json.RawMessage(`{"id":1,"n":6}`)}
	if _, ok := l.(fanout.QuickLens).Try([]*pgcast.Event{leaves}); ok {
		t.Error("it was tried without the tables")
	}
	if _, err := l.Look(t.Context(), []*pgcast.Event{leaves}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

// A filter looks at what another lens shows, and not past it.
func TestLensThroughLens(t *testing.T) {
	t.Parallel()
	inner := hides{}
	l := Lens(must(t, "n > 5"), inner, nil, NewTables(nil))
	if l.Key() == Lens(must(t, "n > 5"), nil, nil, nil).Key() || l.Key() == Lens(must(t, "n > 6"), inner, nil, nil).Key() || l.Key() != Lens(must(t, " n>5 "), inner, nil, nil).Key() {
		t.Errorf("the key is %q", l.Key())
	}
	a, b := &pgcast.Event{Topic: "t", Name: "created", Data: json.RawMessage(`{"n":6,"secret":true}`)}, &pgcast.Event{Topic: "t", Name: "created", Data: json.RawMessage(`{"n":6}`)}
	list, err := l.Look(t.Context(), []*pgcast.Event{a, b})
	if err != nil || list[0] != nil || list[1] != b {
		t.Errorf("%v, %v", list, err)
	}
	if _, ok := l.(fanout.QuickLens).Try([]*pgcast.Event{a}); ok {
		t.Error("the other lens was not asked")
	}
	var rows []string
	err = l.Snapshot(t.Context(), "t", func(pgcast.Snapshot) error { return nil }, func(r pgcast.Row) error {
		rows = append(rows, string(r.Data)+string(r.Key))
		return nil
	})
	if err != nil || fmt.Sprint(rows) != `[{"n":7} {"id":1}]` {
		t.Errorf("%v, %v", rows, err)
	}
}

// hides is a lens that shows no secrets.
type hides struct{}

func (hides) Key() string { return "hides" }

func (hides) Look(_ context.Context, events []*pgcast.Event) ([]*pgcast.Event, error) {
	list := make([]*pgcast.Event, len(events))
	for i, e := range events {
		if !tableSecret.Match(e.Data) {
			list[i] = e
		}
	}
	return list, nil
}

func (hides) Snapshot(_ context.Context, _ string, begin func(pgcast.Snapshot) error, take func(pgcast.Row) error) error {
	err := begin(pgcast.Snapshot{})
	for _, r := range []pgcast.Row{{Data: json.RawMessage(`{"n":7}`)}, {Data: json.RawMessage(`{"n":1}`)}, {Key: json.RawMessage(`{"id":1}`)}, {Key: json.RawMessage(`{"n":1}`)}} {
		err = errors.Join(err, take(r))
	}
	return err
}

var tableSecret, _ = Parse("secret = true")
