package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// Every client frame of docs/protocol.md gets the answer it says.
func TestGoldenFrames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	answers := map[string][]wire.Type{
		"client-hello":                   nil,
		"client-subscribe":               {wire.Subscribed},
		"client-subscribe-after":         {wire.Subscribed, wire.Reset}, // there are no 41 events here
		"client-subscribe-pattern":       {wire.Subscribed, wire.Reset},
		"client-subscribe-batch":         {wire.Subscribed, wire.Subscribed, wire.Reset, wire.Subscribed},
		"client-subscribe-as-of":         {wire.Subscribed, wire.Reset}, // of another cluster
		"client-subscribe-snapshot":      {wire.Subscribed, wire.Snapshot},
		"client-subscribe-filter":        {wire.Subscribed, wire.Snapshot},
		"client-subscribe-filter-object": {wire.Subscribed},
		"client-history-filter":          {wire.History},
		"client-unsubscribe":             {wire.Unsubscribed},
		"client-resume":                  {wire.Resumed},
		"client-publish":                 {wire.Published},
		"client-history":                 {wire.History},
		"client-replay":                  {wire.Event}, // only the end: there are no 40 events here
		"client-hello-user":              nil,
		"client-hello-token":             nil, // which nobody asks for here
		"client-auth":                    {wire.Authenticated},
		// Live state this world does not serve.
		"client-presence-join":   {wire.Error},
		"client-presence-list":   {wire.Error},
		"client-cursor":          {wire.Error},
		"client-cursor-snapshot": {wire.Error},
		"client-group-join":      {wire.Error},
		"client-group-send":      {wire.Error},
	}
	files, err := filepath.Glob("../wire/testdata/client-*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			want, ok := answers[name]
			if !ok {
				t.Fatal("nobody has said what the answer to this sample is")
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var sent struct{ Ref json.RawMessage }
			if err := json.Unmarshal(text, &sent); err != nil {
				t.Fatal(err)
			}
			p := w.dial(t)
			p.raw(string(bytes.TrimSpace(text)))
			for _, kind := range want {
				f := p.want(kind)
				if kind != wire.Reset && kind != wire.Snapshot && !bytes.Equal(f.Ref, sent.Ref) {
					t.Errorf("%s has ref %s; want %s", kind, f.Ref, sent.Ref)
				}
			}
			p.quiet()
			w.sequenced(t) // what was published is no news to the next one
		})
	}
}

// What cannot be served is answered, with the ref where it could be read, and the
// session goes on.
func TestErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.dial(t)
	deep := strings.Repeat("[", wire.MaxDepth) + strings.Repeat("]", wire.MaxDepth)
	long := strings.Repeat("k", 257)
	for _, c := range []struct {
		send, ref string
		code      pgcast.Code
	}{
		{`nonsense`, "", pgcast.CodeBadFrame},
		{``, "", pgcast.CodeBadFrame},
		{`[]`, "", pgcast.CodeBadFrame},
		{`{"type":"subscribe","ref":1}`, "1", pgcast.CodeBadFrame},
		{`{"type":"subscribe","ref":1,"topic":"a","topic":"b"}`, "1", pgcast.CodeBadFrame},
		{`{"type":"subscribe","ref":"x","topic":"a","after":"41"}`, `"x"`, pgcast.CodeBadFrame},
		{`{"type":"subscribe","ref":2,"topic":"a","id":"2a-1"}`, "2", pgcast.CodeBadFrame},
		{`{"type":"subscribe","ref":3,"topic":"a","snapshot":{}}`, "3", pgcast.CodeBadFrame},
		{`{"type":"history","ref":4,"topic":"a","filter":{"a":[1]}}`, "4", pgcast.CodeInvalid},
		{`{"type":"presence","ref":5,"topic":"a","op":"list"}`, "5", pgcast.CodeUnsupported},
		{`{"type":"presence","ref":5.1,"topic":"a"}`, "5.1", pgcast.CodeBadFrame},
		{`{"type":"` + strings.Repeat("t", 90) + `","ref":6}`, "6", pgcast.CodeUnsupported},
		{`{"type":"publish","ref":7,"topic":"a","event":"e","data":` + deep + `}`, "7", pgcast.CodeBadFrame},
		{`{"type":"publish","ref":8,"topic":"__a","event":"e"}`, "8", pgcast.CodeInvalidTopic},
		{`{"type":"publish","ref":9,"topic":"a:*","event":"e"}`, "9", pgcast.CodeInvalidTopic},
		{`{"type":"publish","ref":10,"topic":"a","event":""}`, "10", pgcast.CodeInvalidEvent},
		{`{"type":"publish","ref":11,"topic":"a","event":"é"}`, "11", pgcast.CodeInvalidEvent},
		{`{"type":"publish","ref":12,"topic":"a","event":"e","data":"\u0000"}`, "12", pgcast.CodeInvalidEvent},
		{`{"type":"publish","ref":13,"topic":"a","event":"e","data":"\ud800"}`, "13", pgcast.CodeInvalidEvent},
		{`{"type":"publish","ref":14,"topic":"a","event":"e","data":1e999999}`, "14", pgcast.CodeBadFrame},
		{`{"type":"publish","ref":14.1,"topic":"a","event":"e","data":` + strings.Repeat("9", 140_000) + `}`, "14.1", pgcast.CodeInvalidEvent},
		{`{"type":"publish","ref":15,"topic":"a","event":"e","key":"` + long + `"}`, "15", pgcast.CodeInvalidEvent},
		{`{"type":"history","ref":16,"topic":"a:**:b"}`, "16", pgcast.CodeInvalidTopic},
		{`{"type":"history","ref":17,"topic":"__a"}`, "17", pgcast.CodeInvalidTopic},
		{`{"type":"history","ref":18,"topic":"a","limit":0}`, "18", pgcast.CodeBadFrame},
		{`{"type":"resume","ref":19}`, "19", pgcast.CodeBadFrame},
		{`{"type":"resume","ref":20,"sessionId":"` + long + `"}`, "20", pgcast.CodeBadFrame},
		{`{"type":"subscribe-batch","ref":21,"topics":[` + strings.Repeat(`"a",`, 256) + `"a"]}`, "21", pgcast.CodeTooMany},
		{`{"type":"hello","ref":22,"caps":[` + strings.Repeat(`"a",`, 32) + `"a"]}`, "22", pgcast.CodeBadFrame},
	} {
		p.raw(c.send)
		f := p.want(wire.Error)
		if f.Code != c.code || string(f.Ref) != c.ref {
			t.Errorf("%.80s: error %s with ref %s (%s); want %s with ref %s", c.send, f.Code, f.Ref, f.Message, c.code, c.ref)
		}
	}
	p.quiet()
	if n := pgcast.Seq(w.counter(t, "published_total")); n != 0 {
		t.Errorf("%d events were published", n)
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.dial(t)
	p.subscribe("room:1", nil, "")
	p.raw(`{"type":"publish","ref":1,"topic":"room:1","event":"typing","data":{"by":1},"key":"k"}`)
	var first pgcast.ID
	var event pgcast.Event
	for first == "" || event.ID == "" { // either may come first
		if f := p.next(); f.Type == wire.Published {
			first = f.ID
		} else if f.Type == wire.Event {
			event = f.Events[0]
		}
	}
	if event.ID != first || event.Name != "typing" || string(event.Data) != `{"by": 1}` || event.Seq != 1 {
		t.Errorf("published %s, got %+v with data %s", first, event, event.Data)
	}
	// The same key again adds nothing.
	p.raw(`{"type":"publish","ref":"two","topic":"room:1","event":"typing","data":{"by":2},"key":"k"}`)
	if f := p.want(wire.Published); f.ID != first || string(f.Ref) != `"two"` {
		t.Errorf("published again: %+v; want id %s", f, first)
	}
	// Without data, and without ref.
	p.raw(`{"type":"publish","topic":"room:2","event":"e"}`)
	if f := p.want(wire.Published); f.Ref != nil || f.ID == first {
		t.Errorf("published: %+v", f)
	}
	w.sequenced(t)
	p.raw(`{"type":"history","ref":1,"topic":"room:2"}`)
	if f := p.want(wire.History); len(f.Events) != 1 || f.Events[0].Data != nil {
		t.Errorf("history: %+v", f)
	}
	if n := w.counter(t, "published_total"); n != 3 {
		t.Errorf("published_total is %v", n)
	}
}

// A batch of places is answered item by item, under one ref and in order.
func TestSubscribeBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.publish(t, "a", 3, 1)
	w.sequenced(t)
	p := w.dial(t)
	p.raw(`{"type":"subscribe-batch","ref":9,"topics":["a",{"topic":"b","after":0},"__c",{"topic":"a:*","after":1},{"topic":"d:**:e"}]}`)
	var got []string
	for range 5 {
		f := p.next()
		got = append(got, fmt.Sprint(f.Type, " ", f.Topic, " ", f.Seq, f.Reason, " ", string(f.Ref)))
	}
	want := []string{"subscribed a 3 9", "subscribed b 0 9", "subscribe-denied __c 0INVALID_TOPIC 9",
		"subscribed a:* 1 9", "subscribe-denied d:**:e 0INVALID_TOPIC 9"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("answers\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// As many as a batch may have.
	p.raw(`{"type":"subscribe-batch","topics":[` + strings.Repeat(`"a",`, 255) + `"a"]}`)
	for range 256 {
		p.want(wire.Subscribed)
	}
	p.quiet()
}

// A batch costs a few looks at the log, not one for each of its topics: where a look takes
// long, a client with many topics would never be served.
func TestBatchIsLookedUpAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.dial(t)
	var items []string
	for i := range 256 {
		items = append(items, fmt.Sprintf(`{"topic":"a:%d","after":0}`, i), fmt.Sprintf(`"b:%d"`, i))
	}
	before := w.counter(t, "log_reads_total")
	p.raw(`{"type":"subscribe-batch","topics":[` + strings.Join(items[:256], ",") + `]}`)
	p.raw(`{"type":"subscribe-batch","topics":[` + strings.Join(items[256:], ",") + `]}`)
	for i := range items {
		if f := p.want(wire.Subscribed); !strings.Contains(items[i], `"`+f.Topic+`"`) {
			t.Fatalf("answer %d is %+v; want %s", i, f, items[i])
		}
	}
	// The follower reads meanwhile.
	if n := w.counter(t, "log_reads_total") - before; n > 100 {
		t.Errorf("%v reads of the log for 512 topics", n)
	}
}

func TestUnsubscribe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.dial(t)
	p.subscribe("a", nil, "")
	p.subscribe("b", nil, "")
	p.raw(`{"type":"unsubscribe","topic":"a"}`) // without ref there is no answer
	p.quiet()
	w.publish(t, "a", 2, 1)
	w.publish(t, "b", 2, 1)
	p.stream("b", 1, 2)
	p.raw(`{"type":"unsubscribe","ref":4,"topic":"b"}`)
	if f := p.want(wire.Unsubscribed); f.Topic != "b" || string(f.Ref) != "4" {
		t.Errorf("unsubscribed: %+v", f)
	}
	p.raw(`{"type":"unsubscribe","ref":5,"topic":"never there"}`)
	p.want(wire.Unsubscribed)
	w.publish(t, "b", 2, 1)
	w.sequenced(t)
	p.quiet()
	await(t, "no subscription is left", func() bool { return w.counter(t, "subscriptions") == 0 })
}
