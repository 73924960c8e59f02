package fanout

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgcast/pgcast"
)

// Sink is where a session's frames go: one connection. Both methods are called by one
// goroutine at a time.
type Sink interface {
	// Write sends items in order, in as few writes as it can, and returns when the
	// connection has taken them. An error ends the session.
	Write(items []Item) error
	// Close ends the connection for a reason; nil means that it is gone already.
	Close(reason error)
}

// QuickSink is a Sink that can also be written to without waiting for its peer.
type QuickSink interface {
	Sink
	// Offer is a Write that never waits. If it could not send everything it keeps the rest
	// and reports false; then Write, perhaps of no items, is to be called and sends that
	// first. An error ends the session.
	Offer(items []Item) (done bool, err error)
}

// Session is one connected client, whatever the transport. Its subscriptions are places
// in logs; one goroutine at a time pulls events from there and is the only one that
// writes: the hub's crew as long as nothing has to be waited for, else a pump, which lives
// only while there is something to do.
type Session struct {
	hub    *Hub
	sink   Sink
	quick  QuickSink       // sink, if it is one
	ctx    context.Context // of the pump's reads of the log; ends when the session does
	cancel context.CancelFunc

	mu      sync.Mutex
	room    sync.Cond // control has room again, or the session has ended
	control []op
	bytes   int // of what control keeps of the client's and for it
	dirty   []*Subscription
	running bool              // a pump is alive, or the crew has it
	views   map[View]struct{} // to be pulled
	ended   bool
	reason  error
	// What Forbid has been told of and the pump has not come to yet, and how often.
	forbidden map[string]int
	barred    atomic.Bool     // there is some; written with mu held
	past      map[string]bool // see Past; nil: nothing

	// Owned by the pump, or by the crew in its place; they hold standing to change subs, which
	// others hold to read it.
	standing   sync.Mutex
	subs       map[string]*Subscription
	orders     int
	opened     time.Time       // when the newest of them was
	read       pgcast.Position // the newest that was read from the log for it
	unfinished bool            // quick keeps something to be sent first
	*buffer
}

// op is something to be done in order with everything else the client asked for: send a
// raw frame, open or close a subscription, or finish.
type op struct {
	raw    []byte
	notice *Notice
	open   *Opening
	replay *Opening
	close  *Notice // Unsubscribed, answered only if it has a ref
	finish error
	forbid []string
}

// size is about what it keeps in memory; a name that was asked for may be as long as a frame.
func (o op) size() int {
	n := len(o.raw)
	for _, answer := range []*Notice{o.notice, o.close} {
		if answer != nil {
			n += len(answer.Topic) + len(answer.Ref)
		}
	}
	return n
}

const (
	maxControl      = 512
	maxControlBytes = 1 << 20
)

// NewSession makes a session that writes to sink. End must be called when it is over.
func (h *Hub) NewSession(sink Sink) *Session {
	s := &Session{hub: h, sink: sink, subs: map[string]*Subscription{}}
	s.quick, _ = sink.(QuickSink)
	s.room.L = &s.mu
	s.ctx, s.cancel = context.WithCancel(context.Background())
	h.mu.Lock()
	h.sessions[s] = struct{}{}
	h.mu.Unlock()
	h.metrics.sessions.Add(1)
	return s
}

// Send has a text sent to the client as it is, after everything sent before. It waits
// while the client has too many answers outstanding; false means the session has ended.
func (s *Session) Send(text []byte) bool { return s.enqueue(op{raw: text}) }

// Idle reports whether there is nothing on its way to the client.
func (s *Session) Idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.running && !s.ended
}

// Subscribe opens a subscription, or moves the place of the one there is. The answer, a
// Subscribed or Denied notice, comes through the sink in order with the events. ctx
// bounds the look at the log. An error means that the log could not be asked.
func (s *Session) Subscribe(ctx context.Context, req Request) error { return s.Open(ctx, s.Ask(req)) }

// Ask is the first half of Subscribe: it has the log asked, if need be, and does not wait.
// Many asked one after the other are asked at once. Open must follow.
func (s *Session) Ask(req Request) *Opening {
	o := &Opening{req: req}
	if o.feed, o.err = s.hub.feed(req.Topic); o.err != nil {
		return o
	}
	if req.Snapshot {
		s.hub.begin(o)
	}
	if o.err == nil {
		s.hub.ask(o)
	}
	return o
}

// Open is the second half of Subscribe.
func (s *Session) Open(ctx context.Context, o *Opening) error {
	if o.feed == nil {
		return o.err
	}
	if err := s.hub.resolve(ctx, o); err != nil {
		s.hub.drop(o)
		return err
	}
	if !s.enqueue(op{open: o}) {
		s.hub.drop(o)
	}
	return nil
}

// Replay has the events of a topic after a place sent once more, up to where the session
// now stands, marked with the request's Ref, and a Replayed notice behind them. Nothing
// else of the topic is sent in between, so what follows joins what was replayed. The place
// must not be nil.
func (s *Session) Replay(ctx context.Context, req Request) error {
	o := s.Ask(req)
	if o.err != nil {
		return o.err
	}
	err := s.hub.resolve(ctx, o)
	if err == nil && s.enqueue(op{replay: o}) {
		return nil
	}
	s.hub.release(o.feed)
	return err
}

// Deny answers a request for a subscription with no.
func (s *Session) Deny(topic string, ref []byte, reason string) {
	s.enqueue(op{notice: &Notice{Kind: Denied, Topic: topic, Ref: ref, Reason: reason}})
}

// Unsubscribe ends a subscription, if there is one. It is answered if ref is not nil.
func (s *Session) Unsubscribe(topic string, ref []byte) {
	s.enqueue(op{close: &Notice{Kind: Unsubscribed, Topic: topic, Ref: ref}})
}

// Finish lets the session send what it has ready and closes its sink with the reason.
func (s *Session) Finish(reason error) { s.enqueue(op{finish: reason}) }

// End ends the session at once; safe to call at any time, also twice.
func (s *Session) End(reason error) {
	s.mu.Lock()
	first := !s.ended
	if first {
		s.ended, s.reason = true, reason
		s.cancel()
		s.room.Broadcast()
	}
	start := first && !s.running
	s.running = s.running || start
	s.mu.Unlock()
	if start {
		go s.pump()
	}
}

func (s *Session) enqueue(o op) bool {
	s.mu.Lock()
	for !s.ended && (len(s.control) >= maxControl || s.bytes > maxControlBytes) {
		s.room.Wait()
	}
	if s.ended {
		s.mu.Unlock()
		return false
	}
	s.queue(o)
	return true
}

// queue puts an op behind the others. It is called with s.mu held, and unlocks it.
func (s *Session) queue(o op) {
	s.control = append(s.control, o)
	s.bytes += o.size()
	start := !s.running
	s.running = true
	s.mu.Unlock()
	if start {
		go s.pump()
	}
}

// kick marks a subscription as having something to send.
func (s *Session) kick(sub *Subscription) {
	s.mu.Lock()
	start := s.mark(sub)
	s.mu.Unlock()
	if start {
		go s.pump()
	}
}

// mark is kick with s.mu held; the caller has to start a pump if it says so.
func (s *Session) mark(sub *Subscription) (start bool) {
	if sub.queued || s.ended {
		return false
	}
	sub.queued = true
	s.dirty = append(s.dirty, sub)
	start = !s.running
	s.running = true
	return start
}
