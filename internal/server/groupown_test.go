package server

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// A client of 0.3 that is subscribed to the topic of a group as well, comes and goes there
// without missing anything of what the group's own topic brings.
func TestGroupUnderTwoNames(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	r := start(t, db.URL, nil).awaitReady(t)
	db.Exec(t, "select pgcast.create_group('lobby')")
	p := r.dial(t)
	p.send(`{"type":"subscribe","topic":"__group:lobby","ref":1}`)
	p.want(wire.Subscribed)
	const n = 400
	pool, published := db.Pool(t), make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < n && err == nil; i++ {
			_, err = pool.Exec(t.Context(), "select pgcast.publish('group:lobby', 'said', $1)", strconv.Itoa(i))
		}
		published <- err
	}()
	next, answers := 0, 0
	for next < n {
		if answers%2 == 0 && next > answers {
			p.send(`{"type":"subscribe","topic":"group:lobby","ref":2}`)
			p.send(`{"type":"subscribe","topic":"__group:lobby"}`) // once more, which changes nothing
			p.send(`{"type":"unsubscribe","topic":"group:lobby","ref":3}`)
			p.send(`{"type":"subscribe","topic":"__group:lobby"}`)
			answers++
		}
		f, err := p.read()
		if err != nil {
			t.Fatalf("after %d: %v", next, err)
		}
		if f.Type == wire.Unsubscribed {
			answers++
		}
		for _, e := range f.Events {
			if e.Topic != lobby || e.Name != "said" {
				continue
			}
			if string(e.Data) != strconv.Itoa(next) {
				t.Fatalf("after %d answers came %s; want %d", answers, e.Data, next)
			}
			next++
		}
	}
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	if answers < 10 {
		t.Errorf("the client came and went %d times; want more", answers/2)
	}
}

// However many groups have been closed, a client of 0.3 has no more subscriptions than it may.
func TestClosedGroupsAreBounded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	r := start(t, db.URL, func(o *Options) { o.MaxSubscriptions = 2 }).awaitReady(t)
	p := r.dial(t)
	for i := range 4 {
		db.Exec(t, fmt.Sprintf("select pgcast.create_group('g%d'), pgcast.close_group('g%d')", i, i))
		own := fmt.Sprintf("__group:g%d", i)
		p.send(fmt.Sprintf(`{"type":"subscribe","topic":%q,"ref":%d}`, own, i))
		if i >= 2 {
			if f := p.want(wire.SubscribeDenied); f.Reason != wire.ReasonTooMany {
				t.Errorf("denied for %s", f.Reason)
			}
			continue
		}
		for subscribed, closed := false, false; !subscribed || !closed; {
			f, err := p.read()
			if err != nil {
				t.Fatal(err)
			}
			subscribed = subscribed || f.Type == wire.Subscribed
			closed = closed || len(f.Events) == 1 && f.Events[0].Topic == own && f.Events[0].Name == "close"
		}
	}
	for i := range 4 {
		db.Exec(t, fmt.Sprintf("select pgcast.publish('group:g%d', 'said', 'null')", i))
	}
	db.Exec(t, "select pgcast.publish('group:g1', 'last', 'null')")
	heard := ""
	for !strings.Contains(heard, "last") {
		// What became of the group may be numbered before or after the subscription.
		if e := p.want(wire.Event).Events[0]; e.Name == "said" || e.Name == "last" {
			heard += e.Topic + " " + e.Name + ","
		}
	}
	if heard != "__group:g0 said,__group:g1 said,__group:g1 last," {
		t.Errorf("it heard %s", heard)
	}
}

// What a group frame tells others counts as a publish to the group's topic.
func TestGroupsAreLimited(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	r := start(t, db.URL, func(o *Options) {
		o.Live.RateLimits = rules(t, string(ratelimit.Publish)+" topic 4/168h")
	}).awaitReady(t)
	ann := r.hello(t, "ann", `"reset"`)
	for _, call := range []struct{ frame, want string }{
		{`"op":"create"`, `{"created":true}`},
		{`"op":"join","role":"admin"`, `{"key":"ann","role":"admin","max":0,"meta":{}}`},
		{`"op":"send","event":"nudge","member":"ann"`, ""},
		{`"op":"set","data":{"a":1}`, ""},
		{`"op":"send","event":"nudge","role":"admin"`, ""},
		{`"op":"send","event":"nudge","role":"admin"`, string(pgcast.CodeRateLimited)},
		{`"op":"set","data":{"a":2}`, string(pgcast.CodeRateLimited)},
		{`"op":"create"`, string(pgcast.CodeRateLimited)},
		{`"op":"leave"`, ""},
		{`"op":"join"`, `{"key":"ann","role":"member","max":0,"meta":{"a": 1}}`},
		{`"op":"close"`, string(pgcast.CodeRateLimited)},
	} {
		if got := ann.asks(call.frame); got != call.want {
			t.Errorf("%s: got %s; want %s", call.frame, got, call.want)
		}
	}
}
