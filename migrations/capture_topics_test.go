package migrations_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// hashed is how a name that grew longer than a topic may be ends.
func hashed(name string) string {
	sum := sha256.Sum256([]byte(name))
	return name[:191] + "~" + hex.EncodeToString(sum[:])
}

func TestTopicTemplates(t *testing.T) {
	t.Parallel()
	tests := []struct{ template, values, want string }{
		{"room:{a}", `1, null, null`, "room:1"},
		{"room:{a}", `null, null, null`, "room:~null"},
		{"room:{t}", `null, 'a b', null`, "room:a%20b"},
		{"room:{t}", `null, 'A-Z_0.9', null`, "room:A-Z_0.9"},
		{"room:{t}", `null, '~null', null`, "room:%7Enull"},
		{"room:{t}", `null, '%20', null`, "room:%2520"},
		{"room:{t}", `null, '*', null`, "room:%2A"},
		{"room:{t}", `null, '', null`, "room:"},
		{"room:{t}", `null, 'é😀', null`, "room:%C3%A9%F0%9F%98%80"},
		{"room:{t}", `null, e'\n"\\:', null`, "room:%0A%22%5C%3A"},
		{"room:{t}:x", `null, repeat('a', 249), null`, "room:" + strings.Repeat("a", 249) + ":x"},
		{"room:{t}:x", `null, repeat('a', 250), null`, hashed("room:" + strings.Repeat("a", 250) + ":x")},
		{"room:{t}", `null, repeat('é', 50), null`, hashed("room:" + strings.Repeat("%C3%A9", 50))},
		{"{t}", `null, '', null`, "~empty"},
		{"{t}", `null, '__system', null`, "%5F_system"},
		{"{t}", `null, '_a', null`, "_a"},
		{"_{t}", `null, '_a', null`, "%5F_a"},
		{"_{t}", `null, 'a_', null`, "_a_"},
		{"{t}{a}", `2, '__', null`, "%5F_2"},
		{"{a}:{t}:{u}", `2, 'é', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'`, "2:%C3%A9:a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{"{a}/{Upper case}", `2, null, null, 'x y'`, "2/x%20y"},
		{"a:{a}}b{c}", `2, null, null, null, '5'`, "a:5"}, // the column's name is a}b{c
		{"{ts}", `2, null, null, null, null, '2026-01-02 03:04:05+00'`, "2026-01-02%2003%3A04%3A05%2B00"},
		{"{f}", `2, null, null, null, null, null, 1e300`, "1e%2B300"},
		{"{bo}", `2, null, null, null, null, null, null, true`, "true"},
	}
	conn := pgtest.New(t, nil).Conn(t)
	for _, tt := range tests {
		_, err := conn.Exec(t.Context(), fmt.Sprintf(`drop table if exists x;
			create table x (a int, t text collate "en-x-icu", u uuid, "Upper case" varchar, "a}b{c" text, ts timestamptz, f float8, bo bool, id int primary key default 1);
			select pgcast.attach('x', topic => '%s', columns => '{id}'); insert into x values (%s);
			select pgcast.refresh()`, tt.template, tt.values))
		if err != nil {
			t.Fatalf("%s of (%s): %v", tt.template, tt.values, err)
		}
		if diff := cmp.Diff([]string{tt.want + ` created {"id":1}`}, take(t, conn)); diff != "" {
			t.Errorf("%s of (%s) (-want +got):\n%s", tt.template, tt.values, diff)
		}
	}
}

// Whatever the values, the expansion is a topic's name, different values make different
// names, and TRUNCATE finds every name again.
func TestTopicProperty(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, nil).Conn(t)
	if _, err := conn.Exec(t.Context(), `create table x (a text, b text)`); err != nil {
		t.Fatal(err)
	}
	value := rapid.OneOf(rapid.StringMatching(`[_a:*~%{}é ]{0,4}`), rapid.StringMatching(`[_aé]{0,300}`))
	rapid.Check(t, func(rt *rapid.T) {
		template := rapid.SampledFrom([]string{"{a}", "_{a}", "a:{a}", "{a}:{b}", "_{a}:{b}:_", "x.{a}:y^[{b}]$(", "{a}{b}"}).Draw(rt, "template")
		seen := map[string]string{}
		batch := &pgx.Batch{}
		batch.Queue(`select set_config('client_min_messages', 'warning', false), pgcast.attach('x', topic => $1::text)`, template)
		batch.Queue(`truncate pgcast.event_log`)
		for range rapid.IntRange(1, 8).Draw(rt, "rows") {
			batch.Queue(`insert into x values ($1, $2)`, value.Draw(rt, "a"), value.Draw(rt, "b"))
		}
		batch.Queue(`truncate x`)
		if err := conn.SendBatch(t.Context(), batch).Close(); err != nil {
			rt.Fatal(err)
		}
		rows, err := conn.Query(t.Context(), `select topic, event, coalesce(data->>'a', '') || chr(1) || coalesce(data->>'b', '') from pgcast.event_log order by id`)
		if err != nil {
			rt.Fatal(err)
		}
		truncated := map[string]bool{}
		var topic, event, values string
		if _, err := pgx.ForEachRow(rows, []any{&topic, &event, &values}, func() error {
			if err := pgcast.CheckTopic(topic); err != nil {
				rt.Errorf("topic of %q: %v", values, err)
			}
			if event == "truncated" {
				truncated[topic] = true
				return nil
			}
			if strings.Contains(template, "}{") || !strings.Contains(template, "{b}") {
				values = "" // these templates do not tell all values apart
			}
			if other, ok := seen[topic]; ok && other != values {
				rt.Errorf("%q stands for %q and for %q", topic, other, values)
			}
			seen[topic] = values
			return nil
		}); err != nil {
			rt.Fatal(err)
		}
		if len(truncated) != len(seen) {
			rt.Errorf("truncate of %d topics reached %d", len(seen), len(truncated))
		}
	})
}

// TRUNCATE reaches sequenced topics and those the sequencer has not seen, and no others.
func TestTruncateTopics(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{sql: messages + `select pgcast.attach('messages', topic => 'room:{room_id}');
			insert into pgcast.topic (name) values ('room:7'), ('room:8:x'), ('roomy'), ('room:%41'), ('rop:1'), ('room:é')`},
		{`truncate messages`, []string{
			`room:%41 truncated {"schema":"public","table":"messages"}`,
			`room:7 truncated {"schema":"public","table":"messages"}`,
		}},
		{`select pgcast.publish('room:9', 'typing'); select pgcast.publish('rooms', 'x')`, []string{`room:9 typing`, `rooms x`}},
		{`update pgcast.progress set seen = format('%1$s:%1$s:', pg_current_xact_id())::pg_snapshot`, nil},
		{`insert into messages values (1, 5, '')`, []string{`room:5 created {"id":1,"room_id":5,"body":""}`}},
		{`truncate messages`, []string{ // room:9 would be a topic's row by now, were this a sequencer
			`room:%41 truncated {"schema":"public","table":"messages"}`,
			`room:5 truncated {"schema":"public","table":"messages"}`,
			`room:7 truncated {"schema":"public","table":"messages"}`,
		}},
	})
}
