// Package shared is what servers share through Redis: rosters and their messages, behind a
// circuit breaker. Everything here may be lost at any time.
package shared

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/breaker"
)

// Options of a Redis; URL is required.
type Options struct {
	URL    string // redis:// or rediss://, as go-redis reads it
	Prefix string // of every key and channel; default pgcast
	// CAFile has the certificates, in PEM, of those who may vouch for a rediss:// server.
	// Default: those this machine trusts.
	CAFile string
	// OnState is called after each change of state, and must not wait.
	OnState    func(breaker.State)
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // default slog.Default()
}

const (
	defaultPrefix = "pgcast"

	tripTimeout = time.Second     // of one round trip
	callTimeout = 3 * time.Second // of all that a call takes: a new connection greets, and a script may have to be sent
	probeAfter  = time.Second     // how often to look, also at one that does not answer
)

// Redis is one Redis server behind a circuit breaker. All methods are safe for concurrent
// use.
type Redis struct {
	client  *redis.Client
	prefix  string
	breaker *breaker.Breaker
}

// Open makes a Redis. It connects to nothing yet. Errors are *[pgcast.Error] with code
// invalid: the URL, the prefix or the CA file cannot be used.
func Open(options *Options) (*Redis, error) {
	o := *options
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	opts, err := connectOptions(&o)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(o.Prefix, "{}") {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "the Redis prefix has a brace", Hint: "braces name the slot in a cluster; leave them out"}
	}
	r := &Redis{client: redis.NewClient(opts), prefix: o.Prefix}
	r.breaker = breaker.New(&breaker.Options{Backend: "redis", ProbeAfter: probeAfter, Answered: answered,
		Down:    "Redis does not answer; presence, cursors and groups are this server's alone, rate limits go by rate-limit-fallback",
		Up:      "Redis answers again",
		OnState: o.OnState, Registerer: o.Registerer, Logger: o.Logger})
	return r, nil
}

// answered tells whether Redis did answer, if not as hoped.
func answered(err error) bool {
	if errors.Is(err, redis.Nil) {
		return true
	}
	var e redis.Error
	if !errors.As(err, &e) {
		return false
	}
	// What it says while it cannot serve, or may not: that is as good as no answer.
	for _, p := range []string{"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "NOAUTH", "WRONGPASS", "NOPERM"} {
		if strings.HasPrefix(e.Error(), p) {
			return false
		}
	}
	return true
}

// State tells how it stands.
func (r *Redis) State() breaker.State { return r.breaker.State() }

// Do makes a call, or fails at once while the circuit is open. Errors match
// pgcast.ErrUnavailable where Redis was not asked or did not answer, and are ctx's where
// that was canceled first.
func (r *Redis) Do(ctx context.Context, f func(ctx context.Context, c *redis.Client) error) error {
	done, ok := r.breaker.Begin()
	if !ok {
		return errOpen
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := f(ctx, r.client)
	if own := caller.Err(); own != nil && errors.Is(err, own) {
		done(breaker.ErrGone) // it may not even have been asked
	} else {
		done(err)
	}
	if err == nil || answered(err) || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("ask Redis: %w%w", pgcast.ErrUnavailable, err) // the first has no text of its own
}

var errOpen = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "Redis does not answer right now", Hint: "try again in a moment"}

// Key makes a key or a channel of parts; the part slot decides where in a cluster it is.
func (r *Redis) Key(kind, slot string, rest ...string) string {
	key := r.prefix + ":" + kind + ":{" + braces.Replace(slot) + "}"
	for _, s := range rest {
		key += ":" + s
	}
	return key
}

// A slot ends at its first brace; topics may have braces.
var braces = strings.NewReplacer("{", "%7B", "}", "%7D", "%", "%25")

// Run keeps an eye on Redis while nobody asks anything of it, until ctx ends, and closes
// the connections.
func (r *Redis) Run(ctx context.Context) error {
	defer r.client.Close()
	tick := time.NewTicker(probeAfter)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			_ = r.Do(ctx, func(ctx context.Context, c *redis.Client) error { return c.Ping(ctx).Err() })
		}
	}
}
