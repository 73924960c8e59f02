package server

import (
	"fmt"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// Publishes that wait for somebody else's transaction, more of them than the server has
// connections, hold up neither events nor subscribes.
func TestWaitingPublishesHoldUpNobody(t *testing.T) {
	t.Parallel()
	for _, size := range []int{2, 8} {
		t.Run(fmt.Sprintf("pool of %d", size), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, nil)
			r := start(t, db.URL, func(o *Options) { o.PoolSize = size }).awaitReady(t)
			healthy := r.dial(t)
			healthy.send(`{"type":"subscribe","topic":"a","ref":1}`)
			healthy.want(wire.Subscribed)

			writer := db.Conn(t)
			tx, err := writer.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), `select pgcast.publish('b', 'said', null, 'once')`); err != nil {
				t.Fatal(err)
			}
			const n = 20
			var waiting []*peer
			for range n {
				p := r.dial(t)
				p.send(`{"type":"publish","topic":"b","event":"said","key":"once","ref":1}`)
				waiting = append(waiting, p)
			}
			await(t, "as many of them wait as may", func() bool {
				return pgtest.Value[int](t, db, `select count(*) from pg_stat_activity
					where datname = current_database() and wait_event_type = 'Lock'`) >= max(1, size/3)
			})
			began := time.Now()
			db.Exec(t, `select pgcast.publish('a', 'said')`)
			healthy.want(wire.Event)
			healthy.send(`{"type":"subscribe","topic":"new","ref":2}`)
			healthy.want(wire.Subscribed)
			// A request gives up after 10 s, and lets go of its connection then.
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("others waited for %v", d)
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, p := range waiting {
				p.send(`{"type":"publish","topic":"b","event":"said","key":"once","ref":2}`)
				for f := p.want(wire.Published); string(f.Ref) != "2"; f = p.want(wire.Published) {
				}
			}
		})
	}
}
