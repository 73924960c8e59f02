package client

import (
	"testing"
)

// Through a filter seqs are missing, which are no losses; after a reconnect it is asked for
// with the filter again, from the newest event.
func TestFilterHasHoles(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		if err := c.SubscribeWith("a", SubscribeOptions{Filter: `n > 1 and s = 'x"y'`}); err != nil {
			t.Fatal(err)
		}
		conn.want(`{"type":"subscribe","ref":1,"topic":"a","filter":"n \u003e 1 and s = 'x\"y'"}`)
		e3, i3 := ev("a", 3, 0, "a")
		e9, i9 := ev("a", 9, 0, "a")
		conn.send(subscribed("a", 1, 0), e3, e9, e3)
		next(t, c, Subscribed{"a", 0, false}, i3, i9)
		conn.end()
		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":2,"topics":[{"topic":"a","after":9,"id":"i9","filter":"n \u003e 1 and s = 'x\"y'"}]}`)
		e30, i30 := ev("a", 30, 0, "a")
		conn.send(subscribed("a", 2, 9), `{"type":"gap","topic":"a","after":15,"tail":21,"head":40}`, e30)
		next(t, c, Subscribed{"a", 9, true}, Gap{"a", 9, 21, 40}, i30)
		nothing(t, c)
		if s := c.Stats(); s.Holes != 0 || s.Duplicates != 1 || s.Gaps != 1 {
			t.Errorf("%+v", s)
		}
		// Another filter is another subscription.
		if err := c.SubscribeWith("a", SubscribeOptions{Snapshot: true, Filter: "n = 2"}); err != nil {
			t.Fatal(err)
		}
		conn.want(`{"type":"unsubscribe","topic":"a"}`, `{"type":"subscribe","ref":3,"topic":"a","snapshot":true,"filter":"n = 2"}`)
		conn.send(`{"type":"subscribe-denied","topic":"a","ref":3,"reason":"INVALID_FILTER"}`, `{"type":"error","ref":3,"code":"invalid","message":"m"}`)
		next(t, c, Denied{"a", "INVALID_FILTER"})
		if err := c.SubscribeWith("a", SubscribeOptions{Snapshot: true, From: &From{}}); err == nil {
			t.Error("a snapshot and a place stood together")
		}
	})
}
