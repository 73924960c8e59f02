package server

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// doc is a description as the server serves it, with the schemas in it to hold answers
// against.
type doc struct {
	name string
	root any
	c    *jsonschema.Compiler
}

func openDoc(t *testing.T, url string) *doc {
	t.Helper()
	status, text := get(t, url)
	root, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil || status != http.StatusOK {
		t.Fatalf("%s: %d, %v", url, status, err)
	}
	d := &doc{name: url, root: root, c: jsonschema.NewCompiler()}
	if err := d.c.AddResource("doc.json", root); err != nil {
		t.Fatal(err)
	}
	return d
}

// at finds what is under a path of member names; nil if there is nothing.
func (d *doc) at(path ...string) any {
	v := d.root
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// check holds a JSON text against the schema under a path.
func (d *doc) check(t *testing.T, text []byte, path ...string) {
	t.Helper()
	escaped := make([]string, len(path))
	for i, p := range path {
		escaped[i] = strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(p)
	}
	schema, err := d.c.Compile("doc.json#/" + strings.Join(escaped, "/"))
	if err != nil {
		t.Fatalf("%s: the schema at %v: %v", d.name, path, err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if err := schema.Validate(v); err != nil {
		t.Errorf("%s is not as described at %v: %v", text, path, err)
	}
}

// Every answer of the server is one that the OpenAPI document describes, and every one
// that it describes and a test can bring about is brought about here.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	r := start(t, db.URL, func(o *Options) { o.MaxFrame = 1000 }).awaitReady(t)
	limited := start(t, db.URL, func(o *Options) {
		o.Live.RateLimits = rules(t, "connect ip 1/24h, history ip 1/24h, publish ip 1/24h")
	}).awaitReady(t)
	d := openDoc(t, "http://"+r.listen+"/openapi.json")
	if d.at("openapi") != "3.1.0" {
		t.Errorf("openapi is %v", d.at("openapi"))
	}
	db.Exec(t, "select pgcast.publish('room:1', 'said', '{}') from generate_series(1, 3)")
	await(t, "they are sequenced", func() bool {
		_, text := get(t, "http://"+r.listen+"/topics/room:1/events")
		return strings.Contains(text, `"head":3`)
	})
	seen, listen := map[string]bool{}, r.listen
	call := func(method, path, query, body string, status int, header ...string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+listen+strings.NewReplacer("{topic}", "room:1", "{name}", "lobby").Replace(path)+query, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		kind, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
		code := http.StatusText(res.StatusCode)
		where := []string{"paths", path, strings.ToLower(method), "responses", jsonNumber(res.StatusCode), "content", kind, "schema"}
		if res.StatusCode == http.StatusNoContent && d.at(where[:5]...) != nil {
			where = where[:5] // it has no content
		}
		if res.StatusCode != status || d.at(where...) == nil {
			t.Errorf("%s %s%s: %d %s %s; want %d, as described", method, path, query, res.StatusCode, code, kind, status)
			return
		}
		seen[strings.Join(where[1:5], " ")] = true
		if kind != "application/json" {
			return // a stream has no end to read to
		}
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		d.check(t, text, where...)
	}
	const events, sse, present = "/topics/{topic}/events", "/topics/{topic}/sse", "/topics/{topic}/presence"
	asJSON := []string{"Content-Type", "application/json", "Pgcast-Event", "said"}
	call("GET", events, "?after=1&limit=1&wait=0", "", 200)
	call("GET", events, "?after=9", "", 410)
	call("GET", events, "?id=1", "", 400)
	call("GET", events, "", "", 403, "Origin", "https://evil.example")
	call("GET", strings.Replace(events, "{topic}", "{topic}", 1), "?after=3", "", 200)
	call("POST", events, "", `{"a":1}`, 201, append(asJSON, "Idempotency-Key", "k")...)
	call("POST", events, "", `{`, 400, asJSON...)
	call("POST", events, "", `{}`, 403, append(asJSON, "Origin", "https://evil.example")...)
	call("POST", events, "", strings.Repeat(" ", 2000), 413, asJSON...)
	call("POST", events, "", `{}`, 415, "Pgcast-Event", "said")
	call("GET", sse, "?topic=room:2", "", 200)
	call("GET", sse, "?topic=room:*", "", 400)
	call("GET", sse, "", "", 403, "Origin", "https://evil.example")
	call("GET", present, "", "", 200)
	call("GET", present, "?count", "", 200)
	call("GET", present, "?count=some", "", 400)
	call("GET", present, "", "", 403, "Origin", "https://evil.example")
	const shot, shotOf = "/topics/{topic}/snapshot", "/topics/room:1/snapshot"
	call("GET", shot, "", "", 200)
	call("GET", shot, "?x=1", "", 400)
	call("GET", shot, "", "", 403, "Origin", "https://evil.example")
	db.Exec(t, "create table public.m (id int primary key, room int); select pgcast.attach('public.m', topic => 'room:{room}'); insert into public.m values (1, 1)")
	await(t, "the one before is not fresh any more", func() bool {
		_, text := get(t, "http://"+r.listen+shotOf)
		return strings.Contains(text, `{"id":1,"room":1}`)
	})
	call("GET", shot, "", "", 200)
	// Nobody listens at port 1: the other servers cannot be asked.
	listen = start(t, db.URL, func(o *Options) { o.Live.RedisURL = "redis://127.0.0.1:1" }).awaitReady(t).listen
	call("GET", present, "", "", 503)
	listen = r.listen
	for _, path := range []string{"/healthz", "/readyz", "/openapi.json", "/asyncapi.json"} {
		call("GET", path, "", "", 200)
	}
	const group = "/groups/{name}"
	call("GET", group, "", "", 404)
	db.Exec(t, `select pgcast.create_group('lobby')`)
	call("GET", group, "", "", 200)
	call("GET", group, "?x=1", "", 400)
	call("GET", group, "", "", 403, "Origin", "https://evil.example")
	db.Exec(t, "alter table pgcast.group_info rename to hidden_info")
	call("GET", group, "", "", 503)
	listen = limited.listen
	for _, c := range []struct{ method, path string }{{"GET", events}, {"GET", sse}, {"POST", events}} {
		first := 200
		if c.method == "POST" {
			first = 201
		}
		call(c.method, c.path, "", "{}", first, asJSON...)
		call(c.method, c.path, "", "{}", 429, asJSON...)
	}
	call("GET", shot, "", "", 429)
	own := guard(t, db, 1, func(o *Options) { o.Access.Cookie = "session" })[0]
	listen = own.listen
	token, page := []string{"Authorization", "Bearer " + own.token(t, "ann")}, []string{"X-Requested-With", "XMLHttpRequest"}
	const tickets, preflight = "/tickets", "/__ws/auth"
	for _, path := range []string{events, sse, shot, present, group} {
		call("GET", path, "", "", 401)
	}
	call("POST", events, "", "{}", 401, asJSON...)
	call("POST", tickets, "", "", 201, token...)
	call("POST", tickets, "?x=1", "", 400, token...)
	call("POST", tickets, "", "", 401)
	call("POST", tickets, "", "", 403, append(token, "Origin", "https://evil.example")...)
	call("POST", preflight, "", "", 204, append(token, page...)...)
	call("POST", preflight, "?token=x", "", 400, page...)
	call("POST", preflight, "", "", 401, page...)
	call("POST", preflight, "", "", 403)
	call("POST", preflight, "", strings.Repeat("x", 65<<10), 413, page...)
	slow := guard(t, db, 1, func(o *Options) { o.Live.RateLimits = rules(t, "connect subject 1/24h") })[0]
	listen = slow.listen
	for i, path := range []string{tickets, preflight} {
		header := append([]string{"Authorization", "Bearer " + slow.token(t, path)}, page...)
		call("POST", path, "", "", []int{201, 204}[i], header...)
		call("POST", path, "", "", 429, header...)
	}
	listen = own.listen
	db.Exec(t, "alter table pgcast.ticket rename to hidden_ticket")
	call("POST", tickets, "", "", 503, token...)
	call("POST", preflight, "", "", 503, append(token, page...)...)
	listen = r.listen
	call("POST", tickets, "", "", 404)
	db.Exec(t, "alter table pgcast.topic rename to hidden")
	call("GET", events, "", "", 503)
	call("GET", sse, "?after=1", "", 503)
	call("POST", events, "", `{}`, 201, asJSON...)
	db.Exec(t, "alter table pgcast.event_log rename to hidden_log")
	call("POST", events, "", `{}`, 503, asJSON...)
	await(t, "no snapshot is fresh any more", func() bool {
		status, _ := get(t, "http://"+r.listen+shotOf)
		return status == 503
	})
	call("GET", shot, "", "", 503)
	// What is described and was not seen: readyz's 503, which has tests of its own.
	for path, item := range d.at("paths").(map[string]any) {
		for method, operation := range item.(map[string]any) {
			if method == "parameters" {
				continue
			}
			for status := range operation.(map[string]any)["responses"].(map[string]any) {
				where := strings.Join([]string{path, method, "responses", status}, " ")
				if !seen[where] && where != "/readyz get responses 503" {
					t.Errorf("described but not seen: %s", where)
				}
			}
		}
	}
}

func jsonNumber(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// Every frame of docs/protocol.md is one that the AsyncAPI document describes, and each
// that it describes has a sample there.
func TestAsyncAPI(t *testing.T) {
	t.Parallel()
	r := start(t, pgtest.New(t, nil).URL, nil).awaitReady(t)
	d := openDoc(t, "http://"+r.listen+"/asyncapi.json")
	if d.at("asyncapi") != "3.0.0" {
		t.Errorf("asyncapi is %v", d.at("asyncapi"))
	}
	files, err := filepath.Glob("../wire/testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var frame struct{ Type string }
		if err := json.Unmarshal(text, &frame); err != nil {
			t.Fatal(err)
		}
		if frame.Type == "" {
			frame.Type = "event"
		}
		side, _, _ := strings.Cut(filepath.Base(file), "-")
		message := side
		for word := range strings.SplitSeq(frame.Type, "-") {
			message += strings.ToUpper(word[:1]) + word[1:]
		}
		seen[message] = true
		d.check(t, text, "components", "messages", message, "payload")
	}
	for message := range d.at("components", "messages").(map[string]any) {
		if !seen[message] {
			t.Errorf("%s has no sample", message)
		}
		if d.at("channels", "session", "messages", message) == nil {
			t.Errorf("%s is on no channel", message)
		}
	}
}
