package presence

import "slices"

// Changes are what a view has not sent yet. Where Whole is set, Set is everything there is
// and replaces what the client has.
type Changes struct {
	Topic   string
	Whole   bool
	Set     []Entry
	Removed []Entry // with the values they had
	// Unclear says that some of Set may be there already for the client, having changed or
	// having gone and come back, or that some of Removed may not have been, or not with
	// that value.
	Unclear bool
	Count   int            // of all entries there are now
	All     func() []Entry `json:"-"` // all entries there are now; to be called by Encode
}

// Dialect makes a client's texts of changes. Views with the same dialect share what was
// encoded, so a dialect is made once and passed by pointer.
type Dialect struct {
	Encode func(Changes) [][]byte
	// Pulse, if not nil, makes the text that says with each beat who is still there, of the
	// keys of a roster of at most MaxPulse entries.
	Pulse func(topic string, keys []string) []byte
}

// MaxPulse is the largest roster whose views are told with each beat who is still there.
const MaxPulse = 1000

// View is one session's place in a roster's changes. Pull is called by one goroutine at a
// time.
type View struct {
	board   *board
	topic   string
	dialect *Dialect
	hide    string // the key of an entry that is not shown: one's own cursor
	kick    func(*View)
	release func()
	version uint64
	started bool
	pulsed  bool // a beat is to be told
	closed  bool
}

// diff is what was encoded for a step between two places.
type diff struct {
	dialect  *Dialect
	from, to uint64
	whole    bool
	texts    [][]byte
}

// maxDiffs is how many encoded steps are kept: sessions that keep up are all at one place.
// Of whole states the newest is kept, one for each dialect.
const maxDiffs = 8

// Pull gives the texts for what has changed since the last one; first, or after too long
// a while, for everything there is.
func (v *View) Pull() [][]byte {
	b := v.board
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.opened || v.closed {
		return nil
	}
	texts := v.pull()
	if v.pulsed {
		v.pulsed = false
		if text := b.alive(v); text != nil {
			texts = append(slices.Clip(texts), text)
		}
	}
	return texts
}

func (v *View) pull() [][]byte {
	b := v.board
	whole := !v.started || v.version < b.oldest
	if !whole && v.version == b.version {
		return nil
	}
	from := v.version
	v.started, v.version = true, b.version
	if whole {
		from = 0
	}
	if !v.hidden(from, whole) {
		if whole {
			return v.state()
		}
		return v.step(from, false)
	}
	return v.encode(v.changes(from, whole))
}

func (v *View) encode(c Changes) [][]byte {
	if !c.Whole && len(c.Set) == 0 && len(c.Removed) == 0 {
		return nil
	}
	return v.dialect.Encode(c)
}

// state gives everything there is: as it was a moment ago, if that is encoded, and what has
// changed since. So who comes to a large roster with many others has it encoded once.
func (v *View) state() [][]byte {
	b := v.board
	for _, d := range b.diffs {
		if d.dialect == v.dialect && d.whole && d.to >= b.oldest && b.version-d.to <= uint64(b.live/16) {
			if d.to == b.version {
				return d.texts
			}
			return append(slices.Clip(d.texts), v.step(d.to, false)...)
		}
	}
	return v.step(0, true)
}

// step gives what was encoded from one place to the newest, or encodes it.
func (v *View) step(from uint64, whole bool) [][]byte {
	b := v.board
	for _, d := range b.diffs {
		if d.dialect == v.dialect && d.whole == whole && d.from == from && d.to == b.version {
			return d.texts
		}
	}
	d := diff{dialect: v.dialect, from: from, to: b.version, whole: whole, texts: v.encode(v.changes(from, whole))}
	b.diffs = slices.DeleteFunc(b.diffs, func(old diff) bool { return whole && old.whole && old.dialect == v.dialect })
	if n := slices.IndexFunc(b.diffs, func(old diff) bool { return !old.whole }); len(b.diffs) >= maxDiffs {
		b.diffs = slices.Delete(b.diffs, max(n, 0), max(n, 0)+1)
	}
	b.diffs = append(b.diffs, d)
	return d.texts
}

// hidden tells whether the entry that is not shown is among the changes.
func (v *View) hidden(from uint64, whole bool) bool {
	if v.hide == "" {
		return false
	}
	n := v.board.nodes[v.hide]
	return n != nil && (n.version > from || whole)
}

func (v *View) changes(from uint64, whole bool) Changes {
	c := Changes{Topic: v.topic, Whole: whole, Count: v.board.live, All: v.board.all}
	if whole {
		c.Set = slices.DeleteFunc(v.board.all(), func(e Entry) bool { return e.Key == v.hide })
		return c
	}
	first, n := &v.board.ring, 0
	for first.prev != &v.board.ring && first.prev.version > from {
		first = first.prev
		n++
	}
	c.Set = make([]Entry, 0, n) // most changes are cursors that move
	for n := first; n != &v.board.ring; n = n.next {
		switch {
		case n.Key == v.hide:
		case n.removed && n.since > from && n.left <= from: // it came and went in between
		case n.removed:
			c.Removed = append(c.Removed, n.Entry)
			c.Unclear = c.Unclear || n.valued > from
		default:
			c.Set = append(c.Set, n.Entry)
			c.Unclear = c.Unclear || n.since <= from || n.left > from
		}
	}
	return c
}

// Speaks tells whether the view's texts are in a dialect.
func (v *View) Speaks(d *Dialect) bool { return v.dialect == d }

// Again has everything sent anew with the next Pull.
func (v *View) Again() {
	v.board.mu.Lock()
	v.started = false
	v.board.mu.Unlock()
	v.kick(v)
}

// Close ends the view; it is not told of anything any more.
func (v *View) Close() {
	v.board.mu.Lock()
	_, open := v.board.views[v]
	delete(v.board.views, v)
	v.closed = true
	if len(v.board.views) == 0 {
		v.board.diffs = nil
	}
	v.board.mu.Unlock()
	if open {
		v.release()
	}
}

// view opens a view and has it pulled.
func (b *board) view(topic string, d *Dialect, hide string, kick func(*View)) *View {
	v := &View{board: b, topic: topic, dialect: d, hide: hide, kick: kick}
	b.mu.Lock()
	b.views[v] = struct{}{}
	b.mu.Unlock()
	return v
}
