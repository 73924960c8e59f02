package wire

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pgcast/pgcast"
	"pgregory.net/rapid"
)

func TestAppendEventBody(t *testing.T) {
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	for _, c := range []struct {
		name string
		e    pgcast.Event
		want string
	}{
		{"created", pgcast.Event{Topic: "room:1", Name: "created", Data: raw(`{"id":1}`), Seq: 42, Position: 99, ID: "2a-1"},
			`{"topic":"room:1","event":"created","data":{"id":1},"seq":42,"id":"2a-1"`},
		{"updated", pgcast.Event{Topic: "room:1", Name: "updated", Data: raw(`{"id":2}`), Old: raw(`{"id":1}`), Seq: 43, ID: "2b-1"},
			`{"topic":"room:1","event":"updated","data":{"id":2},"seq":43,"id":"2b-1","old":{"id":1}`},
		{"deleted has its key in data too", pgcast.Event{Topic: "room:1", Name: "deleted", Old: raw(`{"id":1}`), Seq: 44, ID: "2c-1"},
			`{"topic":"room:1","event":"deleted","data":{"id":1},"seq":44,"id":"2c-1","old":{"id":1}`},
		{"deleted with data keeps it", pgcast.Event{Topic: "room:1", Name: "deleted", Data: raw(`7`), Old: raw(`{"id":1}`), Seq: 44, ID: "2c-1"},
			`{"topic":"room:1","event":"deleted","data":7,"seq":44,"id":"2c-1","old":{"id":1}`},
		{"deleted without anything", pgcast.Event{Topic: "room:1", Name: "deleted", Seq: 44, ID: "2c-1"},
			`{"topic":"room:1","event":"deleted","data":null,"seq":44,"id":"2c-1"`},
		{"no data", pgcast.Event{Topic: "t", Name: "truncated", Seq: 1, ID: "1-1"},
			`{"topic":"t","event":"truncated","data":null,"seq":1,"id":"1-1"`},
		{"oversize", pgcast.Event{Topic: "t", Name: "deleted", Data: raw(`{}`), Old: raw(`{}`), Seq: 1, ID: "1-1", Oversize: true},
			`{"topic":"t","event":"deleted","seq":1,"id":"1-1","oversize":true`},
		{"the server's own", pgcast.Event{Topic: "__system", Name: "degraded", Data: raw(`{}`)},
			`{"topic":"__system","event":"degraded","data":{}`},
		{"one line", pgcast.Event{Topic: "t", Name: "e", Data: raw("{\r\n  \"a\": \"x\\ny\",\n\"b\": 1\n}"), Old: raw("[\n]"), Seq: 1, ID: "1-1"},
			`{"topic":"t","event":"e","data":{    "a": "x\ny", "b": 1 },"seq":1,"id":"1-1","old":[ ]`},
		{"escapes", pgcast.Event{Topic: "a\"b\\", Name: "\x00\x1f\n\r\té\xff😀", Seq: 1, ID: "1-1"},
			`{"topic":"a\"b\\","event":"\u0000\u001f\n\r\té` + "\uFFFD" + `😀","data":null,"seq":1,"id":"1-1"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := string(c.e.Data)
			got := string(AppendEventBody(nil, c.e))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if string(c.e.Data) != before {
				t.Error("the event's own data was changed")
			}
			if closed := got + "}"; !json.Valid([]byte(closed)) || strings.ContainsAny(closed, "\r\n") {
				t.Errorf("%s is not one line of JSON", closed)
			}
		})
	}
}

func TestDeletedIsNotTooLong(t *testing.T) {
	old := json.RawMessage(`"` + strings.Repeat("x", 999_998) + `"`)
	text := AppendEventEnd(AppendEventBody(nil, pgcast.Event{Topic: strings.Repeat("t", 256), Name: pgcast.Deleted, Old: old, Seq: 1, ID: "1-1"}), 1)
	if len(text) > MaxServerFrame {
		t.Errorf("the frame has %d bytes, more than clients read", len(text))
	}
	f, err := ParseServer(text)
	if err != nil || string(f.Events[0].Data) != string(old) {
		t.Errorf("the old row is not in data (%v)", err)
	}
}

func TestAppendEventEnd(t *testing.T) {
	for position, want := range map[pgcast.Position]string{0: `x}`, 7: `x,"position":7}`} {
		if got := string(AppendEventEnd([]byte("x"), position)); got != want {
			t.Errorf("position %d: %s, want %s", position, got, want)
		}
	}
}

// TestAppendString checks the escaping against encoding/json.
func TestAppendString(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "s")
		text := appendString(nil, s)
		if !utf8.Valid(text) {
			t.Fatalf("%q is not UTF-8", text)
		}
		var got string
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if want := strings.ToValidUTF8(s, "\uFFFD"); utf8.ValidString(s) && got != want {
			t.Fatalf("%q became %q", s, got)
		}
	})
}

// TestEventsComeBack checks that the client reads the events that the server wrote.
func TestEventsComeBack(t *testing.T) {
	name := rapid.StringMatching(`[ -!#-\[\]-~]{1,40}`)
	data := rapid.SampledFrom([]string{``, `{"id":1}`, `[1,2]`, `"x\ny"`, `0`, `{"a":{"b":null}}`})
	event := rapid.Custom(func(t *rapid.T) pgcast.Event {
		e := pgcast.Event{
			Topic:    name.Draw(t, "topic"),
			Name:     name.Draw(t, "name"),
			Data:     json.RawMessage(data.Draw(t, "data")),
			Old:      json.RawMessage(data.Draw(t, "old")),
			Seq:      pgcast.Seq(rapid.Int64Min(1).Draw(t, "seq")),
			Position: pgcast.Position(rapid.Int64Min(1).Draw(t, "position")),
			ID:       "2a-64d2c5b1a0f3e",
			Oversize: rapid.Bool().Draw(t, "oversize"),
		}
		if e.Oversize {
			e.Data, e.Old = nil, nil
		}
		return e
	})
	rapid.Check(t, func(t *rapid.T) {
		events := rapid.SliceOfN(event, 1, 5).Draw(t, "events")
		batch := []byte(BatchOpen)
		for i, e := range events {
			if i > 0 {
				batch = append(batch, ',')
			}
			batch = AppendEventEnd(AppendEventBody(batch, e), e.Position)
		}
		batch = append(batch, BatchClose...)
		for _, text := range [][]byte{batch, AppendHistory(nil, json.RawMessage(`1`), "**", events, 1, 2, 0)} {
			f, err := ParseServer(text)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			want := append([]pgcast.Event(nil), events...)
			for i := range want {
				if want[i].Name == pgcast.Deleted && len(want[i].Data) == 0 {
					want[i].Data = want[i].Old
				}
			}
			if d := cmp.Diff(want, f.Events, cmpopts.EquateEmpty()); d != "" {
				t.Fatalf("(-want +got)\n%s", d)
			}
		}
	})
}

func TestParseServerRefuses(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`[]`, "not a JSON object"},
		{"{\"topic\":\"\xff\"}", "not UTF-8"},
		{`{"topic":"a","event":"e"}}`, "where the end should be"},
		{`{"topic":"a","topic":"a"}`, "twice"},
		{`{"topic":"a"}`, "event is missing"},
		{`{"event":"a"}`, "topic is missing"},
		{`{"topic":"a","event":"e","seq":"1"}`, `seq is "1"`},
		{`{"topic":"a","event":"e","oversize":1}`, "oversize is 1"},
		{`{"type":"batch"}`, "events is missing"},
		{`{"type":"batch","events":[1]}`, "events[0]: it is 1"},
		{`{"type":"batch","events":[{"topic":"a","event":"e"},{"topic":"a"}]}`, "event is missing"},
		{`{"type":"batch","events":[{"topic":"a","topic":"b"}]}`, "events[0]: it has member"},
		{`{"type":"welcome"}`, "sessionId is missing"},
		{`{"type":"subscribed","topic":"a"}`, "seq is missing"},
		{`{"type":"gap","topic":"a","after":1,"tail":2}`, "head is missing"},
		{`{"type":"published","ref":1}`, "id is missing"},
		{`{"type":"error","message":"m"}`, "code is missing"},
	} {
		if _, err := ParseServer([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.text, err, c.want)
		}
	}
	if f, err := ParseServer([]byte(`{"type":"later","seq":{}}`)); err != nil || f.Type != "later" {
		t.Errorf("an unknown type gave %+v, %v", f, err)
	}
}

func FuzzParseServer(f *testing.F) {
	f.Add([]byte(`{"topic":"a","event":"e","data":{"x":1},"seq":1,"id":"1-1","old":{},"position":3}`))
	f.Add([]byte(`{"type":"batch","events":[{"topic":"a","event":"e","data":null,"seq":1,"id":"1-1"}]}`))
	f.Add([]byte(`{"type":"history","ref":1,"topic":"a","events":[],"tail":1,"head":0}`))
	f.Add([]byte(`{"type":"snapshot","topic":"a","table":"s.t","rows":[{"a":1}],"more":true}`))
	f.Add([]byte(`{"type":"snapshot","topic":"a","oversize":[null],"seq":1,"asOf":"1.1/1:1:"}`))
	f.Add([]byte(`{"type":"gap","topic":"a","after":1,"tail":5,"head":9}`))
	f.Add([]byte(`{"type":"error","ref":"r","code":"bad_frame","message":"m"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		frame, err := ParseServer(text)
		if err == nil && !json.Valid(text) {
			t.Fatalf("%q is not JSON and was accepted", text)
		}
		if err != nil {
			return
		}
		for _, e := range frame.Events {
			got := AppendEventEnd(AppendEventBody(nil, e), e.Position)
			if !json.Valid(got) {
				t.Fatalf("%q was written as %q", text, got)
			}
		}
	})
}

var benchEvent = pgcast.Event{
	Topic: "room:1234", Name: pgcast.Created, Seq: 4217, Position: 991_205, ID: "1e240-64d2c5b1a0f3e",
	Data: json.RawMessage(`{"id":123456,"room_id":1234,"author":"someone","body":"` + strings.Repeat("text ", 30) + `","created_at":"2026-01-02T03:04:05.678901+00:00"}`),
}

func TestAppendersDoNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 4096)
	ref := json.RawMessage(`1`)
	for name, f := range map[string]func(){
		"event":      func() { AppendEventEnd(AppendEventBody(buf, benchEvent), 7) },
		"subscribed": func() { AppendSubscribed(buf, "room:1", ref, 41) },
		"gap":        func() { AppendGap(buf, "room:1", 1, 5, 9) },
		"error":      func() { AppendError(buf, ref, pgcast.CodeBadFrame, "bad \"frame\"", 0) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkAppendEventBody(b *testing.B) {
	buf := make([]byte, 0, 4096)
	b.SetBytes(int64(len(AppendEventBody(nil, benchEvent))))
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendEventBody(buf[:0], benchEvent)
	}
}

func BenchmarkParseServer(b *testing.B) {
	text := AppendEventEnd(AppendEventBody(nil, benchEvent), 7)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseServer(text); err != nil {
			b.Fatal(err)
		}
	}
}
