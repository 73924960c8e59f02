package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pgcast/pgcast"
)

func ptr(n int64) *int64 { return &n }

func TestParse(t *testing.T) {
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	for _, c := range []struct {
		text string
		want Frame
	}{
		{`{"type":"hello"}`, Frame{Type: Hello}},
		{` {"type" : "hello" , "caps" : ["batch","reset"] , "token":"t"} ` + "\n", Frame{Type: Hello, Caps: []string{"batch", "reset"}, Token: "t"}},
		{`{"type":"hello","caps":[],"token":null}`, Frame{Type: Hello}},
		{`{"type":"subscribe","topic":"a"}`, Frame{Type: Subscribe, Topic: "a"}},
		{`{"type":"subscribe","topic":"a","ref":null,"after":null,"id":null}`, Frame{Type: Subscribe, Topic: "a"}},
		{`{"type":"subscribe","topic":"a","ref":"x","after":0}`, Frame{Type: Subscribe, Topic: "a", Ref: raw(`"x"`), After: ptr(0)}},
		{`{"ref":-1.5e3,"id":"2a-1","after":9223372036854775807,"topic":"a","type":"subscribe"}`,
			Frame{Type: Subscribe, Topic: "a", Ref: raw(`-1.5e3`), After: ptr(9223372036854775807), ID: "2a-1"}},
		{`{"type":"subscribe","topic":"a","snapshot":true,"filter":true}`, Frame{Type: Subscribe, Topic: "a", Snapshot: true, Filter: raw(`true`)}},
		{`{"type":"subscribe","topic":"a","snapshot":false,"after":3}`, Frame{Type: Subscribe, Topic: "a", After: ptr(3)}},
		{`{"type":"subscribe","topic":"a","snapshot":"1f.1\/7:9:7,8","after":3}`, Frame{Type: Subscribe, Topic: "a", After: ptr(3), AsOf: asOf("1f.1/7:9:7,8")}},
		{`{"type":"subscribe-batch","topics":[{"topic":"a","snapshot":true},{"topic":"b","after":0,"snapshot":"1f.1/7:7:"}]}`,
			Frame{Type: SubscribeBatch, Topics: []Place{{Topic: "a", Snapshot: true}, {Topic: "b", After: ptr(0), AsOf: asOf("1f.1/7:7:")}}}},
		{`{"type":"subscribe","topic":""}`, Frame{Type: Subscribe}}, // for CheckTopic to refuse
		{`{"type":"subscribe","topic":"\u0061\/\n"}`, Frame{Type: Subscribe, Topic: "a/\n"}},
		{`{"t\u0079pe":"subscribe","Topic":"B","topic":"a","x":{"topic":1}}`, Frame{Type: Subscribe, Topic: "a"}},
		{`{"type":"subscribe","topic":"a","data":[],"limit":"none"}`, Frame{Type: Subscribe, Topic: "a"}}, // not its members
		{`{"type":"subscribe-batch","topics":[],"ref":1}`, Frame{Type: SubscribeBatch, Ref: raw(`1`)}},
		{`{"type":"subscribe-batch","topics":["a",{"topic":"b","after":3},{"topic":"c","after":4,"id":"x","ref":{}}]}`,
			Frame{Type: SubscribeBatch, Topics: []Place{{Topic: "a"}, {Topic: "b", After: ptr(3)}, {Topic: "c", After: ptr(4), ID: "x"}}}},
		{`{"type":"unsubscribe","topic":"a"}`, Frame{Type: Unsubscribe, Topic: "a"}},
		{`{"type":"resume","sessionId":"s"}`, Frame{Type: Resume, SessionID: "s"}},
		{`{"type":"resume","sessionId":"s","lastSeenSeqs":{"a":41,"b\"":0,"c":null}}`,
			Frame{Type: Resume, SessionID: "s", LastSeenSeqs: map[string]pgcast.Seq{"a": 41, `b"`: 0}}},
		{`{"type":"publish","topic":"a","event":"e"}`, Frame{Type: Publish, Topic: "a", Event: "e"}},
		{`{"type":"publish","topic":"a","event":"e","data":null}`, Frame{Type: Publish, Topic: "a", Event: "e"}},
		{`{"type":"publish","topic":"a","event":"e","data":{"n": 1.0},"key":"k","ref":2}`,
			Frame{Type: Publish, Topic: "a", Event: "e", Data: raw(`{"n": 1.0}`), Key: "k", Ref: raw(`2`)}},
		{`{"type":"history","topic":"a","after":3,"limit":10,"ref":"r"}`, Frame{Type: History, Topic: "a", After: ptr(3), Limit: 10, Ref: raw(`"r"`)}},
		{`{"type":"history","topic":"a","limit":123456}`, Frame{Type: History, Topic: "a", Limit: MaxHistory}},
		{`{"type":"reply","ref":7,"data":1,"topic":{}}`, Frame{Type: Reply, Ref: raw(`7`)}},
		{`{"type":"chat","topic":{},"after":"later"}`, Frame{Type: "chat"}},
	} {
		got, err := Parse([]byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", c.text, d)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	many := strings.Repeat(`"a",`, MaxBatchTopics) + `"a"`
	deep := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	for _, c := range []struct {
		text, want, ref string
		code            pgcast.Code
	}{
		{text: ``, want: "not a JSON object"},
		{text: `[]`, want: "not a JSON object"},
		{text: `"type"`, want: "not a JSON object"},
		{text: "{\"type\":\"hello\xff\"}", want: "not UTF-8"},
		{text: `{}`, want: "no type"},
		{text: `{"type":""}`, want: "no type"},
		{text: `{"type":"subscribe","topic":"a","snapshot":true,"after":1}`, want: "a snapshot begins anew"},
		{text: `{"type":"subscribe","topic":"a","snapshot":1}`, want: "it must be true, or an asOf"},
		{text: `{"type":"subscribe","topic":"a","snapshot":"1.1/7:7:"}`, want: "without after"},
		{text: `{"type":"subscribe","topic":"a","after":1,"snapshot":"1.1/9:7:"}`, want: "not an asOf"},
		{text: `{"type":"subscribe","topic":"a","after":1,"snapshot":"` + strings.Repeat("1", pgcast.MaxAsOf+1) + `"}`, want: "4097 bytes long"},
		{text: `{"type":"subscribe-batch","topics":[{"topic":"a","after":1,"snapshot":""}]}`, want: "topics[0]: snapshot is \"\", which is not an asOf"},
		{text: `{"type":1,"ref":4}`, want: "type is 1; it must be a string", ref: `4`},
		{text: `{"TYPE":"hello"}`, want: "no type"},
		{text: `{"type":"hello"} {}`, want: "byte 17 is '{' where the end should be"},
		{text: `{"type":"hello",}`, want: "byte 16 is '}' where a member's name should be"},
		{text: `{"type":"hello"`, want: "it ends where ',' or '}' should be"},
		{text: `{"ref":3,"type":"hello","x":01}`, want: "byte 29 is '1'", ref: `3`},
		{text: `{"ref":3,"x":tru}`, want: "where true should be", ref: `3`},
		{text: `{"ref":3,"x":"\x"}`, want: "where an escape should be", ref: `3`},
		{text: `{"ref":3,"x":"\u12g4"}`, want: "where a hexadecimal digit should be", ref: `3`},
		{text: "{\"ref\":3,\"x\":\"a\nb\"}", want: `byte 15 is '\n' where a string's text should be`, ref: `3`},
		{text: `{"ref":3,"x":"`, want: "where the end of a string should be", ref: `3`},
		{text: `{"ref":3,"x":-}`, want: "where a digit should be", ref: `3`},
		{text: `{"ref":3,"x":1.}`, want: "where a digit should be", ref: `3`},
		{text: `{"ref":3,"x":[1 2]}`, want: "where ',' or ']' should be", ref: `3`},
		{text: `{"ref":3,"x":[1,]}`, want: "where a value should be", ref: `3`},
		{text: `{"ref":3,"x" 1}`, want: "where ':' should be", ref: `3`},
		{text: `{"ref":3,"x":` + deep + `}`, want: "nested too deep at byte 44", ref: `3`},
		{text: `{"ref":3,"x":[1e324,-1E-324,0.1e+0324,1e325]}`, want: "the exponent at byte 40 is beyond ±324", ref: `3`},
		{text: `{"ref":3,"x":1e-131071}`, want: "the exponent at byte 16 is beyond", ref: `3`},
		{text: `{"ref":3,"x":1e99999999999999999999}`, want: "the exponent at byte 15 is beyond", ref: `3`},
		{text: `{"type":"publish","topic":"a","event":"e","key":""}`, want: "key is empty; it must be 1 to 256 bytes"},
		{text: `{"type":"resume","sessionId":"s","lastSeenSeqs":{"a":1,"\u0061":1}}`, want: `lastSeenSeqs has "\u0061" twice`},
		{text: `{"type":"hello","type":"hello"}`, want: `has member "type" twice`},
		{text: `{"type":"hello","ref":[1]}`, want: "ref is [1]; it must be a number or a string"},
		{text: `{"type":"hello","ref":true}`, want: "ref is true; it must be"},
		{text: `{"type":"chat","ref":{}}`, want: "ref is {}; it must be"},
		{text: `{"type":"hello","ref":"` + strings.Repeat("x", 63) + `"}`, want: "ref is 65 bytes long, at most 64"},
		{text: `{"type":"hello","caps":"batch"}`, want: "caps is \"batch\"; it must be an array"},
		{text: `{"type":"hello","caps":[1]}`, want: "caps is 1; it must be a string"},
		{text: `{"type":"hello","caps":["` + strings.Repeat("x", 65) + `"]}`, want: "caps is 65 bytes long"},
		{text: `{"type":"hello","caps":[` + strings.Repeat(`"",`, 32) + `""]}`, want: "caps has more than 32 items"},
		{text: `{"type":"hello","token":5}`, want: "token must be a string"},
		{text: `{"type":"subscribe","ref":1}`, want: "topic is missing", ref: `1`},
		{text: `{"type":"subscribe","topic":["a"]}`, want: `topic is ["a"]; it must be a string`},
		{text: `{"type":"subscribe","topic":"a","after":-1,"ref":"q"}`, want: "after is -1; it must be a whole number", ref: `"q"`},
		{text: `{"type":"subscribe","topic":"a","after":4.1e1}`, want: "after is 4.1e1"},
		{text: `{"type":"subscribe","topic":"a","after":41.0}`, want: "after is 41.0"},
		{text: `{"type":"subscribe","topic":"a","after":"41"}`, want: `after is "41"`},
		{text: `{"type":"subscribe","topic":"a","after":9223372036854775808}`, want: "after is 9223372036854775808"},
		{text: `{"type":"subscribe","topic":"a","id":"x"}`, want: "id is there without after"},
		{text: `{"type":"subscribe","topic":"a","after":1,"id":"` + strings.Repeat("f", 65) + `"}`, want: "id is 65 bytes long"},
		{text: `{"type":"subscribe-batch","ref":1}`, want: "topics is missing", ref: `1`},
		{text: `{"type":"subscribe-batch","topics":{}}`, want: "topics is {}"},
		{text: `{"type":"subscribe-batch","topics":["a",null]}`, want: "topics[1]: the item is null; it must be a string"},
		{text: `{"type":"subscribe-batch","topics":["a",{}]}`, want: "topics[1]: topic is missing"},
		{text: `{"type":"subscribe-batch","topics":[{"topic":"a","after":1.5}]}`, want: "topics[0]: after is 1.5"},
		{text: `{"type":"subscribe-batch","topics":[{"topic":"a","topic":"b"}]}`, want: `topics[0]: it has member "topic" twice`},
		{text: `{"type":"subscribe-batch","topics":[` + many + `],"ref":9}`, want: "more than 256 items", ref: `9`, code: pgcast.CodeTooMany},
		{text: `{"type":"unsubscribe"}`, want: "topic is missing"},
		{text: `{"type":"resume","lastSeenSeqs":{}}`, want: "sessionId is missing"},
		{text: `{"type":"resume","sessionId":"` + strings.Repeat("x", 257) + `"}`, want: "sessionId is 257 bytes long"},
		{text: `{"type":"resume","sessionId":"s","lastSeenSeqs":[]}`, want: "lastSeenSeqs is []"},
		{text: `{"type":"resume","sessionId":"s","lastSeenSeqs":{"a":1,"b":-2}}`, want: `lastSeenSeqs has -2 at "b"`},
		{text: `{"type":"publish","topic":"a"}`, want: "event is missing"},
		{text: `{"type":"publish","event":"a"}`, want: "topic is missing"},
		{text: `{"type":"publish","topic":"a","event":"e","key":1}`, want: "key is 1"},
		{text: `{"type":"history","topic":"a","limit":0}`, want: "limit is 0"},
		{text: `{"type":"history","topic":"a","limit":-1}`, want: "limit is -1"},
		{text: `{"type":"history"}`, want: "topic is missing"},
	} {
		f, err := Parse([]byte(c.text))
		var e *pgcast.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: error %v, want a *pgcast.Error", c.text, err)
			continue
		}
		if c.code == "" {
			c.code = pgcast.CodeBadFrame
		}
		if e.Code != c.code || !strings.Contains(e.Message, c.want) {
			t.Errorf("%s: error %s: %q, want %s with %q", c.text, e.Code, e.Message, c.code, c.want)
		}
		if string(f.Ref) != c.ref {
			t.Errorf("%s: ref %s, want %s", c.text, f.Ref, c.ref)
		}
	}
}

func TestParseDepth(t *testing.T) {
	nested := func(n int) string {
		// The frame itself is the first level.
		return `{"type":"publish","topic":"a","event":"e","data":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}`
	}
	if _, err := Parse([]byte(nested(MaxDepth))); err != nil {
		t.Errorf("%d levels: %v", MaxDepth, err)
	}
	if _, err := Parse([]byte(nested(MaxDepth + 1))); err == nil {
		t.Errorf("%d levels were accepted", MaxDepth+1)
	}
	// What lies beside each other is not nested.
	beside := `{"type":"publish","topic":"a","event":"e","data":[` + strings.Repeat(`[{}],`, 100) + `{}]}`
	if _, err := Parse([]byte(beside)); err != nil {
		t.Errorf("siblings: %v", err)
	}
}

// TestAppendFrame checks that what the client writes the server reads.
func TestAppendFrame(t *testing.T) {
	for _, f := range []Frame{
		{Type: Hello, Caps: []string{"batch", "reset"}, Token: `a"b`},
		{Type: Hello},
		{Type: Subscribe, Topic: "a", Ref: json.RawMessage(`1`)},
		{Type: Subscribe, Topic: "a", After: ptr(0), Filter: json.RawMessage(`{"a":1}`)},
		{Type: Subscribe, Topic: "room:*", After: ptr(7), ID: "1f-2"},
		{Type: Subscribe, Topic: "a", Snapshot: true},
		{Type: Subscribe, Topic: "a", After: ptr(7), ID: "1f-2", AsOf: asOf("1f.1/7:12:8,9")},
		{Type: SubscribeBatch, Topics: []Place{{Topic: "a", Snapshot: true}, {Topic: "b", After: ptr(0), AsOf: asOf("1f.1/7:7:")}}},
		{Type: SubscribeBatch, Topics: []Place{{Topic: "a"}, {Topic: "b", After: ptr(0)}, {Topic: "c", After: ptr(9), ID: "1-1"}}},
		{Type: Unsubscribe, Topic: "a", Ref: json.RawMessage(`"x"`)},
		{Type: Resume, SessionID: "s", LastSeenSeqs: map[string]pgcast.Seq{"a": 1, "b": 2}},
		{Type: Publish, Topic: "a", Event: "e", Data: json.RawMessage(`{"a":[1,2]}`), Key: "k"},
		{Type: Publish, Topic: "a", Event: "e"},
		{Type: History, Topic: "a", After: ptr(5), Limit: 3},
		{Type: History, Topic: "a"},
		{Type: "chat"},
	} {
		text := AppendFrame(nil, &f)
		got, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if d := cmp.Diff(f, got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", text, d)
		}
	}
}

// FuzzParse checks the scanner against encoding/json: it accepts nothing that is not
// JSON, and of what is a JSON object it refuses for its syntax only what is too deep,
// has a member twice or a number that is too large.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"type":"subscribe","topic":"a","ref":1,"after":41,"id":"1-1"}`))
	f.Add([]byte(`{"type":"subscribe-batch","topics":["a",{"topic":"b","after":0}],"ref":"\u0041"}`))
	f.Add([]byte(`{"type":"auth","token":"a.b.c","ref":1}`))
	f.Add([]byte(`{"type":"resume","sessionId":"s","lastSeenSeqs":{"a":41}}`))
	f.Add([]byte(`{"type":"subscribe","topic":"a","snapshot":true}`))
	f.Add([]byte(`{"type":"subscribe","topic":"a","after":1,"snapshot":"1f.1/7:9:7,8"}`))
	f.Add([]byte(`{"type":"subscribe-batch","topics":[{"topic":"a","snapshot":true},{"topic":"b","after":1,"snapshot":"1.1/1:1:"}]}`))
	f.Add([]byte(`{"type":"publish","topic":"a","event":"e","data":{"a":[1.5e-3,true,null,"\ud83d\ude00"]}}`))
	f.Add([]byte(`{"type":"resume","sessionId":"s"}`))
	f.Add([]byte(`{"type":"publish","topic":"a","event":"e","data":1e325,"ref":0e-0324}`))
	f.Add([]byte(`{"ref":9,"type":"history","topic":"a","limit":5,`))
	f.Fuzz(func(t *testing.T, text []byte) {
		frame, err := Parse(text)
		if frame.Ref != nil && !json.Valid(frame.Ref) {
			t.Fatalf("ref %q is not JSON", frame.Ref)
		}
		if err != nil {
			var e *pgcast.Error
			if !errors.As(err, &e) || e.Message == "" {
				t.Fatalf("error %v is not a *pgcast.Error", err)
			}
			syntax := strings.Contains(e.Message, "cannot be read") &&
				!strings.Contains(e.Message, "nested too deep") && !strings.Contains(e.Message, "twice") &&
				!strings.Contains(e.Message, "the exponent")
			if syntax && json.Valid(text) {
				t.Fatalf("%q is JSON and was refused: %v", text, err)
			}
			return
		}
		if !json.Valid(text) {
			t.Fatalf("%q is not JSON and was accepted", text)
		}
		// What was understood, written again, is understood in the same way.
		again, err := Parse(AppendFrame(nil, &frame))
		if err != nil {
			t.Fatalf("%q was written as %q: %v", text, AppendFrame(nil, &frame), err)
		}
		if !served(frame.Type) {
			return
		}
		if d := cmp.Diff(frame, again, cmp.Comparer(sameJSON)); d != "" {
			t.Fatalf("%q: (-first +again)\n%s", text, d)
		}
	})
}

func served(t Type) bool {
	switch t {
	case Hello, Subscribe, SubscribeBatch, Unsubscribe, Resume, Publish, History:
		return true
	}
	return false
}

// sameJSON compares what appendJSON may have made one line of.
func sameJSON(a, b json.RawMessage) bool {
	return string(appendJSON(nil, a)) == string(appendJSON(nil, b))
}

func BenchmarkParse(b *testing.B) {
	var batch []string
	for i := range 200 {
		batch = append(batch, fmt.Sprintf(`{"topic":"room:%d","after":%d,"id":"1f4-5d2c"}`, i, i*7))
	}
	for name, text := range map[string]string{
		"subscribe":       `{"type":"subscribe","topic":"room:1","ref":1,"after":41,"id":"2a-64d2c5b1a0f3e"}`,
		"subscribe-batch": `{"type":"subscribe-batch","topics":[` + strings.Join(batch, ",") + `],"ref":1}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse([]byte(text)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
