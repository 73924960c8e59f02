package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
)

func exec1(t *testing.T, url, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatal(err)
	}
}

// writers write until they are stopped, and outlive everything that happens to Postgres.
type writers struct {
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	committed atomic.Int64
}

func startWriters(t *testing.T, url string, n int) *writers {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writers{cancel: cancel}
	for i := range n {
		w.wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for ctx.Err() == nil {
				w.session(ctx, url, r)
				pause(ctx, 20*time.Millisecond)
			}
		})
	}
	t.Cleanup(w.stop)
	return w
}

func (w *writers) stop() { w.cancel(); w.wg.Wait() }

// session writes through one connection until that breaks.
func (w *writers) session(ctx context.Context, url string, r *rand.Rand) {
	dial, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(dial, url)
	if err != nil {
		return
	}
	defer conn.Close(context.Background())
	for ctx.Err() == nil {
		if err := w.transaction(ctx, conn, r); err != nil {
			return
		}
		w.committed.Add(1)
		pause(ctx, time.Duration(r.IntN(4000))*time.Microsecond)
	}
}

func (w *writers) transaction(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for range 1 + r.IntN(3) {
			var err error
			switch room := r.IntN(rooms); r.IntN(6) {
			case 0, 1, 2:
				_, err = tx.Exec(ctx, "insert into item (room, n) select $1, g from generate_series(1, $2::int) g", room, 1+r.IntN(3))
			case 3:
				_, err = tx.Exec(ctx, `update item set n = n + 1, room = $2 where id = (
					select id from item where room = $1 order by id desc limit 1 for update skip locked)`, room, r.IntN(rooms))
			case 4:
				_, err = tx.Exec(ctx, `delete from item where id = (
					select id from item where room = $1 order by id limit 1 for update skip locked)`, room)
			case 5:
				_, err = tx.Exec(ctx, "select pgcast.publish('room:' || $1::int, 'note', to_jsonb($2::int))", room, r.IntN(100))
			}
			if err != nil {
				return err
			}
		}
		if r.IntN(8) == 0 {
			return errRollback
		}
		return nil
	})
	if errors.Is(err, errRollback) {
		return nil
	}
	return err
}

var errRollback = errors.New("rolled back on purpose")

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// reader is one client that collects what it is given.
type reader struct {
	client *client.Client
	name   string

	mu     sync.Mutex
	topics map[string][]pgcast.Event
	count  int
	wrong  []string
}

// startReader subscribes to the topics or patterns from the beginning.
func startReader(t *testing.T, s *server, name string, topics ...string) *reader {
	t.Helper()
	r := &reader{client: client.New("http://"+s.listen, &client.Options{MaxBackoff: 200 * time.Millisecond,
		Logger: slog.New(slog.DiscardHandler)}), name: name,
		topics: map[string][]pgcast.Event{}}
	for _, topic := range topics {
		if err := r.client.Subscribe(topic, &client.From{}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.client.Run(ctx) })
	wg.Go(func() {
		for item, err := range r.client.Items(ctx) {
			if err != nil {
				return
			}
			r.take(item)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return r
}

func (r *reader) take(item client.Item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch it := item.(type) {
	case client.Event:
		list := r.topics[it.Topic]
		if it.Seq != pgcast.Seq(len(list)+1) {
			r.wrong = append(r.wrong, fmt.Sprintf("%s: seq %d after %d events", it.Topic, it.Seq, len(list)))
		}
		r.topics[it.Topic] = append(list, it.Event)
		r.count++
	case client.Gap, client.Reset, client.Denied:
		r.wrong = append(r.wrong, fmt.Sprintf("%T %+v", it, it))
	}
}

func (r *reader) events() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// judge waits until the readers have everything and compares it with the log, event by
// event, and the fold of the events with the table, row by row.
func judge(t *testing.T, url string, readers ...*reader) (events int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	one := func(sql string) (n int) {
		if err := conn.QueryRow(ctx, sql).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	written := one("select count(*) from pgcast.event_log")
	await(t, "every event sequenced", 30*time.Second, func() bool { return one("select count(*) from pgcast.replay") >= written })
	if n := one("select count(*) from pgcast.replay"); n != written {
		t.Errorf("%d events are written, %d sequenced", written, n)
	}
	if n := one("select coalesce(max(position), 0) from pgcast.replay"); n != written {
		t.Errorf("the last position is %d with %d events", n, written)
	}
	log := readLog(t, ctx, conn)
	for _, r := range readers {
		await(t, fmt.Sprintf("reader %s has all %d events (has %d)", r.name, written, r.events()), 30*time.Second, func() bool { return r.events() >= written })
		r.mu.Lock()
		for _, w := range r.wrong {
			t.Errorf("reader %s: %s", r.name, w)
		}
		for topic, want := range log {
			got := r.topics[topic]
			if len(got) != len(want) {
				t.Errorf("reader %s: %s has %d events, the log %d", r.name, topic, len(got), len(want))
			}
			for i := range min(len(got), len(want)) {
				if got[i].ID != want[i] {
					t.Fatalf("reader %s: %s #%d is %s, in the log %s", r.name, topic, i+1, got[i].ID, want[i])
				}
			}
		}
		compareRows(t, ctx, conn, r)
		s := r.client.Stats()
		t.Logf("reader %s: %d events, %d connects, lost 0, doubled 0, reordered 0 at the app; on the wire %d repeated, %d asked for again",
			r.name, r.count, s.Connects, s.Duplicates, s.Holes)
		r.mu.Unlock()
	}
	return written
}

func readLog(t *testing.T, ctx context.Context, conn *pgx.Conn) map[string][]pgcast.ID {
	t.Helper()
	rows, _ := conn.Query(ctx, `select h.topic, pgcast.event_id(e.id, e.created_at)
		from pgcast.history h join pgcast.replay r on r.position = h.position join pgcast.event_log e on e.id = r.event_id
		order by h.topic, h.seq`)
	log := map[string][]pgcast.ID{}
	var topic, id string
	if _, err := pgx.ForEachRow(rows, []any{&topic, &id}, func() error {
		log[topic] = append(log[topic], pgcast.ID(id))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return log
}

// compareRows folds what a reader got and compares it with the table.
func compareRows(t *testing.T, ctx context.Context, conn *pgx.Conn, r *reader) {
	t.Helper()
	type row struct {
		ID   int64 `json:"id"`
		Room int   `json:"room"`
		N    int   `json:"n"`
	}
	var got []row
	for topic, events := range r.topics {
		held := map[int64]row{}
		for _, e := range events {
			var v row
			if e.Name == "note" {
				continue
			}
			if err := json.Unmarshal(e.Data, &v); err != nil {
				t.Fatalf("%s #%d: %v in %s", topic, e.Seq, err, e.Data)
			}
			if e.Name == pgcast.Deleted {
				delete(held, v.ID)
			} else {
				held[v.ID] = v
			}
		}
		for _, v := range held {
			if want := "room:" + strconv.Itoa(v.Room); want != topic {
				t.Errorf("row %d of %s arrived in %s", v.ID, want, topic)
			}
			got = append(got, v)
		}
	}
	rows, _ := conn.Query(ctx, "select id, room, n from item order by id")
	want, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		t.Fatal(err)
	}
	sort.Slice(got, func(i, j int) bool { return got[i].ID < got[j].ID })
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("reader %s: folding its events gives %d rows that are not the table's %d", r.name, len(got), len(want))
	}
}
