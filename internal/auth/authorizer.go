package auth

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
)

// Question is what somebody wants to do.
type Question struct {
	Claims *Claims
	Ask
}

// Store decides by the rules there are.
type Store interface {
	// Decide answers each question. An answer counts only where its error is nil.
	Decide(ctx context.Context, questions []Question) (allowed []bool, errs []error)
}

// AuthorizerOptions of an [Authorizer]; the zero value of each field stands for its default.
type AuthorizerOptions struct {
	// TTL is for how long what was decided holds; default and most 30 s.
	TTL time.Duration
	// Decisions bounds how many are remembered, and how many may wait; default 100,000.
	Decisions int
	// Timeout bounds one call of the store; default 5 s.
	Timeout time.Duration
	// Revocations take from callers what their claims would allow; nil: there are none.
	Revocations *Revocations
	// Keys tell, of the claims of an API key that wants to connect, or is to stay so, whether
	// they are still what it is; nil: they are taken as they are.
	Keys       *Keys
	Registerer prometheus.Registerer // default none
}

const (
	maxTTL     = 30 * time.Second
	askWorkers = 2   // calls of the store at the same time, and one more for suspects
	askBatch   = 256 // questions in one call
	askTries   = 5   // of a question whose answer was overtaken by a change

	// Those about whom the store has failed to decide are asked about apart for a while, so
	// that what fails or takes long for them takes nothing from the others.
	suspectFor  = 30 * time.Second
	maxSuspects = 10_000
)

// Authorizer decides what callers may do, and remembers what was decided for their claims, a
// verb and a topic. Those who ask the same at once are answered by one question, and many
// questions go to the store together. Whatever goes wrong, the answer is no, and that is not
// remembered. All methods are safe for concurrent use.
type Authorizer struct {
	store   Store
	opts    AuthorizerOptions
	metrics *authorizerMetrics

	mu      sync.Mutex
	halted  bool
	decided *simplelru.LRU[decision, decided]
	pending map[decision]*pending
	waiting int // in both lanes
	lanes   [2]lane
	suspect *simplelru.LRU[string, time.Time] // until when, by the hash of the claims
}

// lane is a queue of questions, and those who ask them.
type lane struct {
	queue   []*pending
	workers int
	most    int // workers
}

// The lanes.
const (
	usual = iota
	slow  // for suspects
)

// decision is what is decided by one question.
type decision struct {
	hash  string // of the claims
	verb  Verb
	topic string
}

type decided struct {
	claims  *Claims
	allowed bool
	until   time.Time
}

// pending is a question that has no answer yet.
type pending struct {
	key      decision
	question Question
	asked    bool // the store is being asked
	stale    bool // and something has changed since
	tries    int

	done chan struct{} // closed when err is set
	err  error
}

// NewAuthorizer makes an Authorizer on a store. options may be nil.
func NewAuthorizer(store Store, options *AuthorizerOptions) *Authorizer {
	a := &Authorizer{store: store, pending: map[decision]*pending{}}
	if options != nil {
		a.opts = *options
	}
	o := &a.opts
	if o.TTL <= 0 || o.TTL > maxTTL {
		o.TTL = maxTTL
	}
	if o.Decisions <= 0 {
		o.Decisions = 100_000
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	a.lanes[usual].most, a.lanes[slow].most = askWorkers, 1
	a.decided, _ = simplelru.NewLRU[decision, decided](o.Decisions, nil) // it fails for 0 only
	a.suspect, _ = simplelru.NewLRU[string, time.Time](maxSuspects, nil)
	a.metrics = newAuthorizerMetrics(o.Registerer)
	return a
}

var errUndecided = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "who may do what cannot be found out right now",
	Hint: "try again in a moment", RetryAfter: time.Second}

// Decide gives for each ask nil, [ErrForbidden], or an error with code unavailable, which
// allows nothing either; for Connect also one with code unauthenticated, where an API key is
// not what it was when it was shown. What is not the name of a topic or a pattern is forbidden, and so is
// everything to claims that have expired or are revoked.
func (a *Authorizer) Decide(ctx context.Context, claims *Claims, asks []Ask) []error {
	errs := make([]error, len(asks))
	if a.Halted() {
		return fill(errs, errUndecided)
	}
	if claims == nil || claims.Expired(time.Now()) || a.opts.Revocations.Revoked(claims, "") {
		return fill(errs, ErrForbidden)
	}
	if claims.Scopes != nil {
		for i, ask := range asks {
			if errs[i] = within(claims.Scopes, ask); errs[i] == nil && ask.Verb == Connect && a.opts.Keys != nil {
				errs[i] = a.opts.Keys.Current(ctx, claims)
			}
		}
		return errs
	}
	waits := a.ask(claims, asks, errs)
	for i, p := range waits {
		if p == nil {
			continue
		}
		select {
		case <-p.done:
			errs[i] = p.err
		case <-ctx.Done():
			errs[i] = errUndecided
		}
	}
	// While the store was asked, they may have been revoked.
	if waits != nil && (claims.Expired(time.Now()) || a.opts.Revocations.Revoked(claims, "")) {
		return fill(errs, ErrForbidden)
	}
	return errs
}

func fill(errs []error, err error) []error {
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// within decides for API keys: by their scopes alone. Whoever holds one may connect.
func within(scopes []Scope, ask Ask) error {
	if ask.Verb == Connect && len(scopes) > 0 {
		return nil
	}
	p, err := pgcast.ParsePattern(ask.Topic)
	if err != nil {
		return ErrForbidden
	}
	for _, s := range scopes {
		if slices.Contains(s.Verbs, ask.Verb) && slices.ContainsFunc(s.Topics, func(t pgcast.Pattern) bool { return t.Contains(p) }) {
			return nil
		}
	}
	return ErrForbidden
}

// ask answers from memory what it can, and gives the others, which the store is asked.
func (a *Authorizer) ask(claims *Claims, asks []Ask, errs []error) (waits []*pending) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, ask := range asks {
		key := decision{claims.Hash(), ask.Verb, ask.Topic}
		if d, ok := a.decided.Get(key); ok && now.Before(d.until) {
			errs[i] = answer(d.allowed)
			a.metrics.remembered.Inc()
			continue
		}
		p := a.pending[key]
		if p == nil {
			if !askable(ask) {
				errs[i] = ErrForbidden
				continue
			}
			if a.waiting >= a.opts.Decisions {
				errs[i] = errUndecided
				continue
			}
			p = &pending{key: key, question: Question{claims, ask}, done: make(chan struct{})}
			a.pending[key] = p
			a.enqueue(p, now)
		}
		if waits == nil {
			waits = make([]*pending, len(asks))
		}
		waits[i] = p
	}
	for i := range a.lanes {
		for l := &a.lanes[i]; l.workers < min(l.most, (len(l.queue)+askBatch-1)/askBatch); l.workers++ {
			go a.work(l)
		}
	}
	return waits
}

// enqueue is called with a.mu held.
func (a *Authorizer) enqueue(p *pending, now time.Time) {
	l := &a.lanes[usual]
	if until, ok := a.suspect.Get(p.key.hash); ok && now.Before(until) {
		l = &a.lanes[slow]
	}
	l.queue = append(l.queue, p)
	a.waiting++
}

// askable keeps from the store what has one answer whatever the rules.
func askable(ask Ask) bool {
	if ask.Verb == Connect {
		return ask.Topic == ""
	}
	_, err := pgcast.ParsePattern(ask.Topic)
	return err == nil
}

func answer(allowed bool) error {
	if allowed {
		return nil
	}
	return ErrForbidden
}

// work asks the store until nothing is left to ask. What comes meanwhile goes together.
func (a *Authorizer) work(l *lane) {
	for {
		a.mu.Lock()
		if len(l.queue) == 0 {
			l.workers--
			l.queue = nil
			a.mu.Unlock()
			return
		}
		n := min(len(l.queue), askBatch)
		batch := slices.Clone(l.queue[:n])
		l.queue = l.queue[n:]
		a.waiting -= n
		questions := make([]Question, n)
		for i, p := range batch {
			p.asked, p.stale = true, false
			p.tries++
			questions[i] = p.question
		}
		a.mu.Unlock()

		at := time.Now()
		// It is for all who ask, so it does not end with one of them.
		ctx, cancel := context.WithTimeout(context.Background(), a.opts.Timeout)
		allowed, errs := a.store.Decide(ctx, questions)
		cancel()
		a.metrics.took.Observe(time.Since(at).Seconds())

		a.mu.Lock()
		for i, p := range batch {
			a.settle(l, p, allowed[i], errs[i], at)
		}
		a.mu.Unlock()
	}
}

// settle is called with a.mu held.
func (a *Authorizer) settle(l *lane, p *pending, allowed bool, err error, at time.Time) {
	p.asked = false
	if err != nil {
		a.suspect.Add(p.key.hash, time.Now().Add(suspectFor))
	}
	if p.stale && p.tries < askTries {
		l.queue = append(l.queue, p) // the answer is one from before the change
		a.waiting++
		return
	}
	switch {
	case err != nil || p.stale:
		p.err = errUndecided
		a.metrics.failed.Inc()
	default:
		p.err = answer(allowed)
		a.metrics.asked.Inc()
		a.decided.Add(p.key, decided{p.question.Claims, allowed, at.Add(a.opts.TTL)})
	}
	delete(a.pending, p.key)
	close(p.done)
}

// Forget has everything asked anew about those whose claims match, or about all if match is
// nil: also what is being asked right now. It is called when rules have changed.
func (a *Authorizer) Forget(match func(*Claims) bool) {
	a.mu.Lock()
	for _, p := range a.pending {
		p.stale = p.stale || p.asked
	}
	if match == nil {
		a.decided.Purge()
		a.mu.Unlock()
		return
	}
	keys, values := a.decided.Keys(), a.decided.Values()
	a.mu.Unlock()
	// It may take a while to match very many, and nobody else is to wait for it. What is
	// decided meanwhile was asked after the change.
	before, known := time.Now(), map[string]bool{}
	for i, d := range values {
		gone, ok := known[keys[i].hash]
		if !ok {
			gone = match(d.claims)
			known[keys[i].hash] = gone
		}
		if gone {
			a.remove(keys[i], before)
		}
	}
}

// remove forgets a decision, unless it was asked for later.
func (a *Authorizer) remove(key decision, before time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d, ok := a.decided.Peek(key); ok && !d.until.Add(-a.opts.TTL).After(before) {
		a.decided.Remove(key)
	}
}

// Halt has nothing allowed to anybody, with code unavailable, until it is taken back: for
// while nobody would hear of changes.
func (a *Authorizer) Halt(halted bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.halted = halted
}

// Halted tells whether nothing is allowed to anybody right now.
func (a *Authorizer) Halted() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.halted
}

// Remembered is how many decisions are in memory.
func (a *Authorizer) Remembered() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.decided.Len()
}

// IsUndecided tells errors that allow nothing because nobody could decide from those that
// say no.
func IsUndecided(err error) bool { return errors.Is(err, pgcast.ErrUnavailable) }
