package presence_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/presence"
)

// Sessions of few users come to servers and leave, meaning it or not; servers die and
// others start; Redis is emptied, killed, frozen; messages between servers are lost. Whenever
// there is peace, every client of every server sees exactly the users with a session on a
// server that lives, and nobody who was there all the while was ever said to have gone, from one server to another
// included unless Redis forgot or messages were lost meanwhile.
func TestAnyPresence(t *testing.T) {
	opts := presence.Options{TTL: 4 * time.Second, Beat: 500 * time.Millisecond, Every: time.Millisecond}
	each(t, opts, func(t *testing.T, w *world) {
		n := 0
		rapid.Check(t, func(rt *rapid.T) {
			if n++; n > 30 {
				return // each takes seconds: there are clocks to wait for
			}
			p := &party{T: rt, t: t, w: w, topic: fmt.Sprintf("room:%d", n)}
			defer p.end()
			p.play()
		})
	})
}

// party is one history of the property test.
type party struct {
	*rapid.T
	t     *testing.T
	w     *world
	topic string
	hosts []*host
	// Users who were there at the last rest and have been since, with the servers on which
	// they have been all the while.
	since map[string][]*host
	// Redis has forgotten things since the last rest, maybe also to tell a server that somebody
	// who then left another had just come.
	shaken bool
	lost   bool // messages have been since the last rest: a beat may be needed to notice
}

// host is a server with a client that watches, and its users' sessions.
type host struct {
	*server
	users    *presence.Users
	client   *client
	sessions map[string]int
	lossy    *loser
	rested   bool // it knew of all; one that starts while Redis is away knows its own
}

var guests = []string{"ann", "bob", "cleo", "dan"}

func (p *party) play() {
	p.start()
	p.rest()
	actions := []func(){p.join, p.join, p.join, p.enter, p.enter, p.leave, p.leave, p.leave, p.breakOff, p.rest}
	if p.w.redis != nil {
		actions = append(actions, p.start, p.kill, p.depart, p.flush, p.restart, p.freeze, p.lose, p.lose)
	}
	for range rapid.IntRange(8, 30).Draw(p.T, "actions") {
		actions[rapid.IntRange(0, len(actions)-1).Draw(p.T, "action")]()
	}
	p.rest()
}

func (p *party) end() {
	for _, h := range p.hosts {
		h.client.view.Close()
		for key, n := range h.sessions {
			for range n {
				h.users.Leave(p.topic, key, true)
			}
		}
		h.kill()
	}
}

func (p *party) start() {
	if len(p.hosts) == 3 || p.w.redis == nil && len(p.hosts) == 1 {
		return
	}
	h := &host{sessions: map[string]int{}, lossy: new(loser)}
	h.server = p.w.lossyServer(h.lossy)
	h.users = presence.NewUsers(h.Rosters, 30*time.Millisecond)
	h.client = h.watch(p.topic, "")
	p.hosts = append(p.hosts, h)
}

func (p *party) host() *host {
	return p.hosts[rapid.IntRange(0, len(p.hosts)-1).Draw(p.T, "host")]
}

func guest(key string) presence.User {
	return presence.User{Key: key, Data: []byte(`{"id":"` + key + `"}`)}
}

func (p *party) someone() string { return rapid.SampledFrom(guests).Draw(p.T, "who") }

// join waits for the others to know, or gives up.
func (p *party) join() {
	h, key := p.host(), p.someone()
	ctx, cancel := context.WithTimeout(context.Background(), rapid.SampledFrom([]time.Duration{0, time.Millisecond, 20 * time.Second}).Draw(p.T, "patience"))
	defer cancel()
	switch err := h.users.Join(ctx, p.topic, guest(key)); {
	case err == nil:
		h.sessions[key]++
	case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, pgcast.ErrUnavailable):
		p.Fatalf("join: %v", err)
	}
}

func (p *party) enter() {
	h, key := p.host(), p.someone()
	h.users.Enter(p.topic, guest(key))
	h.sessions[key]++
}

func (p *party) leave() { p.part(true) }

func (p *party) breakOff() { p.part(false) }

func (p *party) part(meant bool) {
	h, key := p.host(), p.someone()
	if h.sessions[key] == 0 {
		return
	}
	h.sessions[key]--
	h.users.Leave(p.topic, key, meant)
	p.look()
}

// kill ends a server without a word.
func (p *party) kill() {
	if h := p.drop(); h != nil {
		h.kill()
	}
}

// depart ends a server that says so.
func (p *party) depart() {
	if h := p.drop(); h != nil {
		h.stop()
		_ = h.Depart(context.Background(), 10*time.Millisecond) // Redis may be away
		h.kill()
	}
}

func (p *party) drop() *host {
	if len(p.hosts) == 1 {
		return nil
	}
	h := p.host()
	p.hosts = slices.DeleteFunc(p.hosts, func(one *host) bool { return one == h })
	p.look()
	return h
}

func (p *party) flush() {
	p.shake()
	p.w.redis.Flush()
}

func (p *party) shake() {
	p.shaken = true
	p.look()
}

func (p *party) restart() {
	p.shake()
	p.w.redis.Kill()
	p.w.redis.Restart()
}

func (p *party) freeze() {
	p.w.redis.Pause()
	p.enter()
	p.part(true)
	p.w.redis.Resume()
}

// lose has a server not hear of one change of another, but of the one that follows.
func (p *party) lose() {
	h, other := p.host(), p.host()
	if h == other {
		return
	}
	p.shake()
	p.lost = true
	before := h.lossy.lost.Load()
	h.lossy.on.Store(true)
	p.toggle(other, "yan")
	for begin := time.Now(); h.lossy.lost.Load() == before && time.Since(begin) < 100*time.Millisecond; {
		<-time.After(time.Millisecond)
	}
	h.lossy.on.Store(false)
	p.toggle(other, "zoe")
}

func (p *party) toggle(h *host, key string) {
	if h.sessions[key] == 0 {
		h.users.Enter(p.topic, guest(key))
		h.sessions[key]++
		return
	}
	h.sessions[key]--
	h.users.Leave(p.topic, key, true)
	p.look()
}

// present are the users there should be.
func (p *party) present() []string {
	all := map[string]bool{}
	for _, h := range p.hosts {
		for key, n := range h.sessions {
			if n > 0 {
				all[key] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// look forgets who has not been there all the while.
func (p *party) look() {
	now := p.present()
	for key, hosts := range p.since {
		p.since[key] = slices.DeleteFunc(hosts, func(h *host) bool { return h.sessions[key] == 0 || !slices.Contains(p.hosts, h) })
		if !slices.Contains(now, key) || p.shaken && len(p.since[key]) == 0 {
			delete(p.since, key)
		}
	}
}

// rest waits until all is as it should be.
func (p *party) rest() {
	want := p.present()
	if p.lost {
		<-time.After(2 * p.w.opts.Beat)
		p.lost = false
	}
	for _, h := range p.hosts {
		begin := time.Now()
		for !slices.Equal(h.client.sees(), want) {
			if time.Since(begin) > 40*time.Second {
				p.Fatalf("a client of %s sees %v; want %v", h.name, h.client.sees(), want)
			}
			<-time.After(2 * time.Millisecond)
		}
		for key := range p.since {
			if _, parts := h.client.counts(key); parts > 0 && h.rested {
				p.Fatalf("a client of %s was told that %s had gone, who was there", h.name, key)
			}
		}
		h.client.forget()
		h.rested = true
	}
	p.since, p.shaken = map[string][]*host{}, false
	for _, key := range want {
		p.since[key] = slices.DeleteFunc(slices.Clone(p.hosts), func(h *host) bool { return h.sessions[key] == 0 })
	}
}
