package client_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// A client that is cut off again and again keeps the rows that its filter selects, by what a
// server tells it of them.
func TestFilteredRows(t *testing.T) {
	t.Parallel()
	t.Run("trigger", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, nil)
		db.Exec(t, `create table public.t (id int primary key, n int); select pgcast.attach('public.t', topic => 't', old => true)`)
		testFilteredRows(t, db)
	})
	t.Run("WAL", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
		db.Exec(t, `select pgcast.open_slot()`)
		db.Exec(t, `create table public.t (id int primary key, n int); alter table public.t replica identity full;
			select pgcast.attach('public.t', topic => 't', old => true, capture => 'wal')`)
		testFilteredRows(t, db)
	})
}

func testFilteredRows(t *testing.T, db *pgtest.DB) {
	db.Exec(t, `insert into public.t select i, i from generate_series(1, 20) i`)
	c := client.New(serve(t, db), &client.Options{MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err := c.SubscribeWith("t", client.SubscribeOptions{Snapshot: true, Filter: "n >= 10 or id = 1000"}); err != nil {
		t.Fatal(err)
	}
	background(t, c.Run)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	begun, wrote := make(chan struct{}), make(chan struct{})
	begin := sync.OnceFunc(func() { close(begun) })
	go func() {
		defer close(wrote)
		select {
		case <-begun: // the client has its rows
		case <-ctx.Done():
			return
		}
		conn := db.Conn(t)
		for i := range 250 {
			if _, err := conn.Exec(ctx, `with u as (update public.t set n = (n * 7 + $1) % 20 where id % 5 = $1 % 5 returning id),
				d as (delete from public.t where id = $1 % 41 and id % 5 <> $1 % 5)
				insert into public.t values (100 + $1, $1 % 20)`, i); err != nil {
				t.Error(err)
			}
		}
		if _, err := conn.Exec(ctx, `insert into public.t values (1000, 0)`); err != nil {
			t.Error(err)
		}
	}()
	rows := map[int]int{}
	take := func(text json.RawMessage) (id int) {
		var r struct{ ID, N int }
		if err := json.Unmarshal(text, &r); err != nil {
			t.Fatal(err)
		}
		rows[r.ID] = r.N
		return r.ID
	}
	seen, events := map[string]int{}, 0
	for done := false; !done; {
		it, err := c.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		switch it := it.(type) {
		case client.Snapshot:
			if it.First {
				clear(rows)
			}
			for _, row := range it.Rows {
				done = take(row) == 1000
			}
			if it.Last {
				begin()
			}
		case client.Event:
			if events++; events%40 == 0 {
				c.Cut()
			}
			switch seen[it.Name]++; it.Name {
			case "created", "updated", "entered":
				done = take(it.Data) == 1000
			case "deleted", "gone":
				var key struct{ ID int }
				if err := json.Unmarshal(it.Old, &key); err != nil {
					t.Fatal(err)
				}
				delete(rows, key.ID)
			}
		case client.Subscribed:
		default:
			t.Fatalf("got %+v", it)
		}
	}
	<-wrote
	want := map[int]int{}
	text := []byte(pgtest.Value[string](t, db, `select json_object_agg(id, n)::text from public.t where n >= 10 or id = 1000`))
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(rows, want) {
		t.Errorf("the client has %v, the table %v", rows, want)
	}
	s := c.Stats()
	if s.Holes > 0 || s.Duplicates > 0 || s.Connects < 2 || seen["entered"] == 0 || seen["gone"] == 0 {
		t.Errorf("%+v, %v", s, seen)
	}
}
