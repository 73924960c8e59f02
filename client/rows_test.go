package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/pgtest"
)

type task struct {
	ID   int
	Text string
	N    int
}

// A live table is the table, through cuts, changed keys, truncation and rows too large to send.
func TestRows(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `create table public.t (id int primary key, text text, n int); select pgcast.attach('public.t', topic => 't')`)
	db.Exec(t, `insert into public.t select i, 'row ' || i, 0 from generate_series(1, 2000) i`)
	c := start(t, serve(t, db), nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// With so small a queue it stops and goes on again and again.
	rows := client.NewRows(c.Topic("t", &client.TopicOptions{Snapshot: true, Buffer: 1}), func(v task) int { return v.ID })
	background(t, rows.Run)
	if err := rows.Ready(ctx); err != nil || rows.Len() != 2000 {
		t.Fatalf("%d rows, %v", rows.Len(), err)
	}
	folded := map[int]task{} // by what changes
	changes := make(chan struct{}, 1)
	go func() {
		defer close(changes)
		for change, err := range rows.Changes(ctx) {
			if err != nil {
				t.Error(err)
				return
			}
			if change.Gone {
				delete(folded, change.Key)
			} else {
				folded[change.Key] = change.Value
			}
			if change.Key == -1 {
				return
			}
		}
	}()
	for _, sql := range []string{
		`update public.t set n = n + 1 where id % 3 = 0`,
		`update public.t set id = id + 10000 where id % 7 = 0`,
		`delete from public.t where id % 5 = 0`,
		`update public.t set text = repeat('x', 1100000) where id = 1`,
		`update public.t set n = 5 where id = 2`,
		`update public.t set text = 'small again' where id = 1`,
		`insert into public.t values (-1, 'the end', 0)`,
	} {
		db.Exec(t, sql)
		c.Cut()
	}
	select {
	case <-changes:
	case <-ctx.Done():
		t.Fatal("the last row has not come")
	}
	want := map[int]task{}
	var text []byte
	if err := db.Conn(t).QueryRow(ctx, `select json_agg(t) from public.t`).Scan(&text); err != nil {
		t.Fatal(err)
	}
	var all []task
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		want[v.ID] = v
	}
	if got := maps.Collect(rows.All()); !maps.Equal(got, want) {
		t.Errorf("the rows differ: %d, want %d: %.300s", len(got), len(want), differing(got, want))
	}
	if !maps.Equal(folded, want) {
		t.Errorf("what the changes give differs: %d, want %d: %.300s", len(folded), len(want), differing(folded, want))
	}
	if v, ok := rows.Get(2); !ok || v.N != 5 {
		t.Errorf("row 2 is %v, %v", v, ok)
	}
	db.Exec(t, `truncate public.t`)
	for range rows.Changes(ctx) {
		if rows.Len() == 0 {
			break
		}
	}
	t.Logf("%+v", c.Stats())
}

func differing(a, b map[int]task) string {
	var s strings.Builder
	for k, v := range a {
		if b[k] != v {
			fmt.Fprintf(&s, "%v is %v; ", v, b[k])
		}
	}
	return s.String()
}

// Rows are of a topic that has some.
func TestRowsWithoutSnapshot(t *testing.T) {
	c := client.New("ws://127.0.0.1:1", nil)
	rows := client.NewRows(c.Topic("t", nil), func(v task) int { return v.ID })
	if err := rows.Run(t.Context()); err == nil {
		t.Error("it runs")
	}
	if err := rows.Ready(t.Context()); err == nil {
		t.Error("it is ready")
	}
}
