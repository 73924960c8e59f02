package gateway

import (
	"context"
	"encoding/json"
	"maps"
	"strings"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence/group"
)

// cutOwn gives the group whose topic of the server's own it is.
func cutOwn(topic string) (name string, ok bool) { return strings.CutPrefix(topic, wire.GroupOf) }

// unsubscribe ends the session's subscription to a topic, unless it still gets the events
// under the server's own name for it.
func (c *client) unsubscribe(topic string, ref json.RawMessage) {
	if !c.hearsOwn(topic) {
		c.session.Unsubscribe(topic, ref)
		c.rights.drop(topic)
	} else if ref != nil {
		c.session.Send(wire.AppendUnsubscribed(nil, topic, ref))
	}
}

// hearsOwn tells whether the session gets a group's topic's events under the server's own
// name because it has subscribed to that: from there it may miss nothing, whatever becomes
// of its subscription to the topic.
func (c *client) hearsOwn(topic string) bool {
	name, is := groupOf(topic)
	s := c.live.seats[name]
	return is && s != nil && s.own
}

// attendGroup answers a subscription to a group's own topic, as clients of 0.3 send it:
// they get the members, and the events of the group's topic under the name they know.
func (c *client) attendGroup(ctx context.Context, name string, ref json.RawMessage) error {
	s, err := c.seat(name)
	if err != nil {
		return err
	}
	if !s.own {
		s.own = true
		if err := c.member(ctx, name, s); err != nil {
			c.fail(nil, err)
		}
	}
	topic := pgcast.GroupTopic(name)
	c.alias(topic)
	if _, there := c.names[topic]; there {
		if ref != nil {
			c.session.Send(wire.AppendSubscribed(nil, wire.GroupOf+name, ref, 0))
		}
		return nil
	}
	if err = c.session.Subscribe(ctx, fanout.Request{Topic: topic, Ref: ref, Keep: true, Own: c.operators != nil, Lens: c.g.lens(c.claims.Load(), topic)}); err != nil { // else the answer is renamed
		c.dismissGroup(wire.GroupOf + name)
	}
	return err
}

// dismissGroup ends a subscription to a group's own topic.
func (c *client) dismissGroup(own string) {
	name, ok := cutOwn(own)
	if s := c.live.seats[name]; ok && s != nil && s.own {
		s.own = false
		c.vacate(name)
		topic := pgcast.GroupTopic(name)
		if _, there := c.names[topic]; !there {
			c.session.Unsubscribe(topic, nil)
			c.rights.drop(topic)
		}
		c.alias(topic)
	}
}

// alias says under which names the events of a group's topic go out from here on: the
// server's own for clients of the peer protocol, who listen there, and the topic's for who
// has subscribed to that.
func (c *client) alias(topic string) {
	name, is := groupOf(topic)
	if !is {
		return
	}
	_, subscribed := c.names[topic]
	_, brings := c.brings(topic)
	s := c.live.seats[name]
	renamed := s != nil && s.own || brings && subscribed && !c.reset.Load()
	old := c.aliases.Load()
	if old == nil && !renamed {
		return
	}
	next := map[string]bool{}
	if old != nil {
		maps.Copy(next, *old)
	}
	delete(next, topic)
	if renamed {
		next[topic] = subscribed
	}
	c.aliases.Store(&next)
}

// renames tells whether a topic's events go out under the server's own name, and whether
// under the topic's as well.
func (c *client) renames(topic string) (renamed, both bool) {
	if aliases := c.aliases.Load(); aliases != nil {
		both, renamed = (*aliases)[topic]
	}
	return renamed, both
}

// appendRenamed appends an event of a group's topic under the server's own name. What only
// the server says there is left out.
func appendRenamed(b, text []byte) []byte {
	if _, name := wire.EventName(text); group.OwnEvent(string(name)) {
		return b
	}
	text = wire.AppendOwn(nil, text)
	return append(appendHeader(b, len(text)), text...)
}
