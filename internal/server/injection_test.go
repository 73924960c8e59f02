package server

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// TestInjectionByHTTP sends what would become part of a statement in all that reaches the
// database from a request. It is refused, or taken for what it says; never run, never an
// error of the server's.
func TestInjectionByHTTP(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `create sequence public.loot; create table public.m (id int primary key, room text); select pgcast.attach('public.m', topic => 'room:{room}'); insert into public.m values (1, 'a')`)
	r := start(t, db.URL, nil).awaitReady(t)
	const hit = "select nextval('public.loot')"
	asked := 0
	for _, frame := range []string{`'; HIT; --`, `'||(HIT)||'`, `"; HIT; --`, `$$; HIT; --`, `); HIT; --`, `\'; HIT; --`, `%27; HIT; --`, `{id}'; HIT`, `1; HIT`, `0 union HIT`, `(HIT)`, "\u02bc; HIT; --", "*'; HIT; --", `room:'; HIT; --`,
		`~null'; HIT`, `%s'; HIT; --`, `1-1'; HIT`, `-1)); HIT; --`} {
		text := strings.ReplaceAll(frame, "HIT", hit)
		q := url.QueryEscape(text)
		for _, path := range []string{
			"/topics/" + url.PathEscape(text) + "/events", "/topics/" + url.PathEscape("room:"+text) + "/snapshot", "/topics/" + url.PathEscape(text+":*") + "/events?after=0",
			"/topics/room:a/events?after=" + q, "/topics/room:a/events?after=0&id=" + q, "/topics/room:a/events?limit=" + q, "/topics/room:a/snapshot?after=" + q,
			"/topics/" + url.PathEscape(text) + "/presence", "/groups/" + url.PathEscape(text), "/topics/room:a/events?" + q + "=1",
		} {
			status, answer := get(t, "http://"+r.listen+path)
			asked++
			if status == 0 || status >= 500 {
				t.Errorf("GET %s: %d %s", path, status, answer)
			}
		}
		for _, header := range [][2]string{{"Pgcast-Event", text}, {"Idempotency-Key", text}, {"Last-Event-ID", text}} {
			for _, path := range []string{"/topics/room:a/events", "/topics/" + url.PathEscape(text) + "/events"} {
				req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+r.listen+path, strings.NewReader(`{"a":1}`))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Pgcast-Event", "said")
				req.Header.Set(header[0], text)
				res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				asked++
				if _ = res.Body.Close(); res.StatusCode >= 500 {
					t.Errorf("POST %s with %s: %q: %d", path, header[0], text, res.StatusCode)
				}
			}
		}
	}
	t.Logf("%d requests", asked)
	if pgtest.Value[bool](t, db, "select is_called from public.loot") {
		t.Error("something was injected")
	}
	if n := pgtest.Value[int](t, db, "select count(*)::int from pgcast.event_log where topic = 'room:a' and event = 'said'"); n == 0 {
		t.Error("nothing was published")
	}
}
