package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/filter"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// snapshotCost is what a snapshot costs, as reading history: as much as the longest read.
const snapshotCost = wire.MaxHistory / wire.DefaultHistory

// snapshotsAtOnce is how many a client has asked for at a time, whatever it sends: they are
// read in the order in which they are asked for, and others wait behind.
const snapshotsAtOnce = 4

// maxMarks is how long a stream's places may be: browsers send them back in a header, and
// a request's header has 16 KiB.
const maxMarks = 12 << 10

var (
	errPatternSnapshot = &pgcast.Error{Code: pgcast.CodeInvalid, Message: "there is no snapshot of a pattern", Hint: "ask for those of its topics"}
	errNoSnapshot      = errors.New("the snapshot could not be read to its end")
	errLongMarks       = errors.New("so many transactions are open that the stream's places are too long for a header")
)

// SnapshotEncoding is what snapshots look like on the wire.
var SnapshotEncoding = fanout.SnapshotEncoding{Open: wire.AppendSnapshotOpen, Row: wire.AppendRow, Close: wire.AppendSnapshotClose}

// foreign tells whether a snapshot was taken on another cluster or timeline: numbers of
// transactions mean something else there.
func (g *Gateway) foreign(asOf pgcast.AsOf) bool {
	return !asOf.IsZero() && asOf.Cluster != g.opts.Identity()
}

// moment reads an asOf of a request; empty is none.
func moment(text string) (asOf pgcast.AsOf, err error) {
	if text == "" {
		return asOf, nil
	}
	if asOf, err = pgcast.ParseAsOf(text); err != nil {
		return asOf, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%.80q is not the asOf of a snapshot", text), Hint: "send it back as it came"}
	}
	return asOf, nil
}

// alone tells what of a place stands in a request without after.
func alone(q url.Values) error {
	for _, name := range []string{"id", "asOf"} {
		if q.Get(name) != "" {
			return &pgcast.Error{Code: pgcast.CodeInvalid, Message: name + " stands without after"}
		}
	}
	return nil
}

// wanted reads whether a request's stream is to begin with snapshots.
func wanted(q url.Values) (bool, error) {
	switch v := q.Get("snapshot"); v {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("snapshot is %.40q; it must be true or false", v)}
	}
}

// mayBegin decides whether a subscription may begin with a snapshot, or go on after one.
func (c *client) mayBegin(ctx context.Context, p wire.Place) error {
	switch {
	case !p.Snapshot && p.AsOf.IsZero():
		return nil
	case pgcast.IsPattern(p.Topic):
		c.refuse(0)
		return errPatternSnapshot
	case p.Snapshot:
		return c.limit(ctx, ratelimit.History, p.Topic, snapshotCost)
	}
	return nil
}

// turnAwayAt answers a subscription that may not begin so, also with the error if that can
// be told whose it is.
func (c *client) turnAwayAt(p wire.Place, ref json.RawMessage, err error) {
	c.session.Deny(p.Topic, ref, reasonOf(err))
	if ref != nil {
		c.fail(ref, err)
	}
}

// reasonOf is how a subscription is denied for an error.
func reasonOf(err error) string {
	var e *pgcast.Error
	if err == errPatternSnapshot {
		return wire.ReasonNoSnapshot
	}
	if errors.As(err, &e) {
		switch e.Code {
		case pgcast.CodeForbidden:
			return wire.ReasonForbidden
		case pgcast.CodeUnsupported:
			return wire.ReasonNoSnapshot
		case pgcast.CodeRateLimited:
			return wire.ReasonRateLimited
		case pgcast.CodeInvalid:
			return wire.ReasonInvalidFilter
		case pgcast.CodeTooMany:
			return wire.ReasonTooMany
		}
	}
	return wire.ReasonInternal
}

// appendSnapshot appends a part of a snapshot. The stream stands nowhere before the last
// one: whoever is cut off begins anew.
func (s *stream) appendSnapshot(b []byte, f *fanout.SnapshotFrame) []byte {
	if f.Last {
		m := s.mark(f.Topic)
		m.after, m.id, m.asOf = &f.Seq, "", f.AsOf
		if n := len(appendMarks(nil, s.marks)); n > maxMarks {
			s.over = errLongMarks
			return b
		}
	}
	return s.appendEvent(b, "snapshot", f.Text)
}

// getSnapshot serves GET /topics/{topic}/snapshot: what a topic holds, and where to go on
// from there.
func (g *Gateway) getSnapshot(w http.ResponseWriter, r *http.Request) {
	topic := r.PathValue("topic")
	q, err := parameters(r, "", "filter")
	if err == nil {
		err = pgcast.CheckTopic(topic)
	}
	var f *filter.Filter
	if err == nil {
		f, err = narrowed(q)
	}
	if pgcast.IsPattern(topic) {
		err = errPatternSnapshot
	}
	if err == nil {
		err = g.limitRequest(r, ratelimit.History, ratelimit.Ask{Topic: topic, Cost: snapshotCost})
	}
	if err == nil && g.opts.Identity() == "" {
		err = errStarting
	}
	var claims *auth.Claims
	if err == nil {
		claims, err = g.asker(r)
	}
	if err == nil {
		err = g.may(r.Context(), claims, topic, auth.Snapshot)
	}
	var lens fanout.Lens
	if err == nil {
		lens, err = g.view(r.Context(), g.lens(claims, topic), topic, f)
	}
	var s *fanout.SnapshotReader
	if err == nil {
		s, err = g.hub.Snapshot(r.Context(), topic, lens, askTimeout)
	}
	switch {
	case r.Context().Err() != nil: // nobody is there any more
		if s != nil {
			s.Close()
		}
	case err != nil:
		g.refuse(w, err)
	default:
		defer s.Close()
		g.answerSnapshot(w, topic, s, claims.Expires, g.remains(r.Context(), claims, auth.Snapshot, topic))
	}
}

// answerSnapshot sends a snapshot piece by piece, each with the write timeout's time to be
// taken, and none after the caller's claims have expired or may tells that they do not allow it
// any more. Of what cannot be read, or sent, to its end the answer is cut off, for the client to
// see.
func (g *Gateway) answerSnapshot(w http.ResponseWriter, topic string, s *fanout.SnapshotReader, expires time.Time, may func() error) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	c := http.NewResponseController(w)
	err := writeSnapshot(topic, s, func(text []byte) error {
		for piece := range slices.Chunk(text, pieceBytes) {
			if err := may(); err != nil {
				return err
			}
			deadline := time.Now().Add(g.opts.WriteTimeout)
			if !expires.IsZero() && expires.Before(deadline) {
				deadline = expires
			}
			_ = c.SetWriteDeadline(deadline)
			if _, err := w.Write(piece); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if c.Flush() == nil {
		_ = c.SetWriteDeadline(time.Time{}) // the next answer on the connection has its own
	}
}

// writeSnapshot writes the answer: of a topic of tables {topic, tables: [{table, rows,
// oversize?}], seq, asOf}, else {topic, events, seq}.
func writeSnapshot(topic string, s *fanout.SnapshotReader, write func([]byte) error) error {
	at := s.At()
	list := "tables"
	if at.AsOf.IsZero() {
		list = fanout.ListEvents
	}
	name, _ := json.Marshal(topic) // a string always can be
	err := write(fmt.Appendf(nil, `{"topic":%s,%q:[`, name, list))
	if err == nil && at.AsOf.IsZero() {
		err = writeLists(s, 0, s.Len(), list, write)
	}
	before := ""
	for i, n := 0, 0; err == nil && list == "tables" && i < s.Len(); i += n {
		var table string
		if table, n = s.Table(i); table == "" {
			continue // there was no row
		}
		name, _ = json.Marshal(table)
		err = write(fmt.Appendf(nil, `%s{"table":%s,"rows":[`, before, name))
		before = ","
		if err == nil {
			err = writeLists(s, i, n, fanout.ListRows, write)
		}
		if err == nil && s.Has(i, n, fanout.ListOversize) {
			if err = write([]byte(`],"oversize":[`)); err == nil {
				err = writeLists(s, i, n, fanout.ListOversize, write)
			}
		}
		if err == nil {
			err = write([]byte("]}"))
		}
	}
	if err != nil {
		return err
	}
	end := fmt.Appendf(nil, `],"seq":%d`, at.Seq)
	if !at.AsOf.IsZero() {
		end = fmt.Appendf(end, `,"asOf":%q`, at.AsOf.String())
	}
	return write(append(end, '}'))
}

// writeLists writes the items of n frames from i on that have such a list.
func writeLists(s *fanout.SnapshotReader, i, n int, list string, write func([]byte) error) error {
	first := true
	for k := i; k < i+n; k++ {
		items, err := s.Items(k, list)
		if err != nil {
			return err
		}
		if len(items) == 0 {
			continue
		}
		if !first {
			if err := write([]byte{','}); err != nil {
				return err
			}
		}
		first = false
		if err := write(items); err != nil {
			return err
		}
	}
	return nil
}
