package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"

	"github.com/pgcast/pgcast"
)

// jwks are the keys that an identity provider publishes. They are fetched by run and by
// nobody else: now and then, and when somebody shows a token whose key is not known. All who
// want that at about the same time wait for the same fetch.
type jwks struct {
	url    string
	client *http.Client
	opts   *TokenOptions
	log    *slog.Logger
	count  *jwksMetrics
	wanted chan struct{} // has room for one; tells run that flight waits

	mu     sync.Mutex
	keys   []key
	at     time.Time // of the fetch that brought them
	next   time.Time // before that there is none
	flight *flight   // nil: there is none on its way
	failed bool      // the last fetch
}

// flight is one fetch.
type flight struct {
	done chan struct{} // closed when err is set
	err  error
}

func newJWKS(o *TokenOptions) (*jwks, error) {
	client, err := newFetcher(o)
	if err != nil {
		return nil, err
	}
	j := &jwks{url: o.JWKSURL, client: client, opts: o, log: o.Logger, wanted: make(chan struct{}, 1)}
	j.count = newJWKSMetrics(o.Registerer, j.age)
	return j, nil
}

// age gives how long ago the keys were fetched, in seconds; -1: they never were.
func (j *jwks) age() float64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.at.IsZero() {
		return -1
	}
	return time.Since(j.at).Seconds()
}

// known gives the keys that are in force.
func (j *jwks) known() []key {
	j.mu.Lock()
	defer j.mu.Unlock()
	if time.Since(j.at) > j.opts.KeepFor {
		return nil
	}
	return j.keys
}

// renew waits for a fetch, that is on its way or that it asks for. The error has code
// unavailable: it is too early for another, or it failed.
func (j *jwks) renew(ctx context.Context) error {
	j.mu.Lock()
	f := j.flight
	if f == nil {
		// It must not be in anybody's power to have us ask all the time.
		if wait := time.Until(j.next); wait > 0 {
			j.mu.Unlock()
			return j.unavailable(wait)
		}
		f = &flight{done: make(chan struct{})}
		j.flight = f
		select {
		case j.wanted <- struct{}{}:
		default:
		}
	}
	j.mu.Unlock()
	// While run does not run there is nobody who would fetch.
	ctx, cancel := context.WithTimeout(ctx, j.opts.FetchTimeout+time.Second)
	defer cancel()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return j.unavailable(j.opts.FetchPause)
	}
}

func (j *jwks) unavailable(wait time.Duration) error {
	return &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "the key that the token is signed with is not known, and keys cannot be fetched right now",
		Hint: "try again soon", RetryAfter: max(wait, time.Second)}
}

// run fetches until ctx ends.
func (j *jwks) run(ctx context.Context) error {
	defer j.client.CloseIdleConnections()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-j.wanted:
		}
		j.mu.Lock()
		if time.Now().Before(j.next) {
			j.mu.Unlock() // who wanted it has got it meanwhile
			continue
		}
		if j.flight == nil {
			j.flight = &flight{done: make(chan struct{})}
		}
		j.next = time.Now().Add(j.opts.FetchPause)
		j.mu.Unlock()

		keys, err := j.fetch(ctx)
		if ctx.Err() == nil {
			j.tell(len(keys), err)
		}
		wait := j.opts.FetchEvery

		j.mu.Lock()
		f := j.flight
		j.flight = nil
		if j.failed = err != nil; j.failed {
			j.count.failed.Inc()
			f.err = j.unavailable(time.Until(j.next))
			wait = min(wait, max(30*time.Second, j.opts.FetchPause))
			if j.at.IsZero() {
				wait = min(wait, j.opts.FetchPause)
			}
		} else {
			j.count.fetched.Inc()
			j.keys, j.at = keys, time.Now()
		}
		j.mu.Unlock()
		close(f.done)
		timer.Reset(wait)
	}
}

// tell logs what has changed.
func (j *jwks) tell(n int, err error) {
	j.mu.Lock()
	failed, first := j.failed, j.at.IsZero()
	j.mu.Unlock()
	switch {
	case err != nil && !failed:
		j.log.Warn("the keys of tokens cannot be fetched; those that are known stay in force for a while", "url", j.url, "keep", j.opts.KeepFor, "error", err)
	case err == nil && (failed || first):
		j.log.Info("fetched the keys of tokens", "url", j.url, "keys", n)
	}
}

// Bounds of what is fetched.
const (
	maxJWKS = 512 << 10 // bytes
	maxKeys = 100
)

func (j *jwks) fetch(ctx context.Context) ([]key, error) {
	ctx, cancel := context.WithTimeout(ctx, j.opts.FetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	req.Header.Set("User-Agent", "pgcast")
	resp, err := j.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxJWKS+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxJWKS {
		return nil, fmt.Errorf("the answer has more than %d bytes", maxJWKS)
	}
	return readJWKS(text, j.log)
}

// readJWKS reads keys, but for those that are of no use here.
func readJWKS(text []byte, log *slog.Logger) ([]key, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("the answer is not a JWKS: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("there are %d keys; at most %d are of use", len(set.Keys), maxKeys)
	}
	var keys []key
	for i, raw := range set.Keys {
		k, err := readJWK(raw)
		if err != nil {
			log.Debug("a key of the JWKS is of no use", "number", i+1, "error", err)
			continue
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key in it that tokens can be verified with")
	}
	return keys, nil
}

// readJWK reads one key. What it says about other places is not looked at.
func readJWK(raw json.RawMessage) (key, error) {
	var m jwkset.JWKMarshal
	if err := json.Unmarshal(raw, &m); err != nil {
		return key{}, err
	}
	switch {
	case m.USE != "" && m.USE != jwkset.UseSig, len(m.KEYOPS) > 0 && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify):
		return key{}, errors.New("it is not for signatures")
	case m.KTY == jwkset.KtyOct, m.K != "", m.D != "":
		return key{}, errors.New("it is a secret, and everybody can read it")
	}
	plain := jwkset.JWKMarshal{KTY: m.KTY, CRV: m.CRV, X: m.X, Y: m.Y, N: m.N, E: m.E}
	j, err := jwkset.NewJWKFromMarshal(plain, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{SkipAll: true})
	if err != nil {
		return key{}, err
	}
	k, err := newKey(j.Key(), string(m.ALG))
	k.id = m.KID
	return k, err
}
