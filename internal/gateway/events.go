package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/filter"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// The headers of a request that publishes.
const (
	EventHeader = "Pgcast-Event"    // the event's name
	KeyHeader   = "Idempotency-Key" // optional, as in pgcast.publish()
)

const maxWait = 60 // seconds of a long poll

// Topics serves what there is over HTTP: events to read, to wait for and to publish under
// /topics/{topic}/events, a stream of them under /topics/{topic}/sse, what a topic holds
// under /topics/{topic}/snapshot, and who is here under /topics/{topic}/presence.
func (g *Gateway) Topics() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /topics/{topic}/events", g.guarded(byTicket, g.getEvents))
	mux.HandleFunc("POST /topics/{topic}/events", g.guarded(byTicket, g.postEvent))
	mux.HandleFunc("GET /topics/{topic}/snapshot", g.guarded(byTicket, g.getSnapshot))
	mux.HandleFunc("GET /topics/{topic}/sse", g.guarded(byTicket|byCookie, g.streamEvents))
	mux.HandleFunc("GET /topics/{topic}/presence", g.guarded(byTicket, g.getPresence))
	mux.HandleFunc("OPTIONS /topics/{topic}/events", g.preflight)
	mux.HandleFunc("OPTIONS /topics/{topic}/snapshot", g.preflight)
	mux.HandleFunc("OPTIONS /topics/{topic}/sse", g.preflight)
	mux.HandleFunc("OPTIONS /topics/{topic}/presence", g.preflight)
	return mux
}

// getEvents serves GET /topics/{topic}/events: the topic's history, or a pattern's, and
// with wait what comes next.
func (g *Gateway) getEvents(w http.ResponseWriter, r *http.Request) {
	q, err := readQuestion(r)
	if err == nil {
		err = g.limitRequest(r, ratelimit.History, ratelimit.Ask{Topic: q.topic, Cost: historyCost(q.limit)})
	}
	if err == nil && g.opts.Identity() == "" {
		err = errStarting
	}
	if err == nil {
		err = g.mayRead(r, &q)
	}
	defer q.rights.close()
	if err != nil {
		g.refuse(w, err)
		return
	}
	g.answerAsked(w, r, q)
}

// mayRead decides on a request for events, and notes by whom it is.
func (g *Gateway) mayRead(r *http.Request, q *question) error {
	claims, err := g.asker(r)
	if err != nil {
		return err
	}
	verbs := []auth.Verb{auth.History}
	if q.wait > 0 {
		q.rights = g.watchOver(func() *auth.Claims { return claims }, nil, nil, askingOf(r).checks)
		q.rights.hold(q.topic)
		verbs = append(verbs, auth.Subscribe)
	}
	if err = g.may(r.Context(), claims, q.topic, verbs...); err == nil {
		q.lens, err = g.view(r.Context(), g.lens(claims, q.topic), q.topic, q.filter)
	}
	return err
}

// answerAsked asks the log and answers, at once or when there is something.
func (g *Gateway) answerAsked(w http.ResponseWriter, r *http.Request, q question) {
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	page, head, err := g.ask(ctx, q)
	switch {
	case r.Context().Err() != nil:
		return // nobody is there any more
	case err != nil:
		g.refuseAt(w, err, head)
		return
	}
	if len(page.Events) == 0 && q.wait > 0 && !page.gapAfter(q.after) {
		g.poll(w, r, q, page)
		return
	}
	g.answerEvents(w, eventsText(q, page))
}

// question is what a request for events asks.
type question struct {
	topic   string
	pattern bool // the topic is one
	after   int64
	id      pgcast.ID
	asOf    pgcast.AsOf // events that it holds are left out
	limit   int
	wait    time.Duration
	filter  *filter.Filter // nil: none
	lens    fanout.Lens    // how the topic is seen; nil: as it is
	rights  *rights        // where it waits
}

func readQuestion(r *http.Request) (q question, err error) {
	v, err := parameters(r, "", "after", "id", "asOf", "limit", "wait", "filter")
	if err != nil {
		return q, err
	}
	q.topic = r.PathValue("topic")
	if _, err := pgcast.ParsePattern(q.topic); err != nil {
		return q, err
	}
	q.pattern = pgcast.IsPattern(q.topic)
	after, err := place("after", v.Get("after"))
	if err != nil {
		return q, err
	}
	if after != nil {
		q.after = *after
	} else if err := alone(v); err != nil {
		return q, err
	}
	if q.asOf, err = moment(v.Get("asOf")); err != nil {
		return q, err
	}
	if q.pattern && !q.asOf.IsZero() {
		return q, errPatternSnapshot
	}
	if q.id, err = identifier(v.Get("id")); err != nil {
		return q, err
	}
	if q.limit, err = amount("limit", v.Get("limit"), wire.DefaultHistory, 1, wire.MaxHistory); err != nil {
		return q, err
	}
	if q.filter, err = narrowed(v); err != nil {
		return q, err
	}
	wait, err := amount("wait", v.Get("wait"), 0, 0, maxWait)
	q.wait = time.Duration(wait) * time.Second
	return q, err
}

// found is what the log has after a place.
type found struct {
	pgcast.Page
	next int64 // everything up to here has been looked at
}

func (f found) gapAfter(after int64) bool { return int64(f.Tail) > after+1 }

// ask reads the log. Where the history the client saw no longer exists the error says so,
// and head where to go on.
func (g *Gateway) ask(ctx context.Context, q question) (f found, head *int64, err error) {
	if foreign := g.foreign(q.asOf); q.after > 0 || foreign {
		place, reset, err := g.hub.Locate(ctx, fanout.Request{Topic: q.topic, After: &q.after, ID: q.id, Foreign: foreign})
		if err != nil {
			return f, nil, err
		}
		if reset {
			return f, &place, &pgcast.Error{Code: pgcast.CodeReset, Message: fmt.Sprintf("the history up to %d no longer exists", q.after),
				Hint: fmt.Sprintf("throw away what you have and go on after %d", place)}
		}
	}
	f.Page, f.next, err = g.sought(ctx, q.lens, q.after, func(after int64) (pgcast.Page, int64, error) {
		page, err := g.page(ctx, g.opts.Whole, q.topic, after, q.limit)
		// An answer is in memory until its reader has taken it.
		page.Events = fitting(page.Events)
		next := nextOf(page, after, q.pattern)
		if q.pattern {
			page.Head = max(page.Head, pgcast.Seq(after))
		}
		if !q.asOf.IsZero() {
			page.Events = slices.DeleteFunc(page.Events, func(e pgcast.Event) bool { return q.asOf.Holds(e.XID) })
		}
		return page, next, err
	})
	return f, nil, err
}

// eventsText is the answer with what was found.
func eventsText(q question, f found) []byte {
	size := 1024
	for _, e := range f.Events {
		size += len(e.Topic) + len(e.Name) + 2*len(e.Old) + len(e.Data) + 200
	}
	b := openEvents(make([]byte, 0, size), q.topic)
	for i, e := range f.Events {
		if i > 0 {
			b = append(b, ',')
		}
		position := pgcast.Position(0)
		if q.pattern {
			position = e.Position
		}
		b = wire.AppendEventEnd(wire.AppendEventBody(b, e), position)
	}
	return finish(b, int64(f.Tail), int64(f.Head), f.next)
}

func openEvents(b []byte, topic string) []byte {
	name, _ := json.Marshal(topic) // a string always can be
	return append(append(append(b, `{"topic":`...), name...), `,"events":[`...)
}

func finish(b []byte, tail, head, next int64) []byte {
	return fmt.Appendf(b, `],"tail":%d,"head":%d,"next":%d}`, tail, head, next)
}

// postEvent serves POST /topics/{topic}/events: it publishes the body.
func (g *Gateway) postEvent(w http.ResponseWriter, r *http.Request) {
	id, err := g.post(w, r)
	if err != nil {
		g.refuse(w, err)
		return
	}
	g.answer(w, http.StatusCreated, fmt.Appendf(nil, `{"id":%q}`, id))
}

func (g *Gateway) post(w http.ResponseWriter, r *http.Request) (pgcast.ID, error) {
	if _, err := parameters(r, ""); err != nil {
		return "", err
	}
	topic, event := r.PathValue("topic"), r.Header.Get(EventHeader)
	if err := pgcast.CheckTopic(topic); err != nil {
		return "", err
	}
	if event == "" {
		return "", &pgcast.Error{Code: pgcast.CodeInvalidEvent, Message: "the event has no name", Hint: "name it in the header " + EventHeader}
	}
	if err := pgcast.CheckEventName(event); err != nil {
		return "", err
	}
	// Also what keeps a form of a foreign page from publishing.
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return "", &pgcast.Error{Code: pgcast.CodeUnsupported, Message: "the body's Content-Type is not application/json", Hint: "send JSON, and say so"}
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return "", &pgcast.Error{Code: pgcast.CodeUnsupported, Message: fmt.Sprintf("a body with Content-Encoding %.40q cannot be read", encoding), Hint: "send it as it is"}
	}
	// A body that does not come would keep the connection for ever.
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(g.opts.WriteTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(g.opts.MaxFrame)))
	if err != nil {
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			return "", &pgcast.Error{Code: pgcast.CodeTooLarge, Message: fmt.Sprintf("a body may have %d bytes", g.opts.MaxFrame), Hint: "raise --max-frame"}
		}
		return "", &pgcast.Error{Code: pgcast.CodeInvalid, Message: "the body did not arrive"}
	}
	_ = c.SetReadDeadline(time.Time{}) // from here on it would only look as if the client had gone
	data, err := wire.Data(body)
	if err != nil {
		return "", err
	}
	if keys, there := r.Header[KeyHeader]; there && keys[0] == "" {
		return "", &pgcast.Error{Code: pgcast.CodeInvalid, Message: KeyHeader + " is empty", Hint: "1 to 256 bytes, or leave it out"}
	}
	if err := g.limitRequest(r, ratelimit.Publish, ratelimit.Ask{Topic: topic, Cost: 1}); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	claims, err := g.asker(r)
	if err == nil {
		err = g.may(ctx, claims, topic, auth.Publish)
	}
	if err != nil {
		return "", err
	}
	return g.add(ctx, topic, event, data, r.Header.Get(KeyHeader))
}
