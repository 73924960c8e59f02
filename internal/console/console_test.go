package console

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The policy has no more of a host than a host, whatever the request says that it is.
func TestConsolePolicy(t *testing.T) {
	for host, named := range map[string]bool{"localhost:9187": true, "[::1]:9187": true, "console.example": true, "": false,
		"evil.example; script-src *": false, "a b": false, "x'unsafe-inline'": false, "a,b": false, "*": false} {
		p := policy(host)
		if strings.Contains(p, "ws://") != named || named && !strings.Contains(p, "ws://"+host+" wss://"+host+";") {
			t.Errorf("for %q it is %s", host, p)
		}
		if strings.Count(p, "script-src") != 1 || strings.Contains(p, "unsafe") || strings.Contains(p, "*") {
			t.Errorf("for %q it is %s", host, p)
		}
	}
}

// What goes wrong is answered with an error that the page can show; where the page is, is said to
// who asks without the slash.
func TestAnswers(t *testing.T) {
	c := New(&Options{Shown: func(token string) bool { return token == "right" }, Me: func() Me { return Me{Version: "v1"} },
		Health: func(context.Context, bool) (Health, error) { return Health{}, errors.New("it is dark") }, Socket: http.NotFoundHandler()})
	for _, q := range []struct {
		method, path, token string
		status              int
		text                string
	}{
		{"GET", "/console", "", 308, ""},
		{"GET", "/console/", "", 200, "<html"},
		{"POST", "/console/", "", 405, ""},
		{"GET", "/console/../console.go", "", 307, ""},
		{"GET", "/console/api/none", "right", 404, `"code":"not_found"`},
		{"GET", "/console/api/me", "", 200, `"token":true,"signedIn":false,"version":""`},
		{"GET", "/console/api/me", "wrong", 200, `"signedIn":false,"version":""`},
		{"GET", "/console/api/me", "right", 200, `"signedIn":true,"version":"v1"`},
		{"GET", "/console/api/health", "", 401, `"code":"unauthenticated"`},
		{"GET", "/console/api/health", "right", 500, `{"error":{"code":"internal","hint":"","message":"it is dark"}}`},
		{"GET", "/console/api/docs", "right", 200, `{"groups":[{"title":"Start"`},
		{"GET", "/console/api/docs/console", "right", 200, `"id":"who-may"`},
		{"GET", "/console/api/docs/none", "right", 404, `"code":"not_found"`},
		{"GET", "/console/api/docs", "", 401, ""},
		{"GET", "/console/api/docs-files/screenshot.png", "", 200, "PNG"},
		{"GET", "/console/api/docs-files/docs.go", "", 404, ""},
	} {
		r := httptest.NewRequest(q.method, q.path, nil)
		if q.token != "" {
			r.Header.Set("Authorization", "Bearer "+q.token)
		}
		w := httptest.NewRecorder()
		c.ServeHTTP(w, r)
		if w.Code != q.status || !strings.Contains(w.Body.String(), q.text) || w.Header().Get("Content-Security-Policy") == "" {
			t.Errorf("%s %s with %q: %d %.300s", q.method, q.path, q.token, w.Code, w.Body)
		}
	}
}
