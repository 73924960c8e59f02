package group

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/presence"
)

// Teller is how one session is told of a group.
type Teller struct {
	Dialect *presence.Dialect // of its members
	Closed  []byte            // the text that it is closed
	// Kick is called when the place has something to pull. It must not wait.
	Kick func(*Place)
	// Encode makes the text of what was sent to members; it is the same for all who are told
	// of the group. Offer is called with the text, which others are given as well and nobody
	// changes. It may be lost, and Offer must not wait.
	Encode func(event string, data json.RawMessage) []byte
	Offer  func(text []byte)
}

// Place is one session's in a group: it may be told of the members, and be one. Its methods
// are called by one goroutine at a time, but for Pull.
type Place struct {
	groups *Groups
	group  *group
	tell   Teller
	view   atomic.Pointer[presence.View]
	ended  atomic.Bool // the group is closed
	said   bool        // and that was pulled; owned by who calls Pull

	// Guarded by Groups.mu.
	member bool
	key    string
}

// stay is one user's in one group on this server.
type stay struct {
	member   Member
	sessions int
	sure     bool        // the rosters have it
	leaving  *time.Timer // when the last session has gone
}

// Open gives a session a place in a group, which need not exist; it is told of nothing yet.
// End must follow. Errors are *[pgcast.Error]: the name is none of a group.
func (g *Groups) Open(name string, tell Teller) (*Place, error) {
	if err := pgcast.CheckGroup(name); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := &Place{groups: g, group: g.hold(name), tell: tell}
	p.group.places[p] = struct{}{}
	if p.group.closed {
		p.shut()
	} else if !p.group.known {
		g.ask(p.group)
	}
	return p, nil
}

// Show has the session told who is in the group: at first everything, also when it is told
// already.
func (p *Place) Show() {
	if v := p.view.Load(); v != nil {
		v.Again()
		return
	}
	// It may be kicked at once, or only when the store has answered; End may come before.
	p.view.Store(p.groups.rosters.View(p.group.name, p.tell.Dialect, "", func(v *presence.View) {
		p.view.Store(v)
		p.tell.Kick(p)
	}))
}

// Pull gives the texts that bring the session up to date. After the end there are no more.
func (p *Place) Pull() [][]byte {
	if p.ended.Load() {
		if p.said {
			return nil
		}
		p.said = true
		return [][]byte{p.tell.Closed}
	}
	if v := p.view.Load(); v != nil {
		return v.Pull()
	}
	return nil
}

// Ended tells whether the group is closed, for all that is known here.
func (p *Place) Ended() bool { return p.ended.Load() }

// shut ends the place with its group; Groups.mu is held.
func (p *Place) shut() {
	p.member = false
	p.ended.Store(true)
	p.tell.Kick(p)
}

// hearTimeout is how long a join waits until what other servers say is heard.
const hearTimeout = time.Second

// Join makes the session's user a member, with a role, or another one; "" stands for the
// group's first. It returns when that is so on all servers; after an error nothing has
// changed. Of a user's roles the one that was asked for last counts. Errors match
// [presence.ErrFull], [pgcast.ErrClosed] and [pgcast.ErrUnavailable], are ctx's, or say
// that there is no such group or role.
func (p *Place) Join(ctx context.Context, user presence.User, role string) (Member, pgcast.Group, error) {
	m, info, err := p.join(ctx, user, role)
	outcome := failed
	switch e := new(pgcast.Error); {
	case err == nil:
		outcome = joined
	case errors.Is(err, presence.ErrFull):
		outcome = full
	case errors.Is(err, pgcast.ErrClosed):
		outcome = closed
	case errors.As(err, &e) && (e.Code == pgcast.CodeInvalid || e.Code == pgcast.CodeNotFound):
		outcome = refused
	}
	p.groups.metrics.joins.WithLabelValues(outcome).Inc()
	return m, info, err
}

func (p *Place) join(ctx context.Context, user presence.User, role string) (m Member, info pgcast.Group, err error) {
	g, gr := p.groups, p.group
	if info, err = g.info(ctx, gr); err != nil {
		return m, info, err
	}
	switch {
	case info.Closed:
		return m, info, errClosed(gr.name)
	case role == "":
		role = info.Roles[0]
	case !slices.Contains(info.Roles, role):
		return m, info, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("group %q has no role %.40q", gr.name, role)}
	}
	m = memberOf(user, role)
	s, there := g.enter(gr, m.Key)
	if there {
		g.rosters.Post(gr.name, m.Key, m.value())
	} else {
		err = g.rosters.Put(ctx, gr.name, m.Key, m.value(), info.Max)
	}
	if err == nil {
		// What is sent to a member that has been told of it is to arrive, if it can.
		select {
		case <-gr.heard:
		case <-time.After(hearTimeout):
		}
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	if gr.closed {
		// It was closed meanwhile; what came too late goes again.
		if gr.stays[m.Key] == s {
			g.remove(gr, m.Key)
		} else {
			g.rosters.Drop(gr.name, m.Key)
		}
		return m, info, errClosed(gr.name)
	}
	if err != nil {
		if s.sessions--; s.sessions == 0 && gr.stays[m.Key] == s {
			if s.sure { // another was let in meanwhile, and has left
				g.rosters.Drop(gr.name, m.Key)
			}
			delete(gr.stays, m.Key)
			g.release(gr)
		} else if s.sure { // taking this one back may have taken that away
			g.rosters.Post(gr.name, m.Key, s.member.value())
		}
		if errors.Is(err, presence.ErrFull) {
			g.wasFull(gr, m, info.Max)
		}
		return m, info, err
	}
	first := !s.sure
	s.sure, s.member = true, m
	if p.member {
		g.leave(gr, p.key, true)
	}
	p.member, p.key = true, m.Key
	if f := g.opts.Hooks.Join; f != nil && first {
		g.later(func() { f(gr.name, m) })
	}
	return m, info, nil
}

func errClosed(name string) error {
	return &pgcast.Error{Code: pgcast.CodeClosed, Message: fmt.Sprintf("group %q is closed", name)}
}

// enter counts a session in, and tells whether its user was there already.
func (g *Groups) enter(gr *group, key string) (s *stay, there bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s = gr.stays[key]
	if s == nil {
		s = &stay{}
		gr.stays[key] = s
		gr.refs++
	}
	if s.leaving != nil {
		s.leaving.Stop()
		s.leaving = nil
	}
	s.sessions++
	return s, s.sure
}

// leave takes a session of a user from a group; mu is held.
func (g *Groups) leave(gr *group, key string, meant bool) {
	s := gr.stays[key]
	if s == nil {
		return
	}
	if s.sessions--; s.sessions > 0 {
		return
	}
	gone := func() {
		g.remove(gr, key)
		g.metrics.leaves.Inc()
		if f := g.opts.Hooks.Leave; f != nil {
			g.later(func() { f(gr.name, s.member) })
		}
	}
	if meant || g.opts.Grace == 0 {
		gone()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(g.opts.Grace, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if s.leaving == timer && gr.stays[key] == s {
			gone()
		}
	})
	s.leaving = timer
}

// remove takes a user from a group; mu is held.
func (g *Groups) remove(gr *group, key string) {
	delete(gr.stays, key)
	g.rosters.Drop(gr.name, key)
	g.release(gr)
}

// Group gives what is known of the group, and asks where nothing is. Errors like those of
// [Facts].
func (p *Place) Group(ctx context.Context) (pgcast.Group, error) { return p.groups.info(ctx, p.group) }

// Member gives the member that the session's user is, if he is one.
func (p *Place) Member() (m Member, is bool) {
	p.groups.mu.Lock()
	defer p.groups.mu.Unlock()
	if s := p.group.stays[p.key]; p.member && s != nil {
		return s.member, true
	}
	return m, false
}

// Leave takes the session from the group's members. If it was its user's last one the place
// is free at once when it meant to go, and after the grace period otherwise.
func (p *Place) Leave(meant bool) {
	p.groups.mu.Lock()
	defer p.groups.mu.Unlock()
	if p.member {
		p.member = false
		p.groups.leave(p.group, p.key, meant)
	}
}

// End is Leave, and has the session told of nothing any more.
func (p *Place) End(meant bool) {
	p.Leave(meant)
	if v := p.view.Load(); v != nil {
		v.Close()
	}
	p.groups.mu.Lock()
	defer p.groups.mu.Unlock()
	delete(p.group.places, p)
	p.groups.release(p.group)
}
