package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
)

// frames are those that need a right, with what they need of a topic T or group G.
var frames = []struct {
	needs, frame, yes, no string
}{
	{"subscribe T", `{"type":"subscribe","topic":"T","ref":1}`, "subscribed", "subscribe-denied FORBIDDEN"},
	{"subscribe T", `{"type":"subscribe-batch","topics":["T"],"ref":1}`, "subscribed", "subscribe-denied FORBIDDEN"},
	{"subscribe,snapshot T", `{"type":"subscribe","topic":"T","snapshot":true,"ref":1}`, "subscribed", "subscribe-denied FORBIDDEN"},
	{"history T", `{"type":"history","topic":"T","ref":1}`, "history", "error forbidden"},
	{"publish T", `{"type":"publish","topic":"T","event":"e","ref":1}`, "published", "error forbidden"},
	{"presence T", `{"type":"presence","topic":"T","op":"join","ref":1}`, "presence", "error forbidden"},
	{"presence T", `{"type":"presence","topic":"T","op":"sync","ref":1}`, "presence", "error forbidden"},
	{"presence T", `{"type":"presence","topic":"T","op":"list","ref":1}`, "presence", "error forbidden"},
	{"presence T", `{"type":"presence","topic":"T","op":"count","ref":1}`, "presence", "error forbidden"},
	{"presence T", `{"type":"subscribe","topic":"__presence:T","ref":1}`, "subscribed", "subscribe-denied FORBIDDEN"},
	{"cursor T", `{"type":"subscribe","topic":"__cursor:T","ref":1}`, "subscribed", "subscribe-denied FORBIDDEN"},
	{"group T", `{"type":"group","group":"G","op":"create","ref":1}`, "group", "error forbidden"},
	{"group T", `{"type":"group","group":"G","op":"join","ref":1}`, "group", "error forbidden"},
	{"group T", `{"type":"group","group":"G","op":"set","data":{},"ref":1}`, "group", "error forbidden"},
	{"group T", `{"type":"group","group":"G","op":"list","ref":1}`, "group", "error forbidden"},
	{"group,subscribe T", `{"type":"subscribe","topic":"__group:G","ref":1}`, "subscribed", "subscribe-denied FORBIDDEN"},
}

// Every frame needs its own rights, and no others, and says no in the same words whether or
// not there is such a topic. S11.
func TestS11EveryFrame(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, nil)
	for _, f := range frames {
		topic := "a:1"
		if strings.Contains(f.frame, "group") {
			topic = "group:g"
		}
		frame := strings.NewReplacer(`:T"`, ":"+topic+`"`, `"T"`, `"`+topic+`"`, `"G"`, `"g"`, ":G", ":g").Replace(f.frame)
		verbs, _, _ := strings.Cut(f.needs, " ")
		needs := strings.Split(verbs, ",")
		p := w.dialBy(t, "ann")
		for _, missing := range needs {
			var all []string
			for _, verb := range auth.Verbs {
				if string(verb) != missing {
					all = append(all, string(verb))
				}
			}
			rules.let("ann " + strings.Join(all, ",") + " " + topic)
			rules.forbid("ann " + missing + " " + topic)
			if got := p.try(frame); got != f.no {
				t.Errorf("without %s, %s is answered with %q", missing, frame, got)
			}
		}
		rules.forbid("ann " + strings.Join(verbNames(), ",") + " " + topic)
		rules.let("ann " + verbs + " " + topic)
		if strings.Contains(f.frame, `"group"`) { // there has to be one, with him in it
			rules.let("ann group group:g")
			p.try(`{"type":"group","group":"g","op":"create","ref":1}`)
			if strings.Contains(f.frame, `"set"`) {
				p.try(`{"type":"group","group":"g","op":"join","role":"admin","ref":1}`)
			}
		}
		if got := p.try(frame); got != f.yes {
			t.Errorf("with %s, %s is answered with %q", verbs, frame, got)
		}
		_ = p.ws.CloseNow()
	}
	// Those that are not answered.
	p := w.dialBy(t, "bob")
	for _, frame := range []string{`{"type":"cursor","topic":"a:1","data":1}`, `{"type":"cursor-snapshot","topic":"a:1"}`, `{"type":"replay","topic":"a:1","reqId":7}`} {
		p.raw(frame)
		if f := p.want(wire.Error); f.Code != "forbidden" {
			t.Errorf("%s is answered with %+v", frame, f)
		}
		if strings.Contains(frame, "replay") {
			if got := p.text(); !strings.Contains(got, `"truncated":true`) {
				t.Errorf("a denied replay ends with %s", got)
			}
		}
	}
	p.quiet()
	rules.let("bob cursor a:1")
	p.raw(`{"type":"cursor","topic":"a:1","data":1}`)
	p.hears(`"__cursor:a:1"`, `"snapshot"`)
	rules.questions()
	for n := range 20 {
		p.raw(fmt.Sprintf(`{"type":"cursor","topic":"a:1","data":%d}`, n))
	}
	p.quiet()
	if asked := rules.questions(); len(asked) > 0 {
		t.Errorf("moves of a cursor that is there were decided on: %v", asked)
	}
	// What ends something needs no right.
	for _, frame := range []string{`{"type":"presence","topic":"x","op":"leave","ref":1}`, `{"type":"group","group":"x","op":"leave","ref":1}`, `{"type":"unsubscribe","topic":"x","ref":1}`} {
		if got := p.try(frame); strings.Contains(got, "error") {
			t.Errorf("%s is answered with %s", frame, got)
		}
	}
}

func verbNames() (names []string) {
	for _, verb := range auth.Verbs {
		names = append(names, string(verb))
	}
	return names
}

// Every request needs its own rights. S11.
func TestS11EveryRequest(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, nil)
	w.publish(t, "a:1", 3, 10)
	w.sequenced(t)
	for _, r := range []struct {
		needs, method, path string
		yes                 int
	}{
		{"history", "GET", "/topics/a:1/events", 200},
		{"history,subscribe", "GET", "/topics/a:1/events?wait=1&after=2", 200},
		{"publish", "POST", "/topics/a:1/events", 201},
		{"snapshot", "GET", "/topics/a:1/snapshot", 200},
		{"presence", "GET", "/topics/a:1/presence", 200},
		{"presence", "GET", "/topics/a:1/presence?count", 200},
		{"subscribe", "GET", "/topics/a:1/sse", 200},
		{"subscribe", "GET", "/topics/a:1/sse?after=1", 200},
		{"subscribe,snapshot", "GET", "/topics/a:1/sse?snapshot=true", 200},
		{"group", "GET", "/groups/g", 404},
	} {
		topic := "a:1"
		if r.needs == "group" {
			topic = "group:g"
		}
		needs := strings.Split(r.needs, ",")
		for _, missing := range needs {
			others := slices.DeleteFunc(verbNames(), func(verb string) bool { return verb == missing })
			rules.let("ann " + strings.Join(others, ",") + " " + topic)
			rules.forbid("ann " + missing + " " + topic)
			status, text := w.answer(t, "ann", r.method, r.path)
			if status != http.StatusForbidden {
				t.Errorf("without %s, %s %s: %d", missing, r.method, r.path, status)
			}
			rules.let("ann " + strings.Join(verbNames(), ",") + " " + strings.Replace(topic, "a:", "b:", 1))
			if other, same := w.answer(t, "bob", r.method, strings.Replace(r.path, "a:1", "nothing:there", 1)); other != status || same != text {
				t.Errorf("of a topic that is not there it says %d %s; of one that is, %d %s", other, same, status, text)
			}
		}
		rules.forbid("ann " + strings.Join(verbNames(), ",") + " " + topic)
		rules.let("ann " + r.needs + " " + topic)
		if got := w.is(t, "ann", r.method, r.path); got != r.yes {
			t.Errorf("with %s, %s %s: %d", r.needs, r.method, r.path, got)
		}
		rules.forbid("ann " + r.needs + " " + topic)
	}
	rules.let("ann subscribe a:1")
	if got := w.is(t, "ann", "GET", "/topics/a:1/sse?topic=c:1"); got != http.StatusForbidden {
		t.Errorf("a stream with a topic that is not allowed: %d", got)
	}
}

// What comes with a subscription comes where that is allowed itself.
func TestWhatComesAlong(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, nil)
	rules.let("ann subscribe on:1", "bob subscribe,presence on:1", "bob cursor on:1", "eve presence on:1")
	ann := w.dialBy(t, "ann")
	ann.subscribe("on:1", nil, "")
	ann.quiet()
	bob := w.dialBy(t, "bob")
	bob.subscribe("on:1", nil, "")
	bob.hears(`"__cursor:on:1"`)
	eve := w.dialBy(t, "eve")
	eve.raw(`{"type":"presence","topic":"on:1","op":"count","ref":1}`)
	if got := eve.text(); !strings.Contains(got, `"count":1`) {
		t.Errorf("who may not be there is: %s", got)
	}
	ann.quiet()
}

// A batch is decided on at once, and what is no name, or too much, not at all.
func TestBatchIsDecidedAtOnce(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, func(s *setup) { s.MaxSubscriptions = 5 })
	rules.let("ann subscribe a:*")
	p := w.dialBy(t, "ann")
	rules.questions()
	p.raw(`{"type":"subscribe-batch","topics":["a:1","b:1","a:2","__access","a\u0000b","a:*:b","b:2","a:3","a:4"],"ref":1}`)
	want := []string{"subscribed a:1", "FORBIDDEN b:1", "subscribed a:2", "INVALID_TOPIC __access", "INVALID_TOPIC a\x00b",
		"FORBIDDEN a:*:b", "FORBIDDEN b:2", "TOO_MANY a:3", "TOO_MANY a:4"}
	var got []string
	for range want {
		f := p.next()
		reason := f.Reason
		if reason == "" {
			reason = string(f.Type)
		}
		got = append(got, reason+" "+f.Topic)
	}
	if !slices.Equal(got, want) {
		t.Errorf("it is answered with %q", got)
	}
	if asked := rules.questions(); len(asked) != 5 {
		t.Errorf("it was asked %v", asked)
	}
}

// Who comes late and asks for what was gets it only with the right to. S12.
func TestS12JoinLate(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, nil)
	w.publish(t, "a:1", 5, 10)
	w.sequenced(t)
	rules.let("ann subscribe a:1", "bob subscribe,history a:1")
	bob := w.dialBy(t, "bob")
	bob.subscribe("a:1", at(0), "")
	bob.stream("a:1", 1, 5)
	id := w.idOf(t, "a:1", 2)
	gap := func(f wire.ServerFrame, after int64) {
		t.Helper()
		if f.Type != wire.Gap || f.After != after || f.Tail != 6 || f.Head != 5 {
			t.Errorf("after %d it got %+v", after, f)
		}
	}
	ann := w.dialBy(t, "ann")
	for _, after := range []int64{0, 2} {
		ann.subscribe("a:1", at(after), "")
		gap(ann.next(), after)
		ann.subscribe("a:1", at(after), id)
		gap(ann.next(), after)
	}
	back := w.dialBy(t, "ann")
	back.raw(fmt.Sprintf(`{"type":"resume","sessionId":%q,"lastSeenSeqs":{"a:1":1}}`, ann.session))
	back.hears(`"resumed"`)
	back.raw(`{"type":"subscribe","topic":"a:1","ref":"s"}`)
	back.hears(`"subscribed"`)
	gap(back.next(), 1)
	if got := ann.try(`{"type":"history","topic":"a:1","ref":1}`); got != "error forbidden" {
		t.Errorf("its history: %s", got)
	}
	for _, path := range []string{"/topics/a:1/events", "/topics/a:1/events?after=0", "/topics/a:1/events?wait=1", "/topics/a:1/snapshot"} {
		if got := w.is(t, "ann", "GET", path); got != http.StatusForbidden {
			t.Errorf("%s: %d", path, got)
		}
	}
	for _, query := range []string{"after=0", "after=2", "last-event-id=2:" + string(id)} {
		s, _ := w.requestAs(t, "a:1", query, "", bearing("ann"))
		if e := s.next(); e.Event != "subscribed" {
			t.Errorf("%s: %+v", query, e)
		}
		if e := s.next(); e.Event != "gap" || !strings.HasPrefix(e.ID, "5") {
			t.Errorf("%s: %+v", query, e)
		}
	}
	w.publish(t, "a:1", 1, 10)
	ann.stream("a:1", 6, 6)
	back.stream("a:1", 6, 6)
}
