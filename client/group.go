package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// Member is somebody in a group.
type Member struct {
	Key  string          `json:"key"`
	Role string          `json:"role"`
	User json.RawMessage `json:"user"` // what others may see of the user; nil if nothing
}

// Roster is a group with who is in it.
type Roster struct {
	Members []Member        `json:"members"`
	Max     int             `json:"max"` // 0: no limit
	Roles   []string        `json:"roles"`
	Meta    json.RawMessage `json:"meta"`
	Closed  bool            `json:"closed"`
}

// Membership is what a group says to who joins.
type Membership struct {
	Key  string          `json:"key"`
	Role string          `json:"role"`
	Max  int             `json:"max"` // 0: no limit
	Meta json.RawMessage `json:"meta"`
}

// GroupMessage is sent to some members of a group, now: whoever is not there never gets it.
type GroupMessage struct {
	Event  string
	Data   json.RawMessage
	Role   string // to those who have it; of what is sent only
	Member string // or to the one with this key; of what is sent only
}

// Group is a roster with a limit. See docs/groups.md.
type Group struct {
	c       *Client
	name    string
	err     error
	live    *feed
	members state[string, Member]

	// Guarded by Client.mu.
	joined bool
	role   string
	boxes  map[*box]struct{} // of iterations of messages
}

// box has the messages that wait for one iteration. Its queue is guarded by Client.mu.
type box struct {
	filled chan struct{} // has room for one
	queue  []GroupMessage
}

// maxMessages is how many messages of a group may wait for who iterates them.
const maxMessages = 1000

// Group gives the group of that name: the same for the same name.
func (c *Client) Group(name string) *Group {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := wire.GroupOf + name
	if g := c.groups[own]; g != nil {
		return g
	}
	g := &Group{c: c, name: name, err: pgcast.CheckGroup(name), boxes: map[*box]struct{}{}}
	g.live = &feed{own: own, enter: g.enter, take: g.take, lost: g.lost}
	if g.err == nil {
		c.follows(g.live)
		c.groups[own] = g
	}
	return g
}

func (g *Group) enter() (wire.Frame, bool) {
	return wire.Frame{Type: wire.Group, Group: g.name, Op: wire.OpJoin, Role: g.role}, g.joined
}

func (g *Group) lost() {
	g.joined = false
	g.members.replace(nil)
}

func (g *Group) take(event string, data json.RawMessage) {
	var one Member
	switch event {
	case "members":
		var some []Member
		if json.Unmarshal(data, &some) != nil {
			return
		}
		all := map[string]Member{}
		for _, m := range some {
			all[m.Key] = m
		}
		g.members.replace(all)
	case "join":
		if json.Unmarshal(data, &one) == nil {
			g.members.set(one.Key, one)
		}
	case "leave":
		if json.Unmarshal(data, &one) == nil {
			g.members.remove(one.Key)
		}
	case "close":
		g.live.fail(&pgcast.Error{Code: pgcast.CodeClosed, Message: fmt.Sprintf("the group %q is closed", g.name)})
	case "full":
	default:
		for b := range g.boxes {
			b.queue = append(b.queue, GroupMessage{Event: event, Data: data})
			b.queue = b.queue[max(0, len(b.queue)-maxMessages):]
			signal(b.filled)
		}
	}
}

// Create makes the group, of at most max members (0: no limit), with metadata, an object or
// nil. It gives false, and does nothing, if there is one of that name. After [ErrUncertain] it
// may have been made.
func (g *Group) Create(ctx context.Context, max int, meta any) (created bool, err error) {
	text, err := marshal(meta)
	if err != nil {
		return false, err
	}
	var said struct{ Created bool }
	err = g.call(ctx, wire.Frame{Op: wire.OpCreate, Max: max, Data: text}, &said)
	return said.Created, err
}

// Join takes a place in the group with a role (empty: the group's first), and keeps it
// through reconnects. It fails with code too_many where there is none, closed, or not_found.
// If the place is lost, Changes and Messages end with why.
func (g *Group) Join(ctx context.Context, role string) (m Membership, err error) {
	g.c.mu.Lock()
	before, roleBefore := g.joined, g.role
	g.joined, g.role = true, role // the members are told at once, behind the answer
	g.c.mu.Unlock()
	if err = g.call(ctx, wire.Frame{Op: wire.OpJoin, Role: role}, &m); err != nil {
		g.c.mu.Lock()
		defer g.c.mu.Unlock()
		if g.joined, g.role = before, roleBefore; !before && g.c.conn != nil {
			g.c.enqueue(&wire.Frame{Type: wire.Group, Group: g.name, Op: wire.OpLeave}, nil) // it may have been done
		}
	}
	return m, err
}

// Leave gives the place back.
func (g *Group) Leave(ctx context.Context) error {
	g.c.mu.Lock()
	g.lost()
	g.c.mu.Unlock()
	return g.call(ctx, wire.Frame{Op: wire.OpLeave}, nil)
}

// List asks who is in the group.
func (g *Group) List(ctx context.Context) (r Roster, err error) {
	return r, g.call(ctx, wire.Frame{Op: wire.OpList}, &r)
}

// Send sends to the members with m.Role, or to the one with key m.Member. For members only.
// After an error of code unavailable, or [ErrUncertain], it may have been sent.
func (g *Group) Send(ctx context.Context, m GroupMessage) error {
	return g.call(ctx, wire.Frame{Op: wire.OpSend, Event: m.Event, Data: m.Data, Role: m.Role, Member: m.Member}, nil)
}

// Close ends the group for ever: all members are out.
func (g *Group) Close(ctx context.Context) error {
	return g.call(ctx, wire.Frame{Op: wire.OpClose}, nil)
}

// All are the members as far as is known now, by key, while the client is one of them.
func (g *Group) All() map[string]Member { return g.members.all() }

// Changes gives the members, and then who comes, changes and goes, while the client is one
// of them. It ends when the caller breaks, or, with an error as the last, when ctx ends, Run
// returns or the place is lost.
func (g *Group) Changes(ctx context.Context) iter.Seq2[Change[string, Member], error] {
	return follow(ctx, g.live, g.err, &g.members, nil)
}

// Messages gives what is sent to the client as a member. Of those that wait for a slow caller
// the newest 1000 stay. It ends as Changes does.
func (g *Group) Messages(ctx context.Context) iter.Seq2[GroupMessage, error] {
	return func(yield func(GroupMessage, error) bool) {
		if g.err != nil {
			yield(GroupMessage{}, g.err)
			return
		}
		over, why, end := g.live.watch()
		defer end(nil)
		b := &box{filled: make(chan struct{}, 1)}
		g.c.mu.Lock()
		g.boxes[b] = struct{}{}
		g.c.mu.Unlock()
		defer func() {
			g.c.mu.Lock()
			delete(g.boxes, b)
			g.c.mu.Unlock()
		}()
		for {
			var err error
			select {
			case <-b.filled:
			case <-over:
				err = why()
			case <-g.c.done:
				err = g.c.err
			case <-ctx.Done():
				err = ctx.Err()
			}
			g.c.mu.Lock()
			queue := b.queue
			b.queue = nil
			g.c.mu.Unlock()
			for _, m := range queue {
				if !yield(m, nil) {
					return
				}
			}
			if err != nil {
				yield(GroupMessage{}, err)
				return
			}
		}
	}
}

// call asks the server. What would not be the same twice is not sent again.
func (g *Group) call(ctx context.Context, f wire.Frame, said any) error {
	if g.err != nil {
		return g.err
	}
	f.Type, f.Group = wire.Group, g.name
	again := f.Op == wire.OpJoin || f.Op == wire.OpLeave || f.Op == wire.OpList
	a, err := g.c.call(ctx, &call{frame: f, again: again})
	if err == nil && said != nil {
		err = json.Unmarshal(a.Data, said)
	}
	if err != nil {
		return fmt.Errorf("group %q: %s: %w", g.name, f.Op, err)
	}
	return nil
}
