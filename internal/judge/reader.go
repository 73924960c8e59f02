package judge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
)

// Reader is one client that collects what it is given. Its subscriptions must not
// overlap.
type Reader struct {
	Client *client.Client
	Name   string

	opts ReaderOptions

	mu      sync.Mutex
	streams map[string]*stream
	count   int
	wrong   []string // notices that were not to be
	resets  []client.Reset
	gaps    []client.Gap
	rows    Rows // what folding the events gives
	partial bool // it does not begin at the first event, or something in between is gone
	arrived map[pgcast.ID]time.Time
}

// ReaderOptions; the zero value is a reader of everything, to whom no gap and no reset may
// come.
type ReaderOptions struct {
	From    *client.From // where every subscription begins; nil: at the first event
	Client  client.Options
	Resets  bool // a reset may come
	Gaps    bool // a gap may come
	NoFold  bool // for very many rows
	Arrival bool // note when each event comes
}

// stream is what came through one subscription.
type stream struct {
	after int64 // the place it began at, by its newest reset if there was one
	got   []Fact
	gaps  []client.Gap

	counted *counted
}

// counted is how much the log has for a stream, so that waiting for it costs no look at
// the whole log each time.
type counted struct {
	after           int64
	gaps, log, want int
}

// StartReader subscribes to topics or patterns from the beginning, until the test ends.
func StartReader(t testing.TB, s *Server, name string, topics ...string) *Reader {
	t.Helper()
	return NewReader(t, "http://"+s.Listen, name, nil, topics...)
}

// NewReader is StartReader with options, for the server at a URL.
func NewReader(t testing.TB, url, name string, opts *ReaderOptions, topics ...string) *Reader {
	t.Helper()
	r := &Reader{Name: name, streams: map[string]*stream{}, rows: Rows{}, arrived: map[pgcast.ID]time.Time{}}
	if opts != nil {
		r.opts = *opts
	}
	o := r.opts.Client
	if o.MaxBackoff == 0 {
		o.MaxBackoff = 200 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r.Client = client.New(url, &o)
	from := client.From{}
	if r.opts.From != nil {
		from = *r.opts.From
	}
	r.partial = from.After != 0 || r.opts.NoFold
	for _, topic := range topics {
		r.streams[topic] = &stream{after: from.After}
		if err := r.Client.Subscribe(topic, &from); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Client.Run(ctx) })
	wg.Go(func() {
		for item, err := range r.Client.Items(ctx) {
			if err != nil {
				return
			}
			r.take(item)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return r
}

func (r *Reader) take(item client.Item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch it := item.(type) {
	case client.Event:
		s := r.streams[it.Through]
		s.got = append(s.got, Fact{it.Topic, it.Seq, it.Position, it.ID, sum(it.Name, it.Data, it.Old, it.Oversize)})
		r.count++
		r.fold(it.Event)
		if r.opts.Arrival {
			r.arrived[it.ID] = time.Now()
		}
	case client.Gap:
		s := r.streams[it.Topic]
		s.gaps = append(s.gaps, it)
		r.gaps, r.partial = append(r.gaps, it), true
		if !r.opts.Gaps {
			r.wrong = append(r.wrong, fmt.Sprintf("gap %+v", it))
		}
	case client.Reset:
		r.count -= len(r.streams[it.Topic].got)
		r.streams[it.Topic] = &stream{after: it.Head}
		r.resets, r.partial = append(r.resets, it), true
		if !r.opts.Resets {
			r.wrong = append(r.wrong, fmt.Sprintf("reset %+v", it))
		}
	case client.Denied:
		r.wrong = append(r.wrong, fmt.Sprintf("denied %+v", it))
	}
}

// fold applies an event to the rows.
func (r *Reader) fold(e pgcast.Event) {
	if r.partial || e.Oversize {
		return
	}
	held := r.rows[e.Topic]
	if held == nil {
		held = map[string]string{}
		r.rows[e.Topic] = held
	}
	var key struct{ ID json.Number }
	switch e.Name {
	case pgcast.Created, pgcast.Updated, pgcast.Deleted:
		if err := json.Unmarshal(e.Data, &key); err != nil {
			r.wrong = append(r.wrong, fmt.Sprintf("%s #%d: %v in %.200s", e.Topic, e.Seq, err, e.Data))
		}
	}
	switch e.Name {
	case pgcast.Created, pgcast.Updated:
		held[key.ID.String()] = string(compact(e.Data))
	case pgcast.Deleted:
		delete(held, key.ID.String())
	case pgcast.Truncated:
		clear(held)
	}
}

// Events is how many events have come, since the newest reset of their subscriptions.
func (r *Reader) Events() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// Resets are the resets told so far.
func (r *Reader) Resets() []client.Reset {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]client.Reset(nil), r.resets...)
}

// Gaps are the gaps told so far.
func (r *Reader) Gaps() []client.Gap {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]client.Gap(nil), r.gaps...)
}

// Facts are the events that came through a subscription, since its newest reset.
func (r *Reader) Facts(key string) []Fact {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Fact(nil), r.streams[key].got...)
}

// Arrived tells when an event came; for readers with Arrival.
func (r *Reader) Arrived(id pgcast.ID) (time.Time, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.arrived[id]
	return at, ok
}

// sum is a hash of what an event says.
func sum(name string, data, old json.RawMessage, oversize bool) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	if oversize {
		_, _ = h.Write([]byte("\x00oversize"))
		return h.Sum64()
	}
	for _, text := range []json.RawMessage{data, old} {
		_, _ = h.Write([]byte{0})
		if text = compact(text); !bytes.Equal(text, []byte("null")) {
			_, _ = h.Write(text)
		}
	}
	return h.Sum64()
}

// compact takes the spaces out of JSON that may have been written differently.
func compact(text json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, text) != nil {
		return text
	}
	return b.Bytes()
}
