package auth_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/auth/authtest"
)

// provider is an identity provider that publishes keys.
type provider struct {
	*httptest.Server
	asked  atomic.Int64
	answer atomic.Pointer[http.HandlerFunc]
}

func newProvider(t testing.TB, keys ...*authtest.Key) *provider {
	t.Helper()
	p := &provider{}
	p.publish(t, keys...)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		(*p.answer.Load())(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) publish(t testing.TB, keys ...*authtest.Key) {
	p.text(authtest.JWKS(t, keys...))
}

func (p *provider) text(text []byte) {
	p.do(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) })
}

func (p *provider) do(h http.HandlerFunc) { p.answer.Store(&h) }

// running runs a verifier as long as the test takes.
func running(t testing.TB, o auth.TokenOptions) *auth.Verifier {
	t.Helper()
	v := verifier(t, o)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := v.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("run the verifier: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	return v
}

func newKey(t testing.TB, algorithm, id string) *authtest.Key {
	t.Helper()
	k := authtest.New(t, algorithm)
	k.ID = id
	return k
}

// await waits until something is so.
func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !is(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("after 10 s still not so: %s", what)
		}
	}
}

func accepts(t testing.TB, v *auth.Verifier, token string) bool {
	t.Helper()
	_, err := v.Authenticate(context.Background(), token)
	return err == nil
}

// Keys are those that the provider publishes, each for its algorithm.
func TestJWKS(t *testing.T) {
	var keys []*authtest.Key
	for _, algorithm := range authtest.Algorithms[3:] {
		keys = append(keys, newKey(t, algorithm, "k-"+algorithm))
	}
	p := newProvider(t, keys...)
	v := running(t, auth.TokenOptions{JWKSURL: p.URL})
	for _, k := range keys {
		if _, err := v.Authenticate(t.Context(), k.Token(t, nil)); err != nil {
			t.Errorf("%s: %v", k.Algorithm, err)
		}
		if _, err := v.Authenticate(t.Context(), k.Named("").Token(t, nil)); err != nil {
			t.Errorf("%s without a kid: %v", k.Algorithm, err)
		}
		// The same RSA key, under the name of the one for another algorithm.
		for _, other := range keys {
			if other == k {
				continue
			}
			if accepts(t, v, k.Named(other.ID).Token(t, nil)) {
				t.Errorf("a token of %s is accepted under the name of the key for %s", k.Algorithm, other.Algorithm)
			}
		}
	}
	if n := p.asked.Load(); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

// What a JWKS has in it that is of no use costs only itself.
func TestOddJWKS(t *testing.T) {
	good := newKey(t, "ES256", "good")
	odd := func(change object) object {
		m := newKey(t, "RS256", "odd").JWK(t)
		for name, value := range change {
			m[name] = value
		}
		return m
	}
	secret := newKey(t, "HS256", "oct")
	noAlg := newKey(t, "RS256", "azure")
	azure := noAlg.JWK(t)
	delete(azure, "alg")
	var asked atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer other.Close()
	list := []any{odd(object{"kty": "XYZ"}), odd(object{"use": "enc"}), odd(object{"key_ops": []string{"encrypt"}}), odd(object{"alg": "RSA-OAEP"}),
		odd(object{"alg": "HS256"}), odd(object{"alg": "none"}), odd(object{"n": "!"}), odd(object{"n": "AQAB"}), odd(object{"e": "AA"}), odd(object{"d": "AQAB"}),
		odd(object{"x5u": other.URL, "n": ""}), secret.JWK(t), "text", 7, nil, []int{}, object{}, azure, good.JWK(t)}
	text, _ := json.Marshal(object{"keys": list})
	p := newProvider(t)
	p.text(text)
	v := running(t, auth.TokenOptions{JWKSURL: p.URL})
	if _, err := v.Authenticate(t.Context(), good.Token(t, nil)); err != nil {
		t.Error(err)
	}
	if _, err := v.Authenticate(t.Context(), noAlg.Token(t, nil)); err != nil {
		t.Errorf("a key without alg: %v", err)
	}
	if accepts(t, v, newKey(t, "PS256", "azure").Token(t, nil)) {
		t.Error("a key without alg is for any")
	}
	if accepts(t, v, newKey(t, "RS256", "odd").Token(t, nil)) {
		t.Error("a key that is of no use is used")
	}
	if accepts(t, v, secret.Token(t, nil)) {
		t.Error("a secret that everybody can read is one")
	}
	if asked.Load() > 0 {
		t.Error("what a key names was asked")
	}
}

// TestJWKSUnknownKids is S6: 10,000 tokens of keys that nobody has make one fetch in 10 s.
func TestJWKSUnknownKids(t *testing.T) {
	good, evil := newKey(t, "ES256", "good"), newKey(t, "ES256", "evil")
	p := newProvider(t, good)
	v := running(t, auth.TokenOptions{JWKSURL: p.URL})
	token := good.Token(t, nil)
	await(t, "the keys are fetched", func() bool { return accepts(t, v, token) })
	began := time.Now()
	var work sync.WaitGroup
	var next, later atomic.Int64
	for range 64 {
		work.Go(func() {
			for n := next.Add(1); n <= 10_000; n = next.Add(1) {
				_, err := v.Authenticate(t.Context(), evil.Named(fmt.Sprint("kid-", n)).Token(t, nil))
				switch codeOf(t, err) {
				case "":
					t.Error("a token of an unknown key is accepted")
				case pgcast.CodeUnavailable:
					later.Add(1)
				}
				if n%100 == 0 && !accepts(t, v, token) {
					t.Error("meanwhile a good token is refused")
				}
			}
		})
	}
	work.Wait()
	took := time.Since(began)
	t.Logf("%d fetches in %s; %d were told to come again", p.asked.Load(), took.Round(time.Millisecond), later.Load())
	if n, most := p.asked.Load(), 2+int64(took/(10*time.Second)); n > most {
		t.Errorf("%d fetches in %s", n, took)
	}
}

// TestJWKSRotation is S6: while tokens come in all the time, the provider takes new keys, and
// not one token of a key that it publishes is refused.
func TestJWKSRotation(t *testing.T) {
	current := []*authtest.Key{newKey(t, "ES256", "0"), newKey(t, "ES256", "1")}
	p := newProvider(t, current...)
	v := running(t, auth.TokenOptions{JWKSURL: p.URL, FetchPause: time.Millisecond})
	var newest atomic.Pointer[authtest.Key]
	newest.Store(current[1])
	var work sync.WaitGroup
	var checked atomic.Int64
	ended := make(chan struct{})
	for range 8 {
		work.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
				}
				_, err := v.Authenticate(t.Context(), newest.Load().Token(t, nil))
				if code := codeOf(t, err); code == pgcast.CodeUnavailable {
					continue // it is told to come again, and does
				} else if code != "" {
					t.Errorf("a good token is refused: %v", err)
				}
				checked.Add(1)
			}
		})
	}
	for n := range 20 {
		fresh := newKey(t, "ES256", fmt.Sprint(n+2))
		old := current[0]
		current = append(current[1:], fresh)
		p.publish(t, current...)
		newest.Store(fresh)
		before := checked.Load()
		await(t, "tokens of the new key come in", func() bool { return checked.Load() > before+20 })
		if accepts(t, v, old.Token(t, nil)) {
			t.Errorf("key %s counts though it is not published any more", old.ID)
		}
	}
	close(ended)
	work.Wait()
	t.Logf("%d tokens, %d fetches", checked.Load(), p.asked.Load())
}

// Those who wait for a fetch share it.
func TestJWKSFetchIsShared(t *testing.T) {
	k := newKey(t, "ES256", "k")
	p := newProvider(t)
	text := authtest.JWKS(t, k)
	open := make(chan struct{})
	p.do(func(w http.ResponseWriter, _ *http.Request) {
		<-open
		_, _ = w.Write(text)
	})
	v := running(t, auth.TokenOptions{JWKSURL: p.URL})
	await(t, "the fetch is on its way", func() bool { return p.asked.Load() == 1 })
	var work sync.WaitGroup
	for range 100 {
		work.Go(func() {
			if _, err := v.Authenticate(t.Context(), k.Token(t, nil)); err != nil {
				t.Error(err)
			}
		})
	}
	// One whose caller gives up does not wait.
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := v.Authenticate(ctx, k.Token(t, nil)); codeOf(t, err) != pgcast.CodeUnavailable {
		t.Errorf("who gave up is told %v", err)
	}
	close(open)
	work.Wait()
	if n := p.asked.Load(); n != 1 {
		t.Errorf("there were %d fetches", n)
	}
}

// TestJWKSDown is S6: while the provider is down the keys that are known stay in force, for a
// while; and what it says meanwhile is bounded, and leads nowhere.
func TestJWKSDown(t *testing.T) {
	k := newKey(t, "ES256", "k")
	var asked atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write(authtest.JWKS(t, newKey(t, "ES256", "evil")))
	}))
	defer elsewhere.Close()
	for name, answer := range map[string]http.HandlerFunc{
		"error":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"not found": http.NotFound,
		"no JSON":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"no keys":   func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) },
		"null":      func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`null`)) },
		"redirect":  func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) },
		"half": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99")
			_, _ = w.Write([]byte("{"))
		},
		"nested": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte("["), 400_000)) },
		"too many keys": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[` + strings.Repeat("{},", 200) + `{}]}`))
		},
		"without end": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil {
					return
				}
			}
		},
		"silence": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t, k)
			v := running(t, auth.TokenOptions{JWKSURL: p.URL, FetchPause: time.Millisecond, FetchEvery: 2 * time.Millisecond,
				FetchTimeout: 500 * time.Millisecond, KeepFor: 4 * time.Second})
			token := k.Token(t, nil)
			await(t, "the keys are fetched", func() bool { return accepts(t, v, token) })
			p.do(answer)
			n := p.asked.Load()
			await(t, "it was asked in vain", func() bool { return p.asked.Load() > n })
			if _, err := v.Authenticate(t.Context(), newKey(t, "ES256", "other").Token(t, nil)); codeOf(t, err) != pgcast.CodeUnavailable {
				t.Errorf("whose key may be a new one is told %v", err)
			}
			if !accepts(t, v, token) {
				t.Error("the keys were not kept")
			}
			await(t, "the keys have served long enough", func() bool { return !accepts(t, v, token) })
			if _, err := v.Authenticate(t.Context(), token); codeOf(t, err) != pgcast.CodeUnavailable {
				t.Errorf("after that: %v", err)
			}
			p.publish(t, k)
			await(t, "all is well again", func() bool { return accepts(t, v, token) })
		})
	}
	t.Cleanup(func() {
		if asked.Load() > 0 {
			t.Error("a redirect was followed")
		}
	})
}

// A server starts while its provider is down, and knows callers as soon as it is there.
func TestJWKSNotThereYet(t *testing.T) {
	var log bytes.Buffer
	k := newKey(t, "ES256", "k")
	p := newProvider(t)
	p.do(http.NotFound)
	o := auth.TokenOptions{JWKSURL: p.URL, FetchPause: 20 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	v := verifier(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _ = v.Run(ctx) })
	_, err := v.Authenticate(t.Context(), k.Token(t, nil))
	var e *pgcast.Error
	if !errors.As(err, &e) || e.Code != pgcast.CodeUnavailable || e.RetryAfter <= 0 {
		t.Errorf("before there are keys: %v", err)
	}
	await(t, "it was asked some times", func() bool { return p.asked.Load() > 3 })
	p.publish(t, k)
	await(t, "there are keys", func() bool { return accepts(t, v, k.Token(t, nil)) })
	cancel()
	done.Wait()
	if n := strings.Count(log.String(), "cannot be fetched"); n != 1 {
		t.Errorf("it is logged %d times: %s", n, log.String())
	}
}
