package server

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast/internal/auth/authtest"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/internal/wire"
)

// S35: through a run with all that goes wrong (wrong credentials, garbage, a database and a
// Redis that go away, a handler that panics) nothing secret is in the log, at its most
// talkative, nor in metrics, nor in what is answered: no password, key, token, ticket or payload.
func TestS35Canaries(t *testing.T) {
	t.Parallel()
	const (
		dsn, redisPassword = "CANARY-dsn-41f2%21", "CANARY-redis-9a3c"
		adminToken         = "CANARY-admin-77d0e5b1"
		payload            = "CANARY-payload-5f1b"
	)
	db, redis, key := pgtest.New(t, nil), redistest.Start(t), authtest.New(t, "HS256")
	if got := redis.Do("ACL", "SETUSER", "app", "on", ">"+redisPassword, "~*", "&*", "+@all"); got != "+OK" {
		t.Fatal(got)
	}
	db.Exec(t, `select pgcast.allow('{connect,subscribe,history,snapshot,publish,presence,cursor,group}', '**')`)
	apiKey := pgtest.Value[string](t, db, `select pgcast.create_api_key('backend', '{publish}', '{**}')`)
	proxy, log := pgtest.NewProxy(t, db.URL), &journal{}
	r := start(t, strings.Replace(proxy.URL, "postgres@", "postgres:"+dsn+"@", 1), func(o *Options) {
		o.DirectDatabaseURL = strings.Replace(db.URL, "postgres@", "postgres:"+dsn+"@", 1)
		o.Live.RedisURL = strings.Replace(redis.URL, "redis://", "redis://app:"+redisPassword+"@", 1)
		o.Access = AccessOptions{On: true, Secret: key.Secret()}
		o.AdminToken = adminToken
		o.Logger = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		o.Public = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			panic(fmt.Sprintf("%s with %s of %s", r.Header.Get("Authorization"), o.DatabaseURL, o.Live.RedisURL))
		})
	}).awaitReady(t)
	if !strings.Contains(r.opts.DatabaseURL, dsn) {
		t.Fatalf("no place for a password in %s", proxy.URL)
	}
	token := key.Token(t, map[string]any{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix(), "email": "CANARY-claim@example.com"})
	old := key.Token(t, map[string]any{"sub": "CANARY-sub", "exp": time.Now().Add(-time.Hour).Unix()})
	forged := authtest.New(t, "HS256").Token(t, map[string]any{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix()})
	secrets := []string{"CANARY", key.Secret(), token, old, forged, apiKey, strings.TrimPrefix(apiKey, "pgk_")}
	var answers strings.Builder // to those who are told nothing of what others have sent
	url := "http://" + r.listen
	try := func(method, path string, header ...string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(`{"secret":"`+payload+`","x":"\u0000"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Pgcast-Event", "said")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := (&http.Client{Timeout: within, Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			return "" // the panic
		}
		defer res.Body.Close()
		text := make([]byte, 1<<16)
		n, _ := res.Body.Read(text)
		fmt.Fprintf(&answers, "%d %v %s\n", res.StatusCode, res.Header, text[:n])
		return string(text[:n])
	}
	garbage := func() {
		for _, credential := range []string{old, forged, token + "x", apiKey + "x", "CANARY-garbage", "pgk_CANARY_CANARY", token + "." + token} {
			try(http.MethodGet, "/topics/a/events", "Authorization", "Bearer "+credential)
			try(http.MethodGet, "/topics/a/events?ticket=CANARY-ticket")
			try(http.MethodGet, "/topics/a/events?access_token="+credential)
			try(http.MethodPost, "/__ws/auth", "Authorization", "Bearer "+credential, "X-Requested-With", "XMLHttpRequest")
			ws, _, err := websocket.Dial(t.Context(), "ws://"+r.listen+"/ws", &websocket.DialOptions{Subprotocols: []string{"pgcast", "pgcast.token." + credential}})
			if err == nil {
				_, reason := (&peer{t, ws}).closed()
				fmt.Fprintln(&answers, reason)
			}
			ws, _, err = websocket.Dial(t.Context(), "ws://"+r.listen+"/ws", nil)
			if err == nil {
				p := &peer{t, ws}
				p.send(`{"type":"hello","token":"` + credential + `"}`)
				_, reason := p.closed()
				fmt.Fprintln(&answers, reason)
			}
		}
		try(http.MethodGet, "/boom", "Authorization", "Bearer "+token)
		try(http.MethodPost, "/topics/a/events", "Authorization", "Bearer "+token)  // no text of Postgres can have that
		try(http.MethodPost, "/topics/a/events", "Authorization", "Bearer "+apiKey) // nor that
		try(http.MethodPost, "/topics/a/events", "Authorization", "Bearer "+token, "Idempotency-Key", strings.Repeat("x", 300))
	}
	garbage()
	ws, _, err := websocket.Dial(t.Context(), "ws://"+r.listen+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	p := &peer{t, ws}
	p.send(`{"type":"subscribe","topic":"a"}`)
	p.want(wire.Subscribed)
	p.send(`{"type":"publish","ref":1,"topic":"a","event":"said","data":"` + payload + `"}`)
	p.want(wire.Event) // that it is told
	for _, frame := range []string{`{"type":"publish","topic":"a","event":"said","data":"` + payload + `\u0000"}`, `{"type":"publish","data":"` + payload + `","data":1}`,
		`{"type":"presence","op":"join","topic":"a","data":{"id":"x","secret":"` + payload + `"}}`, payload, `{"type":"auth","token":"` + old + `"}`} {
		p.send(frame)
	}
	ticket := try(http.MethodPost, "/tickets", "Authorization", "Bearer "+token)
	answers.Reset() // that is for whom it was issued
	if _, after, ok := strings.Cut(ticket, `"ticket":"`); ok {
		ticket, _, _ = strings.Cut(after, `"`)
	} else {
		t.Fatalf("got %s", ticket)
	}
	secrets = append(secrets, ticket)
	try(http.MethodGet, "/topics/b/events?ticket="+ticket)
	try(http.MethodGet, "/topics/b/events?ticket="+ticket)

	redis.Kill()
	proxy.Hold(true)
	proxy.Cut()
	await(t, "it is noticed", func() bool { return strings.Contains(log.String(), "the database cannot be read") })
	garbage()
	proxy.Hold(false)
	proxy.Cut()
	redis.Restart()
	await(t, "it goes on", func() bool { return r.ready(t) })
	garbage()
	_, metrics := inquire(t, http.MethodGet, "http://"+r.admin+"/metrics", "Authorization", "Bearer "+adminToken)
	if err := r.stop(); err != nil {
		t.Error(err)
	}

	if !strings.Contains(log.String(), "panic serving") || strings.Count(log.String(), "\n") < 20 {
		t.Errorf("the log is not that of a run in which much went wrong:\n%s", log)
	}
	for where, text := range map[string]string{"the log": log.String(), "the metrics": metrics, "the answers": answers.String()} {
		for _, secret := range secrets {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("%s: %q stands in %s", where, secret, text[max(0, at-300):min(len(text), at+300)])
			}
		}
	}
	t.Logf("%d bytes of log, %d of answers: 0 secrets", len(log.String()), answers.Len())
}
