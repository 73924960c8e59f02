package replay

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcast/pgcast/db"
)

// Waiting gives the age of the oldest committed event without a place; 0 when there is
// none. conn must not be a sequencer's own.
func Waiting(ctx context.Context, conn db.DBTX) (time.Duration, error) {
	age, err := db.New(conn).SequencerWaiting(ctx)
	if err != nil {
		return 0, fmt.Errorf("look for events that wait: %w", err)
	}
	return time.Duration(max(age, 0) * float64(time.Second)), nil
}

// Overdue is what retention should have trimmed and has not.
type Overdue struct {
	Looked int           // topics looked at
	All    bool          // there are no others
	Topics int           // how many of them keep more than their rule allows
	Events int64         // kept beyond max_count
	Age    time.Duration // of the oldest event, beyond max_age
	Most   int64         // of Events in one topic
	Topic  string        // the one with the event of Age, or else the one with Most
}

// LookOverdue compares up to most topics with the rules for them. The error tells of a
// rule that cannot be read, with which no pass of retention works.
func LookOverdue(ctx context.Context, conn db.DBTX, most int) (o Overdue, err error) {
	r := &Retention{queries: db.New(conn)}
	rules, err := r.rules(ctx)
	if err != nil {
		return o, err
	}
	for after := int64(0); o.Looked < most; {
		topics, err := r.queries.RetentionTopics(ctx, db.RetentionTopicsParams{After: after, MaxTopics: topicsPerLook})
		if err != nil {
			return o, fmt.Errorf("list topics: %w", err)
		}
		for _, t := range topics {
			after = t.ID
			rule := rules.of(t.Name)
			age, events := time.Duration(0), int64(0)
			if rule.maxAge > 0 && t.OldestSeconds > rule.maxAge {
				age = time.Duration((t.OldestSeconds - rule.maxAge) * float64(time.Second))
			}
			if kept := t.Head - t.Tail + 1; rule.maxCount > 0 && kept > rule.maxCount {
				events = kept - rule.maxCount
			}
			if age > 0 || events > 0 {
				o.Topics++
			}
			o.Events += events
			if age > o.Age || o.Age == 0 && events > o.Most {
				o.Topic = t.Name
			}
			o.Age, o.Most = max(o.Age, age), max(o.Most, events)
		}
		o.Looked += len(topics)
		if len(topics) < topicsPerLook {
			o.All = true
			break
		}
	}
	return o, nil
}
