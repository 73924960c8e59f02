package gateway

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/replay"
)

// ask opens a connection that reads little at a time, and sends a request on it.
func (w *world) ask(t testing.TB, request string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", w.address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.(*net.TCPConn).SetReadBuffer(smallWindow)
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return conn
}

// An answer is no larger than what a client of frames could be sent, unless it is one
// event, however well Postgres packs what there is.
func TestAnswerIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a", 60, 100_000)
	w.sequenced(t)
	var all []int64
	for next := int64(0); next < 60; {
		res := w.call(t, http.MethodGet, "a", fmt.Sprintf("limit=1000&after=%d", next), "")
		if res.ContentLength > 1_200_000 {
			t.Fatalf("an answer of %d bytes", res.ContentLength)
		}
		_ = body(t, res)
		e := w.get(t, "a", fmt.Sprintf("limit=1000&after=%d", next))
		all = append(all, e.places(t)...)
		next = e.Next
	}
	if fmt.Sprint(all) != fmt.Sprint(span(1, 60)) {
		t.Errorf("got %v", all)
	}
}

// Who takes nothing of its answer for the write timeout is cut off; who is slow is not,
// and neither holds up the others.
func TestAnswerToStalledReader(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.small, s.WriteTimeout = true, 2*time.Second })
	w.publish(t, "a", flood, floodSize)
	w.sequenced(t)
	const request = "GET /topics/a/events?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n"
	for range 10 {
		w.ask(t, request)
	}
	w.get(t, "a", "limit=1")
	await(t, "they are cut off", func() bool { return w.closed.Load() >= 10 })

	slow := w.ask(t, request+"GET /topics/a/events?limit=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	r := bufio.NewReaderSize(slow, 16<<10)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	began, pause := time.Now(), time.NewTicker(40*time.Millisecond)
	defer pause.Stop()
	n := int64(0)
	for n < res.ContentLength {
		k, err := io.CopyN(io.Discard, res.Body, min(16<<10, res.ContentLength-n))
		if n += k; err != nil {
			t.Fatalf("the slow one got %d of %d bytes: %v", n, res.ContentLength, err)
		}
		<-pause.C
	}
	if d := time.Since(began); d < 2*time.Second {
		t.Errorf("it took only %v", d)
	}
	// And the connection serves the next request, later than the deadline of the first.
	if res, err = http.ReadResponse(r, nil); err != nil || !strings.Contains(body(t, res), `"seq":1`) {
		t.Errorf("the next answer: %v", err)
	}
}

// An event too large for a frame is whole also for who was waiting for it; not many such
// answers are on their way at once.
func TestLargeAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.log.MaxEvent, s.small = 1000, true })
	w.gate.opts.Whole = replay.NewLog(w.pool, nil)
	answers := make(chan events)
	for _, topic := range []string{"a", "*"} {
		go func() { answers <- w.get(t, topic, "wait=60") }()
	}
	await(t, "two wait", func() bool { return len(w.hub.Sessions()) == 2 })
	w.publish(t, "a", 1, 5000)
	for range 2 {
		if e := <-answers; len(e.Events) != 1 || len(e.Events[0]) < 5000 || e.Next != 1 || e.Head != 1 {
			t.Errorf("%d events, next %d, %.200s", len(e.Events), e.Next, e.Events)
		}
	}

	w.gate.opts.Whole = replay.NewLog(w.pool, &replay.LogOptions{MaxEvent: 100 << 20})
	w.publish(t, "b", 2, 8_000_000)
	w.sequenced(t)
	for range cap(w.gate.large) {
		w.ask(t, "GET /topics/b/events HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	await(t, "the readers who stall have their answers", func() bool { return len(w.gate.large) == cap(w.gate.large) })
	if res := w.call(t, http.MethodGet, "b", "", ""); res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("one too many: %s", res.Status)
	}
	if e := w.get(t, "a", "after=1"); len(e.Events) != 0 {
		t.Errorf("others: %+v", e)
	}
}

// A client that goes while the database works for it breaks no connection to the
// database, and is nobody's fault.
func TestVanishingClients(t *testing.T) {
	t.Parallel()
	text := &logged{}
	w := newWorld(t, func(s *setup) { s.Logger = slog.New(slog.NewTextHandler(text, nil)) })
	w.publish(t, "a", 1, 10)
	w.sequenced(t)
	tx, err := w.db.Conn(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `lock table pgcast.event_log in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	var clients []net.Conn
	for range 10 {
		for _, request := range []string{
			"GET /topics/a/events HTTP/1.1\r\nHost: x\r\n\r\n",
			"POST /topics/a/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nPgcast-Event: e\r\nContent-Length: 1\r\n\r\n1",
		} {
			clients = append(clients, w.ask(t, request))
		}
	}
	await(t, "all have come", func() bool { return w.open.Load() == 20 && len(w.gate.slots) == cap(w.gate.slots) })
	before := w.pool.Stat().TotalConns()
	for _, c := range clients {
		_ = c.Close()
	}
	await(t, "those that had to wait are gone", func() bool { return w.open.Load() <= int64(cap(w.gate.slots)) })
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "nothing is under way", func() bool { return w.open.Load() == 0 })
	if now := w.pool.Stat().TotalConns(); now < before || w.counter(t, "client_errors_total") != 0 || text.String() != "" {
		t.Errorf("%d connections of %d, %v errors: %s", now, before, w.counter(t, "client_errors_total"), text)
	}
}

// The place of a pattern's reader does not go back where another server was ahead.
func TestPatternAheadOfHub(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a", 5, 10)
	w.sequenced(t)
	w.gate.hub = fanout.NewHub(w.log, w.log, fanout.HubOptions{Encode: wire.AppendEventBody, Logger: discard}) // has come to nothing yet
	for _, query := range []string{"after=5", "after=5&id=" + string(w.idOf(t, "a", 5))} {
		if e := w.get(t, "*", query); e.Next != 5 || e.Head < 5 || len(e.Events) != 0 {
			t.Errorf("%s: %+v", query, e)
		}
	}
}

// A stream may not have more topics than any session may.
func TestStreamOfTooMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.MaxSubscriptions = 2 })
	if _, res := w.request(t, "a", "topic=b&topic=c", ""); res.StatusCode != http.StatusBadRequest || !strings.Contains(body(t, res), "may have 2") {
		t.Errorf("three topics: %s", res.Status)
	}
	w.sse(t, "a", "topic=b", "").want("subscribed")
	for _, c := range []struct{ method, want string }{{http.MethodPost, "there are none"}, {http.MethodGet, "there are after, id, asOf, limit, wait, filter"}} {
		if text := body(t, w.call(t, c.method, "a", "=x", "1")); !strings.Contains(text, c.want+`"`) {
			t.Errorf("%s: %s", c.method, text)
		}
	}
	if res := w.call(t, http.MethodPost, "a", "", "1", EventHeader, "e", "Content-Type", "application/json", "Content-Encoding", "gzip"); res.StatusCode != http.StatusUnsupportedMediaType {
		t.Errorf("packed: %s", res.Status)
	}
}
