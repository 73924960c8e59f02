package gateway

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgcast/pgcast/internal/wire"
)

// source reads a stream of events as a browser's EventSource does, but only when the
// test does, and comes back only when it is told to.
type source struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	last string // Last-Event-ID
}

// sse opens a stream. query may be empty.
func (w *world) sse(t testing.TB, topic, query, last string) *source {
	t.Helper()
	s, res := w.request(t, topic, query, last)
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("the stream was not opened: %s", res.Status)
	}
	return s
}

func (w *world) request(t testing.TB, topic, query, last string) (*source, *http.Response) {
	t.Helper()
	return w.requestAs(t, topic, query, last, nil)
}

func (w *world) requestAs(t testing.TB, topic, query, last string, header http.Header) (*source, *http.Response) {
	t.Helper()
	conn, err := net.Dial("tcp", w.address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if last != "" {
		last = "Last-Event-ID: " + last + "\r\n"
	}
	for name, values := range header {
		last += name + ": " + values[0] + "\r\n"
	}
	fmt.Fprintf(conn, "GET /topics/%s/sse?%s HTTP/1.1\r\nHost: x\r\n%s\r\n", url.PathEscape(topic), query, last)
	s := &source{t: t, conn: conn, r: bufio.NewReader(conn)}
	_ = conn.SetReadDeadline(time.Now().Add(within))
	res, err := http.ReadResponse(s.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, res
}

// sent is one event of a stream.
type sent struct{ Event, ID, Data string }

// next gives the next event; retry and comments are passed over.
func (s *source) next() (e sent) {
	s.t.Helper()
	e, err := s.read()
	if err != nil {
		s.t.Fatalf("read the stream: %v", err)
	}
	return e
}

func (s *source) read() (e sent, err error) {
	_ = s.conn.SetReadDeadline(time.Now().Add(within))
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return e, err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "event":
			e.Event = value
		case "id":
			e.ID = value
		case "data":
			e.Data = value
		case "":
			if e.Data != "" {
				s.last = e.ID
				return e, nil
			}
		}
	}
}

// want takes the next event, which must be of a kind.
func (s *source) want(kind string) wire.ServerFrame {
	s.t.Helper()
	e := s.next()
	f, err := wire.ParseServer([]byte(e.Data))
	if err != nil || e.Event != kind {
		s.t.Fatalf("got %+v, %v; want an event of kind %q", e, err, kind)
	}
	return f
}

// seqs takes n events of a topic and gives their seqs.
func (s *source) seqs(n int) (list []int64) {
	s.t.Helper()
	for range n {
		list = append(list, int64(s.want("").Events[0].Seq))
	}
	return list
}

func span(from, to int64) (list []int64) {
	for ; from <= to; from++ {
		list = append(list, from)
	}
	return list
}

// A browser that comes back with what it was last sent misses and repeats nothing,
// whether or not an event had come.
func TestStreamResumes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a", 3, 10)
	w.sequenced(t)
	s := w.sse(t, "a", "", "")
	if f := s.want("subscribed"); f.Seq != 3 {
		t.Errorf("it starts after %d; want 3", f.Seq)
	}
	_ = s.conn.Close()
	w.publish(t, "a", 2, 10)
	last := s.last
	for round := range int64(20) {
		s = w.sse(t, "a", "", last)
		s.want("subscribed")
		from := 4 + 2*round
		if diff := cmp.Diff(span(from, from+1), s.seqs(2)); diff != "" {
			t.Fatalf("round %d: %s", round, diff)
		}
		if want := fmt.Sprintf("%d:%s", from+1, w.idOf(t, "a", from+1)); s.last != want {
			t.Fatalf("the event's id is %s; want %s", s.last, want)
		}
		last = s.last
		_ = s.conn.Close()
		w.publish(t, "a", 2, 10)
	}
	if n := w.counter(t, "reconnects_total"); n != 20 {
		t.Errorf("%v reconnects are counted; want 20", n)
	}
}

// A stream may have several topics and patterns; each event carries the places of all.
func TestStreamOfSeveral(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a", 2, 10)
	w.sequenced(t)
	s := w.sse(t, "a", "topic=b:*&topic=c&last-event-id="+url.QueryEscape("1,0,-"), "")
	got := map[string]int{}
	w.publish(t, "b:1", 2, 10)
	w.publish(t, "b:2", 1, 10)
	for got["b:2"] == 0 || got["b:1"] < 2 || got["a"] == 0 || got["subscribed"] < 3 {
		e := s.next()
		if e.Event != "" {
			got[e.Event]++
			continue
		}
		f, err := wire.ParseServer([]byte(e.Data))
		if err != nil {
			t.Fatal(err)
		}
		got[f.Events[0].Topic]++
	}
	if want := map[string]int{"subscribed": 3, "a": 1, "b:1": 2, "b:2": 1}; !cmp.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
	_ = s.conn.Close()
	w.publish(t, "c", 1, 10)
	w.publish(t, "b:3", 1, 10)
	s = w.sse(t, "a", "topic=b:*&topic=c&last-event-id=0,0,0", s.last) // the header wins
	got = map[string]int{}
	for range 5 {
		if e := s.next(); e.Event == "" {
			f, _ := wire.ParseServer([]byte(e.Data))
			got[f.Events[0].Topic]++
		}
	}
	if want := map[string]int{"c": 1, "b:3": 1}; !cmp.Equal(got, want) {
		t.Errorf("after coming back: %v; want %v", got, want)
	}
}

// Trimmed events are told of, and so is a history that no longer exists.
func TestStreamGapAndReset(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a", 10, 10)
	w.sequenced(t)
	w.db.Exec(t, "select pgcast.retain('a', max_count => 3)")
	await(t, "seven are trimmed", func() bool {
		page, err := w.log.Page(t.Context(), "a", 0, 1)
		return err == nil && page.Tail == 8
	})
	s := w.sse(t, "a", "after=2", "")
	s.want("subscribed")
	if f := s.want("gap"); f.After != 2 || f.Tail != 8 || s.last != "7" {
		t.Errorf("gap %+v, and the place is %s", f, s.last)
	}
	if diff := cmp.Diff(span(8, 10), s.seqs(3)); diff != "" {
		t.Error(diff)
	}
	s = w.sse(t, "a", "", "9:ffff-1")
	if s.want("subscribed"); s.last != "9:ffff-1" {
		t.Errorf("before the reset the place is %s already", s.last)
	}
	if f := s.want("reset"); f.Head != 10 || s.last != "10" {
		t.Errorf("reset %+v, and the place is %s", f, s.last)
	}
}

// What is asked wrongly is refused before the stream begins, with what to do.
func TestStreamRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for _, c := range []struct{ topic, query, last, want string }{
		{"__system", "", "", "invalid_topic"},
		{"a:**:b", "", "", "invalid_topic"},
		{"a", "topic=", "", "invalid_topic"},
		{"a", "topic=a", "", "select the same topics"},
		{"a:*", "topic=a:b", "", "select the same topics"},
		{"a:*:c", "topic=*:b:*", "", "select the same topics"},
		{"a", "topic=**", "", "select the same topics"},
		{"a", strings.Repeat("topic=x&", MaxStreamTopics), "", "too_many"},
		{"a", "afer=1", "", "there is no parameter"},
		{"a", "after=1&after=2", "", "stands twice"},
		{"a", "after=-1", "", "whole number"},
		{"a", "after=+1", "", "whole number"},
		{"a", "after=1.5", "", "whole number"},
		{"a", "id=1-1", "", "id stands without after"},
		{"a", "after=1&id=%0a", "", "not an event's id"},
		{"a", "topic=b&after=1", "", "for a stream of one topic"},
		{"a", "%zz", "", "query cannot be read"},
		{"a", "", "x", "whole number"},
		{"a", "", ":1-1", "no place"},
		{"a", "", "1:", "no place"},
		{"a", "", "1:" + strings.Repeat("a", 65), "not an event's id"},
		{"a", "", "1,2", "2 places for 1 topics"},
		{"a", "topic=b", "1", "1 places for 2 topics"},
	} {
		_, res := w.request(t, c.topic, c.query, c.last)
		text := body(t, res)
		if res.StatusCode/100 != 4 || !strings.Contains(text, c.want) || res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s?%s, %q: %s %s; want %s", c.topic, c.query, c.last, res.Status, text, c.want)
		}
	}
	if n := w.clients(); n != 0 {
		t.Errorf("%d clients are left", n)
	}
}

// A quiet stream is kept warm; one whose client has gone leaves nothing behind.
func TestStreamHeartbeat(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.PingInterval, s.heartbeat = 100*time.Millisecond, 20*time.Millisecond })
	s := w.sse(t, "a", "", "")
	s.want("subscribed")
	for range 3 {
		if line, err := s.r.ReadString('\n'); err != nil || line != ": hb\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		_, _ = s.r.ReadString('\n')
	}
	_ = s.conn.Close()
	await(t, "the session has ended", func() bool { return w.clients() == 0 && len(w.hub.Sessions()) == 0 })
}

// A drain tells when to come back, and ends the stream.
func TestStreamDrains(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	s := w.sse(t, "a", "", "")
	s.want("subscribed")
	w.publish(t, "a", 1, 10)
	s.seqs(1)
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := w.gate.Drain(ctx); err != nil {
		t.Error(err)
	}
	if line, err := s.r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "retry: ") {
		t.Errorf("got %q, %v", line, err)
	}
	if _, err := s.read(); err == nil {
		t.Error("the stream goes on")
	}
	if _, res := w.request(t, "a", "", ""); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("a new stream: %s", res.Status)
	}
	// EventSource would give up for good.
	_, res := w.request(t, "a", "", "1\r\nAccept: text/event-stream")
	if text := body(t, res); res.StatusCode != http.StatusOK || !strings.HasPrefix(text, "retry: ") || strings.Contains(text, "data:") {
		t.Errorf("a browser's new stream: %s %s", res.Status, text)
	}
	_, res = w.request(t, "a:**:b", "", "1\r\nAccept: text/event-stream")
	if res.StatusCode != http.StatusBadRequest {
		t.Errorf("what will not pass: %s", res.Status)
	}
}

// Before the log was read for the first time nobody can be told where they stand.
func TestNotYet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.setIdentity("")
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		res := w.call(t, method, "a", "", "1", "Content-Type", "application/json", EventHeader, "e")
		if text := body(t, res); method == http.MethodGet && (res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "starting")) {
			t.Errorf("%s: %s %s", method, res.Status, text)
		}
	}
	if _, res := w.request(t, "a", "", ""); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a stream: %s", res.Status)
	}
	if res := w.refused(t, nil); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a WebSocket: %s", res.Status)
	}
	w.setIdentity("1.1")
	w.sse(t, "a", "", "").want("subscribed")
}

// A reader that takes nothing is cut off; another one of the same topic gets everything.
func TestStreamStalled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.small, s.WriteTimeout = true, time.Second })
	good, stalled := w.sse(t, "a", "after=0", ""), w.sse(t, "a", "after=0", "")
	w.publish(t, "a", flood, floodSize)
	good.want("subscribed")
	if diff := cmp.Diff(span(1, flood), good.seqs(flood)); diff != "" {
		t.Error(diff)
	}
	await(t, "the stalled one is gone", func() bool { return w.clients() == 1 })
	_ = stalled.conn.Close()
}

// A log that cannot be asked is told of before the stream begins.
func TestStreamUnavailable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.db.Exec(t, `alter table pgcast.topic rename to hidden`)
	_, res := w.request(t, "a", "after=1", "")
	if text := body(t, res); res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "unavailable") || strings.Contains(text, "relation") {
		t.Errorf("%s %s", res.Status, text)
	}
	await(t, "nobody is left", func() bool { return w.clients() == 0 && len(w.hub.Sessions()) == 0 })
	w.db.Exec(t, `alter table pgcast.hidden rename to topic`)
	w.sse(t, "a", "after=0", "").want("subscribed")
}
