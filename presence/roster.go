package presence

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// roster is one topic on all servers, as this one knows it. Guarded by Rosters.mu.
type roster struct {
	topic string
	board *board
	refs  int
	stop  func() // of the relay
	// closed once there is something to be shown: the store has answered, or cannot
	read  chan struct{}
	known bool // read is closed

	mine      map[string]json.RawMessage
	ahead     map[string]json.RawMessage // what will be in mine, or not be if nil, and is shown already
	others    map[string]*peer
	version   uint64    // of the newest batch that is in others
	certain   bool      // the last that was asked of the store was answered
	stale     bool      // must be read from the store
	uncertain bool      // the store may not have what mine has
	early     []Message // while it must be read
}

type peer struct {
	lapses  time.Time
	entries map[string]json.RawMessage
}

func newRoster(topic string, every time.Duration) *roster {
	return &roster{topic: topic, board: newBoard(every), read: make(chan struct{}), mine: map[string]json.RawMessage{}, ahead: map[string]json.RawMessage{}, others: map[string]*peer{}}
}

// understood notes whether the store has answered, and lets those look who waited for it.
func (ro *roster) understood(certain bool) {
	ro.certain = certain
	if !ro.known {
		ro.known = true
		close(ro.read)
		ro.board.open()
	}
}

// give changes an entry of this server's.
func (ro *roster) give(key string, value json.RawMessage) {
	if value == nil {
		delete(ro.mine, key)
	} else {
		ro.mine[key] = value
	}
	ro.show(key)
}

// shows tells whether anybody has an entry.
func (ro *roster) shows(key string) bool {
	_, there := ro.value(key)
	return there
}

// value is what is shown of a key that several servers may have: this one's, or that of
// the first by name.
func (ro *roster) value(key string) (value json.RawMessage, there bool) {
	value, there = ro.ahead[key]
	if !there {
		value, there = ro.mine[key]
	}
	if value != nil {
		return value, true
	}
	there = false
	first := ""
	for server, p := range ro.others {
		if v, has := p.entries[key]; has && (!there || server < first) {
			value, there, first = v, true, server
		}
	}
	return value, there
}

// show brings a key on the board up to date.
func (ro *roster) show(key string) {
	if value, there := ro.value(key); there {
		ro.board.set(key, value)
	} else {
		ro.board.remove(key)
	}
}

// hear takes what another server, or this one, has told all of a batch.
func (r *Rosters) hear(ro *roster, m Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case ro.stale:
		if len(ro.early) < maxEarly {
			ro.early = append(ro.early, m)
		}
	case m.Version <= ro.version:
	case m.Version == ro.version+1:
		ro.version = m.Version
		r.merge(ro, m)
	default: // one was lost
		r.metrics.missed.Inc()
		ro.stale, ro.early = true, append(ro.early[:0], m)
		r.poke()
	}
}

// maxEarly bounds the messages kept while a roster is read; where there are more, it is
// found out of date by the next message and read again.
const maxEarly = 1000

func (r *Rosters) merge(ro *roster, m Message) {
	if m.Server == r.opts.Server {
		return
	}
	p := ro.others[m.Server]
	if p == nil {
		p = &peer{entries: map[string]json.RawMessage{}}
		ro.others[m.Server] = p
	}
	p.lapses = time.Now().Add(time.Duration(m.Lease) * time.Millisecond)
	var gone []string
	if m.Whole {
		gone = slices.Collect(maps.Keys(p.entries))
		p.entries = map[string]json.RawMessage{}
	}
	for _, key := range m.Del {
		delete(p.entries, key)
		gone = append(gone, key)
	}
	for key, value := range m.Set {
		p.entries[key] = value
		ro.show(key)
	}
	for _, key := range gone {
		ro.show(key)
	}
	r.poke() // there is a new lease to watch
}

// stale has a roster read from the store.
func (r *Rosters) stale(ro *roster) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ro.stale = true
	r.poke()
}

// take replaces what is known of the others by what the store has. A server that is alive
// for all we know and is not in the store, was in a store that has been emptied: it will
// come back to it with its next beat, and until its lease ends it stays.
func (r *Rosters) take(ro *roster, s State) {
	now := time.Now()
	ro.version, ro.stale = s.Version, false
	for server, in := range s.Peers {
		if server == r.opts.Server {
			continue
		}
		before := ro.others[server]
		ro.others[server] = &peer{lapses: now.Add(in.Lease), entries: in.Entries}
		for key := range in.Entries {
			ro.show(key)
		}
		if before != nil {
			for key := range before.entries {
				ro.show(key)
			}
		}
	}
	early := ro.early
	ro.early = nil
	ro.understood(true)
	for _, m := range early {
		if m.Version == ro.version+1 {
			ro.version = m.Version
			r.merge(ro, m)
		} else if m.Version > ro.version {
			ro.stale = true
			r.poke()
			return
		}
	}
}

// bury takes away what servers had that are gone.
func (ro *roster) bury(now time.Time) (gone int) {
	for server, p := range ro.others {
		if p.lapses.After(now) {
			continue
		}
		delete(ro.others, server)
		for key := range p.entries {
			ro.show(key)
			gone++
		}
	}
	return gone
}
