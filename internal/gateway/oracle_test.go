package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// Patterns are allowed by what they could select, not by what there is; what is no name is
// told apart from what is not allowed by its form alone; and an answer takes about the same
// time whether or not there is such a topic. S13.
func TestS13NoOracle(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, nil)
	rules.let("ann subscribe,history,snapshot,publish,presence,cursor a:*", "ann subscribe,history a:x:**")
	w.publish(t, "a:1", 50, 10)
	w.publish(t, "secret:1", 50, 10)
	w.sequenced(t)
	p := w.dialBy(t, "ann")
	const yes, no, invalid = "subscribed", "subscribe-denied FORBIDDEN", "subscribe-denied INVALID_TOPIC"
	for _, c := range []struct{ topic, want string }{
		{"a:1", yes}, {"a:2", yes}, {"a:*", yes}, {"a:x:**", yes}, {"a:x:y", yes}, {"a:x:*", yes}, {"a:x:*:z", yes},
		{"*", no}, {"**", no}, {"a:**", no}, {"*:1", no}, {"a:*:b", no}, {"a", no}, {"a:", yes}, {"a:1:2", no}, {"A:1", no}, {"a.*.b", no}, {"a*", no},
		{"secret:1", no}, {"secret:2", no}, {"secret:*", no}, {"..", no}, {"a/../secret:1", no}, {"a:../secret", yes}, {"a:%2A", yes}, {"%61:1", no}, {" a:1", no},
		{"__access", invalid}, {"__group:a:**:b", invalid}, {"__", invalid}, {"", invalid}, {"a:**:b", invalid}, {"a:1\x00", invalid}, {"а:1", invalid}, {"a：1", invalid}, {"a\u200b:1", invalid},
		{"a:" + strings.Repeat("x", 300), invalid}, {strings.Repeat("x", 64<<10), invalid}, {strings.Repeat("a:", 32<<10), invalid},
	} {
		frame := fmt.Sprintf(`{"type":"subscribe","topic":%s,"ref":1}`, quoted(c.topic))
		if c.topic == "" { // the frame itself is none then
			continue
		}
		if got := p.try(frame); got != c.want {
			t.Errorf("%.40q: %s, not %s", c.topic, got, c.want)
		}
		if len(c.topic) > 1000 || strings.Contains(c.topic, "..") {
			continue
		}
		want := map[string]int{yes: http.StatusOK, no: http.StatusForbidden, invalid: http.StatusBadRequest}[c.want]
		if got := w.is(t, "ann", "GET", "/topics/"+url.PathEscape(c.topic)+"/events"); got != want {
			t.Errorf("GET %.40q: %d, not %d", c.topic, got, want)
		}
	}
	rules.questions()
	if p.try(fmt.Sprintf(`{"type":"subscribe","topic":%q,"ref":1}`, strings.Repeat("y", 64<<10))); len(rules.questions()) > 0 {
		t.Error("what cannot be a name was decided on")
	}
	// The same answers, to the byte, and about the same time.
	took := map[string][]time.Duration{}
	for range 200 {
		for _, topic := range []string{"secret:1", "secret:2"} {
			began := time.Now()
			_, text := w.answer(t, "eve", "GET", "/topics/"+topic+"/events?after=3")
			took[topic] = append(took[topic], time.Since(began))
			if want := `{"error":{"code":"forbidden","message":"this is not allowed","hint":"ask whoever runs the server for a rule that allows it"}}`; text != want {
				t.Fatalf("%s: %s", topic, text)
			}
		}
	}
	median := func(topic string) time.Duration { slices.Sort(took[topic]); return took[topic][100] }
	there, not := median("secret:1"), median("secret:2")
	if t.Logf("a no takes %v for a topic that is there, and %v for one that is not", there, not); there > 3*not+time.Millisecond || not > 3*there+time.Millisecond {
		t.Errorf("a no takes %v for a topic that is there, and %v for one that is not", there, not)
	}
}

// Who is on a topic, in a group, or points somewhere is told to those only who may know, in
// whichever way they ask; also when they may subscribe to everything. S36.
func TestS36PresenceIsPrivate(t *testing.T) {
	t.Parallel()
	w, rules := guarded(t, nil)
	rules.let("ann subscribe,presence,cursor,group **", "eve subscribe,history,snapshot,publish **", "bob subscribe,presence,cursor,group **")
	ann := w.dialBy(t, "ann")
	ann.raw(`{"type":"subscribe","topic":"on:1","ref":1}`)
	ann.raw(`{"type":"cursor","topic":"on:1","data":"canary"}`)
	ann.raw(`{"type":"group","group":"on:g","op":"create"}`)
	ann.try(`{"type":"group","group":"on:g","op":"join","ref":1}`)
	asks := []string{
		`{"type":"presence","topic":"on:1","op":"join","ref":N}`, `{"type":"presence","topic":"on:1","op":"sync","ref":N}`, `{"type":"presence","topic":"on:1","op":"list","ref":N}`,
		`{"type":"presence","topic":"on:1","op":"count","ref":N}`, `{"type":"subscribe","topic":"__presence:on:1","ref":N}`, `{"type":"subscribe","topic":"__cursor:on:1","ref":N}`,
		`{"type":"cursor-snapshot","topic":"on:1","ref":N}`, `{"type":"cursor","topic":"on:1","data":1,"ref":N}`, `{"type":"group","group":"on:g","op":"list","ref":N}`,
		`{"type":"group","group":"on:g","op":"join","ref":N}`, `{"type":"subscribe","topic":"__group:on:g","ref":N}`, `{"type":"subscribe","topic":"on:1","ref":N}`,
		`{"type":"subscribe","topic":"group:on:g","ref":N}`, `{"type":"subscribe","topic":"**","ref":N}`, `{"type":"history","topic":"**","ref":N}`,
	}
	told := func(sub string) (came []string) {
		p := w.dialBy(t, sub)
		for n, ask := range asks {
			p.raw(strings.Replace(ask, ":N", fmt.Sprintf(":%d", n+1), 1))
		}
		bob := w.dialBy(t, "bob") // who does something that others may see
		bob.raw(`{"type":"subscribe","topic":"on:1","ref":1}`)
		bob.hears(`"__cursor:on:1"`, `canary`)
		bob.try(`{"type":"group","group":"on:g","op":"join","ref":1}`)
		_ = bob.ws.CloseNow()
		p.raw(`{"type":"unsubscribe","topic":"x","ref":"end"}`)
		for text := ""; !strings.Contains(text, `"end"`); came = append(came, text) {
			text = p.text()
		}
		_ = p.ws.CloseNow()
		return came
	}
	for _, text := range told("eve") {
		for _, secret := range []string{"ann", "bob", "canary", `"__presence:on:1","event"`, `"__cursor:on:1","event"`, `"event":"members"`, `"count"`} {
			if strings.Contains(text, secret) {
				t.Errorf("eve is told %s", text)
			}
		}
	}
	for _, path := range []string{"/topics/on:1/presence", "/topics/on:1/presence?count", "/groups/on:g"} {
		if status, text := w.answer(t, "eve", "GET", path); status != http.StatusForbidden || strings.Contains(text, "ann") {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	if all := strings.Join(told("bob"), "\n"); !strings.Contains(all, "canary") || !strings.Contains(all, "presence_state") || !strings.Contains(all, "members") {
		t.Errorf("who may know is told %s", all)
	}
}
