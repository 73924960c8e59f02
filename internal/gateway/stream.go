package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
)

// MaxStreamTopics is how many topics and patterns one stream of events may have, if
// MaxSubscriptions does not say fewer: each event carries the places of all of them, for
// the browser to send back.
const MaxStreamTopics = 50

// stream is one connection of Server-Sent Events (WHATWG HTML, section 9.2). Its
// session's goroutine writes, past net/http for the same reasons as a WebSocket's.
type stream struct {
	g      *Gateway
	conn   *conn
	asking asking
	opened chan struct{} // closed when conn can be written to, or never will be
	gone   chan struct{} // closed when the session has ended

	// Owned by the handler until opened, then by the session's goroutine.
	marks []mark
	over  error // why the stream cannot go on; nil while it can

	rights *rights
}

// errNotOpened ends a session whose request was answered otherwise.
var errNotOpened = errors.New("the stream was not opened")

// streamEvents serves GET /topics/{topic}/sse.
func (g *Gateway) streamEvents(w http.ResponseWriter, r *http.Request) {
	marks, err := g.readMarks(r)
	switch {
	case err != nil:
		g.metrics.refused.Inc()
		g.refuse(w, err)
		return
	case r.Method == http.MethodHead:
		w.Header().Set("Content-Type", "text/event-stream")
		return
	}
	if err := g.limitStream(r, marks); err != nil {
		g.metrics.refused.Inc()
		g.refuseStream(w, r, err)
		return
	}
	s := &stream{g: g, conn: &conn{timeout: g.opts.WriteTimeout}, asking: askingOf(r), marks: marks, opened: make(chan struct{}), gone: make(chan struct{})}
	if err := s.mayOpen(r); err != nil {
		s.rights.close()
		g.metrics.refused.Inc()
		g.refuseStream(w, r, err)
		return
	}
	if err := g.admit(s, g.addressOf(r), s.asking.claims); err != nil {
		s.rights.close()
		g.metrics.refused.Inc()
		g.refuseStream(w, r, err)
		return
	}
	session, err := s.open(w, r)
	if err != nil {
		s.rights.close()
		g.metrics.refused.Inc()
		g.forget(s)
		return
	}
	g.metrics.connects.Inc()
	// In a goroutine of its own: returning lets go of net/http's buffers and stack.
	go s.run(session)
}

// mayOpen decides on all of a stream at once.
func (s *stream) mayOpen(r *http.Request) error {
	claims, err := s.g.asker(r)
	if err != nil || s.g.opts.Access == nil {
		return err
	}
	s.rights = s.g.watchOver(func() *auth.Claims { return claims }, nil, nil, askingOf(r).checks)
	var asks []auth.Ask
	for _, m := range s.marks {
		s.rights.hold(m.name)
		asks = append(asks, auth.Ask{Verb: auth.Subscribe, Topic: m.name})
		if m.snapshot {
			asks = append(asks, auth.Ask{Verb: auth.Snapshot, Topic: m.name})
		}
	}
	musts, resumed := len(asks), []*mark(nil)
	for i := range s.marks {
		if m := &s.marks[i]; m.asked != nil {
			asks, resumed = append(asks, auth.Ask{Verb: auth.History, Topic: m.name}), append(resumed, m)
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	errs := s.g.allowEach(ctx, claims, asks)
	for i, m := range resumed {
		// What cannot be decided is no reason to make a gap of what it may still have.
		if m.barred = forbidden(errs[musts+i]); m.barred {
			errs[musts+i] = nil
		}
	}
	return worst(errs)
}

// refuseStream answers a request for a stream with an error. A browser's EventSource gives
// up for good on any status but 200, so for what passes a stream begins, says when to come
// back, and ends.
func (g *Gateway) refuseStream(w http.ResponseWriter, r *http.Request, err error) {
	passes := errors.Is(err, pgcast.ErrUnavailable) || errors.Is(err, pgcast.ErrRateLimited)
	if !passes || r.Header.Get("Accept") != "text/event-stream" {
		g.refuse(w, err)
		return
	}
	e := g.explain(err)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	fmt.Fprintf(w, "%s: %s\n\n", retryLine(e.RetryAfter+comeBack()), e.Message)
}

// comeBack is when a stream that has ended is to be opened again; not by all at once.
func comeBack() time.Duration { return 500*time.Millisecond + rand.N(drainJitter) }

// open subscribes to everything and takes over the connection, or answers with an error.
func (s *stream) open(w http.ResponseWriter, r *http.Request) (*fanout.Session, error) {
	defer close(s.opened)
	// Seen by Drain and Run only once there is a connection. What the session has to send
	// waits for opened.
	session := s.g.hub.NewSession(s)
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	lenses, err := s.lenses(ctx)
	if err != nil {
		s.marks = nil // nothing is asked for
	}
	openings := make([]*fanout.Opening, len(s.marks))
	opened, snapshots := 0, 0
	open := func(upto int) {
		for ; opened < upto; opened++ {
			if e := session.Open(ctx, openings[opened]); e != nil {
				err = e
			} else if s.marks[opened].asked != nil {
				s.g.metrics.resumes.Inc()
			}
		}
	}
	for i, m := range s.marks {
		if m.snapshot {
			if snapshots++; snapshots > snapshotsAtOnce {
				open(i)
				snapshots = 1
			}
		}
		openings[i] = session.Ask(fanout.Request{Topic: m.name, After: m.asked, ID: m.id, Snapshot: m.snapshot, AsOf: m.asOf, Foreign: s.g.foreign(m.asOf),
			Barred: m.barred, Lens: lenses[i]})
	}
	open(len(openings))
	s.rights.opened(session)
	if err != nil {
		s.g.refuseStream(w, r, err)
	}
	head := streamHead(w.Header())
	if err == nil {
		if _, _, err = (&hijacker{w, s.conn}).Hijack(); err != nil {
			s.g.refuse(w, err)
		}
	}
	if err != nil {
		session.End(errNotOpened)
		return nil, err
	}
	dropSilent(s.conn.Conn, s.g.opts.WriteTimeout+s.g.opts.PingInterval)
	s.conn.lastWrite.Store(time.Now().UnixNano()) // or Run would say, before the head, that there is nothing to say
	s.g.attach(s, session)
	s.g.settle(s, session, s.asking.since)
	if _, err := s.conn.Write(head); err != nil {
		session.End(err)
	}
	return session, nil
}

// lenses gives how each topic and pattern is seen.
func (s *stream) lenses(ctx context.Context) ([]fanout.Lens, error) {
	list := make([]fanout.Lens, len(s.marks))
	for i, m := range s.marks {
		var err error
		if list[i], err = s.g.view(ctx, s.g.lens(s.asking.claims, m.name), m.name, m.filter); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// streamHead is the answer up to its first event. Its body ends with the connection.
func streamHead(h http.Header) []byte {
	b := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n" +
		"X-Accel-Buffering: no\r\nConnection: close\r\n")
	h.Set("X-Content-Type-Options", "nosniff")
	for name, values := range h {
		for _, v := range values {
			b = append(b, name+": "+v+"\r\n"...) // of ours: CORS, and what holds for all answers
		}
	}
	b = append(b, "Date: "+time.Now().UTC().Format(http.TimeFormat)+"\r\n\r\n"...)
	return append(b, retryLine(comeBack())...)
}

func retryLine(d time.Duration) string { return fmt.Sprintf("retry: %d\n\n", d.Milliseconds()) }

// run waits until the client has gone; it has nothing to say.
func (s *stream) run(session *fanout.Session) {
	defer s.g.forget(s)
	defer s.rights.close()
	defer s.g.expire(s, session)()
	for b, err := [64]byte{}, error(nil); err == nil; {
		_, err = s.conn.Read(b[:])
	}
	session.End(nil)
	<-s.gone
	_ = s.conn.Close()
}

// beatLine is a comment, which browsers pass over.
var beatLine = []byte(": hb\n\n")

func (s *stream) check(now time.Time) error {
	if now.Sub(time.Unix(0, s.conn.lastWrite.Load())) > s.g.heartbeat {
		go s.conn.beat(beatLine)
	}
	return nil
}

func (s *stream) cut() { _ = s.conn.Conn.Close() }

func (s *stream) whose() (*auth.Claims, string) { return s.asking.claims, "" }

// Write sends a session's items in one write.
func (s *stream) Write(items []fanout.Item) error {
	<-s.opened
	if s.conn.Conn == nil {
		return errNotOpened
	}
	if expired(s.asking.claims) {
		return errExpired
	}
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	b := (*p)[:0]
	for _, i := range items {
		b = s.appendItem(b, i)
	}
	if cap(b) <= 128<<10 { // one huge event is not to stay in the pool
		*p = b
	}
	_, err := s.conn.Write(b)
	return cmp.Or(err, s.over)
}

func (s *stream) appendItem(b []byte, i fanout.Item) []byte {
	if i.Snapshot != nil {
		return s.appendSnapshot(b, i.Snapshot)
	}
	if i.Frame != nil {
		s.pass(i)
		return s.appendEvent(b, "", text(i))
	}
	n := i.Notice
	m := s.mark(n.Topic)
	switch n.Kind {
	case fanout.Subscribed:
		// Another place than the one asked for announces a reset: until that arrives the
		// old one is kept.
		if m.asked == nil && !m.snapshot {
			m.after = &n.Seq
		}
		return s.appendEvent(b, "subscribed", wire.AppendSubscribed(nil, n.Topic, nil, n.Seq))
	case fanout.Gap:
		if m.pattern == nil {
			after := n.Tail - 1
			m.after, m.id = &after, ""
		}
		return s.appendEvent(b, "gap", wire.AppendGap(nil, n.Topic, n.After, n.Tail, n.Head))
	case fanout.Reset:
		m.after, m.id, m.asOf = &n.Head, "", pgcast.AsOf{}
		return s.appendEvent(b, "reset", wire.AppendReset(nil, n.Topic, n.Head))
	case fanout.Denied:
		s.over = errNoSnapshot // the client comes back, and begins anew
		if n.Reason == wire.ReasonForbidden {
			s.over = auth.ErrForbidden // it comes back, and is refused
			return s.appendEvent(b, "denied", wire.AppendDenied(nil, n.Topic, nil, n.Reason))
		}
	}
	return b
}

// appendEvent appends an event of the stream, with the places as they are after it. data
// is one line.
func (s *stream) appendEvent(b []byte, event string, data []byte) []byte {
	if event != "" {
		b = append(b, "event: "...)
		b = append(b, event...)
		b = append(b, '\n')
	}
	b = append(b, "id: "...)
	b = appendMarks(b, s.marks)
	b = append(b, "\ndata: "...)
	b = append(b, data...)
	return append(b, '\n', '\n')
}

// pass moves the place of the subscription that an event came through. They do not
// overlap, so there is one.
func (s *stream) pass(i fanout.Item) {
	f := i.Frame
	for k := range s.marks {
		m := &s.marks[k]
		switch {
		case i.Pattern && m.pattern != nil && m.pattern.Match(f.Topic):
			after := int64(f.Position)
			m.after, m.id = &after, f.ID
			return
		case !i.Pattern && m.name == f.Topic:
			after := int64(f.Seq)
			m.after, m.id = &after, f.ID
			return
		}
	}
}

func (s *stream) mark(name string) *mark {
	for k := range s.marks {
		if s.marks[k].name == name {
			return &s.marks[k]
		}
	}
	return new(mark) // there is none: only what was asked for is told about
}

// Close ends the connection; after a drain, with when to come back.
func (s *stream) Close(reason error) {
	defer close(s.gone)
	<-s.opened
	if s.conn.Conn == nil {
		return
	}
	if errors.Is(reason, errDraining) {
		s.conn.last([]byte(retryLine(s.g.comeBack())))
	}
	_ = s.conn.Close()
}
