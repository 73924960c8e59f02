package cursor

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/presence"
)

// MaxData is the longest a client may say of where its cursor is, in bytes.
const MaxData = 4 << 10

// Defaults of Options, and of the rosters cursors are kept in.
const (
	DefaultThrottle = 50 * time.Millisecond
	DefaultIdle     = 30 * time.Second
	// RosterTTL is for how long the cursors of a server that has died are still there. It
	// says that it lives three times in that time.
	RosterTTL = 30 * time.Second
)

// Options of cursors; the zero value of each field stands for its default.
type Options struct {
	// Throttle is the least time between two moves of a cursor that others are shown;
	// default DefaultThrottle.
	Throttle time.Duration
	// Idle is for how long a cursor that does not move is there; default DefaultIdle.
	Idle       time.Duration
	Registerer prometheus.Registerer // nil: no metrics
}

// Every is how often a client is to be told of the cursors of a topic, at most, for a
// throttle: often enough that it adds little to how late a move is seen, and seldom enough
// that the moves of many go into one frame.
func Every(throttle time.Duration) time.Duration {
	if throttle <= 0 {
		throttle = DefaultThrottle
	}
	return min(throttle/2, maxEvery)
}

const maxEvery = 250 * time.Millisecond // a cursor that is taken away goes at once

// Cursors are those of this server's sessions. The value of each entry of the rosters is
// what clients are sent of it: key, user and data.
type Cursors struct {
	*presence.Rosters
	throttle, idle time.Duration
	metrics        *metrics
	server         string // begins the keys of this server's sessions
	sessions       atomic.Uint64
}

// New makes cursors of rosters of their own.
func New(rosters *presence.Rosters, options *Options) *Cursors {
	o := Options{}
	if options != nil {
		o = *options
	}
	if o.Throttle <= 0 {
		o.Throttle = DefaultThrottle
	}
	if o.Idle <= 0 {
		o.Idle = DefaultIdle
	}
	var own [5]byte
	_, _ = rand.Read(own[:]) // it never fails
	return &Cursors{Rosters: rosters, throttle: o.Throttle, idle: o.Idle, metrics: newMetrics(o.Registerer),
		server: strings.ToLower(base32.StdEncoding.EncodeToString(own[:]))}
}

// Pointer is one session's cursors, one on each topic it has moved on. Safe for concurrent
// use. Close must follow.
type Pointer struct {
	all *Cursors
	key string

	mu     sync.Mutex
	spots  map[string]*spot // by topic
	closed bool
}

// Pointer makes those of a session.
func (c *Cursors) Pointer() *Pointer {
	return &Pointer{all: c, key: c.server + strconv.FormatUint(c.sessions.Add(1), 36)}
}

// Key is the session's cursors' key, the same on all topics; no other session ever has it.
func (p *Pointer) Key() string { return p.key }

// Len is the number of topics the session has a cursor on.
func (p *Pointer) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.spots)
}

// On tells whether the session has a cursor on a topic.
func (p *Pointer) On(topic string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spots[topic] != nil
}

// Move has the session's cursor be where data, any JSON, says. user, the public JSON of
// who it is, is shown with it. Both are copied. Errors: code invalid without data
// or if it is no JSON, too_large if it is longer than MaxData; the cursor stays where it was.
func (p *Pointer) Move(topic string, user, data json.RawMessage) error {
	switch {
	case len(data) == 0:
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "data is missing", Hint: "say where the cursor is, or op leave"}
	case len(data) > MaxData:
		return &pgcast.Error{Code: pgcast.CodeTooLarge, Message: fmt.Sprintf("data is %d bytes long, at most %d", len(data), MaxData)}
	}
	value, err := p.value(user, data)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.all.metrics.moves.Inc()
	s := p.spots[topic]
	if s == nil {
		if p.spots == nil {
			p.spots = map[string]*spot{}
		}
		s = p.newSpot(topic)
		p.spots[topic] = s
	}
	s.move(value)
	return nil
}

// value makes what clients are sent of the cursor; one line, since a frame is one.
func (p *Pointer) value(user, data json.RawMessage) ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, 0, len(`{"key":"","user":,"data":}`)+len(p.key)+len(user)+len(data)))
	b.WriteString(`{"key":"`)
	b.WriteString(p.key)
	b.WriteString(`","user":`)
	if len(user) == 0 {
		user = json.RawMessage(`{}`)
	}
	b.Write(user)
	b.WriteString(`,"data":`)
	if err := json.Compact(b, data); err != nil {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "data is not JSON"}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// Leave takes the session's cursor on a topic away, at once.
func (p *Pointer) Leave(topic string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.spots[topic]; s != nil {
		s.end()
	}
}

// Close takes all of the session's cursors away, at once and for good.
func (p *Pointer) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, s := range p.spots {
		s.end()
	}
}

// Topics are those that the session has a cursor on.
func (p *Pointer) Topics() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.spots))
}
