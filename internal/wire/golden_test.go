package wire

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pgcast/pgcast"
)

const doc = "../../docs/protocol.md"

var (
	msgCreated = pgcast.Event{Topic: "room:1", Name: pgcast.Created, Seq: 42, ID: "2a-64d2c5b1a0f3e",
		Data: json.RawMessage(`{"id":7,"room_id":1,"body":"hello"}`)}
	msgTyping = pgcast.Event{Topic: "room:1", Name: "typing", Seq: 41, ID: "29-64d2c5b18fbcd", Data: json.RawMessage(`{"by":1}`)}
	oldKey    = json.RawMessage(`{"id":7}`)
)

const sampleSession = "7DGX4QK2YPLNQ6WZ3VJ5A.7423950021478312.1"

// sampleToken is that of RFC 7515, A.1, shortened.
const sampleToken = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"

// clientSamples are what the server has to read in the doc's client frames.
var clientSamples = map[string]Frame{
	"client/hello":       {Type: Hello, Caps: []string{CapBatch, CapReset}},
	"client/hello-token": {Type: Hello, Caps: []string{CapBatch, CapReset}, Token: sampleToken},
	"client/auth":        {Type: Auth, Ref: json.RawMessage(`16`), Token: sampleToken},
	"client/subscribe":   {Type: Subscribe, Topic: "room:1", Ref: json.RawMessage(`1`)},
	"client/subscribe-after": {Type: Subscribe, Topic: "room:1", After: ptr(41), ID: "29-64d2c5b18fbcd",
		Ref: json.RawMessage(`2`)},
	"client/subscribe-pattern": {Type: Subscribe, Topic: "room:*", After: ptr(1048), ID: "29-64d2c5b18fbcd",
		Ref: json.RawMessage(`"all rooms"`)},
	"client/subscribe-snapshot": {Type: Subscribe, Topic: "room:1", Ref: json.RawMessage(`14`), Snapshot: true},
	"client/subscribe-as-of": {Type: Subscribe, Topic: "room:1", After: ptr(43), ID: "2b-64d2c5b1b1177", Ref: json.RawMessage(`15`),
		AsOf: asOf("1a5f7d6d8d5e5b32.1/748:751:748,750")},
	"client/subscribe-batch": {Type: SubscribeBatch, Ref: json.RawMessage(`3`), Topics: []Place{
		{Topic: "room:1"}, {Topic: "room:2", After: ptr(5), ID: "31-64d2c5b219405"}, {Topic: "board:*", After: ptr(0)}}},
	"client/subscribe-filter":        {Type: Subscribe, Topic: "room:1", Ref: json.RawMessage(`16`), Snapshot: true, Filter: json.RawMessage(`"author = 'ann' and not draft = true"`)},
	"client/subscribe-filter-object": {Type: SubscribeBatch, Ref: json.RawMessage(`17`), Topics: []Place{{Topic: "room:2", Filter: json.RawMessage(`{"author":"ann"}`)}}},
	"client/history-filter":          {Type: History, Topic: "room:1", After: ptr(40), Ref: json.RawMessage(`18`), Filter: json.RawMessage(`"author = 'ann'"`)},
	"client/unsubscribe":             {Type: Unsubscribe, Topic: "room:1", Ref: json.RawMessage(`4`)},
	"client/resume":                  {Type: Resume, SessionID: sampleSession, LastSeenSeqs: map[string]pgcast.Seq{"room:1": 41}},
	"client/publish": {Type: Publish, Topic: "room:1", Event: "typing", Data: json.RawMessage(`{"by":1}`), Key: "5f0c9a4e",
		Ref: json.RawMessage(`5`)},
	"client/replay":  {Type: Replay, Topic: "room:1", After: ptr(40), ReqID: json.RawMessage(`1`)},
	"client/history": {Type: History, Topic: "room:1", After: ptr(40), Limit: 2, Ref: json.RawMessage(`6`)},
}

// serverSamples are what the server has to write, and the client to read, for the
// doc's server frames.
var serverSamples = map[string]struct {
	text []byte
	want ServerFrame
}{
	"server/event-created": event(msgCreated),
	"server/replay-msg": {
		AppendReplayed(nil, "room:1", json.RawMessage(`1`), AppendEventEnd(AppendEventBody(nil, msgTyping), 0)),
		ServerFrame{Events: []pgcast.Event{{Topic: "__replay:room:1", Name: "msg",
			Data: json.RawMessage(`{"reqId":1,"topic":"room:1","event":"typing","data":{"by":1},"seq":41,"id":"29-64d2c5b18fbcd"}`)}}},
	},
	"server/replay-end": {AppendReplayEnd(nil, "room:1", json.RawMessage(`1`), true),
		ServerFrame{Events: []pgcast.Event{{Topic: "__replay:room:1", Name: "end", Data: json.RawMessage(`{"reqId":1,"truncated":true}`)}}}},
	"server/event-updated": event(pgcast.Event{Topic: "room:1", Name: pgcast.Updated, Seq: 43, ID: "2b-64d2c5b1b1177",
		Data: json.RawMessage(`{"id":7,"room_id":1,"body":"hello!"}`), Old: oldKey}),
	"server/event-deleted": {
		AppendEventEnd(AppendEventBody(nil, pgcast.Event{Topic: "room:1", Name: pgcast.Deleted, Seq: 44, ID: "2c-64d2c5b1c23d0", Old: oldKey}), 0),
		ServerFrame{Events: []pgcast.Event{{Topic: "room:1", Name: pgcast.Deleted, Seq: 44, ID: "2c-64d2c5b1c23d0", Data: oldKey, Old: oldKey}}},
	},
	"server/event-truncated": event(pgcast.Event{Topic: "room:1", Name: pgcast.Truncated, Seq: 45, ID: "2d-64d2c5b1d3a41"}),
	"server/event-oversize":  event(pgcast.Event{Topic: "room:1", Name: pgcast.Created, Seq: 46, ID: "2e-64d2c5b1e50b2", Oversize: true}),
	"server/event-position": event(pgcast.Event{Topic: "room:1", Name: "typing", Seq: 47, ID: "2f-64d2c5b1f6723", Position: 1049,
		Data: json.RawMessage(`{"by":1}`)}),
	"server/batch": batch(
		pgcast.Event{Topic: "room:1", Name: "typing", Seq: 48, ID: "30-64d2c5b207d94", Data: json.RawMessage(`{"by":2}`)},
		pgcast.Event{Topic: "room:2", Name: "typing", Seq: 5, ID: "31-64d2c5b219405", Data: json.RawMessage(`{"by":2}`)}),
	"server/welcome": {AppendWelcome(nil, sampleSession), ServerFrame{Type: Welcome, SessionID: sampleSession}},
	"server/subscribed": {AppendSubscribed(nil, "room:1", json.RawMessage(`2`), 41),
		ServerFrame{Type: Subscribed, Topic: "room:1", Ref: json.RawMessage(`2`), Seq: 41}},
	"server/subscribed-pattern": {AppendSubscribed(nil, "room:*", json.RawMessage(`"all rooms"`), 1048),
		ServerFrame{Type: Subscribed, Topic: "room:*", Ref: json.RawMessage(`"all rooms"`), Seq: 1048}},
	"server/subscribe-denied": {AppendDenied(nil, "__private", json.RawMessage(`7`), ReasonInvalidTopic),
		ServerFrame{Type: SubscribeDenied, Topic: "__private", Ref: json.RawMessage(`7`), Reason: ReasonInvalidTopic}},
	"server/unsubscribed": {AppendUnsubscribed(nil, "room:1", json.RawMessage(`4`)),
		ServerFrame{Type: Unsubscribed, Topic: "room:1", Ref: json.RawMessage(`4`)}},
	"server/resumed": {AppendResumed(nil), ServerFrame{Type: Resumed}},
	"server/gap":     {AppendGap(nil, "room:1", 41, 120, 240), ServerFrame{Type: Gap, Topic: "room:1", After: 41, Tail: 120, Head: 240}},
	"server/reset":   {AppendReset(nil, "room:1", 17), ServerFrame{Type: Reset, Topic: "room:1", Head: 17}},
	"server/snapshot-more": {snapshot("public.messages", "rows", nil, `{"id":6,"room_id":1,"body":"hi"}`, `{"id":7,"room_id":1,"body":"hello"}`),
		ServerFrame{Type: Snapshot, Topic: "room:1", Table: "public.messages", More: true,
			Rows: []json.RawMessage{json.RawMessage(`{"id":6,"room_id":1,"body":"hi"}`), json.RawMessage(`{"id":7,"room_id":1,"body":"hello"}`)}}},
	"server/snapshot-oversize": {snapshot("public.messages", "oversize", nil, `{"id":8}`),
		ServerFrame{Type: Snapshot, Topic: "room:1", Table: "public.messages", More: true, Oversize: []json.RawMessage{json.RawMessage(`{"id":8}`)}}},
	"server/snapshot-last": {snapshot("public.messages", "rows", &pgcast.Snapshot{Seq: 42, AsOf: asOf("1a5f7d6d8d5e5b32.1/748:751:748,750")}, `{"id":9,"room_id":1,"body":"hey"}`),
		ServerFrame{Type: Snapshot, Topic: "room:1", Table: "public.messages", Seq: 42, AsOf: "1a5f7d6d8d5e5b32.1/748:751:748,750",
			Rows: []json.RawMessage{json.RawMessage(`{"id":9,"room_id":1,"body":"hey"}`)}}},
	"server/snapshot-events": {snapshot("", "events", &pgcast.Snapshot{Seq: 42}, string(AppendEventEnd(AppendEventBody(nil, msgTyping), 0))),
		ServerFrame{Type: Snapshot, Topic: "room:1", Events: []pgcast.Event{msgTyping}, Seq: 42}},
	"server/history": {AppendHistory(nil, json.RawMessage(`6`), "room:1", []pgcast.Event{msgTyping, msgCreated}, 1, 47, 0),
		ServerFrame{Type: History, Ref: json.RawMessage(`6`), Topic: "room:1", Events: []pgcast.Event{msgTyping, msgCreated}, Tail: 1, Head: 47}},
	"server/history-filter": {AppendHistory(nil, json.RawMessage(`18`), "room:1", nil, 1, 247, 140),
		ServerFrame{Type: History, Ref: json.RawMessage(`18`), Topic: "room:1", Events: []pgcast.Event{}, Tail: 1, Head: 247, Next: 140}},
	"server/event-entered": event(pgcast.Event{Topic: "room:1", Name: "entered", Seq: 49, ID: "32-64d2c5b22aa76",
		Data: json.RawMessage(`{"id":7,"author":"ann","draft":false}`), Old: json.RawMessage(`{"id":7,"author":"ann","draft":true}`)}),
	"server/event-gone": event(pgcast.Event{Topic: "room:1", Name: "gone", Seq: 53, ID: "36-64d2c5b270c02", Old: oldKey}),
	"server/published": {AppendPublished(nil, json.RawMessage(`5`), "2f-64d2c5b1f6723"),
		ServerFrame{Type: Published, Ref: json.RawMessage(`5`), ID: "2f-64d2c5b1f6723"}},
	"server/error": {
		AppendError(nil, json.RawMessage(`8`), pgcast.CodeBadFrame, `after is "41"; it must be a whole number, 0 or more, in plain digits`, 0),
		ServerFrame{Type: Error, Ref: json.RawMessage(`8`), Code: pgcast.CodeBadFrame,
			Message: `after is "41"; it must be a whole number, 0 or more, in plain digits`},
	},
	"server/authenticated": {AppendAuthenticated(nil, json.RawMessage(`16`), 900_000),
		ServerFrame{Type: Authenticated, Ref: json.RawMessage(`16`), ExpiresIn: ptr(900_000)}},
	"server/authenticated-for-ever": {AppendAuthenticated(nil, nil, -1), ServerFrame{Type: Authenticated}},
	"server/token-expiring":         {AppendTokenExpiring(nil, 30_000), ServerFrame{Type: TokenExpiring, ExpiresIn: ptr(30_000)}},
	"server/hb":                     {[]byte(Heartbeat), ServerFrame{Type: HB}},
}

func snapshot(table, list string, last *pgcast.Snapshot, items ...string) []byte {
	b := AppendSnapshotOpen(nil, "room:1", table, list)
	for i, item := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendRow(b, []byte(item))
	}
	return AppendSnapshotClose(b, last)
}

func asOf(text string) pgcast.AsOf {
	a, err := pgcast.ParseAsOf(text)
	if err != nil {
		panic(err)
	}
	return a
}

func event(e pgcast.Event) (s struct {
	text []byte
	want ServerFrame
}) {
	s.text = AppendEventEnd(AppendEventBody(nil, e), e.Position)
	s.want.Events = []pgcast.Event{e}
	return s
}

func batch(events ...pgcast.Event) (s struct {
	text []byte
	want ServerFrame
}) {
	s.text = append(s.text, BatchOpen...)
	for i, e := range events {
		if i > 0 {
			s.text = append(s.text, ',')
		}
		s.text = AppendEventEnd(AppendEventBody(s.text, e), e.Position)
	}
	s.text = append(s.text, BatchClose...)
	s.want = ServerFrame{Type: Batch, Events: events}
	return s
}

func goldenFile(name string) string {
	return filepath.Join("testdata", strings.ReplaceAll(name, "/", "-")+".json")
}

// TestDocSamples checks that the doc, the golden files and the samples above are the
// same set, and that doc and files have the same text.
func TestDocSamples(t *testing.T) {
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Count(string(text), "```json\n")
	found := regexp.MustCompile("<!-- sample: (\\S+) -->\n```json\n((?s:.*?))```\n").FindAllStringSubmatch(string(text), -1)
	if blocks != len(found) {
		t.Errorf("%s has %d json blocks, %d of them are named samples", doc, blocks, len(found))
	}
	seen := map[string]bool{}
	for _, m := range found {
		name := m[1]
		if seen[name] {
			t.Errorf("sample %s stands twice in %s", name, doc)
		}
		seen[name] = true
		golden, err := os.ReadFile(goldenFile(name))
		if err != nil {
			t.Errorf("sample %s: %v", name, err)
		} else if d := cmp.Diff(string(golden), m[2]); d != "" {
			t.Errorf("sample %s: (-golden file +doc)\n%s", name, d)
		}
		_, client := clientSamples[name]
		_, server := serverSamples[name]
		if !client && !server {
			t.Errorf("sample %s is checked by no test", name)
		}
	}
	for name := range clientSamples {
		if !seen[name] {
			t.Errorf("sample %s is not in %s", name, doc)
		}
	}
	for name := range serverSamples {
		if !seen[name] {
			t.Errorf("sample %s is not in %s", name, doc)
		}
	}
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != len(seen) {
		t.Errorf("%d golden files for %d samples (%v)", len(files), len(seen), err)
	}
}

func golden(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(goldenFile(name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(text), "\n")
}

func TestClientSamples(t *testing.T) {
	for name, want := range clientSamples {
		t.Run(name, func(t *testing.T) {
			text := golden(t, name)
			got, err := Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("read: (-want +got)\n%s", d)
			}
			if d := cmp.Diff(text, string(AppendFrame(nil, &want))); d != "" {
				t.Errorf("written: (-golden +got)\n%s", d)
			}
		})
	}
}

func TestServerSamples(t *testing.T) {
	for name, s := range serverSamples {
		t.Run(name, func(t *testing.T) {
			text := golden(t, name)
			if d := cmp.Diff(text, string(s.text)); d != "" {
				t.Errorf("written: (-golden +got)\n%s", d)
			}
			got, err := ParseServer([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(s.want, got, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("read: (-want +got)\n%s", d)
			}
		})
	}
}
