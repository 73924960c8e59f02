package server

import (
	"context"
	"crypto/rand"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/breaker"
	"github.com/pgcast/pgcast/internal/gateway"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/cursor"
	"github.com/pgcast/pgcast/presence/group"
	"github.com/pgcast/pgcast/presence/ratelimit"
	"github.com/pgcast/pgcast/presence/shared"
)

// LiveOptions are those of live state; the zero value of each field stands for its default.
type LiveOptions struct {
	// RedisURL is the Redis through which servers share live state. Without one it is this
	// server's alone.
	RedisURL    string
	RedisPrefix string // default pgcast
	RedisCAFile string // of certificates, in PEM, to trust with rediss://; default the machine's
	// PresenceTTL is for how long the users of a server that has died are still there;
	// default 90 s. PresenceBeat is how often a server says that it lives; default a third.
	PresenceTTL, PresenceBeat time.Duration
	// PresenceGrace is for how long a user whose last session has ended is still there;
	// default 5 s.
	PresenceGrace time.Duration
	// PresenceOn selects the topics whose subscribers are present without asking.
	PresenceOn []pgcast.Pattern
	Identity   presence.Identity
	// CursorThrottle is the least time between two moves of a cursor that others are shown;
	// default 50 ms. CursorIdle is for how long one that does not move is there; default 30 s.
	CursorThrottle, CursorIdle time.Duration
	// CursorOn selects the topics whose subscribers are told of cursors without asking.
	CursorOn []pgcast.Pattern
	// GroupOn selects the groups, by name, whose topics' subscribers are members without
	// asking. Members have the TTL, heartbeat and grace of presence.
	GroupOn    []pgcast.Pattern
	GroupHooks group.Hooks

	RateLimits []ratelimit.Rule
	// RateLimitFallback is what becomes of calls while Redis does not answer; default local.
	RateLimitFallback ratelimit.Fallback
	// TrustedProxies are those whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
}

// live is what serves live state.
type live struct {
	redis *shared.Redis // nil: this server is alone
	relay *shared.Relay
	name  string // of this server among those that share
	users *presence.Users

	cursors *cursor.Cursors

	groups *group.Groups
	watch  *groupWatch

	limits *ratelimit.Limiter
}

func (s *Server) newLive() (*live, error) {
	o := s.opts.Live
	setDefault(&o.PresenceTTL, 90*time.Second)
	l := &live{name: rand.Text()}
	if o.RedisURL != "" {
		var err error
		l.redis, err = shared.Open(&shared.Options{URL: o.RedisURL, Prefix: o.RedisPrefix, CAFile: o.RedisCAFile, OnState: s.redisChanged,
			Registerer: s.registry, Logger: s.opts.Logger})
		if err != nil {
			return nil, err
		}
		l.relay = l.redis.Relay()
	}
	l.users = presence.NewUsers(s.rosters(l, "presence", o.PresenceTTL, o.PresenceBeat, 0), o.PresenceGrace)
	l.cursors = cursor.New(s.rosters(l, "cursor", cursor.RosterTTL, 0, cursor.Every(o.CursorThrottle)),
		&cursor.Options{Throttle: o.CursorThrottle, Idle: o.CursorIdle, Registerer: s.registry})
	l.watch = newGroupWatch(s.hub, s.opts.Logger)
	groups := &group.Options{Watch: l.watch.watch, Grace: o.PresenceGrace, Hooks: o.GroupHooks, Registerer: s.registry, Logger: s.opts.Logger}
	if l.relay != nil {
		groups.Relay = l.relay.Said("group")
	}
	l.groups = group.New(s.rosters(l, "group", o.PresenceTTL, o.PresenceBeat, 0), groupFacts{s}, groups)
	limits := &ratelimit.Options{Rules: o.RateLimits, Fallback: o.RateLimitFallback, Registerer: s.registry, Logger: s.opts.Logger}
	if l.redis != nil {
		shared := l.redis.Limits(l.relay)
		limits.Store, limits.Relay = shared, shared
	}
	l.limits = ratelimit.New(limits)
	return l, nil
}

// rosters makes the rosters of one kind, shared if there is a Redis; those told of every so
// often are shared so often.
func (s *Server) rosters(l *live, kind string, ttl, beat, every time.Duration) *presence.Rosters {
	o := &presence.Options{Kind: kind, Server: l.name, TTL: ttl, Beat: beat, Every: every, Pace: every, Registerer: s.registry, Logger: s.opts.Logger}
	if l.redis != nil {
		o.Store, o.Relay = l.redis.Store(kind, l.name, ttl), l.relay.Kind(kind)
	}
	return presence.NewRosters(o)
}

func (l *live) gateway(o *LiveOptions) gateway.Live {
	return gateway.Live{Presence: l.users, JoinOn: o.PresenceOn, Identity: o.Identity, Cursors: l.cursors, CursorOn: o.CursorOn,
		Groups: l.groups, MemberOn: o.GroupOn}
}

// run runs everything until ctx ends, and then tells the other servers.
func (l *live) run(ctx context.Context) error {
	back, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	rest, _ := errgroup.WithContext(back)
	if l.redis != nil {
		rest.Go(func() error { return l.redis.Run(back) })
		rest.Go(func() error { return l.relay.Run(back) })
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.users.Run(ctx) })
	g.Go(func() error { return l.cursors.Run(ctx) })
	g.Go(func() error { return l.groups.Run(ctx) })
	g.Go(func() error { return l.watch.run(ctx) })
	g.Go(func() error { return l.limits.Run(ctx) })
	err := g.Wait()
	leave, cancel := context.WithTimeout(back, departWait)
	defer cancel()
	_ = l.users.Depart(leave) // if it cannot be told, the others find out
	_ = l.cursors.Depart(leave, 0)
	_ = l.groups.Depart(leave)
	stop()
	_ = rest.Wait()
	return err
}

const departWait = time.Second

// redisChanged has what may have been lost put right as soon as Redis answers again; and
// has it noticed at once, not with the next heartbeat, that it does not, so that nobody is
// told as certain what nobody can know now.
func (s *Server) redisChanged(to breaker.State) {
	if to != breaker.Probing && s.live != nil {
		s.live.users.Refresh()
		s.live.cursors.Refresh()
		s.live.groups.Refresh()
		s.live.limits.Refresh()
	}
	if s.gateway != nil {
		s.gateway.Announce("redis", to != breaker.Healthy)
	}
}
