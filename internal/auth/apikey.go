package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/pgcast/pgcast"
)

// KeyPrefix is what every API key begins with, and no token does.
const KeyPrefix = "pgk_"

// KeyRecord is what is stored of an API key.
type KeyRecord struct {
	Name    string
	Hash    []byte          // SHA-256 of the whole key
	Claims  json.RawMessage // an object; empty: {}
	Scopes  []Scope
	Expires time.Time // zero: never
	Revoked bool
}

// KeyStore holds API keys.
type KeyStore interface {
	// Key gives the key with an id. The error has code not_found where there is none.
	Key(ctx context.Context, id string) (KeyRecord, error)
	// KeyUsed notes that a key was used about now.
	KeyUsed(ctx context.Context, id string) error
}

// KeysOptions of [Keys]; the zero value of each field stands for its default.
type KeysOptions struct {
	// TTL is for how long it is remembered what the store has of a key; default and most 30 s.
	TTL time.Duration
	// Max bounds how many keys are remembered, and how many ids that are of none; default
	// 10,000 each.
	Max int
	// UsedEvery is how often it is noted that a key is used; default 1 min.
	UsedEvery time.Duration
	// Timeout bounds one question to the store; default 5 s.
	Timeout time.Duration
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Keys tells who shows an API key: pgk_, its id, _ and its secret.
type Keys struct {
	store  KeyStore
	opts   KeysOptions
	asking singleflight.Group
	room   chan struct{} // for those who ask the store at the same time
	used   chan struct{} // has room for one; tells Run of unnoted

	mu      sync.Mutex
	found   *lru.Cache[string, *foundKey]
	missing *lru.Cache[string, time.Time] // apart, so that what is not there displaces nothing
	forgot  uint64                        // grows with Forget
	unnoted map[string]bool
}

// foundKey is a key that is in the store.
type foundKey struct {
	record KeyRecord
	claims *Claims
	at     time.Time
	noted  time.Time // guarded by Keys.mu
}

// lookups is how many ask the store at the same time; anybody can make up keys.
const lookups = 2

// NewKeys makes the keys of a store. options may be nil.
func NewKeys(store KeyStore, options *KeysOptions) *Keys {
	k := &Keys{store: store, room: make(chan struct{}, lookups), used: make(chan struct{}, 1), unnoted: map[string]bool{}}
	if options != nil {
		k.opts = *options
	}
	o := &k.opts
	if o.TTL <= 0 || o.TTL > 30*time.Second {
		o.TTL = 30 * time.Second
	}
	setDefault(&o.Max, 10_000)
	setDefault(&o.UsedEvery, time.Minute)
	setDefault(&o.Timeout, 5*time.Second)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	k.found, _ = lru.New[string, *foundKey](max(o.Max, 1)) // it fails for 0 only
	k.missing, _ = lru.New[string, time.Time](max(o.Max, 1))
	return k
}

var (
	errKey       = unauthenticated("the API key is not valid", "")
	errKeyLookup = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "the API key cannot be looked up right now", Hint: "try again soon", RetryAfter: time.Second}
)

// Authenticate verifies an API key. Errors are *[pgcast.Error] with code unauthenticated, or
// unavailable where the store cannot be asked.
func (k *Keys) Authenticate(ctx context.Context, credential string) (*Claims, error) {
	id, ok := keyID(credential)
	if !ok {
		return nil, errKey
	}
	f, err := k.find(ctx, id)
	if err != nil {
		return nil, errKeyLookup
	}
	hash, stored := sha256.Sum256([]byte(credential)), make([]byte, sha256.Size)
	if f != nil {
		stored = f.record.Hash
	}
	// Only the holder of a key learns more about it.
	switch same := subtle.ConstantTimeCompare(hash[:], stored) == 1; {
	case !same || f == nil:
		return nil, errKey
	case f.record.Revoked:
		return nil, unauthenticated("the API key has been revoked", "")
	case f.claims.Expired(time.Now()):
		return nil, unauthenticated("the API key has expired", "make a new one with pgcast.create_api_key()")
	}
	k.note(id, f)
	return f.claims, nil
}

// Current tells why the claims of an API key that was shown before do not count any more, or
// returns nil: it is still there, and what it was. Errors are as of Authenticate.
func (k *Keys) Current(ctx context.Context, claims *Claims) error {
	switch f, err := k.find(ctx, claims.TokenID); {
	case err != nil:
		return errKeyLookup
	case f == nil || f.record.Revoked || !f.claims.same(claims):
		return errKey
	}
	return nil
}

// same tells whether claims of API keys allow the same, for as long.
func (c *Claims) same(other *Claims) bool {
	return c.hash == other.hash && c.Expires.Equal(other.Expires) && slices.EqualFunc(c.Scopes, other.Scopes, func(a, b Scope) bool {
		return slices.Equal(a.Verbs, b.Verbs) && slices.EqualFunc(a.Topics, b.Topics, func(a, b pgcast.Pattern) bool { return a.String() == b.String() })
	})
}

// maxKeyID bounds the id of a key, in bytes.
const maxKeyID = 64

// keyID gives the part of a key by which it is found.
func keyID(credential string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(credential, KeyPrefix)
	if !ok || len(credential) > 4*maxKeyID {
		return "", false
	}
	id, secret, _ := strings.Cut(rest, "_")
	if id == "" || len(id) > maxKeyID || secret == "" {
		return "", false
	}
	for i := range len(id) {
		if c := id[i] | 0x20; (c < 'a' || c > 'z') && (id[i] < '0' || id[i] > '9') {
			return "", false
		}
	}
	return id, true
}

// find gives a key from memory or from the store, nil where there is none.
func (k *Keys) find(ctx context.Context, id string) (*foundKey, error) {
	now := time.Now()
	k.mu.Lock()
	f, found := k.found.Get(id)
	missed, missing := k.missing.Get(id)
	forgot := k.forgot
	k.mu.Unlock()
	switch {
	case found && now.Sub(f.at) < k.opts.TTL:
		return f, nil
	case missing && now.Sub(missed) < k.opts.TTL:
		return nil, nil
	}
	// What was forgotten meanwhile is not to be learned from who asked before.
	answer := k.asking.DoChan(fmt.Sprint(id, " ", forgot), func() (any, error) {
		// It is for all who ask for the same, so it does not end with the first of them.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.opts.Timeout)
		defer cancel()
		return k.look(ctx, id, forgot)
	})
	select {
	case a := <-answer:
		f, _ := a.Val.(*foundKey)
		return f, a.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// look asks the store.
func (k *Keys) look(ctx context.Context, id string, forgot uint64) (*foundKey, error) {
	select {
	case k.room <- struct{}{}:
		defer func() { <-k.room }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	at := time.Now()
	record, err := k.store.Key(ctx, id)
	var f *foundKey
	switch {
	case errors.Is(err, &pgcast.Error{Code: pgcast.CodeNotFound}):
	case err != nil:
		k.opts.Logger.Warn("an API key cannot be looked up", "error", err)
		return nil, err
	default:
		c, err := record.who(id)
		if err != nil {
			k.opts.Logger.Error("an API key has claims that cannot be used", "id", id, "error", err)
			return nil, nil
		}
		f = &foundKey{record: record, claims: c, at: at}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.forgot != forgot {
		return f, nil
	}
	if f == nil {
		k.found.Remove(id)
		k.missing.Add(id, at)
		return nil, nil
	}
	if old, ok := k.found.Peek(id); ok {
		f.noted = old.noted
	}
	k.found.Add(id, f)
	return f, nil
}

// who gives the claims of a key: its own, with sub and api_key in them.
func (r *KeyRecord) who(id string) (*Claims, error) {
	all := map[string]json.RawMessage{}
	if len(r.Claims) > 0 {
		if err := json.Unmarshal(r.Claims, &all); err != nil || all == nil {
			return nil, errors.New("the claims are not an object")
		}
	}
	subject := "key:" + r.Name
	for name, text := range map[string]string{"sub": subject, "api_key": id} {
		raw, err := json.Marshal(text)
		if err != nil {
			return nil, err
		}
		all[name] = raw
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	c, err := NewClaims(FromAPIKey, raw)
	if err != nil {
		return nil, err
	}
	c.Subject, c.TokenID, c.Expires = subject, id, r.Expires
	c.Scopes = append([]Scope{}, r.Scopes...) // never nil: that would be everything the rules allow
	return c, nil
}

// Forget has a key looked up again, because something about it has changed.
func (k *Keys) Forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgot++
	k.found.Remove(id)
	k.missing.Remove(id)
}

// ForgetAll is Forget for all keys.
func (k *Keys) ForgetAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgot++
	k.found.Purge()
	k.missing.Purge()
}

// note has Run tell the store that a key is used, now and then.
func (k *Keys) note(id string, f *foundKey) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if now.Sub(f.noted) < k.opts.UsedEvery || len(k.unnoted) >= k.opts.Max {
		return
	}
	f.noted = now
	k.unnoted[id] = true
	select {
	case k.used <- struct{}{}:
	default:
	}
}

// Run notes which keys are used until ctx ends.
func (k *Keys) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-k.used:
		}
		k.mu.Lock()
		ids := k.unnoted
		k.unnoted = map[string]bool{}
		k.mu.Unlock()
		for id := range ids {
			once, cancel := context.WithTimeout(ctx, k.opts.Timeout)
			err := k.store.KeyUsed(once, id)
			cancel()
			if err != nil && ctx.Err() == nil {
				k.opts.Logger.Warn("it cannot be noted that an API key is used", "id", id, "error", err)
				break // nobody relies on it: the others are noted when they are used again
			}
		}
	}
}
