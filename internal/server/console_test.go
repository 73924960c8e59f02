package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/console"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

const adminToken = "an admin token, and long enough"

// operator is somebody at the console of a server.
type operator struct {
	*running
	t     testing.TB
	token string
}

// do asks the console something, as its page does, and reads the answer into v.
func (o *operator) do(method, path string, body, v any, header ...string) int {
	o.t.Helper()
	var text io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			o.t.Fatal(err)
		}
		text = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+o.admin+"/console/api/"+path, text)
	if err != nil {
		o.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Origin", "http://"+o.admin)
	}
	if o.token != "" {
		req.Header.Set("Authorization", "Bearer "+o.token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		o.t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	if v != nil && res.StatusCode == http.StatusOK {
		if err := json.Unmarshal(got, v); err != nil {
			o.t.Fatalf("%s %s: %v in %s", method, path, err, got)
		}
	}
	if e, ok := v.(*string); ok && res.StatusCode >= 400 {
		*e = string(got)
	}
	return res.StatusCode
}

// want asks, and takes no other answer than 200.
func want[T any](o *operator, path string) (v T) {
	o.t.Helper()
	if status := o.do("GET", path, nil, &v); status != http.StatusOK {
		o.t.Fatalf("%s: %d", path, status)
	}
	return v
}

// socket makes a session by the console's door.
func (o *operator) socket(header http.Header, protocols ...string) (*peer, int) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	opts := &websocket.DialOptions{HTTPHeader: header, Subprotocols: protocols}
	if host := header.Get("Host"); host != "" {
		opts.Host = host
	}
	ws, res, err := websocket.Dial(ctx, "ws://"+o.admin+"/console/ws", opts)
	if err != nil {
		if res == nil {
			o.t.Fatal(err)
		}
		return nil, res.StatusCode
	}
	ws.SetReadLimit(2 << 20)
	o.t.Cleanup(func() { _ = ws.CloseNow() })
	return &peer{o.t, ws}, res.StatusCode
}

// The page is there for all who can connect; what it shows, and the WebSocket, for who has the
// token only.
func TestConsoleDoor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `select pgcast.allow('{subscribe,publish}', 'room:*')`)
	g := guard(t, db, 1, func(o *Options) { o.AdminToken = adminToken })[0]
	g.admin = strings.Replace(g.admin, "127.0.0.1", "localhost", 1)
	o := &operator{g.running, t, adminToken}
	stranger := &operator{g.running, t, ""}
	client := &operator{g.running, t, g.token(t, "ann")}
	for path, status := range map[string]int{"/console/": 200, "/console/none.js": 404} {
		if got, text := get(t, "http://"+g.admin+path); got != status {
			t.Errorf("%s: %d %s", path, got, text)
		}
		if got, _ := get(t, "http://"+g.listen+path); got != http.StatusNotFound {
			t.Errorf("the public listener has %s: %d", path, got)
		}
	}
	me := want[console.Me](stranger, "me")
	if !me.Token || me.SignedIn || me.Version+me.Database+me.Listen != "" || me.Access {
		t.Errorf("a stranger is told %+v", me)
	}
	if me = want[console.Me](o, "me"); !me.SignedIn || !me.Access || me.Listen != "ws://"+g.listen || !strings.HasSuffix(me.Database, "/"+db.Name) || strings.Contains(me.Database, "@") {
		t.Errorf("an operator is told %+v", me)
	}
	for _, who := range []*operator{stranger, client, {g.running, t, adminToken + "x"}} {
		for _, path := range []string{"overview", "topics", "sessions", "topic?name=room:1"} {
			if status := who.do("GET", path, nil, nil); status != http.StatusUnauthorized {
				t.Errorf("%s with %q: %d", path, who.token, status)
			}
		}
		if status := who.do("POST", "sessions/disconnect", map[string]string{"id": "1"}, nil); status != http.StatusUnauthorized {
			t.Errorf("an order with %q: %d", who.token, status)
		}
		header := http.Header{}
		if who.token != "" {
			header.Set("Authorization", "Bearer "+who.token)
			if p, status := o.socket(header); p != nil || status != http.StatusUnauthorized {
				t.Errorf("a socket with %q: %d", who.token, status)
			}
			p, _ := o.socket(nil)
			p.send(`{"type":"hello","token":"` + who.token + `"}`)
			if _, err := p.read(); websocket.CloseStatus(err) != wire.CloseUnauthenticated {
				t.Errorf("a hello with %q: %v", who.token, err)
			}
		}
	}
	p, _ := o.socket(nil)
	p.send(`{"type":"subscribe","topic":"room:1","ref":1}`)
	if _, err := p.read(); websocket.CloseStatus(err) != wire.CloseUnauthenticated {
		t.Errorf("without a token: %v", err)
	}
	// The admin token is none of a client's.
	if p, res := g.knock(t, "", "Authorization", "Bearer "+adminToken); p != nil || res.StatusCode != http.StatusUnauthorized {
		t.Errorf("a client with the admin token: %s", res.Status)
	}
	// Other pages, also with the token.
	page := http.Header{"Origin": {"https://evil.example"}, "Authorization": {"Bearer " + adminToken}}
	if p, status := o.socket(page); p != nil || status != http.StatusForbidden {
		t.Errorf("a page of another origin: %d", status)
	}
	disconnect := map[string]string{"id": "1"}
	for _, header := range [][]string{{"Origin", "https://evil.example"}, {"Origin", ""}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Content-Type", "text/plain"}} {
		if status := o.do("POST", "sessions/disconnect", disconnect, nil, header...); status != http.StatusForbidden && status != http.StatusBadRequest {
			t.Errorf("an order with %s: %d", header, status)
		}
	}
	for site, status := range map[string]int{"cross-site": 403, "same-site": 403, "same-origin": 200, "none": 200} {
		if got := o.do("GET", "sessions", nil, nil, "Sec-Fetch-Site", site); got != status {
			t.Errorf("a question of a page that is %s: %d", site, got)
		}
	}
	if status := o.do("POST", "sessions/disconnect", disconnect, nil, "Sec-Fetch-Site", "same-origin"); status != http.StatusNotFound && status != http.StatusNoContent {
		t.Errorf("an order of the page: %d", status)
	}
	for _, method := range []string{"PUT", "DELETE", "OPTIONS"} {
		if status := o.do(method, "sessions", nil, nil); status == http.StatusOK {
			t.Errorf("%s: %d", method, status)
		}
	}
}

// Where there is no token, nobody needs one; a name that leads here, but is not this machine's, is
// refused all the same.
func TestConsoleOpen(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	r := start(t, db.URL, func(o *Options) { o.AllowedOrigins = []string{"https://app.example"} }).awaitReady(t)
	o := &operator{r, t, ""}
	if me := want[console.Me](o, "me"); me.Token || !me.SignedIn || me.Access {
		t.Errorf("me is %+v", me)
	}
	res, err := http.Get("http://" + r.admin + "/console/")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	policy := res.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "connect-src 'self' ws://" + r.admin, "frame-ancestors 'none'", "base-uri 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy %q lacks %q", policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") || res.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%q, %v", policy, res.Header)
	}
	if status := o.do("GET", "me", nil, nil, "Host", "rebound.example"); status != http.StatusForbidden {
		t.Errorf("by another name: %d", status)
	}
	for _, header := range []http.Header{{"Host": {"rebound.example"}, "Origin": {"http://rebound.example"}}, {"Origin": {"https://app.example"}}, {"Origin": {"null"}}} {
		if p, status := o.socket(header); p != nil || status != http.StatusForbidden {
			t.Errorf("a page with %v: %d", header, status)
		}
	}
	p, _ := o.socket(http.Header{"Origin": {"http://" + r.admin}})
	p.want(wire.Welcome)

	off := start(t, db.URL, func(o *Options) { o.NoConsole = true }).awaitReady(t)
	for _, path := range []string{"/console", "/console/", "/console/api/me", "/console/ws"} {
		if status, _ := get(t, "http://"+off.admin+path); status != http.StatusNotFound {
			t.Errorf("%s of a server without a console: %d", path, status)
		}
	}
}

// An operator sees all there is: what happens on a topic that no rule lets anybody to, rows that
// row security hides, the sessions; and ends one, which comes back.
func TestConsoleOfAServer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	db.Exec(t, `create table public.note (id int primary key, owner text); alter table public.note enable row level security;
		create role `+db.Name+`_reader; grant select on public.note to `+db.Name+`_reader`)
	t.Cleanup(func() { dropRole(t, db, db.Name+"_reader") })
	db.Exec(t, `select pgcast.attach('public.note', topic => 'notes')`)
	db.Exec(t, `select pgcast.enforce('public.note', $1, '{sub}')`, db.Name+"_reader")
	db.Exec(t, `select pgcast.allow('{subscribe}', 'notes'); insert into pgcast.retention (pattern, max_age) values ('no*', '2 days'), ('room:*', '1 hour')`)
	g := guard(t, db, 1, func(o *Options) { o.AdminToken = adminToken; o.MaxSessionsPerSubject = 1 })[0]
	o := &operator{g.running, t, adminToken}
	p, _ := o.socket(nil)
	p.send(`{"type":"hello","token":"` + adminToken + `"}`)
	p.want(wire.Welcome)
	p.send(`{"type":"subscribe","topic":"notes","ref":1}`)
	p.want(wire.Subscribed)
	p.send(`{"type":"subscribe","topic":"__pgcast","ref":2}`)
	p.want(wire.SubscribeDenied)
	db.Exec(t, `insert into public.note values (1, 'ann')`)
	if e := p.want(wire.Event); !strings.Contains(string(e.Events[0].Data), "ann") || e.Events[0].Name != "created" {
		t.Errorf("the operator sees %s %s", e.Events[0].Name, e.Events[0].Data)
	}
	p.send(`{"type":"publish","topic":"room:1","event":"said","data":{},"ref":3}`)
	p.want(wire.Published)
	p.send(`{"type":"history","topic":"notes","after":0,"ref":4}`)
	if h := p.want(wire.History); len(h.Events) != 1 || !strings.Contains(string(h.Events[0].Data), "ann") {
		t.Errorf("history: %+v", h)
	}
	p.send(`{"type":"subscribe","topic":"notes","snapshot":true,"ref":5}`)
	if s := p.want(wire.Snapshot); !strings.Contains(fmt.Sprintf("%s", s.Rows), "ann") {
		t.Errorf("the snapshot: %s", s.Rows)
	}

	ann, _ := g.knock(t, "", "Authorization", "Bearer "+g.token(t, "ann"))
	ann.want(wire.Welcome)
	ann.send(`{"type":"subscribe","topic":"notes","ref":1}`)
	ann.want(wire.Subscribed)
	var mine console.SessionLine
	await(t, "her session is listed", func() bool {
		s := want[console.Sessions](o, "sessions?search=ANN")
		if s.Total != 1 || len(s.Sessions) != 1 || s.Server != g.listen {
			t.Fatalf("sessions of ann: %+v", s)
		}
		mine = s.Sessions[0]
		return mine.SubscriptionCount == 1 && mine.Behind == 0
	})
	if mine.Subject != "ann" || mine.Transport != "websocket" || mine.Operator || mine.Address != "127.0.0.1" || mine.Expires == nil || mine.Subscriptions[0] != "notes" || mine.Since == 0 {
		t.Errorf("her session is %+v", mine)
	}
	all := want[console.Sessions](o, "sessions?limit=1")
	if all.Total != 2 || len(all.Sessions) != 1 || all.Sessions[0].ID != mine.ID {
		t.Errorf("all sessions: %+v", all)
	}
	if s := want[console.Sessions](o, "sessions?search=%25"); s.Total != 0 {
		t.Errorf("%% is found: %+v", s)
	}
	if status := o.do("POST", "sessions/disconnect", map[string]string{"id": mine.ID}, nil); status != http.StatusNoContent {
		t.Errorf("disconnect: %d", status)
	}
	if code, reason := ann.closed(); code != wire.CloseStalled || reason != "resume" {
		t.Errorf("she is told %d %s", code, reason)
	}
	for _, id := range []string{mine.ID, "x", "", "-1"} {
		await(t, "there is no such session", func() bool {
			return o.do("POST", "sessions/disconnect", map[string]string{"id": id}, nil) == http.StatusNotFound
		})
	}

	list := want[console.Topics](o, "topics?search=O&limit=1")
	if len(list.Topics) != 1 || list.Next != "notes" || list.Topics[0].Name != "notes" {
		t.Fatalf("topics: %+v", list)
	}
	notes := list.Topics[0]
	if notes.Head != 1 || notes.Tail != 1 || notes.Rate != 1.0/60 || notes.Newest == nil || notes.Subscribers != 1 || notes.Retention.Pattern != "**" || notes.Retention.MaxAge != "7 days" {
		t.Errorf("notes is %+v", notes)
	}
	if list = want[console.Topics](o, "topics?search=o&limit=1&after=notes"); len(list.Topics) != 1 || list.Next != "" || list.Topics[0].Retention.MaxAge != "01:00:00" {
		t.Errorf("what follows: %+v", list)
	}
	if list = want[console.Topics](o, "topics?search=_"); len(list.Topics) != 0 {
		t.Errorf("_ is found in %+v", list)
	}
	if d := want[console.TopicDetail](o, "topic?name=notes"); len(d.Tables) != 1 || d.Tables[0] != "public.note" || len(d.Key) != 1 || d.Key[0] != "id" || d.Head != 1 {
		t.Errorf("notes is %+v", d)
	}
	if d := want[console.TopicDetail](o, "topic?name=never:written"); d.Head != 0 || d.Tail != 1 || len(d.Tables) != 0 {
		t.Errorf("an unwritten topic is %+v", d)
	}
	for _, bad := range []string{"topic", "topic?name=__system", "topic?name=a:*", "topics?limit=0", "topics?limit=1000", "topics?search=%00", "topics?search=%FF", "topics?after=a%00", "sessions?search=%FF", "overview?since=x"} {
		if status := o.do("GET", bad, nil, nil); status != http.StatusBadRequest {
			t.Errorf("%s: %d", bad, status)
		}
	}

	var v console.Overview
	defer func() {
		if t.Failed() {
			t.Logf("the overview: %+v", v)
		}
	}()
	await(t, "the overview knows of what happened", func() bool {
		v = want[console.Overview](o, "overview?since=0")
		events, deliveries, slowest, asked := 0.0, 0.0, 0.0, false
		for _, s := range v.Samples {
			events, deliveries, slowest = events+s.Events, deliveries+s.Deliveries, max(slowest, s.Sequencing)
			asked = asked || s.Replication != nil && s.Sessions == 1
		}
		return events > 1 && deliveries > 0 && slowest > 0 && asked && v.Sequencer.Mine && v.Sequencer.Term > 0 && v.Sequencer.Wake != "" && v.Sequencer.Wake != "auto" &&
			v.Totals.Topics == 2 && v.Totals.Events >= 2 && v.Totals.Sessions == 1 && v.Totals.Subscriptions >= 1
	})
}

func dropRole(t testing.TB, db *pgtest.DB, role string) {
	conn, err := pgx.Connect(context.Background(), db.URL)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), "drop owned by "+role+"; drop role "+role); err != nil {
		t.Error(err)
	}
}
