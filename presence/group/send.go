package group

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgcast/pgcast"
)

// Message is an event for some of the members. It is lost for whoever is not there.
type Message struct {
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data,omitempty"`
	// Role and Member, if not empty, select the members with a role, or the one with a key.
	Role   string `json:"role,omitempty"`
	Member string `json:"member,omitempty"`
}

// said is a message on its way between servers.
type said struct {
	Message
	Server string `json:"from"`
	All    bool   `json:"all,omitempty"` // for whoever is told of the group
}

// Events of a group that are the server's own.
const (
	EventMembers = "members"
	EventJoin    = "join"
	EventLeave   = "leave"
	EventFull    = "full"
	EventClose   = "close"
)

// OwnEvent tells whether only the server says so on a group.
func OwnEvent(event string) bool {
	return slices.Contains([]string{EventMembers, EventJoin, EventLeave, EventFull, EventClose}, event)
}

// Send sends an event to members on all servers, the session's own user among them if he is
// selected. Errors are *[pgcast.Error]: what cannot be sent, a session that is no member
// (forbidden), and where the other servers cannot be told, [pgcast.ErrUnavailable]: some may
// have got it.
func (p *Place) Send(ctx context.Context, m Message) error {
	switch _, is := p.Member(); {
	case OwnEvent(m.Event):
		return &pgcast.Error{Code: pgcast.CodeInvalidEvent, Message: fmt.Sprintf("event %q is the server's own in groups", m.Event)}
	case pgcast.CheckEventName(m.Event) != nil:
		return pgcast.CheckEventName(m.Event)
	case (m.Role == "") == (m.Member == ""):
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "say whom it is for: a role, or a member's key",
			Hint: "publish to the topic " + pgcast.GroupTopic(p.group.name) + " what is for all"}
	case p.ended.Load():
		return errClosed(p.group.name)
	case !is:
		return &pgcast.Error{Code: pgcast.CodeForbidden, Message: fmt.Sprintf("only members send to group %q", p.group.name), Hint: "join it first"}
	}
	p.groups.metrics.sent.Inc()
	return p.groups.say(ctx, p.group, said{Message: m})
}

var errUntold = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "the other servers cannot be told right now", Hint: "some of the members may have got it; try again in a moment"}

// say tells the other servers, and then those who are here.
func (g *Groups) say(ctx context.Context, gr *group, m said) error {
	if g.opts.Relay != nil {
		m.Server = g.server
		text, err := json.Marshal(m)
		if err == nil {
			err = g.opts.Relay.Tell(ctx, gr.name, text)
		}
		switch {
		case errors.Is(err, pgcast.ErrUnavailable):
			return errUntold
		case err != nil:
			return fmt.Errorf("send to group %q: %w", gr.name, err)
		}
	}
	g.deliver(gr, m)
	return nil
}

// hear takes what a server has told.
func (g *Groups) hear(gr *group, text []byte) {
	var m said
	if json.Unmarshal(text, &m) == nil && m.Server != g.server {
		g.deliver(gr, m)
	}
}

func (g *Groups) deliver(gr *group, m said) {
	var to []*Place
	g.mu.Lock()
	for p := range gr.places {
		s := gr.stays[p.key]
		if m.All && !gr.closed || p.member && s != nil && (m.Role == "" || m.Role == s.member.Role) && (m.Member == "" || m.Member == p.key) {
			to = append(to, p)
		}
	}
	g.mu.Unlock()
	data := m.Data
	if data == nil {
		data = json.RawMessage("null")
	}
	if len(to) == 0 {
		return
	}
	text := to[0].tell.Encode(m.Event, data) // once, and not for each of thousands
	for _, p := range to {
		p.tell.Offer(text)
	}
}

const maxCalls = 1000 // that wait, and Full is left out

// wasFull tells that somebody found no room; mu is held. Who knocks all the time is not
// heard each time.
func (g *Groups) wasFull(gr *group, m Member, limit int) {
	if f := g.opts.Hooks.Full; f != nil && len(g.calls) < maxCalls {
		g.later(func() { f(gr.name, m) })
	}
	if time.Since(gr.full) < fullEvery {
		return
	}
	gr.full = time.Now()
	data := fmt.Appendf(nil, `{"role":%q,"count":%d}`, m.Role, limit)
	gr.refs++
	g.later(func() {
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		defer cancel()
		_ = g.say(ctx, gr, said{Message: Message{Event: EventFull, Data: data}, All: true}) // who is not told misses nothing
		g.mu.Lock()
		defer g.mu.Unlock()
		g.release(gr)
	})
}
