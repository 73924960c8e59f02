package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgcast/pgcast"
)

// ruler decides by a function, and counts what it is asked.
type ruler struct {
	decide    func(Question) (bool, error)
	before    func()       // each call
	calls     atomic.Int64 // of Decide
	questions atomic.Int64
}

func (r *ruler) Decide(_ context.Context, questions []Question) ([]bool, []error) {
	r.calls.Add(1)
	r.questions.Add(int64(len(questions)))
	if r.before != nil {
		r.before()
	}
	allowed, errs := make([]bool, len(questions)), make([]error, len(questions))
	for i, q := range questions {
		allowed[i], errs[i] = r.decide(q)
	}
	return allowed, errs
}

func claimsOf(t testing.TB, text string) *Claims {
	t.Helper()
	c, err := NewClaims(FromToken, json.RawMessage(text))
	if err != nil {
		t.Fatal(err)
	}
	var known struct{ Sub, JTI string }
	if err := json.Unmarshal([]byte(text), &known); err != nil {
		t.Fatal(err)
	}
	c.Subject, c.TokenID = known.Sub, known.JTI
	return c
}

func one(a *Authorizer, c *Claims, verb Verb, topic string) error {
	return a.Decide(context.Background(), c, []Ask{{verb, topic}})[0]
}

// What is decided is remembered for as long as it may, and no longer; tokens of one caller
// share it.
func TestDecisionsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &ruler{decide: func(q Question) (bool, error) { return q.Topic == "a", nil }}
		a := NewAuthorizer(r, &AuthorizerOptions{TTL: 10 * time.Second, Decisions: 3})
		ann, again := claimsOf(t, `{"sub":"ann","jti":"1","iat":1}`), claimsOf(t, `{"iat":2,"sub":"ann","jti":"2"}`)
		for _, c := range []*Claims{ann, again, ann} {
			if one(a, c, Subscribe, "a") != nil || !errors.Is(one(a, c, Subscribe, "b"), pgcast.ErrForbidden) {
				t.Error("not what the rules say")
			}
		}
		if n := r.questions.Load(); n != 2 {
			t.Errorf("%d questions were asked, want 2", n)
		}
		for _, c := range []*Claims{claimsOf(t, `{"sub":"bob"}`), claimsOf(t, `{"sub":"ann","x":1}`)} {
			_ = one(a, c, Subscribe, "a")
		}
		if n := r.questions.Load(); n != 4 || a.Remembered() != 3 {
			t.Errorf("%d questions, %d remembered; want 4 and 3", n, a.Remembered())
		}
		time.Sleep(11 * time.Second) // of the bubble's clock
		_ = one(a, ann, Subscribe, "b")
		if n := r.questions.Load(); n != 5 {
			t.Errorf("%d questions after the TTL, want 5", n)
		}
		a.Forget(func(c *Claims) bool { return c.Subject == "bob" })
		_ = one(a, ann, Subscribe, "b")
		a.Forget(func(c *Claims) bool { return c.Subject == "ann" })
		_ = one(a, ann, Subscribe, "b")
		if n := r.questions.Load(); n != 6 {
			t.Errorf("%d questions after forgetting, want 6", n)
		}
	})
}

// What nobody could decide is a no, and is asked again.
func TestFailuresAreNoAndNotRemembered(t *testing.T) {
	fails := true
	r := &ruler{decide: func(q Question) (bool, error) {
		if fails && q.Topic == "a" {
			return true, errors.New("too late")
		}
		return true, nil
	}}
	a := NewAuthorizer(r, nil)
	ann := claimsOf(t, `{"sub":"ann"}`)
	errs := a.Decide(t.Context(), ann, []Ask{{Subscribe, "a"}, {Subscribe, "b"}})
	if !errors.Is(errs[0], pgcast.ErrUnavailable) || errs[1] != nil {
		t.Errorf("got %v", errs)
	}
	fails = false
	if err := one(a, ann, Subscribe, "a"); err != nil {
		t.Errorf("later: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	r.before = func() { <-t.Context().Done() }
	if err := a.Decide(ended, ann, []Ask{{Subscribe, "c"}})[0]; !errors.Is(err, pgcast.ErrUnavailable) {
		t.Errorf("to a caller who has gone: %v", err)
	}
}

// Somebody about whom it takes for ever to decide holds up nobody else.
func TestSuspectsHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		r := &ruler{}
		r.decide = func(q Question) (bool, error) {
			if q.Claims.Subject != "eve" {
				return true, nil
			}
			if q.Topic != "first" {
				<-hold
			}
			return false, errors.New("too late")
		}
		a := NewAuthorizer(r, nil)
		eve := claimsOf(t, `{"sub":"eve"}`)
		_ = one(a, eve, Subscribe, "first")
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() { _ = one(a, eve, Subscribe, fmt.Sprint("x", i)) })
		}
		synctest.Wait()
		for i := range 100 {
			if err := one(a, claimsOf(t, `{"sub":"ann"}`), Subscribe, fmt.Sprint("a", i)); err != nil {
				t.Fatal(err)
			}
		}
		close(hold)
		wg.Wait()
		time.Sleep(2 * suspectFor) // of the bubble's clock
		if err := one(a, eve, Subscribe, "first"); !errors.Is(err, pgcast.ErrUnavailable) {
			t.Error(err)
		}
	})
}

// Whatever the rules, some things are forbidden, and nobody is asked about them.
func TestForbiddenWithoutAsking(t *testing.T) {
	r := &ruler{decide: func(Question) (bool, error) { return true, nil }}
	revocations := new(Revocations)
	a := NewAuthorizer(r, &AuthorizerOptions{Revocations: revocations})
	ann := claimsOf(t, `{"sub":"ann"}`)
	expired := claimsOf(t, `{"sub":"bob"}`)
	expired.Expires = time.Now()
	key, err := NewClaims(FromAPIKey, json.RawMessage(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	key.Scopes = []Scope{}
	for _, tt := range []struct {
		who *Claims
		ask Ask
	}{
		{ann, Ask{Subscribe, ""}}, {ann, Ask{Subscribe, "__access"}}, {ann, Ask{Subscribe, "a:**:b"}}, {ann, Ask{Publish, "a\x00"}}, {ann, Ask{Connect, "a"}},
		{expired, Ask{Connect, ""}}, {expired, Ask{Subscribe, "a"}}, {key, Ask{Connect, ""}}, {key, Ask{Publish, "a"}}, {nil, Ask{Connect, ""}},
	} {
		if err := a.Decide(t.Context(), tt.who, []Ask{tt.ask})[0]; !errors.Is(err, pgcast.ErrForbidden) {
			t.Errorf("%+v: %v", tt.ask, err)
		}
	}
	if n := r.questions.Load(); n != 0 {
		t.Errorf("%d questions were asked", n)
	}
	if err := one(a, ann, Connect, ""); err != nil {
		t.Error(err)
	}
	revocations.Add(Revocation{Kind: BySubject, Value: "ann", At: time.Now(), Until: time.Now().Add(time.Hour)})
	if err := one(a, ann, Connect, ""); !errors.Is(err, pgcast.ErrForbidden) {
		t.Errorf("revoked, and %v", err)
	}
	a.Halt(true)
	if err := one(a, claimsOf(t, `{"sub":"cid"}`), Connect, ""); !errors.Is(err, pgcast.ErrUnavailable) {
		t.Errorf("halted, and %v", err)
	}
}

// Many who ask at once cost few questions, and few calls.
func TestQuestionsGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, hold := make(chan struct{}), make(chan struct{})
		var began atomic.Bool
		r := &ruler{decide: func(q Question) (bool, error) { return true, nil }}
		r.before = func() {
			if began.CompareAndSwap(false, true) {
				close(first)
				<-hold
			}
		}
		a := NewAuthorizer(r, nil)
		var wg sync.WaitGroup
		wg.Go(func() { _ = one(a, claimsOf(t, `{"sub":"first"}`), Connect, "") })
		<-first
		const callers, topics = 100, 10
		for i := range callers {
			c := claimsOf(t, fmt.Sprintf(`{"sub":"user%d"}`, i/2)) // two sessions each
			wg.Go(func() {
				var asks []Ask
				for n := range topics {
					asks = append(asks, Ask{Subscribe, fmt.Sprint("t", n)})
				}
				for _, err := range a.Decide(context.Background(), c, asks) {
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		synctest.Wait()
		close(hold)
		wg.Wait()
		if q, c := r.questions.Load(), r.calls.Load(); q != 1+callers/2*topics || c > callers {
			t.Errorf("%d questions in %d calls; want %d, together", q, c, 1+callers/2*topics)
		}
	})
}

// An answer from before a change is not given, and not remembered, after it.
func TestChangeWhileAsking(t *testing.T) {
	asked, goOn := make(chan struct{}), make(chan struct{})
	var allowed atomic.Bool
	allowed.Store(true)
	r := &ruler{}
	r.decide = func(Question) (bool, error) {
		was := allowed.Load()
		asked <- struct{}{}
		<-goOn
		return was, nil
	}
	a := NewAuthorizer(r, nil)
	ann := claimsOf(t, `{"sub":"ann"}`)
	answer := make(chan error, 1)
	go func() { answer <- one(a, ann, Subscribe, "a") }()
	<-asked
	allowed.Store(false)
	a.Forget(nil)
	goOn <- struct{}{}
	<-asked // once more
	goOn <- struct{}{}
	if err := <-answer; !errors.Is(err, pgcast.ErrForbidden) {
		t.Errorf("after the change: %v", err)
	}
	if err := one(a, ann, Subscribe, "a"); !errors.Is(err, pgcast.ErrForbidden) || r.questions.Load() != 2 {
		t.Errorf("remembered: %v, after %d questions", err, r.questions.Load())
	}
	// Changes without end: the answer is no at last, for now.
	go func() { answer <- one(a, ann, Subscribe, "b") }()
	for range askTries {
		<-asked
		a.Forget(func(*Claims) bool { return false })
		goOn <- struct{}{}
	}
	if err := <-answer; !errors.Is(err, pgcast.ErrUnavailable) {
		t.Errorf("among changes without end: %v", err)
	}
}

func TestRevocations(t *testing.T) {
	var none *Revocations
	ann := claimsOf(t, `{"sub":"ann","jti":"1"}`)
	if none.Revoked(ann, "s") {
		t.Error("revoked by nothing")
	}
	now := time.Now()
	ann.Issued = now
	dated := func(at time.Time) *Claims {
		c := *ann
		c.Issued = at
		return &c
	}
	for _, tt := range []struct {
		r       Revocation
		c       *Claims
		session string
		want    bool
	}{
		{Revocation{BySubject, "ann", now, now.Add(time.Hour)}, ann, "", true},
		{Revocation{BySubject, "ann", now, now.Add(time.Hour)}, dated(now.Add(time.Second)), "", false},
		{Revocation{BySubject, "ann", now, now.Add(time.Hour)}, dated(time.Time{}), "", true},
		{Revocation{BySubject, "ann", now, now}, ann, "", false},
		{Revocation{BySubject, "bob", now, now.Add(time.Hour)}, ann, "", false},
		{Revocation{BySubject, "", now, now.Add(time.Hour)}, claimsOf(t, `{}`), "", false},
		{Revocation{ByTokenID, "1", now, now.Add(time.Hour)}, dated(now.Add(time.Second)), "", true},
		{Revocation{ByTokenID, "", now, now.Add(time.Hour)}, claimsOf(t, `{}`), "", false},
		{Revocation{BySession, "s", now, now.Add(time.Hour)}, ann, "s", true},
		{Revocation{BySession, "s", now, now.Add(time.Hour)}, ann, "", false},
		{Revocation{BySession, "ann", now, now.Add(time.Hour)}, ann, "s", false},
	} {
		r := new(Revocations)
		r.Add(Revocation{ByTokenID, "other", now, now.Add(time.Hour)})
		r.Add(tt.r)
		if got := r.Revoked(tt.c, tt.session); got != tt.want {
			t.Errorf("%+v of %s issued %v in %q: %v", tt.r, tt.c.Raw, tt.c.Issued, tt.session, got)
		}
	}
	r := new(Revocations)
	r.Add(Revocation{BySubject, "ann", now, now.Add(time.Hour)})
	r.Add(Revocation{BySubject, "ann", now.Add(-time.Hour), now.Add(time.Minute)}) // heard late
	if r.Trim(now.Add(30*time.Minute)) != 1 || !r.Revoked(ann, "") || r.Trim(now.Add(2*time.Hour)) != 0 || r.Revoked(ann, "") {
		t.Error("a revocation is not kept for as long as it holds")
	}
}

// Claims survive being written down.
func TestStoredClaims(t *testing.T) {
	p, err := pgcast.ParsePattern("a:**")
	if err != nil {
		t.Fatal(err)
	}
	token := claimsOf(t, `{"sub":"ann","jti":"1","big":12345678901234567890}`)
	token.Issued, token.Expires = time.Unix(1, 0), time.Unix(1e10, 5)
	key, none := *token, *token
	key.Scopes, none.Scopes = []Scope{{[]Verb{Publish}, []pgcast.Pattern{p}}}, []Scope{}
	for _, c := range []*Claims{token, &key, &none} {
		text, err := c.Stored()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Restore(text)
		if err != nil || fmt.Sprintf("%+v", got.Scopes) != fmt.Sprintf("%+v", c.Scopes) || (got.Scopes == nil) != (c.Scopes == nil) || string(got.Raw) != string(c.Raw) ||
			got.Hash() != c.Hash() || got.Subject != c.Subject || got.TokenID != c.TokenID || !got.Issued.Equal(c.Issued) || !got.Expires.Equal(c.Expires) || got.Source != c.Source {
			t.Errorf("%v: %s became\n%+v; want\n%+v", err, text, got, c)
		}
	}
	for _, text := range []string{``, `{}`, `null`, `{"source":"open","raw":{}}`, `{"source":"token","raw":[]}`, `{"source":"api key","raw":{},"scopes":[{"topics":["**:a"]}]}`} {
		if c, err := Restore(json.RawMessage(text)); err == nil {
			t.Errorf("%s: %+v", text, c)
		}
	}
}

// What has to be looked at anew is what Postgres's @> selects.
func TestContain(t *testing.T) {
	ann := claimsOf(t, `{"sub":"ann","org":7,"roles":["a","b"],"app":{"x":1,"y":[1,{"z":null}]}}`)
	for text, want := range map[string]bool{
		`{}`: true, `{"sub":"ann"}`: true, `{"sub":"bob"}`: false, `{"org":7.0}`: true, `{"org":"7"}`: false, `{"roles":["b"]}`: true, `{"roles":["b","a","b"]}`: true,
		`{"roles":["c"]}`: false, `{"roles":"a"}`: false, `{"app":{"x":1}}`: true, `{"app":{"x":2}}`: false, `{"app":{"y":[{"z":null}]}}`: true, `{"app":{"y":[{}]}}`: true,
		`{"app":[]}`: false, `{"none":null}`: false, `{"roles":[]}`: true, `{"org":[]}`: false, `{"org":{}}`: false, `{"sub":["ann"]}`: false,
	} {
		var others map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &others); err != nil {
			t.Fatal(err)
		}
		if got := ann.Contain(others); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}
