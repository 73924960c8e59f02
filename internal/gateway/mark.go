package gateway

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/filter"
)

// mark is the place of one topic or pattern of a stream of events.
type mark struct {
	name    string
	pattern *pgcast.Pattern // nil for a topic
	asked   *int64          // what the client named
	after   *int64          // where it stands; nil before the server has said so
	id      pgcast.ID       // of the event there, if that is known
	// It begins with a snapshot, if asked is nil; asOf is of the one it began with.
	snapshot bool
	asOf     pgcast.AsOf
	barred   bool           // nothing that is past is for whoever asks
	filter   *filter.Filter // nil: none
}

// The names of a stream's parameters.
const (
	lastEventID      = "Last-Event-ID"
	lastEventIDQuery = "last-event-id"
)

// readMarks reads what a request for a stream asks for: its path's topic, those of its
// query, and where each stands, from Last-Event-ID or the query.
func (g *Gateway) readMarks(r *http.Request) ([]mark, error) {
	q, err := parameters(r, "topic", "after", "id", "asOf", "snapshot", "filter", lastEventIDQuery)
	if err != nil {
		return nil, err
	}
	marks, err := names(append([]string{r.PathValue("topic")}, q["topic"]...), min(MaxStreamTopics, g.opts.MaxSubscriptions))
	if err != nil {
		return nil, err
	}
	// The header wins: a browser that comes back asks for the same URL.
	last := r.Header.Get(lastEventID)
	if last == "" {
		last = q.Get(lastEventIDQuery)
	}
	if last != "" {
		if err := parseMarks(last, marks); err != nil {
			return nil, err
		}
	}
	snapshot, err := wanted(q)
	if err != nil {
		return nil, err
	}
	narrow, err := narrowed(q)
	if err != nil {
		return nil, err
	}
	for i := range marks {
		marks[i].filter = narrow
		if marks[i].snapshot = snapshot && marks[i].asked == nil; marks[i].pattern != nil && (snapshot || !marks[i].asOf.IsZero()) {
			return nil, errPatternSnapshot
		}
	}
	switch {
	case last != "":
		return marks, nil
	case q.Get("after") == "" && q.Get("id") == "" && q.Get("asOf") == "":
		return marks, nil
	case snapshot:
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "snapshot and after stand together",
			Hint: "a snapshot begins anew; to go on after one, leave it out and send after, id and asOf"}
	case len(marks) > 1:
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "after, id and asOf are for a stream of one topic",
			Hint: "say where several stand with " + lastEventIDQuery}
	}
	m := &marks[0]
	if m.asked, err = place("after", q.Get("after")); err != nil {
		return nil, err
	}
	if m.asked == nil {
		return nil, alone(q)
	}
	m.after = m.asked
	if m.id, err = identifier(q.Get("id")); err == nil {
		m.asOf, err = moment(q.Get("asOf"))
	}
	if !m.asOf.IsZero() && m.pattern != nil {
		err = errPatternSnapshot
	}
	return marks, err
}

// names makes marks of topics and patterns. They may not overlap: which of them an event
// came through would depend on where each began, which a browser does not keep.
func names(list []string, most int) ([]mark, error) {
	if len(list) > most {
		return nil, &pgcast.Error{Code: pgcast.CodeTooMany, Message: fmt.Sprintf("a stream may have %d topics and patterns, not %d", most, len(list)),
			Hint: "use a pattern, several streams, or a WebSocket"}
	}
	patterns := make([]pgcast.Pattern, len(list))
	marks := make([]mark, len(list))
	for i, name := range list {
		p, err := pgcast.ParsePattern(name)
		if err != nil {
			return nil, err
		}
		for k := range i {
			if patterns[k].Overlaps(p) {
				return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%q and %q select the same topics", list[k], name),
					Hint: "topics and patterns of one stream may not overlap; open another stream for one of them"}
			}
		}
		patterns[i], marks[i].name = p, name
		if pgcast.IsPattern(name) {
			marks[i].pattern = &patterns[i]
		}
	}
	return marks, nil
}

// appendMarks appends the places, in the order of the request's topics: after:id, after
// alone where no event is known there, or - for none; separated by commas. Behind an @
// stands of which snapshot they go on, with _ for each comma.
func appendMarks(b []byte, marks []mark) []byte {
	for i, m := range marks {
		if i > 0 {
			b = append(b, ',')
		}
		if m.after == nil {
			b = append(b, '-')
			continue
		}
		b = strconv.AppendInt(b, *m.after, 10)
		if m.id != "" {
			b = append(b, ':')
			b = append(b, m.id...)
		}
		if !m.asOf.IsZero() {
			b = append(b, '@')
			b = append(b, strings.ReplaceAll(m.asOf.String(), ",", "_")...)
		}
	}
	return b
}

// parseMarks reads what appendMarks wrote.
func parseMarks(text string, marks []mark) error {
	list := strings.Split(text, ",")
	if len(list) != len(marks) {
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%s has %d places for %d topics", lastEventID, len(list), len(marks)),
			Hint: "send back the id of the newest event, with the same topics in the same order"}
	}
	for i, item := range list {
		m := &marks[i]
		if item == "-" {
			continue
		}
		item, asOf, begun := strings.Cut(item, "@")
		after, id, named := strings.Cut(item, ":")
		var err error
		if m.asOf, err = moment(strings.ReplaceAll(asOf, "_", ",")); err != nil {
			return err
		}
		if m.asked, err = place(lastEventID, after); err != nil {
			return err
		}
		if m.asked == nil || named && id == "" || begun && asOf == "" {
			return &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%s has %.80q, which is no place", lastEventID, item),
				Hint: "send back the id of the newest event"}
		}
		if m.id, err = identifier(id); err != nil {
			return err
		}
		m.after = m.asked
	}
	return nil
}
