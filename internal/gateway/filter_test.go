package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// notes is a world with a table of which old values are captured.
func notes(t testing.TB, change func(*setup)) *world {
	t.Helper()
	w := newWorld(t, change)
	w.db.Exec(t, `create table public.notes (id int primary key, room_id int, author text, body text);
		select pgcast.attach('public.notes', topic => 'notes:{room_id}', old => true)`)
	id, err := w.log.Identity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.setIdentity(id)
	return w
}

// sums tells of events what a filter has made of them.
func sums(list []pgcast.Event) (out []string) {
	for _, e := range list {
		out = append(out, fmt.Sprintf("%d %s %s %s", e.Seq, e.Name, e.Data, e.Old))
	}
	return out
}

// all reads the whole history of a topic through a filter, over HTTP.
func (w *world) all(t testing.TB, topic, query string) (list []pgcast.Event) {
	t.Helper()
	for after := int64(0); ; {
		e := w.get(t, topic, fmt.Sprintf("after=%d&%s", after, query))
		for _, text := range e.Events {
			f, err := wire.ParseServer(text)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, f.Events...)
		}
		if after = e.Next; after >= e.Head {
			return list
		}
	}
}

// S14: a row that goes out of a filter, or is deleted there, is announced by its key alone, and
// what was never in sight is not told at all; live, replayed, over frames and over HTTP.
func TestFilterRows(t *testing.T) {
	t.Parallel()
	w := notes(t, nil)
	const narrow = `author = 'ann' and not body starts with 'draft'`
	query := "filter=" + url.QueryEscape(narrow)
	raw, _ := json.Marshal(narrow)
	live, pattern := w.dial(t), w.dial(t)
	live.send(wire.Frame{Type: wire.Subscribe, Topic: "notes:1", Filter: raw, Ref: json.RawMessage(`1`)})
	live.want(wire.Subscribed)
	pattern.send(wire.Frame{Type: wire.SubscribeBatch, Ref: json.RawMessage(`1`), Topics: []wire.Place{{Topic: "notes:*", Filter: json.RawMessage(`{"author":"ann"}`)}}})
	pattern.want(wire.Subscribed)
	stream := w.sse(t, "notes:1", query, "")
	stream.want("subscribed")
	w.db.Exec(t, `
		insert into public.notes values (1, 1, 'ann', 'a'), (2, 1, 'bob', 'canary'), (3, 1, 'ann', 'draft canary');
		update public.notes set body = 'b' where id = 1;
		update public.notes set body = 'canary!' where id = 2;
		update public.notes set body = 'c' where id = 3;
		update public.notes set author = 'bob', body = 'canary?' where id = 1;
		update public.notes set author = null where id = 2;
		delete from public.notes where id = 1;
		delete from public.notes where id = 3;
		insert into public.notes values (4, 1, 'ann', 'x');
		update public.notes set room_id = 2 where id = 4;
		select pgcast.publish('notes:1', 'said', '{"author":"ann"}');
		select pgcast.publish('notes:1', 'said', '{"author":"bob","body":"canary"}');
		truncate public.notes`)
	w.sequenced(t)
	want := []string{
		`1 created {"id":1,"room_id":1,"author":"ann","body":"a"} `,
		`4 updated {"id":1,"room_id":1,"author":"ann","body":"b"} {"id":1,"room_id":1,"author":"ann","body":"a"}`,
		`6 entered {"id":3,"room_id":1,"author":"ann","body":"c"} {"id":3,"room_id":1,"author":"ann","body":"draft canary"}`,
		`7 gone  {"id":1}`,
		`10 deleted {"id":3,"room_id":1,"author":"ann","body":"c"} {"id":3,"room_id":1,"author":"ann","body":"c"}`,
		`11 created {"id":4,"room_id":1,"author":"ann","body":"x"} `,
		`12 deleted {"id":4,"room_id":1,"author":"ann","body":"x"} {"id":4,"room_id":1,"author":"ann","body":"x"}`,
		`13 said {"author":"ann"} `,
		`15 truncated {"schema":"public","table":"notes"} `,
	}
	same := func(what string, list []pgcast.Event) {
		t.Helper()
		got := sums(list)
		for i := range got {
			got[i] = strings.ReplaceAll(got[i], `": "`, `":"`) // as jsonb prints it
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	same("live", live.events(len(want)))
	live.quiet()
	var streamed []pgcast.Event
	for range want {
		streamed = append(streamed, stream.want("").Events...)
	}
	same("a stream", streamed)
	same("over HTTP", w.all(t, "notes:1", query))
	same("page by page", w.all(t, "notes:1", "limit=1&"+query))
	again := w.dial(t)
	again.send(wire.Frame{Type: wire.Subscribe, Topic: "notes:1", After: at(0), Filter: raw, Ref: json.RawMessage(`1`)})
	again.want(wire.Subscribed)
	same("replayed", again.events(len(want)))
	again.send(wire.Frame{Type: wire.History, Topic: "notes:1", Filter: raw, Ref: json.RawMessage(`2`)})
	if f := again.want(wire.History); f.Next != 15 || f.Head != 15 {
		t.Errorf("history has looked up to %d of %d", f.Next, f.Head)
	} else {
		same("history", f.Events)
	}
	// The answer to a replay is that of the subscription.
	again.raw(`{"type":"replay","topic":"notes:1","since":0,"reqId":1}`)
	var list []pgcast.Event
	for e := again.events(1)[0]; e.Name == "msg"; e = again.events(1)[0] {
		f, err := wire.ParseServer(e.Data)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, f.Events...)
	}
	same("once more", list)
	// From the last event received it goes on exactly.
	from := w.dial(t)
	from.send(wire.Frame{Type: wire.Subscribe, Topic: "notes:1", After: at(4), ID: w.idOf(t, "notes:1", 4), Filter: raw, Ref: json.RawMessage(`1`)})
	from.want(wire.Subscribed)
	want = want[2:]
	same("resumed", from.events(len(want)))
	s := w.sse(t, "notes:1", query, "4:"+string(w.idOf(t, "notes:1", 4)))
	s.want("subscribed")
	if n := s.seqs(2); !slices.Equal(n, []int64{6, 7}) {
		t.Errorf("a stream goes on with %d", n)
	}
	// The row that left for another topic is there.
	moved := pattern.events(12)
	if e := moved[8]; e.Topic != "notes:2" || e.Name != "created" || e.Position == 0 {
		t.Errorf("got %+v of %v", e, sums(moved))
	}
}

// What waits is answered by what its filter lets through.
func TestFilterPoll(t *testing.T) {
	t.Parallel()
	w := notes(t, nil)
	query := "wait=30&filter=" + url.QueryEscape(`author = 'ann'`)
	w.db.Exec(t, `insert into public.notes select i, 1, 'bob', 'x' from generate_series(1, 250) i`)
	w.sequenced(t)
	answer := make(chan events, 1)
	go func() { answer <- w.get(t, "notes:1", "after=0&limit=100&"+query) }()
	await(t, "somebody waits", func() bool { return len(w.hub.Sessions()) == 1 })
	w.db.Exec(t, `insert into public.notes values (1000, 1, 'bob', 'x'); insert into public.notes values (1001, 1, 'ann', 'y')`)
	if e := <-answer; len(e.Events) != 1 || e.Next != 252 || !strings.Contains(string(e.Events[0]), `"id":1001`) {
		t.Errorf("%s, next %d", e.Events, e.Next)
	}
	// Nothing of many pages, and where to go on.
	query = "limit=10&filter=" + url.QueryEscape(`author = 'eve'`)
	e := w.get(t, "notes:1", "after=0&"+query)
	if len(e.Events) != 0 || e.Next != 10*maxUnseen || e.Head != 252 {
		t.Errorf("%d events, next %d of %d", len(e.Events), e.Next, e.Head)
	}
	e = w.get(t, "notes:1", "after=245&"+query)
	if len(e.Events) != 0 || e.Next != 252 {
		t.Errorf("%d events, next %d", len(e.Events), e.Next)
	}
	if list := w.all(t, "notes:*", query); len(list) != 0 {
		t.Errorf("%v", sums(list))
	}
	p := w.dial(t)
	p.raw(`{"type":"history","topic":"notes:1","limit":10,"filter":{"author":"eve"},"ref":1}`)
	if f := p.want(wire.History); len(f.Events) != 0 || f.Next != 10*maxUnseen {
		t.Errorf("%d events, next %d", len(f.Events), f.Next)
	}
}

// A filter over columns of which no old values are captured is refused, with what mends it.
func TestFilterNeedsOldValues(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.db.Exec(t, `create table public."odd notes" (id int, room_id int, author text, secret text, primary key (id, room_id));
		select pgcast.attach('public."odd notes"', topic => 'odd:{room_id}', without => '{secret}')`)
	p := w.dial(t)
	p.raw(`{"type":"subscribe","topic":"odd:1","filter":"id > 5 and room_id = 1 and secret = 'x'","ref":1}`) // the key, and what is not captured at all
	p.want(wire.Subscribed)
	p.raw(`{"type":"subscribe","topic":"other","filter":"author = 'ann'","ref":1}`)
	p.want(wire.Subscribed)
	p.raw(`{"type":"unsubscribe","topic":"other"}`)
	call := ""
	for _, topic := range []string{"odd:2", "odd:*", "**"} {
		q := w.dial(t)
		q.raw(fmt.Sprintf(`{"type":"subscribe","topic":%q,"filter":"author = 'ann'","ref":2}`, topic))
		if f := q.want(wire.SubscribeDenied); f.Reason != wire.ReasonInvalidFilter || string(f.Ref) != "2" || f.Topic != topic {
			t.Errorf("%s: %+v", topic, f)
		}
		f := q.want(wire.Error)
		if f.Code != pgcast.CodeInvalid || !strings.Contains(f.Message, `"author"`) {
			t.Errorf("%s: %+v", topic, f)
		}
		_, call, _ = strings.Cut(strings.TrimSuffix(f.Message, ")"), "have it attached so: ")
	}
	for _, path := range []string{"events", "sse", "snapshot"} {
		res, err := w.http.Client().Get(w.http.URL + "/topics/odd:2/" + path + "?filter=" + url.QueryEscape("author = 'ann'"))
		if err != nil {
			t.Fatal(err)
		}
		if text := body(t, res); res.StatusCode != http.StatusBadRequest || !strings.Contains(text, "attached so") {
			t.Errorf("%s: %s %s", path, res.Status, text)
		}
	}
	p.raw(`{"type":"history","topic":"odd:2","filter":"author = 'ann'","ref":3}`)
	p.wantError(pgcast.CodeInvalid)
	if want := `select pgcast.attach('"odd notes"', topic => 'odd:{room_id}', without => '{secret}', old => true)`; strings.ReplaceAll(call, "public.", "") != want {
		t.Fatalf("to mend it: %s", call)
	}
	w.db.Exec(t, call)
	await(t, "it is seen that old values are captured", func() bool {
		p.raw(`{"type":"subscribe","topic":"odd:2","filter":"author = 'ann'","ref":4}`)
		if f := p.next(); f.Type == wire.Subscribed {
			return true
		}
		p.want(wire.Error)
		return false
	})
}

// Subscriptions of one session that select the same events see them alike.
func TestFilterStandsAlone(t *testing.T) {
	t.Parallel()
	w := notes(t, nil)
	p := w.dial(t)
	denied := func(frame, want string) {
		t.Helper()
		p.raw(frame)
		if f := p.want(wire.SubscribeDenied); f.Reason != wire.ReasonInvalidFilter {
			t.Errorf("%s: %+v", frame, f)
		}
		if f := p.want(wire.Error); f.Code != pgcast.CodeInvalid || !strings.Contains(f.Message, want) {
			t.Errorf("%s: %s", frame, f.Message)
		}
	}
	for _, frame := range []string{`{"type":"subscribe","topic":"notes:1","filter":"id = 1","ref":1}`, `{"type":"subscribe","topic":"plain:*","ref":1}`, `{"type":"subscribe","topic":"notes:2","filter":"id = 2","ref":1}`, `{"type":"subscribe","topic":"notes:3","ref":1}`} {
		p.raw(frame)
		p.want(wire.Subscribed)
	}
	denied(`{"type":"subscribe","topic":"notes:*","ref":1}`, "select the same topics")
	denied(`{"type":"subscribe","topic":"*:3","filter":"id = 3","ref":1}`, "select the same topics")
	denied(`{"type":"subscribe","topic":"plain:1","filter":"id = 3","ref":1}`, "select the same topics")
	denied(`{"type":"subscribe","topic":"notes:9","filter":"id =","ref":1}`, "it ends where")
	denied(`{"type":"subscribe","topic":"notes:9","filter":7,"ref":1}`, "neither a string nor an object")
	// Subscribing again changes the filter, or takes it away.
	p.raw(`{"type":"subscribe","topic":"notes:1","filter":"id = 7","ref":1}`)
	p.want(wire.Subscribed)
	p.raw(`{"type":"subscribe","topic":"notes:2","ref":1}`)
	p.want(wire.Subscribed)
	w.db.Exec(t, `insert into public.notes values (1, 1, '', ''), (7, 1, '', ''), (8, 2, '', '')`)
	if got := sums(p.events(2)); !strings.Contains(got[0], `"id":7`) || !strings.Contains(got[1], `"id":8`) {
		t.Errorf("%q", got)
	}
	p.raw(`{"type":"unsubscribe","topic":"notes:1"}`)
	p.raw(`{"type":"subscribe","topic":"notes:**","ref":1}`)
	p.want(wire.Subscribed)
	p.quiet()
}

// What is too large for an event cannot be judged, and is shown as that; a row of a snapshot by
// its key, as far as that tells.
func TestFilterOversize(t *testing.T) {
	t.Parallel()
	w := notes(t, func(s *setup) { s.log.MaxEvent = 300 })
	p := w.dial(t)
	p.raw(`{"type":"subscribe","topic":"notes:1","filter":"author = 'ann'","ref":1}`)
	p.want(wire.Subscribed)
	w.db.Exec(t, `insert into public.notes values (1, 1, 'bob', repeat('x', 500)), (2, 1, 'bob', ''), (3, 1, 'ann', '')`)
	if list := p.events(2); !list[0].Oversize || list[0].Seq != 1 || list[0].Data != nil || list[1].Seq != 3 {
		t.Errorf("%v", sums(list))
	}
	p.raw(`{"type":"subscribe","topic":"notes:1","snapshot":true,"filter":"author = 'ann' and id > 1","ref":1}`)
	p.want(wire.Subscribed)
	if f := p.want(wire.Snapshot); len(f.Rows) != 1 || f.More || len(f.Oversize) != 0 { // the key tells
		t.Errorf("%+v", f)
	}
}
