package gateway

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// A client of the 0.5 generation, which keeps the largest seq of each topic and drops no
// event that comes twice, loses nothing over 20 cut connections while rows are written.
func TestResumeOverManyDrops(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.hub.Ring = 8 })
	const drops = 20
	topics := []string{"a", "b", "c"}
	seen, got := map[string]pgcast.Seq{}, 0
	take := func(f wire.ServerFrame) {
		t.Helper()
		for _, e := range f.Events {
			if e.Seq != seen[e.Topic]+1 {
				t.Fatalf("%s goes from %d to %d", e.Topic, seen[e.Topic], e.Seq)
			}
			seen[e.Topic], got = e.Seq, got+1
		}
	}
	p := w.dial(t, "batch")
	for _, topic := range topics { // one that has seen nothing of a topic has no place in it
		p.subscribe(topic, nil, "")
		w.publish(t, topic, 1, 1)
		take(p.want(wire.Event))
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var writers sync.WaitGroup
	for _, topic := range topics {
		writers.Go(func() {
			for ctx.Err() == nil {
				if _, err := w.pool.Exec(context.Background(), `select pgcast.publish($1, 'said')`, topic); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range drops {
		for until := got + r.IntN(30); got < until; {
			switch f := p.next(); f.Type {
			case wire.Subscribed:
				if pgcast.Seq(f.Seq) != seen[f.Topic] {
					t.Fatalf("%s starts at %d; want %d", f.Topic, f.Seq, seen[f.Topic])
				}
			case wire.Event, wire.Batch:
				take(f)
			default:
				t.Fatalf("got %+v", f)
			}
		}
		_ = p.ws.CloseNow()
		session := p.session
		p = w.dial(t, "batch")
		p.resume(session, seen)
		p.raw(`{"type":"subscribe-batch","topics":["a","b","c"],"ref":1}`)
	}
	stop()
	writers.Wait()
	w.sequenced(t)
	all := pgtest.Value[int](t, w.db, `select count(*) from pgcast.event_log`)
	for got < all {
		take(p.next())
	}
	p.quiet()
	t.Logf("%d events over %d connections", got, drops+1)
}
