package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/internal/wire"
)

// crowd is what a client that looks on is told of who is on a topic.
type crowd struct {
	mu    sync.Mutex
	known map[string]string
	said  []string // each coming and going
}

// look has a client of a server look on, until the test ends.
func (r *running) look(t testing.TB, topic string) *crowd {
	t.Helper()
	p, c := r.dial(t), &crowd{known: map[string]string{}}
	p.send(`{"type":"presence","ref":1,"topic":"` + topic + `","op":"sync"}`)
	p.want(wire.Presence)
	go func() {
		for {
			f, err := p.read()
			if err != nil {
				return
			}
			for _, e := range f.Events {
				c.take(e)
			}
		}
	}()
	return c
}

func (c *crowd) take(e pgcast.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var diff struct{ Joins, Leaves map[string]json.RawMessage }
	switch e.Name {
	case "presence_state":
		_ = json.Unmarshal(e.Data, &diff.Joins)
		clear(c.known)
	case "presence_diff":
		_ = json.Unmarshal(e.Data, &diff)
	}
	for key := range diff.Leaves {
		delete(c.known, key)
		c.said = append(c.said, "-"+key)
	}
	for key, data := range diff.Joins {
		c.known[key] = string(data)
		c.said = append(c.said, "+"+key)
	}
}

func (c *crowd) sees(t testing.TB, keys ...string) {
	t.Helper()
	await(t, fmt.Sprintf("it sees %v", keys), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return slices.Equal(slices.Sorted(maps.Keys(c.known)), slices.Sorted(slices.Values(keys)))
	})
}

func (c *crowd) heard() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.said, " ")
}

func (r *running) as(t testing.TB, user string) *peer {
	t.Helper()
	p := r.dial(t)
	p.send(`{"type":"hello","user":{"id":"` + user + `"}}`)
	p.send(`{"type":"subscribe","ref":1,"topic":"room:1"}`)
	p.want(wire.Subscribed)
	return p
}

// A user on two servers is there once and goes with the last session; one whose server
// drains comes to the other and never went; and all can be asked of either server.
func TestPresenceOnTwoServers(t *testing.T) {
	t.Parallel()
	db, redis := pgtest.New(t, nil), redistest.Start(t)
	rooms, err := pgcast.ParsePattern("room:*")
	if err != nil {
		t.Fatal(err)
	}
	begin := func() *running {
		return start(t, db.URL, func(o *Options) {
			o.Live = LiveOptions{RedisURL: redis.URL, PresenceOn: []pgcast.Pattern{rooms}, PresenceGrace: 10 * time.Second}
		}).awaitReady(t)
	}
	a, b := begin(), begin()
	atA, atB := a.look(t, "room:1"), b.look(t, "room:1")
	one, two := a.as(t, "ann"), b.as(t, "ann")
	bob := a.as(t, "bob")
	for _, c := range []*crowd{atA, atB} {
		c.sees(t, "ann", "bob")
	}
	for _, r := range []*running{a, b} {
		if _, text := get(t, "http://"+r.listen+"/topics/room:1/presence"); text != `{"count":2,"users":{"ann":{"id":"ann"},"bob":{"id":"bob"}}}` &&
			text != `{"count":2,"users":{"bob":{"id":"bob"},"ann":{"id":"ann"}}}` {
			t.Errorf("%s answers %s", r.listen, text)
		}
	}
	// One of two leaves: nobody hears.
	one.send(`{"type":"unsubscribe","topic":"room:1"}`)
	cleo := a.as(t, "cleo")
	for _, c := range []*crowd{atA, atB} {
		c.sees(t, "ann", "bob", "cleo")
	}
	two.send(`{"type":"unsubscribe","topic":"room:1"}`)
	for _, c := range []*crowd{atA, atB} {
		c.sees(t, "bob", "cleo")
		if got := c.heard(); strings.Count(got, "ann") != 2 || strings.Contains(got, "-bob") {
			t.Errorf("it was told %s; want that ann came once and went once", got)
		}
	}
	// The first server drains; bob comes to the other, cleo does not.
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*peer{bob, cleo} {
		if code, _ := p.closed(); code != 1001 {
			t.Errorf("a client was closed with %d", code)
		}
	}
	b.as(t, "bob")
	began := time.Now()
	atB.sees(t, "bob")
	if took := time.Since(began); took < time.Second {
		t.Errorf("cleo was said to have gone after %v, within her grace period", took)
	}
	if got := atB.heard(); strings.Contains(got, "-bob") || strings.Count(got, "bob") != 1 {
		t.Errorf("it was told %s; want that bob never went", got)
	}
}
