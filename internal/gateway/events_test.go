package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/replay"
)

func body(t testing.TB, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// call makes a request of a topic's events; header has names and values in turn.
func (w *world) call(t testing.TB, method, topic, query, text string, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.http.URL+"/topics/"+url.PathEscape(topic)+"/events?"+query, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := w.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// events is the answer to a question for events.
type events struct {
	Topic            string
	Events           []json.RawMessage
	Tail, Head, Next int64
}

func (w *world) get(t testing.TB, topic, query string) (e events) {
	t.Helper()
	res := w.call(t, http.MethodGet, topic, query, "")
	text := body(t, res)
	if err := json.Unmarshal([]byte(text), &e); err != nil || res.StatusCode != http.StatusOK || e.Topic != topic {
		t.Fatalf("%s?%s: %s %s, %v", topic, query, res.Status, text, err)
	}
	return e
}

// places gives the events' seqs, or positions.
func (e events) places(t testing.TB) (list []int64) {
	t.Helper()
	for _, text := range e.Events {
		f, err := wire.ParseServer(text)
		if err != nil {
			t.Fatal(err)
		}
		if p := int64(f.Events[0].Position); p != 0 {
			list = append(list, p)
		} else {
			list = append(list, int64(f.Events[0].Seq))
		}
	}
	return list
}

// History over HTTP: of topics by seq, of patterns by position, page by page.
func TestGetEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a:1", 5, 10)
	w.publish(t, "a/2", 3, 10)
	w.publish(t, "a:1", 2, 10)
	w.sequenced(t)
	for _, c := range []struct {
		topic, query string
		want         []int64
		head, next   int64
	}{
		{"a:1", "", span(1, 7), 7, 7},
		{"a:1", "after=2&limit=3", span(3, 5), 7, 5},
		{"a:1", "after=5&limit=99999", span(6, 7), 7, 7},
		{"a:1", "after=7", nil, 7, 7},
		{"a:1", "after=3&id=" + string(w.idOf(t, "a:1", 3)), span(4, 7), 7, 7},
		{"a/2", "", span(1, 3), 3, 3},
		{"nobody", "", nil, 0, 0},
		{"a:*", "", []int64{1, 2, 3, 4, 5, 9, 10}, 10, 10},
		{"a:*", "after=5&limit=1", []int64{9}, 10, 9},
		{"**", "after=8", []int64{9, 10}, 10, 10},
		{"b:*", "", nil, 10, 10},
	} {
		e := w.get(t, c.topic, c.query)
		if got := fmt.Sprint(e.places(t), e.Head, e.Next); got != fmt.Sprint(c.want, c.head, c.next) || e.Tail != 1 {
			t.Errorf("%s?%s: %s, tail %d; want %v %d %d", c.topic, c.query, got, e.Tail, c.want, c.head, c.next)
		}
	}
	w.db.Exec(t, "select pgcast.retain('a:1', max_count => 2)")
	await(t, "five are trimmed", func() bool { e := w.get(t, "a:1", ""); return e.Tail == 6 && e.Head == 7 && e.Next == 7 })
	if e := w.get(t, "a:1", "after=2&wait=60"); e.Tail != 6 || len(e.Events) != 2 {
		t.Errorf("over a gap: %+v", e)
	}
}

// An event too large for a frame is whole over HTTP.
func TestGetOversize(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.log.MaxEvent = 1000 })
	w.gate.opts.Whole = replay.NewLog(w.pool, nil)
	w.publish(t, "a", 1, 5000)
	w.sequenced(t)
	for _, topic := range []string{"a", "*"} {
		e := w.get(t, topic, "")
		if len(e.Events) != 1 || len(e.Events[0]) < 5000 || bytes.Contains(e.Events[0], []byte("oversize")) {
			t.Errorf("%s: %d events, %.200s", topic, len(e.Events), e.Events)
		}
	}
}

// Who waits is answered by what comes next, and by nothing when nothing comes.
func TestLongPoll(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a", 1, 10)
	w.sequenced(t)
	if e := w.get(t, "a", "after=1&wait=0"); len(e.Events) != 0 {
		t.Errorf("without waiting: %+v", e)
	}
	if e := w.get(t, "a", "wait=60"); len(e.Events) != 1 { // there is something at once
		t.Errorf("got %+v", e)
	}
	began := time.Now()
	if e := w.get(t, "a", "after=1&wait=1"); len(e.Events) != 0 || e.Next != 1 || e.Head != 1 || time.Since(began) < time.Second {
		t.Errorf("after %v: %+v", time.Since(began), e)
	}
	type answer struct {
		topic  string
		events events
	}
	answers := make(chan answer)
	for _, topic := range []string{"a", "*", "b"} {
		go func() {
			answers <- answer{topic, w.get(t, topic, "after="+map[string]string{"a": "1", "*": "1", "b": "0"}[topic]+"&wait=60&limit=2")}
		}()
	}
	await(t, "three wait", func() bool { return len(w.hub.Sessions()) == 3 })
	w.publish(t, "a", 3, 10)
	for range 2 {
		a := <-answers
		if got := a.events.places(t); fmt.Sprint(got) != fmt.Sprint(span(2, int64(1+len(got)))) || len(got) == 0 || len(got) > 2 || a.events.Next != got[len(got)-1] {
			t.Errorf("%s: %v, %+v", a.topic, got, a.events)
		}
	}
	w.publish(t, "b", 1, 10)
	if a := <-answers; a.topic != "b" || len(a.events.Events) != 1 {
		t.Errorf("got %+v", a)
	}
	await(t, "nothing is left", func() bool { return len(w.hub.Sessions()) == 0 && w.clients() == 0 })
}

// A long poll that is drained or whose client leaves ends at once.
func TestLongPollEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	answered := make(chan events)
	go func() { answered <- w.get(t, "a", "wait=60") }()
	await(t, "it waits", func() bool { return len(w.hub.Sessions()) == 1 })
	go func() { _ = w.gate.Drain(t.Context()) }()
	if e := <-answered; len(e.Events) != 0 {
		t.Errorf("got %+v", e)
	}
	if res := w.call(t, http.MethodGet, "a", "wait=60", ""); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("while draining: %s", res.Status)
	}
}

// Publishing over HTTP, with a key also twice.
func TestPostEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.MaxFrame = 1000 })
	post := func(topic, text string, header ...string) (int, string) {
		t.Helper()
		res := w.call(t, http.MethodPost, topic, "", text, append([]string{"Content-Type", "application/json"}, header...)...)
		return res.StatusCode, body(t, res)
	}
	status, first := post("a", `{"by": 1}`, EventHeader, "typing", KeyHeader, "k")
	_, again := post("a", `{"by": 2}`, EventHeader, "typing", KeyHeader, "k")
	_, other := post("a", ``, EventHeader, "typing")
	if status != http.StatusCreated || first != again || first == other {
		t.Errorf("%d %s, %s, %s", status, first, again, other)
	}
	w.sequenced(t)
	e := w.get(t, "a", "")
	if len(e.Events) != 2 || !strings.Contains(string(e.Events[0]), `"event":"typing","data":{"by": 1}`) || !strings.Contains(string(e.Events[1]), `"data":null`) ||
		!strings.Contains(first, string(w.idOf(t, "a", 1))) {
		t.Errorf("%s, %s", e.Events, first)
	}
	for _, c := range []struct {
		topic, text string
		header      []string
		status      int
		want        string
	}{
		{"a", "1", nil, 400, "the event has no name"},
		{"a", "1", []string{EventHeader, `"`}, 400, "invalid_event"},
		{"a:*", "1", []string{EventHeader, "e"}, 400, "invalid_topic"},
		{"__x", "1", []string{EventHeader, "e"}, 400, "invalid_topic"},
		{"a", "{", []string{EventHeader, "e"}, 400, "invalid_event"},
		{"a", "1 2", []string{EventHeader, "e"}, 400, "invalid_event"},
		{"a", "\"\xff\"", []string{EventHeader, "e"}, 400, "not UTF-8"},
		{"a", `"\u0000"`, []string{EventHeader, "e"}, 400, "invalid_event"},
		{"a", strings.Repeat("[", 50), []string{EventHeader, "e"}, 400, "nested too deep"},
		{"a", strings.Repeat(" ", 1001), []string{EventHeader, "e"}, 413, "too_large"},
		{"a", "1", []string{EventHeader, "e", "Content-Type", "text/plain"}, 415, "unsupported"},
		{"a", "1", []string{EventHeader, "e", KeyHeader, strings.Repeat("k", 300)}, 400, "idempotency key"},
		{"a", "1", []string{EventHeader, "e", KeyHeader, ""}, 400, "is empty"},
		{"a", "1e131071", []string{EventHeader, "e"}, 400, "invalid_event"},
		{"a", "1", []string{EventHeader, "e", "Origin", "https://evil.example"}, 403, "forbidden"},
	} {
		status, text := post(c.topic, c.text, c.header...)
		if status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s %.20s %q: %d %s; want %d %s", c.topic, c.text, c.header, status, text, c.status, c.want)
		}
	}
	if n := pgcastEvents(t, w); n != 2 {
		t.Errorf("%d events; what was refused has left something", n)
	}
	if n := w.counter(t, "published_total"); n != 3 {
		t.Errorf("published_total is %v", n)
	}
}

func pgcastEvents(t testing.TB, w *world) (n int) {
	t.Helper()
	if err := w.pool.QueryRow(t.Context(), "select count(*) from pgcast.event_log").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Questions that cannot be answered, and why.
func TestGetRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a", 3, 10)
	w.sequenced(t)
	for _, c := range []struct {
		topic, query string
		status       int
		want         string
	}{
		{"__system", "", 400, "invalid_topic"},
		{"a", "limit=0", 400, "1 is the least"},
		{"a", "limit=x", 400, "whole number"},
		{"a", "wait=-1", 400, "whole number"},
		{"a", "last=1", 400, "there are after, id, asOf, limit, wait"},
		{"a", "id=1-1", 400, "id stands without after"},
		{"a", "after=4", 410, `"head":3`},
		{"a", "after=2&id=ffff-1", 410, `"code":"reset"`},
		{"*", "after=2&id=ffff-1", 410, `"code":"reset"`},
	} {
		res := w.call(t, http.MethodGet, c.topic, c.query, "")
		if text := body(t, res); res.StatusCode != c.status || !strings.Contains(text, c.want) || res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s?%s: %s %s; want %d %s", c.topic, c.query, res.Status, text, c.status, c.want)
		}
	}
	w.db.Exec(t, `alter table pgcast.topic rename to hidden`)
	for _, query := range []string{"", "after=1"} {
		res := w.call(t, http.MethodGet, "a", query, "")
		if text := body(t, res); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || strings.Contains(text, "relation") {
			t.Errorf("the log cannot be read: %s %s", res.Status, text)
		}
	}
}

// A page of another origin is let in exactly where a WebSocket of it is.
func TestOriginOverHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.Origins = []string{"friend.example", "https://strict.example"} })
	for origin, ok := range map[string]bool{"": true, "http://friend.example": true, "https://strict.example": true, w.http.URL: true,
		"http://strict.example": false, "null": false, "https://evil.example": false, "https://%zz": false, "file://": false} {
		header := []string{}
		if origin != "" {
			header = []string{"Origin", origin}
		}
		for _, method := range []string{http.MethodGet, http.MethodOptions} {
			res := w.call(t, method, "a", "", "", header...)
			_ = body(t, res)
			if got := res.StatusCode < 300; got != ok {
				t.Errorf("%s from %q: %s", method, origin, res.Status)
			}
			if allowed := res.Header.Get("Access-Control-Allow-Origin"); ok && allowed != origin || !ok && allowed != "" {
				t.Errorf("%s from %q: allowed is %q", method, origin, allowed)
			}
		}
	}
}

// Other methods are refused, and HEAD of a stream does not begin one.
func TestEventsMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPatch} {
		if res := w.call(t, method, "a", "", ""); res.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %s", method, res.Status)
		}
	}
	for _, path := range []string{"/topics/a", "/topics/", "/topics/a/b/events"} {
		res, err := w.http.Client().Get(w.http.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if _ = body(t, res); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
	if res, err := w.http.Client().Head(w.http.URL + "/topics/a/sse"); err != nil || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD of a stream: %v, %v", res, err)
	}
}
