package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// narrows are filters, and what selects the same rows in SQL, where null is neither true nor
// false.
var narrows = []struct{ text, sql string }{
	{`n > 5`, `coalesce(n > 5, false)`},
	{`s starts with 'a' and not flag = true`, `coalesce(starts_with(s, 'a'), false) and not coalesce(flag, false)`},
	{`n in (1, 2.50, 3) or s is null`, `coalesce(n in (1, 2.5, 3), false) or s is null`},
	{`id < 25 and (n = 2.5 or s != 'ab')`, `id < 25 and (coalesce(n = 2.5, false) or coalesce(s <> 'ab', false))`},
	{`flag = true and s is not null`, `coalesce(flag, false) and s is not null`},
	{`id >= 20 and id <= 30`, `id between 20 and 30`},
}

// folded is what a client makes of a stream: by topic and id, as they are printed.
type folded map[string]map[int]string

func (f folded) set(topic string, row json.RawMessage) error {
	var r struct{ ID int }
	if err := json.Unmarshal(row, &r); err != nil {
		return err
	}
	if f[topic] == nil {
		f[topic] = map[int]string{}
	}
	f[topic][r.ID] = string(row)
	return nil
}

// take folds an event, and gives the mark it is, if it is one.
func (f folded) take(e pgcast.Event) (mark string, err error) {
	switch e.Name {
	case "created", "updated", "entered":
		return "", f.set(e.Topic, e.Data)
	case "deleted", "gone":
		var key struct{ ID int }
		if e.Name == "gone" && len(e.Data) > 0 {
			return "", fmt.Errorf("gone with data %s", e.Data)
		}
		if err := json.Unmarshal(e.Old, &key); err != nil {
			return "", err
		}
		delete(f[e.Topic], key.ID)
	case "truncated":
		clear(f[e.Topic])
	case "degraded": // the tests' own
		var d struct{ Table string }
		err := json.Unmarshal(e.Data, &d)
		return d.Table, err
	}
	return "", nil
}

// reader is a client that folds one topic or pattern through a filter, is cut off now and
// then, and goes on from where it was.
type reader struct {
	w        *world
	topic    string
	narrow   string
	snapshot bool
	overSSE  bool
	rnd      *rand.Rand

	rows  folded
	after *int64
	id    pgcast.ID
	asOf  pgcast.AsOf
	last  string // of a stream
	peer  *peer
	sse   *source
	cuts  int
}

// until reads up to a mark on each of the topics.
func (r *reader) until(t testing.TB, mark string, topics int) error {
	for seen := 0; seen < topics; {
		if r.rnd.IntN(20) == 0 && (r.peer != nil || r.sse != nil) {
			r.cut()
		}
		frame, err := r.next(t)
		if err != nil {
			return err
		}
		switch frame.Type {
		case wire.Snapshot:
			for _, row := range frame.Rows {
				if err := r.rows.set(r.topic, row); err != nil {
					return err
				}
			}
			if !frame.More {
				r.after, r.id = &frame.Seq, ""
				if r.asOf, err = pgcast.ParseAsOf(frame.AsOf); err != nil {
					return err
				}
			}
		case wire.Subscribed:
			if r.after == nil && !r.snapshot {
				r.after = &frame.Seq
			}
		case wire.Event, wire.Batch:
			for _, e := range frame.Events {
				place := int64(e.Seq)
				if e.Position != 0 {
					place = int64(e.Position)
				}
				if r.after != nil && place <= *r.after {
					return fmt.Errorf("%s: %d after %d", r.topic, place, *r.after)
				}
				r.after, r.id = &place, e.ID
				told, err := r.rows.take(e)
				if err != nil {
					return err
				}
				if told == mark {
					seen++
				}
			}
		default:
			return fmt.Errorf("%s: got %+v", r.topic, frame)
		}
	}
	return nil
}

func (r *reader) cut() {
	r.cuts++
	if r.peer != nil {
		_ = r.peer.ws.CloseNow()
		r.peer = nil
	} else {
		_ = r.sse.conn.Close()
		r.sse = nil
	}
	if r.after == nil && r.snapshot {
		r.rows = folded{} // it begins anew
	}
}

func (r *reader) next(t testing.TB) (wire.ServerFrame, error) {
	raw, _ := json.Marshal(r.narrow)
	if r.overSSE {
		if r.sse == nil {
			query := "filter=" + url.QueryEscape(r.narrow)
			switch {
			case r.snapshot:
				query += "&snapshot=true"
			case r.last == "":
				query += "&after=0"
			}
			r.sse = r.w.sse(t, r.topic, query, r.last)
		}
		e, err := r.sse.read()
		if err != nil {
			return wire.ServerFrame{}, err
		}
		if r.last = e.ID; e.ID == "-" {
			r.last = ""
		}
		return wire.ParseServer([]byte(e.Data))
	}
	if r.peer == nil {
		r.peer = r.w.dial(t, wire.CapBatch)
		f := wire.Frame{Type: wire.Subscribe, Topic: r.topic, Filter: raw, After: r.after, ID: r.id, AsOf: r.asOf, Snapshot: r.snapshot && r.after == nil, Ref: json.RawMessage(`1`)}
		r.peer.send(f)
	}
	text, err := r.peer.read()
	if err != nil {
		return wire.ServerFrame{}, err
	}
	return wire.ParseServer([]byte(text))
}

// Whatever is written while they are cut off and come back, what clients make of a filtered
// snapshot and its stream, or of the stream from its beginning, is what a select with the same
// condition gives.
func TestFilteredFold(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := newWorld(t, func(s *setup) { s.hub.Ring = 16; s.hub.Snapshots.Fresh = time.Millisecond })
	w.db.Exec(t, `create table public.items (id int primary key, room int, n numeric, s text, flag bool);
		select pgcast.attach('public.items', topic => 'items:{room}', old => true);
		insert into public.items select i, i % 2, i, 'a' || i, i % 3 = 0 from generate_series(1, 30) i`)
	id, err := w.log.Identity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.setIdentity(id)
	var readers []*reader
	for i, n := range narrows {
		for _, r := range []reader{{topic: "items:0", snapshot: true}, {topic: "items:1", snapshot: true, overSSE: true}, {topic: "items:*"}, {topic: "items:0", overSSE: true}} {
			r.w, r.narrow, r.rows, r.rnd = w, n.text, folded{}, rand.New(rand.NewPCG(seed, uint64(100+i*10+len(readers))))
			if !r.snapshot && !r.overSSE {
				r.after = at(0)
			}
			readers = append(readers, &r)
		}
	}
	for round := range 4 {
		mark := fmt.Sprintf("round %d", round)
		g, ctx := errgroup.WithContext(t.Context())
		writers, _ := errgroup.WithContext(t.Context())
		for k := range 3 {
			rnd := rand.New(rand.NewPCG(seed, uint64(1000+10*round+k)))
			writers.Go(func() error { return scribble(ctx, w, rnd, 60) })
		}
		for _, r := range readers {
			topics := 1
			if pgcast.IsPattern(r.topic) {
				topics = 2
			}
			g.Go(func() error { return r.until(t, mark, topics) })
		}
		g.Go(func() error {
			if err := writers.Wait(); err != nil {
				return err
			}
			for room := range 2 {
				data := fmt.Sprintf(`{"table":%q}`, mark)
				if _, err := w.pool.Exec(ctx, `select pgcast.publish($1, 'degraded', $2::jsonb)`, fmt.Sprintf("items:%d", room), data); err != nil {
					return err
				}
			}
			return nil
		})
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		for i, r := range readers {
			want := w.selected(t, narrows[i/4].sql, r.topic)
			maps.DeleteFunc(r.rows, func(_ string, rows map[int]string) bool { return len(rows) == 0 })
			if d := cmp.Diff(want, r.rows); d != "" {
				t.Fatalf("%s, reader %d of %s, snapshot %t, SSE %t: %s (-select +folded)\n%s", mark, i, r.topic, r.snapshot, r.overSSE, r.narrow, d)
			}
		}
	}
	cuts := 0
	for _, r := range readers {
		cuts += r.cuts
	}
	if cuts < len(readers) {
		t.Errorf("%d readers were cut off %d times", len(readers), cuts)
	}
	// Snapshots over HTTP, and history from its beginning, say the same.
	for _, n := range narrows {
		rows := folded{}
		for _, e := range w.all(t, "items:1", "filter="+url.QueryEscape(n.text)) {
			if _, err := rows.take(e); err != nil {
				t.Fatal(err)
			}
		}
		maps.DeleteFunc(rows, func(_ string, rows map[int]string) bool { return len(rows) == 0 })
		if d := cmp.Diff(w.selected(t, n.sql, "items:1"), rows); d != "" {
			t.Errorf("history, %s: (-select +folded)\n%s", n.text, d)
		}
		want := w.selected(t, n.sql, "items:1")
		await(t, "a snapshot has what is selected by "+n.text, func() bool { // others may have been sent it a moment ago
			return cmp.Equal(want, w.shown(t, "items:1", n.text))
		})
	}
}

// shown is what a snapshot over HTTP has through a filter.
func (w *world) shown(t testing.TB, topic, narrow string) folded {
	t.Helper()
	res, err := w.http.Client().Get(w.http.URL + "/topics/" + topic + "/snapshot?filter=" + url.QueryEscape(narrow))
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Tables []struct{ Rows []json.RawMessage }
	}
	if err := json.Unmarshal([]byte(body(t, res)), &s); err != nil {
		t.Fatal(err)
	}
	rows := folded{}
	for _, table := range s.Tables {
		for _, row := range table.Rows {
			if err := rows.set(topic, row); err != nil {
				t.Fatal(err)
			}
		}
	}
	return rows
}

// selected is what a topic or pattern holds by a select.
func (w *world) selected(t testing.TB, where, topic string) folded {
	t.Helper()
	rows, err := w.pool.Query(t.Context(), `select 'items:' || room, id, row_to_json(i)::text from public.items i
		where ($1 = 'items:*' or 'items:' || room = $1) and (`+where+`)`, topic)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := folded{}
	for rows.Next() {
		var name, text string
		var id int
		if err := rows.Scan(&name, &id, &text); err != nil {
			t.Fatal(err)
		}
		if all[name] == nil {
			all[name] = map[int]string{}
		}
		all[name][id] = text
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// isDeadlock tells whether two writers were in each other's way, and one had to give up.
func isDeadlock(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "40P01"
}

// scribble writes at random, several rows at a time, some of it in vain.
func scribble(ctx context.Context, w *world, rnd *rand.Rand, transactions int) error {
	value := func(list ...string) string { return list[rnd.IntN(len(list))] }
	for range transactions {
		tx, err := w.pool.Begin(ctx)
		if err != nil {
			return err
		}
		for range 1 + rnd.IntN(2) {
			id := 1 + rnd.IntN(40)
			n, s, flag := value("null", "1", "2.5", "5", "5.00001", "9", "1e3"), value("null", "'a'", "'ab'", "'b'", `'a"\'`, "''"), value("null", "true", "false")
			sql := ""
			switch rnd.IntN(9) {
			case 0, 1, 2:
				sql = fmt.Sprintf(`insert into public.items values (%d, %d, %s, %s, %s) on conflict (id) do update set n = excluded.n, s = excluded.s, room = excluded.room`, id, rnd.IntN(2), n, s, flag)
			case 3:
				sql = fmt.Sprintf(`update public.items set n = %s where id = %d`, n, id)
			case 4:
				sql = fmt.Sprintf(`update public.items set s = %s, flag = %s where id = %d`, s, flag, id)
			case 5:
				sql = fmt.Sprintf(`update public.items set room = 1 - room where id = %d`, id)
			case 6, 7:
				sql = fmt.Sprintf(`delete from public.items where id = %d`, id)
			case 8:
				if rnd.IntN(15) > 0 {
					continue
				}
				sql = `truncate public.items`
			}
			if _, err = tx.Exec(ctx, "savepoint s; "+sql+"; "+value("release s", "release s", "release s", "rollback to s")); err != nil {
				break
			}
		}
		if err == nil && rnd.IntN(8) > 0 {
			err = tx.Commit(ctx)
		} else {
			_ = tx.Rollback(ctx)
		}
		if err != nil && !isDeadlock(err) {
			return err
		}
	}
	return nil
}
