package replay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// TestWritersNeverMeet: eight writers whose transactions touch several topics in random
// order neither deadlock nor wait for each other, or for the sequencer.
func TestWritersNeverMeet(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	r := run(t, d, SequencerOptions{Batch: 50})
	leading(t, r)
	const writers, transactions = 8, 60
	g, ctx := errgroup.WithContext(t.Context())
	events := atomic.Int64{}
	for range writers {
		writer := d.Conn(t)
		if _, err := writer.Exec(t.Context(), "set application_name = 'writer'"); err != nil {
			t.Fatal(err)
		}
		g.Go(func() error {
			for range transactions {
				err := pgx.BeginFunc(ctx, writer, func(tx pgx.Tx) error {
					for _, topic := range rand.Perm(5)[:2+rand.N(4)] {
						if _, err := tx.Exec(ctx, "select pgcast.publish($1, 'e')", fmt.Sprint("hot:", topic)); err != nil {
							return err
						}
						events.Add(1)
					}
					return nil
				})
				if err != nil {
					return err // a deadlock too
				}
			}
			return nil
		})
	}
	waiting, samples := map[string]int{}, 0
	watch, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() {
		watched <- func() error {
			watcher := d.Conn(t)
			for ; watch.Err() == nil; samples++ {
				// Waiting to extend a file is a matter of the disk.
				rows, err := watcher.Query(watch, `select wait_event from pg_stat_activity where application_name = 'writer'
					and datname = current_database() and wait_event_type = 'Lock' and wait_event <> 'extend'`)
				if err != nil {
					return err
				}
				list, err := pgx.CollectRows(rows, pgx.RowTo[string])
				for _, event := range list {
					waiting[event]++
				}
				if err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	err := g.Wait()
	stop()
	<-watched
	if err != nil {
		t.Fatal(err)
	}
	if len(waiting) != 0 {
		t.Errorf("writers wait for locks: %v in %d samples", waiting, samples)
	}
	sequenced(t, conn, int(events.Load()))
	if n := one[int](t, conn, "select deadlocks::int from pg_stat_database where datname = current_database()"); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
	t.Logf("%d events of %d transactions; %d samples", events.Load(), writers*transactions, samples)
}

// TestOpenTransactionDelaysOnlyItself, and keeps the sequencer awake meanwhile.
func TestOpenTransactionDelaysOnlyItself(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn, open := d.Conn(t), d.Conn(t)
	r := run(t, d, SequencerOptions{})
	leading(t, r)
	tx, err := open.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	events := 0
	publish := func() {
		d.Exec(t, "select pgcast.publish('a', 'e')")
		events++
	}
	// As publish() does, but again and again until the sequencer is not asleep just then:
	// a writer who finds it asleep does not keep it awake, but rings at its commit.
	await(t, "the writer keeps the sequencer awake", func() (granted bool) {
		publish()
		if err := tx.QueryRow(t.Context(), "select pg_try_advisory_xact_lock_shared(1885823841, 1)").Scan(&granted); err != nil {
			t.Fatal(err)
		}
		return granted
	})
	if _, err := tx.Exec(t.Context(), "select pgcast.publish('a', 'open')"); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		publish()
		sequenced(t, conn, events)
	}
	await(t, "what keeps it awake is counted", func() bool { return r.metric("sequencer_kept_awake_total") > 0 })
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	sequenced(t, conn, events+1)
	if event := one[string](t, conn, "select event from pgcast.history order by position desc limit 1"); event != "open" {
		t.Errorf("the last event is %s", event)
	}
}
