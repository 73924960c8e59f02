package fanout

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
)

// Whoever goes, however, leaves nothing behind.
func TestSnapshotIsLeft(t *testing.T) {
	t.Parallel()
	s := filled(t, 20_000, HubOptions{Snapshots: SnapshotOptions{Dir: t.TempDir(), Fresh: time.Millisecond}})
	for name, leave := range map[string]func(*Session){
		"unsubscribed":     func(x *Session) { x.Unsubscribe("room:1", nil) },
		"ended":            func(x *Session) { x.End(nil) },
		"drained":          func(x *Session) { x.Finish(errors.New("drained")) },
		"subscribed again": func(x *Session) { _ = x.Subscribe(context.Background(), Request{Topic: "room:1"}) },
	} {
		sink := newTally()
		release := sink.hold()
		session := s.hub.NewSession(sink)
		if err := session.Subscribe(context.Background(), Request{Topic: "room:1", Snapshot: true}); err != nil {
			t.Fatal(err)
		}
		leave(session)
		release()
		s.idleSpools(t)
		if got := sink.see(); got.last != nil {
			t.Errorf("%s: it got everything", name)
		}
		session.End(nil)
		<-sink.closed
	}
	// Gone before there is a moment: the read ends too.
	ctx, cancel := context.WithCancel(context.Background())
	sink := newTally()
	session := s.hub.NewSession(sink)
	o := session.Ask(Request{Topic: "room:1", Snapshot: true})
	cancel()
	if err := session.Open(ctx, o); err == nil {
		await(t, "the snapshot", func() bool { return sink.see().last != nil })
	}
	session.End(nil)
	<-sink.closed
	s.idleSpools(t)
}

func TestSnapshotHasNoRoom(t *testing.T) {
	t.Parallel()
	s := filled(t, 40_000, HubOptions{Snapshots: SnapshotOptions{Dir: t.TempDir(), Fresh: time.Millisecond, Disk: 1}})
	_, sink, err := s.snapshotOf(t, "room:1")
	if err == nil {
		await(t, "it is denied", func() bool { return sink.see().denied != nil })
		if n := sink.see().denied; n.Reason != "INTERNAL_ERROR" || string(n.Ref) != "1" {
			t.Errorf("denied: %+v", n)
		}
	} else if !errors.Is(err, pgcast.ErrUnavailable) {
		t.Error(err)
	}
	s.idleSpools(t)
	if n := s.metric(t, "subscriptions"); n != 0 {
		t.Errorf("%v subscriptions are left", n)
	}
	if _, sink, err = s.snapshotOf(t, "room:2"); err != nil {
		t.Fatal(err)
	}
	await(t, "a small one is sent", func() bool { return sink.see().last != nil })
}

// A read that breaks off ends the subscription, and is told.
func TestSnapshotBreaksOff(t *testing.T) {
	t.Parallel()
	s := filled(t, 150_000, HubOptions{Snapshots: SnapshotOptions{Dir: t.TempDir(), Fresh: time.Millisecond}})
	_, sink, err := s.snapshotOf(t, "room:1")
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the first rows", func() bool { return sink.see().frames > 0 })
	s.db.Exec(t, cutReaders)
	await(t, "it is denied, or it was quicker", func() bool { x := sink.see(); return x.denied != nil || x.last != nil })
	if sink.see().last != nil {
		t.Skip("all was read before the connection was cut")
	}
	s.idleSpools(t)
}

// Whoever takes his snapshot too slowly keeps nobody else from getting one.
func TestSlowSnapshotMakesRoom(t *testing.T) {
	t.Parallel()
	s := filled(t, 40_000, HubOptions{Snapshots: SnapshotOptions{Dir: t.TempDir(), Fresh: time.Millisecond, Disk: 4 << 20, Patience: time.Millisecond}})
	slow := newTally()
	release := slow.hold()
	session := s.hub.NewSession(slow)
	if err := session.Subscribe(context.Background(), Request{Topic: "room:1", Snapshot: true, Ref: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	await(t, "all is read, and given to nobody else", func() bool {
		s.hub.shots.mu.Lock()
		defer s.hub.shots.mu.Unlock()
		return len(s.hub.shots.held) == 1 && len(s.hub.shots.current) == 0
	})
	var quick *tally
	await(t, "another one gets all of it", func() bool {
		if quick == nil || quick.see().denied != nil {
			var err error
			if _, quick, err = s.snapshotOf(t, "room:1"); err != nil {
				quick = nil
				return false
			}
		}
		return quick.see().last != nil
	})
	if got := quick.see(); got.rows != 40_000 {
		t.Errorf("it got %d rows", got.rows)
	}
	release()
	await(t, "the slow one is told", func() bool { return slow.see().denied != nil })
	if n := slow.see().denied; n.Reason != reasonInternal || string(n.Ref) != "1" || slow.see().last != nil {
		t.Errorf("it was told %+v", n)
	}
	session.End(nil)
	<-slow.closed
	s.idleSpools(t)
	s.hub.shots.mu.Lock()
	defer s.hub.shots.mu.Unlock()
	if n := len(s.hub.shots.held); n > 0 {
		t.Errorf("%d are still held", n)
	}
}

// breaking reads begin, and break off when they are told to.
type breaking chan struct{}

func (b breaking) Snapshot(ctx context.Context, _ string, begin func(pgcast.Snapshot) error, _ func(pgcast.Row) error) error {
	if err := begin(pgcast.Snapshot{}); err != nil {
		return err
	}
	select {
	case <-b:
	case <-ctx.Done():
	}
	return errors.New("broke off")
}

// Who asks for the whole does not wait for its turn without end.
func TestSnapshotComesTooLate(t *testing.T) {
	t.Parallel()
	source := make(breaking)
	s := newWorld(t).server(t, HubOptions{Snapshots: SnapshotOptions{Source: source, Reads: 1}})
	sink := newTally()
	session := s.hub.NewSession(sink)
	if err := session.Subscribe(context.Background(), Request{Topic: "first", Snapshot: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.hub.Snapshot(context.Background(), "second", nil, time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	session.End(nil)
	<-sink.closed
	s.idleSpools(t)
}

// A read breaks off while the client's next request waits for it, which ends the same
// subscription: it is ended once.
func TestSnapshotBreaksOffBeforeItIsLeft(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(*peer, *testing.T){
		"unsubscribed":     func(p *peer, _ *testing.T) { p.session.Unsubscribe("room:1", []byte("2")) },
		"subscribed again": func(p *peer, t *testing.T) { p.must(t, Request{Topic: "room:1", After: after(0)}) },
	} {
		t.Run(name, func(t *testing.T) {
			source := make(breaking)
			s := newWorld(t).server(t, HubOptions{Snapshots: SnapshotOptions{Source: source}})
			p, other := s.newPeer(t), s.newPeer(t)
			p.must(t, Request{Topic: "room:*"})
			p.must(t, Request{Topic: "room:1", Snapshot: true})
			other.must(t, Request{Topic: "room:1"})
			await(t, "the pump waits for the read", func() bool {
				p.session.mu.Lock()
				defer p.session.mu.Unlock()
				return !p.session.running
			})
			left := make(chan struct{})
			go func() { leave(p, t); close(left) }()
			await(t, "the request is taken", func() bool {
				p.session.mu.Lock()
				defer p.session.mu.Unlock()
				return p.session.running && len(p.session.control) == 0
			})
			close(source)
			<-left
			p.must(t, Request{Topic: "beside"})
			s.mustPublish(t, 1, 1, "room:1")
			await(t, "the other one gets the event", func() bool { return other.sink.events() == 1 })
			if n := len(p.sink.notices(Denied)); n != 1 {
				t.Errorf("%d times denied", n)
			}
			p.session.End(nil)
			p.sink.ended(t)
			if n := s.metric(t, "subscriptions"); n != 1 {
				t.Errorf("%v subscriptions are left, want 1", n)
			}
		})
	}
}
