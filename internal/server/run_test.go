package server

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// 300 clients are all told to come back, and the server is gone in time.
func TestDrain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	r := start(t, db.URL, nil).awaitReady(t)
	const n = 300
	var wg sync.WaitGroup
	var mu sync.Mutex
	ends, hints := map[int]int{}, map[string]bool{}
	for i := range n {
		p := r.dial(t)
		p.send(fmt.Sprintf(`{"type":"subscribe","topic":"room:%d","ref":1}`, i%10))
		p.want(wire.Subscribed)
		wg.Go(func() {
			code, reason := p.closed()
			mu.Lock()
			defer mu.Unlock()
			ends[code]++
			hints[reason] = true
		})
	}
	began := time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("Run returned %v", err)
	}
	d := time.Since(began)
	wg.Wait()
	t.Logf("drained %d sessions in %v, with %d different hints", n, d, len(hints))
	if ends[wire.CloseGoingAway] != n || len(hints) < n/3 || d > 10*time.Second {
		t.Errorf("after %v: ends by code %v, %d different hints", d, ends, len(hints))
	}
}

// While it drains, a server is not ready and lets nobody in; a client that reads nothing
// holds it up no longer than agreed.
func TestDrainWithStalledClient(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	r := start(t, db.URL, func(o *Options) { o.DrainTimeout = 5 * time.Second }).awaitReady(t)
	p := r.dialSmall(t)
	p.send(`{"type":"subscribe","topic":"a","ref":1}`)
	p.want(wire.Subscribed)
	quick := r.dial(t)
	quick.want(wire.Welcome)
	db.Exec(t, `select count(pgcast.publish('a', 'said', to_jsonb(repeat('x', 50000)))) from generate_series(1, 140)`)
	before, same := "", 0
	await(t, "the client can take no more", func() bool {
		_, text := get(t, "http://"+r.admin+"/metrics")
		delivered := figure(t, text, "pgcast_deliveries_total")
		now := fmt.Sprint(delivered, figure(t, text, "pgcast_events_sequenced_total"))
		if same++; now != before || delivered == 0 || !strings.HasSuffix(now, " 140") {
			same = 0
		}
		before = now
		return same >= 50 // less may be a busy machine
	})
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	if code, _ := quick.closed(); code != wire.CloseGoingAway {
		t.Errorf("the quick client was closed with %d", code)
	}
	for _, listener := range []string{r.listen, r.admin} {
		if status, text := get(t, "http://"+listener+"/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(text, "draining") {
			t.Errorf("readyz of %s while draining: %d %s", listener, status, text)
		}
		if status, _ := get(t, "http://"+listener+"/healthz"); status != http.StatusOK {
			t.Errorf("healthz of %s while draining: %d", listener, status)
		}
	}
	if status, text := get(t, "http://"+r.listen+"/ws"); status != http.StatusServiceUnavailable {
		t.Errorf("somebody new while draining: %d %s", status, text)
	}
	// It is cut off in a write, or closed between two.
	if err := <-stopped; err != nil && !strings.Contains(err.Error(), "1 sessions had to be cut off") {
		t.Errorf("Run returned %v", err)
	}
	if d := time.Since(began); d > 25*time.Second {
		t.Errorf("it took %v", d)
	}
}

// A database that answers nothing any more does not hold up the end.
func TestStopWithFrozenDatabase(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	proxy := pgtest.NewProxy(t, db.URL)
	r := start(t, proxy.URL, func(o *Options) { o.DrainTimeout = time.Second }).awaitReady(t)
	p := r.dial(t)
	p.want(wire.Welcome)
	proxy.Freeze()
	for i := range 5 {
		p.send(fmt.Sprintf(`{"type":"history","topic":"a","ref":%d}`, i))
	}
	began := time.Now()
	_ = r.stop()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
}

// Two servers on one database send the same streams, and when the sequencing one stops
// the other goes on; who was on the stopped one loses nothing by coming back.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	a := start(t, db.URL, nil).awaitReady(t)
	leads := func(r *running) bool {
		_, text := get(t, "http://"+r.admin+"/metrics")
		return figure(t, text, "pgcast_sequencer_leading") == 1
	}
	await(t, "the first one sequences", func() bool { return leads(a) })
	b := start(t, db.URL, nil).awaitReady(t)
	publish := func(n int) {
		for i := range n {
			db.Exec(t, `select pgcast.publish('room:' || $1::int, 'said', 'null')`, i%3)
		}
	}
	collect := func(p *peer, n int, into *bytes.Buffer) {
		t.Helper()
		for range n {
			e := p.want(wire.Event).Events[0]
			fmt.Fprintln(into, e.Position, e.Topic, e.Seq, e.ID)
		}
	}
	var onA, onB bytes.Buffer
	pa, pb := a.dial(t), b.dial(t)
	for _, p := range []*peer{pa, pb} {
		p.send(`{"type":"subscribe","topic":"**","after":0,"ref":1}`)
		p.want(wire.Subscribed)
	}
	publish(20)
	collect(pa, 20, &onA)
	collect(pb, 20, &onB)
	if leads(b) {
		t.Error("both sequence")
	}
	if err := a.stop(); err != nil {
		t.Errorf("the first one: %v", err)
	}
	if code, _ := pa.closed(); code != wire.CloseGoingAway {
		t.Errorf("the client of the stopped one was closed with %d", code)
	}
	publish(20)
	await(t, "the second one sequences", func() bool { return leads(b) })
	collect(pb, 20, &onB)
	again := b.dial(t)
	again.send(`{"type":"subscribe","topic":"**","after":20,"ref":1}`)
	collect(again, 20, &onA)
	if onA.String() != onB.String() {
		t.Errorf("the streams differ:\n%s\n%s", &onA, &onB)
	}
}

// /metrics has every figure, they move, and no topic's name is among them.
func TestMetrics(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	r := start(t, db.URL, func(o *Options) { o.RingSize = 4 }).awaitReady(t)
	metrics := func() string { _, text := get(t, "http://"+r.admin+"/metrics"); return text }
	moved := func(name string, least float64) {
		t.Helper()
		await(t, fmt.Sprintf("%s is %v or more", name, least), func() bool { return figure(t, metrics(), name) >= least })
	}
	zero := func(name string) {
		t.Helper()
		await(t, name+" is 0", func() bool { return figure(t, metrics(), name) == 0 })
	}
	p := r.dial(t)
	p.send(`{"type":"subscribe","topic":"treehouse:1","ref":1}`)
	p.send(`{"type":"subscribe","topic":"treehouse:*","ref":1}`)
	p.want(wire.Subscribed)
	p.want(wire.Subscribed)
	for range 5 {
		db.Exec(t, `select pgcast.publish('treehouse:1', 'said', 'null')`)
		p.want(wire.Event)
	}
	moved("pgcast_events_sequenced_total", 5)
	moved("pgcast_deliveries_total", 5)
	moved("pgcast_delivered_bytes_total", 200)
	moved("pgcast_write_to_delivery_seconds_count", 1)
	moved("pgcast_sessions", 1)
	moved("pgcast_subscriptions", 2)
	moved("pgcast_connects_total", 1)
	await(t, "the bell was rung", func() bool {
		if figure(t, metrics(), `pgcast_sequencer_wakes_total{source="bell"}`) >= 1 {
			return true
		}
		// So far it was awake; on a busy machine it takes a while to fall asleep.
		<-time.After(200 * time.Millisecond)
		db.Exec(t, `select pgcast.publish('elsewhere', 'said', 'null')`)
		return false
	})
	moved(`pgcast_log_reads_total{kind="follow"}`, 1)
	moved(`pgcast_log_reads_total{kind="place"}`, 1)
	moved("pgcast_sequencer_leading", 1)
	moved("pgcast_sequencer_steps_total", 1)
	moved("pgcast_pool_connections_open", 1)
	moved("pgcast_pool_connections_max", 8)
	moved("go_goroutines", 1)
	moved("process_open_fds", 1)
	zero("pgcast_subscriptions_behind")
	zero("pgcast_sequencing_lag_seconds")

	// A client that reads nothing for a while falls behind, and catches up.
	q := r.dialSmall(t)
	q.send(`{"type":"subscribe","topic":"treehouse:2","after":0,"ref":1}`)
	q.want(wire.Subscribed)
	moved("pgcast_reconnects_total", 1)
	db.Exec(t, `select count(pgcast.publish('treehouse:2', 'said', to_jsonb(repeat('x', 50000)))) from generate_series(1, 140)`)
	moved("pgcast_subscriptions_behind", 1)
	for range 140 {
		q.want(wire.Event)
		p.want(wire.Event)
	}
	moved(`pgcast_log_reads_total{kind="topic"}`, 1)
	zero("pgcast_subscriptions_behind")

	// Nobody can sequence: what is committed waits.
	tx, err := db.Conn(t).Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(context.Background(), `lock table pgcast.replay in exclusive mode`); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `select pgcast.publish('treehouse:1', 'said', 'null')`)
	moved("pgcast_sequencing_lag_seconds", 0.001)
	if err := tx.Rollback(context.Background()); err != nil {
		t.Fatal(err)
	}
	zero("pgcast_sequencing_lag_seconds")

	p.send(`{"type":"nonsense"}`)
	moved(`pgcast_client_errors_total{code="unsupported"}`, 1)
	_ = p.ws.Close(websocket.StatusNormalClosure, "")
	_ = q.ws.Close(websocket.StatusNormalClosure, "")
	zero("pgcast_sessions")
	zero("pgcast_subscriptions")
	if strings.Contains(metrics(), "treehouse") {
		t.Error("a topic's name is among the metrics")
	}
}

// figure finds a metric's value by its name, with labels as they are written; -1 if it
// is not there.
func figure(t testing.TB, text, name string) float64 {
	t.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return -1
}
