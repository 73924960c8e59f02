package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// probe is one way to ask for something with a topic; T stands for the topic, and G for the
// group whose topic it is. What undoes it is sent behind it.
type probe struct {
	name, frame, undo string
	needs             []string
	topics            bool // not of patterns
	groups            bool // of groups only
}

var framesAsked = []probe{
	{name: "subscribe", frame: `{"type":"subscribe","topic":"T","ref":N}`, undo: unsubscribes, needs: []string{"subscribe"}},
	{name: "subscribe after", frame: `{"type":"subscribe","topic":"T","after":0,"ref":N}`, undo: unsubscribes, needs: []string{"subscribe"}},
	{name: "subscribe snapshot", frame: `{"type":"subscribe","topic":"T","snapshot":true,"ref":N}`, undo: unsubscribes, needs: []string{"subscribe", "snapshot"}, topics: true},
	{name: "subscribe-batch", needs: []string{"subscribe"}},
	{name: "history", frame: `{"type":"history","topic":"T","limit":1,"ref":N}`, needs: []string{"history"}},
	{name: "replay", frame: `{"type":"replay","topic":"T","reqId":N,"ref":N}`, needs: []string{"history"}, topics: true},
	{name: "presence count", frame: `{"type":"presence","op":"count","topic":"T","ref":N}`, needs: []string{"presence"}, topics: true},
	{name: "presence list", frame: `{"type":"presence","op":"list","topic":"T","ref":N}`, needs: []string{"presence"}, topics: true},
	{name: "presence join", frame: `{"type":"presence","op":"join","topic":"T","ref":N}`, undo: `{"type":"presence","op":"leave","topic":"T"}`, needs: []string{"presence"}, topics: true},
	{name: "presence sync", frame: `{"type":"presence","op":"sync","topic":"T","ref":N}`, undo: `{"type":"presence","op":"unsync","topic":"T"}`, needs: []string{"presence"}, topics: true},
	{name: "__presence", frame: `{"type":"subscribe","topic":"__presence:T","ref":N}`, undo: `{"type":"unsubscribe","topic":"__presence:T"}`, needs: []string{"presence"}, topics: true},
	{name: "__cursor", frame: `{"type":"subscribe","topic":"__cursor:T","ref":N}`, undo: `{"type":"unsubscribe","topic":"__cursor:T"}`, needs: []string{"cursor"}, topics: true},
	{name: "cursor-snapshot", frame: `{"type":"cursor-snapshot","topic":"T","ref":N}`, undo: `{"type":"unsubscribe","topic":"__cursor:T"}`, needs: []string{"cursor"}, topics: true},
	{name: "cursor", frame: `{"type":"cursor","topic":"T","data":N,"ref":N}`, undo: `{"type":"cursor","topic":"T","op":"leave"}`, needs: []string{"cursor"}, topics: true},
	{name: "group list", frame: `{"type":"group","op":"list","group":"G","ref":N}`, needs: []string{"group"}, topics: true, groups: true},
	{name: "group join", frame: `{"type":"group","op":"join","group":"G","ref":N}`, needs: []string{"group"}, topics: true, groups: true},
	{name: "__group", frame: `{"type":"subscribe","topic":"__group:G","ref":N}`, undo: `{"type":"unsubscribe","topic":"__group:G"}`, needs: []string{"group", "subscribe"}, topics: true, groups: true},
	{name: "publish", frame: `{"type":"publish","topic":"T","event":"said","ref":N}`, needs: []string{"publish"}, topics: true},
}

const unsubscribes = `{"type":"unsubscribe","topic":"T"}`

// asked is a probe over HTTP.
var requestsAsked = []struct {
	method, path string
	needs        []string
	topics       bool
	groups       bool
	there        bool // only where there are events, or it would wait
	stream       bool
}{
	{method: "GET", path: "/topics/T/events?limit=1", needs: []string{"history"}},
	{method: "GET", path: "/topics/T/events?limit=1&wait=1", needs: []string{"history", "subscribe"}, there: true},
	{method: "GET", path: "/topics/T/snapshot", needs: []string{"snapshot"}, topics: true},
	{method: "GET", path: "/topics/T/presence?count", needs: []string{"presence"}, topics: true},
	{method: "GET", path: "/groups/G", needs: []string{"group"}, topics: true, groups: true},
	{method: "GET", path: "/topics/T/sse", needs: []string{"subscribe"}, stream: true},
	{method: "POST", path: "/topics/T/events", needs: []string{"publish"}, topics: true},
}

// tally counts cells, and tells of those that are wrong.
type tally struct {
	t  *testing.T
	mu sync.Mutex

	cells, yes, wrong int
	by                map[string]int
}

func (y *tally) cell(server int, c caller, probe, topic, got, want string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.cells++
	y.by[probe]++
	if want == "yes" {
		y.yes++
	}
	if got != want {
		if y.wrong++; y.wrong <= 20 {
			y.t.Errorf("server %d, %s, %s of %q: %s, not %s", server, c.name, probe, topic, got, want)
		}
	}
}

// expect is how a probe is to be answered.
func (c caller) expect(needs []string, topics bool, topic string) string {
	if topics && pgcast.IsPattern(topic) {
		return "invalid"
	}
	for _, verb := range needs {
		if !c.may(verb, topic) {
			return "no"
		}
	}
	return "yes"
}

// Whatever is asked by whom, in which way, of which server: the answer is what the rules say.
// S9, S11. Under the race detector, or with -short, it is a tenth of it.
func TestMatrix(t *testing.T) {
	t.Parallel()
	few := testing.Short() || underRace
	db := pgtest.New(t, nil)
	put(t, db, grants)
	servers := guard(t, db, 2, func(o *Options) {
		o.Access.Anonymous = json.RawMessage(`{"role":"anonymous","app":"a"}`)
		o.SnapshotFresh, o.MaxSubscriptions = time.Hour, 2000
	})
	all, topics := callers(t, db, servers[0]), matrixTopics()
	if few {
		all, topics = all[:6], topics[:30]
	}
	there := map[string]bool{}
	for i, topic := range topics {
		if i%2 == 0 && !pgcast.IsPattern(topic) {
			there[topic] = true
			db.Exec(t, "select pgcast.publish('"+topic+"', 'said')")
		}
	}
	count := &tally{t: t, by: map[string]int{}}
	began := time.Now()
	var g errgroup.Group
	g.SetLimit(16)
	for i, s := range servers {
		for _, c := range all {
			for by := range carriers {
				g.Go(func() error { s.matrixFrames(t, i, by, c, topics, there, count); return nil })
			}
			g.Go(func() error { s.matrixRequests(t, i, c, topics, there, count); return nil })
		}
	}
	_ = g.Wait()
	t.Logf("%d cells, %d of them yes, %d wrong, in %v: %v", count.cells, count.yes, count.wrong, time.Since(began).Round(time.Millisecond), count.by)
	if !few && count.cells < 100_000 {
		t.Errorf("only %d cells", count.cells)
	}
}

// header says who asks.
func (c caller) header() http.Header {
	if c.credential == "" {
		return http.Header{}
	}
	return http.Header{"Authorization": {"Bearer " + c.credential}}
}

// carriers are how a credential comes with a WebSocket: in a header, or as a subprotocol.
const carriers = 2

func (g *guarded) matrixFrames(t *testing.T, server, by int, c caller, topics []string, there map[string]bool, count *tally) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	o := &websocket.DialOptions{HTTPHeader: c.header()}
	if by == 1 && c.credential != "" {
		o = &websocket.DialOptions{Subprotocols: []string{"pgcast", "pgcast.token." + c.credential}}
	}
	ws, res, err := websocket.Dial(ctx, "ws://"+g.listen+"/ws", o)
	if !c.may("connect", "") {
		if err == nil || res == nil || res.StatusCode != http.StatusForbidden {
			t.Errorf("%s, who may not connect, did: %v", c.name, err)
		}
		return // nothing else can be asked, so there are no cells
	}
	if err != nil {
		t.Errorf("%s cannot connect: %v", c.name, err)
		return
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(4 << 20)
	for _, p := range framesAsked {
		got, gaps, err := p.run(ctx, ws, topics)
		if err != nil {
			t.Errorf("%s, %s: %v", c.name, p.name, err)
			return
		}
		for i, topic := range topics {
			if p.groups && !strings.HasPrefix(topic, "group:") {
				continue
			}
			want := c.expect(p.needs, p.topics, topic)
			count.cell(server, c, p.name, topic, got[i], want)
			if p.name == "subscribe after" && want == "yes" && (there[topic] || pgcast.IsPattern(topic)) {
				past := map[bool]string{true: "no", false: "yes"}[gaps[topic]]
				count.cell(server, c, "what is past", topic, past, c.expect([]string{"history"}, false, topic))
			}
		}
	}
}

// run sends the frames of all topics and takes their answers, by topic.
func (p probe) run(ctx context.Context, ws *websocket.Conn, topics []string) (got []string, gaps map[string]bool, err error) {
	var g errgroup.Group
	g.Go(func() error {
		send := func(text string) error { return ws.Write(ctx, websocket.MessageText, []byte(text)) }
		if p.frame == "" {
			list, _ := json.Marshal(topics)
			if err := send(fmt.Sprintf(`{"type":"subscribe-batch","topics":%s,"ref":"batch"}`, list)); err != nil {
				return err
			}
		}
		for i, topic := range topics {
			group, is := strings.CutPrefix(topic, "group:")
			if p.groups && !is {
				continue
			}
			fill := strings.NewReplacer(`"T"`, quoted(topic), `:T"`, ":"+quoted(topic)[1:], `"G"`, quoted(group), `:G"`, ":"+quoted(group)[1:], `":N`, fmt.Sprintf(`":%d`, i+1))
			frames := []string{p.frame, p.undo}
			if p.frame == "" {
				frames = []string{unsubscribes}
			}
			for _, frame := range frames {
				if frame == "" {
					continue
				}
				if err := send(fill.Replace(frame)); err != nil {
					return err
				}
			}
		}
		return send(`{"type":"unsubscribe","topic":"no-such-topic","ref":"end"}`)
	})
	defer func() {
		if e := g.Wait(); err == nil {
			err = e
		}
	}()
	got, gaps = make([]string, len(topics)), map[string]bool{}
	place := map[string]int{}
	for i, topic := range topics {
		place[topic] = i
		if p.name == "cursor" || p.name == "cursor-snapshot" || p.name == "replay" {
			got[i] = "yes" // unless it is answered with an error
		}
	}
	for {
		_, text, err := ws.Read(ctx)
		if err != nil {
			return nil, nil, err
		}
		f, err := wire.ParseServer(text)
		if err != nil {
			return nil, nil, err
		}
		var ref int
		if f.Type == wire.Gap {
			gaps[f.Topic] = true
		}
		switch string(f.Ref) {
		case `"end"`:
			return got, gaps, nil
		case `"batch"`:
			if i, known := place[f.Topic]; known {
				got[i] = outcome(&f)
			}
			continue
		}
		if json.Unmarshal(f.Ref, &ref) == nil && ref > 0 {
			got[ref-1] = outcome(&f)
		}
	}
}

func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// outcome is what an answer says.
func outcome(f *wire.ServerFrame) string {
	switch no := f.Reason + string(f.Code); no {
	case "", string(pgcast.CodeNotFound): // of groups: there is none
		return "yes"
	case wire.ReasonForbidden, string(pgcast.CodeForbidden):
		return "no"
	case wire.ReasonInvalidTopic, wire.ReasonNoSnapshot, string(pgcast.CodeInvalidTopic):
		return "invalid"
	default:
		return no
	}
}

func (g *guarded) matrixRequests(t *testing.T, server int, c caller, topics []string, there map[string]bool, count *tally) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for _, r := range requestsAsked {
		name := r.method + " " + r.path
		for i, topic := range topics {
			group, is := strings.CutPrefix(topic, "group:")
			if r.groups && !is || r.there && !there[topic] || strings.Contains(topic, "..") || r.stream && i%4 > 0 {
				continue
			}
			want := c.expect(r.needs, r.topics, topic)
			if !c.may("connect", "") {
				want = "no"
			}
			path := strings.Replace(r.path, "T", url.PathEscape(topic), 1)
			if r.groups {
				path = strings.Replace(r.path, "G", url.PathEscape(group), 1)
			}
			got, err := g.requested(t, transport, r.method, path, c.header())
			if err != nil {
				t.Errorf("%s, %s of %q: %v", c.name, name, topic, err)
				return
			}
			count.cell(server, c, name, topic, got, want)
		}
	}
}

func (g *guarded) requested(t *testing.T, transport *http.Transport, method, path string, header http.Header) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+g.listen+path, strings.NewReader(`{}`))
	if err != nil {
		return "", err
	}
	r.Header = header
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Pgcast-Event", "said")
	res, err := transport.RoundTrip(r)
	if err != nil {
		return "", err
	}
	if res.Header.Get("Content-Type") != "text/event-stream" {
		buffer := make([]byte, 1<<16)
		for n := 1; n > 0 && err == nil; {
			n, err = res.Body.Read(buffer)
		}
	}
	_ = res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK, http.StatusCreated, http.StatusNotFound:
		return "yes", nil
	case http.StatusForbidden:
		return "no", nil
	case http.StatusBadRequest:
		return "invalid", nil
	}
	return res.Status, nil
}
