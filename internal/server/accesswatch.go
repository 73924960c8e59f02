package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/gateway"
	"github.com/pgcast/pgcast/internal/wire"
)

// accessTopic is where the database tells that something about access has changed. Clients
// can neither be subscribed to it nor publish there.
const accessTopic = "__access"

// accessWatch hears of changes through the log, as a session of this server's own. While it
// does not, nobody is allowed anything new; when it begins, and whenever it may have missed
// something, all that was known is read and decided anew.
type accessWatch struct {
	authority *authority
	hub       *fanout.Hub
	gateway   *gateway.Gateway
	every     time.Duration // everything is decided anew so often, whatever is heard
	logger    *slog.Logger

	following bool // since all was read; owned by run
}

const (
	accessAgain = 20 * time.Millisecond // after the watch could not begin, then longer
	accessWait  = 500 * time.Millisecond
)

func (w *accessWatch) run(ctx context.Context) error {
	wait := accessAgain
	for {
		began := time.Now()
		err := w.follow(ctx)
		w.authority.authorizer.Halt(true)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if w.following {
			w.following = false
			w.gateway.Recheck(everybody) // what is live counts from here on as undecided
		}
		if time.Since(began) > 10*time.Second {
			wait = accessAgain
		}
		if !errors.Is(err, errWatchOver) {
			w.logger.Warn("access: nobody is let in until changes can be followed", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, accessWait)
	}
}

var errWatchOver = errors.New("the session that follows changes of access has ended")

// follow does what it hears until its session ends.
func (w *accessWatch) follow(ctx context.Context) error {
	sink := &accessSink{wake: make(chan struct{}, 1)}
	session := w.hub.NewSession(sink)
	defer session.End(nil)
	open, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := session.Subscribe(open, fanout.Request{Topic: accessTopic, Own: true}); err != nil {
		return fmt.Errorf("subscribe to %s: %w", accessTopic, err)
	}
	// What has committed before that is read; what commits later is heard.
	if err := w.begin(open); err != nil {
		return err
	}
	// Not all servers at the same moment.
	tick := time.NewTimer(w.every/2 + rand.N(w.every/2+1))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			tick.Reset(w.every)
			w.authority.revocations.Trim(time.Now())
			if err := w.lately(ctx); err != nil { // what is known goes on to hold
				w.logger.Warn("access: revocations could not be read anew", "error", err)
			}
			w.forget(nil)
		case <-sink.wake:
			heard, missed, ended := sink.take()
			if ended {
				return errWatchOver
			}
			if missed {
				if err := w.again(ctx); err != nil {
					return err
				}
				continue
			}
			var changed accessChanges
			var err error
			for i := 0; i < len(heard) && err == nil; i++ {
				err = w.hear(ctx, heard[i], &changed)
			}
			if changed.revoked { // once for all: there may be very many
				w.gateway.Revoke(w.authority.revocations.Revoked)
			}
			if err != nil {
				return err
			}
			if match, any := changed.match(); any {
				w.forget(match)
				// What comes very often is done together.
				if err := rechecked(ctx); err != nil {
					return err
				}
			}
		}
	}
}

// begin reads all there is, and lets in whom the rules let in.
func (w *accessWatch) begin(ctx context.Context) error {
	if err := w.load(ctx); err != nil {
		return err
	}
	a := w.authority
	if err := a.security.load(ctx); err != nil {
		return err
	}
	a.chain.Keys.ForgetAll()
	a.authorizer.Forget(nil)
	a.authorizer.Halt(false)
	w.following = true
	w.gateway.Revoke(a.revocations.Revoked)
	w.gateway.Recheck(everybody)
	return nil
}

// again is begin where something may have been missed.
func (w *accessWatch) again(ctx context.Context) error {
	w.authority.authorizer.Halt(true)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return w.begin(ctx)
}

func (w *accessWatch) load(ctx context.Context) error {
	known, err := w.revoked(ctx, 0)
	if err != nil {
		return err
	}
	w.authority.revocations.Replace(known)
	return nil
}

// revoked reads what is revoked, of the latest while; 0: all of it.
func (w *accessWatch) revoked(ctx context.Context, latest time.Duration) ([]auth.Revocation, error) {
	list, err := w.authority.store.Revocations(ctx, latest)
	known := make([]auth.Revocation, len(list))
	for i, r := range list {
		known[i] = auth.Revocation{Kind: auth.RevokedBy(r.Kind), Value: r.Value, At: r.At, Until: r.Until}
	}
	return known, err
}

// revokedLately is how far back it is looked now and then whether somebody was revoked; a
// transaction may have taken that long.
const revokedLately = 15 * time.Minute

// lately adds what was revoked of late: should the log be late, it is known all the same.
func (w *accessWatch) lately(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	known, err := w.revoked(ctx, revokedLately)
	for _, r := range known {
		w.authority.revocations.Add(r)
	}
	if len(known) > 0 {
		w.gateway.Revoke(w.authority.revocations.Revoked)
	}
	return err
}

func everybody(*auth.Claims) bool { return true }

// forget has it decided anew what those may do whose claims match, or all if match is nil.
func (w *accessWatch) forget(match func(*auth.Claims) bool) {
	w.authority.authorizer.Forget(match)
	if match == nil {
		match = everybody
	}
	w.gateway.Recheck(match)
}

// recheckPause is how long it takes at least from one look at the sessions to the next.
const recheckPause = 20 * time.Millisecond

func rechecked(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(recheckPause):
		return nil
	}
}

// accessEvent is what the database tells.
type accessEvent struct {
	name string
	data json.RawMessage
}

// hear does what an event says. What it does not understand may be anything: then everything
// is read anew.
func (w *accessWatch) hear(ctx context.Context, e accessEvent, changed *accessChanges) error {
	switch e.name {
	case "rules":
		changed.all = true
		return nil
	case "recheck":
		var d struct{ Claims map[string]json.RawMessage }
		if json.Unmarshal(e.data, &d) == nil {
			changed.add(d.Claims)
			return nil
		}
	case "revoked":
		if r, ok := revocation(e.data); ok {
			w.authority.revocations.Add(r)
			changed.revoked = true
			return nil
		}
	case "keys":
		var d struct{ ID string }
		if json.Unmarshal(e.data, &d) == nil && d.ID != "" {
			w.authority.chain.Keys.Forget(d.ID)
			// Whoever holds it still may come back, as what it is now.
			w.gateway.Revoke(func(c *auth.Claims, _ string) bool { return c.Source == auth.FromAPIKey && c.TokenID == d.ID })
			return nil
		}
	case "enforced":
		w.authority.security.change()
		return nil
	case "unrevoked":
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return w.load(ctx)
	}
	return w.again(ctx)
}

// revocation reads what a revoked event says.
func revocation(data json.RawMessage) (auth.Revocation, bool) {
	var d struct {
		Sub, JTI, Session *string
		At, Until         float64 // seconds since 1970
	}
	if json.Unmarshal(data, &d) != nil || d.At == 0 {
		return auth.Revocation{}, false
	}
	r := auth.Revocation{At: at(d.At), Until: at(d.Until)}
	switch {
	case d.Sub != nil:
		r.Kind, r.Value = auth.BySubject, *d.Sub
	case d.JTI != nil:
		r.Kind, r.Value = auth.ByTokenID, *d.JTI
	case d.Session != nil:
		r.Kind, r.Value = auth.BySession, *d.Session
	default:
		return auth.Revocation{}, false
	}
	return r, true
}

func at(seconds float64) time.Time { return time.UnixMicro(int64(math.Round(seconds * 1e6))) }

// accessSink keeps what was heard until the watch has time for it.
type accessSink struct {
	wake chan struct{}

	mu     sync.Mutex
	heard  []accessEvent
	missed bool // more than it keeps, or by a gap
	ended  bool
}

const maxHeard = 1000

// Write implements [fanout.Sink].
func (s *accessSink) Write(items []fanout.Item) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range items {
		switch {
		case i.Frame != nil:
			e, ok := heardIn(i.Frame)
			s.missed = s.missed || !ok || len(s.heard) >= maxHeard
			s.heard = append(s.heard, e)
		case i.Notice == nil:
		case i.Notice.Kind == fanout.Denied:
			s.ended = true
		case i.Notice.Kind != fanout.Subscribed:
			s.missed = true
		}
	}
	if s.missed {
		s.heard = nil
	}
	s.poke()
	return nil
}

func heardIn(f *fanout.Frame) (accessEvent, bool) {
	frame, err := wire.ParseServer(f.Text())
	if err != nil || f.Oversize || len(frame.Events) != 1 {
		return accessEvent{}, false
	}
	return accessEvent{frame.Events[0].Name, frame.Events[0].Data}, true
}

// Close implements [fanout.Sink].
func (s *accessSink) Close(error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.poke()
}

func (s *accessSink) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take gives what was heard since it was called last.
func (s *accessSink) take() (heard []accessEvent, missed, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	heard, missed, ended = s.heard, s.missed, s.ended
	s.heard, s.missed = nil, false
	return heard, missed, ended
}
