// Package breaker is the circuit breakers of what servers depend on, one for each backend:
// while a backend does not answer nobody waits for it, and everybody is told once.
package breaker

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
)

// State is a backend's, as its breaker sees it.
type State string

// The states.
const (
	Healthy State = "healthy" // calls go through
	Broken  State = "broken"  // calls fail at once
	Probing State = "probing" // one call goes through, to find out
)

var states = map[gobreaker.State]State{gobreaker.StateClosed: Healthy, gobreaker.StateOpen: Broken, gobreaker.StateHalfOpen: Probing}

// Options of a breaker; Backend is required.
type Options struct {
	Backend string // the metrics' label: redis, postgres
	// TripAfter is how many calls must fail in a row to break; default 3. ProbeAfter is for
	// how long no call goes through then; default 1 s.
	TripAfter  int
	ProbeAfter time.Duration
	// Answered tells of a call's error that the backend has answered all the same. Default:
	// it never has.
	Answered func(error) bool
	// What is logged once, when it breaks and when it is healthy again.
	Down, Up string
	// OnState is called after each change, one at a time; it must not wait, nor ask the
	// breaker for anything but its State.
	OnState    func(State)
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // default slog.Default()
}

// Breaker watches one backend. All methods are safe for concurrent use.
type Breaker struct {
	opts    Options
	circuit *gobreaker.TwoStepCircuitBreaker[any]
	state   atomic.Value // State
	metrics *metrics
	last    atomic.Value // lastError: why the newest call failed
	down    bool         // has been logged as broken; guarded by the circuit's lock
}

type lastError struct{ error }

// ErrGone is the outcome of a call that was broken off by who made it: it says nothing of
// the backend.
var ErrGone = errors.New("who called has gone")

// New makes a breaker; the backend counts as healthy.
func New(options *Options) *Breaker {
	o := *options
	if o.TripAfter <= 0 {
		o.TripAfter = 3
	}
	if o.ProbeAfter <= 0 {
		o.ProbeAfter = time.Second
	}
	if o.Answered == nil {
		o.Answered = func(error) bool { return false }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	b := &Breaker{opts: o, metrics: newMetrics(o.Registerer, o.Backend)}
	b.state.Store(Healthy)
	b.circuit = gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Name: o.Backend, MaxRequests: 1, Timeout: o.ProbeAfter,
		ReadyToTrip:   func(c gobreaker.Counts) bool { return int(c.ConsecutiveFailures) >= o.TripAfter },
		IsSuccessful:  func(err error) bool { return err == nil || o.Answered(err) },
		IsExcluded:    func(err error) bool { return errors.Is(err, ErrGone) },
		OnStateChange: func(_ string, _, to gobreaker.State) { b.changed(states[to]) },
	})
	return b
}

func (b *Breaker) changed(to State) {
	b.state.Store(to)
	b.metrics.set(to)
	switch {
	case to == Broken && !b.down:
		b.down = true
		last, _ := b.last.Load().(lastError)
		b.opts.Logger.Warn(b.opts.Down, "error", last.error)
	case to == Healthy:
		b.down = false
		b.opts.Logger.Info(b.opts.Up)
	}
	if b.opts.OnState != nil {
		b.opts.OnState(to)
	}
}

// State tells how the backend stood after the last call.
func (b *Breaker) State() State { return b.state.Load().(State) }

// Begin asks whether a call may go through. If so, done must be called with its outcome,
// once; ErrGone is for one that has none.
func (b *Breaker) Begin() (done func(error), ok bool) {
	settle, err := b.circuit.Allow()
	if err != nil {
		return nil, false
	}
	return func(err error) {
		if err != nil && !errors.Is(err, ErrGone) {
			b.last.Store(lastError{err})
		}
		settle(err)
	}, true
}

// Note has the outcome count of a call that was made without asking.
func (b *Breaker) Note(err error) {
	if done, ok := b.Begin(); ok {
		done(err)
	}
}
