package client

import (
	"errors"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// TestBackoff checks the pauses between attempts that fail, and that a connection that
// worked begins anew.
func TestBackoff(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		live(t, c, conn, "a", 1, 0)
		for range 2 {
			conn.end()
			last := time.Now()
			for _, full := range []time.Duration{100, 200, 400, 800, 1600, 3200, 5000, 5000} {
				full *= time.Millisecond
				conn = p.accept()
				if d := conn.at.Sub(last); d < full/2 || d > full {
					t.Errorf("came back after %s, want %s to %s", d, full/2, full)
				}
				conn.end()
				last = time.Now()
			}
			conn = p.accept()
			_, _, err := conn.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			conn.send(subscribed("a", int(c.lastRef), 0))
			next(t, c, Subscribed{"a", 0, true})
		}
	})
}

func TestServerSaysWhenToComeBack(t *testing.T) {
	for _, c := range []struct {
		code     int
		reason   string
		min, max time.Duration
	}{
		{1001, "retry=1234", 1234 * time.Millisecond, 1234 * time.Millisecond},
		{1001, "retry=0", 0, 0},
		{1001, "retry=99999999", time.Minute, time.Minute},
		{1001, "retry=-5", 50 * time.Millisecond, 100 * time.Millisecond},
		{1001, "", 50 * time.Millisecond, 100 * time.Millisecond},
		{4408, "resume", 50 * time.Millisecond, 100 * time.Millisecond},
		{4429, "", 2500 * time.Millisecond, 5 * time.Second},
	} {
		t.Run(strconv.Itoa(c.code)+c.reason, func(t *testing.T) {
			run(t, nil, func(t *testing.T, _ *Client, p *peer) {
				conn := p.accept()
				conn.quit(c.code, c.reason)
				closed := time.Now()
				if d := p.accept().at.Sub(closed); d < c.min || d > c.max {
					t.Errorf("came back after %s, want %s to %s", d, c.min, c.max)
				}
			})
		})
	}
}

func TestRefusedForGood(t *testing.T) {
	for _, code := range []int{1008, 4401, 4403} {
		run(t, nil, func(t *testing.T, c *Client, p *peer) {
			p.accept().quit(code, "because")
			_, err := c.Next(t.Context())
			var refused *RefusedError
			if !errors.As(err, &refused) || refused.Code != code || refused.Reason != "because" {
				t.Errorf("Next: %v", err)
			}
		})
	}
}

func TestHandshakeRefused(t *testing.T) {
	for _, status := range []int{401, 403} {
		no := func(w http.ResponseWriter) bool {
			http.Error(w, "no", status)
			return true
		}
		runRefusing(t, nil, no, func(t *testing.T, c *Client, p *peer) {
			_, err := c.Next(t.Context())
			var refused *RefusedError
			if !errors.As(err, &refused) || refused.Code != status {
				t.Errorf("Next: %v", err)
			}
		})
	}
	for _, c := range []struct {
		status   int
		header   string
		min, max time.Duration
	}{
		{503, "10", 5 * time.Second, 15 * time.Second},
		{503, "", 50 * time.Millisecond, 100 * time.Millisecond},
		{429, "", 2500 * time.Millisecond, 5 * time.Second},
		{502, "soon", 50 * time.Millisecond, 100 * time.Millisecond},
	} {
		var refused time.Time
		once := func(w http.ResponseWriter) bool {
			if !refused.IsZero() {
				return false
			}
			refused = time.Now()
			if c.header != "" {
				w.Header().Set("Retry-After", c.header)
			}
			w.WriteHeader(c.status)
			return true
		}
		runRefusing(t, nil, once, func(t *testing.T, _ *Client, p *peer) {
			if d := p.accept().at.Sub(refused); d < c.min || d > c.max {
				t.Errorf("%d: came back after %s, want %s to %s", c.status, d, c.min, c.max)
			}
		})
	}
}
