package presence

import (
	"bytes"
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
	puts  int    // changes that are not settled
	stop  func() // of the relay
	// closed once there is something to be shown: the store has answered, or cannot
	read  chan struct{}
	known bool // read is closed

	mine      map[string]json.RawMessage
	ahead     map[string]json.RawMessage // what will be in mine, or not be if nil, and is shown already
	others    map[string]*peer
	version   uint64    // of the newest batch that is in others
	certain   bool      // the last that was asked of the store was answered
	blind     bool      // it was not, and no beat has been since
	stale     bool      // must be read from the store,
	readAt    time.Time // but not before this
	reading   bool      // it is just being read
	heavy     bool      // that took too long with others in the same call
	uncertain bool      // the store may not have what mine has; it is told,
	tellAt    time.Time // but not before this
	early     []Message // heard until it has been read
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

// has tells whether an entry of this server's, or its absence, is as a value says.
func (ro *roster) has(key string, value json.RawMessage) bool {
	mine, there := ro.mine[key]
	return there == (value != nil) && bytes.Equal(mine, value) && !ro.uncertain
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
	own, ahead := ro.ahead[key]
	if !ahead {
		own = ro.mine[key]
	}
	if own != nil {
		return own, true
	}
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
	case ro.stale || ro.reading:
		if len(ro.early) < maxEarly {
			ro.early = append(ro.early, m)
		}
	case m.Version <= ro.version:
	case m.Version == ro.version+1:
		ro.version = m.Version
		r.merge(ro, m)
	default: // one was lost, unless it is the first ever: those before it nobody knows of
		if ro.version != 0 {
			r.metrics.missed.Inc()
		}
		ro.early = append(ro.early[:0], m)
		r.outdated(ro, time.Time{})
	}
}

// maxEarly bounds the messages kept while a roster is to be read; where there were more, it
// is read once more.
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
	r.watch(p.lapses)
}

// watch has a lease's end looked at when it comes.
func (r *Rosters) watch(lapse time.Time) {
	if lapse.Before(r.lapse) {
		r.lapse = lapse
		r.poke()
	}
}

// miss has a roster read from the store: messages may not have come.
func (r *Rosters) miss(ro *roster) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outdated(ro, time.Time{})
}

// take replaces what is known of the others by what the store has. A server that is alive
// for all we know and is not in the store, was in a store that has been emptied: it will
// come back to it with its next beat, and until its lease ends it stays.
func (r *Rosters) take(ro *roster, s State) {
	now := time.Now()
	ro.version = s.Version
	// Who is on two servers is not to be gone in between: first all is taken, then shown.
	touched := map[string]struct{}{}
	for server, in := range s.Peers {
		if server == r.opts.Server {
			continue
		}
		if before := ro.others[server]; before != nil {
			for key := range before.entries {
				touched[key] = struct{}{}
			}
		}
		for key := range in.Entries {
			touched[key] = struct{}{}
		}
		ro.others[server] = &peer{lapses: now.Add(in.Lease), entries: in.Entries}
		r.watch(now.Add(in.Lease))
	}
	for key := range touched {
		ro.show(key)
	}
	// Only what was asked of the store before is in mine. If the store has something else of
	// this server's it is a store of an earlier day.
	if !maps.EqualFunc(s.Peers[r.opts.Server].Entries, ro.mine, same) {
		r.doubt(ro)
	}
	early := ro.early
	ro.early = nil
	ro.understood(true)
	for _, m := range early {
		if m.Version == ro.version+1 {
			ro.version = m.Version
			r.merge(ro, m)
		} else if m.Version > ro.version {
			r.outdated(ro, time.Time{})
			return
		}
	}
	if len(early) == maxEarly {
		r.outdated(ro, time.Time{})
	}
}

func same(a, b json.RawMessage) bool { return bytes.Equal(a, b) }

// weight is about how many entries a read of the roster gives; what has just failed because
// it took too long is to be read alone. Run asks.
func (ro *roster) weight() int {
	if ro.heavy {
		return maxRead
	}
	return ro.board.count()
}

// bury takes away what servers had that are gone.
func (ro *roster) bury(now time.Time) (gone int) {
	var keys []string
	for server, p := range ro.others {
		if p.lapses.After(now) {
			continue
		}
		delete(ro.others, server)
		keys = slices.AppendSeq(keys, maps.Keys(p.entries))
	}
	for _, key := range keys {
		ro.show(key)
	}
	return len(keys)
}
