package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

func rules(t testing.TB, text string) []ratelimit.Rule {
	t.Helper()
	list, err := ratelimit.ParseRules(text)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// post posts something and gives the answer's status, headers and text.
func post(t testing.TB, url, text string, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Pgcast-Event", "said")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(body)
}

// answer takes the answer to a publish.
func (p *peer) answer() wire.ServerFrame {
	p.t.Helper()
	for {
		f, err := p.read()
		if err != nil {
			p.t.Fatal(err)
		}
		if f.Type == wire.Published || f.Type == wire.Error {
			return f
		}
	}
}

// Two servers on one Redis let through together what one would: over WebSocket, over HTTP,
// and connections. Orders given to one hold on both.
func TestLimitsOfTwoServers(t *testing.T) {
	t.Parallel()
	db, redis := pgtest.New(t, nil), redistest.Start(t)
	set := func(o *Options) {
		o.Live.RedisURL = redis.URL
		o.Live.RateLimits = rules(t, "publish topic 1/168h burst 60, history ip 1/168h burst 4, connect ip 1/168h burst 8")
	}
	a, b := start(t, db.URL, set).awaitReady(t), start(t, db.URL, set).awaitReady(t)

	const each = 20
	through := make(chan bool, 1000)
	var all sync.WaitGroup
	for i := range 8 { // the connections there may be
		r := []*running{a, b}[i%2]
		p := r.dial(t)
		all.Go(func() {
			for n := range each {
				p.send(fmt.Sprintf(`{"type":"publish","ref":%d,"topic":"a","event":"said"}`, n))
				f := p.answer()
				if f.Type == wire.Error && (f.Code != pgcast.CodeRateLimited || f.RetryAfter <= 0 || string(f.Ref) != fmt.Sprint(n)) {
					t.Errorf("got %+v", f)
				}
				through <- f.Type == wire.Published
			}
		})
		all.Go(func() {
			for range each / 2 {
				status, header, text := post(t, "http://"+r.listen+"/topics/a/events", "{}")
				if status != http.StatusCreated && (status != http.StatusTooManyRequests || header.Get("Retry-After") == "") {
					t.Errorf("got %d %s", status, text)
				}
				through <- status == http.StatusCreated
			}
		})
	}
	all.Wait()
	close(through)
	n := 0
	for ok := range through {
		if ok {
			n++
		}
	}
	if n != 60 {
		t.Errorf("%d publishes came through; want 60", n)
	}
	if got := pgtest.Value[int64](t, db, "select count(*) from pgcast.event_log"); got != 60 {
		t.Errorf("%d events were published", got)
	}

	refused := func(r *running) (int, string) {
		_, res, err := websocket.Dial(t.Context(), "ws://"+r.listen+"/ws", nil)
		if err == nil || res == nil {
			t.Fatalf("connecting: %v", err)
		}
		return res.StatusCode, res.Header.Get("Retry-After")
	}
	for _, r := range []*running{a, b, a} {
		if status, after := refused(r); status != http.StatusTooManyRequests || after == "" {
			t.Errorf("one connection too many is answered with %d, Retry-After %s", status, after)
		}
	}
	for i, r := range []*running{a, b, a, b, a, b} {
		if status, text := get(t, "http://"+r.listen+"/topics/a/events"); status != map[bool]int{true: 200, false: 429}[i < 4] {
			t.Errorf("read %d: %d %s", i, status, text)
		}
	}

	order := func(r *running, what, text string, want int) {
		t.Helper()
		if status, _, answer := post(t, "http://"+r.admin+"/limits/"+what, text); status != want {
			t.Errorf("%s %s: %d %s; want %d", what, text, status, answer, want)
		}
	}
	order(b, "reset", `{"by":"ip","key":"127.0.0.1"}`, 204)
	for _, r := range []*running{a, b} {
		if status, text := get(t, "http://"+r.listen+"/topics/a/events"); status != 200 {
			t.Errorf("after the reset: %d %s", status, text)
		}
	}
	order(a, "ban", `{"by":"ip","key":"127.0.0.1","for":"1h"}`, 204)
	for _, r := range []*running{a, b} {
		if status, text := get(t, "http://"+r.listen+"/topics/a/events"); status != 429 || !strings.Contains(text, "ban") {
			t.Errorf("banned: %d %s", status, text)
		}
		if status, after := refused(r); status != 429 || after == "" {
			t.Errorf("banned, and connecting is answered with %d, Retry-After %s", status, after)
		}
	}
	order(b, "unban", `{"by":"ip","key":"127.0.0.1"}`, 204)
	order(b, "reset", `{"by":"topic","key":"a"}`, 204)
	for _, r := range []*running{a, b} {
		if status, _, text := post(t, "http://"+r.listen+"/topics/a/events", "{}"); status != 201 {
			t.Errorf("after the ban: %d %s", status, text)
		}
		r.dial(t)
	}
	_, text := get(t, "http://"+a.admin+"/metrics")
	for _, line := range []string{`pgcast_ratelimit_checks_total{outcome="banned",verb="history"} 1`, `pgcast_ratelimit_denials_total{key="topic",verb="publish"}`, `pgcast_ratelimit_checks_total{outcome="allowed",verb="connect"}`} {
		if !strings.Contains(text, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
}

// While Redis does not answer, the fallback of the setting decides.
func TestLimitsWithoutRedis(t *testing.T) {
	t.Parallel()
	db, redis := pgtest.New(t, nil), redistest.Start(t)
	with := func(f ratelimit.Fallback) *running {
		return start(t, db.URL, func(o *Options) {
			o.Live.RedisURL, o.Live.RateLimitFallback = redis.URL, f
			o.Live.RateLimits = rules(t, "publish ip 1/168h burst 2, subscribe session 1/168h burst 2")
		}).awaitReady(t)
	}
	local, open, closed := with(ratelimit.Local), with(ratelimit.Open), with(ratelimit.Closed)
	p := closed.dial(t)
	redis.Kill()
	for _, c := range []struct {
		r    *running
		want [3]int
	}{{local, [3]int{201, 201, 429}}, {open, [3]int{201, 201, 201}}, {closed, [3]int{503, 503, 503}}} {
		for i, want := range c.want {
			status, header, text := post(t, "http://"+c.r.listen+"/topics/a/events", "{}")
			if status != want || (status >= 400) != (header.Get("Retry-After") != "") {
				t.Errorf("%s, publish %d: %d %s; want %d", c.r.opts.Live.RateLimitFallback, i, status, text, want)
			}
		}
	}
	p.send(`{"type":"subscribe","topic":"a","ref":1}`)
	if f := p.want(wire.SubscribeDenied); f.Reason != wire.ReasonInternal {
		t.Errorf("got %+v", f)
	}
	if f := p.want(wire.Error); f.Code != pgcast.CodeUnavailable || f.RetryAfter != 1000 || string(f.Ref) != "1" {
		t.Errorf("got %+v", f)
	}
	if status, _, text := post(t, "http://"+local.admin+"/limits/ban", `{"by":"ip","key":"127.0.0.1","for":"1h"}`); status != 503 || !strings.Contains(text, "this server alone") {
		t.Errorf("a ban is answered with %d %s", status, text)
	}
	redis.Restart()
	await(t, "Redis decides again", func() bool {
		status, _, _ := post(t, "http://"+closed.listen+"/topics/a/events", "{}")
		return status == 201
	})
}

// Orders that cannot be read are refused, and so are those that come from a browser.
func TestLimitOrders(t *testing.T) {
	t.Parallel()
	r := start(t, pgtest.New(t, nil).URL, func(o *Options) { o.Live.RateLimits = rules(t, "publish session 50/1s burst 100 block 10s") }).awaitReady(t)
	const good = `{"by":"ip","key":"2001:db8::1","for":"10m"}`
	for _, c := range []struct {
		what, text string
		want       int
		header     []string
	}{
		{"ban", good, 204, nil},
		{"ban", good, 403, []string{"Origin", "http://127.0.0.1:9187"}},
		{"ban", good, 403, []string{"Sec-Fetch-Site", "none"}},
		{"ban", good, 415, []string{"Content-Type", "text/plain"}},
		{"ban", `{"by":"ip","key":"2001:db8::1"}`, 400, nil},
		{"ban", `{"by":"ip","key":"2001:db8::1","for":"10"}`, 400, nil},
		{"ban", `{"by":"ip","key":"2001:db8::1","for":"-1h"}`, 400, nil},
		{"ban", `{"by":"ip","key":"nobody","for":"1h"}`, 400, nil},
		{"ban", `{"by":"name","key":"nobody","for":"1h"}`, 400, nil},
		{"ban", `{"by":"ip","key":"2001:db8::1","for":"10m","why":"x"}`, 400, nil},
		{"ban", good + good, 400, nil},
		{"ban", ``, 400, nil},
		{"ban", `{"by":"session","for":"1h","key":"` + strings.Repeat("x", maxOrder) + `"}`, 400, nil},
		{"unban", `{"by":"session","key":""}`, 400, nil},
		{"reset", `{"by":"session","key":"x"}`, 204, nil},
		{"pardon", good, 404, nil},
	} {
		if status, _, text := post(t, "http://"+r.admin+"/limits/"+c.what, c.text, c.header...); status != c.want {
			t.Errorf("%s %.60s %v: %d %s; want %d", c.what, c.text, c.header, status, text, c.want)
		}
	}
	if status, _, _ := post(t, "http://"+r.listen+"/limits/ban", good); status != 404 {
		t.Errorf("the public listener answers orders with %d", status)
	}
	var list struct {
		Rules []string
		Bans  []limitOrder
	}
	_, text := get(t, "http://"+r.admin+"/limits")
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list.Rules) != 1 || list.Rules[0] != "publish session 50/1s burst 100 block 10s" ||
		len(list.Bans) != 1 || list.Bans[0].By != "ip" || list.Bans[0].Key != "2001:db8::/64" || !strings.HasSuffix(list.Bans[0].For, "s") {
		t.Errorf("listed is %s, %v", text, err)
	}
	if status, _, text := post(t, "http://"+r.admin+"/limits/unban", `{"by":"ip","key":"2001:db8::1"}`); status != 204 {
		t.Errorf("%d %s", status, text)
	}
	if _, text := get(t, "http://"+r.admin+"/limits"); !strings.Contains(text, `"bans":[]`) {
		t.Errorf("listed is %s", text)
	}
}
