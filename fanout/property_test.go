package fanout

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/pgcast/pgcast"
)

// TestAnySubscriptions lets sessions subscribe, move, unsubscribe, stall, crawl, break and
// come back in any order, over rings and page caches that hold next to nothing, while
// writers write, retention trims and database connections are cut. Whatever happens, each
// session hears what docs/protocol.md says, once and in order.
func TestAnySubscriptions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		subscribeAny(t, rt, w, fmt.Sprintf("i%d", n))
	})
}

// play is one history of the property test.
type play struct {
	*rapid.T
	*server
	prefix string
	topics []string
	keys   []string // topics and patterns
	peers  []*peer  // those whose sessions live
	gone   []*peer
}

func subscribeAny(t *testing.T, rt *rapid.T, w *world, prefix string) {
	number := func(from, to int, what string) int { return rapid.IntRange(from, to).Draw(rt, what) }
	p := &play{T: rt, prefix: prefix}
	for _, name := range []string{":a:1", ":a:2", ":b:1", ":c"} {
		p.topics = append(p.topics, prefix+name)
	}
	p.keys = append([]string{prefix + ":a:*", prefix + ":*:1", prefix + ":**"}, p.topics...)
	p.server = w.server(t, HubOptions{Ring: number(1, 6, "ring"), RingBytes: number(300, 3000, "ring bytes"),
		CacheBytes: number(1, 50_000, "cache bytes"), Reads: number(1, 3, "reads")})
	defer p.end(t)
	if rapid.Bool().Draw(rt, "trim") {
		_, err := w.pen.Exec(context.Background(), "select pgcast.retain($1, max_count => $2)", prefix+":**", number(2, 30, "kept"))
		p.check(err)
	}
	for range number(1, 3, "sessions") {
		p.peers = append(p.peers, p.hub.peer())
	}

	var writers errgroup.Group
	for range number(1, 2, "writers") {
		bursts, size := number(5, 30, "bursts"), number(1, 400, "size")
		topics := p.topics[number(0, 3, "topic"):]
		writers.Go(func() error {
			for i := range bursts {
				if err := w.publish(1+i%5, size, topics[i%len(topics)]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	actions := []func(){p.subscribe, p.subscribe, p.resume, p.resume, p.forge, p.unsubscribe, p.write, p.write, p.trouble, p.comeBack, p.cut}
	for range number(10, 40, "actions") {
		actions[number(0, len(actions)-1, "action")]()
	}
	p.check(writers.Wait())
	for _, one := range p.peers {
		one.sink.slow(0)
		one.sink.release()
	}
	w.settled(rt, prefix, p.peers...)
	for _, one := range p.gone { // nothing is missing there, but nothing may be wrong either
		items := one.sink.items()
		r, err := w.record(prefix)
		p.check(err)
		_, _, err = one.hear(r, items)
		p.check(err)
	}
}

// end ends all sessions and sees to it that nothing of them is left.
func (p *play) end(t *testing.T) {
	for _, one := range p.peers {
		one.sink.release()
		one.session.End(nil)
	}
	for _, one := range append(p.gone, p.peers...) {
		_ = one.sink.ended(t)
	}
	if f, s := p.left(); f+s > 0 {
		t.Errorf("%d feeds and %d sessions are left", f, s)
	}
	p.stop()
}

func (s *server) left() (feeds, sessions int) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return len(s.hub.feeds) + len(s.hub.patterns), len(s.hub.sessions)
}

func (p *play) check(err error) {
	if err != nil {
		p.Fatalf("%v", err)
	}
}

func (p *play) number(from, to int, what string) int {
	return rapid.IntRange(from, to).Draw(p.T, what)
}

func (p *play) somebody() *peer { return p.peers[p.number(0, len(p.peers)-1, "session")] }
func (p *play) somewhere() string {
	return rapid.SampledFrom(p.keys).Draw(p.T, "key")
}

func (p *play) subscribe() {
	all := make([]request, p.number(1, 3, "at once"))
	for i := range all {
		all[i].Topic = p.somewhere()
	}
	p.check(p.somebody().subscribe(all...))
}

// resume asks for a place that the log has or had, as somebody does who was there.
func (p *play) resume() {
	key := p.somewhere()
	r, err := p.record(p.prefix)
	p.check(err)
	var places []fact
	s := held{key: key}
	if pgcast.IsPattern(key) {
		pattern, err := pgcast.ParsePattern(key)
		p.check(err)
		s.pattern = &pattern
	}
	for _, f := range r.facts {
		if s.selects(f.topic) {
			places = append(places, f)
		}
	}
	req := Request{Topic: key, After: new(int64)}
	if n := p.number(0, len(places), "back"); n < len(places) {
		at := places[len(places)-1-n]
		*req.After = s.number(at)
		if rapid.Bool().Draw(p.T, "with id") {
			req.ID = at.id
		}
	}
	p.check(p.somebody().subscribe(request{Request: req}))
}

// forge asks for a place beyond the head, or one with an id that it never had.
func (p *play) forge() {
	key := p.somewhere()
	beyond := int64(1_000_000_000)
	req := Request{Topic: key, After: &beyond}
	if rapid.Bool().Draw(p.T, "with id") {
		req.ID = pgcast.MakeID(beyond, time.Now())
	}
	p.check(p.somebody().subscribe(request{Request: req, forged: true}))
}

func (p *play) unsubscribe() { p.somebody().unsubscribe(p.somewhere()) }

func (p *play) write() {
	topic := rapid.SampledFrom(p.topics).Draw(p.T, "topic")
	p.check(p.publish(p.number(1, 20, "events"), p.number(1, 400, "size"), topic))
}

func (p *play) trouble() {
	s := p.somebody().sink
	switch p.number(0, 3, "trouble") {
	case 0:
		s.hold()
	case 1:
		s.slow(time.Duration(p.number(1, 3, "ms")) * time.Millisecond)
	default:
		s.slow(0)
		s.release()
	}
}

// comeBack breaks a session and resumes all that it had in another one.
func (p *play) comeBack() {
	n := p.number(0, len(p.peers)-1, "session")
	old := p.peers[n]
	old.sink.snap()
	old.session.End(errBroken)
	<-old.sink.closed
	p.gone = append(p.gone, old)
	items := old.sink.items()
	r, err := p.record(p.prefix)
	p.check(err)
	h, _, err := old.hear(r, items)
	p.check(err)
	p.peers[n] = p.hub.peer()
	var all []request
	for _, s := range h.subs {
		if !s.doomed {
			all = append(all, request{Request: Request{Topic: s.key, After: &s.place}})
		}
	}
	p.check(p.peers[n].subscribe(all...))
}

// cut ends the database connections by which the log is read.
func (p *play) cut() {
	_, err := p.pen.Exec(context.Background(), cutReaders)
	p.check(err)
}
