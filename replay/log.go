// Package replay is the log's order and its readers: the sequencer gives committed
// events their places, Log reads them back, and Retention trims them. Nothing outside
// this package knows the database's types.
package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
)

// Log reads the sequenced log, and publishes into it. It holds no state: every answer
// is one look at the database. All methods are safe for concurrent use.
type Log struct {
	pool    *pgxpool.Pool
	queries *db.Queries
	opts    LogOptions
}

// LogOptions bound one read.
type LogOptions struct {
	// MaxEvent is the size in bytes of Data and Old together above which an event comes
	// as Oversize, without them. Default 1,000,000: browsers of the peer protocol drop
	// frames over 1,048,576 characters.
	MaxEvent int
	// MaxRead is about how many stored bytes one read returns at most, and always at
	// least one event. Default 4 MiB.
	MaxRead int
}

// stretch is how many places of the log one Scan looks at.
const stretch = 5000

// NewLog makes a Log on the pool. opts may be nil.
func NewLog(pool *pgxpool.Pool, opts *LogOptions) *Log {
	l := &Log{pool: pool, queries: db.New(pool)}
	if opts != nil {
		l.opts = *opts
	}
	if l.opts.MaxEvent <= 0 {
		l.opts.MaxEvent = 1_000_000
	}
	if l.opts.MaxRead <= 0 {
		l.opts.MaxRead = 4 << 20
	}
	return l
}

// Position gives the newest position of the log.
func (l *Log) Position(ctx context.Context) (pgcast.Position, error) {
	p, err := l.queries.LogPosition(ctx)
	if err != nil {
		return 0, unavailable("read the log's position", err)
	}
	return pgcast.Position(p), nil
}

// Read gives at most max events after a position, in order. continues tells, if there are
// any, whether the event at that position is the one with the given id: by the same look, so
// that no event of another copy of the log is ever taken for what comes next. Of a trimmed
// event it is false.
func (l *Log) Read(ctx context.Context, after pgcast.Position, id pgcast.ID, max int) (events []pgcast.Event, continues bool, err error) {
	last, createdAt, _ := id.Parts()
	rows, err := l.queries.LogRead(ctx, db.LogReadParams{After: int64(after), LastID: last, LastCreatedAt: createdAt,
		MaxEvents: int32(max), Budget: int64(l.opts.MaxRead), MaxSize: int64(l.opts.MaxEvent)})
	if err != nil {
		return nil, false, unavailable(fmt.Sprintf("read the log after position %d", after), err)
	}
	events = make([]pgcast.Event, len(rows))
	for i, r := range rows {
		events[i], continues = event(r), r.Continues
	}
	return events, continues, nil
}

// Scan gives events of the topics the pattern selects, after one position and up to
// another, at most max, and the position up to which it has looked. It looks at a
// bounded stretch of the log: next < upto means there may be more.
func (l *Log) Scan(ctx context.Context, pattern pgcast.Pattern, after, upto pgcast.Position, max int) (events []pgcast.Event, next pgcast.Position, err error) {
	if after >= upto {
		return nil, after, nil
	}
	end := min(upto, after+stretch)
	rows, err := l.queries.LogScan(ctx, db.LogScanParams{
		After: int64(after), Upto: int64(end), Stretch: stretch, Pattern: pattern.Regexp(),
		MaxEvents: int32(max), Budget: int64(l.opts.MaxRead), MaxSize: int64(l.opts.MaxEvent)})
	if err != nil {
		return nil, after, unavailable(fmt.Sprintf("read the topics of %q after position %d", pattern, after), err)
	}
	matched := 0
	for _, r := range rows {
		matched = int(r.Matched)
		events = append(events, event(db.LogReadRow{Position: r.Position, Seq: r.Seq, Topic: r.Topic,
			ID: r.ID, Event: r.Event, Data: r.Data, Old: r.Old, Oversize: r.Oversize, CreatedAt: r.CreatedAt, Xid: r.Xid}))
	}
	if len(rows) > 0 && (matched == max || len(rows) < matched) {
		return events, events[len(events)-1].Position, nil // cut short, by count or by bytes
	}
	return events, end, nil
}

// ScanGap gives the position of the newest trimmed event after a position that the
// pattern selects, or 0 when nothing is missing.
func (l *Log) ScanGap(ctx context.Context, pattern pgcast.Pattern, after pgcast.Position) (pgcast.Position, error) {
	p, err := l.queries.LogScanGap(ctx, db.LogScanGapParams{After: int64(after), Pattern: pattern.Regexp()})
	if err != nil {
		return 0, unavailable(fmt.Sprintf("ask what is trimmed of %q after position %d", pattern, after), err)
	}
	return pgcast.Position(p), nil
}

// Knows tells whether the event at a position has the given id, or had it, as far as can
// be told: of a trimmed event that is not its topic's newest trimmed one every id is
// believed.
func (l *Log) Knows(ctx context.Context, at pgcast.Position, id pgcast.ID) (bool, error) {
	row, createdAt, ok := id.Parts()
	if !ok {
		return false, nil
	}
	known, err := l.queries.LogKnows(ctx, db.LogKnowsParams{Position: int64(at), ID: row, CreatedAt: createdAt})
	if err != nil {
		return false, unavailable(fmt.Sprintf("ask for the event at position %d", at), err)
	}
	return known, nil
}

// Page gives at most max events of a topic after a seq. Events before the topic's tail
// are never among them; compare Tail with after+1 to see a gap.
func (l *Log) Page(ctx context.Context, topic string, after pgcast.Seq, max int) (pgcast.Page, error) {
	rows, err := l.queries.TopicPage(ctx, db.TopicPageParams{
		Topic: topic, After: int64(after), MaxEvents: int32(max), Budget: int64(l.opts.MaxRead), MaxSize: int64(l.opts.MaxEvent)})
	if err != nil {
		return pgcast.Page{}, unavailable(fmt.Sprintf("read topic %q after %d", topic, after), err)
	}
	page := pgcast.Page{Tail: 1}
	for _, r := range rows {
		page.Tail, page.Head = pgcast.Seq(r.Tail), pgcast.Seq(r.Head)
		if r.Seq != 0 {
			page.Events = append(page.Events, event(db.LogReadRow{Position: r.Position, Seq: r.Seq, Topic: topic,
				ID: r.ID, Event: r.Event, Data: r.Data, Old: r.Old, Oversize: r.Oversize, CreatedAt: r.CreatedAt, Xid: r.Xid}))
		}
	}
	return page, nil
}

// Places answers many asks in one look, in their order, and tells the log's position at
// that look.
func (l *Log) Places(ctx context.Context, asks []pgcast.Ask) ([]pgcast.Place, pgcast.Position, error) {
	p := db.TopicPlacesParams{}
	for i, a := range asks {
		row, createdAt, ok := a.ID.Parts()
		if !ok {
			row, createdAt = 0, time.UnixMicro(0)
			if a.ID != "" {
				row = -1 // an id this log never made is an id it does not have
			}
		}
		p.Ords = append(p.Ords, int32(i))
		p.Topics = append(p.Topics, a.Topic)
		p.Afters = append(p.Afters, int64(a.After))
		p.Ids = append(p.Ids, row)
		p.CreatedAts = append(p.CreatedAts, createdAt)
	}
	rows, err := l.queries.TopicPlaces(ctx, p)
	if err != nil {
		return nil, 0, unavailable(fmt.Sprintf("look up %d topics", len(asks)), err)
	}
	places, position := make([]pgcast.Place, len(asks)), pgcast.Position(0)
	for _, r := range rows {
		position = pgcast.Position(r.Position)
		places[r.Ord] = pgcast.Place{Tail: pgcast.Seq(r.Tail), Head: pgcast.Seq(r.Head), Known: r.Known}
	}
	return places, position, nil
}

// Publish adds an event in a transaction of its own and returns its id. With a key that
// was used on the topic within the last 24 hours it adds nothing and returns the first
// event's id.
func (l *Log) Publish(ctx context.Context, topic, name string, data json.RawMessage, key string) (pgcast.ID, error) {
	arg := db.EventPublishParams{Topic: topic, Event: name}
	if data != nil {
		text := string(data)
		arg.Data = &text
	}
	if key != "" {
		arg.Key = &key
	}
	id, err := l.queries.EventPublish(ctx, arg)
	if err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && (pg.Code[:2] == "22" || pg.Code[:2] == "54") {
			// The caller's own doing: a bad name, or JSON that Postgres cannot store.
			return "", &pgcast.Error{Code: pgcast.CodeInvalidEvent, Message: pg.Message, Hint: pg.Hint}
		}
		return "", unavailable(fmt.Sprintf("publish %q to %q", name, topic), err)
	}
	return pgcast.ID(id), nil
}

func event(r db.LogReadRow) pgcast.Event {
	xid, _ := strconv.ParseUint(r.Xid, 10, 64) // of Postgres' own printing
	return pgcast.Event{
		Topic: r.Topic, Name: r.Event, Data: r.Data, Old: r.Old,
		Seq: pgcast.Seq(r.Seq), Position: pgcast.Position(r.Position),
		ID: pgcast.MakeID(r.ID, r.CreatedAt), CreatedAt: r.CreatedAt, Oversize: r.Oversize, XID: xid,
	}
}

// unavailable marks a database failure as such, so that a client can be told to try
// again without learning anything about the database.
func unavailable(tried string, err error) error { return &unavailableError{tried, err} }

type unavailableError struct {
	tried string
	err   error
}

func (e *unavailableError) Error() string   { return e.tried + ": " + e.err.Error() }
func (e *unavailableError) Unwrap() []error { return []error{pgcast.ErrUnavailable, e.err} }
