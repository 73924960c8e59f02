package breaker

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var errDown, errNo = errors.New("refused"), errors.New("no such key")

// It breaks after so many failures in a row, lets one call through now and then, and says
// once that it is broken and once that it is healthy again.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var seen []State
		reg := prometheus.NewRegistry()
		b := New(&Options{Backend: "redis", Down: "it is down", Up: "it is up", Answered: func(err error) bool { return errors.Is(err, errNo) },
			OnState: func(s State) { seen = append(seen, s) }, Registerer: reg, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		New(&Options{Backend: "postgres", Registerer: reg}) // beside each other
		call := func(err error) bool {
			done, ok := b.Begin()
			if ok {
				done(err)
			}
			return ok
		}
		for _, err := range []error{errDown, errDown, errNo, errDown, errDown, nil, errDown, errDown} {
			if !call(err) || b.State() != Healthy {
				t.Fatal("it broke without three failures in a row")
			}
		}
		call(ErrGone) // neither a failure nor an answer
		b.Note(errDown)
		for range 5 {
			if b.State() != Broken || call(nil) {
				t.Fatal("calls go through a broken one")
			}
			<-time.After(time.Second + 1)
			done, ok := b.Begin()
			if !ok || b.State() != Probing || call(nil) {
				t.Fatal("not exactly one call goes through, to find out")
			}
			done(fmt.Errorf("call: %w", ErrGone))
			if done, ok = b.Begin(); !ok || b.State() != Probing {
				t.Fatal("a call that was broken off has told something")
			}
			done(errDown)
		}
		<-time.After(time.Second + 1)
		if !call(nil) || b.State() != Healthy || !call(nil) {
			t.Fatal("it is not healthy again after a call that was answered")
		}
		want := append(slices.Repeat([]State{Broken, Probing}, 6), Healthy)
		if !slices.Equal(seen, want) {
			t.Errorf("it told of %v; want %v", seen, want)
		}
		if text := log.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, `level=WARN msg="it is down" error=refused`) || !strings.Contains(text, `level=INFO msg="it is up"`) {
			t.Errorf("it logged:\n%s", text)
		}
		for _, c := range []struct {
			name, backend, state string
			want                 float64
		}{{"pgcast_backend_state", "redis", "healthy", 1}, {"pgcast_backend_state", "redis", "broken", 0}, {"pgcast_backend_state", "postgres", "healthy", 1},
			{"pgcast_backend_changes_total", "redis", "broken", 6}, {"pgcast_backend_changes_total", "redis", "healthy", 1}, {"pgcast_backend_changes_total", "postgres", "broken", 0}} {
			if got := metric(t, reg, c.name, c.backend, c.state); got != c.want {
				t.Errorf("%s of %s %s is %v; want %v", c.name, c.backend, c.state, got, c.want)
			}
		}
	})
}

func metric(t *testing.T, reg *prometheus.Registry, name, backend, state string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			l := m.GetLabel()
			if f.GetName() == name && l[0].GetValue() == backend && l[1].GetValue() == state {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no %s of %s %s", name, backend, state)
	return 0
}
