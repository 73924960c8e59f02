package gateway

import (
	"errors"
	"net/http"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
)

// poll is a session that ends with the first events it gets: while it waits it costs the
// log no more than a stream does.
type poll struct {
	asking  asking
	limit   int
	pattern bool
	gone    chan struct{} // closed when the session has ended; what follows may then be read

	// Owned by the session's goroutine.
	list     [][]byte
	next     int64
	tail     int64
	reset    *int64
	oversize bool
	denied   bool  // the right to go on was lost
	ended    error // why nothing more is told
}

// errEnough ends a poll's session.
var errEnough = errors.New("the poll has its answer")

// poll answers with the next events, or with none when the time is up.
func (g *Gateway) poll(w http.ResponseWriter, r *http.Request, q question, page found) {
	p := &poll{asking: askingOf(r), limit: q.limit, pattern: q.pattern, gone: make(chan struct{}), next: page.next, tail: int64(page.Tail)}
	if err := g.admit(p); err != nil {
		g.metrics.refused.Inc()
		g.refuse(w, err)
		return
	}
	defer g.forget(p)
	session := g.hub.NewSession(p)
	g.attach(p, session)
	defer g.expire(p, session)()
	g.settle(p, session, p.asking.since)
	after := page.next
	if after != q.after {
		q.id = "" // of another event
	}
	err := session.Subscribe(r.Context(), fanout.Request{Topic: q.topic, After: &after, ID: q.id, AsOf: q.asOf, Lens: q.lens})
	q.rights.opened(session)
	if err == nil {
		timer := time.NewTimer(q.wait)
		defer timer.Stop()
		select {
		case <-p.gone: // it has its answer, drains, or the log is another one
		case <-timer.C:
		case <-r.Context().Done():
		}
	}
	session.End(errEnough)
	<-p.gone
	switch {
	case errors.As(p.ended, new(closeError)):
		g.refuse(w, errEndedToken)
	case err != nil:
		g.refuse(w, err)
	case p.denied:
		g.refuse(w, auth.ErrForbidden)
	case p.reset != nil:
		g.refuseAt(w, &pgcast.Error{Code: pgcast.CodeReset, Message: "the history you saw no longer exists"}, p.reset)
	case p.oversize:
		// What comes over frames is without it. It is there now, so this does not wait.
		q.after, q.id, q.wait = after, "", 0
		g.answerAsked(w, r, q)
	default:
		b := openEvents(nil, q.topic)
		for i, text := range p.list {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, text...)
		}
		g.answerEvents(w, finish(b, p.tail, max(int64(page.Head), p.next), p.next))
	}
}

func (p *poll) check(time.Time) error { return nil }

func (p *poll) cut() {}

func (p *poll) whose() (*auth.Claims, string) { return p.asking.claims, "" }

// Write takes what comes first. Its error then ends the session.
func (p *poll) Write(items []fanout.Item) error {
	if expired(p.asking.claims) {
		return errExpired
	}
	for _, i := range items {
		switch {
		case len(p.list) == p.limit:
		case i.Frame != nil:
			p.list = append(p.list, text(i))
			p.oversize = p.oversize || i.Frame.Oversize
			p.next = int64(i.Frame.Seq)
			if p.pattern {
				p.next = int64(i.Frame.Position)
			}
		case i.Notice.Kind == fanout.Gap:
			p.tail = i.Notice.Tail
			if !p.pattern {
				p.next = max(p.next, p.tail-1)
			}
		case i.Notice.Kind == fanout.Denied:
			p.denied = true
		case i.Notice.Kind == fanout.Reset:
			p.reset = &i.Notice.Head
		}
	}
	if !p.denied && len(p.list) == 0 && p.tail <= p.next+1 && p.reset == nil {
		return nil // subscribed
	}
	return errEnough
}

// Close tells that there is nothing more to come.
func (p *poll) Close(reason error) {
	p.ended = reason
	close(p.gone)
}
