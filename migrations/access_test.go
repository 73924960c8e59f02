package migrations_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// The database and the servers agree on which pattern contains which.
func TestPatternContains(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, nil).Conn(t)
	segment := rapid.SampledFrom([]string{"a", "b", "*", "**", "", "a*", "***", "%2A", "__", "ä", `"`, " "})
	text := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(segment, 1, 5).Draw(t, "segments"), ":")
	})
	rapid.Check(t, func(r *rapid.T) {
		const n = 200
		var outer, inner []string
		want := make([]bool, n)
		for i := range n {
			outer, inner = append(outer, text.Draw(r, "outer")), append(inner, text.Draw(r, "inner"))
			p, err := pgcast.ParsePattern(outer[i])
			q, errq := pgcast.ParsePattern(inner[i])
			want[i] = err == nil && errq == nil && p.Contains(q)
		}
		rows, _ := conn.Query(t.Context(), "select pgcast.pattern_contains(unnest($1::text[]), unnest($2::text[]))", outer, inner)
		got, err := pgx.CollectRows(rows, pgx.RowTo[bool])
		if err != nil {
			r.Fatal(err)
		}
		for i := range n {
			if got[i] != want[i] {
				r.Fatalf("%q contains %q: %v in the database, %v here", outer[i], inner[i], got[i], want[i])
			}
		}
	})
}

// What a rule allows, and what it does not, whatever the claims.
func TestRules(t *testing.T) {
	t.Parallel()
	many := make([]any, 10_000)
	for i := range many {
		many[i] = fmt.Sprintf("r%d", i)
	}
	list := func(v any) string {
		text, err := json.Marshal(map[string]any{"rooms": v})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	const ann = `{"sub":"ann","role":"user","roles":["editor","reader"],"org":7,"rooms":["1","b c",3]}`
	tests := []struct {
		rule              string // arguments of allow()
		claims, verb, ask string
		want              bool
	}{
		{`'{subscribe}', 'news'`, `{}`, "subscribe", "news", true},
		{`'{subscribe}', 'news'`, `{}`, "history", "news", false},
		{`'{subscribe,history}', 'news'`, `{}`, "history", "news", true},
		{`'{subscribe}', 'news'`, `{}`, "subscribe", "News", false},
		{`'{subscribe}', 'news'`, `{}`, "SUBSCRIBE", "news", false},
		{`'{subscribe}', 'news'`, `{}`, "subscribe", "", false},
		{`'{subscribe}', 'news'`, `{}`, "subscribe", "*", false},
		{`'{subscribe}', 'room:*'`, `{}`, "subscribe", "room:1", true},
		{`'{subscribe}', 'room:*'`, `{}`, "subscribe", "room:*", true},
		{`'{subscribe}', 'room:*'`, `{}`, "subscribe", "room:**", false},
		{`'{subscribe}', 'room:*'`, `{}`, "subscribe", "room:1:2", false},
		{`'{subscribe}', 'room:**'`, `{}`, "subscribe", "room:1:*", true},
		{`'{subscribe}', '**'`, `{}`, "subscribe", "**", true},
		{`'{subscribe}', '**'`, `{}`, "subscribe", "__access", false},
		{`'{subscribe}', '*'`, `{}`, "subscribe", "__system", false},
		{`'{connect}', 'whatever'`, `{}`, "connect", "", true},
		// Roles and claims.
		{`'{publish}', 'news', 'user'`, ann, "publish", "news", true},
		{`'{publish}', 'news', 'editor'`, ann, "publish", "news", true},
		{`'{publish}', 'news', 'admin'`, ann, "publish", "news", false},
		{`'{publish}', 'news', 'admin'`, `{"role":["admin"]}`, "publish", "news", false},
		{`'{publish}', 'news', 'admin'`, `{"roles":"admin"}`, "publish", "news", false},
		{`'{publish}', 'news', 'admin'`, `{"roles":{"admin":false}}`, "publish", "news", false},
		{`'{publish}', 'news', 'admin'`, `{"roles":[["admin"]]}`, "publish", "news", false},
		{`'{publish}', 'news', null, '{"org":7}'`, ann, "publish", "news", true},
		{`'{publish}', 'news', null, '{"org":"7"}'`, ann, "publish", "news", false},
		{`'{publish}', 'news', 'user', '{"org":8}'`, ann, "publish", "news", false},
		// Claims in the topic.
		{`'{subscribe}', 'user:{sub}'`, ann, "subscribe", "user:ann", true},
		{`'{subscribe}', 'user:{sub}'`, ann, "subscribe", "user:bob", false},
		{`'{subscribe}', 'user:{sub}'`, ann, "subscribe", "user:*", false},
		{`'{subscribe}', 'user:{sub}'`, `{}`, "subscribe", "user:", false},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":""}`, "subscribe", "user:", false},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":null}`, "subscribe", "user:~null", false},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":true}`, "subscribe", "user:true", false},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":{"a":1}}`, "subscribe", "user:a", false},
		{`'{subscribe}', 'org:{org}:**'`, ann, "subscribe", "org:7:x:**", true},
		{`'{subscribe}', 'org:{org}:**'`, ann, "subscribe", "org:7", false},
		{`'{subscribe}', 'org:{org}:**'`, ann, "subscribe", "org:**", false},
		{`'{subscribe}', 'org-{org}:{sub}-box'`, ann, "subscribe", "org-7:ann-box", true},
		{`'{subscribe}', 'room:{rooms}'`, ann, "subscribe", "room:1", true},
		{`'{subscribe}', 'room:{rooms}'`, ann, "subscribe", "room:b%20c", true},
		{`'{subscribe}', 'room:{rooms}'`, ann, "subscribe", "room:3", true},
		{`'{subscribe}', 'room:{rooms}'`, ann, "subscribe", "room:2", false},
		{`'{subscribe}', 'room:{rooms}-{sub}'`, `{"rooms":["a","a-b","a-b-c"],"sub":"c-d"}`, "subscribe", "room:a-b-c-d", true},
		{`'{subscribe}', 'room:{rooms}-{sub}'`, `{"rooms":["a","a-b"],"sub":"c"}`, "subscribe", "room:a-b-c-d", false},
		{`'{subscribe}', '{https://app.example/org}:{sub}'`, `{"https://app.example/org":"x","sub":"y"}`, "subscribe", "x:y", true},
		{`'{subscribe}', 'x:{a}}b}'`, `{"a}b":"y"}`, "subscribe", "x:y", true},
		// Hostile ones.
		{`'{subscribe}', 'user:{sub}'`, `{"sub":"*"}`, "subscribe", "user:*", false},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":"*"}`, "subscribe", "user:ann", false},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":"*"}`, "subscribe", "user:%2A", true},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":"**"}`, "subscribe", "user:**", false},
		{`'{subscribe}', '{sub}'`, `{"sub":"**"}`, "subscribe", "**", false},
		{`'{subscribe}', '{sub}'`, `{"sub":"__access"}`, "subscribe", "__access", false},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":"a:b"}`, "subscribe", "user:a:b", false},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":"a:b"}`, "subscribe", "user:a%3Ab", true},
		{`'{subscribe}', 'user:{sub}:**'`, `{"sub":"a:b"}`, "subscribe", "user:a:b", false},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":"ann%3Ax"}`, "subscribe", "user:ann%3Ax", false},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":"änn"}`, "subscribe", "user:%C3%A4nn", true},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":"{org}","org":"x"}`, "subscribe", "user:x", false},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":"` + strings.Repeat("x", 5000) + `"}`, "subscribe", "user:" + strings.Repeat("x", 251), false},
		{`'{subscribe}', 'user:{sub}'`, `{"sub":[["ann"]]}`, "subscribe", "user:ann", false},
		{`'{subscribe}', 'room:{rooms}'`, list(many), "subscribe", "room:r999", true},
		{`'{subscribe}', 'room:{rooms}'`, list(many), "subscribe", "room:r1000", false},
		{`'{subscribe}', 'room:{rooms}'`, list([]any{"", nil, "*", "**", true, []any{"x"}}), "subscribe", "room:*", false},
		{`'{subscribe}', 'room:{rooms}'`, list([]any{}), "subscribe", "room:", false},
	}
	conn := pgtest.New(t, nil).Conn(t)
	for _, tt := range tests {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got bool
		_, err = tx.Exec(t.Context(), "delete from pgcast.rule; select pgcast.allow("+tt.rule+")")
		if err == nil {
			err = tx.QueryRow(t.Context(), "select pgcast.authorize($1::text::jsonb, $2, $3)", tt.claims, tt.verb, tt.ask).Scan(&got)
		}
		if err != nil || got != tt.want {
			t.Errorf("by %s, %.60s may %s %.60s: %v, %v; want %v", tt.rule, tt.claims, tt.verb, tt.ask, got, err, tt.want)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var connect, subscribe bool
	err := conn.QueryRow(t.Context(), `select pgcast.authorize('{"sub":"ann"}', 'connect', ''), pgcast.authorize('{"sub":"ann"}', 'subscribe', 'news')`).Scan(&connect, &subscribe)
	if err != nil || !connect || subscribe {
		t.Errorf("as it comes one may connect: %v, subscribe: %v; %v", connect, subscribe, err)
	}
}

// What cannot be a rule, a revocation or an API key is refused, by whatever way it comes.
func TestAccessRefuses(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, nil).Conn(t)
	for _, sql := range []string{ // servers read them as moments
		`insert into pgcast.revocation (kind, value, until) values ('sub', 'ann', 'infinity')`, `insert into pgcast.api_key (id, name, hash, verbs, topics, expires_at) values ('k', 'a', '', '{publish}', '{a}', 'infinity')`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "23514") {
			t.Errorf("%s: %v; want 23514", sql, err)
		}
	}
	for _, call := range []string{
		`select pgcast.allow('{}', 'a')`, `select pgcast.allow(null, 'a')`, `select pgcast.allow('{subscribe,null}', 'a')`, `select pgcast.allow('{read}', 'a')`,
		`select pgcast.allow('{{subscribe},{publish}}', 'a')`, `select pgcast.allow('{subscribe}', null)`, `select pgcast.allow('{subscribe}', '')`,
		`select pgcast.allow('{subscribe}', '**:a')`, `select pgcast.allow('{subscribe}', 'a"b')`, `select pgcast.allow('{subscribe}', 'ä')`, `select pgcast.allow('{subscribe}', '__access')`,
		`select pgcast.allow('{subscribe}', 'a:{sub')`, `select pgcast.allow('{subscribe}', 'a:sub}')`, `select pgcast.allow('{subscribe}', 'a:{}')`, `select pgcast.allow('{subscribe}', 'a:*{sub}')`,
		`select pgcast.allow('{subscribe}', 'a:{sub}*')`, `select pgcast.allow('{subscribe}', '{a}**:b')`, `select pgcast.allow('{subscribe}', 'a:{jti}')`, `select pgcast.allow('{subscribe}', '{sub}:{sub}')`,
		`select pgcast.allow('{subscribe}', repeat('a', 257))`, `select pgcast.allow('{subscribe}', 'a', '')`, `select pgcast.allow('{subscribe}', 'a', null, '[]')`,
		`select pgcast.allow('{subscribe}', 'a', null, '{"exp":1}')`, `insert into pgcast.rule (verbs, topic) values ('{all}', 'a')`, `update pgcast.rule set topic = '**:x'`,
		`select pgcast.recheck('[]')`, `select pgcast.recheck(null)`,
		`select pgcast.revoke()`, `select pgcast.revoke('a', 'b')`, `select pgcast.revoke('')`, `select pgcast.revoke('a', until => '0')`, `select pgcast.revoke('a', until => null)`, `select pgcast.unrevoke()`,
		`select pgcast.create_api_key('', '{publish}', '{a}')`, `select pgcast.create_api_key('a b', '{publish}', '{a}')`, `select pgcast.create_api_key('a', '{}', '{a}')`,
		`select pgcast.create_api_key('a', '{publish}', '{}')`, `select pgcast.create_api_key('a', '{publish}', '{a,null}')`, `select pgcast.create_api_key('a', '{publish}', '{__access}')`,
		`select pgcast.create_api_key('a', '{publish}', '{a:**:b}')`, `select pgcast.create_api_key('a', '{publish}', '{a}', claims => '1')`, `select pgcast.create_api_key('a', '{write}', '{a}')`,
	} {
		if _, err := conn.Exec(t.Context(), call); err == nil || !strings.Contains(err.Error(), "22023") {
			t.Errorf("%s: %v; want 22023", call, err)
		}
	}
}

// What changes is told to the servers, and nobody else can say it.
func TestAccessIsTold(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{`do $$ begin assert pgcast.allow('{subscribe}', 'a') > 0; end $$`, []string{`__access rules {}`}},
		{`update pgcast.rule set role = 'x' where topic = 'a'; delete from pgcast.rule where topic = 'a'`, []string{`__access rules {}`, `__access rules {}`}},
		{`truncate pgcast.rule`, []string{`__access rules {}`}},
		{`begin; select pgcast.allow('{subscribe}', 'a'); rollback`, nil},
		{`select pgcast.recheck(), pgcast.recheck('{"sub": "ann"}')`, []string{`__access recheck {"claims": {}}`, `__access recheck {"claims": {"sub": "ann"}}`}},
		{`select pgcast.revoke(sub => 'ann'); truncate pgcast.event_log`, nil},
		{`do $$ begin assert pgcast.unrevoke(sub => 'ann'); assert not pgcast.unrevoke('ann'); assert not exists (select from pgcast.revocation); end $$`,
			[]string{`__access unrevoked {"sub": "ann"}`}},
		{`select pgcast.create_api_key('a', '{publish}', '{a}'); update pgcast.api_key set id = 'k', last_used_at = now(); truncate pgcast.event_log`, nil},
		{`update pgcast.api_key set last_used_at = now()`, nil},
		{`do $$ begin assert pgcast.revoke_api_key('k'); assert not pgcast.revoke_api_key('k'); end $$; delete from pgcast.api_key`,
			[]string{`__access keys {"id": "k"}`, `__access keys {"id": "k"}`}},
		{`truncate pgcast.api_key`, []string{`__access keys {"id": null}`}},
		{`select pgcast.create_api_key('a', '{publish}', '{a}', expires_at => 'infinity'); do $$ begin assert (select expires_at is null from pgcast.api_key); end $$`, nil},
		{`do $$ begin perform pgcast.publish('__access', 'rules'); assert false; exception when invalid_parameter_value then end $$`, nil},
	})
}
