package shared

import (
	"context"
	"encoding/json"
	"slices"
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
	wake  chan struct{} // there is something in changed

	mu       sync.Mutex
	channels map[string]*watch
	changed  map[string]struct{} // channels that somebody began or ceased to listen to
}

type watch struct {
	message func(payload string)
	ready   func()
	told    atomic.Bool // ready has been called
}

// Relay makes a relay; its Run carries.
func (r *Redis) Relay() *Relay {
	return &Relay{redis: r, sub: r.client.Subscribe(context.Background()), wake: make(chan struct{}, 1),
		channels: map[string]*watch{}, changed: map[string]struct{}{}}
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
// says. One at a time may listen to a channel; a second one takes the first one's place.
func (l *Relay) Listen(channel string, message func(payload string), ready func()) (stop func()) {
	w := &watch{message: message, ready: ready}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.channels[channel] = w
	l.change(channel)
	// Whoever waits is to find out for himself that nobody answers.
	patience := time.AfterFunc(tripTimeout, func() {
		if !w.told.Swap(true) {
			ready()
		}
	})
	return func() {
		patience.Stop()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.channels[channel] == w {
			delete(l.channels, channel)
			l.change(channel)
		}
	}
}

func (l *Relay) change(channel string) {
	l.changed[channel] = struct{}{}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// maxChannels bounds what one command subscribes to.
const maxChannels = 1000

// follow has Redis told which channels are listened to, by one goroutine: so what was told
// last is what was so last, and however many there are, they wait for one that does not
// answer together. The library subscribes by itself when it has connected again, but not to
// a channel on which it has just found the connection broken.
func (l *Relay) follow(ctx context.Context) {
	var again []string // could not be subscribed to
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-retry.C:
		}
		var on, off []string
		l.mu.Lock()
		for _, channel := range again {
			l.changed[channel] = struct{}{}
		}
		again = nil
		for channel := range l.changed {
			if l.channels[channel] != nil {
				on = append(on, channel)
			} else {
				off = append(off, channel)
			}
		}
		clear(l.changed)
		l.mu.Unlock()
		for part := range slices.Chunk(off, maxChannels) {
			_ = l.tell(ctx, l.sub.Unsubscribe, part) // at worst there is more to pass over
		}
		for part := range slices.Chunk(on, maxChannels) {
			if l.tell(ctx, l.sub.Subscribe, part) == nil {
				continue // each will be confirmed
			}
			for _, channel := range part {
				if w := l.find(channel); w != nil && !w.told.Swap(true) {
					w.ready()
				}
			}
			again = append(again, part...)
		}
		if len(again) > 0 {
			retry.Reset(tripTimeout)
		}
	}
}

func (l *Relay) tell(ctx context.Context, do func(context.Context, ...string) error, channels []string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return do(ctx, channels...)
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
	var follows sync.WaitGroup
	follows.Go(func() { l.follow(ctx) })
	defer follows.Wait()
	for m := range l.sub.ChannelWithSubscriptions(redis.WithChannelHealthCheckInterval(relayPing), redis.WithChannelSize(1000)) {
		switch m := m.(type) {
		case *redis.Subscription:
			if w := l.find(m.Channel); w != nil && m.Kind == "subscribe" {
				w.told.Store(true)
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
