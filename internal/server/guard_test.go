package server

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// inquire sends a request with headers, by pairs, and gives the answer; no redirect is
// followed.
func inquire(t testing.TB, method, url string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	res, err := (&http.Client{Timeout: within, Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

// S26: of the public port only its own paths are there, whatever one tries; the admin port
// wants its token, has no profiles unless told to, and takes no orders from browsers. Every
// answer of either tells browsers to run nothing of it and show it in no frame.
func TestS26Listeners(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	const token = "0123456789abcdef0123456789abcdef"
	r := start(t, db.URL, func(o *Options) { o.AdminToken = token }).awaitReady(t)
	public, admin := "http://"+r.listen, "http://"+r.admin
	guarded := func(res *http.Response) {
		t.Helper()
		h := res.Header
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" ||
			!strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") || !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("%s: %v", res.Request.URL, h)
		}
		if h.Get("Strict-Transport-Security") != "" || h.Get("Server") != "" || h.Get("X-Powered-By") != "" {
			t.Errorf("%s: %v", res.Request.URL, h)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/openapi.json", "/asyncapi.json", "/topics/a/events"} {
		res, _ := inquire(t, http.MethodGet, public+path)
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s gives %d", path, res.StatusCode)
		}
		guarded(res)
	}
	for _, path := range []string{"/", "/metrics", "/limits", "/limits/ban", "/limits/unban", "/limits/reset", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/profile",
		"/debug/pprof/trace", "/debug/vars", "/admin", "/revoke", "/dev/", "/dev/sql", "/console", "/.env", "/.git/config", "/server-status", "/actuator/env",
		"/wp-login.php", "/index.html", "/favicon.ico", "/robots.txt", "//metrics", "/./metrics", "/topics/../metrics", "/topics/%2e%2e/metrics", "/%6detrics",
		"/metrics/", "/METRICS", "/metrics%00", "/ws/../metrics", "/groups/../limits"} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodTrace, "DEBUG"} {
			res, text := inquire(t, method, public+path, "Authorization", "Bearer "+token, "Content-Type", "application/json")
			if res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("%s %s gives %d %.100s", method, path, res.StatusCode, text)
			}
			if strings.Contains(text, "pgcast_") || strings.Contains(text, "goroutine") {
				t.Errorf("%s %s tells %.100s", method, path, text)
			}
			guarded(res)
		}
	}

	for _, c := range []struct {
		method, path string
		header       []string
		want         int
	}{
		{"GET", "/healthz", nil, 200}, {"GET", "/readyz", nil, 200},
		{"GET", "/metrics", nil, 401}, {"GET", "/limits", nil, 401}, {"GET", "/nosuch", nil, 401}, {"GET", "/debug/pprof/", nil, 401},
		{"GET", "/metrics", []string{"Authorization", "Bearer " + token}, 200},
		{"GET", "/metrics", []string{"Authorization", "bearer " + token}, 200},
		{"GET", "/metrics", []string{"Authorization", "Bearer " + token, "Host", "admin.internal"}, 200},
		{"GET", "/limits", []string{"Authorization", "Bearer " + token}, 200},
		{"GET", "/debug/pprof/", []string{"Authorization", "Bearer " + token}, 404},
		{"GET", "/metrics", []string{"Authorization", "Bearer " + token[:31]}, 401},
		{"GET", "/metrics", []string{"Authorization", "Bearer " + token + "0"}, 401},
		{"GET", "/metrics", []string{"Authorization", "Bearer "}, 401}, {"GET", "/metrics", []string{"Authorization", token}, 401},
		{"GET", "/metrics", []string{"Authorization", "Basic " + token}, 401},
		{"GET", "/metrics?token=" + token, nil, 401}, {"GET", "/metrics", []string{"Cookie", "token=" + token}, 401},
		{"GET", "/healthz/../metrics", nil, 401}, {"GET", "//healthz", nil, 401},
		{"POST", "/limits/reset", []string{"Content-Type", "application/json"}, 401},
		{"POST", "/limits/reset", []string{"Authorization", "Bearer " + token, "Content-Type", "application/json", "Origin", admin}, 403},
		{"POST", "/limits/reset", []string{"Authorization", "Bearer " + token, "Content-Type", "application/json", "Origin", "null"}, 403},
		{"POST", "/limits/reset", []string{"Authorization", "Bearer " + token, "Content-Type", "application/json", "Sec-Fetch-Site", "same-origin"}, 403},
		{"POST", "/limits/reset", []string{"Authorization", "Bearer " + token, "Content-Type", "text/plain"}, 415},
		{"POST", "/limits/reset", []string{"Authorization", "Bearer " + token, "Content-Type", "application/json"}, 400},
		{"POST", "/metrics", []string{"Authorization", "Bearer " + token}, 405},
	} {
		res, text := inquire(t, c.method, admin+c.path, c.header...)
		if res.StatusCode != c.want {
			t.Errorf("%s %s with %v gives %d; want %d", c.method, c.path, c.header, res.StatusCode, c.want)
		}
		if c.want == 401 && res.Header.Get("WWW-Authenticate") != "Bearer" || strings.Contains(text, token) {
			t.Errorf("%s %s: %v %s", c.method, c.path, res.Header, text)
		}
		guarded(res)
	}

	// Without a token the admin port, on loopback, answers to the names of loopback only.
	bare := start(t, db.URL, func(o *Options) { o.Profile = true }).awaitReady(t)
	for host, want := range map[string]int{bare.admin: 200, "localhost": 200, "rebound.example": 403, "127.0.0.1.rebound.example:80": 403, "10.1.2.3": 403} {
		for _, path := range []string{"/metrics", "/limits", "/debug/pprof/heap"} {
			if res, _ := inquire(t, http.MethodGet, "http://"+bare.admin+path, "Host", host); res.StatusCode != want {
				t.Errorf("%s of %s gives %d; want %d", path, host, res.StatusCode, want)
			}
		}
	}
	if _, err := New(&Options{DatabaseURL: db.URL, AdminToken: "short"}); err == nil || !strings.Contains(err.Error(), "too short") {
		t.Errorf("a short token: %v", err)
	}
}

// S27: pages of other origins may read nothing unless they are on the list; the answer names
// the page's origin itself, never all of them, and credentials never to a page that is not
// on the list.
func TestS27CORS(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	r := start(t, db.URL, func(o *Options) {
		o.AllowedOrigins = []string{"https://app.example.com", "*.example.org", "localhost:5173"}
	}).awaitReady(t)
	for origin, may := range map[string]bool{
		"": true, "http://" + r.listen: true, "https://app.example.com": true, "https://APP.example.com": true, "https://a.example.org": true, "http://localhost:5173": true,
		"http://app.example.com": false, "https://app.example.com:444": false, "https://app.example.com.evil.example": false, "https://evil-app.example.com": false,
		"https://example.org": false, "https://a.example.org.evil.example": false, "https://evilexample.org": false, "null": false, "https://": false, "*": false,
		"http://localhost:5174": false, "http://localhost": false, "file://": false, "https://xn--pp-example-com": false, "https://аpp.example.com": false,
		"https://app.example.com@evil.example": false, "https://evil.example/app.example.com": false, "https://evil.example#app.example.com": false,
	} {
		for _, method := range []string{http.MethodGet, http.MethodOptions, http.MethodPost} {
			for _, path := range []string{"/topics/a/events", "/topics/a/sse", "/topics/a/presence", "/healthz", "/metrics"} {
				if path == "/topics/a/sse" && method == http.MethodGet && (may || origin == "") {
					continue // goes on for ever
				}
				var header []string
				if origin != "" {
					header = []string{"Origin", origin, "Access-Control-Request-Method", "GET"}
				}
				res, _ := inquire(t, method, "http://"+r.listen+path, header...)
				h := res.Header
				allowed := h.Get("Access-Control-Allow-Origin")
				switch {
				case allowed == "":
				case !may || allowed != origin || allowed == "*":
					t.Errorf("%s %s from %q: Access-Control-Allow-Origin %q", method, path, origin, allowed)
				case !strings.Contains(strings.Join(h.Values("Vary"), ","), "Origin"):
					t.Errorf("%s %s from %q is the same for all to a cache", method, path, origin)
				}
				if h.Get("Access-Control-Allow-Credentials") != "" && !may {
					t.Errorf("%s %s from %q: credentials", method, path, origin)
				}
				if strings.HasPrefix(path, "/topics/") && !may && res.StatusCode != http.StatusForbidden && res.StatusCode != http.StatusMethodNotAllowed {
					t.Errorf("%s %s from %q gives %d", method, path, origin, res.StatusCode)
				}
			}
		}
	}
}
