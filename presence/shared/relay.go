package shared

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pgcast/pgcast/presence"
)

// channel is where a topic's messages are published.
func (r *Redis) channel(kind, topic string) string { return r.Key(kind, topic, "told") }

// Relay carries messages through Redis's pub/sub, on one connection of its own.
type Relay struct {
	redis *Redis
	sub   *redis.PubSub

	mu       sync.Mutex
	channels map[string]*watch
}

type watch struct {
	message   func(payload string)
	ready     func()
	confirmed atomic.Bool // Redis has said that it will tell
}

// Relay makes a relay; its Run carries.
func (r *Redis) Relay() *Relay {
	return &Relay{redis: r, sub: r.client.Subscribe(context.Background()), channels: map[string]*watch{}}
}

// Kind gives the relay of one kind of rosters.
func (l *Relay) Kind(kind string) presence.Relay { return kindRelay{l, kind} }

type kindRelay struct {
	relay *Relay
	kind  string
}

// Watch implements [presence.Relay].
func (k kindRelay) Watch(topic string, f func(presence.Message), ready func()) (stop func()) {
	return k.relay.Listen(k.relay.redis.channel(k.kind, topic), func(payload string) {
		var m presence.Message
		if json.Unmarshal([]byte(payload), &m) == nil {
			f(m)
		}
	}, ready)
}

// Said gives what carries texts of one kind about topics, or whatever has a name.
func (l *Relay) Said(kind string) Said { return Said{l, kind} }

// Said carries texts between servers, at most once each.
type Said struct {
	relay *Relay
	kind  string
}

// Tell hands a text to all servers that listen, this one too. Errors like those of Do.
func (s Said) Tell(ctx context.Context, name string, text []byte) error {
	r := s.relay.redis
	return r.Do(ctx, func(ctx context.Context, c *redis.Client) error {
		return c.Publish(ctx, r.Key(s.kind, name, "said"), text).Err()
	})
}

// Listen has f called with each text about a name; ready is called as presence.Relay says.
// One at a time may listen to a name.
func (s Said) Listen(name string, f func(text []byte), ready func()) (stop func()) {
	return s.relay.Listen(s.relay.redis.Key(s.kind, name, "said"), func(payload string) { f([]byte(payload)) }, ready)
}

// Listen has a channel's messages handed to message; ready is called as presence.Relay
// says. One at a time may listen to a channel.
func (l *Relay) Listen(channel string, message func(payload string), ready func()) (stop func()) {
	w := &watch{message: message, ready: ready}
	l.mu.Lock()
	l.channels[channel] = w
	l.mu.Unlock()
	// Whoever waits is to find out for himself that nobody answers.
	patience := time.AfterFunc(callTimeout, func() {
		if !w.confirmed.Load() {
			ready()
		}
	})
	go func() {
		if l.subscribe(channel) != nil {
			ready()
		}
	}()
	return func() {
		patience.Stop()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.channels[channel] == w {
			delete(l.channels, channel)
			go l.unsubscribe(channel)
		}
	}
}

// subscribe and unsubscribe may meet each other; the order of what they send is that of
// what they found.
func (l *Relay) subscribe(channel string) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return l.sub.Subscribe(ctx, channel)
}

func (l *Relay) unsubscribe(channel string) {
	l.mu.Lock()
	_, again := l.channels[channel]
	l.mu.Unlock()
	if again {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	_ = l.sub.Unsubscribe(ctx, channel)
	l.mu.Lock()
	_, again = l.channels[channel]
	l.mu.Unlock()
	if again {
		_ = l.subscribe(channel)
	}
}

const relayPing = 3 * time.Second // of silence, after which the connection must prove itself

// Run carries messages until ctx ends. A connection that is lost is made anew, and all
// who listen are told.
func (l *Relay) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = l.sub.Close() })
	defer func() {
		if stop() { // the client was closed first, which ends the loop but not the library's goroutine
			_ = l.sub.Close()
		}
	}()
	for m := range l.sub.ChannelWithSubscriptions(redis.WithChannelHealthCheckInterval(relayPing), redis.WithChannelSize(1000)) {
		switch m := m.(type) {
		case *redis.Subscription:
			if w := l.find(m.Channel); w != nil && m.Kind == "subscribe" {
				w.confirmed.Store(true)
				w.ready()
			}
		case *redis.Message:
			if w := l.find(m.Channel); w != nil {
				w.message(m.Payload)
			}
		}
	}
	return ctx.Err()
}

func (l *Relay) find(channel string) *watch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.channels[channel]
}
