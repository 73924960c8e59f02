package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/replay"
)

// rooms is a world with a table, and its own cluster's identity.
func rooms(t testing.TB, change func(*setup)) *world {
	t.Helper()
	w := newWorld(t, change)
	w.db.Exec(t, `create table public.m (id int primary key, room_id int, body text); create index on public.m (room_id);
		select pgcast.attach('public.m', topic => 'room:{room_id}')`)
	id, err := w.log.Identity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.setIdentity(id)
	return w
}

// unsequenced has something written that has no place yet, until it is let go.
func (w *world) unsequenced(t testing.TB, sql string) (let func()) {
	t.Helper()
	w.sequenced(t)
	conn := w.db.Conn(t)
	tx, err := conn.Begin(t.Context())
	if err == nil {
		_, err = tx.Exec(t.Context(), "select from pgcast.sequencer for update")
	}
	if err != nil {
		t.Fatal(err)
	}
	w.db.Exec(t, sql)
	return func() {
		if err := tx.Rollback(t.Context()); err != nil && err != pgx.ErrTxClosed {
			t.Error(err)
		}
	}
}

const (
	row1 = `{"id":1,"room_id":1,"body":"a"}`
	row2 = `{"id":2,"room_id":1,"body":"b"}`
)

// What is committed and has no place yet is in the rows, and not once more in the stream;
// not after a reconnect either.
func TestSnapshotThenStream(t *testing.T) {
	t.Parallel()
	w := rooms(t, nil)
	w.db.Exec(t, `insert into public.m values (1, 1, 'a')`)
	let := w.unsequenced(t, `insert into public.m values (2, 1, 'b')`)
	p := w.dial(t)
	p.send(wire.Frame{Type: wire.SubscribeBatch, Ref: json.RawMessage(`1`), Topics: []wire.Place{{Topic: "room:1", Snapshot: true}, {Topic: "room:2", Snapshot: true}}})
	got := map[string][]string{}
	var last wire.ServerFrame
	for n := 0; n < 4; n++ { // of two topics, in any order
		f := p.next()
		switch {
		case f.Type == wire.Subscribed && f.Topic == "room:1" && f.Seq != 1, f.Type != wire.Subscribed && f.Type != wire.Snapshot:
			t.Fatalf("got %+v", f)
		case f.Type == wire.Snapshot:
			got[f.Topic] = append(got[f.Topic], fmt.Sprintf("%s %s %v", f.Table, f.Rows, f.Seq))
			if f.Topic == "room:1" {
				last = f
			}
		}
	}
	if want := fmt.Sprintf("[public.m [%s %s] 1]", row1, row2); fmt.Sprint(got["room:1"]) != want || fmt.Sprint(got["room:2"]) != "[ [] 0]" {
		t.Fatalf("%q, want %s", got, want)
	}
	let()
	w.db.Exec(t, `insert into public.m values (3, 1, 'c')`)
	e := p.want(wire.Event).Events[0]
	if e.Seq != 3 || !strings.Contains(string(e.Data), `"id":3`) {
		t.Errorf("the first event is %+v", e)
	}
	asOf, err := pgcast.ParseAsOf(last.AsOf)
	if err != nil {
		t.Fatal(err)
	}
	q := w.dial(t)
	q.send(wire.Frame{Type: wire.Subscribe, Topic: "room:1", After: at(1), ID: w.idOf(t, "room:1", 1), AsOf: asOf, Ref: json.RawMessage(`2`)})
	q.want(wire.Subscribed)
	if e := q.want(wire.Event).Events[0]; e.Seq != 3 {
		t.Errorf("after a reconnect the first event is %+v", e)
	}
	q.subscribe("room:1", at(1), "")
	q.stream("room:1", 2, 3) // without asOf
	// Elsewhere it says nothing.
	w.setIdentity("1.1")
	q.send(wire.Frame{Type: wire.Subscribe, Topic: "room:1", After: at(1), ID: w.idOf(t, "room:1", 1), AsOf: asOf, Ref: json.RawMessage(`3`)})
	if f := q.want(wire.Subscribed); f.Seq != 3 {
		t.Errorf("on another cluster it begins after %d", f.Seq)
	}
	q.want(wire.Reset)
}

func TestSnapshotIsDenied(t *testing.T) {
	t.Parallel()
	w := rooms(t, func(s *setup) { s.log = replay.LogOptions{MaxEvent: 200} })
	p := w.dial(t)
	p.raw(`{"type":"subscribe","topic":"room:*","snapshot":true,"ref":1}`)
	if f := p.want(wire.SubscribeDenied); f.Reason != wire.ReasonNoSnapshot {
		t.Errorf("a pattern: %+v", f)
	}
	if f := p.want(wire.Error); f.Code != pgcast.CodeInvalid || !strings.Contains(f.Message, "no snapshot of a pattern") {
		t.Errorf("%+v", f)
	}
	p.raw(`{"type":"subscribe","topic":"room:1","snapshot":true,"after":1,"ref":2}`)
	p.wantError(pgcast.CodeBadFrame)
	p.raw(`{"type":"subscribe","topic":"room:1","snapshot":"nonsense","after":1,"ref":3}`)
	p.wantError(pgcast.CodeBadFrame)
	// A row that is larger than an event may be comes by its key.
	w.db.Exec(t, `insert into public.m values (1, 1, repeat('x', 300)), (2, 1, 'b')`)
	p.raw(`{"type":"subscribe","topic":"room:1","snapshot":true,"ref":4}`)
	p.want(wire.Subscribed)
	lists := map[string]bool{}
	for more := true; more; {
		f := p.want(wire.Snapshot)
		lists[fmt.Sprintf("%s %s", f.Rows, f.Oversize)] = true
		more = f.More
	}
	if len(lists) != 2 || !lists[`[] [{"id":1}]`] || !lists["["+row2+"] []"] {
		t.Errorf("%v", lists)
	}
}

// The places of a stream of events carry what snapshot they go on from.
func TestSnapshotStream(t *testing.T) {
	t.Parallel()
	w := rooms(t, func(s *setup) { s.hub.Snapshots.Fresh = time.Millisecond })
	w.db.Exec(t, `insert into public.m values (1, 1, 'a'); select pgcast.publish('plain', 'set', '{"id":1}')`)
	let := w.unsequenced(t, `insert into public.m values (2, 1, 'b')`)
	s := w.sse(t, "room:1", "topic=plain&snapshot=true", "")
	begun := map[string]wire.ServerFrame{}
	ids := []string{}
	for len(begun) < 2 {
		e := s.next()
		ids = append(ids, e.ID)
		f, err := wire.ParseServer([]byte(e.Data))
		if err != nil {
			t.Fatal(err)
		}
		if e.Event == "snapshot" {
			begun[f.Topic] = f
		}
	}
	if ids[0] != "-,-" || len(begun["room:1"].Rows) != 2 || len(begun["plain"].Events) != 1 || begun["plain"].AsOf != "" {
		t.Errorf("%q, %+v", ids, begun)
	}
	let()
	w.db.Exec(t, `insert into public.m values (3, 1, 'c')`)
	if n := s.seqs(1); n[0] != 3 {
		t.Errorf("the first event is %d", n)
	}
	if want := "3:" + string(w.idOf(t, "room:1", 3)) + "@" + strings.ReplaceAll(begun["room:1"].AsOf, ",", "_") + ",1"; s.last != want {
		t.Errorf("it stands at %q, want %q", s.last, want)
	}
	_ = s.conn.Close()
	// From within, from the snapshot's end, and from the event.
	again := w.sse(t, "room:1", "topic=plain&snapshot=true", "-,1")
	again.want("subscribed")
	again.want("subscribed")
	if f := again.want("snapshot"); len(f.Rows) != 3 || f.Topic != "room:1" {
		t.Errorf("begun anew: %+v", f)
	}
	end := "1@" + strings.ReplaceAll(begun["room:1"].AsOf, ",", "_")
	again = w.sse(t, "room:1", "snapshot=true", end)
	again.want("subscribed")
	if n := again.seqs(1); n[0] != 3 {
		t.Errorf("after the snapshot comes %d", n)
	}
	again = w.sse(t, "room:1", "after=1&asOf="+url.QueryEscape(begun["room:1"].AsOf), "")
	again.want("subscribed")
	if n := again.seqs(1); n[0] != 3 {
		t.Errorf("after the snapshot comes %d", n)
	}
	for query, want := range map[string]string{"snapshot=yes": "true or false", "snapshot=true&after=1": "together", "asOf=x": "without after", "after=1&asOf=x": "not the asOf",
		"snapshot=true&topic=a:*": "no snapshot of a pattern", "topic=a:*&after=1&asOf=x": "one topic"} {
		_, res := w.request(t, "room:1", query, "")
		if text := body(t, res); res.StatusCode != http.StatusBadRequest || !strings.Contains(text, want) {
			t.Errorf("%s: %s %s", query, res.Status, text)
		}
	}
}

func (w *world) whole(t testing.TB, topic string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.http.URL+"/topics/"+url.PathEscape(topic)+"/snapshot", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := w.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, body(t, res)
}

func TestSnapshotOverHTTP(t *testing.T) {
	t.Parallel()
	w := rooms(t, func(s *setup) {
		s.log.MaxEvent = 200
		s.hub.Snapshots.Fresh = time.Millisecond
		s.hub.Snapshots.Dir = t.TempDir()
	})
	w.db.Exec(t, `create table public.other (id int primary key, room int); select pgcast.attach('public.other', topic => 'room:{room}'); insert into public.other values (5, 1);
		insert into public.m values (1, 1, 'a'), (9, 1, repeat('x', 300)); select pgcast.publish('plain', 'set', '{"id":1}')`)
	let := w.unsequenced(t, `insert into public.m values (2, 1, 'b')`)
	var s struct {
		Topic  string
		Tables []struct {
			Table          string
			Rows, Oversize []json.RawMessage
		}
		Seq  int64
		AsOf string
	}
	status, text := w.whole(t, "room:1")
	if err := json.Unmarshal([]byte(text), &s); err != nil || status != 200 {
		t.Fatalf("%d %s: %v", status, text, err)
	}
	if got := fmt.Sprintf("%s %s %d", s.Topic, s.Tables, s.Seq); got != fmt.Sprintf(`room:1 [{public.m [%s %s] [{"id":9}]} {public.other [{"id":5,"room":1}] []}] 3`, row1, row2) {
		t.Error(got)
	}
	let()
	w.sequenced(t)
	query := fmt.Sprintf("after=%d&asOf=%s", s.Seq, url.QueryEscape(s.AsOf))
	if e := w.get(t, "room:1", query); len(e.Events) != 0 || e.Next != 4 || e.Head != 4 {
		t.Errorf("%+v", e)
	}
	polled := make(chan events, 1)
	go func() { polled <- w.get(t, "room:1", query+"&wait=30") }()
	await(t, "the poll waits", func() bool { return len(w.hub.Sessions()) == 1 })
	w.db.Exec(t, `insert into public.m values (3, 1, 'c')`)
	if e := <-polled; len(e.Events) != 1 || e.Next != 5 {
		t.Errorf("%+v", e)
	}
	if e := w.get(t, "room:1", query); len(e.Events) != 1 || e.Next != 5 {
		t.Errorf("%+v", e)
	}
	for topic, want := range map[string]string{
		"plain": fmt.Sprintf(`{"topic":"plain","events":[{"topic":"plain","event":"set","data":{"id": 1},"seq":1,"id":"%s"}],"seq":1}`, w.idOf(t, "plain", 1)),
		"empty": `{"topic":"empty","events":[],"seq":0}`,
	} {
		if status, text := w.whole(t, topic); status != 200 || text != want {
			t.Errorf("%d %s, want %s", status, text, want)
		}
	}
	if status, text := w.whole(t, "room:7"); status != 200 || !strings.HasPrefix(text, `{"topic":"room:7","tables":[],"seq":0,"asOf":"`) {
		t.Errorf("%d %s", status, text)
	}
	for topic, want := range map[string]int{"room:*": 400, "__x": 400, "a\"": 400} {
		if status, text := w.whole(t, topic); status != want {
			t.Errorf("%s: %d %s", topic, status, text)
		}
	}
	w.setIdentity("1.1")
	res := w.call(t, http.MethodGet, "room:1", query, "")
	if text := body(t, res); res.StatusCode != http.StatusGone || !strings.Contains(text, `"head":5`) {
		t.Errorf("elsewhere: %s %s", res.Status, text)
	}
	// Many frames, by way of a file.
	w.db.Exec(t, `insert into public.m select i, 3, repeat('y', 100) from generate_series(100, 30099) i`)
	if status, text = w.whole(t, "room:3"); status != 200 || json.Unmarshal([]byte(text), &s) != nil || len(s.Tables) != 1 || len(s.Tables[0].Rows) != 30000 {
		t.Errorf("%d, %d bytes, %d tables", status, len(text), len(s.Tables))
	}
	await(t, "nothing is kept", func() bool { return w.counter(t, "snapshot_spool_bytes") == 0 })
}

// A snapshot counts as a long read of history.
func TestSnapshotIsLimited(t *testing.T) {
	t.Parallel()
	w := limitedWorld(t, "history topic 10/168h", nil)
	if status, text := w.whole(t, "plain"); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	if status, text := w.whole(t, "plain"); status != 429 {
		t.Errorf("%d %s", status, text)
	}
	_, res := w.request(t, "plain", "snapshot=true", "")
	if text := body(t, res); res.StatusCode != 429 {
		t.Errorf("%s %s", res.Status, text)
	}
	p := w.dial(t)
	p.raw(`{"type":"subscribe","topic":"plain","snapshot":true,"ref":1}`)
	f := p.next()
	if f.Type == wire.SubscribeDenied && f.Reason == wire.ReasonRateLimited {
		p.wantError(pgcast.CodeRateLimited)
	} else {
		t.Errorf("%+v", f)
	}
}

// queue notes in which order snapshots are read, of nothing, once it is let go.
type queue struct {
	entered, let chan struct{}
	topics       chan string
}

func (q queue) Snapshot(ctx context.Context, topic string, begin func(pgcast.Snapshot) error, _ func(pgcast.Row) error) error {
	select {
	case q.entered <- struct{}{}:
	default:
	}
	select {
	case <-q.let:
	case <-ctx.Done():
		return ctx.Err()
	}
	q.topics <- topic
	return begin(pgcast.Snapshot{})
}

type nowhere struct{}

func (nowhere) Write([]fanout.Item) error { return nil }
func (nowhere) Close(error)               {}

// Whoever asks for many snapshots at once is not before everybody else with all of them.
func TestSnapshotsTakeTurns(t *testing.T) {
	t.Parallel()
	const many = 50
	for _, way := range []string{"subscribe-batch", "stream"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			q := queue{make(chan struct{}, 1), make(chan struct{}), make(chan string, 2*many)}
			w := rooms(t, func(s *setup) { s.hub.Snapshots.Source, s.hub.Snapshots.Reads = q, 1 })
			ctx, cancel := context.WithCancel(t.Context())
			var streaming sync.WaitGroup
			if way == "stream" {
				path := "/topics/room:0/sse?snapshot=true"
				for i := range many - 1 {
					path += fmt.Sprint("&topic=room:", i+1)
				}
				r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.http.URL+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				streaming.Go(func() {
					if answer, err := http.DefaultClient.Do(r); err == nil {
						_ = answer.Body.Close()
					}
				})
			} else {
				batch := wire.Frame{Type: wire.SubscribeBatch}
				for i := range many {
					batch.Topics = append(batch.Topics, wire.Place{Topic: fmt.Sprint("room:", i), Snapshot: true})
				}
				w.dial(t).send(batch)
			}
			<-q.entered
			session := w.hub.NewSession(nowhere{})
			other := session.Ask(fanout.Request{Topic: "other", Snapshot: true})
			close(q.let)
			if err := session.Open(ctx, other); err != nil {
				t.Error(err)
			}
			for before := 0; <-q.topics != "other"; before++ {
				if before == many/2 {
					t.Fatalf("%d of the greedy one's were read first", before)
				}
			}
			session.End(nil)
			cancel()
			streaming.Wait()
		})
	}
}
