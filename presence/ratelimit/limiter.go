package ratelimit

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
)

// Fallback is what becomes of calls while the store does not answer.
type Fallback string

// The fallbacks.
const (
	Local  Fallback = "local"  // each server counts alone, beginning with full buckets
	Open   Fallback = "open"   // nothing is limited
	Closed Fallback = "closed" // what has a rule is denied, with code unavailable
)

// Options of a Limiter; the zero value of each field stands for its default.
type Options struct {
	Rules    []Rule
	Store    Store // nil: this server is alone
	Relay    Relay // with a Store
	Fallback Fallback
	// MaxKeys is how many buckets of each rule this process keeps; default 100,000, of
	// about 200 bytes.
	MaxKeys    int
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // default slog.Default()
}

// Limiter decides on calls. All methods are safe for concurrent use.
type Limiter struct {
	opts    Options
	rules   map[Verb][]limit
	local   *local
	bans    bans
	refresh chan struct{} // of the bans
	metrics *metrics
}

// limit is a rule, and what the names of its buckets begin with.
type limit struct {
	*Rule
	prefix string
}

// New makes a limiter; Run looks after it.
func New(options *Options) *Limiter {
	l := &Limiter{rules: map[Verb][]limit{}, refresh: make(chan struct{}, 1)}
	if options != nil {
		l.opts = *options
	}
	if l.opts.Fallback == "" {
		l.opts.Fallback = Local
	}
	if l.opts.MaxKeys <= 0 {
		l.opts.MaxKeys = 100_000
	}
	if l.opts.Logger == nil {
		l.opts.Logger = slog.Default()
	}
	l.opts.Rules = slices.Clone(l.opts.Rules)
	for i := range l.opts.Rules {
		r := &l.opts.Rules[i]
		l.rules[r.Verb] = append(l.rules[r.Verb], limit{r, r.prefix()})
	}
	l.local = newLocal(l.opts.MaxKeys)
	l.metrics = newMetrics(l.opts.Registerer, l)
	return l
}

// Caller is who makes a call. What is empty it does not have, and is not counted by.
type Caller struct {
	IP      string // an AddressKey
	Session string // its public key
	Subject string // of a token that was checked
}

// Ask is what a call asks for.
type Ask struct {
	Topic string // or pattern, or empty
	Cost  int    // 1 or more; what is more than a bucket holds counts as that
}

// Limits tells whether calls of a verb need to be asked about at all.
func (l *Limiter) Limits(verb Verb) bool { return len(l.rules[verb]) > 0 || l.bans.any() }

// Allow decides on a call that asks for everything or nothing. Errors are *[pgcast.Error]:
// of code rate_limited with RetryAfter, a whole number of milliseconds; or unavailable,
// where the store does not answer and the fallback is Closed; or the context's own.
func (l *Limiter) Allow(ctx context.Context, verb Verb, by Caller, asks ...Ask) error {
	if !l.Limits(verb) {
		return nil
	}
	errs := l.decide(ctx, verb, []Call{l.call(verb, by, asks)})
	return errs[0]
}

// AllowEach decides on each of several calls, all in one round trip. It gives nil if all
// are allowed; else an error, or nil, for each.
func (l *Limiter) AllowEach(ctx context.Context, verb Verb, by Caller, asks []Ask) []error {
	if !l.Limits(verb) || len(asks) == 0 {
		return nil
	}
	calls := make([]Call, len(asks))
	for i := range asks {
		calls[i] = l.call(verb, by, asks[i:i+1])
	}
	errs := l.decide(ctx, verb, calls)
	if !slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
		return nil
	}
	return errs
}

// call makes a call's charges, one for each bucket.
func (l *Limiter) call(verb Verb, by Caller, asks []Ask) (c Call) {
	if l.opts.Store != nil || l.bans.any() {
		c.Names = by.names(asks)
	}
	sum := 0
	for _, a := range asks {
		sum += a.Cost
	}
	c.Charges = make([]Charge, 0, len(l.rules[verb]))
	for _, r := range l.rules[verb] {
		if r.Kind != Topic {
			if key := by.key(r.Kind); key != "" {
				c.Charges = append(c.Charges, Charge{r.prefix + key, r.Rule, min(sum, r.Burst)})
			}
			continue
		}
		for _, a := range asks {
			if !limitable(a.Topic) {
				continue
			}
			bucket := r.prefix + a.Topic
			if i := slices.IndexFunc(c.Charges, func(o Charge) bool { return o.Bucket == bucket }); i >= 0 {
				c.Charges[i].Cost = min(c.Charges[i].Cost+a.Cost, r.Burst)
				continue
			}
			c.Charges = append(c.Charges, Charge{bucket, r.Rule, min(a.Cost, r.Burst)})
		}
	}
	return c
}

// names are all that a ban on a call could be on.
func (c Caller) names(asks []Ask) (list []string) {
	list = make([]string, 0, 3+len(asks))
	for _, n := range [...]struct {
		kind Kind
		key  string
	}{{IP, c.IP}, {Session, c.Session}, {Subject, c.Subject}} {
		if n.key != "" {
			list = append(list, name(n.kind, n.key))
		}
	}
	for _, a := range asks {
		if limitable(a.Topic) {
			list = append(list, name(Topic, a.Topic))
		}
	}
	return list
}

// maxKey is the longest key; what is longer is no topic.
const maxKey = 256

func limitable(topic string) bool { return topic != "" && len(topic) <= maxKey }

func (c Caller) key(k Kind) string {
	switch {
	case k == Subject && c.Subject != "":
		return c.Subject
	case k != IP && c.Session != "":
		return c.Session
	}
	return c.IP
}

func name(k Kind, key string) string { return string(k) + ":" + key }

func (r *Rule) prefix() string { return strings.ReplaceAll(r.name(), " ", ":") + ":" }

func (l *Limiter) decide(ctx context.Context, verb Verb, calls []Call) []error {
	errs := make([]error, len(calls))
	verdicts, err := l.take(ctx, verb, calls)
	for i, c := range calls {
		switch {
		case err != nil:
			errs[i] = err
			l.metrics.unavailable(verb)
			continue
		case verdicts[i].Outcome != Allowed:
			errs[i] = l.denied(verb, c, verdicts[i])
		}
		l.metrics.count(verb, verdicts[i].Outcome)
	}
	return errs
}

// take asks whoever counts.
func (l *Limiter) take(ctx context.Context, verb Verb, calls []Call) ([]Verdict, error) {
	// A cursor moves too often to ask anybody about it; what has no rule needs no store.
	if l.opts.Store == nil || verb == Cursor || len(l.rules[verb]) == 0 {
		return l.takeHere(calls), nil
	}
	verdicts, err := l.opts.Store.Take(ctx, calls)
	if err == nil {
		return verdicts, nil
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil, err // the caller has gone
	}
	l.metrics.fallbacks.WithLabelValues(string(verb)).Inc()
	switch l.opts.Fallback {
	case Closed:
		return nil, errUnknown
	case Open:
		calls = slices.Clone(calls)
		for i := range calls {
			calls[i].Charges = nil
		}
	}
	return l.takeHere(calls), nil
}

var errUnknown = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "rate limits cannot be checked right now", Hint: "try again in a moment", RetryAfter: time.Second}

func (l *Limiter) takeHere(calls []Call) []Verdict {
	verdicts := make([]Verdict, len(calls))
	for i, c := range calls {
		if by, wait := l.bans.find(c.Names); by >= 0 {
			verdicts[i] = Verdict{Banned, by, wait}
			continue
		}
		verdicts[i] = l.local.take(c)
	}
	return verdicts
}

// What a denial is about, in words.
var (
	many = map[Verb]string{Connect: "connections", Subscribe: "subscriptions", Publish: "publishes", History: "history reads", Cursor: "cursor moves"}
	of   = map[Kind]string{IP: "from this address", Session: "of this session", Subject: "of this user", Topic: "on this topic"}
)

// denied says so. The wait is rounded up to what a frame can say.
func (l *Limiter) denied(verb Verb, c Call, v Verdict) error {
	wait := (v.Wait + time.Millisecond - 1).Truncate(time.Millisecond)
	e := &pgcast.Error{Code: pgcast.CodeRateLimited, Hint: "try again after " + wait.String(), RetryAfter: max(wait, time.Millisecond)}
	if v.Outcome == Banned {
		kind, _, _ := strings.Cut(c.Names[v.By], ":")
		e.Message = "there is a ban on what comes " + of[Kind(kind)]
		l.metrics.denials.WithLabelValues(string(verb), kind).Inc()
		l.opts.Logger.Debug("rate limit: banned", "verb", verb, "key", c.Names[v.By])
		return e
	}
	r := c.Charges[v.By].Rule
	e.Message = "too many " + many[verb] + " " + of[r.Kind]
	l.metrics.denials.WithLabelValues(string(verb), string(r.Kind)).Inc()
	l.opts.Logger.Debug("rate limit: denied", "bucket", c.Charges[v.By].Bucket, "outcome", v.Outcome, "wait", wait)
	return e
}
