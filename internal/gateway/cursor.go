package gateway

import (
	"context"
	"strings"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/cursor"
)

// cursors is a client's part in cursors; most have none. Owned by its reader.
type cursors struct {
	*cursor.Pointer
	// brought has the topics of which the session is told because it is subscribed to them;
	// of the others it has asked to be told.
	brought map[string]struct{}
}

// pointer gives the client's cursors, which it has from when it first has to do with some:
// it is not to be told of its own.
func (c *client) pointer() *cursors {
	if c.live.cursors == nil {
		c.live.cursors = &cursors{Pointer: c.g.opts.Live.Cursors.Pointer(), brought: map[string]struct{}{}}
	}
	return c.live.cursors
}

func (c *client) cursor(ctx context.Context, f wire.Frame) {
	if c.g.opts.Live.Cursors == nil {
		c.fail(f.Ref, errNoLive)
		return
	}
	err := pgcast.CheckTopic(f.Topic)
	if err == nil && c.rights != nil && f.Op != wire.OpLeave && !c.points(f) {
		err = c.allow(ctx, auth.Cursor, f.Topic)
	}
	switch {
	case err != nil:
	case f.Type == wire.CursorSnapshot:
		delete(c.pointer().brought, f.Topic)
		err = c.lookOn(f.Topic, cursorDialect)
	case f.Op == wire.OpLeave:
		c.pointer().Leave(f.Topic)
	default:
		err = c.move(f)
	}
	if err != nil {
		c.turnDown(f.Ref, err)
	}
}

// points tells whether a frame moves a cursor that the session has: that was allowed when it
// came, and it would be gone if it no longer were.
func (c *client) points(f wire.Frame) bool {
	return f.Type == wire.Cursor && c.live.cursors != nil && c.live.cursors.On(f.Topic)
}

// move moves the session's cursor, and has it told of the others'.
func (c *client) move(f wire.Frame) error {
	p := c.pointer()
	looks := c.live.views[wire.CursorOf+f.Topic] != nil
	if most := c.g.opts.MaxSubscriptions; p.Len() >= most && !p.On(f.Topic) || !looks && len(c.live.views) >= most {
		return errTooManyLive // before anybody is shown it
	}
	if err := p.Move(f.Topic, c.live.user.Data, f.Data); err != nil || looks {
		return err
	}
	return c.lookOn(f.Topic, cursorDialect)
}

// lookOn has the session told of the cursors on a topic, in the words it asked for last.
func (c *client) lookOn(topic string, d *presence.Dialect) error {
	if v := c.live.views[wire.CursorOf+topic]; v != nil && !v.Speaks(d) {
		c.unwatch(wire.CursorOf + topic)
	}
	return c.watch(topic, wire.CursorOf, c.g.opts.Live.Cursors.Rosters, d, c.pointer().Key())
}

// attach has a session that can say hello told of the cursors on a topic it subscribes to,
// where the server is set so. Clients that cannot ask for themselves.
func (c *client) attach(topic string) {
	l := c.g.opts.Live
	if l.Cursors == nil || pgcast.IsPattern(topic) || !c.said.Load() || !selects(l.CursorOn, topic) || c.live.views[wire.CursorOf+topic] != nil {
		return
	}
	if c.lookOn(topic, cursorDialect) == nil {
		c.pointer().brought[topic] = struct{}{}
	}
}

// detach takes the session's cursor away with its subscription to a topic, or to the
// cursors on it.
func (c *client) detach(topic string) {
	if c.live.cursors == nil {
		return
	}
	topic = strings.TrimPrefix(topic, wire.CursorOf)
	c.live.cursors.Leave(topic)
	if _, brought := c.live.cursors.brought[topic]; brought {
		delete(c.live.cursors.brought, topic)
		c.unwatch(wire.CursorOf + topic)
	}
}

// endCursors takes all of the session's cursors away.
func (c *client) endCursors() {
	if c.live.cursors != nil {
		c.live.cursors.Close()
	}
}

// How cursors are told: in the words the native protocol has from the peer's 0.5, and to
// clients of 0.3, who subscribe to the server's own topic themselves and know no snapshot.
// What is told of a cursor is the entry's value as it is.
var (
	cursorDialect    = &presence.Dialect{Encode: func(c presence.Changes) [][]byte { return encodeCursors(c, "snapshot") }}
	oldCursorDialect = &presence.Dialect{Encode: func(c presence.Changes) [][]byte { return encodeCursors(c, "bulk") }}
)

// encodeCursors tells of cursors; whole is the event that tells of all there are.
func encodeCursors(c presence.Changes, whole string) (texts [][]byte) {
	topic, set := wire.CursorOf+c.Topic, c.Set
	for _, e := range c.Removed {
		key := append(append([]byte(`{"key":`), quoted(e.Key)...), '}')
		texts = append(texts, wire.AppendLive(nil, topic, "remove", key))
	}
	if len(set) == 1 && !c.Whole {
		return append(texts, wire.AppendLive(nil, topic, "update", set[0].Value))
	}
	event := "bulk"
	if c.Whole {
		event = whole
	}
	if len(set) == 0 && event == "bulk" {
		return texts // an empty bulk says nothing
	}
	for first := c.Whole; first || len(set) > 0; first = false {
		var some []presence.Entry
		some, set = fits(set)
		texts = append(texts, appendCursors(topic, event, some))
		event = "bulk"
	}
	return texts
}

// appendCursors makes one frame, in one allocation: there is one for each session and
// interval.
func appendCursors(topic, event string, entries []presence.Entry) []byte {
	const around = `{"topic":"","event":"","data":[]}`
	size := len(around) + len(topic) + len(event) + len(entries)
	for _, e := range entries {
		size += len(e.Value)
	}
	b := make([]byte, 0, size)
	b = wire.AppendLive(b, topic, event, []byte("["))
	b = b[:len(b)-1]
	for i, e := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, e.Value...)
	}
	return append(b, "]}"...)
}
