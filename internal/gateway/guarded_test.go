package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/group"
)

// policy is a table of who may do what. Whoever is known at all may connect, but who is
// banned.
type policy struct {
	mu     sync.Mutex
	rules  map[rule]bool
	banned map[string]bool
	down   bool      // nothing can be decided
	unsure auth.Verb // about this one nothing can be decided
	asked  []auth.Ask
}

type rule struct {
	sub   string
	verb  auth.Verb
	topic string // or a pattern
}

// let adds rules, each as "ann subscribe,history room:*".
func (p *policy) let(rules ...string) { p.change(true, rules) }

// forbid takes them away.
func (p *policy) forbid(rules ...string) { p.change(false, rules) }

func (p *policy) change(add bool, rules []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, text := range rules {
		part := strings.Fields(text)
		for verb := range strings.SplitSeq(part[1], ",") {
			if r := (rule{part[0], auth.Verb(verb), part[2]}); add {
				p.rules[r] = true
			} else {
				delete(p.rules, r)
			}
		}
	}
}

func (p *policy) ban(sub string) { p.set(func() { p.banned[sub] = true }) }

func (p *policy) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// questions gives what was asked since it was last called.
func (p *policy) questions() (list []auth.Ask) {
	p.set(func() { list, p.asked = p.asked, nil })
	return list
}

// Decide implements [Authorizer].
func (p *policy) Decide(_ context.Context, claims *auth.Claims, asks []auth.Ask) []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, asks...)
	errs := make([]error, len(asks))
	for i, ask := range asks {
		switch {
		case p.down, ask.Verb == p.unsure:
			errs[i] = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "it cannot be decided right now"}
		case !p.allows(claims.Subject, ask):
			errs[i] = auth.ErrForbidden
		}
	}
	return errs
}

func (p *policy) allows(sub string, ask auth.Ask) bool {
	if ask.Verb == auth.Connect {
		return !p.banned[sub]
	}
	asked, err := pgcast.ParsePattern(ask.Topic)
	if err != nil {
		panic(err) // names are looked at before
	}
	for r := range p.rules {
		if known, err := pgcast.ParsePattern(r.topic); err != nil {
			panic(err)
		} else if r.sub == sub && r.verb == ask.Verb && known.Contains(asked) {
			return true
		}
	}
	return false
}

// Authenticate implements [Authenticator]: a token is the name of who shows it.
func (p *policy) Authenticate(_ context.Context, token string) (*auth.Claims, error) {
	return claimsOf(token), nil
}

func claimsOf(sub string) *auth.Claims {
	c, err := auth.NewClaims(auth.FromToken, fmt.Appendf(nil, `{"sub":%q}`, sub))
	if err != nil {
		panic(err)
	}
	c.Subject = sub
	return c
}

// guarded is a world with rules, that serves all there is of live state. Subscribers of on:*
// come with everything.
func guarded(t testing.TB, change func(*setup)) (*world, *policy) {
	t.Helper()
	p := &policy{rules: map[rule]bool{}, banned: map[string]bool{}}
	on, err := pgcast.ParsePattern("on:*")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(s *setup) {
		withPresence(t, 0, "on:*")(s)
		s.Live.Cursors, s.Live.CursorOn = quick(), []pgcast.Pattern{on}
		s.Access = &Access{Authenticator: p, Authorizer: p, DecisionTTL: time.Minute}
		if change != nil {
			change(s)
		}
	})
	rosters := presence.NewRosters(&presence.Options{Kind: "group", Every: time.Millisecond})
	groups := group.New(rosters, w.log, &group.Options{Grace: -1, Logger: discard})
	running(t, groups.Run)
	w.gate.opts.Live.Groups, w.gate.opts.Live.MemberOn = groups, []pgcast.Pattern{on}
	return w, p
}

// dialBy connects as somebody.
func (w *world) dialBy(t testing.TB, sub string) *peer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, w.http.URL+"/ws", &websocket.DialOptions{HTTPHeader: bearing(sub)})
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	ws.SetReadLimit(2 << 20)
	p := &peer{t: t, ws: ws}
	t.Cleanup(func() { _ = ws.CloseNow() })
	p.want("welcome")
	p.raw(`{"type":"hello","caps":["reset"]}`)
	return p
}

// try sends a frame with ref 1 and gives how it was answered: the answer's type, with the
// reason or code of a no. What else comes is passed over.
func (p *peer) try(frame string) string {
	p.t.Helper()
	p.raw(frame)
	for {
		text := p.text()
		var f struct {
			Type, Reason, Code string
			Ref                json.Number
		}
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			p.t.Fatal(err)
		}
		if f.Ref == "1" {
			return strings.TrimSpace(f.Type + " " + f.Reason + f.Code)
		}
	}
}

// is tells how a request is answered.
func (w *world) is(t testing.TB, sub, method, path string) int {
	t.Helper()
	status, _ := w.answer(t, sub, method, path)
	return status
}

// answer is a status, and a body unless it is a stream.
func (w *world) answer(t testing.TB, sub, method, path string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	var body strings.Reader
	if method == http.MethodPost {
		body = *strings.NewReader(`{"n":1}`)
	}
	r, err := http.NewRequestWithContext(ctx, method, w.http.URL+path, &body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = bearing(sub)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(EventHeader, "said")
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.Header.Get("Content-Type") == "text/event-stream" {
		return res.StatusCode, ""
	}
	var b strings.Builder
	buffer := make([]byte, 4096)
	for n, err := res.Body.Read(buffer); ; n, err = res.Body.Read(buffer) {
		b.Write(buffer[:n])
		if err != nil {
			return res.StatusCode, b.String()
		}
	}
}
