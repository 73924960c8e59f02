package fanout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/replay"
)

// world is a real log that is written to, sequenced and trimmed, and beside it an archive
// of every place that was ever given out, which is what the oracle goes by.
type world struct {
	db   *pgtest.DB
	pool *pgxpool.Pool // of the log
	pen  *pgxpool.Pool // of the writers; lives on when the log's connections are cut
	log  *replay.Log

	wake atomic.Pointer[func()] // of the follower there is now
}

// readers is the application_name of the connections that the log is read by.
const readers = "readers"

const cutReaders = `select pg_terminate_backend(pid) from pg_stat_activity
	where datname = current_database() and application_name = '` + readers + `'`

// The archive is kept by the sequencer's own transactions, so it is never behind the log.
const archive = `
create table public.archive (topic text, seq bigint, position bigint primary key, id text);
create function public.keep() returns trigger language plpgsql as $$ begin
  insert into public.archive
    select t.name, n.seq, n.position, pgcast.event_id(e.id, e.created_at)
    from fresh n join pgcast.topic t on t.id = n.topic_id join pgcast.event_log e on e.id = n.event_id;
  return null;
end $$;
create trigger keep after insert on pgcast.replay referencing new table as fresh
  for each statement execute function public.keep();`

func newWorld(t testing.TB) *world {
	t.Helper()
	d := pgtest.New(t, nil)
	d.Exec(t, archive)
	w := &world{db: d, pen: d.Pool(t)}
	named := *d
	named.URL += "&application_name=" + readers
	w.pool = named.Pool(t)
	w.log = replay.NewLog(w.pool, nil)
	idle := func() {}
	w.wake.Store(&idle)
	s := replay.NewSequencer(d.URL, w.pen, &replay.SequencerOptions{
		OnGrown:   func() { (*w.wake.Load())() },
		Retention: &replay.RetentionOptions{Every: 20 * time.Millisecond, Batch: 3},
		Logger:    slog.New(slog.DiscardHandler),
	})
	running(t, s.Run)
	return w
}

// running runs something until the test ends.
func running(t testing.TB, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		if err := g.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// counted counts what the hub asks of the log and of the encoder. It can keep the follower
// from what is new, and sessions from reading topics.
type counted struct {
	*replay.Log
	pages, scans, places, encoded atomic.Int64

	shut, torn atomic.Bool
}

func (c *counted) Read(ctx context.Context, after pgcast.Position, id pgcast.ID, max int) ([]pgcast.Event, bool, error) {
	if c.shut.Load() {
		_, err := c.Log.Position(ctx) // outages are noticed all the same
		return nil, false, err
	}
	return c.Log.Read(ctx, after, id, max)
}

func (c *counted) Page(ctx context.Context, topic string, after pgcast.Seq, max int) (pgcast.Page, error) {
	c.pages.Add(1)
	if c.torn.Load() {
		return pgcast.Page{}, pgcast.ErrUnavailable
	}
	return c.Log.Page(ctx, topic, after, max)
}

func (c *counted) Scan(ctx context.Context, p pgcast.Pattern, after, upto pgcast.Position, max int) ([]pgcast.Event, pgcast.Position, error) {
	c.scans.Add(1)
	return c.Log.Scan(ctx, p, after, upto, max)
}

func (c *counted) Places(ctx context.Context, asks []pgcast.Ask) ([]pgcast.Place, pgcast.Position, error) {
	c.places.Add(1)
	return c.Log.Places(ctx, asks)
}

func (c *counted) encode(dst []byte, e pgcast.Event) []byte {
	c.encoded.Add(1)
	return wire.AppendEventBody(dst, e)
}

// server is a hub that follows the world's log.
type server struct {
	*world
	hub      *Hub
	follower *Follower
	reads    *counted
	registry *prometheus.Registry
	stop     func()
}

func (w *world) server(t testing.TB, opts HubOptions) *server {
	t.Helper()
	s := &server{world: w, reads: &counted{Log: w.log}, registry: prometheus.NewRegistry()}
	opts.Encode, opts.Registerer = s.reads.encode, s.registry
	opts.Logger = slog.New(slog.DiscardHandler)
	if opts.Snapshots.Source == nil {
		opts.Snapshots.Source = s.reads
	}
	opts.Snapshots.Encoding = SnapshotEncoding{Open: wire.AppendSnapshotOpen, Row: wire.AppendRow, Close: wire.AppendSnapshotClose}
	s.hub = NewHub(s.reads, s.reads, opts)
	s.follower = NewFollower(s.reads, s.hub, &FollowerOptions{Batch: 7, Logger: opts.Logger})
	wake := s.follower.Wake
	w.wake.Store(&wake)
	s.stop = running(t, s.follower.Run)
	await(t, "the follower has caught up", s.follower.CaughtUp)
	return s
}

// publish adds n events of about size bytes to each of the topics, in one transaction.
func (w *world) publish(n, size int, topics ...string) error {
	_, err := w.pen.Exec(context.Background(), `select pgcast.publish(t, 'said', to_jsonb(repeat('x', $2)))
		from generate_series(1, $1) i, unnest($3::text[]) t order by i`, n, size, topics)
	if err != nil {
		return fmt.Errorf("publish to %v: %w", topics, err)
	}
	return nil
}

func (w *world) mustPublish(t testing.TB, n, size int, topics ...string) {
	t.Helper()
	if err := w.publish(n, size, topics...); err != nil {
		t.Fatal(err)
	}
}

// sequenced waits until everything written so far has its place.
func (w *world) sequenced(t fataler) {
	t.Helper()
	var err error
	ok := poll(func() (done bool) {
		err = w.pen.QueryRow(context.Background(), `select not exists (select from pgcast.event_log e
			where not exists (select from pgcast.replay r where r.event_id = e.id))`).Scan(&done)
		return done || err != nil
	})
	if !ok || err != nil {
		t.Fatalf("wait until everything has its place: %v", err)
	}
}

// fact is one event as the archive has it.
type fact struct {
	topic    string
	seq      int64
	position int64
	id       pgcast.ID
}

// facts are the archive's events of the topics under a prefix, in order.
func (w *world) facts(prefix string) ([]fact, error) {
	rows, err := w.pen.Query(context.Background(), `select topic, seq, position, id from public.archive
		where starts_with(topic, $1) order by position`, prefix)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []fact
	for rows.Next() {
		var f fact
		var id string
		if err := rows.Scan(&f.topic, &f.seq, &f.position, &id); err != nil {
			return nil, err
		}
		f.id = pgcast.ID(id)
		list = append(list, f)
	}
	return list, rows.Err()
}

// tails are the seqs before which events are trimmed, of the topics that have any.
func (w *world) tails() (map[string]int64, error) {
	rows, err := w.pen.Query(context.Background(), `select t.name, tt.tail from pgcast.topic_tail tt join pgcast.topic t on t.id = tt.topic_id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	tails := map[string]int64{}
	for rows.Next() {
		var name string
		var tail int64
		if err := rows.Scan(&name, &tail); err != nil {
			return nil, err
		}
		tails[name] = tail
	}
	return tails, rows.Err()
}

// metric is the value of one of the hub's metrics, summed over its labels.
func (s *server) metric(t testing.TB, name string) (sum float64) {
	t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "pgcast_"+name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}
