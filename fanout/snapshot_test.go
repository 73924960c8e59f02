package fanout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// filled is a world with a table whose topic room:1 has n rows.
func filled(t testing.TB, n int, opts HubOptions) *server {
	t.Helper()
	w := newWorld(t)
	w.db.Exec(t, fmt.Sprintf(`create table public.m (id int primary key, room_id int, body text); create index on public.m (room_id);
		insert into public.m select i, 1, repeat('x', 40) from generate_series(1, %d) i; select pgcast.attach('public.m', topic => 'room:{room_id}')`, n))
	return w.server(t, opts)
}

// tally is a peer that counts and keeps nothing.
type tally struct {
	mu                   sync.Mutex
	rows, frames, events int
	last                 *SnapshotFrame
	early                int // events before the last part
	denied               *Notice
	held                 chan struct{}
	closed               chan struct{}
}

func newTally() *tally { return &tally{closed: make(chan struct{})} }

func (s *tally) Write(items []Item) error {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held != nil {
		<-held
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range items {
		switch {
		case i.Snapshot != nil:
			text := i.Snapshot.Text
			if bytes.HasSuffix(text, []byte(`,"more":true}`)) == i.Snapshot.Last || len(text) > 64<<10 {
				return fmt.Errorf("%.200s", text)
			}
			s.frames++
			s.rows += bytes.Count(text, []byte(`"id":`))
			if i.Snapshot.Last {
				s.last = i.Snapshot
			}
		case i.Frame != nil:
			if s.events++; s.last == nil {
				s.early++
			}
		case i.Notice != nil && i.Notice.Kind == Denied:
			s.denied = i.Notice
		}
	}
	return nil
}

func (s *tally) Close(error) { close(s.closed) }

func (s *tally) hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := make(chan struct{})
	s.held = held
	return func() {
		s.mu.Lock()
		s.held = nil
		s.mu.Unlock()
		close(held)
	}
}

func (s *tally) see() tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	return tally{rows: s.rows, frames: s.frames, events: s.events, last: s.last, early: s.early, denied: s.denied}
}

// snapshotOf subscribes a new session to a topic with its snapshot.
func (s *server) snapshotOf(t testing.TB, topic string) (*Session, *tally, error) {
	t.Helper()
	sink := newTally()
	session := s.hub.NewSession(sink)
	t.Cleanup(func() { session.End(nil); <-sink.closed })
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return session, sink, session.Subscribe(ctx, Request{Topic: topic, Snapshot: true, Ref: []byte("1")})
}

// idleSpools waits until no snapshot takes any room, and no connection.
func (s *server) idleSpools(t testing.TB) {
	t.Helper()
	await(t, "all snapshots are let go of", func() bool {
		return s.metric(t, "snapshot_spool_bytes") == 0 && s.pool.Stat().AcquiredConns() <= 1
	})
}

func TestSnapshotIsShared(t *testing.T) {
	t.Parallel()
	const rows, sessions = 1000, 1000
	s := filled(t, rows, HubOptions{Snapshots: SnapshotOptions{Fresh: time.Minute}})
	var all []*tally
	for range sessions {
		_, sink, err := s.snapshotOf(t, "room:1")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sink)
	}
	s.db.Exec(t, `insert into public.m values (0, 1, 'new')`)
	for _, sink := range all {
		await(t, "everybody has the rows and the event", func() bool { return sink.see().events == 1 })
		if got := sink.see(); got.rows != rows || got.early > 0 {
			t.Fatalf("%d rows, want %d; %d events before the last of them", got.rows, rows, got.early)
		}
	}
	if read, asked := s.metric(t, "snapshot_rows_total"), s.metric(t, "snapshots_total"); read != rows || asked != sessions {
		t.Errorf("%v rows were read for %v snapshots, want %d: one read", read, asked, rows)
	}
	s.hub.shots.forget()
	s.idleSpools(t)
}

// A large topic takes a file and little memory, also while its peer reads nothing, and the
// session's other subscriptions go on.
func TestSnapshotOfManyRows(t *testing.T) {
	const rows = 200_000
	s := filled(t, rows, HubOptions{Snapshots: SnapshotOptions{Dir: t.TempDir(), Fresh: time.Millisecond}})
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	session, sink, err := s.snapshotOf(t, "room:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Subscribe(context.Background(), Request{Topic: "beside"}); err != nil {
		t.Fatal(err)
	}
	release := sink.hold()
	await(t, "all is read", func() bool { return s.metric(t, "snapshot_rows_total") == rows })
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes for a snapshot that is being sent", grown)
	}
	if n := s.metric(t, "snapshot_spool_bytes"); n < rows*60 {
		t.Errorf("%v bytes are kept", n)
	}
	s.mustPublish(t, 1, 10, "beside")
	release()
	await(t, "an event of another topic comes within the rows", func() bool { return sink.see().events > 0 })
	await(t, "the last rows", func() bool { return sink.see().last != nil })
	if got := sink.see(); got.rows != rows {
		t.Errorf("%d rows in %d frames, want %d", got.rows, got.frames, rows)
	}
	s.idleSpools(t)
}

// What must follow a snapshot that others had read is trimmed: it is read anew.
func TestSnapshotIsTooOld(t *testing.T) {
	t.Parallel()
	s := filled(t, 10, HubOptions{Ring: 1, Snapshots: SnapshotOptions{Fresh: time.Minute}})
	_, first, err := s.snapshotOf(t, "room:1")
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the rows", func() bool { return first.see().last != nil })
	s.db.Exec(t, `select pgcast.retain('room:*', max_count => 1); insert into public.m select i, 1, 'new' from generate_series(1000, 1020) i`)
	await(t, "they are trimmed", func() bool {
		tails, err := s.tails()
		return err == nil && tails["room:1"] > 5
	})
	_, second, err := s.snapshotOf(t, "room:1")
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the rows", func() bool { return second.see().last != nil })
	if got := second.see(); got.rows != 31 || got.last.Seq < 20 {
		t.Errorf("%d rows as of %d", got.rows, got.last.Seq)
	}
}

func TestSnapshotRefusals(t *testing.T) {
	t.Parallel()
	s := filled(t, 1, HubOptions{})
	_, _, err := s.snapshotOf(t, "room:*")
	if err == nil || !strings.Contains(err.Error(), "no snapshot of a pattern") {
		t.Errorf("a pattern: %v", err)
	}
	bare := NewHub(s.log, s.log, HubOptions{Encode: wire.AppendEventBody})
	session := bare.NewSession(newTally())
	if err := session.Subscribe(context.Background(), Request{Topic: "room:1", Snapshot: true}); !errors.Is(err, &pgcast.Error{Code: pgcast.CodeUnsupported}) {
		t.Errorf("a hub without: %v", err)
	}
	session.End(nil)
	if n := len(bare.feeds) + len(s.hub.feeds) + len(s.hub.patterns); n != 0 {
		t.Errorf("%d feeds are left", n)
	}
}

// With a pattern beside it the topic's rows and events still meet, and the pattern brings
// no event that the topic's subscription brings.
func TestSnapshotBesidePattern(t *testing.T) {
	t.Parallel()
	s := filled(t, 2000, HubOptions{})
	p := s.newPeer(t)
	p.must(t, Request{Topic: "room:*"})
	s.db.Exec(t, `insert into public.m values (-1, 1, 'before'), (-2, 2, 'other')`)
	s.came(t)
	p.must(t, Request{Topic: "room:1", Snapshot: true})
	s.db.Exec(t, `insert into public.m values (-3, 1, 'after'), (-4, 2, 'other')`)
	await(t, "both events after it", func() bool { return p.sink.events() == 4 })
	seen := map[string]int{}
	rows, last := 0, false
	for _, i := range p.sink.items() {
		switch {
		case i.Snapshot != nil:
			f, err := wire.ParseServer(i.Snapshot.Text)
			if err != nil {
				t.Fatal(err)
			}
			rows, last = rows+len(f.Rows), i.Snapshot.Last
		case i.Frame != nil:
			seen[fmt.Sprintf("%s/%d pattern %v after %v", i.Frame.Topic, i.Frame.Seq, i.Pattern, last)]++
		}
	}
	if rows != 2001 || seen["room:1/1 pattern true after false"] != 1 || seen["room:1/2 pattern false after true"] != 1 {
		t.Errorf("%d rows, %v", rows, seen)
	}
}

// Of another cluster or timeline a snapshot proves nothing.
func TestForeignAsOf(t *testing.T) {
	t.Parallel()
	s := filled(t, 1, HubOptions{})
	s.db.Exec(t, `insert into public.m values (2, 1, 'a'), (3, 1, 'b')`)
	s.came(t)
	asOf, err := pgcast.ParseAsOf("1.1/1000000:1000000:")
	if err != nil {
		t.Fatal(err)
	}
	p := s.newPeer(t)
	if n := p.must(t, Request{Topic: "room:1", After: after(0), AsOf: asOf, Foreign: true}); n.Seq != 2 {
		t.Errorf("it begins after %d", n.Seq)
	}
	await(t, "it is reset", func() bool { return len(p.sink.notices(Reset)) == 1 })
	s.db.Exec(t, `insert into public.m values (4, 1, 'c')`)
	await(t, "the event comes, whatever the snapshot held", func() bool { return p.sink.events() == 1 })
	// Believed, it makes its sender miss what it says it has.
	q := s.newPeer(t)
	q.must(t, Request{Topic: "room:1", After: after(0), AsOf: asOf})
	q.must(t, Request{Topic: "beside"})
	s.mustPublish(t, 1, 1, "beside")
	await(t, "another topic's event", func() bool { return q.sink.events() > 0 })
	if q.sink.events() != 1 {
		t.Errorf("%d events", q.sink.events())
	}
}
