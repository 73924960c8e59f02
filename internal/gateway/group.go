package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/group"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// seat is a session's place in a group, and what it has it for.
type seat struct {
	*group.Place
	asked bool // a group frame
	topic bool // a subscription to the group's topic
	own   bool // a subscription to the server's own topic, as of 0.3
}

func (c *client) group(ctx context.Context, f wire.Frame) {
	if c.g.opts.Live.Groups == nil {
		c.fail(f.Ref, errNoLive)
		return
	}
	if err := pgcast.CheckGroup(f.Group); err != nil {
		c.fail(f.Ref, err)
		return
	}
	answer, err := c.grouped(ctx, f)
	if err == nil && len(answer) > room {
		err = &pgcast.Error{Code: pgcast.CodeTooLarge, Message: "the answer is larger than a frame may be", Hint: "GET /groups/{name}"}
	}
	if err != nil {
		c.turnDown(f.Ref, err)
		return
	}
	if f.Ref != nil || answer != nil {
		c.session.Send(wire.AppendGroup(nil, f.Ref, f.Group, f.Op, answer))
	}
	if f.Op == wire.OpJoin {
		c.live.seats[f.Group].Show()
	}
}

// grouped does what a group frame asks for.
func (c *client) grouped(ctx context.Context, f wire.Frame) (answer []byte, err error) {
	groups := c.g.opts.Live.Groups
	switch f.Op {
	case wire.OpCreate, wire.OpSet, wire.OpClose, wire.OpSend: // which are told to others, as publishes are
		if err := c.limit(ctx, ratelimit.Publish, pgcast.GroupTopic(f.Group), 1); err != nil {
			return nil, err
		}
	}
	if f.Op != wire.OpLeave {
		if err := c.allow(ctx, auth.Group, pgcast.GroupTopic(f.Group)); err != nil {
			return nil, err
		}
	}
	switch f.Op {
	case wire.OpCreate:
		if err := metadata(f.Data); err != nil {
			return nil, err
		}
		created, err := groups.Create(ctx, f.Group, f.Max, f.Data)
		return fmt.Appendf(nil, `{"created":%t}`, created), err
	case wire.OpJoin:
		return c.joinGroup(ctx, f)
	case wire.OpLeave:
		if s := c.live.seats[f.Group]; s != nil {
			s.asked = false
			s.Leave(true)
			c.vacate(f.Group)
		}
		return nil, nil
	case wire.OpList:
		info, members, err := groups.List(ctx, f.Group)
		return groupText(info, members), err
	case wire.OpSend:
		s := c.live.seats[f.Group]
		if s == nil {
			return nil, errNoMember
		}
		return nil, s.Send(ctx, group.Message{Event: f.Event, Data: f.Data, Role: f.Role, Member: f.Member})
	}
	// What is left changes it.
	if err := c.may(ctx, f.Group); err != nil {
		return nil, err
	}
	change := pgcast.GroupChange{Close: f.Op == wire.OpClose, Meta: f.Data}
	if err := metadata(f.Data); err != nil {
		return nil, err
	}
	if f.Max > 0 {
		change.Max = &f.Max
	}
	return nil, groups.Change(ctx, f.Group, change)
}

var (
	errNoMember = &pgcast.Error{Code: pgcast.CodeForbidden, Message: "only members may do that", Hint: "join the group first"}
	errNoAdmin  = &pgcast.Error{Code: pgcast.CodeForbidden, Message: "only members with role admin may do that"}
)

// may tells why the session may not change a group, or returns nil.
func (c *client) may(ctx context.Context, name string) error {
	s := c.live.seats[name]
	if s == nil {
		return errNoMember
	}
	info, err := s.Group(ctx)
	if err != nil {
		return err
	}
	switch m, is := s.Member(); {
	case info.Closed:
		return &pgcast.Error{Code: pgcast.CodeClosed, Message: "the group is closed"}
	case !is:
		return errNoMember
	case m.Role != admin && slices.Contains(info.Roles, admin):
		return errNoAdmin
	}
	return nil
}

// admin is the role of those who may change a group that has it.
const admin = "admin"

func metadata(data json.RawMessage) error {
	if data != nil && data[0] != '{' {
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "data is not an object"}
	}
	return nil
}

func (c *client) joinGroup(ctx context.Context, f wire.Frame) ([]byte, error) {
	s, err := c.seat(f.Group)
	if err != nil {
		return nil, err
	}
	m, info, err := s.Join(ctx, c.live.user, f.Role)
	if err != nil {
		c.vacate(f.Group)
		return nil, err
	}
	s.asked = true
	b := append([]byte(`{"key":`), quoted(m.Key)...)
	b = append(append(b, `,"role":`...), quoted(m.Role)...)
	b = fmt.Appendf(b, `,"max":%d,"meta":`, info.Max)
	return append(append(b, info.Meta...), '}'), nil
}

// groupOf gives the group whose topic it is.
func groupOf(topic string) (name string, ok bool) {
	return strings.CutPrefix(topic, pgcast.GroupTopic(""))
}

// seat finds or opens the session's place in a group; vacate must follow where it is not
// kept.
func (c *client) seat(name string) (*seat, error) {
	if s := c.live.seats[name]; s != nil {
		return s, nil
	}
	if len(c.live.seats) >= c.g.opts.MaxSubscriptions {
		c.clear()
	}
	if len(c.live.seats) >= c.g.opts.MaxSubscriptions {
		return nil, errTooManyLive
	}
	own, session := wire.GroupOf+name, c.session
	p, err := c.g.opts.Live.Groups.Open(name, group.Teller{Dialect: memberDialect,
		Closed: wire.AppendLive(nil, own, group.EventClose, []byte("null")),
		Kick:   func(p *group.Place) { session.Pull(p) },
		Encode: func(event string, data json.RawMessage) []byte { return wire.AppendLive(nil, own, event, data) },
		Offer:  func(text []byte) { session.Offer(text) }})
	if err != nil {
		return nil, err
	}
	if c.live.seats == nil {
		c.live.seats = map[string]*seat{}
	}
	s := &seat{Place: p}
	c.live.seats[name] = s
	return s, nil
}

// clear gives up the places in groups that are closed, but for those that events come with.
func (c *client) clear() {
	for name, s := range c.live.seats {
		if s.Ended() && !s.own {
			delete(c.live.seats, name)
			s.End(true)
		}
	}
}

// vacate gives a place up for which there is no reason any more.
func (c *client) vacate(name string) {
	if s := c.live.seats[name]; s != nil && !s.asked && !s.topic && !s.own {
		delete(c.live.seats, name)
		s.End(true)
		if !s.Ended() { // else that is still to be told
			c.session.Forget(s.Place)
		}
	}
}

// member does what comes with a subscription that brings a place in a group: membership
// where that is so without asking, and being told who is in it.
func (c *client) member(ctx context.Context, name string, s *seat) error {
	var err error
	if _, is := s.Member(); !is && selects(c.g.opts.Live.MemberOn, name) {
		_, _, err = s.Join(ctx, c.live.user, "")
	}
	s.Show()
	return err
}

// arriveGroup does what comes with a subscription to a group's topic.
func (c *client) arriveGroup(ctx context.Context, topic string) {
	name, ok := c.brings(topic)
	if !ok {
		return
	}
	s, err := c.seat(name)
	if err == nil && !s.topic {
		s.topic = true
		err = c.member(ctx, name, s)
	}
	if err != nil {
		c.fail(nil, err)
	}
}

// brings gives the group in which a subscription to a topic brings a place.
func (c *client) brings(topic string) (name string, ok bool) {
	name, ok = groupOf(topic)
	return name, ok && c.g.opts.Live.Groups != nil && selects(c.g.opts.Live.MemberOn, name) && pgcast.CheckGroup(name) == nil
}

// departGroup does what comes with the end of a subscription to a group's topic.
func (c *client) departGroup(topic string) {
	name, ok := groupOf(topic)
	if !ok {
		return
	}
	if s := c.live.seats[name]; s != nil {
		s.topic = false
		c.vacate(name)
	}
	c.alias(topic)
}

// memberDialect tells who is in a group, for clients that may know no keys: each step adds
// or takes away one.
var memberDialect = &presence.Dialect{Encode: encodeMembers}

func encodeMembers(c presence.Changes) (texts [][]byte) {
	topic, set, n := wire.GroupOf+c.Topic, c.Set, c.Count
	step := func(event string, m group.Member, n int) {
		data, _ := json.Marshal(struct { // what was read as JSON always can be
			group.Member
			Count int `json:"count"`
		}{m, n})
		texts = append(texts, wire.AppendLive(nil, topic, event, data))
	}
	if c.Whole || c.Unclear {
		var first []presence.Entry
		first, set = fits(c.All())
		texts = append(texts, wire.AppendLive(nil, topic, group.EventMembers, membersText(group.Members(first))))
		n -= len(set)
	} else {
		n += len(c.Removed) - len(set)
		for _, m := range group.Members(c.Removed) {
			n--
			step(group.EventLeave, m, n)
		}
	}
	for _, m := range group.Members(set) {
		n++
		step(group.EventJoin, m, n)
	}
	return texts
}

// membersText is a list of members, by their keys.
func membersText(list []group.Member) []byte {
	slices.SortFunc(list, func(a, b group.Member) int { return strings.Compare(a.Key, b.Key) })
	b, _ := json.Marshal(list) // what was read as JSON always can be
	if list == nil {
		return []byte("[]")
	}
	return b
}

// groupText is a group and its members.
func groupText(info pgcast.Group, list []group.Member) []byte {
	b := append([]byte(`{"members":`), membersText(list)...)
	roles, _ := json.Marshal(info.Roles)
	b = fmt.Appendf(b, `,"max":%d,"roles":%s,"meta":`, info.Max, roles)
	if info.Meta == nil {
		b = append(b, "{}"...)
	}
	return fmt.Appendf(append(b, info.Meta...), `,"closed":%t}`, info.Closed)
}
