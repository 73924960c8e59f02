package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// start runs a client of a server until the test ends.
func start(t *testing.T, address string, opts *client.Options) *client.Client {
	t.Helper()
	var o client.Options
	if opts != nil {
		o = *opts
	}
	o.MinBackoff, o.MaxBackoff = time.Millisecond, 20*time.Millisecond
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := client.New(address, &o)
	background(t, c.Run)
	return c
}

// insert publishes events to a topic in one transaction.
func insert(t *testing.T, db *pgtest.DB, topic string, n int) {
	t.Helper()
	db.Exec(t, fmt.Sprintf(`select pgcast.publish('%s', 'e', to_jsonb(i)) from generate_series(1, %d) i`, topic, n))
}

// Several topics are iterated at the same time, one of them by a consumer that takes nothing
// for long: the others get theirs, and it gets all of its own, each once and in order.
func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	address := serve(t, db)
	c := start(t, address, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const events = 2000
	for _, name := range []string{"slow", "a:1", "b:1"} {
		insert(t, db, name, events)
	}
	var wg sync.WaitGroup
	others, stopped := make(chan struct{}), c.Topic("slow", &client.TopicOptions{From: &client.From{}, Buffer: 100})
	read := func(topic *client.Topic, first func()) {
		want := pgcast.Seq(1)
		for e, err := range topic.Events(ctx) {
			if err != nil || e.Seq != want {
				t.Errorf("%s: got %d, %v; want %d", topic.Name(), e.Seq, err, want)
				return
			}
			if first != nil && want%(events/4) == 1 {
				first()
			}
			if want++; want > events {
				return
			}
		}
	}
	wg.Go(func() {
		read(stopped, func() {
			select {
			case <-others:
			case <-ctx.Done():
			}
		})
	})
	var fast sync.WaitGroup
	for _, name := range []string{"a:*", "b:1"} {
		fast.Go(func() { read(c.Topic(name, &client.TopicOptions{From: &client.From{}}), nil) })
	}
	fast.Wait()
	close(others)
	wg.Wait()
	s := c.Stats()
	if s.Pauses == 0 || s.Connects != 1 || s.Holes+s.Duplicates+s.Gaps+s.Resets != 0 {
		t.Errorf("stats %+v", s)
	}
	t.Logf("the topic of the slow consumer stopped %d times for %d events", s.Pauses, events)
}

// A client is used one way or the other, and its topics may not select the same events.
func TestOneWayOrTheOther(t *testing.T) {
	t.Parallel()
	c := start(t, serve(t, pgtest.New(t, nil)), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	invalid := &pgcast.Error{Code: pgcast.CodeInvalid}
	first := func(topic *client.Topic) error {
		for _, err := range topic.Items(ctx) {
			return err
		}
		return nil
	}
	held := c.Topic("room:*", nil)
	for it, err := range held.Items(ctx) {
		if err != nil || it != (client.Subscribed{Topic: "room:*"}) {
			t.Fatalf("got %#v, %v", it, err)
		}
		for _, name := range []string{"room:*", "room:1", "*:1", "**"} {
			if err := first(c.Topic(name, nil)); !errors.Is(err, invalid) {
				t.Errorf("%s beside room:*: %v", name, err)
			}
		}
		if err := first(held); !errors.Is(err, invalid) {
			t.Errorf("the same topic again: %v", err)
		}
		for _, name := range []string{"room", "room:1:x", "board:*"} {
			if err := first(c.Topic(name, nil)); err != nil {
				t.Errorf("%s beside room:*: %v", name, err)
			}
		}
		break
	}
	if err := first(c.Topic("room:1", nil)); err != nil {
		t.Errorf("room:1 after room:*: %v", err)
	}
	if err := c.Subscribe("x", nil); !errors.Is(err, invalid) {
		t.Errorf("Subscribe: %v", err)
	}
	if _, err := c.Next(ctx); !errors.Is(err, invalid) {
		t.Errorf("Next: %v", err)
	}
	other := client.New("ws://127.0.0.1:1", nil)
	if err := other.Subscribe("x", nil); err != nil {
		t.Fatal(err)
	}
	if err := first(other.Topic("y", nil)); !errors.Is(err, invalid) {
		t.Errorf("a topic beside Subscribe: %v", err)
	}
	for name, o := range map[string]*client.TopicOptions{"a:**:b": nil, "a:*": {Snapshot: true}, "a": {Snapshot: true, From: &client.From{}}, "b": {From: &client.From{After: -1}}} {
		if err := first(c.Topic(name, o)); err == nil {
			t.Errorf("%s with %+v is iterated", name, o)
		}
	}
}

// Whoever breaks and iterates again goes on after the newest item that was handed over; also
// another process, by the places that are kept.
func TestGoOn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	address := serve(t, db)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	insert(t, db, "a:1", 30)
	places := client.FilePlaces(t.TempDir() + "/places")
	want := pgcast.Seq(1)
	read := func(topic *client.Topic, n int) {
		t.Helper()
		for e, err := range topic.Events(ctx) {
			if err != nil || e.Seq != want {
				t.Fatalf("got %d, %v; want %d", e.Seq, err, want)
			}
			want++
			if n--; n == 0 {
				return
			}
		}
	}
	for _, o := range []client.TopicOptions{{}, {Manual: true}} {
		o.From = &client.From{}
		o.PlaceName = fmt.Sprint("manual ", o.Manual)
		want = 1
		topic := start(t, address, &client.Options{Places: places}).Topic("a:1", &o)
		read(topic, 5)
		if place, ok := topic.Place(); !ok || place.After != 5 || place.ID == "" {
			t.Errorf("the place is %v, %v", place, ok)
		}
		read(topic, 5)
		if o.Manual {
			place, _ := topic.Place()
			place.After, place.ID = 3, "" // so far the consumer's transactions have got
			if err := topic.Commit(ctx, place); err != nil {
				t.Fatal(err)
			}
			want = 4
		} else {
			want = 10 // its consumer broke at 10: nobody knows whether it had done with it
		}
		again := start(t, address, &client.Options{Places: places}).Topic("a:1", &o)
		read(again, 12)
	}
	c := start(t, address, nil)
	if err := c.Topic("a:1", nil).Commit(ctx, client.From{}); err == nil {
		t.Error("a place was stored nowhere")
	}
}

// Publish is idempotent by itself, and history comes page by page.
func TestTopicPublishAndHistory(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	c := start(t, serve(t, db), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	topic := c.Topic("a:1", &client.TopicOptions{From: &client.From{}})
	type said struct{ N int }
	for n := range 10 {
		if n%2 == 1 {
			c.Cut()
		}
		if _, err := topic.Publish(ctx, "said", said{n}, nil); err != nil {
			t.Fatal(err)
		}
	}
	insert(t, db, "a:1", 2490)
	for e, err := range topic.Events(ctx) { // it is committed; now it has its seqs
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq == 2500 {
			break
		}
	}
	n := 0
	for e, err := range topic.History(ctx, 0) {
		if err != nil || e.Seq != pgcast.Seq(n+1) {
			t.Fatalf("%d: %+v, %v", n, e, err)
		}
		if n < 10 {
			if v, err := client.Decode[said](e); err != nil || v.N != n {
				t.Errorf("event %d holds %v, %v", n, v, err)
			}
		}
		n++
	}
	if n != 2500 {
		t.Errorf("the history has %d events", n)
	}
	filtered := c.Topic("a:1", &client.TopicOptions{Filter: "N >= 8"})
	n = 0
	for e, err := range filtered.History(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if v, err := client.Decode[said](e); err != nil || v.N < 8 {
			t.Errorf("got %s, %v", e.Data, err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("the filter selects %d events", n)
	}
	key := &client.PublishOptions{Key: "k"}
	one, err1 := topic.Publish(ctx, "said", nil, key)
	two, err2 := topic.Publish(ctx, "said", nil, key)
	if one != two || errors.Join(err1, err2) != nil {
		t.Errorf("one key gave %s and %s, %v, %v", one, two, err1, err2)
	}
	if _, err := topic.Publish(ctx, "said", func() {}, nil); !errors.Is(err, &pgcast.Error{Code: pgcast.CodeInvalidEvent}) {
		t.Errorf("published a function: %v", err)
	}
	if _, err := c.Topic("a:*", nil).Publish(ctx, "e", nil, nil); err == nil {
		t.Error("published to a pattern")
	}
}
