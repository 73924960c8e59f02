package fanout

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
)

// 1,000 sessions that come back at once cost about one read per page, and few looks for
// their places: for a topic, for a pattern, and wherever they had been.
func TestManyComeBack(t *testing.T) {
	const sessions, events = 1000, 500
	w := newWorld(t)
	w.mustPublish(t, events, 10, "a")
	w.sequenced(t)
	facts, err := w.facts("a")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "**"} {
		t.Run(key, func(t *testing.T) {
			s := w.server(t, HubOptions{Ring: 2})
			defer s.stop()
			var wg sync.WaitGroup
			peers := make([]*peer, sessions)
			for i := range peers {
				peers[i] = s.newPeer(t)
				f := facts[(i*7)%events]
				r := Request{Topic: key, After: &f.seq, ID: f.id}
				if key != "a" {
					r.After = &f.position
				}
				wg.Go(func() {
					if err := peers[i].subscribe(request{Request: r}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for i, p := range peers {
				await(t, "everything has come", func() bool { return p.sink.events() == events-1-(i*7)%events })
			}
			s.settled(t, "a", peers[:50]...)
			pages := s.reads.pages.Load() + s.reads.scans.Load()
			t.Logf("%d sessions came back to %d events: %d pages and %d looks for places were read, %d events encoded; pgcast_log_reads_total is %v",
				sessions, events, pages, s.reads.places.Load(), s.reads.encoded.Load(), s.metric(t, "log_reads_total"))
			if most := int64(events/pageEvents + 5); pages > most {
				t.Errorf("%d pages were read, want %d at most", pages, most)
			}
			if key == "a" && s.reads.places.Load() > sessions/10 {
				t.Errorf("the log was asked %d times for places", s.reads.places.Load())
			}
			if key != "a" {
				return
			}
			// Whose place is in a page that is in memory need not be asked for; but no other
			// event is believed to have been there.
			places := s.reads.places.Load()
			late, doubtful := s.newPeer(t), s.newPeer(t)
			late.must(t, Request{Topic: key, After: &facts[3].seq, ID: facts[3].id, Doubted: true})
			if n := s.reads.places.Load() - places; n != 0 {
				t.Errorf("the log was asked %d times for a place that was known", n)
			}
			doubtful.must(t, Request{Topic: key, After: &facts[3].seq, ID: facts[4].id})
			await(t, "who was elsewhere is reset", func() bool { return len(doubtful.sink.notices(Reset)) == 1 })
			await(t, "everything has come", func() bool { return late.sink.events() == events-4 })
		})
	}
}

// An event is encoded once, however many sessions get it and by whatever subscription,
// and not at all when nobody does.
func TestEncodeOnce(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{})
	var peers []*peer
	for i := range 50 {
		p := s.newPeer(t)
		p.must(t, Request{Topic: []string{"a:1", "a:*", "**"}[i%3]})
		peers = append(peers, p)
	}
	s.mustPublish(t, 200, 10, "a:1")
	s.settled(t, "a:1", peers...)
	if n := s.reads.encoded.Load(); n != 200 {
		t.Errorf("200 events were encoded %d times", n)
	}
	s.settled(t, "", peers...)
	if n := s.metric(t, "deliveries_total"); n != 50*200 {
		t.Errorf("deliveries_total is %v", n)
	}
	if n := s.metric(t, "write_to_delivery_seconds"); n == 0 {
		t.Error("write_to_delivery_seconds has seen nothing")
	}

	for _, p := range peers {
		p.unsubscribe("**")
		p.unsubscribe("a:*")
		p.unsubscribe("a:1")
	}
	await(t, "nobody is subscribed", func() bool { feeds, _ := s.left(); return feeds == 0 })
	s.mustPublish(t, 200, 10, "a:1")
	s.came(t)
	if n := s.reads.encoded.Load(); n != 200 {
		t.Errorf("events for nobody were encoded")
	}
}

// A session that takes nothing costs the same whether it is 100 events behind or 100,000.
func TestStalledSessionsCostNothing(t *testing.T) {
	const sessions, topics, cache = 200, 10, 1 << 20
	w := newWorld(t)
	s := w.server(t, HubOptions{CacheBytes: cache})
	s.stop()
	s.follower.opts.Batch = 500
	running(t, s.follower.Run)
	var names []string
	for i := range topics {
		names = append(names, fmt.Sprintf("a:%d", i))
	}
	for i := range sessions {
		p := s.newPeer(t)
		p.must(t, Request{Topic: names[i%topics]})
		p.must(t, Request{Topic: "a:*"})
		p.sink.hold()
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // pools let go of what they had at the second
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	s.mustPublish(t, 300, 100, names...) // rings are full, and everybody is behind
	s.came(t)
	before := heap()
	for range 97 {
		s.mustPublish(t, 100, 100, names...)
	}
	s.came(t)
	grown := int64(heap()) - int64(before)
	t.Logf("%d sessions stalled while 97,000 events came: the heap grew by %d bytes for each (%d in all)", sessions, grown/sessions, grown)
	// Pages kept for others are of the hub, however many sessions there are. A queue in
	// each session would take 800 KB or more of each.
	if grown > cache+sessions*4096 {
		t.Errorf("the heap grew by %d bytes for each session", grown/sessions)
	}
}

// While the log cannot be read, sessions keep what they have and read on when it can.
func TestLogOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.server(t, HubOptions{Ring: 4})
	behind, live := s.newPeer(t), s.newPeer(t)
	behind.must(t, Request{Topic: "a"})
	behind.must(t, Request{Topic: "**"})
	live.must(t, Request{Topic: "**"})
	behind.sink.hold()
	s.mustPublish(t, 1, 10, "a")
	s.came(t)
	s.mustPublish(t, 1000, 10, "a", "b")
	s.came(t)

	heal := w.outage(t)
	behind.sink.release()
	await(t, "reads fail", func() bool { return s.metric(t, "log_read_errors_total") >= 5 })
	await(t, "the follower has lost its line", func() bool { return !s.follower.CaughtUp() })
	s.mustPublish(t, 5, 10, "a") // the writers' own connections live
	comeBack := s.newPeer(t)
	if err := comeBack.session.Subscribe(t.Context(), Request{Topic: "b", After: after(3)}); !errors.Is(err, pgcast.ErrUnavailable) {
		t.Errorf("subscribing during an outage: %v", err)
	}
	if n := s.metric(t, "subscriptions"); n != 3 {
		t.Errorf("%v subscriptions, want 3", n)
	}
	heal()
	await(t, "the follower has caught up", s.follower.CaughtUp)
	comeBack.must(t, Request{Topic: "b", After: after(3)})
	s.settled(t, "", behind, live, comeBack)
}

// However much comes meanwhile, a session that cannot read the log tries again in its own
// time.
func TestRetriesAreFew(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{Ring: 2})
	p := s.newPeer(t)
	p.must(t, Request{Topic: "a"})
	p.sink.hold()
	s.mustPublish(t, 1, 10, "a")
	s.came(t)
	s.reads.torn.Store(true)
	s.mustPublish(t, 20, 10, "a")
	s.came(t)
	p.sink.release()
	began := time.Now()
	for range 300 {
		s.mustPublish(t, 1, 10, "a")
	}
	s.came(t)
	await(t, "it tries again", func() bool { return s.reads.pages.Load() >= 3 })
	if n, most := s.reads.pages.Load(), int64(time.Since(began)/(100*time.Millisecond))+3; n > most {
		t.Errorf("%d tries while 300 events came, want %d at most", n, most)
	}
	s.reads.torn.Store(false)
	s.settled(t, "a", p)
}

// outage lets nobody connect to the database, and cuts the connections the log is read by.
func (w *world) outage(t testing.TB) (heal func()) {
	t.Helper()
	cfg, err := pgx.ParseConfig(w.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Database = "postgres"
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	allow := func(yes bool) {
		if _, err := conn.Exec(context.Background(), fmt.Sprintf("alter database %s with allow_connections %t", w.db.Name, yes)); err != nil {
			t.Error(err)
		}
	}
	heal = sync.OnceFunc(func() {
		allow(true)
		_ = conn.Close(context.Background())
	})
	t.Cleanup(heal)
	allow(false)
	_, err = conn.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity
		where datname = $1 and application_name = $2`, w.db.Name, readers)
	if err != nil {
		t.Fatal(err)
	}
	return heal
}

// The follower says that it has caught up while more and more comes.
func TestCaughtUpUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.server(t, HubOptions{})
	p := s.newPeer(t)
	p.must(t, Request{Topic: "a"})
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		conn := w.db.Conn(t)
		wg.Go(func() {
			for !stop.Load() {
				if _, err := conn.Exec(context.Background(), "select pgcast.publish('a', 'said') from generate_series(1, 50)"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	defer wg.Wait()
	defer stop.Store(true)
	await(t, "events flow", func() bool { return p.sink.events() > 100 })
	heal := w.outage(t)
	await(t, "the follower has lost its line", func() bool { return !s.follower.CaughtUp() })
	heal()
	await(t, "the follower has caught up", s.follower.CaughtUp)
}
