package fanout

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/pgcast/pgcast"
)

// reads is the one way from the hub to the log. It bounds how many reads are under way,
// joins those who ask for the same, and keeps pages for those who come just after, so
// that 10,000 clients who come back cost about one read per topic and page.
type reads struct {
	topics   Topics
	patterns Patterns
	encode   Encode
	slots    chan struct{}
	metrics  *metrics

	mu       sync.Mutex
	flying   map[pageKey]*flight
	pages    map[pageKey]*list.Element // of *page, least recently used at the back
	recent   *list.List
	bytes    int
	maxBytes int
	asking   []*asked // places asked for while a look is under way
	looking  bool
}

// A page starts at a multiple of pageEvents, so that readers with places near each other
// share it.
const (
	pageEvents  = 200
	readTimeout = 10 * time.Second
)

type pageKey struct {
	key     string
	pattern bool
	after   int64
}

// page is what one read found. next is the place up to which it is complete.
type page struct {
	key    pageKey
	frames []*Frame
	next   int64
	full   bool  // it goes on behind next, so the page will never hold more
	tail   int64 // of a topic: everything before it is trimmed
	head   int64 // of a topic
	gap    int64 // of a pattern: the newest trimmed position after key.after, or 0
	bytes  int
}

type flight struct {
	done chan struct{}
	page *page
	err  error
}

type asked struct {
	ask      pgcast.Ask
	place    pgcast.Place
	position pgcast.Position
	err      error
	done     chan struct{}
}

func newReads(t Topics, p Patterns, opts HubOptions, m *metrics) *reads {
	return &reads{topics: t, patterns: p, encode: opts.Encode, slots: make(chan struct{}, opts.Reads), metrics: m,
		flying: map[pageKey]*flight{}, pages: map[pageKey]*list.Element{}, recent: list.New(), maxBytes: opts.CacheBytes}
}

// slot waits for a place among the reads under way.
func (r *reads) slot(ctx context.Context) (release func(), err error) {
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// page gives the page a place lies in. floor is where the live ring begins: a page that
// reaches there is complete enough. last is where the page began that the reader had
// before; it may not be through with it.
func (r *reads) page(ctx context.Context, f *feed, last, after, floor int64) (*page, error) {
	kind, aligned := f.pattern != nil, after/pageEvents*pageEvents
	r.mu.Lock()
	p := r.kept(pageKey{f.key, kind, last}, floor)
	r.mu.Unlock()
	if p != nil && p.next > after && last <= after {
		return p, nil
	}
	p, err := r.load(ctx, f, pageKey{f.key, kind, aligned}, after, floor)
	if err != nil || p.next > after || p.tail > after+1 || aligned == after {
		return p, err
	}
	// The page was cut short, by its size in bytes, before our place.
	return r.load(ctx, f, pageKey{f.key, kind, after}, after, floor)
}

// has tells whether a page in memory holds a topic's event at a place, with the id unless
// that is empty, and its position. If so the log need not be asked: what it would say else
// of a restored log, the hub is told too, and then begins anew without its pages.
func (r *reads) has(f *feed, at *int64, id pgcast.ID) (position pgcast.Position, ok bool) {
	if f.pattern != nil || at == nil || *at < 1 {
		return 0, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	el := r.pages[pageKey{f.key, false, (*at - 1) / pageEvents * pageEvents}]
	if el == nil {
		return 0, false
	}
	frames := el.Value.(*page).frames
	if len(frames) == 0 {
		return 0, false
	}
	i := *at - int64(frames[0].Seq) // they have no holes
	if i < 0 || i >= int64(len(frames)) || int64(frames[i].Seq) != *at || id != "" && frames[i].ID != id {
		return 0, false
	}
	r.recent.MoveToFront(el)
	return frames[i].Position, true
}

// kept gives a page that is in memory and complete enough; r.mu is held.
func (r *reads) kept(key pageKey, floor int64) *page {
	el := r.pages[key]
	if el == nil {
		return nil
	}
	p := el.Value.(*page)
	if !p.full && p.next < floor {
		return nil
	}
	r.recent.MoveToFront(el)
	return p
}

func (r *reads) load(ctx context.Context, f *feed, key pageKey, after, floor int64) (*page, error) {
	r.mu.Lock()
	if p := r.kept(key, floor); p != nil && (p.full || p.next > after) {
		r.mu.Unlock()
		return p, nil
	}
	fl := r.flying[key]
	if fl == nil {
		fl = &flight{done: make(chan struct{})}
		r.flying[key] = fl
		// Not with our own ctx: others may be waiting for the same page when we leave.
		go r.fly(f, key, floor, fl)
	}
	r.mu.Unlock()
	select {
	case <-fl.done:
		return fl.page, fl.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *reads) fly(f *feed, key pageKey, floor int64, fl *flight) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	release, err := r.slot(ctx)
	if err == nil {
		if f.pattern != nil {
			fl.page, err = r.scan(ctx, f, key, floor)
		} else {
			if fl.page, err = r.read(ctx, key); err == nil {
				f.learn(fl.page.head)
			}
		}
		release()
	}
	fl.err = err
	r.mu.Lock()
	if r.flying[key] == fl {
		delete(r.flying, key)
		if err == nil {
			r.keep(fl.page)
		}
	}
	r.mu.Unlock()
	close(fl.done)
}

func (r *reads) read(ctx context.Context, key pageKey) (*page, error) {
	r.metrics.reads.WithLabelValues("topic").Inc()
	got, err := r.topics.Page(ctx, key.key, pgcast.Seq(key.after), pageEvents)
	if err != nil {
		return nil, err
	}
	p := newPage(key, got.Events, r.encode)
	p.next, p.tail, p.head = max(key.after, int64(got.Tail)-1), int64(got.Tail), int64(got.Head)
	if n := len(got.Events); n > 0 {
		p.next = int64(got.Events[n-1].Seq)
	}
	p.full = len(got.Events) > 0 && p.next < p.head || len(got.Events) == pageEvents
	return p, nil
}

func (r *reads) scan(ctx context.Context, f *feed, key pageKey, floor int64) (*page, error) {
	r.metrics.reads.WithLabelValues("pattern").Inc()
	events, next, err := r.patterns.Scan(ctx, *f.pattern, pgcast.Position(key.after), pgcast.Position(floor), pageEvents)
	if err != nil {
		return nil, err
	}
	// Asked for after the read, so that nothing can be trimmed unseen between the two.
	gap, err := r.patterns.ScanGap(ctx, *f.pattern, pgcast.Position(key.after))
	if err != nil {
		return nil, err
	}
	p := newPage(key, events, r.encode)
	p.next, p.gap = int64(next), int64(gap)
	p.full = next < pgcast.Position(floor)
	return p, nil
}

// newPage counts the page itself too: strangers can have any number of empty ones read.
func newPage(key pageKey, events []pgcast.Event, encode Encode) *page {
	p := &page{key: key, bytes: 300 + len(key.key)}
	for _, e := range events {
		fr := newFrame(e, encode)
		p.frames = append(p.frames, fr)
		p.bytes += fr.size() + frameBytes
	}
	return p
}

// keep puts a page in front; r.mu is held.
func (r *reads) keep(p *page) {
	if el := r.pages[p.key]; el != nil {
		r.drop(el)
	}
	r.pages[p.key] = r.recent.PushFront(p)
	r.bytes += p.bytes
	for r.bytes > r.maxBytes && r.recent.Len() > 1 {
		r.drop(r.recent.Back())
	}
}

func (r *reads) drop(el *list.Element) {
	p := r.recent.Remove(el).(*page)
	delete(r.pages, p.key)
	r.bytes -= p.bytes
}

func (r *reads) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.flying) // what is under way answers those who wait for it, and nobody else
	clear(r.pages)
	r.recent.Init()
	r.bytes = 0
}

// ask has the log asked about one topic. What is asked while a look is under way is
// answered by the next one, all together.
func (r *reads) ask(ask pgcast.Ask) *asked {
	a := &asked{ask: ask, done: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asking = append(r.asking, a)
	if !r.looking {
		r.looking = true
		go r.look()
	}
	return a
}

// wait gives the answer, and the log's position at that look.
func (a *asked) wait(ctx context.Context) (pgcast.Place, pgcast.Position, error) {
	select {
	case <-a.done:
		return a.place, a.position, a.err
	case <-ctx.Done():
		return pgcast.Place{}, 0, ctx.Err()
	}
}

const maxAsks = 500

func (r *reads) look() {
	for {
		r.mu.Lock()
		batch := r.asking[:min(len(r.asking), maxAsks)]
		r.asking = r.asking[len(batch):]
		if len(batch) == 0 {
			r.looking, r.asking = false, nil
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		r.answer(batch)
	}
}

func (r *reads) answer(batch []*asked) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	asks := make([]pgcast.Ask, len(batch))
	for i, a := range batch {
		asks[i] = a.ask
	}
	var places []pgcast.Place
	var position pgcast.Position
	release, err := r.slot(ctx)
	if err == nil {
		r.metrics.reads.WithLabelValues("place").Inc()
		places, position, err = r.topics.Places(ctx, asks)
		release()
	}
	for i, a := range batch {
		if a.err = err; err == nil {
			a.place, a.position = places[i], position
		}
		close(a.done)
	}
}

// knows tells whether the event at a position has an id. Who asks will read the log from
// there, so the page that has it is read now, for everybody who comes back.
func (r *reads) knows(ctx context.Context, f *feed, at pgcast.Position, id pgcast.ID) (bool, error) {
	if _, behind, floor, _ := f.after(int64(at)-1, 0, 0, 0, nil); behind {
		p, err := r.page(ctx, f, 0, int64(at)-1, floor)
		if err != nil {
			return false, err
		}
		for _, fr := range p.frames {
			if fr.Position == at {
				return fr.ID == id, nil
			}
		}
	}
	release, err := r.slot(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	// Not with our own ctx: to break off a read costs a connection to the database.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	r.metrics.reads.WithLabelValues("place").Inc()
	return r.patterns.Knows(ctx, at, id)
}
