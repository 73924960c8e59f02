package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/pgcast/pgcast"
)

// Rows is a live table: what a topic held when the subscription began, and every event since,
// folded into it. Writes go to Postgres and come back as events; there are no local ones laid
// over it, as the TypeScript client has for what a person is looking at.
//
// Changes of one transaction are applied one by one, so that a reader may see some of them.
type Rows[K comparable, T any] struct {
	topic *Topic
	key   func(T) K
	rows  state[K, T]
	next  map[K]T // a snapshot that is not complete

	ready    chan struct{} // closed when the first snapshot is complete
	over     chan struct{} // closed when Run has returned
	complete sync.Once
	err      error // Run's; set before over is closed

	mu       sync.Mutex
	ran      bool
	oversize []json.RawMessage
	missing  []json.RawMessage // oversize, of next
}

// NewRows makes a live table of a topic with [TopicOptions].Snapshot, whose rows are read as
// T. key gives what a row is known by: it may look only at columns of the table's key (or
// replica identity), since of rows that are deleted nothing else is there. Run fills it.
func NewRows[K comparable, T any](topic *Topic, key func(T) K) *Rows[K, T] {
	return &Rows[K, T]{topic: topic, key: key, ready: make(chan struct{}), over: make(chan struct{})}
}

// errAnew says that the rows must be read anew.
var errAnew = errors.New("the rows are to be read anew")

// anewEvery is how often they are, at most.
const anewEvery = time.Second

// Run keeps the rows until ctx ends, Run of the client returns or the subscription is denied
// ([Denied]). It runs once. After a gap, a reset or an event that is larger than the server
// sends, the rows are read anew, while those that were there stay to be read; because of such
// events at most once a second.
func (r *Rows[K, T]) Run(ctx context.Context) error {
	r.mu.Lock()
	ran := r.ran
	r.ran = true
	r.mu.Unlock()
	switch {
	case ran:
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "these rows have been kept already", Hint: "make new ones"}
	case r.topic.err == nil && !r.topic.opts.Snapshot:
		r.err = &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("keep the rows of %q: the topic begins without them", r.topic.name),
			Hint: "set TopicOptions.Snapshot"}
	default:
		r.err = errAnew
	}
	var began time.Time
	for errors.Is(r.err, errAnew) {
		// A row that is too large and changes often must not have the server read all of them each time.
		if !sleep(ctx, time.Until(began.Add(anewEvery))) {
			r.err = ctx.Err()
			break
		}
		began = time.Now()
		r.topic.anew()
		r.err = r.run(ctx)
	}
	close(r.over)
	return r.err
}

func (r *Rows[K, T]) run(ctx context.Context) error {
	for it, err := range r.topic.Items(ctx) {
		switch it := it.(type) {
		case Event:
			err = r.event(it)
		case Snapshot:
			err = r.snapshot(it)
		case Denied:
			err = it
		}
		if err != nil {
			return err
		}
	}
	return r.topic.c.err
}

// anew has the next iteration begin with a snapshot.
func (t *Topic) anew() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.here = reached{}
}

func (r *Rows[K, T]) snapshot(s Snapshot) error {
	if s.First {
		r.next, r.missing = map[K]T{}, nil
	}
	r.missing = append(r.missing, s.Oversize...)
	for _, text := range s.Rows {
		row, key, err := r.read(text)
		if err != nil {
			return err
		}
		r.next[key] = row
	}
	for _, e := range s.Events {
		switch e.Name {
		case pgcast.Created, pgcast.Updated:
			row, key, err := r.read(e.Data)
			if err != nil {
				return err
			}
			r.next[key] = row
		}
	}
	if s.Last {
		r.rows.replace(r.next)
		r.mu.Lock()
		r.oversize = r.missing
		r.mu.Unlock()
		r.next = nil
		r.complete.Do(func() { close(r.ready) })
	}
	return nil
}

func (r *Rows[K, T]) event(e Event) error {
	switch {
	case e.Oversize:
		return errAnew // whose it is only a snapshot says
	case e.Name == pgcast.Truncated, e.Name == pgcast.Gone && e.Old == nil: // a table that was dropped
		r.rows.replace(nil)
		return nil
	}
	var old *K
	if e.Old != nil {
		_, key, err := r.read(e.Old)
		if err != nil {
			return err
		}
		old = &key
	}
	switch e.Name {
	case pgcast.Created, pgcast.Updated, "entered":
		row, key, err := r.read(e.Data)
		if err != nil {
			return err
		}
		if old != nil && *old != key {
			r.rows.remove(*old)
		}
		r.rows.set(key, row)
	case pgcast.Deleted, pgcast.Gone:
		if old != nil {
			r.rows.remove(*old)
		} else if _, key, err := r.read(e.Data); err != nil {
			return err
		} else {
			r.rows.remove(key)
		}
	}
	return nil
}

func (r *Rows[K, T]) read(text json.RawMessage) (row T, key K, err error) {
	if err = json.Unmarshal(text, &row); err != nil {
		return row, key, fmt.Errorf("read a row of %q: %w", r.topic.name, err)
	}
	return row, r.key(row), nil
}

// Ready waits until the rows are complete for the first time. It fails when ctx ends, and
// with Run's error when that has returned before.
func (r *Rows[K, T]) Ready(ctx context.Context) error {
	select {
	case <-r.ready:
		return nil
	case <-r.over:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Get gives the row of a key, and whether there is one.
func (r *Rows[K, T]) Get(key K) (T, bool) { return r.rows.get(key) }

// Len is how many rows there are.
func (r *Rows[K, T]) Len() int { return r.rows.len() }

// All gives the rows of this moment, in no order.
func (r *Rows[K, T]) All() iter.Seq2[K, T] {
	return func(yield func(K, T) bool) {
		for key, row := range r.rows.all() {
			if !yield(key, row) {
				return
			}
		}
	}
}

// Oversize are the keys, as JSON, of rows that are larger than the server sends, and so are
// not among the others: of the newest snapshot.
func (r *Rows[K, T]) Oversize() []json.RawMessage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.oversize
}

// Changes gives the rows that there are, and then those that change, come and go, until the
// caller breaks or, with an error as the last, ctx ends or Run returns. A slow caller is told
// the newest of each row, not all that were in between. Any number may iterate.
func (r *Rows[K, T]) Changes(ctx context.Context) iter.Seq2[Change[K, T], error] {
	return r.rows.changes(ctx, r.over, func() error { return r.err })
}
