package client

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestRunOnce(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		p.accept()
		if err := c.Run(t.Context()); err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("a second Run returned %v", err)
		}
	})
}

func TestBadAddress(t *testing.T) {
	for _, url := range []string{"", "server:80", "ftp://server", "ws://\x00"} {
		if err := New(url, nil).Run(t.Context()); err == nil {
			t.Errorf("%q was accepted", url)
		}
	}
	for in, want := range map[string]string{
		"ws://server": "ws://server/ws", "https://server/": "https://server/ws", "wss://server/x?y=z": "wss://server/x?y=z",
	} {
		if got, err := endpoint(in); got != want || err != nil {
			t.Errorf("%s became %s, %v", in, got, err)
		}
	}
}

// TestEnd checks that nothing hangs when the client has ended, or has not begun.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New("ws://server", &Options{
			Logger: slog.New(slog.DiscardHandler),
			HTTPClient: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
				return nil, errors.New("no network")
			})},
		})
		c.Cut()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Next before Run: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run: %v", err)
		}
		if _, err := c.Next(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Next: %v", err)
		}
		n := 0
		for it, err := range c.Items(t.Context()) {
			if n++; it != nil || err == nil {
				t.Errorf("Items: %v, %v", it, err)
			}
		}
		if n != 1 {
			t.Errorf("Items ended after %d turns", n)
		}
		if _, err := c.Publish(t.Context(), "a", "e", nil, ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Publish: %v", err)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
