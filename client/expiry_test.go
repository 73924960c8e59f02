package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/auth/authtest"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/server"
)

// guard runs a server that wants to know who is there, and allows everything to those it
// knows.
func guard(t *testing.T, db *pgtest.DB, key *authtest.Key) string {
	t.Helper()
	db.Exec(t, `select pgcast.allow('{subscribe,history,publish}', '**')`)
	ready := make(chan string, 1)
	s, err := server.New(&server.Options{
		DatabaseURL: db.URL, Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", DrainTimeout: time.Second,
		Logger:  slog.New(slog.DiscardHandler),
		Access:  server.AccessOptions{On: true, Secret: key.Secret()},
		OnReady: func(listen, _ string) { ready <- listen },
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

// follow reads events that somebody publishes every now and then, until there are n, and
// wants each once and in order.
func follow(t *testing.T, db *pgtest.DB, c *client.Client, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Subscribe("a:1", nil); err != nil {
		t.Fatal(err)
	}
	background(t, c.Run)
	conn, began := db.Conn(t), false
	publish := func(ctx context.Context) error {
		tick := time.NewTicker(20 * time.Millisecond) // so that some come while it is away
		defer tick.Stop()
		for {
			if _, err := conn.Exec(ctx, `select pgcast.publish('a:1', 'e', '{}')`); err != nil {
				return err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	for last := pgcast.Seq(0); last < pgcast.Seq(n); {
		it, err := c.Next(ctx)
		if err != nil {
			t.Fatalf("after event %d: %v", last, err)
		}
		switch it := it.(type) {
		case client.Subscribed:
			if !began {
				began = true
				background(t, publish)
			}
		case client.Event:
			if it.Seq != last+1 {
				t.Fatalf("event %d comes after %d", it.Seq, last)
			}
			last++
		default:
			t.Fatalf("after event %d: %#v", last, it)
		}
	}
}

// A session lasts, and nothing is lost, while tokens of 2 s come and go: on the same
// connection.
func TestRenewingTokens(t *testing.T) {
	t.Parallel()
	db, key := pgtest.New(t, nil), authtest.New(t, "HS256")
	var given atomic.Int64
	c := client.New(guard(t, db, key), &client.Options{Logger: slog.New(slog.DiscardHandler), Token: func(context.Context) (string, error) {
		given.Add(1)
		return key.Token(t, map[string]any{"sub": "u1", "exp": float64(time.Now().Add(2*time.Second).UnixMilli()) / 1000}), nil
	}})
	follow(t, db, c, 250)
	if n, s := given.Load(), c.Stats(); n < 3 || s.Connects != 1 {
		t.Errorf("with %d tokens it has connected %d times", n, s.Connects)
	}
}

// Where the token cannot be renewed in time the client comes back with another, and goes on
// where it was.
func TestComingBackWithAnotherToken(t *testing.T) {
	t.Parallel()
	db, key := pgtest.New(t, nil), authtest.New(t, "HS256")
	var given atomic.Int64
	c := client.New(guard(t, db, key), &client.Options{Logger: slog.New(slog.DiscardHandler), MinBackoff: 10 * time.Millisecond,
		Token: func(context.Context) (string, error) {
			// One to connect with, and one of somebody else that will not do for the same session.
			n := given.Add(1)
			return key.Token(t, map[string]any{"sub": fmt.Sprint("u", n), "exp": float64(time.Now().Add(time.Second).UnixMilli()) / 1000}), nil
		}})
	follow(t, db, c, 150)
	if s := c.Stats(); s.Connects < 3 {
		t.Errorf("it has connected %d times", s.Connects)
	}
}

// The server's word on a credential that will not do reaches the app.
func TestRefusedCredentials(t *testing.T) {
	t.Parallel()
	db, key := pgtest.New(t, nil), authtest.New(t, "HS256")
	address := guard(t, db, key)
	apiKey := pgtest.Value[string](t, db, `select pgcast.create_api_key('a', '{subscribe}', '{a:**}')`)
	long := map[string]any{"sub": "u1", "x": strings.Repeat("x", 3500)}
	for _, tt := range []struct {
		name, token string
		code        int // 0: it is accepted
		want        string
	}{
		{"token", key.Token(t, map[string]any{"sub": "u1"}), 0, ""},
		{"long token", key.Token(t, long), 0, ""},
		{"API key", apiKey, 0, ""},
		{"forged", authtest.New(t, "HS256").Token(t, nil), 4401, "not signed with a key"},
		{"forged, and long", authtest.New(t, "HS256").Token(t, long), 401, "not signed with a key"},
		{"expired", key.Token(t, map[string]any{"exp": 1}), 4401, "has expired"},
		{"no API key", apiKey + "x", 4401, "API key is not valid"},
		{"rubbish", "rubbish", 4401, "not a token"},
	} {
		c := client.New(address, &client.Options{Logger: slog.New(slog.DiscardHandler), Token: client.StaticToken(tt.token),
			MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond})
		// As many subscriptions as may stand behind the hello.
		for i := range 300 {
			if err := c.Subscribe(fmt.Sprint("a:", strings.Repeat("x", 100), i), nil); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		ran := make(chan error, 1)
		go func() { ran <- c.Run(ctx) }()
		it, err := c.Next(ctx)
		var refused *client.RefusedError
		switch {
		case tt.code == 0:
			if _, ok := it.(client.Subscribed); !ok || err != nil {
				t.Errorf("%s: %#v, %v", tt.name, it, err)
			}
		case !errors.As(err, &refused) || refused.Code != tt.code || !strings.Contains(refused.Reason, tt.want):
			t.Errorf("%s: %#v, %v", tt.name, it, err)
		case strings.Contains(refused.Reason, tt.token) && len(tt.token) > 10:
			t.Errorf("%s: the reason shows the token: %s", tt.name, refused.Reason)
		}
		cancel()
		<-ran
	}
	end := time.Now().Add(10 * time.Second)
	for !pgtest.Value[bool](t, db, `select coalesce(bool_or(last_used_at is not null), false) from pgcast.api_key`) {
		if time.Now().After(end) {
			t.Fatal("it is not noted that the API key was used")
		}
	}
}
