package replay

import (
	"context"
	"fmt"
	"log/slog"
	"sort"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
)

// Retention trims topics by the rules in pgcast.retention. It runs on the sequencing
// server. For each topic it moves the tail in one transaction and deletes in the next,
// so that a reader, who sees tail and events in one look, never meets a hole.
type Retention struct {
	pool    *pgxpool.Pool
	queries *db.Queries
	opts    RetentionOptions
	metrics *metrics
	log     *slog.Logger
}

// RetentionOptions; the zero value is usable.
type RetentionOptions struct {
	Every time.Duration // between two passes over all topics; default 1 minute
	Batch int           // events trimmed per topic and transaction; default 1,000
	// Batches trimmed per topic and pass; default 50. A pass takes seconds where there are
	// 100,000 topics, and must keep up with the busiest of them meanwhile.
	Batches int
}

const topicsPerLook = 500

func newRetention(pool *pgxpool.Pool, opts *RetentionOptions, m *metrics, log *slog.Logger) *Retention {
	r := &Retention{pool: pool, queries: db.New(pool), metrics: m, log: log}
	if opts != nil {
		r.opts = *opts
	}
	if r.opts.Every <= 0 {
		r.opts.Every = time.Minute
	}
	if r.opts.Batch <= 0 {
		r.opts.Batch = 1000
	}
	if r.opts.Batches <= 0 {
		r.opts.Batches = 50
	}
	return r
}

// run makes a pass now and then until ctx ends. A pass that fails is logged and tried
// again at the next turn: trimming late hurts nobody.
func (r *Retention) run(ctx context.Context) error {
	for {
		more, err := r.pass(ctx)
		if err != nil && ctx.Err() == nil {
			r.log.Warn("retention: pass failed, will try again", "error", err)
		}
		wait := r.opts.Every
		if more && err == nil {
			wait = min(wait, 100*time.Millisecond) // a backlog is worked off steadily, not at once
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// pass goes over all topics once. more tells that some topic may have more to trim.
func (r *Retention) pass(ctx context.Context) (more bool, err error) {
	rules, err := r.rules(ctx)
	if err != nil {
		return false, err
	}
	if _, err := r.queries.RetentionKeys(ctx); err != nil {
		return false, fmt.Errorf("delete old idempotency keys: %w", err)
	}
	if _, err := r.queries.RevocationExpired(ctx); err != nil {
		return false, fmt.Errorf("delete revocations that have ended: %w", err)
	}
	if _, err := r.queries.TicketExpired(ctx); err != nil {
		return false, fmt.Errorf("delete expired tickets: %w", err)
	}
	for after := int64(0); ; {
		topics, err := r.queries.RetentionTopics(ctx, db.RetentionTopicsParams{After: after, MaxTopics: topicsPerLook})
		if err != nil {
			return more, fmt.Errorf("list topics: %w", err)
		}
		for _, t := range topics {
			after = t.ID
			full, err := r.trim(ctx, t, rules.of(t.Name))
			if err != nil {
				return more, fmt.Errorf("trim topic %q: %w", t.Name, err)
			}
			more = more || full
		}
		if len(topics) < topicsPerLook {
			return more, nil
		}
	}
}

// trim brings one topic some batches nearer to its rule. full tells that it took all of
// them whole, so that there may be more.
func (r *Retention) trim(ctx context.Context, t db.RetentionTopicsRow, rule rule) (full bool, err error) {
	tooMany := rule.maxCount > 0 && t.Head-t.Tail+1 > rule.maxCount
	tooOld := rule.maxAge > 0 && t.OldestSeconds > rule.maxAge
	if !tooMany && !tooOld && !t.Leftover {
		return false, nil
	}
	start := t.Tail
	if t.Leftover {
		start = 0
	}
	for range r.opts.Batches {
		if tooMany || tooOld {
			if _, err := r.queries.RetentionTail(ctx, db.RetentionTailParams{TopicID: t.ID, Batch: int32(r.opts.Batch),
				MaxCount: rule.maxCount, MaxAgeSeconds: rule.maxAge}); err != nil {
				return false, fmt.Errorf("move its tail: %w", err)
			}
		}
		n, err := r.queries.RetentionDelete(ctx, db.RetentionDeleteParams{TopicID: t.ID, Start: start, Batch: int32(r.opts.Batch)})
		if err != nil {
			return false, fmt.Errorf("delete before its tail: %w", err)
		}
		r.metrics.trimmed.Add(float64(n))
		if n < int64(r.opts.Batch) {
			return false, nil
		}
		start += n // a topic has no holes; what was left by a crash may have begun later
	}
	return true, nil
}

type rule struct {
	pattern  pgcast.Pattern
	maxAge   float64 // seconds; 0: no limit
	maxCount int64   // 0: no limit
}

type rules []rule

func (r *Retention) rules(ctx context.Context) (rules, error) {
	rows, err := r.queries.RetentionList(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the retention rules: %w", err)
	}
	var list rules
	for _, row := range rows {
		p, err := pgcast.ParsePattern(row.Pattern)
		if err != nil {
			return nil, fmt.Errorf("read the retention rules: %w", err)
		}
		list = append(list, rule{p, row.MaxAgeSeconds, row.MaxCount})
	}
	sort.SliceStable(list, func(i, j int) bool { return literals(list[i].pattern) > literals(list[j].pattern) })
	return list, nil
}

// ownAge is for how long, in seconds, events of the server's own topics are kept, which no
// pattern selects: servers that have been away for longer start anew anyway.
const ownAge = 24 * 60 * 60

// of gives the rule with most literal segments that selects the topic; the zero rule
// keeps for ever.
func (rs rules) of(topic string) rule {
	if strings.HasPrefix(topic, "__") {
		return rule{maxAge: ownAge}
	}
	for _, r := range rs {
		if r.pattern.Match(topic) {
			return r
		}
	}
	return rule{}
}

// Holding gives which of the patterns in pgcast.retention is that of the rule that holds for a
// topic; -1: none is, and it is kept for ever.
func Holding(patterns []pgcast.Pattern, topic string) int {
	best := -1
	for i, p := range patterns {
		if p.Match(topic) && (best < 0 || literals(p) > literals(patterns[best])) {
			best = i
		}
	}
	return best
}

// literals orders patterns by how much they say: literal segments first, then * over
// ** (which selects more).
func literals(p pgcast.Pattern) int {
	n := 0
	for seg := range strings.SplitSeq(p.String(), ":") {
		switch seg {
		case "**":
		case "*":
			n++
		default:
			n += 1000
		}
	}
	return n
}
