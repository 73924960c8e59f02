package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/server"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// serve runs a server on db until the test ends, and gives its address.
func serve(t *testing.T, db *pgtest.DB, rules ...ratelimit.Rule) string {
	t.Helper()
	ready := make(chan string, 1)
	s, err := server.New(&server.Options{
		DatabaseURL: db.URL, Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", DrainTimeout: time.Second, RingSize: 32,
		SnapshotFresh: time.Millisecond,
		Logger:        slog.New(slog.DiscardHandler),
		Live:          server.LiveOptions{RateLimits: rules},
		OnReady:       func(listen, _ string) { ready <- listen },
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, s.Run)
	select {
	case address := <-ready:
		return "ws://" + address
	case <-time.After(30 * time.Second):
		t.Fatal("the server is not ready after 30 s")
		return ""
	}
}

// background runs something until the test ends.
func background(t *testing.T, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

var topics = []string{"a:1", "a:2", "b:1", "a", "a:1:x"}

// write publishes events in transactions of several, some of which are rolled back, and
// returns how many were committed.
func write(ctx context.Context, db *pgtest.DB, t *testing.T, seed uint64, transactions int) int {
	conn := db.Conn(t)
	r := rand.New(rand.NewPCG(seed, 1))
	committed := 0
	for range transactions {
		n := 1 + r.IntN(5)
		sql := "begin;"
		for range n {
			sql += fmt.Sprintf("select pgcast.publish('%s', 'e', '%d');", topics[r.IntN(len(topics))], r.IntN(100))
		}
		if r.IntN(10) == 0 {
			sql += "rollback"
		} else {
			sql += "commit"
			committed += n
		}
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Error(err)
		}
	}
	return committed
}

// TestOverlappingSubscriptions has a client with subscriptions that select the same
// events lose its connection again and again, and change its mind about some of them,
// while events are written: it gets each one once, and each topic in order.
func TestOverlappingSubscriptions(t *testing.T) {
	db := pgtest.New(t, nil)
	c := client.New(serve(t, db), &client.Options{MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond,
		Logger: slog.New(slog.DiscardHandler)})
	for _, key := range []string{"a:1", "b:1", "a:*", "**", "*:1"} {
		if err := c.Subscribe(key, &client.From{}); err != nil {
			t.Fatal(err)
		}
	}
	background(t, c.Run)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	counts := make(chan int, 2)
	for seed := range uint64(2) {
		go func() { counts <- write(ctx, db, t, seed, 400) }()
	}
	// Until the writers are done, nobody knows how many events there are to wait for.
	got, last, total := 0, map[string]pgcast.Seq{}, -1
	r := rand.New(rand.NewPCG(7, 7))
	for got != total {
		if total < 0 && len(counts) == 2 {
			total = <-counts + <-counts
			continue
		}
		wait, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		it, err := c.Next(wait)
		cancel()
		if err != nil && ctx.Err() == nil {
			continue
		}
		if err != nil {
			t.Fatalf("after %d of %d events: %v", got, total, err)
		}
		switch it := it.(type) {
		case client.Event:
			if want := last[it.Topic] + 1; it.Seq != want {
				t.Fatalf("%s: %d came through %s, want %d", it.Topic, it.Seq, it.Through, want)
			}
			last[it.Topic] = it.Seq
			got++
			disturb(t, c, r)
		case client.Subscribed:
		default:
			t.Fatalf("got %#v", it)
		}
	}
	s := c.Stats()
	if s.Holes+s.Duplicates+s.Gaps+s.Resets != 0 {
		t.Errorf("stats %+v", s)
	}
	t.Logf("%d events over %d connections", got, s.Connects)
}

func disturb(t *testing.T, c *client.Client, r *rand.Rand) {
	other := []string{"a:2", "a:1:x", "a:**"}[r.IntN(3)]
	switch r.IntN(60) {
	case 0:
		c.Cut()
	case 1:
		c.Unsubscribe(other)
	case 2:
		if err := c.Subscribe(other, nil); err != nil {
			t.Error(err)
		}
	}
}

func TestPublishAndHistory(t *testing.T) {
	db := pgtest.New(t, nil)
	c := client.New(serve(t, db), &client.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := c.Subscribe("a:*", nil); err != nil {
		t.Fatal(err)
	}
	background(t, c.Run)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if it, err := c.Next(ctx); err != nil || it != (client.Subscribed{Topic: "a:*"}) {
		t.Fatalf("%#v, %v", it, err)
	}
	id, err := c.Publish(ctx, "a:1", "hello", []byte(`{"n":1}`), "key")
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Publish(ctx, "a:1", "hello", nil, "key")
	if err != nil || again != id {
		t.Errorf("the same key again gave %s, %v; want %s", again, err, id)
	}
	it, err := c.Next(ctx)
	e, ok := it.(client.Event)
	if !ok || e.ID != id || e.Seq != 1 || string(e.Data) != `{"n": 1}` || e.Through != "a:*" {
		t.Fatalf("%#v, %v", it, err)
	}
	for topic, after := range map[string]int64{"a:1": 0, "a:**": int64(e.Position) - 1} {
		page, err := c.History(ctx, topic, after, 10)
		if err != nil || len(page.Events) != 1 || page.Events[0].ID != id || page.Tail != 1 || page.Head < 1 {
			t.Errorf("history of %s: %+v, %v", topic, page, err)
		}
	}
	for _, topic := range []string{"__x", "a:*"} {
		if _, err := c.Publish(ctx, topic, "e", nil, ""); err == nil {
			t.Errorf("published to %s", topic)
		}
	}
}

// A call that comes too often says when to try again, and then succeeds. Subscriptions that
// do are made when they can be.
func TestRateLimited(t *testing.T) {
	t.Parallel()
	rules, err := ratelimit.ParseRules("publish ip 4/1s burst 1, subscribe ip 3/1s")
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, pgtest.New(t, nil), rules...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var c *client.Client
	for range 3 { // each takes the whole bucket
		c = client.New(address, &client.Options{MinBackoff: 100 * time.Millisecond})
		for _, topic := range []string{"a", "b", "c"} {
			if err := c.Subscribe(topic, nil); err != nil {
				t.Fatal(err)
			}
		}
		background(t, c.Run)
		subscribed := map[string]bool{}
		for item, err := range c.Items(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if s, ok := item.(client.Subscribed); ok {
				subscribed[s.Topic] = true
			} else {
				t.Errorf("got %+v", item)
			}
			if len(subscribed) == 3 {
				break
			}
		}
	}
	denied := 0
	for published := 0; published < 3; {
		_, err := c.Publish(ctx, "a", "said", nil, "")
		if err == nil {
			published++
			continue
		}
		var e *pgcast.Error
		if !errors.As(err, &e) || e.Code != pgcast.CodeRateLimited || e.RetryAfter <= 0 || e.RetryAfter > 250*time.Millisecond {
			t.Fatal(err)
		}
		if denied++; denied > 1000 {
			t.Fatal("it is denied for ever")
		}
		<-time.After(e.RetryAfter)
	}
}
