package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/migrations"
	"github.com/pgcast/pgcast/replay"
)

// Each listener serves its own paths and nothing else.
func TestPaths(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	bare := start(t, db.URL, nil).awaitReady(t)
	page := start(t, db.URL, func(o *Options) {
		o.Public = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "page ", r.URL.Path) })
	}).awaitReady(t)
	profiled := start(t, db.URL, func(o *Options) { o.Profile = true }).awaitReady(t)
	for _, c := range []struct {
		url    string
		status int
		text   string
	}{
		{profiled.listen + "/debug/pprof/", 404, ""},
		{profiled.admin + "/debug/pprof/", 200, "goroutine"},
		{profiled.admin + "/debug/pprof/goroutine?debug=1", 200, "goroutine profile"},
		{bare.admin + "/debug/pprof/", 404, ""},
		{bare.listen + "/healthz", 200, "ok"},
		{bare.listen + "/readyz", 200, "ready"},
		{bare.listen + "/ws", 426, "Upgrade"},
		{bare.listen + "/metrics", 404, ""},
		{bare.listen + "/", 404, ""},
		{bare.listen + "/ws/more", 404, ""},
		{bare.listen + "/debug/pprof/", 404, ""},
		{bare.admin + "/healthz", 200, "ok"},
		{bare.admin + "/readyz", 200, "ready"},
		{bare.admin + "/metrics", 200, "pgcast_sessions 0"},
		{bare.admin + "/metrics", 200, `pgcast_sequencer_wakes_total{source="safety"} 0`},
		{bare.admin + "/metrics", 200, `pgcast_notices_total{kind="reset"} 0`},
		{bare.admin + "/ws", 404, ""},
		{bare.admin + "/", 404, ""},
		{page.listen + "/", 200, "page /"},
		{page.listen + "/metrics", 200, "page /metrics"},
		{page.listen + "/healthz", 200, "ok"},
		{page.listen + "/ws", 426, "Upgrade"},
		{page.admin + "/index.html", 404, ""},
	} {
		if status, text := get(t, "http://"+c.url); status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%s: %d %.100s; want %d %s", c.url, status, text, c.status, c.text)
		}
	}
	res, err := http.Post("http://"+bare.admin+"/metrics", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST to /metrics: %d", res.StatusCode)
	}
}

// A database that could never be read: alive, not ready, and no session, which could
// not be told where it stands.
func TestDatabaseNeverReached(t *testing.T) {
	t.Parallel()
	r := start(t, "postgres://nobody@127.0.0.1:1/none?connect_timeout=1", nil)
	if status, _ := get(t, "http://"+r.listen+"/healthz"); status != http.StatusOK {
		t.Errorf("healthz: %d", status)
	}
	for _, path := range []string{"/readyz", "/ws"} {
		if status, text := get(t, "http://"+r.listen+path); status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	if err := r.stop(); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// Postgres goes and comes back: not ready meanwhile, ready after, and the sessions there
// were have sat it out.
func TestOutage(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c := pgtest.Private(t, nil)
	db := &pgtest.DB{URL: c.URL("postgres"), Name: "postgres"}
	if err := migrations.Up(ctx, db.URL); err != nil {
		t.Fatal(err)
	}
	r := start(t, db.URL, nil).awaitReady(t)
	p := r.dial(t)
	p.send(`{"type":"subscribe","topic":"a","ref":1}`)
	p.want(wire.Subscribed)

	for round, mode := range []devpg.Mode{devpg.Fast, devpg.Immediate} {
		down := make(chan struct{})
		went := make(chan bool, 1)
		go func() { // it may be back before anybody who only looks later could notice
			seen := false
			for {
				select {
				case <-down:
					went <- seen
					return
				case <-time.After(5 * time.Millisecond):
					seen = seen || !r.follower.CaughtUp()
				}
			}
		}()
		if round == 0 {
			if err := c.Kill(); err != nil {
				t.Fatal(err)
			}
			await(t, "the server is not ready", func() bool { return !r.ready(t) })
			if status, _ := get(t, "http://"+r.listen+"/healthz"); status != http.StatusOK {
				t.Errorf("healthz in an outage: %d", status)
			}
		}
		if err := c.Restart(ctx, mode); err != nil {
			t.Fatal(err)
		}
		db.Exec(t, `select pgcast.publish('a', 'said', to_jsonb($1::int))`, round)
		if f := p.want(wire.Event); int(f.Events[0].Seq) != round+1 {
			t.Errorf("after the outage came %+v", f.Events[0])
		}
		r.awaitReady(t)
		close(down)
		if !<-went {
			t.Error("the server was ready all the time")
		}
	}
	p.send(`{"type":"publish","topic":"a","event":"said","ref":1}`)
	p.want(wire.Published)
}

// Settings that cannot be used are refused before anything runs, and say which.
func TestSettings(t *testing.T) {
	t.Parallel()
	const good = "postgres://u@127.0.0.1:1/none"
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{}, "database URL"},
		{Options{DatabaseURL: "postgres://u:secret@host:port/x"}, "database URL"},
		{Options{DatabaseURL: "mysql://u:secret@host/x"}, "database URL"},
		{Options{DatabaseURL: good, DirectDatabaseURL: "postgres://u:secret@host:port/x"}, "direct database URL"},
		{Options{DatabaseURL: good, PoolSize: -1}, "pool"},
		{Options{DatabaseURL: good, AllowedOrigins: []string{"good.example", "[bad"}}, "[bad"},
	} {
		c.o.Logger = discard
		_, err := New(&c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v; want an error about %s", c.o, err, c.want)
		}
	}

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct{ listen, admin, want string }{
		{taken.Addr().String(), "127.0.0.1:0", "public listener"},
		{"127.0.0.1:0", taken.Addr().String(), "admin listener"},
		{"127.0.0.1:99999", "127.0.0.1:0", "public listener"},
		{"127.0.0.1", "127.0.0.1:0", "public listener"},
	} {
		s, err := New(&Options{DatabaseURL: good, Listen: c.listen, AdminListen: c.admin, Logger: discard})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("listen %s, admin %s: %v", c.listen, c.admin, err)
		}
	}
}

// A bell that nobody may ring is refused too, as soon as the database has told so.
func TestWakeThatCannotServe(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, &pgtest.Options{Kind: pgtest.TwoPhase})
	s, err := New(&Options{DatabaseURL: d.URL, Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0",
		Wake: replay.WakeNotify, Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	var refused *pgcast.Error
	if err := s.Run(t.Context()); !errors.As(err, &refused) || !strings.Contains(refused.Hint, "wake=auto") {
		t.Errorf("it ends with %v", err)
	}
}

// A body that was announced and does not come keeps no connection, whatever was asked.
func TestBodyThatDoesNotCome(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	r := start(t, db.URL, func(o *Options) { o.WriteTimeout = time.Second }).awaitReady(t)
	for _, c := range []struct{ address, request string }{
		{r.listen, "GET /healthz"}, {r.admin, "GET /metrics"}, {r.listen, "GET /ws"}, {r.listen, "GET /nothing"},
		{r.listen, "GET /topics/a/events"}, {r.listen, "POST /topics/a/events"}, {r.listen, "PUT /topics/a/events"},
	} {
		conn, err := net.Dial("tcp", c.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(within))
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000\r\n\r\n1", c.request, c.address)
		if _, err := io.Copy(io.Discard, conn); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection is still there", c.request)
		}
	}
}
