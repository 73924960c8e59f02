package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
)

// writer publishes events that say when, in milliseconds, until the test stops it.
func (d *door) writer(t *testing.T, topic string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if _, err := d.pool.Exec(context.Background(), `select pgcast.publish($1, 'said', jsonb_build_object('at', $2::bigint))`, topic, time.Now().UnixMilli()); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(stop)
	return stop
}

// writtenAt is when an event says that it was written.
func writtenAt(t testing.TB, e pgcast.Event) time.Time {
	t.Helper()
	var data struct{ At int64 }
	if err := json.Unmarshal(e.Data, &data); err != nil {
		t.Fatal(err)
	}
	return time.UnixMilli(data.At)
}

// second gives a whole second that is at least so far away; tokens know no less.
func second(ahead time.Duration) time.Time {
	return time.Now().Add(ahead + time.Second).Truncate(time.Second)
}

// slack is for how long what happens at a moment may take to be noticed by a busy test.
const slack = 2 * time.Second

func until(exp time.Time) map[string]any { return map[string]any{"exp": exp.Unix()} }

// S7: a session lives as long as its tokens, each sent before the one before expires; after the
// last one not one event follows, over no transport.
func TestS7Expiry(t *testing.T) {
	t.Parallel()
	d := newDoor(t, nil)
	d.writer(t, "room:1")
	var events, late, warned atomic.Int64
	seen := func(e pgcast.Event, exp time.Time) {
		events.Add(1)
		if writtenAt(t, e).After(exp) || time.Now().After(exp.Add(slack)) {
			late.Add(1)
			t.Errorf("an event of %v was delivered at %v, after %v", writtenAt(t, e), time.Now(), exp)
		}
	}
	var all sync.WaitGroup
	// Tokens of two seconds, over and over.
	for n := range 3 {
		exp := second(2 * time.Second)
		p := d.as(t, d.token(t, "ann", until(exp)))
		p.send(wire.Frame{Type: wire.Hello, Caps: []string{wire.CapReset}})
		p.subscribe("room:1", nil, "")
		all.Go(func() {
			last := pgcast.Seq(0)
			for round := 0; ; {
				text, err := p.read()
				if err != nil {
					if code := websocket.CloseStatus(err); code != wire.CloseUnauthenticated || round < 3+n {
						t.Errorf("closed with %v after %d tokens", err, round)
					}
					if now := time.Now(); now.Before(exp) || now.After(exp.Add(slack)) {
						t.Errorf("closed at %v; the token expired at %v", now, exp)
					}
					return
				}
				f, err := wire.ParseServer([]byte(text))
				if err != nil {
					t.Error(err)
					return
				}
				switch f.Type {
				case wire.Event:
					e := f.Events[0]
					if last != 0 && e.Seq != last+1 {
						t.Errorf("after %d came %d", last, e.Seq)
					}
					last = e.Seq
					seen(e, exp)
				case wire.TokenExpiring:
					warned.Add(1)
					if left := time.Until(exp); *f.ExpiresIn > 1000 || left > time.Second {
						t.Errorf("it expires in %d ms, %v are left", *f.ExpiresIn, left)
					}
					if round++; round <= 3+n {
						exp = second(2 * time.Second)
						p.send(wire.Frame{Type: wire.Auth, Token: d.token(t, "ann", until(exp))})
					}
				case wire.Authenticated:
				default:
					t.Errorf("got %s", text)
				}
			}
		})
	}
	// A stream.
	exp := second(time.Second)
	all.Go(func() {
		s := d.stream(t, "room:1", "", bearing(d.token(t, "ann", until(exp))))
		s.want("subscribed")
		for {
			e, err := s.read()
			if err != nil {
				break
			}
			f, err := wire.ParseServer([]byte(e.Data))
			if err != nil || len(f.Events) != 1 {
				t.Errorf("got %+v, %v", e, err)
				return
			}
			seen(f.Events[0], exp)
		}
		if now := time.Now(); now.Before(exp) || now.After(exp.Add(slack)) {
			t.Errorf("the stream ended at %v; the token expired at %v", now, exp)
		}
	})
	// Long polls: of a topic with events, and of one without.
	all.Go(func() {
		token := d.token(t, "ann", until(exp))
		for after := int64(0); ; {
			res, text := d.ask(t, "GET", fmt.Sprintf("/topics/room:1/events?wait=60&after=%d", after), bearing(token), "")
			if res.StatusCode == http.StatusUnauthorized {
				break
			}
			var e struct {
				Events []json.RawMessage
				Next   int64
			}
			if err := json.Unmarshal([]byte(text), &e); err != nil || res.StatusCode != http.StatusOK {
				t.Errorf("%s: %s", res.Status, text)
				return
			}
			for _, text := range e.Events {
				f, err := wire.ParseServer(text)
				if err != nil {
					t.Error(err)
					return
				}
				seen(f.Events[0], exp)
			}
			after = e.Next
		}
		if now := time.Now(); now.Before(exp) || now.After(exp.Add(slack)) {
			t.Errorf("the polls were refused at %v; the token expired at %v", now, exp)
		}
	})
	all.Go(func() {
		d.answered(t, "GET", "/topics/quiet/events?wait=60", bearing(d.token(t, "ann", until(exp))), "", http.StatusUnauthorized, pgcast.CodeUnauthenticated)
		if now := time.Now(); now.Before(exp) || now.After(exp.Add(slack)) {
			t.Errorf("the poll ended at %v; the token expired at %v", now, exp)
		}
	})
	all.Wait()
	t.Logf("%d events before expiry, %d after; %d warnings", events.Load(), late.Load(), warned.Load())
	if warned.Load() != 4+5+6 {
		t.Errorf("%d warnings came", warned.Load())
	}
}

// stream opens a stream with headers.
func (d *door) stream(t testing.TB, topic, query string, header http.Header) *source {
	t.Helper()
	s, res := d.requestAs(t, topic, query, "", header)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("the stream was not opened: %s", res.Status)
	}
	return s
}

// A frame that comes with a token that has expired does nothing more.
func TestFramesAfterExpiry(t *testing.T) {
	t.Parallel()
	d := newDoor(t, nil)
	p := d.as(t, d.token(t, "ann"))
	var c *client
	for _, to := range d.gate.all() {
		c = to.transport.(*client)
	}
	own := *c.claims.Load()
	own.Expires = time.Now().Add(-time.Millisecond)
	c.claims.Store(&own) // as if the timer were late
	p.raw(`{"type":"publish","topic":"room:1","event":"said","ref":1}`)
	if text, err := p.read(); websocket.CloseStatus(err) != wire.CloseUnauthenticated {
		t.Errorf("got %q, %v", text, err)
	}
	if n := d.counter(t, "published_total"); n != 0 {
		t.Errorf("%v events were published", n)
	}
}

// Refreshing changes what a session may do, at once.
func TestRefreshDecidesAnew(t *testing.T) {
	t.Parallel()
	d := newDoor(t, func(s *setup) { anonymous(t, s) })
	d.rules.deny("ann", auth.Subscribe, "room:1")
	p := d.enter(t, "", nil)
	p.want(wire.Welcome)
	p.subscribe("room:1", nil, "")
	p.subscribe("room:2", nil, "")
	p.send(wire.Frame{Type: wire.Auth, Ref: []byte("7"), Token: d.token(t, "ann")})
	var got []wire.Type
	for range 2 {
		f := p.next()
		if got = append(got, f.Type); f.Type == wire.SubscribeDenied && (f.Topic != "room:1" || f.Reason != wire.ReasonForbidden) {
			t.Errorf("got %+v", f)
		}
	}
	if slices.Sort(got); !slices.Equal(got, []wire.Type{wire.Authenticated, wire.SubscribeDenied}) {
		t.Errorf("got %v", got)
	}
	d.publish(t, "room:1", 1, 10)
	d.publish(t, "room:2", 1, 10)
	p.stream("room:2", 1, 1)
	p.quiet()
}

// Who says who he is over and over is read more slowly.
func TestManyTokens(t *testing.T) {
	t.Parallel()
	d := newDoor(t, nil)
	token := d.token(t, "ann")
	p := d.as(t, token)
	began := time.Now()
	for range refusedFree + 100 {
		p.send(wire.Frame{Type: wire.Auth, Token: token})
		p.want(wire.Authenticated)
	}
	if took := time.Since(began); took < 90*refusedPause {
		t.Errorf("%d tokens took %v", refusedFree+100, took)
	}
}

// Sessions of whoever is revoked end at once, of all transports, and of nobody else.
func TestRevoke(t *testing.T) {
	t.Parallel()
	d := newDoor(t, nil)
	ann, bob := d.as(t, d.token(t, "ann", map[string]any{"jti": "1"})), d.as(t, d.token(t, "bob"))
	again := d.as(t, d.token(t, "ann", map[string]any{"jti": "2"}))
	s := d.stream(t, "room:1", "", bearing(d.token(t, "ann")))
	s.want("subscribed")
	polled := make(chan int, 1)
	go func() {
		res, _ := d.ask(t, "GET", "/topics/room:1/events?wait=60", bearing(d.token(t, "ann")), "")
		polled <- res.StatusCode
	}()
	await(t, "all are there", func() bool { return len(d.gate.all()) == 5 })

	d.gate.Revoke(func(claims *auth.Claims, _ string) bool { return claims.TokenID == "2" })
	again.wantClosed(wire.CloseUnauthenticated)
	ann.quiet()

	// By the key that others know the session by.
	third := d.enter(t, "", bearing(d.token(t, "ann")))
	third.want(wire.Welcome)
	key := publicKey(third.session)
	d.gate.Revoke(func(_ *auth.Claims, session string) bool { return session == key })
	third.wantClosed(wire.CloseUnauthenticated)
	ann.quiet()

	d.gate.Revoke(func(claims *auth.Claims, _ string) bool { return claims.Subject == "ann" })
	ann.wantClosed(wire.CloseUnauthenticated)
	if e, err := s.read(); err == nil {
		t.Errorf("the stream goes on with %+v", e)
	}
	if status := <-polled; status != http.StatusUnauthorized {
		t.Errorf("the poll was answered with %d", status)
	}
	bob.quiet()
	await(t, "the others have gone", func() bool { return d.clients() == 1 })
}

// A revocation that comes while its session is being opened is not missed.
func TestRevokeWhileOpening(t *testing.T) {
	t.Parallel()
	held, goOn := make(chan struct{}), make(chan struct{})
	d := newDoor(t, func(s *setup) {
		s.Access.Authenticator = slow{s.Access.Authenticator, held, goOn}
	})
	enter := func() *peer {
		done := make(chan *peer)
		token := d.token(t, "ann")
		go func() {
			p, _, err := d.knock(t, "", bearing(token))
			if err != nil {
				t.Error(err)
			}
			done <- p
		}()
		<-held
		d.gate.Revoke(func(claims *auth.Claims, _ string) bool { return claims.Subject == "ann" })
		goOn <- struct{}{}
		return <-done
	}
	enter().wantClosed(wire.CloseUnauthenticated)
	p := d.enter(t, "", nil)
	p.send(wire.Frame{Type: wire.Hello, Token: d.token(t, "ann")})
	<-held
	d.gate.Revoke(func(claims *auth.Claims, _ string) bool { return claims.Subject == "ann" })
	goOn <- struct{}{}
	p.wantClosed(wire.CloseUnauthenticated)
}

// slow has known who it is when it is held.
type slow struct {
	Authenticator
	held, goOn chan struct{}
}

func (s slow) Authenticate(ctx context.Context, credential string) (*auth.Claims, error) {
	claims, err := s.Authenticator.Authenticate(ctx, credential)
	s.held <- struct{}{}
	<-s.goOn
	return claims, err
}
