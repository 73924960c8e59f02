package server

import (
	"context"
	"crypto/rand"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/breaker"
	"github.com/pgcast/pgcast/internal/gateway"
	"github.com/pgcast/pgcast/presence"
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
}

// live is what serves live state.
type live struct {
	redis *shared.Redis // nil: this server is alone
	relay *shared.Relay
	name  string // of this server among those that share
	users *presence.Users
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
	return l, nil
}

// rosters makes the rosters of one kind, shared if there is a Redis.
func (s *Server) rosters(l *live, kind string, ttl, beat, every time.Duration) *presence.Rosters {
	o := &presence.Options{Kind: kind, Server: l.name, TTL: ttl, Beat: beat, Every: every, Registerer: s.registry, Logger: s.opts.Logger}
	if l.redis != nil {
		o.Store, o.Relay = l.redis.Store(kind, l.name, ttl), l.relay.Kind(kind)
	}
	return presence.NewRosters(o)
}

func (l *live) gateway(o *LiveOptions) gateway.Live {
	return gateway.Live{Presence: l.users, JoinOn: o.PresenceOn, Identity: o.Identity}
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
	err := g.Wait()
	leave, cancel := context.WithTimeout(back, departWait)
	defer cancel()
	_ = l.users.Depart(leave) // if it cannot be told, the others find out
	stop()
	_ = rest.Wait()
	return err
}

const departWait = time.Second

// redisChanged has what may have been lost put right as soon as Redis answers again.
func (s *Server) redisChanged(to breaker.State) {
	if to == breaker.Healthy && s.live != nil {
		s.live.users.Refresh()
	}
	if s.gateway != nil {
		s.gateway.Announce("redis", to != breaker.Healthy)
	}
}
