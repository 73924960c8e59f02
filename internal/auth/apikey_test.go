package auth_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
)

// memory is a store of API keys that counts what it is asked.
type memory struct {
	mu     sync.Mutex
	keys   map[string]auth.KeyRecord
	asked  map[string]int
	used   map[string]int
	failed error
	wait   chan struct{} // nil: answers at once
	inside int
	most   int // that asked at the same time
}

func newMemory() *memory {
	return &memory{keys: map[string]auth.KeyRecord{}, asked: map[string]int{}, used: map[string]int{}}
}

func (m *memory) Key(ctx context.Context, id string) (auth.KeyRecord, error) {
	m.mu.Lock()
	m.asked[id]++
	m.inside++
	m.most = max(m.most, m.inside)
	wait, r, failed := m.wait, m.keys[id], m.failed
	m.mu.Unlock()
	defer func() { m.mu.Lock(); m.inside--; m.mu.Unlock() }()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return auth.KeyRecord{}, ctx.Err()
		}
	}
	if failed == nil && r.Hash == nil {
		failed = &pgcast.Error{Code: pgcast.CodeNotFound, Message: "there is no such key"}
	}
	return r, failed
}

func (m *memory) KeyUsed(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used[id]++
	return nil
}

// put stores a key and gives it whole.
func (m *memory) put(id string, r auth.KeyRecord) string {
	whole := auth.KeyPrefix + id + "_" + strings.Repeat("s", 40)
	sum := sha256.Sum256([]byte(whole))
	r.Hash = sum[:]
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keys[id] = r
	return whole
}

func (m *memory) count(what map[string]int, id string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return what[id]
}

func TestAPIKeys(t *testing.T) {
	m := newMemory()
	scopes := []auth.Scope{{Verbs: []auth.Verb{auth.Publish}}}
	good := m.put("k1", auth.KeyRecord{Name: "billing", Claims: json.RawMessage(`{"org":7,"sub":"admin"}`), Scopes: scopes, Expires: time.Now().Add(time.Hour)})
	bare := m.put("k2", auth.KeyRecord{Name: "billing"})
	gone := m.put("k3", auth.KeyRecord{Name: "gone", Revoked: true})
	late := m.put("k4", auth.KeyRecord{Name: "late", Expires: time.Now().Add(-time.Second)})
	odd := m.put("k5", auth.KeyRecord{Name: "odd", Claims: json.RawMessage(`[]`)})
	k := auth.NewKeys(m, &auth.KeysOptions{Logger: quiet()})
	c, err := k.Authenticate(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	if c.Source != auth.FromAPIKey || c.Subject != "key:billing" || c.TokenID != "k1" || len(c.Scopes) != 1 || c.Expires.IsZero() {
		t.Errorf("the claims are %+v", c)
	}
	if want := `{"api_key":"k1","org":7,"sub":"key:billing"}`; string(c.Decided()) != want {
		t.Errorf("decided by %s, want %s", c.Decided(), want)
	}
	b, err := k.Authenticate(t.Context(), bare)
	if err != nil {
		t.Fatal(err)
	}
	if b.Scopes == nil || b.Hash() == c.Hash() || !b.Expires.IsZero() {
		t.Errorf("the claims are %+v", b)
	}
	for _, refused := range []struct{ name, key, want string }{
		{"revoked", gone, "has been revoked"},
		{"expired", late, "has expired"},
		{"claims that are none", odd, "not valid"},
		{"unknown id", strings.Replace(good, "k1", "k9", 1), "not valid"},
		{"another's secret", strings.Replace(good, "k1", "k2", 1) + "x", "not valid"},
		{"part of the secret", good[:len(good)-1], "not valid"},
		{"more than the secret", good + "s", "not valid"},
		{"revoked, and wrong", gone + "s", "not valid"},
		{"expired, and wrong", late + "s", "not valid"},
		{"no secret", "pgk_k1_", "not valid"},
		{"no id", "pgk__" + strings.Repeat("s", 40), "not valid"},
		{"nothing behind the prefix", "pgk_", "not valid"},
		{"an id with other letters", "pgk_k1'--_x", "not valid"},
		{"a letter beside a to z", "pgk_k[1_x", "not valid"},
		{"a zero", "pgk_k\x001_x", "not valid"},
		{"an id that is long", "pgk_" + strings.Repeat("k", 65) + "_x", "not valid"},
		{"a key that is long", good + strings.Repeat("s", 1000), "not valid"},
	} {
		_, err := k.Authenticate(t.Context(), refused.key)
		if codeOf(t, err) != pgcast.CodeUnauthenticated || !strings.Contains(err.Error(), refused.want) || strings.Contains(err.Error(), "sss") {
			t.Errorf("%s: %v; want %q", refused.name, err, refused.want)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, n := range m.asked {
		if n > 1 || !strings.HasPrefix(id, "k") || len(id) != 2 {
			t.Errorf("the store was asked %d times for %q", n, id)
		}
	}
}

// What has changed is noticed at once where it is said, and soon where it is not.
func TestAPIKeysAreForgotten(t *testing.T) {
	m := newMemory()
	key := m.put("k1", auth.KeyRecord{Name: "a"})
	k := auth.NewKeys(m, &auth.KeysOptions{TTL: 20 * time.Millisecond, Logger: quiet()})
	ok := func() bool { _, err := k.Authenticate(context.Background(), key); return err == nil }
	if !ok() {
		t.Fatal("refused")
	}
	m.put("k1", auth.KeyRecord{Name: "a", Revoked: true})
	await(t, "it is noticed that the key is revoked", func() bool { return !ok() })
	k = auth.NewKeys(m, &auth.KeysOptions{TTL: time.Hour, Logger: quiet()})
	if ok() {
		t.Error("a revoked key is accepted")
	}
	m.put("k1", auth.KeyRecord{Name: "a"})
	if ok() {
		t.Error("nothing is remembered")
	}
	if k.Forget("k1"); !ok() {
		t.Error("it is not forgotten")
	}
	m.put("k1", auth.KeyRecord{Name: "a", Revoked: true})
	if k.ForgetAll(); ok() {
		t.Error("not all is forgotten")
	}
}

// Who asked before something was forgotten does not bring back what it was.
func TestAPIKeysForgetWhatIsOnItsWay(t *testing.T) {
	m := newMemory()
	m.wait = make(chan struct{})
	key := m.put("k1", auth.KeyRecord{Name: "a"})
	k := auth.NewKeys(m, &auth.KeysOptions{Logger: quiet()})
	var first sync.WaitGroup
	first.Go(func() { _, _ = k.Authenticate(context.Background(), key) })
	await(t, "the store is asked", func() bool { return m.count(m.asked, "k1") == 1 })
	m.put("k1", auth.KeyRecord{Name: "a", Revoked: true})
	k.Forget("k1")
	var second sync.WaitGroup
	second.Go(func() {
		if _, err := k.Authenticate(context.Background(), key); codeOf(t, err) != pgcast.CodeUnauthenticated {
			t.Errorf("a revoked key is accepted: %v", err)
		}
	})
	await(t, "the store is asked again", func() bool { return m.count(m.asked, "k1") == 2 })
	close(m.wait)
	first.Wait()
	second.Wait()
	if _, err := k.Authenticate(context.Background(), key); codeOf(t, err) != pgcast.CodeUnauthenticated {
		t.Errorf("after that: %v", err)
	}
}

// Keys that are made up cost the store little, memory no more than so much, and nobody else
// anything.
func TestAPIKeysThatAreMadeUp(t *testing.T) {
	m := newMemory()
	good := m.put("good", auth.KeyRecord{Name: "a"})
	k := auth.NewKeys(m, &auth.KeysOptions{Max: 1000, Logger: quiet()})
	if _, err := k.Authenticate(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var work sync.WaitGroup
	for w := range 20 {
		work.Go(func() {
			for i := range 1000 {
				for range 2 { // one after the other: the second time it is known that there is none
					if _, err := k.Authenticate(t.Context(), fmt.Sprintf("pgk_x%dx%d_secret", w, i)); codeOf(t, err) != pgcast.CodeUnauthenticated {
						t.Error(err)
					}
				}
			}
		})
	}
	work.Wait()
	if m.most > 2 {
		t.Errorf("%d ask the store at the same time", m.most)
	}
	if _, err := k.Authenticate(t.Context(), good); err != nil || m.count(m.asked, "good") != 1 {
		t.Errorf("the good key was displaced: %v", err)
	}
	m.mu.Lock()
	if n := len(m.asked); n != 20_001 {
		t.Errorf("the store was asked for %d ids", n)
	}
	again := 0
	for _, n := range m.asked {
		again += n - 1
	}
	if again > 400 { // whoever has to wait for long between two may find that others took the place
		t.Errorf("it was asked %d times once more", again)
	}
	m.asked = map[string]int{} // what the store itself holds
	m.mu.Unlock()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("memory has grown by %d bytes", grown)
	}
	runtime.KeepAlive(k)
}

// While the store cannot be asked, those who are not known yet are told to come again, and
// that is not remembered.
func TestAPIKeysWhileTheStoreIsDown(t *testing.T) {
	m := newMemory()
	known, other := m.put("k1", auth.KeyRecord{Name: "a"}), m.put("k2", auth.KeyRecord{Name: "b"})
	k := auth.NewKeys(m, &auth.KeysOptions{Logger: quiet()})
	if _, err := k.Authenticate(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	m.failed = errors.New("connection refused, password=canary")
	if _, err := k.Authenticate(t.Context(), known); err != nil {
		t.Errorf("a known key: %v", err)
	}
	if _, err := k.Authenticate(t.Context(), other); codeOf(t, err) != pgcast.CodeUnavailable || strings.Contains(err.Error(), "canary") {
		t.Errorf("another key: %v", err)
	}
	m.failed = nil
	if _, err := k.Authenticate(t.Context(), other); err != nil {
		t.Errorf("after that: %v", err)
	}
	m.wait = make(chan struct{})
	m.put("k3", auth.KeyRecord{Name: "c"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Authenticate(ctx, "pgk_k3_x"); codeOf(t, err) != pgcast.CodeUnavailable {
		t.Errorf("who gives up is told %v", err)
	}
	close(m.wait)
}

// It is noted that a key is used, once in a while.
func TestAPIKeysLastUsed(t *testing.T) {
	m := newMemory()
	key := m.put("k1", auth.KeyRecord{Name: "a"})
	wrong := key + "x"
	k := auth.NewKeys(m, &auth.KeysOptions{Logger: quiet()})
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _ = k.Run(ctx) })
	_, _ = k.Authenticate(t.Context(), wrong)
	for range 100 {
		if _, err := k.Authenticate(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "it is noted", func() bool { return m.count(m.used, "k1") == 1 })
	k.Forget("k1")
	for range 100 {
		if _, err := k.Authenticate(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	done.Wait()
	if n := m.count(m.used, "k1"); n > 2 {
		t.Errorf("it is noted %d times", n)
	}
}

// A credential is what its first letters say.
func TestChain(t *testing.T) {
	m := newMemory()
	key := m.put("k1", auth.KeyRecord{Name: "a"})
	keys := auth.NewKeys(m, &auth.KeysOptions{Logger: quiet()})
	v := verifier(t, auth.TokenOptions{Secret: strings.Repeat("s", 32)})
	for _, c := range []struct {
		name       string
		chain      *auth.Chain
		credential string
		want       string // "": it is accepted
	}{
		{"key", auth.NewChain(v, keys, nil), key, ""},
		{"key, no tokens", auth.NewChain(nil, keys, nil), key, ""},
		{"key, no keys", auth.NewChain(v, nil, nil), key, "not valid"},
		{"token, no tokens", auth.NewChain(nil, keys, nil), "a.b.c", "not accepted"},
		{"no token", auth.NewChain(v, keys, nil), "a.b.c", "not a token"},
		{"nothing", auth.NewChain(v, keys, nil), "", "who are you"},
		{"key in capitals", auth.NewChain(v, keys, nil), strings.ToUpper(key), "not a token"},
	} {
		_, err := c.chain.Authenticate(t.Context(), c.credential)
		if c.want == "" && err != nil || c.want != "" && (codeOf(t, err) != pgcast.CodeUnauthenticated || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := auth.NewChain(v, keys, nil).Run(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
