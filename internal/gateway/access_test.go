package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/auth/authtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// table decides by what it has been told to refuse: a subject and a verb, and of which topic.
type table struct {
	mu     sync.Mutex
	denied map[[3]string]bool
	asked  int
}

func (d *table) deny(subject string, verb auth.Verb, topic string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.denied[[3]string{subject, string(verb), topic}] = true
}

func (d *table) Decide(_ context.Context, claims *auth.Claims, asks []auth.Ask) []error {
	d.mu.Lock()
	defer d.mu.Unlock()
	errs := make([]error, len(asks))
	for i, a := range asks {
		d.asked++
		if d.denied[[3]string{claims.Subject, string(a.Verb), a.Topic}] || claims.Expired(time.Now()) {
			errs[i] = auth.ErrForbidden
		}
	}
	return errs
}

// tickets are good once.
type tickets struct {
	mu  sync.Mutex
	all map[string]*auth.Claims
}

func (k *tickets) Issue(_ context.Context, claims *auth.Claims) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ticket := "t-" + rand.Text()
	k.all[ticket] = claims
	return ticket, nil
}

func (k *tickets) Redeem(_ context.Context, ticket string) (*auth.Claims, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	claims := k.all[ticket]
	delete(k.all, ticket)
	if claims == nil {
		return nil, auth.ErrTicket
	}
	return claims, nil
}

// door is a world where callers have to say who they are, by tokens of key.
type door struct {
	*world
	key   *authtest.Key
	rules *table
}

func newDoor(t testing.TB, change func(*setup)) *door {
	t.Helper()
	d := &door{key: authtest.New(t, "ES256"), rules: &table{denied: map[[3]string]bool{}}}
	verifier, err := auth.NewVerifier(&auth.TokenOptions{Files: []string{d.key.File(t)}, Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	d.world = newWorld(t, func(s *setup) {
		s.Access = &Access{Authenticator: &auth.Chain{Tokens: verifier}, Authorizer: d.rules, Tickets: &tickets{all: map[string]*auth.Claims{}}, Cookie: "session"}
		if change != nil {
			change(s)
		}
	})
	return d
}

// anonymous lets in those who show nothing.
func anonymous(t testing.TB, s *setup) {
	t.Helper()
	claims, err := auth.NewClaims(auth.Anonymous, json.RawMessage(`{"role":"anonymous"}`))
	if err != nil {
		t.Fatal(err)
	}
	s.Access.Anonymous = claims
}

// token signs a token of a subject, with other claims if there are some.
func (d *door) token(t testing.TB, subject string, more ...map[string]any) string {
	t.Helper()
	claims := map[string]any{"sub": subject}
	for _, m := range more {
		maps.Copy(claims, m)
	}
	return d.key.Token(t, claims)
}

// lasting is a token's life.
func lasting(life time.Duration) map[string]any {
	return map[string]any{"exp": float64(time.Now().Add(life).UnixMilli()) / 1000}
}

func bearing(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// knock makes a handshake; query may be empty.
func (d *door) knock(t testing.TB, query string, header http.Header, protocols ...string) (*peer, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	options := &websocket.DialOptions{HTTPHeader: header, Subprotocols: protocols}
	if host := header.Get("Host"); host != "" {
		options.Host = host
	}
	ws, res, err := websocket.Dial(ctx, d.http.URL+"/ws"+query, options)
	if err != nil {
		return nil, res, err
	}
	ws.SetReadLimit(2 << 20)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &peer{t: t, ws: ws}, res, nil
}

// enter makes a handshake that must succeed.
func (d *door) enter(t testing.TB, query string, header http.Header, protocols ...string) *peer {
	t.Helper()
	p, _, err := d.knock(t, query, header, protocols...)
	if err != nil {
		t.Fatalf("handshake: %v", err)
	}
	return p
}

// as enters with a token and takes the welcome.
func (d *door) as(t testing.TB, token string) *peer {
	t.Helper()
	p := d.enter(t, "", bearing(token))
	p.want(wire.Welcome)
	return p
}

// shut makes a handshake that must be answered with a status.
func (d *door) shut(t testing.TB, status int, query string, header http.Header, protocols ...string) *http.Response {
	t.Helper()
	_, res, err := d.knock(t, query, header, protocols...)
	switch {
	case err == nil:
		t.Fatalf("the handshake was not refused; want status %d", status)
	case res == nil:
		t.Fatalf("no answer to the handshake: %v", err)
	case res.StatusCode != status:
		t.Fatalf("the handshake was answered with %s; want status %d", res.Status, status)
	}
	return res
}

// ask makes a request and gives the answer and its body.
func (d *door) ask(t testing.TB, method, path string, header http.Header, body string) (*http.Response, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, d.http.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(r.Header, header)
	if host := header.Get("Host"); host != "" {
		r.Host = host
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if strings.HasSuffix(res.Request.URL.Path, "/sse") && res.StatusCode == http.StatusOK {
		return res, ""
	}
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

// answered is ask for an answer that must have a status and, if it says no, a code.
func (d *door) answered(t testing.TB, method, path string, header http.Header, body string, status int, code pgcast.Code) (*http.Response, string) {
	t.Helper()
	res, text := d.ask(t, method, path, header, body)
	var p problem
	if status >= 300 {
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Errorf("%s %s: %s is no problem: %v", method, path, text, err)
		}
	}
	if res.StatusCode != status || p.Error.Code != code {
		t.Errorf("%s %s: status %d, code %q; want %d, %q", method, path, res.StatusCode, p.Error.Code, status, code)
	}
	return res, text
}

// ticket gets one for a token.
func (d *door) ticket(t testing.TB, token string) string {
	t.Helper()
	_, text := d.answered(t, "POST", "/tickets", bearing(token), "", http.StatusCreated, "")
	var got struct {
		Ticket    string
		ExpiresIn int64
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil || got.Ticket == "" || got.ExpiresIn <= 0 || got.ExpiresIn > 30_000 {
		t.Fatalf("ticket: %s, %v", text, err)
	}
	return got.Ticket
}
