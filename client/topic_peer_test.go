package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// step is what an iteration gave.
type step struct {
	e   Event
	err error
}

// events iterates a topic until its test ends.
func events(t *testing.T, topic *Topic) <-chan step {
	t.Helper()
	steps := make(chan step)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for e, err := range topic.Events(ctx) {
			select {
			case steps <- step{e, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return steps
}

func wantSteps(t *testing.T, steps <-chan step, want ...any) {
	t.Helper()
	for _, w := range want {
		got := <-steps
		var d string
		switch w := w.(type) {
		case error:
			if !errors.Is(got.err, w) {
				d = cmp.Diff(w.Error(), got.err)
			}
		default:
			d = cmp.Diff(w, any(got.e))
		}
		if d != "" {
			t.Fatalf("got %+v (-want +got):\n%s", got, d)
		}
	}
}

// What must not be missed comes among the events as an error, in its place; after a gap and a
// reset it goes on, after a denial not. A hole is filled before the next event is given.
func TestEventsTellOfGapsResetsAndHoles(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		topic := c.Topic("a", &TopicOptions{From: &From{After: 1, ID: "i1"}})
		steps := events(t, topic)
		conn.want(`{"type":"subscribe","ref":1,"topic":"a","after":1,"id":"i1"}`)
		two, second := ev("a", 2, 0, "a")
		four, fourth := ev("a", 4, 0, "a")
		three, third := ev("a", 3, 0, "a")
		conn.send(subscribed("a", 1, 1), two, four) // 3 is missing
		wantSteps(t, steps, second)
		conn.want(`{"type":"subscribe","ref":2,"topic":"a","after":2,"id":"i2"}`)
		conn.send(four, subscribed("a", 2, 2), three, four)
		wantSteps(t, steps, third, fourth)
		ten, tenth := ev("a", 10, 0, "a")
		conn.send(`{"type":"gap","topic":"a","after":4,"tail":10,"head":12}`, ten)
		wantSteps(t, steps, Gap{"a", 4, 10, 12}, tenth)
		conn.end()
		conn = p.accept()
		conn.want(`{"type":"subscribe-batch","ref":3,"topics":[{"topic":"a","after":10,"id":"i10"}]}`)
		six, sixth := ev("a", 6, 0, "a")
		conn.send(subscribed("a", 3, 5), `{"type":"reset","topic":"a","head":5}`, six)
		wantSteps(t, steps, Reset{"a", 5}, sixth)
		if place, ok := topic.Place(); !ok || place != (From{After: 6, ID: "i6"}) {
			t.Errorf("the place is %v, %v", place, ok)
		}
		conn.send(`{"type":"subscribe-denied","topic":"a","reason":"FORBIDDEN"}`)
		synctest.Wait()
		if s := c.Stats(); s.Holes != 1 || s.Gaps != 1 || s.Resets != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

// A subscription that is denied ends the iteration; what was on its way for one that has
// ended is not taken for something of the next one.
func TestDeniedAndGoneOn(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		topic := c.Topic("a", nil)
		got := make(chan []error)
		go func() {
			var all []error
			for _, err := range topic.Events(t.Context()) {
				all = append(all, err)
			}
			got <- all
		}()
		conn.want(`{"type":"subscribe","ref":1,"topic":"a"}`)
		conn.send(`{"type":"subscribe-denied","topic":"a","ref":1,"reason":"FORBIDDEN"}`)
		if all := <-got; len(all) != 1 || !errors.Is(all[0], Denied{"a", "FORBIDDEN"}) {
			t.Errorf("it gave %v", all)
		}
		one, first := ev("a", 1, 0, "a")
		two, second := ev("a", 2, 0, "a")
		three, third := ev("a", 3, 0, "a")
		for ref, want := range []Event{first, second, third} {
			frames := []string{one, two, three}[ref:]
			after := `,"after":` + itoa(ref)
			if ref > 0 {
				after += `,"id":"i` + itoa(ref) + `"`
			}
			if ref == 0 {
				after = ""
			}
			go func() {
				for e, err := range topic.Events(t.Context()) {
					if d := cmp.Diff(want, e); err != nil || d != "" {
						t.Errorf("%v: %s", err, d)
					}
					break
				}
				got <- nil
			}()
			conn.want(`{"type":"subscribe","ref":` + itoa(ref+2) + `,"topic":"a"` + after + `}`)
			conn.send(append([]string{frames[0], subscribed("a", ref+2, ref)}, frames...)...)
			<-got
			conn.want(`{"type":"unsubscribe","topic":"a"}`)
		}
	})
}

// The connection's status is told, also what is degraded.
func TestStatus(t *testing.T) {
	run(t, nil, func(t *testing.T, c *Client, p *peer) {
		conn := p.accept()
		synctest.Wait()
		states := make(chan Status)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for s := range c.StatusChanges(ctx) {
				select {
				case states <- s:
				case <-ctx.Done():
				}
			}
		}()
		if s := <-states; s.State != Online || s.Err != nil {
			t.Errorf("got %+v", s)
		}
		degraded := func(event, backend string, want ...string) {
			t.Helper()
			conn.send(`{"topic":"__system","event":"` + event + `","data":{"backend":"` + backend + `"}}`)
			if s := <-states; !cmp.Equal(s.Degraded, want) {
				t.Errorf("%s are degraded, want %s", s.Degraded, want)
			}
		}
		degraded("degraded", "redis", "redis")
		degraded("degraded", "postgres", "postgres", "redis")
		degraded("recovered", "redis", "postgres")
		conn.end()
		if s := <-states; s.State != Connecting || s.Err == nil || s.RetryAt.IsZero() || s.Degraded != nil {
			t.Errorf("got %+v", s)
		}
		cancel()
		<-done
		p.accept()
		synctest.Wait()
		if s := c.Status(); s.State != Online {
			t.Errorf("the status is %+v", s)
		}
	})
}
