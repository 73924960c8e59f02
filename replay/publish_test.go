package replay

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

func TestPublish(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Doorbell)
	id, err := w.log.Publish(t.Context(), "room:1", "typing", json.RawMessage(`{"by": 1}`), "")
	if err != nil {
		t.Fatal(err)
	}
	first, err := w.log.Publish(t.Context(), "room:1", "said", nil, "key")
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.log.Publish(t.Context(), "room:1", "said", nil, "key")
	if err != nil || again != first {
		t.Errorf("the same key gave %s and %s, %v", first, again, err)
	}
	other, err := w.log.Publish(t.Context(), "room:2", "said", json.RawMessage("null"), "key")
	if err != nil || other == first {
		t.Errorf("the same key on another topic gave %s and %s, %v", first, other, err)
	}
	w.exec(w.admin, `insert into pgcast.event_log (topic, event, data, old) values ('room:1', 'updated', '{"a":1.50}', '{"a":1}')`)
	w.hand().lead().drain()
	got, _, err := w.log.Read(t.Context(), 0, "", 10)
	if err != nil || w.err != nil || len(got) != 4 {
		t.Fatal(err, w.err, got)
	}
	want := []pgcast.Event{
		{Topic: "room:1", Name: "typing", Data: json.RawMessage(`{"by": 1}`), Seq: 1, Position: 1, ID: id},
		{Topic: "room:1", Name: "said", Seq: 2, Position: 2, ID: first},
		{Topic: "room:2", Name: "said", Data: json.RawMessage("null"), Seq: 1, Position: 3, ID: other},
		{Topic: "room:1", Name: "updated", Data: json.RawMessage(`{"a":1.50}`), Old: json.RawMessage(`{"a":1}`), Seq: 3, Position: 4, ID: got[3].ID},
	}
	for i := range got {
		if _, at, _ := got[i].ID.Parts(); !at.Equal(got[i].CreatedAt) {
			t.Errorf("%s was created at %v", got[i].ID, got[i].CreatedAt)
		}
		want[i].CreatedAt = got[i].CreatedAt
		want[i].XID, _ = strconv.ParseUint(pgtest.Value[string](t, w.db, "select xid::text from pgcast.event_log where pgcast.event_id(id, created_at) = $1", string(got[i].ID)), 10, 64)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if inSQL := pgtest.Value[string](t, w.db, "select pgcast.event_id(id, created_at) from pgcast.event_log order by id desc limit 1"); pgcast.ID(inSQL) != got[3].ID {
		t.Errorf("in SQL its id is %s, here %s", inSQL, got[3].ID)
	}
}

func TestPublishRefuses(t *testing.T) {
	t.Parallel()
	log := NewLog(pgtest.New(t, nil).Pool(t), nil)
	for _, c := range []struct{ topic, event, data, key string }{
		{"", "e", "", ""},
		{strings.Repeat("a", 257), "e", "", ""},
		{"a\"b", "e", "", ""},
		{"a:*", "e", "", ""},
		{"**", "e", "", ""},
		{"__system", "e", "", ""},
		{"ä", "e", "", ""},
		{"a\x00b", "e", "", ""},
		{"a\xff", "e", "", ""},
		{"a", "", "", ""},
		{"a", strings.Repeat("e", 129), "", ""},
		{"a", "e\\", "", ""},
		{"a", "e", "{", ""},
		{"a", "e", `"\u0000"`, ""},
		{"a", "e", strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), ""},
		{"a", "e", "1", strings.Repeat("k", 257)},
	} {
		var data json.RawMessage
		if c.data != "" {
			data = json.RawMessage(c.data)
		}
		_, err := log.Publish(t.Context(), c.topic, c.event, data, c.key)
		var bad *pgcast.Error
		if !errors.As(err, &bad) || bad.Code != pgcast.CodeInvalidEvent || bad.Message == "" {
			t.Errorf("publish %.20q %.20q %.20q %.20q: %v", c.topic, c.event, c.data, c.key, err)
		}
	}
	if p, err := log.Position(t.Context()); p != 0 || err != nil {
		t.Error(p, err)
	}
}

// TestNamesInPostgres asks Postgres and Go the same questions about topics: which are
// names, and which a pattern selects.
func TestNamesInPostgres(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, nil).Conn(t)
	segment := rapid.OneOf(
		rapid.SampledFrom([]string{"", "a", "b", "room", "*", "**", "a*", "__", ".", "a.b", "[a]", "(", "$", "^", "{1}", "a|b", "+", "?", "\\", "\"", " ", "%", "_"}),
		rapid.StringOfN(rapid.RuneFrom([]rune(" !#$%&()*+,-./09:;<=>?@AZ[]^_`az{|}~\"\\\x7fä")), 1, 6, -1))
	name := rapid.Custom(func(rt *rapid.T) string {
		return strings.Join(rapid.SliceOfN(segment, 1, 4).Draw(rt, "segments"), ":")
	})
	rapid.Check(t, func(rt *rapid.T) {
		text := name.Draw(rt, "pattern")
		topics := rapid.SliceOfN(rapid.OneOf(name, rapid.Just(text), rapid.Just(strings.ReplaceAll(text, "*", "a"))), 50, 50).Draw(rt, "topics")
		var valid, selected []bool
		p, err := pgcast.ParsePattern(text)
		if err != nil {
			p, _ = pgcast.ParsePattern("room:*")
		}
		sqlErr := conn.QueryRow(t.Context(), `
			with t as (select name, n from unnest($1::text[]) with ordinality t(name, n))
			select array_agg(name ~ $2 order by n) from t`, topics, p.Regexp()).Scan(&selected)
		if sqlErr != nil {
			rt.Fatal(sqlErr)
		}
		for i, topic := range topics {
			if p.Match(topic) != selected[i] {
				rt.Fatalf("%q selects %q: %t here, %t in Postgres (%s)", p, topic, p.Match(topic), selected[i], p.Regexp())
			}
			_, err := conn.Exec(t.Context(), "select pgcast.check_topic($1)", topic)
			valid = append(valid, err == nil)
			if here := pgcast.CheckTopic(topic) == nil; here != valid[i] {
				rt.Fatalf("%q is a topic: %t here, %t in Postgres", topic, here, valid[i])
			}
		}
		_, sqlErr = conn.Exec(t.Context(), "begin; select pgcast.retain('"+strings.ReplaceAll(text, "'", "''")+"', max_count => 1); rollback")
		if sqlErr != nil {
			if _, err := conn.Exec(t.Context(), "rollback"); err != nil {
				rt.Fatal(err)
			}
		}
		if (sqlErr == nil) != (err == nil) {
			rt.Fatalf("%q is a pattern: %v here, %v in Postgres", text, err, sqlErr)
		}
	})
}
