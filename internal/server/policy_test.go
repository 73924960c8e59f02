package server

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// The reference: who may do what, worked out from the rules by other means than the database
// and the server do it by.

// granted is a rule, as it is also put into pgcast.rule.
type granted struct {
	verbs, topic, role string
	claims             map[string]any
}

var grants = []granted{
	{verbs: "connect", topic: "**", claims: map[string]any{"app": "a"}},
	{verbs: "subscribe,history", topic: "news"},
	{verbs: "subscribe", topic: "public:*"},
	{verbs: "presence,cursor", topic: "public:*", claims: map[string]any{"vip": true}},
	{verbs: "subscribe,history,snapshot,publish,presence,cursor", topic: "user:{sub}"},
	{verbs: "subscribe,presence,cursor", topic: "user:{sub}:**"},
	{verbs: "subscribe,history,presence,cursor", topic: "room:{rooms}"},
	{verbs: "publish", topic: "room:{rooms}", role: "editor"},
	{verbs: "subscribe,history,snapshot,publish,presence,cursor,group", topic: "org:{org}:**", role: "admin"},
	{verbs: "history,snapshot", topic: "org:{org}:*"},
	{verbs: "subscribe", topic: "doc-{org}:{sub}"},
	{verbs: "subscribe,group", topic: "group:{rooms}"},
	{verbs: "group", topic: "group:open"},
	{verbs: "cursor", topic: "board:*:{sub}"},
	{verbs: "subscribe,history", topic: "log:**", role: "auditor"},
	{verbs: "publish", topic: "log:{sub}"},
	{verbs: "subscribe,snapshot", topic: "num:{n}"},
	{verbs: "presence", topic: "mix:{org}.{n}:*"},
	{verbs: "history,publish,snapshot", topic: "**", role: "root"},
	{verbs: "subscribe", topic: "*:{sub}", role: "root"},
}

// put puts the rules into the database, in place of those there are.
func put(t *testing.T, db *pgtest.DB, rules []granted) {
	t.Helper()
	sql := "delete from pgcast.rule;\n"
	for _, g := range rules {
		role, claims := "null", "{}"
		if g.role != "" {
			role = "'" + g.role + "'"
		}
		if g.claims != nil {
			text, err := json.Marshal(g.claims)
			if err != nil {
				t.Fatal(err)
			}
			claims = string(text)
		}
		sql += fmt.Sprintf("select pgcast.allow('{%s}', '%s', %s, '%s');\n", g.verbs, g.topic, role, claims)
	}
	db.Exec(t, sql)
}

// caller is somebody, by his claims or by what an API key of his may do.
type caller struct {
	name       string
	claims     map[string]any
	scopeVerbs string // of an API key; else empty
	scopes     []string
	credential string // empty: he shows nothing
}

func (c caller) may(verb, topic string) bool {
	if c.scopeVerbs != "" {
		return verb == "connect" || slices.Contains(strings.Split(c.scopeVerbs, ","), verb) &&
			slices.ContainsFunc(c.scopes, func(s string) bool { return holds(split(s), split(topic)) })
	}
	for _, g := range grants {
		if !slices.Contains(strings.Split(g.verbs, ","), verb) || !c.is(g) {
			continue
		}
		if verb == "connect" {
			return true
		}
		for _, pattern := range c.fill(split(g.topic)) {
			if holds(pattern, split(topic)) {
				return true
			}
		}
	}
	return false
}

// is tells whether a rule is for the caller.
func (c caller) is(g granted) bool {
	for name, want := range g.claims {
		if c.claims[name] != want {
			return false
		}
	}
	if g.role == "" || c.claims["role"] == g.role {
		return true
	}
	roles, _ := c.claims["roles"].([]any)
	return slices.Contains(roles, any(g.role))
}

// part is one segment of a pattern: a wildcard only where nobody's claim has made it one.
type part struct {
	text  string
	plain bool
}

func split(pattern string) (list []part) {
	for _, text := range strings.Split(pattern, ":") {
		list = append(list, part{text, false})
	}
	return list
}

// fill gives the patterns that a rule's topic stands for.
func (c caller) fill(template []part) [][]part {
	for i, p := range template {
		before, rest, found := strings.Cut(p.text, "{")
		if !found {
			continue
		}
		name, after, _ := strings.Cut(rest, "}")
		var all [][]part
		for _, value := range values(c.claims[name]) {
			next := slices.Clone(template)
			next[i] = part{before + value + after, true}
			all = append(all, c.fill(next)...)
		}
		return all
	}
	return [][]part{template}
}

// values are what a claim can stand for in a topic.
func values(claim any) (list []string) {
	switch v := claim.(type) {
	case string:
		if v != "" {
			list = append(list, encoded(v))
		}
	case int:
		list = append(list, fmt.Sprint(v))
	case []any:
		for _, e := range v {
			if _, deeper := e.([]any); !deeper {
				list = append(list, values(e)...)
			}
		}
	}
	return list
}

func encoded(value string) string {
	var b strings.Builder
	for i := range len(value) {
		switch c := value[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("_.-", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// holds tells whether a pattern has all the topics that another one has.
func holds(outer, inner []part) bool {
	switch {
	case len(outer) == 0 || len(inner) == 0:
		return len(outer) == len(inner)
	case outer[0] == part{"**", false}:
		return true // one more segment there is
	case inner[0] == part{"**", false}:
		return false
	case outer[0] != part{"*", false} && outer[0].text != inner[0].text:
		return false
	}
	return holds(outer[1:], inner[1:])
}

// callers are those whom the matrix asks for; anonymous shows nothing.
func callers(t *testing.T, db *pgtest.DB, g *guarded) []caller {
	t.Helper()
	type claims = map[string]any
	list := []caller{
		{name: "ann", claims: claims{"sub": "ann", "role": "user", "org": "acme", "rooms": []any{"1", "2"}}},
		{name: "ann the admin", claims: claims{"sub": "ann", "role": "admin", "org": "acme"}},
		{name: "bob", claims: claims{"sub": "bob", "role": "editor", "rooms": []any{"1", 2, "open"}, "vip": true}},
		{name: "two roles", claims: claims{"sub": "cid", "roles": []any{"auditor", "editor"}, "rooms": "2"}},
		{name: "two orgs", claims: claims{"sub": "dan", "role": "admin", "org": []any{"acme", "other"}, "n": 7}},
		{name: "a star", claims: claims{"sub": "*", "role": "admin", "org": "*", "rooms": []any{"*", "**"}}},
		{name: "two stars", claims: claims{"sub": "**", "roles": []any{"admin"}, "org": "**", "n": "*"}},
		{name: "a colon", claims: claims{"sub": "a:b", "role": "admin", "org": "acme:1", "rooms": "1:2"}},
		{name: "nobody", claims: claims{"role": "user", "rooms": []any{}}},
		{name: "an empty sub", claims: claims{"sub": "", "org": "", "role": "admin", "rooms": []any{"", nil, true, []any{"1"}}}},
		{name: "numbers", claims: claims{"sub": "eve", "org": 5, "n": 7, "rooms": []any{1, 2}}},
		{name: "texts of numbers", claims: claims{"sub": "fay", "org": "5", "n": "07"}},
		{name: "percent", claims: claims{"sub": "%2A", "org": "a.b", "n": "c"}},
		{name: "accents", claims: claims{"sub": "änn", "org": "a b", "n": "d"}},
		{name: "vip of sorts", claims: claims{"sub": "gus", "vip": "true"}},
		{name: "vip", claims: claims{"sub": "hal", "vip": true}},
		{name: "auditor", claims: claims{"sub": "ida", "role": "auditor"}},
		{name: "a role that is a list", claims: claims{"sub": "jon", "role": []any{"admin"}, "org": "acme"}},
		{name: "root", claims: claims{"sub": "root", "role": "root"}},
		{name: "of another app", claims: claims{"sub": "ann", "role": "root", "app": "b"}},
		{name: "of many rooms", claims: claims{"sub": "kim", "rooms": many(1000), "org": "other"}},
	}
	for i := range list {
		c := &list[i]
		if c.claims["app"] == nil {
			c.claims["app"] = "a"
		}
		pairs := []any{}
		for name, value := range c.claims {
			pairs = append(pairs, name, value)
		}
		sub, _ := c.claims["sub"].(string)
		c.credential = g.token(t, sub, pairs...)
		if c.claims["sub"] == nil {
			c.credential = g.key.Token(t, c.claims)
		}
	}
	list = append(list, caller{name: "anonymous", claims: claims{"role": "anonymous", "app": "a"}})
	for i, k := range []caller{
		{scopeVerbs: "publish", scopes: []string{"**"}},
		{scopeVerbs: "subscribe,history,snapshot", scopes: []string{"room:*", "org:acme:**"}},
		{scopeVerbs: "subscribe,presence,cursor,group", scopes: []string{"public:1", "group:*", "user:ann"}},
	} {
		k.name = fmt.Sprint("key-", i)
		k.credential = pgtest.Value[string](t, db, fmt.Sprintf("select pgcast.create_api_key('%s', '{%s}', '{%s}')", k.name, k.scopeVerbs, strings.Join(k.scopes, ",")))
		list = append(list, k)
	}
	return list
}

func many(n int) (list []any) {
	for i := range n {
		list = append(list, fmt.Sprint(i))
	}
	return list
}

// matrixTopics are topics and patterns to ask for; every second topic has events.
func matrixTopics() (list []string) {
	list = []string{"news", "public:1", "public:a:b", "public:*", "user:*", "user:**", "user:ann:**", "user:ann:x", "user:bob:x:y", "room:*", "room:1:2", "room:1",
		"org:*", "org:*:1", "org:acme:*", "org:acme:**", "org:acme:1", "org:acme:1:2", "org:other:1", "org:5:1", "org:%2A:1", "doc-acme:ann", "doc-*:ann", "doc-{org}:ann",
		"board:1:ann", "board:*:ann", "board:*:bob", "log:a:b", "log:**", "log:ann", "num:7", "num:07", "num:*", "mix:acme.7:1", "mix:5.7:1", "mix:*:1",
		"**", "*", "*:root", "a.*.b", "user:..", "group:1", "group:open", "group:acme", "ghost:1", "user:"}
	for _, sub := range []string{"ann", "bob", "%2A", "%252A", "a%3Ab", "a:b", "%C3%A4nn", "nobody", "Ann", "ann "} {
		list = append(list, "user:"+sub)
	}
	for _, room := range []string{"2", "%2A", "999", "1000", "open"} {
		list = append(list, "room:"+room)
	}
	return list
}
