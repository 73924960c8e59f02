package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/auth"
)

// While it cannot be decided whether somebody may have what is past, he is told to try again,
// and not that it is lost to him.
func TestUndecidedHistoryIsNoGap(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, nil)
	w.publish(t, "a:1", 3, 10)
	w.sequenced(t)
	rules.let("ann subscribe,history a:1")
	rules.set(func() { rules.unsure = auth.History })
	ann := w.dialBy(t, "ann")
	if got := ann.try(`{"type":"subscribe","topic":"a:1","after":0,"ref":1}`); got != "subscribe-denied INTERNAL_ERROR" {
		t.Errorf("answered with %s", got)
	}
	if got := w.is(t, "ann", "GET", "/topics/a:1/sse?after=0"); got != http.StatusServiceUnavailable {
		t.Errorf("a stream: %d", got)
	}
	rules.set(func() { rules.unsure = "" })
	ann.subscribe("a:1", at(0), "")
	ann.stream("a:1", 1, 3)
}

// Who loses the right to the history, or to the snapshot, while he is being sent it gets no more
// of it; what is only live goes on.
func TestRecheckOfThePast(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, func(s *setup) { s.small = true })
	const events, size = 1000, 10_000
	w.publish(t, "a:1", events, size)
	w.sequenced(t)
	w.db.Exec(t, fmt.Sprintf(`create table public.big (id int primary key, room int, body text); select pgcast.attach('public.big', topic => 'room:{room}');
		insert into public.big select i, 1, repeat('x', %d) from generate_series(1, %d) i`, size, events))
	for _, tt := range []struct{ topic, frame, sent string }{
		{"a:1", `{"type":"subscribe","topic":"a:1","after":0,"ref":1}`, `"data"`},
		{"a:1", `{"type":"replay","topic":"a:1","reqId":1}`, `"data"`},
		{"room:1", `{"type":"subscribe","topic":"room:1","snapshot":true,"ref":1}`, `"snapshot"`},
	} {
		rules.let("ann subscribe,history,snapshot a:1", "ann subscribe,history,snapshot room:1", "ann subscribe live")
		ann := w.dialBy(t, "ann")
		ann.subscribe("live", nil, "")
		ann.raw(tt.frame)
		ann.hears(tt.sent) // the rest waits for its reader
		before := len(rules.questions())
		rules.forbid("ann history,snapshot " + tt.topic)
		w.gate.Recheck(everybody)
		await(t, "it was asked", func() bool { before += len(rules.questions()); return before > 2 })
		w.publish(t, "live", 1, 10)
		got, denied := 0, false
		for live := false; !live; {
			text := ann.text()
			live = strings.Contains(text, `"topic":"live"`)
			denied = denied || strings.Contains(text, `"FORBIDDEN"`) || strings.Contains(text, `"end"`)
			got += len(text)
		}
		if !denied || got >= events*size {
			t.Errorf("%s: told: %v, and %d bytes of what is past came", tt.frame, denied, got)
		}
		if got := ann.try(fmt.Sprintf(`{"type":"subscribe","topic":%q,"ref":1}`, tt.topic)); got != "subscribed" {
			t.Errorf("what is to come of %s: %s", tt.topic, got)
		}
	}
}
