package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/console"
	"github.com/pgcast/pgcast/replay"
)

// consoleTopics tells the console of topics.
type consoleTopics struct{ *Server }

// consoleWait is how long the database may take for one of the console's questions.
const consoleWait = 5 * time.Second

// topicColumns are read of the topics that page has. How many events the last minute had is
// found by halving: seq and time grow together, so that takes some twenty looks at an index for
// a topic with a million events, and none for one that was quiet.
const topicColumns = `
	select p.name, coalesce(h.seq, tt.tail - 1, 0), coalesce(tt.tail, 1), e.created_at, coalesce(n.events, 0)
	from page p
	left join pgcast.topic_tail tt on tt.topic_id = p.id
	left join lateral (select r.seq, r.event_id, r.sequenced_at from pgcast.replay r where r.topic_id = p.id order by r.seq desc limit 1) h on true
	left join pgcast.event_log e on e.id = h.event_id
	left join lateral (
		with recursive cut (early, late) as (
			select coalesce(tt.tail, 1) - 1, h.seq where h.sequenced_at > now() - interval '1 minute'
			union all
			select case when m.isin then c.early else m.seq end, case when m.isin then m.seq else c.late end
			from cut c, lateral (select (c.early + c.late) / 2 as seq, coalesce((
				select r.sequenced_at > now() - interval '1 minute' from pgcast.replay r where r.topic_id = p.id and r.seq = (c.early + c.late) / 2), false) as isin) m
			where c.late - c.early > 1)
		select h.seq - min(late) + 1 as events from cut) n on true
	order by p.name`

const (
	// Names are in the order of their bytes, which the index has; a name that has no match is
	// passed over there. What is searched for is no pattern: % and _ are themselves.
	topicPage = `with page as materialized (
		select id, name from pgcast.topic where name > $1 and not starts_with(name, '__') and ($2 = '' or strpos(lower(name), lower($2)) > 0)
		order by name limit $3)` + topicColumns
	topicOne = `with page as materialized (select id, name from pgcast.topic where name = $1)` + topicColumns
)

// Topics implements [console.TopicSource].
func (s consoleTopics) Topics(ctx context.Context, search, after string, limit int) (console.Topics, error) {
	lines, err := s.lines(ctx, topicPage, after, search, limit+1)
	if err != nil {
		return console.Topics{}, err
	}
	t := console.Topics{Topics: lines}
	if len(lines) > limit {
		t.Topics = lines[:limit]
		t.Next = lines[limit-1].Name
	}
	return t, nil
}

// Topic implements [console.TopicSource].
func (s consoleTopics) Topic(ctx context.Context, name string) (console.TopicDetail, error) {
	if err := pgcast.CheckTopic(name); err != nil {
		return console.TopicDetail{}, err
	}
	exactly, err := pgcast.ParsePattern(name)
	if err != nil {
		return console.TopicDetail{}, err
	}
	lines, err := s.lines(ctx, topicOne, name)
	if err != nil {
		return console.TopicDetail{}, err
	}
	d := console.TopicDetail{Tables: []string{}, Key: []string{}}
	if len(lines) > 0 {
		d.TopicLine = lines[0]
	} else if d.TopicLine, err = s.unwritten(ctx, name); err != nil {
		return d, err
	}
	ctx, cancel := context.WithTimeout(ctx, consoleWait)
	defer cancel()
	tables, err := s.log.Tables(ctx)
	if err != nil {
		return d, unavailable(err)
	}
	var key []string
	for _, t := range tables {
		if t.Feeds(exactly) {
			d.Tables = append(d.Tables, t.Name)
			key = t.Key
		}
	}
	slices.Sort(d.Tables)
	if len(d.Tables) == 1 && key != nil {
		d.Key = key
	}
	return d, nil
}

// unwritten is a topic that has no event yet: whoever looks at it may write the first.
func (s consoleTopics) unwritten(ctx context.Context, name string) (console.TopicLine, error) {
	line := []console.TopicLine{{Name: name, Tail: 1}}
	err := s.complete(ctx, line)
	return line[0], err
}

func (s consoleTopics) lines(ctx context.Context, query string, args ...any) ([]console.TopicLine, error) {
	ctx, cancel := context.WithTimeout(ctx, consoleWait)
	defer cancel()
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, unavailable(err)
	}
	lines, err := pgx.AppendRows([]console.TopicLine{}, rows, func(row pgx.CollectableRow) (l console.TopicLine, err error) {
		var newest *time.Time
		var events int64
		if err = row.Scan(&l.Name, &l.Head, &l.Tail, &newest, &events); err == nil && newest != nil {
			at := newest.UnixMilli()
			l.Newest = &at
		}
		l.Rate = float64(events) / 60
		return l, err
	})
	if err != nil {
		return nil, unavailable(err)
	}
	return lines, s.complete(ctx, lines)
}

// complete adds who listens, and which retention rule holds.
func (s consoleTopics) complete(ctx context.Context, lines []console.TopicLine) error {
	names := make([]string, len(lines))
	for i := range lines {
		names[i] = lines[i].Name
	}
	rows, err := s.pool.Query(ctx, `select pattern, coalesce(max_age::text, ''), max_count from pgcast.retention`)
	if err != nil {
		return unavailable(err)
	}
	rules, err := pgx.CollectRows(rows, pgx.RowToStructByPos[console.Retention])
	if err != nil {
		return unavailable(err)
	}
	patterns := make([]pgcast.Pattern, len(rules))
	for i, r := range rules {
		if patterns[i], err = pgcast.ParsePattern(r.Pattern); err != nil {
			return &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("pgcast.retention has %q, which is no pattern", r.Pattern), Hint: "delete that row; until then nothing is trimmed"}
		}
	}
	for i, n := range s.hub.Subscribers(names) {
		lines[i].Subscribers = n
		if held := replay.Holding(patterns, names[i]); held >= 0 {
			lines[i].Retention = rules[held]
		}
	}
	return nil
}

// unavailable says that the database did not answer, and what it said.
func unavailable(err error) error {
	var told *pgcast.Error
	if errors.As(err, &told) {
		return err
	}
	return &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "the database does not answer: " + err.Error()}
}
