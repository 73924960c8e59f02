package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
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
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// With so small a queue it stops and goes on again and again.
	rows := client.NewRows(c.Topic("t", &client.TopicOptions{Snapshot: true, Buffer: 1}), func(v task) int { return v.ID })
	background(t, rows.Run)
	if err := rows.Ready(ctx); err != nil || rows.Len() != 2000 {
		t.Fatalf("%d rows, %v", rows.Len(), err)
	}
	var mu sync.Mutex
	folded := map[int]task{} // by what changes
	watching, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer stop()
	watcher.Go(func() {
		for change, err := range rows.Changes(watching) {
			if err != nil {
				if watching.Err() == nil {
					t.Errorf("the changes ended: %v", err)
				}
				return
			}
			mu.Lock()
			if change.Gone {
				delete(folded, change.Key)
			} else {
				folded[change.Key] = change.Value
			}
			mu.Unlock()
		}
	})
	for _, sql := range []string{
		`update public.t set n = n + 1 where id % 3 = 0`,
		`update public.t set id = id + 10000 where id % 7 = 0`,
		`delete from public.t where id % 5 = 0`,
		`update public.t set text = repeat('x', 1100000) where id = 1`,
		`update public.t set n = 5 where id = 2`,
		`update public.t set text = 'small again' where id = 1`,
	} {
		db.Exec(t, sql)
		c.Cut()
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
	same := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return maps.Equal(folded, want) && maps.Equal(maps.Collect(rows.All()), want)
	}
	for !same() && ctx.Err() == nil {
		<-time.After(time.Millisecond)
	}
	if !same() {
		t.Errorf("the rows differ: %.300s; by their changes: %.300s", differing(maps.Collect(rows.All()), want), differing(folded, want))
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
