package main

import (
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// Rules, revocations and API keys by the commands, without a server.
func TestAccessCommands(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, nil)
	if out := s.run(t, "rules").ok(t); !strings.HasPrefix(out, "id\tverbs\ttopic\trole\tclaims\n1\tconnect\t**") {
		t.Errorf("rules as they come:\n%s", out)
	}
	id := strings.TrimSpace(s.run(t, "allow", "subscribe,history", "user:{sub}:**", "--role", "user", "--claims", `{"org": 7}`).ok(t))
	if out := s.run(t, "rules", "--json").ok(t); !strings.Contains(out, `{"id":`+id+`,"verbs":["subscribe","history"],"topic":"user:{sub}:**","role":"user","claims":{"org":7}}`) {
		t.Errorf("rules:\n%s", out)
	}
	if !pgtest.Value[bool](t, db, `select pgcast.authorize('{"sub":"ann","role":"user","org":7}', 'history', 'user:ann:x')`) {
		t.Error("the rule allows nothing")
	}
	s.run(t, "allow", "read", "a").fails(t, 1, "these cannot be the verbs of a rule", "subscribe")
	s.run(t, "allow", "subscribe", "a:{sub").fails(t, 1, "has braces that do not match")
	s.run(t, "allow", "subscribe", "a", "--claims", "{").fails(t, 2, "not JSON")
	s.run(t, "rules", "delete", id).ok(t)
	s.run(t, "rules", "delete", id).fails(t, 1, "there is no rule "+id)
	s.run(t, "rules", "delete", "x").fails(t, 2, `"x" is not the number of a rule`)

	s.run(t, "revoke", "--sub", "ann", "--for", "24h").ok(t)
	s.run(t, "revoke", "--session", "k").ok(t)
	if n := pgtest.Value[int](t, db, `select count(*)::int from pgcast.revocation where until between now() + interval '23 hours' and now() + interval '25 hours' and kind = 'sub' or kind = 'session'`); n != 2 {
		t.Errorf("%d revocations", n)
	}
	s.run(t, "revoke").fails(t, 2, "it is not said what is to be revoked")
	s.run(t, "revoke", "--sub", "a", "--jti", "b").fails(t, 2, "give one of")
	s.run(t, "revoke", "--sub", "a", "--for", "-1h").fails(t, 1, "must hold for some time")

	key := strings.TrimSpace(s.run(t, "keys", "create", "billing", "publish,history", "invoice:**", "news", "--for", "24h").ok(t))
	parts := strings.Split(key, "_")
	if len(parts) != 3 || parts[0] != "pgk" {
		t.Fatalf("the key is %q", key)
	}
	if out := s.run(t, "keys", "list").ok(t); !strings.Contains(out, parts[1]+"\tbilling\tpublish,history\tinvoice:**,news\tnever\tvalid until ") || strings.Contains(out, parts[2]) {
		t.Errorf("keys:\n%s", out)
	}
	s.run(t, "keys", "revoke", parts[1]).ok(t)
	s.run(t, "keys", "revoke", parts[1]).fails(t, 1, "there is no such API key")
	if out := s.run(t, "keys", "list", "--json").ok(t); !strings.Contains(out, `"id":"`+parts[1]+`"`) || strings.Contains(out, `"revoked_at":null`) {
		t.Errorf("keys:\n%s", out)
	}
	s.run(t, "keys", "create", "a b", "publish", "x").fails(t, 1, "is not the name of an API key")
	s.run(t, "keys", "create", "a", "publish", "x", "--for", "-1h").fails(t, 2, "--for is -1h")
	s.run(t, "keys", "make").fails(t, 2, "unknown command")
}
