package server

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/migrations"
)

// record is a log that a test can read while it is written.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *record) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *record) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// system reads on to what the server says of itself, and gives that and what came before.
func (p *peer) system() (said string, before []wire.ServerFrame) {
	p.t.Helper()
	for {
		f, err := p.read()
		if err != nil {
			p.t.Fatal(err)
		}
		if f.Type == wire.Event && f.Events[0].Topic == wire.System {
			return f.Events[0].Name + string(f.Events[0].Data), before
		}
		before = append(before, f)
	}
}

// refused asks for something and checks that it is refused, and that nobody had to wait.
func (p *peer) refused(ask string) {
	p.t.Helper()
	began := time.Now()
	p.send(ask)
	for {
		f, err := p.read()
		if err != nil {
			p.t.Fatal(err)
		}
		switch {
		case f.Type == wire.Error && f.Code == pgcast.CodeUnavailable && f.RetryAfter > 0:
		case f.Type == wire.SubscribeDenied && f.Reason == wire.ReasonInternal:
		case f.Type == wire.Event && f.Events[0].Topic == wire.System:
			continue
		default:
			p.t.Errorf("%s: the answer is %+v", ask, f)
		}
		break
	}
	if d := time.Since(began); d > 5*time.Second { // it would be 10 s
		p.t.Errorf("%s: it took %v to be refused", ask, d)
	}
}

// While the database cannot be read, whoever asks for what is in it is refused at once;
// all are told once that it is so and once that it is over, also who comes meanwhile.
func TestDatabaseBreaker(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"killed", "black hole"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			c := pgtest.Private(t, nil)
			db := &pgtest.DB{URL: c.URL("postgres"), Name: "postgres"}
			if err := migrations.Up(ctx, db.URL); err != nil {
				t.Fatal(err)
			}
			proxy := pgtest.NewProxy(t, db.URL)
			log := &record{}
			r := start(t, proxy.URL, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(log, nil)) }).awaitReady(t)
			first := r.dial(t)
			first.want(wire.Welcome)
			if fault == "killed" {
				if err := c.Kill(); err != nil {
					t.Fatal(err)
				}
			} else {
				proxy.Hold(true)
				proxy.Freeze()
			}
			const degraded, recovered = `degraded{"backend":"postgres"}`, `recovered{"backend":"postgres"}`
			if said, _ := first.system(); said != degraded {
				t.Fatalf("it said %s", said)
			}
			for _, ask := range []string{`{"type":"publish","topic":"a","event":"said","ref":1}`, `{"type":"history","topic":"a","ref":2}`,
				`{"type":"history","topic":"**","ref":3}`, `{"type":"subscribe","topic":"new","ref":4}`, `{"type":"subscribe","topic":"new:*","after":7,"id":"1-1","ref":5}`} {
				first.refused(ask)
			}
			if status, text := get(t, "http://"+r.listen+"/topics/a/events"); status != http.StatusServiceUnavailable || !strings.Contains(text, `"unavailable"`) {
				t.Errorf("over HTTP: %d %s", status, text)
			}
			second := r.dial(t)
			if said, before := second.system(); said != degraded || len(before) != 1 || before[0].Type != wire.Welcome {
				t.Errorf("a new session was told %s after %+v", said, before)
			}
			_, text := get(t, "http://"+r.admin+"/metrics")
			if healthy := figure(t, text, `pgcast_backend_state{backend="postgres",state="healthy"}`); healthy != 0 {
				t.Errorf("healthy is %v", healthy)
			}

			if fault == "killed" {
				if err := c.Restart(ctx, devpg.Fast); err != nil {
					t.Fatal(err)
				}
			} else {
				proxy.Hold(false)
				proxy.Cut()
			}
			for _, p := range []*peer{first, second} {
				if said, _ := p.system(); said != recovered {
					t.Errorf("then it said %s", said)
				}
			}
			// Told only once it is so: what is asked for now is served.
			first.send(`{"type":"publish","topic":"a","event":"said","ref":6}`)
			if f, err := first.read(); err != nil || f.Type != wire.Published {
				t.Errorf("after it has recovered: %+v, %v", f, err)
			}
			_, text = get(t, "http://"+r.admin+"/metrics")
			if got := figure(t, text, `pgcast_backend_changes_total{backend="postgres",state="healthy"}`); got != 1 {
				t.Errorf("it recovered %v times", got)
			}
			if log.count("database cannot be read") != 1 || log.count("database can be read again") != 1 || log.count("gateway:") != 0 {
				t.Errorf("the log has:\n%s", log.text.String())
			}
		})
	}
}
