package client

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgcast/pgcast"
)

type published struct {
	id  pgcast.ID
	err error
}

func publish(t *testing.T, c *Client, key string) <-chan published {
	t.Helper()
	done := make(chan published, 1)
	go func() {
		id, err := c.Publish(t.Context(), "a", "e", json.RawMessage(`{"n":1}`), key)
		done <- published{id, err}
	}()
	return done
}

const (
	publish1    = `{"type":"publish","ref":1,"topic":"a","event":"e","data":{"n":1}}`
	publish1Key = `{"type":"publish","ref":1,"topic":"a","event":"e","data":{"n":1},"key":"k"}`
)

func TestPublish(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		done := publish(t, c, "") // waits for the connection
		conn := p.accept()
		conn.want(publish1)
		conn.send(`{"type":"published","ref":7,"id":"no"}`, `{"type":"published","ref":"1","id":"no"}`, `{"type":"published","ref":1,"id":"2a-1"}`)
		if got := <-done; got.id != "2a-1" || got.err != nil {
			t.Errorf("published %v", got)
		}
		done = publish(t, c, "")
		conn.want(`{"type":"publish","ref":2,"topic":"a","event":"e","data":{"n":1}}`)
		conn.send(`{"type":"error","ref":2,"code":"unavailable","message":"m"}`)
		if got := <-done; !errors.Is(got.err, pgcast.ErrUnavailable) {
			t.Errorf("published %v", got)
		}
		for _, data := range []string{"{", "\"\xff\""} {
			_, err := c.Publish(t.Context(), "a", "e", json.RawMessage(data), "")
			if !errors.Is(err, &pgcast.Error{Code: pgcast.CodeInvalidEvent}) {
				t.Errorf("data %q: %v", data, err)
			}
		}
	})
}

// TestPublishCutOff checks what becomes of a publish whose connection breaks.
func TestPublishCutOff(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		uncertain := publish(t, c, "")
		conn := p.accept()
		conn.want(publish1)
		conn.end()
		if got := <-uncertain; !errors.Is(got.err, ErrUncertain) {
			t.Errorf("published %v", got)
		}
		p.accept()
	})
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		certain := publish(t, c, "k")
		for range 3 {
			conn := p.accept()
			conn.want(publish1Key)
			conn.end()
		}
		conn := p.accept()
		conn.want(publish1Key)
		conn.send(`{"type":"published","ref":1,"id":"2a-1"}`)
		if got := <-certain; got.id != "2a-1" || got.err != nil {
			t.Errorf("published %v", got)
		}
	})
}

// TestPublishTooLarge checks that a frame the server will not read is not sent for ever.
func TestPublishTooLarge(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		done := publish(t, c, "k")
		conn := p.accept()
		conn.want(publish1Key)
		conn.quit(1009, "too big")
		if got := <-done; !errors.Is(got.err, pgcast.ErrTooLarge) {
			t.Errorf("published %v", got)
		}
		p.accept()
	})
}

// TestPublishGivenUp checks that what nobody waits for any more is not sent.
func TestPublishGivenUp(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		conn := <-p.conns // reads nothing, so that the publish stays in the queue
		p.open = append(p.open, conn)
		if _, err := c.Publish(ctx, "a", "e", nil, "k"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("published: %v", err)
		}
		later := publish(t, c, "")
		conn.want(`{"type":"hello","caps":["batch","reset"]}`, `{"type":"publish","ref":2,"topic":"a","event":"e","data":{"n":1}}`)
		conn.send(`{"type":"published","ref":1,"id":"no"}`, `{"type":"published","ref":2,"id":"2a-1"}`)
		if got := <-later; got.err != nil {
			t.Error(got.err)
		}
	})
}

func TestHistory(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		type result struct {
			page pgcast.Page
			err  error
		}
		done := make(chan result, 1)
		go func() {
			page, err := c.History(t.Context(), "a", 40, 2)
			done <- result{page, err}
		}()
		conn.want(`{"type":"history","ref":1,"topic":"a","after":40,"limit":2}`)
		conn.end()
		conn = p.accept()
		conn.want(`{"type":"history","ref":1,"topic":"a","after":40,"limit":2}`)
		text, item := ev("a", 41, 0, "")
		conn.send(`{"type":"history","ref":1,"topic":"a","events":[` + text + `],"tail":1,"head":41}`)
		got := <-done
		if d := cmp.Diff(pgcast.Page{Tail: 1, Head: 41, Events: []pgcast.Event{item.Event}}, got.page); d != "" || got.err != nil {
			t.Errorf("error %v, page (-want +got)\n%s", got.err, d)
		}
		go func() {
			page, err := c.History(t.Context(), "**:a", 0, 0)
			done <- result{page, err}
		}()
		conn.want(`{"type":"history","ref":2,"topic":"**:a","after":0}`)
		conn.send(`{"type":"error","ref":2,"code":"invalid_topic","message":"m"}`)
		if got := <-done; !errors.Is(got.err, pgcast.ErrInvalidTopic) {
			t.Errorf("error %v", got.err)
		}
	})
}

func TestUnsubscribe(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		c.Unsubscribe("a")
		live(t, c, conn, "a", 1, 0)
		flow(t, c, conn, "a", 1, 1)
		c.Unsubscribe("a")
		conn.want(`{"type":"unsubscribe","topic":"a"}`)
		e2, i2 := ev("a", 2, 0, "a")
		conn.send(e2, `{"type":"gap","topic":"a","after":2,"tail":8,"head":20}`, `{"type":"reset","topic":"a","head":20}`)
		nothing(t, c)
		// Subscribing again moves the place; what was on its way for the old one is not the app's.
		live(t, c, conn, "a", 2, 1)
		if err := c.Subscribe("a", &From{After: 0}); err != nil {
			t.Fatal(err)
		}
		conn.want(`{"type":"unsubscribe","topic":"a"}`, `{"type":"subscribe","ref":3,"topic":"a","after":0}`)
		e1, i1 := ev("a", 1, 0, "a")
		conn.send(e2, subscribed("a", 3, 0), e1, e2)
		next(t, c, Subscribed{"a", 0, true}, i1, i2)
		c.Unsubscribe("a")
		conn.want(`{"type":"unsubscribe","topic":"a"}`)
		conn.end()
		// Nothing is left to ask for.
		conn = p.accept()
		live(t, c, conn, "b", 4, 0)
	})
}

// TestUnsubscribeUnderAPattern checks that a pattern gets what the server had already
// assigned to the topic's own subscription.
func TestUnsubscribeUnderAPattern(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		live(t, c, conn, "a:*", 1, 10)
		live(t, c, conn, "a:1", 2, 0)
		flow(t, c, conn, "a:1", 1, 1)
		c.Unsubscribe("a:1")
		c.Unsubscribe("a:1")
		conn.want(`{"type":"unsubscribe","ref":3,"topic":"a:1"}`)
		e2, i2 := ev("a:1", 2, 0, "a:*")
		conn.send(e2)
		next(t, c, i2)
		conn.end()
		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":4,"topics":[{"topic":"a:1","after":2,"id":"i2"},{"topic":"a:*","after":10}]}`,
			`{"type":"unsubscribe","ref":5,"topic":"a:1"}`)
		e3, i3 := ev("a:1", 3, 0, "a:*")
		conn.send(subscribed("a:1", 4, 2), `{"type":"gap","topic":"a:1","after":2,"tail":3,"head":3}`, e3, subscribed("a:*", 4, 10),
			`{"type":"unsubscribed","topic":"a:1","ref":5}`)
		next(t, c, i3, Subscribed{"a:*", 10, true})
		e4, i4 := ev("a:1", 4, 14, "a:*")
		conn.send(e4)
		next(t, c, i4)
		conn.end()
		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":6,"topics":[{"topic":"a:*","after":14,"id":"i4"}]}`)
	})
}

func TestItemsStop(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		live(t, c, conn, "a", 1, 0)
		e1, i1 := ev("a", 1, 0, "a")
		e2, i2 := ev("a", 2, 0, "a")
		conn.send(batch(e1, e2))
		for it, err := range c.Items(t.Context()) {
			if err != nil || cmp.Diff(Item(i1), it) != "" {
				t.Errorf("%v, %v", it, err)
			}
			break
		}
		next(t, c, i2)
		synctest.Wait()
	})
}

// TestPublishBeforeTaking checks that an app may publish, and ask for history, before it
// takes the events that stand before the answer: with one goroutine for both it would
// wait for itself.
func TestPublishBeforeTaking(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		live(t, c, conn, "a", 1, 0)
		var items []Item
		send := func(n int) {
			for range n {
				text, item := ev("a", len(items)+1, 0, "a")
				conn.send(text)
				items = append(items, item)
			}
		}
		send(20)
		synctest.Wait()
		waiting := len(conn.out)
		if waiting < 15 {
			t.Errorf("the client has read on: %d frames are waiting for it", waiting)
		}
		done := publish(t, c, "")
		conn.want(`{"type":"publish","ref":2,"topic":"a","event":"e","data":{"n":1}}`)
		send(20)
		conn.send(`{"type":"published","ref":2,"id":"2a-1"}`)
		if got := <-done; got.id != "2a-1" || got.err != nil {
			t.Errorf("published %v", got)
		}
		send(20)
		synctest.Wait()
		if n := len(conn.out); n < 15 {
			t.Errorf("the client reads on after the answer: %d frames are waiting for it", n)
		}
		next(t, c, items...)
		nothing(t, c)
	})
}

// TestTooMuchBeforeTheAnswer checks that reading ahead for the sake of an answer has a
// limit, and that what was read is not lost with the connection.
func TestTooMuchBeforeTheAnswer(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		live(t, c, conn, "a", 1, 0)
		done := publish(t, c, "k")
		conn.want(`{"type":"publish","ref":2,"topic":"a","event":"e","data":{"n":1},"key":"k"}`)
		large := strings.Repeat("x", 900_000)
		const n = 40
		for seq := 1; seq <= n; seq++ {
			conn.send(`{"topic":"a","event":"e","data":"` + large + `","seq":` + itoa(seq) + `,"id":"i` + itoa(seq) + `"}`)
		}
		synctest.Wait()
		read := n - len(conn.out)
		if read < maxInbox/len(large) || read > maxInbox/len(large)+3 {
			t.Errorf("the client has read %d frames", read)
		}
		for seq := 1; seq <= n; seq++ {
			it, err := c.Next(t.Context())
			if e, ok := it.(Event); !ok || int(e.Seq) != seq || err != nil {
				t.Fatalf("item %d is %T, %v", seq, it, err)
			}
		}
		conn.send(`{"type":"published","ref":2,"id":"2a-1"}`)
		if got := <-done; got.err != nil {
			t.Errorf("published %v", got)
		}
	})
}
