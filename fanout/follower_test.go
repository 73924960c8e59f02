package fanout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
)

// rewind makes the log one that stands at a position, as a backup from that moment would.
const rewind = `
with gone as (delete from pgcast.replay where position > %[1]d returning event_id)
delete from pgcast.event_log where id in (select event_id from gone);
delete from public.archive where position > %[1]d;
insert into pgcast.progress (step, position, seen)
	select max(step) + 1, %[1]d, pg_current_snapshot() from pgcast.progress;`

// When the log comes back as an older copy of itself, all sessions end and resume, and
// who has seen what no longer exists is reset: whether the copy is behind the place the
// hub had come to, or has gone past it with other events.
func TestAnotherCopy(t *testing.T) {
	t.Parallel()
	for name, written := range map[string]int{"shorter": 1, "grown past": 20, "without an outage": 3, "grown past without an outage": 20} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.server(t, HubOptions{})
			s.stop()
			s.follower.check = time.Hour
			if name == "without an outage" {
				s.follower.check = time.Second
			}
			running(t, s.follower.Run)
			await(t, "the follower has caught up", s.follower.CaughtUp)
			topic, pattern := s.newPeer(t), s.newPeer(t)
			topic.must(t, Request{Topic: "a"})
			pattern.must(t, Request{Topic: "**"})
			s.mustPublish(t, 10, 10, "a")
			s.settled(t, "a", topic, pattern)
			var last *Frame
			for _, i := range topic.sink.items() {
				if i.Frame != nil {
					last = i.Frame
				}
			}

			s.reads.shut.Store(true)
			w.db.Exec(t, fmt.Sprintf(rewind, 5))
			s.mustPublish(t, written, 10, "a")
			s.sequenced(t)
			if !strings.HasSuffix(name, "without an outage") {
				if _, err := w.pen.Exec(t.Context(), cutReaders); err != nil {
					t.Fatal(err)
				}
			}
			s.reads.shut.Store(false)
			for _, p := range []*peer{topic, pattern} {
				if err := p.sink.ended(t); !errors.Is(err, ErrResume) {
					t.Errorf("ended with %v", err)
				}
			}

			head := int64(5 + written)
			back := s.newPeer(t)
			ask := Request{Topic: "a", After: after(10), ID: last.ID}
			if n := back.mustAs(t, request{Request: ask, forged: true}); n.Seq != head {
				t.Errorf("a: subscribed from %d, want %d", n.Seq, head)
			}
			ask.Topic = "**"
			if n := back.mustAs(t, request{Request: ask, forged: true}); n.Seq != head {
				t.Errorf("**: subscribed from %d, want %d", n.Seq, head)
			}
			s.mustPublish(t, 3, 10, "a")
			s.settled(t, "a", back)
			if n := back.sink.notices(Reset); len(n) != 2 {
				t.Errorf("%d resets came", len(n))
			}
		})
	}
}

// A log of which everything is trimmed that came during an outage is caught up with all
// the same: nobody waits for an event that will not come.
func TestOutageThatIsTrimmed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.server(t, HubOptions{})
	p := s.newPeer(t)
	p.must(t, Request{Topic: "a"})
	p.must(t, Request{Topic: "**"})
	s.mustPublish(t, 3, 10, "a")
	s.settled(t, "a", p)
	w.db.Exec(t, "select pgcast.retain('**', max_age => '1 millisecond')")

	heal := w.outage(t)
	await(t, "the follower has lost its line", func() bool { return !s.follower.CaughtUp() })
	s.mustPublish(t, 5, 10, "a")
	await(t, "all is trimmed", func() bool {
		var n, newest int
		err := w.pen.QueryRow(t.Context(), "select (select count(*) from pgcast.replay), (select position from pgcast.progress order by step desc limit 1)").Scan(&n, &newest)
		return err == nil && n == 0 && newest == 8
	})
	heal()
	await(t, "the follower has caught up", s.follower.CaughtUp)
	await(t, "the hub has come to the end", func() bool { return s.hub.Position() == 8 })
	back := s.newPeer(t)
	if n := back.must(t, Request{Topic: "**", After: after(8)}); n.Seq != 8 {
		t.Errorf("subscribed from %d; want 8", n.Seq)
	}
	await(t, "gaps are told", func() bool { return len(p.sink.notices(Gap)) == 2 })
}

// OnConnect is called when the hub knows where the log stands, again after each outage,
// and its errors are retried like those of reading.
func TestOnConnect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mustPublish(t, 10, 10, "a")
	w.sequenced(t)
	hub := NewHub(w.log, w.log, HubOptions{Encode: (&counted{}).encode, Logger: slog.New(slog.DiscardHandler)})
	var calls atomic.Int64
	var log syncBuffer
	f := NewFollower(w.log, hub, &FollowerOptions{Logger: slog.New(slog.NewTextHandler(&log, nil)),
		OnConnect: func(context.Context) error {
			if at := hub.Position(); at != 10 {
				t.Errorf("called when the hub is at %d", at)
			}
			if calls.Add(1) == 1 {
				return errors.New("not yet")
			}
			return nil
		}})
	f.check = time.Hour
	if f.CaughtUp() {
		t.Error("caught up before it runs")
	}
	stop := running(t, f.Run)
	await(t, "caught up", f.CaughtUp)
	if n := calls.Load(); n != 2 {
		t.Errorf("OnConnect was called %d times", n)
	}
	if _, err := w.pen.Exec(t.Context(), cutReaders); err != nil {
		t.Fatal(err)
	}
	await(t, "connected again", func() bool { return calls.Load() == 3 })
	await(t, "caught up", f.CaughtUp)
	stop()
	if f.CaughtUp() {
		t.Error("caught up after its end")
	}
	if n := strings.Count(log.String(), "reads the log again"); n != 2 {
		t.Errorf("%d outages are over by the log:\n%s", n, log.String())
	}
}

// While nobody is subscribed, the follower passes over what is written.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	s := newWorld(t).server(t, HubOptions{})
	s.mustPublish(t, 500, 10, "a")
	s.came(t)
	p := s.newPeer(t)
	if n := p.must(t, Request{Topic: "a"}); n.Seq != 500 {
		t.Errorf("subscribed from %d", n.Seq)
	}
	s.mustPublish(t, 1, 10, "a")
	s.settled(t, "a", p)
}

// With the defaults alone, and nothing to write metrics to.
func TestDefaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hub := NewHub(w.log, w.log, HubOptions{Encode: (&counted{}).encode})
	f := NewFollower(w.log, hub, nil)
	wake := f.Wake
	w.wake.Store(&wake)
	running(t, f.Run)
	await(t, "caught up", f.CaughtUp)
	p := hub.peer()
	p.must(t, Request{Topic: "a"})
	w.mustPublish(t, 400, 10, "a")
	w.settled(t, "a", p)
	if s := hub.Sessions(); len(s) != 1 || s[0] != p.session {
		t.Errorf("sessions: %v", s)
	}
	p.session.End(nil)
	p.sink.ended(t)
	hub.Append(nil)
	if at := hub.Position(); at != pgcast.Position(400) {
		t.Errorf("the hub is at %d", at)
	}
}
