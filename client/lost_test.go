package client_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/auth/authtest"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// A subscription to which the right is lost ends, and the app is told; what was missed, and is
// not for the client to see any more, is told as a gap.
func TestLostRights(t *testing.T) {
	t.Parallel()
	db, key := pgtest.New(t, nil), authtest.New(t, "HS256")
	c := client.New(guard(t, db, key), &client.Options{Logger: slog.New(slog.DiscardHandler), Token: func(context.Context) (string, error) {
		return key.Token(t, map[string]any{"sub": "u1"}), nil
	}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	next := func() client.Item {
		t.Helper()
		it, err := c.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return it
	}
	for _, topic := range []string{"a:1", "a:2"} {
		if err := c.Subscribe(topic, nil); err != nil {
			t.Fatal(err)
		}
	}
	background(t, c.Run)
	for range 2 {
		if it, is := next().(client.Subscribed); !is {
			t.Fatalf("it begins with %#v", it)
		}
	}
	db.Exec(t, `begin; delete from pgcast.rule where topic = '**' and 'subscribe' = any (verbs); select pgcast.allow('{subscribe}', 'a:2'); commit`)
	if it, is := next().(client.Denied); !is || it.Topic != "a:1" || it.Reason != "FORBIDDEN" {
		t.Fatalf("the right is lost: %#v", it)
	}
	db.Exec(t, `select pgcast.publish('a:1', 'secret'); select pgcast.publish('a:2', 'said')`)
	if it, is := next().(client.Event); !is || it.Topic != "a:2" || it.Seq != 1 {
		t.Fatalf("then comes %#v", it)
	}
	c.Cut()
	db.Exec(t, `select pgcast.publish('a:2', 'said') from generate_series(1, 5)`)
	back := false
	for expected := pgcast.Seq(2); expected < 8; {
		switch it := next().(type) {
		case client.Subscribed:
			back = true
			db.Exec(t, `select pgcast.publish('a:2', 'said')`)
		case client.Gap:
			if it.Topic != "a:2" || it.After != int64(expected)-1 || it.Tail > 8 {
				t.Fatalf("before %d: %#v", expected, it)
			}
			expected = pgcast.Seq(it.Tail)
		case client.Event:
			if it.Topic != "a:2" || it.Seq != expected {
				t.Fatalf("before %d: %#v", expected, it)
			}
			expected++
		default:
			t.Fatalf("before %d: %#v", expected, it)
		}
	}
	if !back {
		t.Error("it did not come back")
	}
}
