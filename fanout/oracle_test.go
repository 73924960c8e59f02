package fanout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgcast/pgcast"
)

// peer is a client: what it has asked for, and what it has heard.
type peer struct {
	sink    *sink
	session *Session
	asked   []request
}

// request is one ask for a subscription; its index is its ref.
type request struct {
	Request
	forged bool // names a place or an id that the log never had, so it must be reset
}

func (h *Hub) peer() *peer {
	p := &peer{sink: newSink()}
	p.session = h.NewSession(p.sink)
	return p
}

// subscribe asks for all of them at once.
func (p *peer) subscribe(all ...request) error {
	openings := make([]*Opening, len(all))
	for i := range all {
		all[i].Ref = strconv.AppendInt(nil, int64(len(p.asked)), 10)
		p.asked = append(p.asked, all[i])
		openings[i] = p.session.Ask(all[i].Request)
	}
	var failed error
	for i, o := range openings {
		err := p.session.Open(context.Background(), o)
		if errors.Is(err, pgcast.ErrUnavailable) {
			poll(func() bool { // while the log cannot be asked, a client asks again
				err = p.session.Subscribe(context.Background(), all[i].Request)
				return !errors.Is(err, pgcast.ErrUnavailable)
			})
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func (p *peer) unsubscribe(topic string) { p.session.Unsubscribe(topic, []byte("off")) }

// record is the truth that hearings are judged by.
type record struct {
	facts  []fact
	topics map[string][]fact // seq n at n-1
	at     map[int64]fact    // by position
	tails  map[string]int64
}

func (w *world) record(prefix string) (*record, error) {
	r := &record{topics: map[string][]fact{}, at: map[int64]fact{}}
	var err error
	if r.facts, err = w.facts(prefix); err != nil {
		return nil, err
	}
	if r.tails, err = w.tails(); err != nil {
		return nil, err
	}
	for _, f := range r.facts {
		if f.seq != int64(len(r.topics[f.topic]))+1 {
			return nil, fmt.Errorf("the log itself has a hole: %s has seq %d after %d events", f.topic, f.seq, len(r.topics[f.topic]))
		}
		r.topics[f.topic] = append(r.topics[f.topic], f)
		r.at[f.position] = f
	}
	return r, nil
}

// head is the newest place of a topic, or of the log for a pattern.
func (r *record) head(key string) int64 {
	if !pgcast.IsPattern(key) {
		return int64(len(r.topics[key]))
	}
	if n := len(r.facts); n > 0 {
		return r.facts[n-1].position
	}
	return 0
}

// held is a subscription as the client knows it.
type held struct {
	key     string
	pattern *pgcast.Pattern // nil for a topic
	start   int64
	place   int64
	told    int64 // up to where it was told of gaps, of a pattern
	order   int
	doomed  bool // a reset must come before anything else
}

func (s *held) number(f fact) int64 {
	if s.pattern != nil {
		return f.position
	}
	return f.seq
}

func (s *held) selects(topic string) bool {
	if s.pattern != nil {
		return s.pattern.Match(topic)
	}
	return s.key == topic
}

// hearing goes through what one session has sent, in order.
type hearing struct {
	*record
	asked  []request
	subs   map[string]*held
	order  int
	once   map[int64]bool // positions heard, and not asked for again since
	ever   map[int64]bool // positions heard at all
	gapped map[int64]bool // positions told to be trimmed away
}

// hear judges what a session had sent before the record was taken. The error is the first
// thing that must never happen; missing are events that must still come.
func (p *peer) hear(r *record, items []Item) (h *hearing, missing []fact, err error) {
	h = &hearing{record: r, asked: p.asked, subs: map[string]*held{},
		once: map[int64]bool{}, ever: map[int64]bool{}, gapped: map[int64]bool{}}
	for n, i := range items {
		switch {
		case i.Frame != nil:
			err = h.event(i)
		case i.Notice != nil:
			err = h.notice(i.Notice)
		}
		if err != nil {
			return h, nil, fmt.Errorf("%w\nitem %d of:\n%s", err, n, transcript(items[:n+1]))
		}
	}
	return h, h.missing(), nil
}

// transcript writes down what was heard, for people.
func transcript(items []Item) string {
	var b strings.Builder
	for _, i := range items {
		if n := i.Notice; n != nil {
			what := []string{"", "subscribed", "unsubscribed", "gap", "reset", "denied"}[n.Kind]
			fmt.Fprintf(&b, "  %s %s ref %s seq %d after %d tail %d head %d\n", what, n.Topic, n.Ref, n.Seq, n.After, n.Tail, n.Head)
		} else if i.Frame != nil {
			fmt.Fprintf(&b, "  %s %d at %d, through pattern: %v\n", i.Frame.Topic, i.Frame.Seq, i.Frame.Position, i.Pattern)
		}
	}
	return b.String()
}

func (h *hearing) notice(n *Notice) error {
	s := h.subs[n.Topic]
	switch n.Kind {
	case Subscribed:
		return h.subscribed(n)
	case Unsubscribed:
		delete(h.subs, n.Topic)
		return nil
	}
	if s == nil {
		return fmt.Errorf("notice %d about %s, which is not subscribed", n.Kind, n.Topic)
	}
	switch n.Kind {
	case Reset:
		if !s.doomed {
			return fmt.Errorf("%s: reset, but its place was good", n.Topic)
		}
		s.start, s.place, s.doomed = n.Head, n.Head, false
		h.again(s)
	case Gap:
		return h.gap(s, n)
	default:
		return fmt.Errorf("%s: a notice of kind %d", n.Topic, n.Kind)
	}
	return nil
}

func (h *hearing) subscribed(n *Notice) error {
	ref, err := strconv.Atoi(string(n.Ref))
	if err != nil || ref >= len(h.asked) {
		return fmt.Errorf("%s: subscribed with ref %q", n.Topic, n.Ref)
	}
	ask := h.asked[ref]
	if ask.Topic != n.Topic {
		return fmt.Errorf("subscribed to %s with the ref of %s", n.Topic, ask.Topic)
	}
	if ask.After != nil && !ask.forged && n.Seq != *ask.After {
		return fmt.Errorf("%s: asked for after %d and was subscribed from %d", n.Topic, *ask.After, n.Seq)
	}
	if n.Seq > h.head(n.Topic) && (ask.After == nil || n.Seq != *ask.After) && !pgcast.IsPattern(n.Topic) {
		return fmt.Errorf("%s: subscribed from %d, and the head is %d", n.Topic, n.Seq, h.head(n.Topic))
	}
	s := &held{key: n.Topic, start: n.Seq, place: n.Seq, order: h.order, doomed: ask.forged}
	h.order++
	if pgcast.IsPattern(n.Topic) {
		p, err := pgcast.ParsePattern(n.Topic)
		if err != nil {
			return err
		}
		s.pattern = &p
	}
	h.subs[n.Topic] = s
	if ask.After != nil && !ask.forged {
		h.again(s)
	}
	return nil
}

// again notes that events after a place have been asked for, whether they were heard
// before or not.
func (h *hearing) again(s *held) {
	for _, f := range h.facts {
		if s.selects(f.topic) && s.number(f) > s.start {
			delete(h.once, f.position)
		}
	}
}

func (h *hearing) gap(s *held, n *Notice) error {
	if n.Tail <= n.After+1 {
		return fmt.Errorf("%s: a gap with nothing in it, after %d and before %d", n.Topic, n.After, n.Tail)
	}
	if s.pattern == nil {
		if n.After != s.place {
			return fmt.Errorf("%s: gap after %d, and the place was %d", n.Topic, n.After, s.place)
		}
		if n.Tail > h.tails[n.Topic] {
			return fmt.Errorf("%s: gap up to %d, and the tail is %d", n.Topic, n.Tail, h.tails[n.Topic])
		}
		s.place = n.Tail - 1
	} else if n.After < s.place || n.Tail <= s.told {
		return fmt.Errorf("%s: gap after %d, and the place was %d, gaps told up to %d", n.Topic, n.After, s.place, s.told)
	}
	s.told = n.Tail
	for _, f := range h.facts {
		if at := s.number(f); s.selects(f.topic) && at > n.After && at < n.Tail && f.seq < h.tails[f.topic] {
			h.gapped[f.position] = true
		}
	}
	return nil
}

func (h *hearing) event(i Item) error {
	f := fact{i.Frame.Topic, int64(i.Frame.Seq), int64(i.Frame.Position), i.Frame.ID}
	if h.at[f.position] != f {
		return fmt.Errorf("%+v, and the log has %+v there", f, h.at[f.position])
	}
	owner := h.owner(f)
	switch {
	case owner == nil:
		return fmt.Errorf("%+v came, and no subscription selects it", f)
	case i.Pattern != (owner.pattern != nil):
		return fmt.Errorf("%+v came through pattern: %v, and it is %s's", f, i.Pattern, owner.key)
	case owner.doomed:
		return fmt.Errorf("%+v came before the reset of %s", f, owner.key)
	case owner.pattern == nil && f.seq != owner.place+1:
		return fmt.Errorf("%s: %d came after %d", f.topic, f.seq, owner.place)
	case owner.number(f) <= owner.place:
		return fmt.Errorf("%s: %+v came after %d", owner.key, f, owner.place)
	case h.once[f.position]:
		return fmt.Errorf("%+v came twice, now through %s", f, owner.key)
	}
	owner.place = owner.number(f)
	h.once[f.position], h.ever[f.position] = true, true
	return nil
}

// owner is the subscription an event comes through: the exact topic's, or else that of
// the pattern that was subscribed first.
func (h *hearing) owner(f fact) *held {
	if s := h.subs[f.topic]; s != nil && f.seq > s.start {
		return s
	}
	var owner *held
	for _, s := range h.subs {
		if s.pattern != nil && s.pattern.Match(f.topic) && f.position > s.start && (owner == nil || s.order < owner.order) {
			owner = s
		}
	}
	return owner
}

// missing are the events that a subscription selects and that have neither come nor been
// told to be trimmed.
func (h *hearing) missing() (list []fact) {
	for _, f := range h.facts {
		if owner := h.owner(f); owner != nil && !h.ever[f.position] && !h.gapped[f.position] {
			list = append(list, f)
		}
	}
	for _, s := range h.subs {
		if s.pattern == nil && (s.doomed || s.place < h.head(s.key)) {
			list = append(list, fact{topic: s.key, seq: s.place + 1})
		}
	}
	return list
}

// settled judges the peers until nothing of what was written is missing. Nobody may write
// meanwhile.
func (w *world) settled(t fataler, prefix string, peers ...*peer) {
	t.Helper()
	w.sequenced(t)
	var err error
	left := slices.Clone(peers)
	ok := poll(func() bool {
		heard := make([][]Item, len(left))
		for i, p := range left {
			heard[i] = p.sink.items()
		}
		var r *record
		if r, err = w.record(prefix); err != nil {
			return true
		}
		var late []*peer
		for i, p := range left {
			_, missing, wrong := p.hear(r, heard[i])
			if wrong != nil {
				err = wrong
				return true
			}
			if len(missing) > 0 {
				err = fmt.Errorf("%d events have not come, such as %+v", len(missing), missing[0])
				late = append(late, p)
			}
		}
		left = late
		return len(left) == 0
	})
	if !ok || err != nil {
		t.Fatalf("%d sessions left: %v", len(left), err)
	}
}

// fataler is what testing.TB and rapid.T have in common.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}
