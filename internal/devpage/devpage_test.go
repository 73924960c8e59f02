package devpage

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

func serve(t *testing.T, o Options) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(Handler(o))
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// The page and everything it loads come from this server, under a policy that allows
// nothing else.
func TestFiles(t *testing.T) {
	s := serve(t, Options{Pool: pgtest.New(t, nil).Pool(t), Demo: true})
	resp, html := get(t, s.URL+"/")
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		t.Fatalf("/ is %s, %s", resp.Status, resp.Header.Get("Content-Type"))
	}
	if strings.Contains(html, "style=") || strings.Contains(html, "onclick") || regexp.MustCompile(`<script[^>]*>[^<]`).MatchString(html) {
		t.Error("the page has something inline, which its policy forbids")
	}
	todo := []string{}
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"#]+)"`).FindAllStringSubmatch(html, -1) {
		todo = append(todo, m[1])
	}
	seen := map[string]bool{}
	for len(todo) > 0 {
		path := todo[0]
		todo = todo[1:]
		if seen[path] {
			continue
		}
		seen[path] = true
		if !strings.HasPrefix(path, "/") {
			t.Errorf("the page loads %s from elsewhere", path)
			continue
		}
		resp, text := get(t, s.URL+path)
		if resp.StatusCode != 200 || resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("ETag") == "" {
			t.Errorf("%s: %s, %v", path, resp.Status, resp.Header)
		}
		switch kind := resp.Header.Get("Content-Type"); {
		case strings.HasSuffix(path, ".js"):
			if kind != "text/javascript; charset=utf-8" {
				t.Errorf("%s is %s: a browser will not run it", path, kind)
			}
			if n := strings.Count(text, "\n"); n > 400 {
				t.Errorf("%s has %d lines", path, n)
			}
			for _, m := range regexp.MustCompile(`from '\./([^']+)'`).FindAllStringSubmatch(text, -1) {
				todo = append(todo, "/dev/"+m[1])
			}
		case strings.HasSuffix(path, ".css") && strings.Contains(text, "url("):
			t.Errorf("%s loads something", path)
		}
	}
	entries, err := files.ReadDir("page")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := "/dev/" + e.Name(); !seen[name] && e.Name() != "index.html" {
			t.Errorf("nothing loads %s", name)
		}
	}
}

func TestPolicy(t *testing.T) {
	s := serve(t, Options{Pool: pgtest.New(t, nil).Pool(t), Demo: true})
	host := strings.TrimPrefix(s.URL, "http://")
	for path, want := range map[string]string{
		"/": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws://" + host + " wss://" + host +
			"; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
		"/dev/info":    "default-src 'none'; frame-ancestors 'none'",
		"/dev/nothing": "default-src 'none'; frame-ancestors 'none'",
		"/nothing":     "default-src 'none'; frame-ancestors 'none'",
	} {
		resp, _ := get(t, s.URL+path)
		if got := resp.Header.Get("Content-Security-Policy"); got != want {
			t.Errorf("%s:\n got %s\nwant %s", path, got, want)
		}
	}
	resp, _ := get(t, s.URL+"/dev/example.html")
	got := resp.Header.Get("Content-Security-Policy")
	if !regexp.MustCompile(`^default-src 'none'; script-src 'sha256-[^']{44}'; connect-src 'self' `).MatchString(got) || strings.Contains(got, "unsafe") {
		t.Errorf("/dev/example.html: %s", got)
	}
	// What cannot be a host name gets no way into the header.
	for _, host := range []string{"a b", "a;script-src *", "", "a'b"} {
		if got := pagePolicy(host); strings.Contains(got, "ws://") {
			t.Errorf("host %q: %s", host, got)
		}
	}
}

func TestNotFound(t *testing.T) {
	s := serve(t, Options{Pool: pgtest.New(t, nil).Pool(t)})
	for _, path := range []string{"/nothing", "/dev/", "/dev/index.html", "/dev/..%2fdevpage.go", "/dev/page", "/index.html"} {
		if resp, _ := get(t, s.URL+path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}

func TestExample(t *testing.T) {
	pool := pgtest.New(t, nil).Pool(t)
	_, with := get(t, serve(t, Options{Pool: pool, Demo: true}).URL+"/dev/example.html")
	_, without := get(t, serve(t, Options{Pool: pool}).URL+"/dev/example.html")
	if !strings.Contains(with, "topic: 'room:1'") || !strings.Contains(without, "topic: 'notes'") || strings.Contains(without, "room:1") {
		t.Errorf("with the demo:\n%s\nwithout:\n%s", with, without)
	}
	if n := strings.Count(with, "\n"); n > 24 {
		t.Errorf("the example has %d lines; it is to be read at a glance", n)
	}
}

func TestInfoAndHead(t *testing.T) {
	db := pgtest.New(t, nil)
	s := serve(t, Options{Pool: db.Pool(t), Version: "v1", Demo: true, Command: "go run .", Metrics: func() string { return "http://m" }, Console: func() string { return "http://c" }})
	_, text := get(t, s.URL+"/dev/info")
	var info map[string]any
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		t.Fatal(err)
	}
	if info["version"] != "v1" || info["demo"] != true || info["command"] != "go run ." || info["metrics"] != "http://m" || info["console"] != "http://c" || info["postgres"] == nil {
		t.Errorf("info is %s", text)
	}
	var head struct{ Position, Clock int64 }
	resp, text := get(t, s.URL+"/dev/head")
	if err := json.Unmarshal([]byte(text), &head); err != nil || head.Position != 0 {
		t.Errorf("head of an empty log is %s (%v)", text, err)
	}
	now := pgtest.Value[int64](t, db, "select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
	if late := now - head.Clock; late < 0 || late > patience.Microseconds() {
		t.Errorf("its clock is %d µs behind the database's", late)
	}
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("it may be cached: %q", got)
	}
}

// Without the database the page still comes, and says what is wrong.
func TestDatabaseGone(t *testing.T) {
	pool := pgtest.New(t, nil).Pool(t)
	pool.Close()
	s := serve(t, Options{Pool: pool, Version: "v1"})
	if resp, _ := get(t, s.URL+"/"); resp.StatusCode != 200 {
		t.Errorf("/: %s", resp.Status)
	}
	if resp, text := get(t, s.URL+"/dev/info"); resp.StatusCode != 200 || !strings.Contains(text, `"v1"`) {
		t.Errorf("/dev/info: %s %s", resp.Status, text)
	}
	if resp, text := get(t, s.URL+"/dev/head"); resp.StatusCode != 503 || !strings.Contains(text, "cannot be asked right now") {
		t.Errorf("/dev/head: %s %s", resp.Status, text)
	}
}

func TestUnchangedFiles(t *testing.T) {
	s := serve(t, Options{Pool: pgtest.New(t, nil).Pool(t)})
	resp, _ := get(t, s.URL+"/dev/main.js")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/dev/main.js", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("If-None-Match", resp.Header.Get("ETag"))
	again, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Body.Close()
	if again.StatusCode != http.StatusNotModified {
		t.Errorf("a file that has not changed is sent again: %s", again.Status)
	}
}

// The example applications have pages of their own, under a policy that lets them load their
// own files and the client, and talk to this server.
func TestExampleApps(t *testing.T) {
	s := serve(t, Options{Pool: pgtest.New(t, nil).Pool(t)})
	host := strings.TrimPrefix(s.URL, "http://")
	for path, kind := range map[string]string{
		"/examples/": "text/html", "/examples/index.css": "text/css", "/examples/page.js": "text/javascript",
		"/examples/chat/": "text/html", "/examples/chat/index.html": "text/html", "/examples/kanban/schema.sql": "text/plain",
	} {
		resp, text := get(t, s.URL+path)
		if resp.StatusCode != 200 || text == "" || !strings.HasPrefix(resp.Header.Get("Content-Type"), kind) {
			t.Errorf("%s: %s, %v", path, resp.Status, resp.Header)
		}
		want := "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws://" + host + " wss://" + host +
			"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
		if got := resp.Header.Get("Content-Security-Policy"); got != want {
			t.Errorf("%s:\n got %s\nwant %s", path, got, want)
		}
	}
	for _, path := range []string{"/examples", "/examples/none/", "/examples/chat", "/examples/examples.go", "/examples/chat/../page.js.x"} {
		if resp, _ := get(t, s.URL+path); resp.StatusCode != http.StatusNotFound && resp.Request.URL.Path == path {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}
