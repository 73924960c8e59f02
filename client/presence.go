package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// Presence is who is on a topic, by key: each user once, over all sessions and servers. The
// values are what others may see of the user, an object. See docs/presence.md.
type Presence struct {
	c     *Client
	topic string
	err   error
	live  *feed
	users state[string, json.RawMessage]

	// Guarded by Client.mu.
	joined bool
	data   json.RawMessage // that we joined with
}

// Presence gives who is on the topic: the same for all handles of a topic. A pattern has none.
func (t *Topic) Presence() *Presence {
	c := t.c
	c.mu.Lock()
	defer c.mu.Unlock()
	own := wire.PresenceOf + t.name
	if p := c.presences[own]; p != nil {
		return p
	}
	p := &Presence{c: c, topic: t.name, err: pgcast.CheckTopic(t.name)}
	p.live = &feed{own: own, enter: p.enter, take: p.take, lost: func() { p.users.replace(nil) }}
	if p.err == nil {
		c.follows(p.live)
		c.presences[own] = p
	}
	return p
}

func (p *Presence) enter() (wire.Frame, bool) {
	f := wire.Frame{Type: wire.Presence, Topic: p.topic, Op: wire.OpSync}
	if p.joined {
		f.Op, f.Data = wire.OpJoin, p.data
	}
	return f, p.joined || p.live.watched > 0
}

func (p *Presence) take(event string, data json.RawMessage) {
	switch event {
	case "presence_state":
		users := map[string]json.RawMessage{}
		if json.Unmarshal(data, &users) == nil {
			p.users.replace(users)
		}
	case "presence_diff":
		var diff struct{ Joins, Leaves map[string]json.RawMessage }
		if json.Unmarshal(data, &diff) != nil {
			return
		}
		for key := range diff.Leaves {
			if _, stays := diff.Joins[key]; !stays {
				p.users.remove(key)
			}
		}
		for key, user := range diff.Joins {
			p.users.set(key, user)
		}
	}
}

// Join has the client's user be on the topic from now on, also after reconnects, and gives
// the user's key. user, an object of at most 4 KiB, says who it is, where no token does; it
// may be nil. It waits while there is no connection.
func (p *Presence) Join(ctx context.Context, user any) (key string, err error) {
	data, err := marshal(user)
	if err == nil {
		err = p.err
	}
	if err != nil {
		return "", fmt.Errorf("join %q: %w", p.topic, err)
	}
	p.c.mu.Lock()
	before, dataBefore := p.joined, p.data
	p.joined, p.data = true, data // who is there is told at once, behind the answer
	p.c.mu.Unlock()
	f, err := p.call(ctx, wire.OpJoin, data)
	if err != nil {
		p.c.mu.Lock()
		defer p.c.mu.Unlock()
		if p.joined, p.data = before, dataBefore; !before && p.c.conn != nil {
			p.c.enqueue(&wire.Frame{Type: wire.Presence, Topic: p.topic, Op: wire.OpLeave}, nil) // it may have been done
			p.live.ask()
		}
		return "", err
	}
	var said struct{ Key string }
	if err := json.Unmarshal(f.Data, &said); err != nil {
		return "", fmt.Errorf("join %q: %w", p.topic, err)
	}
	return said.Key, nil
}

// Leave has the user be there no more: the others are told at once.
func (p *Presence) Leave(ctx context.Context) error {
	p.c.mu.Lock()
	p.joined, p.data = false, nil
	p.c.mu.Unlock()
	_, err := p.call(ctx, wire.OpLeave, nil)
	p.c.mu.Lock()
	if p.live.watched == 0 {
		p.live.lost()
	}
	p.live.ask() // the server tells those who have left nothing
	p.c.mu.Unlock()
	return err
}

// List asks who is there, without being told of changes.
func (p *Presence) List(ctx context.Context) (map[string]json.RawMessage, error) {
	f, err := p.call(ctx, wire.OpList, nil)
	if err != nil {
		return nil, err
	}
	var said struct{ Users map[string]json.RawMessage }
	if err := json.Unmarshal(f.Data, &said); err != nil {
		return nil, fmt.Errorf("who is on %q: %w", p.topic, err)
	}
	return said.Users, nil
}

// Count asks how many are there.
func (p *Presence) Count(ctx context.Context) (int, error) {
	f, err := p.call(ctx, wire.OpCount, nil)
	if err != nil {
		return 0, err
	}
	var said struct{ Count int }
	if err := json.Unmarshal(f.Data, &said); err != nil {
		return 0, fmt.Errorf("how many are on %q: %w", p.topic, err)
	}
	return said.Count, nil
}

// All is who is there as far as is known now: while Changes is iterated, or after Join. While
// there is no connection it is who was there.
func (p *Presence) All() map[string]json.RawMessage { return p.users.all() }

// Changes gives who is there, and then who comes, changes and goes, until the caller breaks,
// or, with an error as the last, ctx ends, Run returns or the server does not let us know. A
// slow caller is told how it is now, not all that was. Any number may iterate.
func (p *Presence) Changes(ctx context.Context) iter.Seq2[Change[string, json.RawMessage], error] {
	return follow(ctx, p.live, p.err, &p.users, &wire.Frame{Type: wire.Presence, Topic: p.topic, Op: wire.OpUnsync})
}

func (p *Presence) call(ctx context.Context, op wire.Op, data json.RawMessage) (wire.ServerFrame, error) {
	if p.err != nil {
		return wire.ServerFrame{}, p.err
	}
	f, err := p.c.call(ctx, &call{frame: wire.Frame{Type: wire.Presence, Topic: p.topic, Op: op, Data: data}, again: true})
	if err != nil {
		err = fmt.Errorf("presence of %q: %s: %w", p.topic, op, err)
	}
	return f, err
}

// follow gives the changes of live state, which is asked for as long as somebody iterates.
func follow[K comparable, V any](ctx context.Context, l *feed, err error, s *state[K, V], exit *wire.Frame) iter.Seq2[Change[K, V], error] {
	return func(yield func(Change[K, V], error) bool) {
		if err != nil {
			yield(Change[K, V]{}, err)
			return
		}
		over, why, end := l.watch()
		defer end(exit)
		ctx, cancel := l.c.while(ctx)
		defer cancel()
		for change, err := range s.changes(ctx, over, why) {
			if err != nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if !yield(change, err) {
				return
			}
		}
	}
}
