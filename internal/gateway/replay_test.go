package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// replayed is one event of a topic as the peer protocol's onReplay() sees it.
type replayed struct {
	ReqID     json.RawMessage
	Seq       pgcast.Seq
	Event     string
	Truncated bool
}

func (p *peer) replay(topic string, since int64, reqID string) {
	p.t.Helper()
	p.send(wire.Frame{Type: wire.Replay, Topic: topic, After: &since, ReqID: json.RawMessage(reqID)})
}

// arrived gives what a frame brings, one by one.
func (p *peer) arrived() []pgcast.Event {
	p.t.Helper()
	f := p.next()
	if f.Type != wire.Event && f.Type != wire.Batch {
		p.t.Fatalf("got %+v; want events", f)
	}
	return f.Events
}

// An app that subscribes and asks for what came before gets every event once and in
// order, if it drops what comes live until the end of the answer, as the browser client
// does: 60 times, under a writer, with a ring that does not reach back.
func TestReplayJoinsTheStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.hub.Ring = 4 })
	w.publish(t, "chat", 300, 10)
	w.sequenced(t)
	ctx, stop := context.WithCancel(context.Background())
	var writer sync.WaitGroup
	writer.Go(func() {
		for ctx.Err() == nil {
			if _, err := w.pool.Exec(context.Background(), `select pgcast.publish('chat', 'said') from generate_series(1, 3)`); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer func() { stop(); writer.Wait() }()
	for trial := range 60 {
		p := w.dial(t, []string{"batch"}[:trial%2]...)
		p.send(wire.Frame{Type: wire.Subscribe, Topic: "chat"})
		since := pgcast.Seq(p.want(wire.Subscribed).Seq - int64(5*trial))
		if trial%3 == 0 { // it may be in the midst of live events
			p.arrived()
		}
		p.replay("chat", int64(since), fmt.Sprint(trial))
		last, ended, after := since, false, 0
		for after < 3 {
			for _, e := range p.arrived() {
				switch {
				case e.Topic == "chat" && !ended: // the client drops it
				case e.Topic == "chat":
					if after++; e.Seq != last+1 {
						t.Fatalf("trial %d: live %d follows %d", trial, e.Seq, last)
					}
					last = e.Seq
				default:
					var r replayed
					if err := json.Unmarshal(e.Data, &r); err != nil || e.Topic != "__replay:chat" || string(r.ReqID) != fmt.Sprint(trial) {
						t.Fatalf("got %s %s, %v", e.Topic, e.Data, err)
					}
					switch {
					case ended:
						t.Fatalf("trial %d: %s after the end", trial, e.Data)
					case e.Name == "end":
						if ended = true; r.Truncated {
							t.Fatalf("trial %d: truncated", trial)
						}
					case r.Seq != last+1 || r.Event != "said":
						t.Fatalf("trial %d: %s follows %d", trial, e.Data, last)
					default:
						last = r.Seq
					}
				}
			}
		}
		_ = p.ws.CloseNow()
	}
}

// What is not there any more is told in the end, which there always is.
func TestReplayTruncated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a", 5, 10)
	w.sequenced(t)
	w.db.Exec(t, "select pgcast.retain('a', max_count => 2)")
	await(t, "three are trimmed", func() bool {
		page, err := w.log.Page(t.Context(), "a", 0, 1)
		return err == nil && page.Tail == 4
	})
	p := w.dial(t)
	answer := func(topic string, since int64) (seqs []pgcast.Seq, truncated bool) {
		t.Helper()
		p.replay(topic, since, `"x"`)
		for {
			f := p.next()
			if f.Type == wire.Error {
				continue
			}
			e := f.Events[0]
			var r replayed
			if err := json.Unmarshal(e.Data, &r); err != nil || string(r.ReqID) != `"x"` || e.Topic != "__replay:"+topic {
				t.Fatalf("got %+v, %v", e, err)
			}
			if e.Name == "end" {
				return seqs, r.Truncated
			}
			seqs = append(seqs, r.Seq)
		}
	}
	for _, c := range []struct {
		topic string
		since int64
		want  string
	}{
		{"a", 0, "[4 5] true"},
		{"a", 2, "[4 5] true"},
		{"a", 3, "[4 5] false"},
		{"a", 5, "[] false"},
		{"a", 6, "[] true"}, // a history that no longer exists
		{"nobody", 0, "[] false"},
		{"a:*", 0, "[] true"},
		{"__a", 0, "[] true"},
	} {
		seqs, truncated := answer(c.topic, c.since)
		if got := fmt.Sprint(seqs, truncated); got != c.want {
			t.Errorf("%s since %d: %s; want %s", c.topic, c.since, got, c.want)
		}
	}
	w.db.Exec(t, `alter table pgcast.topic rename to hidden`)
	if seqs, truncated := answer("a", 3); len(seqs) > 0 || !truncated {
		t.Errorf("the log cannot be asked: %v %t", seqs, truncated)
	}
	w.db.Exec(t, `alter table pgcast.hidden rename to topic`)
	p.raw(`{"type":"replay","topic":"a","since":"3"}`)
	p.wantError(pgcast.CodeBadFrame)
	p.raw(`{"type":"replay","topic":"a","since":5}`)
	if e := p.arrived()[0]; string(e.Data) != `{"reqId":null}` {
		t.Errorf("without reqId: %s", e.Data)
	}
	p.quiet()
	await(t, "nobody is subscribed to anything", func() bool { return w.counter(t, "subscriptions") == 0 && w.counter(t, "subscriptions_behind") == 0 })
}
