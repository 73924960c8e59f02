package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/cursor"
	"github.com/pgcast/pgcast/presence/group"
)

// Live is the live state a gateway serves beside the log. What is nil is answered with
// unsupported.
type Live struct {
	Presence *presence.Users
	// JoinOn selects the topics whose subscribers are present there without asking.
	JoinOn   []pgcast.Pattern
	Identity presence.Identity
	Cursors  *cursor.Cursors
	// CursorOn selects the topics whose subscribers are told of the cursors there without
	// asking.
	CursorOn []pgcast.Pattern
	Groups   *group.Groups
	// MemberOn selects the groups, by name, whose topics' subscribers are members without
	// asking.
	MemberOn []pgcast.Pattern
}

// live is a client's part in live state. Owned by its reader.
type live struct {
	said    json.RawMessage // of its user, by the client
	user    presence.User
	joined  map[string]stay           // by topic
	renamed int                       // stays, in all
	views   map[string]*presence.View // by the server's own topic
	cursors *cursors
	seats   map[string]*seat // by group
}

// stay is a session's on a topic.
type stay struct {
	key     string
	asked   bool // by a presence frame; else it came with a subscription
	watched bool // so did the view
}

// knownAs is who the session is from now on, also where it is already.
func (c *client) knownAs(session string, said json.RawMessage) {
	user := c.identity(session, said)
	if shown := user.Data; c.shown.Load() == nil || !bytes.Equal(*c.shown.Load(), shown) {
		c.shown.Store(&shown)
	}
	same := user.Key == c.live.user.Key && bytes.Equal(user.Data, c.live.user.Data)
	if c.live.said, c.live.user = said, user; same {
		return
	}
	for topic, s := range c.live.joined {
		c.g.opts.Live.Presence.Enter(topic, user)
		c.g.opts.Live.Presence.Leave(topic, s.key, true)
		s.key = user.Key
		c.live.joined[topic] = s
		if c.live.renamed++; c.live.renamed > c.g.opts.MaxSubscriptions {
			c.refuse(0) // to be somebody else over and over is work for all who are told
		}
	}
}

// publicKey makes of a session's secret id what others may know it by.
func publicKey(session string) string {
	own, _, _ := strings.Cut(session, ".")
	sum := sha256.Sum256([]byte(own))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))
}

func (c *client) presence(ctx context.Context, f wire.Frame) {
	users := c.g.opts.Live.Presence
	if users == nil {
		c.fail(f.Ref, errNoLive)
		return
	}
	if err := pgcast.CheckTopic(f.Topic); err != nil {
		c.fail(f.Ref, err)
		return
	}
	if f.Op != wire.OpLeave && f.Op != wire.OpUnsync {
		if err := c.allow(ctx, auth.Presence, f.Topic); err != nil {
			c.turnDown(f.Ref, err)
			return
		}
	}
	answer, err := []byte(nil), error(nil)
	switch f.Op {
	case wire.OpJoin:
		if answer, err = c.join(ctx, f); err == nil {
			c.session.Send(wire.AppendPresence(nil, f.Ref, f.Topic, f.Op, answer))
			err = c.watch(f.Topic, wire.PresenceOf, users.Rosters, stateDialect, "")
			if err == nil {
				return
			}
		}
	case wire.OpSync:
		err = c.watch(f.Topic, wire.PresenceOf, users.Rosters, stateDialect, "")
		if s, there := c.live.joined[f.Topic]; there {
			s.watched = false
			c.live.joined[f.Topic] = s
		}
	case wire.OpLeave:
		c.part(f.Topic, true)
		c.unwatch(wire.PresenceOf + f.Topic)
	case wire.OpUnsync:
		c.unwatch(wire.PresenceOf + f.Topic)
	case wire.OpCount:
		var n int
		n, err = users.Count(ctx, f.Topic)
		answer, err = appendCount(nil, n), liveError(err)
	case wire.OpList:
		var list []presence.Entry
		list, err = users.List(ctx, f.Topic)
		answer, err = append(appendUsers([]byte(`{"users":`), list), '}'), liveError(err)
	}
	if err == nil && len(answer) > wire.MaxServerFrame-1024 {
		err = &pgcast.Error{Code: pgcast.CodeTooLarge, Message: "the answer is larger than a frame may be", Hint: "GET /topics/{topic}/presence"}
	}
	if err != nil {
		c.fail(f.Ref, err)
		return
	}
	if f.Ref != nil || answer != nil {
		c.session.Send(wire.AppendPresence(nil, f.Ref, f.Topic, f.Op, answer))
	}
}

// liveError is what a client is told when live state cannot be asked in time.
func liveError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return presence.ErrUnavailable
	}
	return err
}

func appendCount(dst []byte, n int) []byte {
	return append(strconv.AppendInt(append(dst, `{"count":`...), int64(n), 10), '}')
}

var errNoLive = &pgcast.Error{Code: pgcast.CodeUnsupported, Message: "this server does not serve live state"}

// join has the session's user be on a topic.
func (c *client) join(ctx context.Context, f wire.Frame) (answer []byte, err error) {
	if f.Data != nil {
		if len(f.Data) > wire.MaxUser || f.Data[0] != '{' {
			return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "data is not an object of at most 4 KiB"}
		}
		c.knownAs(c.id, f.Data)
	}
	user := c.live.user
	before, there := c.live.joined[f.Topic]
	if !there && len(c.live.joined) >= c.g.opts.MaxSubscriptions {
		return nil, errTooManyLive
	}
	if err := c.g.opts.Live.Presence.Join(ctx, f.Topic, user); err != nil {
		return nil, liveError(err)
	}
	if there {
		c.g.opts.Live.Presence.Leave(f.Topic, before.key, true)
	}
	c.stay(f.Topic, stay{key: user.Key, asked: true})
	key, err := json.Marshal(map[string]string{"key": user.Key})
	return key, err
}

var errTooManyLive = &pgcast.Error{Code: pgcast.CodeTooMany, Message: "this session is on too many topics", Hint: "leave some first"}

func (c *client) stay(topic string, s stay) {
	if c.live.joined == nil {
		c.live.joined = map[string]stay{}
	}
	c.live.joined[topic] = s
}

// arrive does what comes with a subscription to a topic.
func (c *client) arrive(topic string, v verdict) {
	if v.pointed {
		c.attach(topic)
	}
	l := c.g.opts.Live
	if !v.present || l.Presence == nil || pgcast.IsPattern(topic) || !selects(l.JoinOn, topic) {
		return
	}
	if _, there := c.live.joined[topic]; there || len(c.live.joined) >= c.g.opts.MaxSubscriptions {
		return
	}
	l.Presence.Enter(topic, c.live.user)
	s := stay{key: c.live.user.Key}
	if c.said.Load() && c.live.views[wire.PresenceOf+topic] == nil {
		s.watched = c.watch(topic, wire.PresenceOf, l.Presence.Rosters, peerDialect, "") == nil
	}
	c.stay(topic, s)
}

func selects(patterns []pgcast.Pattern, topic string) bool {
	return slices.ContainsFunc(patterns, func(p pgcast.Pattern) bool { return p.Match(topic) })
}

// depart does what comes with the end of a subscription.
func (c *client) depart(topic string) {
	c.detach(topic)
	if s, there := c.live.joined[topic]; there && !s.asked {
		c.part(topic, true)
		if s.watched {
			c.unwatch(wire.PresenceOf + topic)
		}
	}
}

// part takes the session from a topic; meant says that it wants to go.
func (c *client) part(topic string, meant bool) {
	if s, there := c.live.joined[topic]; there {
		delete(c.live.joined, topic)
		c.g.opts.Live.Presence.Leave(topic, s.key, meant)
	}
}

// watch has the session told of a roster. Once it is told, it is told everything again.
func (c *client) watch(topic, of string, rosters *presence.Rosters, d *presence.Dialect, hide string) error {
	if v := c.live.views[of+topic]; v != nil {
		v.Again()
		return nil
	}
	if len(c.live.views) >= c.g.opts.MaxSubscriptions {
		return errTooManyLive
	}
	if c.live.views == nil {
		c.live.views = map[string]*presence.View{}
	}
	session := c.session
	c.live.views[of+topic] = rosters.View(topic, d, hide, func(v *presence.View) { session.Pull(v) })
	return nil
}

func (c *client) unwatch(own string) {
	if v := c.live.views[own]; v != nil {
		delete(c.live.views, own)
		v.Close()
		c.session.Forget(v) // who reads nothing could else have any number of them kept
	}
}

// attends tells whether a topic of the server's own is one that is served.
func (c *client) attends(topic string) bool {
	l := c.g.opts.Live
	switch _, verb, about := ownTopic(topic); verb {
	case auth.Presence:
		return l.Presence != nil && pgcast.CheckTopic(about) == nil
	case auth.Cursor:
		return l.Cursors != nil && pgcast.CheckTopic(about) == nil
	case auth.Group:
		name, _ := cutOwn(topic)
		return l.Groups != nil && pgcast.CheckGroup(name) == nil
	}
	return topic == wire.System
}

// attend answers a subscription to a topic of the server's own, which is served.
func (c *client) attend(ctx context.Context, topic string, ref json.RawMessage) {
	var err error
	switch _, verb, about := ownTopic(topic); verb {
	case auth.Group:
		name, _ := cutOwn(topic)
		if err := c.hearsWhole(about); err != nil {
			c.turnAwayAt(wire.Place{Topic: topic}, ref, err)
			c.release(about)
		} else if err = c.attendGroup(ctx, name, ref); err != nil {
			c.session.Deny(topic, ref, reasonOf(err))
			c.release(about)
		} else {
			c.rights.kept(about, c.judged)
		}
		return
	case auth.Cursor:
		delete(c.pointer().brought, about)
		err = c.lookOn(about, oldCursorDialect)
	case auth.Presence:
		err = c.watch(about, wire.PresenceOf, c.g.opts.Live.Presence.Rosters, listDialect, "")
	}
	if err != nil {
		c.session.Deny(topic, ref, wire.ReasonTooMany)
	} else if ref != nil {
		c.session.Send(wire.AppendSubscribed(nil, topic, ref, 0))
	}
}

// endLive takes the session from everything; it may come back.
func (c *client) endLive() {
	c.endCursors()
	for topic := range c.live.joined {
		c.part(topic, false)
	}
	for own := range c.live.views {
		c.unwatch(own)
	}
	for name, s := range c.live.seats {
		delete(c.live.seats, name)
		s.End(false)
	}
}

var _ fanout.View = (*presence.View)(nil)
