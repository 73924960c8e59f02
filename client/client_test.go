package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast"
)

func TestLive(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		live(t, c, conn, "a", 1, 41)
		e42, i42 := ev("a", 42, 0, "a")
		e43, i43 := ev("a", 43, 0, "a")
		e44, i44 := ev("a", 44, 0, "a")
		conn.send(e42, `{"type":"hb"}`, `{"type":"later","x":1}`, batch(e43, e44))
		next(t, c, i42, i43, i44)
		nothing(t, c)
		if from := i44.From(); from != (From{After: 44, ID: "i44"}) {
			t.Errorf("the place of 44 is %v", from)
		}
		want := Stats{Connected: true, Connects: 1, Events: 3}
		if got := c.Stats(); got != want {
			t.Errorf("stats %+v, want %+v", got, want)
		}
	})
}

func TestResumes(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		live(t, c, conn, "a", 1, 41)
		live(t, c, conn, "quiet", 2, 7)
		live(t, c, conn, "x:*", 3, 100)
		flow(t, c, conn, "a", 42, 43)
		text, item := ev("x:1", 5, 103, "x:*")
		conn.send(text)
		next(t, c, item)
		c.Cut()
		conn.end()

		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":4,"topics":[{"topic":"a","after":43,"id":"i43"},` +
			`{"topic":"quiet","after":7},{"topic":"x:*","after":103,"id":"i5"}]}`)
		conn.send(subscribed("a", 4, 43), subscribed("quiet", 4, 7), subscribed("x:*", 4, 103))
		next(t, c, Subscribed{"a", 43, true}, Subscribed{"quiet", 7, true}, Subscribed{"x:*", 103, true})
		flow(t, c, conn, "a", 44, 44)
		flow(t, c, conn, "quiet", 8, 8)
		if s := c.Stats(); s.Connects != 2 || s.Holes+s.Duplicates != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestAppIsNotHurried checks that the server has to wait for a slow app, and that what
// the app has not taken when the connection breaks is not asked for again.
func TestAppIsNotHurried(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		live(t, c, conn, "a", 1, 0)
		sent := 0
		for ; sent < 1000; sent++ {
			text, _ := ev("a", sent+1, 0, "a")
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := conn.Write(ctx, websocket.MessageText, []byte(text))
			cancel()
			if err != nil {
				break
			}
		}
		if sent > 10 {
			t.Fatalf("the client took %d frames from the server without giving one to the app", sent)
		}
		conn.end()
		// One frame was read: it is the app's, and its place is kept.
		_, item := ev("a", 1, 0, "a")
		next(t, c, item)
		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":2,"topics":[{"topic":"a","after":1,"id":"i1"}]}`)
		conn.send(subscribed("a", 2, 1))
		next(t, c, Subscribed{"a", 1, true})
		flow(t, c, conn, "a", 2, 3)
	})
}

func TestDuplicatesAreDropped(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		live(t, c, conn, "a", 1, 0)
		live(t, c, conn, "x:*", 2, 10)
		flow(t, c, conn, "a", 1, 2)
		again, _ := ev("a", 2, 0, "a")
		x1, i1 := ev("x:1", 1, 11, "x:*")
		conn.send(again, x1, x1)
		next(t, c, i1)
		flow(t, c, conn, "a", 3, 3)
		if s := c.Stats(); s.Duplicates != 2 || s.Holes != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestHoleIsMended(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		live(t, c, conn, "a", 1, 0)
		flow(t, c, conn, "a", 1, 1)
		e3, _ := ev("a", 3, 0, "a")
		e4, _ := ev("a", 4, 0, "a")
		conn.send(batch(e3, e4))
		conn.want(`{"type":"subscribe","ref":2,"topic":"a","after":1,"id":"i1"}`)
		conn.send(e4, subscribed("a", 2, 1))
		next(t, c, Subscribed{"a", 1, true})
		flow(t, c, conn, "a", 2, 5)
		if s := c.Stats(); s.Holes != 1 || s.Connects != 1 {
			t.Errorf("stats %+v", s)
		}
		// A server that cannot do better is left, and asked again from the start.
		e9, _ := ev("a", 9, 0, "a")
		for ref := 3; ref <= 5; ref++ {
			conn.send(e9)
			conn.want(fmt.Sprintf(`{"type":"subscribe","ref":%d,"topic":"a","after":5,"id":"i5"}`, ref))
			conn.send(subscribed("a", ref, 5))
			next(t, c, Subscribed{"a", 5, true})
		}
		conn.send(e9)
		conn.end()
		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":6,"topics":[{"topic":"a","after":5,"id":"i5"}]}`)
		conn.send(subscribed("a", 6, 5))
		next(t, c, Subscribed{"a", 5, true})
		flow(t, c, conn, "a", 6, 9)
	})
}

func TestGap(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		live(t, c, conn, "a", 1, 0)
		live(t, c, conn, "x:*", 2, 10)
		flow(t, c, conn, "a", 1, 2)
		conn.send(`{"type":"gap","topic":"a","after":2,"tail":8,"head":20}`, `{"type":"gap","topic":"b","after":2,"tail":8,"head":20}`)
		next(t, c, Gap{"a", 2, 8, 20})
		flow(t, c, conn, "a", 8, 8)
		// Before the place: nothing that is asked for is missing.
		conn.send(`{"type":"gap","topic":"a","after":2,"tail":8,"head":20}`)
		flow(t, c, conn, "a", 9, 9)
		// All is trimmed: no id to resume by.
		conn.send(`{"type":"gap","topic":"a","after":9,"tail":21,"head":20}`)
		next(t, c, Gap{"a", 9, 21, 20})
		// A pattern's place stays where it was.
		conn.send(`{"type":"gap","topic":"x:*","after":10,"tail":18,"head":20}`)
		next(t, c, Gap{"x:*", 10, 18, 20})
		text, item := ev("x:1", 1, 12, "x:*")
		conn.send(text)
		next(t, c, item)
		conn.end()
		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":3,"topics":[{"topic":"a","after":20},{"topic":"x:*","after":12,"id":"i1"}]}`)
		conn.send(subscribed("a", 3, 20), subscribed("x:*", 3, 12))
		next(t, c, Subscribed{"a", 20, true}, Subscribed{"x:*", 12, true})
		// Told again, but not to the app; a later one is.
		conn.send(`{"type":"gap","topic":"x:*","after":12,"tail":18,"head":20}`, `{"type":"gap","topic":"x:*","after":12,"tail":19,"head":20}`)
		next(t, c, Gap{"x:*", 12, 19, 20})
		// A gap that begins further on hides events.
		conn.send(`{"type":"gap","topic":"a","after":25,"tail":30,"head":40}`)
		conn.want(`{"type":"subscribe","ref":4,"topic":"a","after":20}`)
		if s := c.Stats(); s.Gaps != 4 || s.Holes != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestReset(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		live(t, c, conn, "a", 1, 40)
		flow(t, c, conn, "a", 41, 42)
		conn.end()
		// The connection breaks between subscribed and reset: the reset must not get lost.
		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":2,"topics":[{"topic":"a","after":42,"id":"i42"}]}`)
		conn.send(subscribed("a", 2, 7))
		next(t, c, Subscribed{"a", 7, true})
		conn.end()
		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":3,"topics":[{"topic":"a","after":42,"id":"i42"}]}`)
		conn.send(subscribed("a", 3, 7), `{"type":"reset","topic":"a","head":7}`)
		next(t, c, Subscribed{"a", 7, true}, Reset{"a", 7})
		conn.end()
		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":4,"topics":[{"topic":"a","after":7}]}`)
		conn.send(subscribed("a", 4, 7))
		next(t, c, Subscribed{"a", 7, true})
		flow(t, c, conn, "a", 8, 8)
		// A live subscription, too, may be reset.
		conn.send(`{"type":"reset","topic":"a","head":3}`)
		next(t, c, Reset{"a", 3})
		flow(t, c, conn, "a", 4, 4)
		if s := c.Stats(); s.Resets != 2 || s.Holes+s.Duplicates != 0 {
			t.Errorf("stats %+v", s)
		}
		conn.end()
		// Another place without a reset is the server's fault.
		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":5,"topics":[{"topic":"a","after":4,"id":"i4"}]}`)
		e10, _ := ev("a", 10, 0, "a")
		conn.send(subscribed("a", 5, 9), e10)
		next(t, c, Subscribed{"a", 9, true})
		conn.end()
		p.accept().want(`{"type":"subscribe-batch","ref":6,"topics":[{"topic":"a","after":4,"id":"i4"}]}`)
		if s := c.Stats(); s.Holes != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestSubscribeFrom(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		for _, bad := range []string{"", "__x", "a\"", "**:x"} {
			if err := c.Subscribe(bad, nil); !errors.Is(err, pgcast.ErrInvalidTopic) {
				t.Errorf("topic %q: %v", bad, err)
			}
		}
		for _, bad := range []From{{After: -1}, {After: 1, ID: pgcast.ID(strings.Repeat("x", 65))}} {
			if err := c.Subscribe("a", &bad); !errors.Is(err, &pgcast.Error{Code: pgcast.CodeInvalid}) {
				t.Errorf("from %v: %v", bad, err)
			}
		}
		conn := p.accept()
		// A pattern that begins at its head is older than one that begins in the past.
		live(t, c, conn, "**", 1, 50)
		from := From{After: 10, ID: "x"}
		if err := c.Subscribe("a:*", &from); err != nil {
			t.Fatal(err)
		}
		from.After = 99 // is the caller's
		conn.want(`{"type":"subscribe","ref":2,"topic":"a:*","after":10,"id":"x"}`)
		conn.send(subscribed("a:*", 2, 10))
		next(t, c, Subscribed{"a:*", 10, true})
		e1, i1 := ev("a:1", 1, 20, "a:*")
		e2, i2 := ev("a:1", 2, 51, "**")
		e3, i3 := ev("a:1", 3, 30, "a:*")
		conn.send(e1, e2)
		next(t, c, i1, i2)
		conn.end()
		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":3,"topics":[{"topic":"**","after":51,"id":"i2"},{"topic":"a:*","after":20,"id":"i1"}]}`)
		conn.send(subscribed("**", 3, 51), subscribed("a:*", 3, 20), e3, e2)
		next(t, c, Subscribed{"**", 51, true}, Subscribed{"a:*", 20, true}, i3)
		nothing(t, c)
	})
}

func TestManySubscriptions(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		for i := range 450 {
			if err := c.Subscribe(fmt.Sprintf("t:%d", i), nil); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 450 {
			conn.want(fmt.Sprintf(`{"type":"subscribe","ref":%d,"topic":"t:%d"}`, i+1, i))
		}
		conn.end()
		conn = p.accept()
		total := 0
		for total < 450 {
			_, text, err := conn.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			n := strings.Count(string(text), `"t:`)
			if n > 200 || len(text) > 10_000 {
				t.Errorf("a batch of %d topics and %d bytes", n, len(text))
			}
			total += n
		}
	})
}

func TestDenied(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		ask := func(topic string, ref int) {
			t.Helper()
			if err := c.Subscribe(topic, nil); err != nil {
				t.Fatal(err)
			}
			conn.want(fmt.Sprintf(`{"type":"subscribe","ref":%d,"topic":%q}`, ref, topic))
		}
		ask("a", 1)
		conn.send(`{"type":"subscribe-denied","topic":"a","ref":99,"reason":"FORBIDDEN"}`,
			`{"type":"subscribe-denied","topic":"a","ref":1,"reason":"FORBIDDEN"}`)
		next(t, c, Denied{"a", "FORBIDDEN"})
		ask("b", 2)
		conn.send(`{"type":"error","code":"bad_frame","message":"m"}`, `{"type":"error","ref":2,"code":"unsupported","message":"m"}`)
		next(t, c, Denied{"b", "unsupported"})
		ask("c", 3)
		conn.send(`{"type":"subscribe-denied","topic":"c","ref":3,"reason":"INTERNAL_ERROR"}`)
		conn.end()
		// Worth another try. The two others are not.
		for range 3 {
			conn = p.accept()
			_, _, err := conn.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			conn.send(`{"type":"error","ref":` + itoa(int(c.lastRef)) + `,"code":"unavailable","message":"m"}`)
			conn.end()
		}
		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":7,"topics":["c"]}`)
		conn.send(subscribed("c", 7, 0))
		next(t, c, Subscribed{"c", 0, false})
	})
}

func TestSilentServerIsLeft(t *testing.T) {
	run(t, &Options{ReadTimeout: 10 * time.Second}, func(t *testing.T, c *Client, p *peer) {
		first := p.accept()
		first.send(`{"type":"hb"}`)
		second := p.accept()
		if d := second.at.Sub(first.at); d < 10*time.Second || d > 11*time.Second {
			t.Errorf("left after %s", d)
		}
	})
}

func TestBadFramesEndTheConnection(t *testing.T) {
	for _, text := range []string{"{", `{"type":"gap"}`, strings.Repeat(" ", 1<<20) + "{}"} {
		run(t, nil, func(t *testing.T, c *Client, p *peer) {
			conn := p.accept()
			_ = conn.Write(t.Context(), websocket.MessageText, []byte(text))
			p.accept()
		})
	}
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		_ = p.accept().Write(t.Context(), websocket.MessageBinary, []byte(`{"type":"hb"}`))
		p.accept()
	})
}
