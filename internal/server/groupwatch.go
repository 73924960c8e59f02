package server

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/wire"
)

// groupWatch tells what groups have changed: it is subscribed to their topics, as a session
// of this server's own that is there only while there is something to watch.
type groupWatch struct {
	hub    *fanout.Hub
	logger *slog.Logger
	wake   chan struct{}

	mu     sync.Mutex
	wanted map[string]*watched // by topic
	lost   bool                // the session has ended by itself

	// Owned by run.
	session *fanout.Session
	open    map[string]*watched // whose topic the session is subscribed to
}

type watched struct{ changed func() }

func newGroupWatch(hub *fanout.Hub, logger *slog.Logger) *groupWatch {
	return &groupWatch{hub: hub, logger: logger, wake: make(chan struct{}, 1), wanted: map[string]*watched{}}
}

// watch is [group.Options]'.
func (w *groupWatch) watch(name string, changed func()) (stop func()) {
	topic, e := pgcast.GroupTopic(name), &watched{changed}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wanted[topic] = e
	w.poke()
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.wanted[topic] == e {
			delete(w.wanted, topic)
			w.poke()
		}
	}
}

func (w *groupWatch) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

const watchAgain = 500 * time.Millisecond // after the log could not be asked

func (w *groupWatch) run(ctx context.Context) error {
	defer w.end()
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
		case <-again.C:
		}
		if err := w.subscribe(ctx); err != nil && ctx.Err() == nil {
			w.logger.Warn("groups: follow what becomes of them", "error", err)
			again.Reset(watchAgain)
		}
	}
}

func (w *groupWatch) end() {
	if w.session != nil {
		w.session.End(nil)
		w.session = nil
	}
}

// subscribe makes the session's subscriptions those that are wanted.
func (w *groupWatch) subscribe(ctx context.Context) (err error) {
	w.mu.Lock()
	wanted := maps.Clone(w.wanted)
	if w.lost {
		w.session, w.lost = nil, false
	}
	w.mu.Unlock()
	if len(wanted) == 0 {
		w.end()
		return nil
	}
	if w.session == nil {
		w.session, w.open = w.hub.NewSession(&groupSink{w}), map[string]*watched{}
	}
	for topic := range w.open {
		if wanted[topic] == nil {
			w.session.Unsubscribe(topic, nil)
			delete(w.open, topic)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	openings := map[string]*fanout.Opening{}
	for topic, e := range wanted {
		if before := w.open[topic]; before == nil {
			openings[topic] = w.session.Ask(fanout.Request{Topic: topic, Own: true})
		} else if before != e {
			w.open[topic] = e
			e.changed() // it is subscribed already
		}
	}
	for topic, o := range openings {
		if failed := w.session.Open(ctx, o); failed != nil {
			err = failed
			continue
		}
		w.open[topic] = wanted[topic]
	}
	return err
}

// told has a topic's watcher look again.
func (w *groupWatch) told(topic string) {
	w.mu.Lock()
	e := w.wanted[topic]
	w.mu.Unlock()
	if e != nil {
		e.changed()
	}
}

// groupSink is where the events of the watched topics go. It is not the words of an event
// that count, anybody can publish them: they only make one look.
type groupSink struct{ w *groupWatch }

func (s *groupSink) Write(items []fanout.Item) error {
	for _, i := range items {
		switch {
		case i.Frame != nil && mayChange(i.Frame):
			s.w.told(i.Frame.Topic)
		case i.Notice != nil && i.Notice.Kind != fanout.Unsubscribed:
			s.w.told(i.Notice.Topic) // from here on, or after a gap
		}
	}
	return nil
}

// mayChange tells whether an event's name is one of those that tell of changes.
func mayChange(f *fanout.Frame) bool {
	_, name := wire.EventName(f.Text())
	return slices.Contains([]string{"created", "changed", "closed"}, string(name))
}

func (s *groupSink) Close(reason error) {
	if reason == nil {
		return
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.lost = true
	s.w.poke()
}
