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
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
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
	until := func(want map[int]task) {
		t.Helper()
		same := func() bool {
			mu.Lock()
			defer mu.Unlock()
			return maps.Equal(folded, want) && maps.Equal(maps.Collect(rows.All()), want)
		}
		// To compare is work, which is not to be in the way of what is compared.
		for !same() && ctx.Err() == nil {
			<-time.After(20 * time.Millisecond)
		}
		if !same() {
			mu.Lock()
			defer mu.Unlock()
			t.Errorf("the rows differ: %.300s; by their changes: %.300s; %+v", differing(maps.Collect(rows.All()), want), differing(folded, want), c.Stats())
		}
	}
	until(want)
	if v, ok := rows.Get(2); !ok || v.N != 5 {
		t.Errorf("row 2 is %v, %v", v, ok)
	}
	db.Exec(t, `truncate public.t`)
	until(nil)
	// More connections than cuts would be those that ended because something stood still.
	s := c.Stats()
	if s.Connects > 7 || s.Pauses == 0 || s.Holes+s.Duplicates+s.Gaps+s.Resets != 0 {
		t.Errorf("stats %+v", s)
	}
	t.Logf("%+v", s)
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

// A row that is too large, and changes again and again, does not have the others read each time.
func TestRowsAnewSeldom(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `create table public.t (id int primary key, text text, n int); select pgcast.attach('public.t', topic => 't')`)
	db.Exec(t, `insert into public.t values (1, repeat('x', 1100000), 0), (2, '', 0)`)
	network := newCutter(0, 1)
	c := start(t, serve(t, db), &client.Options{HTTPClient: network.client()})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	rows := client.NewRows(c.Topic("t", &client.TopicOptions{Snapshot: true}), func(v task) int { return v.ID })
	background(t, rows.Run)
	if err := rows.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	const changes = 20
	for range changes {
		db.Exec(t, `update public.t set n = n + 1 where id = 1`)
	}
	db.Exec(t, `update public.t set n = 1 where id = 2`)
	for v, _ := rows.Get(2); v.N != 1 && ctx.Err() == nil; v, _ = rows.Get(2) {
		<-time.After(time.Millisecond)
	}
	if v, _ := rows.Get(2); v.N != 1 || len(rows.Oversize()) != 1 {
		t.Errorf("row 2 is %v, too large are %s", v, rows.Oversize())
	}
	network.mu.Lock()
	defer network.mu.Unlock()
	times, most := network.seen["<subscribed"], 1+int(time.Since(began)/time.Second)
	if times == 0 || times > most {
		t.Errorf("they were read %d times, at most %d are allowed", times, most)
	}
	t.Logf("%d changes of a row that is too large: the rows were read %d times in %v", changes, times, time.Since(began).Round(time.Millisecond))
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
