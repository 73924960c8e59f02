package gateway

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// What was trimmed from a pattern's events is told also where a filter lets nothing through of
// the first pages behind it.
func TestFilterTellsGap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a:1", 5, 1)
	w.publish(t, "a:2", 30, 1)
	w.sequenced(t)
	w.db.Exec(t, "select pgcast.retain('a:1', max_count => 2)")
	await(t, "three are trimmed", func() bool { return w.get(t, "a:1", "").Tail == 4 })
	query := "limit=5&filter=" + url.QueryEscape("n = 30")
	if e := w.get(t, "a:*", query); e.Tail != 4 || len(e.Events) != 1 || e.Next != 35 {
		t.Errorf("over HTTP: tail %d, %s, next %d", e.Tail, e.Events, e.Next)
	}
	p := w.dial(t)
	p.raw(`{"type":"history","topic":"a:*","limit":5,"filter":"n = 30","ref":1}`)
	if f := p.want(wire.History); f.Tail != 4 || len(f.Events) != 1 {
		t.Errorf("in a frame: %+v", f)
	}
}

// Everything of a group is not heard where its topic is subscribed to through a filter.
func TestFilterBesideGroup(t *testing.T) {
	t.Parallel()
	w := groupWorld(t, "none")
	for _, topic := range []string{"group:x", "group:*"} {
		p := w.dial(t)
		p.raw(fmt.Sprintf(`{"type":"subscribe","topic":%q,"filter":"n = 1","ref":1}`, topic))
		p.want(wire.Subscribed)
		p.raw(`{"type":"subscribe","topic":"__group:x","ref":2}`)
		if f := p.want(wire.SubscribeDenied); f.Reason != wire.ReasonInvalidFilter || f.Topic != "__group:x" {
			t.Errorf("beside %s: %+v", topic, f)
		}
		if f := p.want(wire.Error); f.Code != pgcast.CodeInvalid || !strings.Contains(f.Message, "another session") {
			t.Errorf("beside %s: %+v", topic, f)
		}
		p.raw(fmt.Sprintf(`{"type":"unsubscribe","topic":%q}`, topic))
		p.raw(`{"type":"subscribe","topic":"__group:x","ref":3}`)
		p.hears(`"subscribed"`, `"__group:x"`)
	}
}
