package static

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/fstest"
)

func TestHandler(t *testing.T) {
	h := Handler("/client/", fstest.MapFS{"index.js": {Data: []byte("export {}")}, "a/b.svg": {Data: []byte("<svg/>")}})
	get := func(path, tag string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("If-None-Match", tag)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	first := get("/client/index.js", "")
	if first.Code != 200 || first.Body.String() != "export {}" || first.Header().Get("Content-Type") != "text/javascript; charset=utf-8" {
		t.Errorf("got %d %q %v", first.Code, first.Body, first.Header())
	}
	if again := get("/client/index.js", first.Header().Get("ETag")); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("asked again with its tag: %d %q", again.Code, again.Body)
	}
	if w := get("/client/a/b.svg", ""); w.Code != 200 || w.Header().Get("Content-Type") != "image/svg+xml" {
		t.Errorf("got %d %v", w.Code, w.Header())
	}
	for _, path := range []string{"/client/", "/client/a", "/client/../static.go", "/client/none.js"} {
		if w := get(path, ""); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}
