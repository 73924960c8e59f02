package main

import (
	"errors"
	"net/netip"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/presence/ratelimit"
	"github.com/pgcast/pgcast/presence/shared"
)

// liveSettings are those of live state: presence, cursors, groups and rate limits.
var liveSettings = []setting{
	{name: "redis-url", kind: "url", scope: forServer, secret: true,
		help: "Redis through which servers share presence, cursors, groups and rate limits: redis://host:6379, rediss:// for TLS",
		read: redisURL(func(s *settings) *string { return &s.Live.RedisURL })},
	{name: "redis-prefix", value: "pgcast", kind: "name", scope: forServer,
		help: "what the names of all keys in Redis begin with",
		read: text(func(s *settings) *string { return &s.Live.RedisPrefix }, "give a name")},
	{name: "redis-ca-file", kind: "file", scope: forServer,
		help: "certificates, in PEM, of those who may vouch for the Redis of a rediss:// URL, if this machine does not trust them anyway",
		read: redisCAFile(func(s *settings) *string { return &s.Live.RedisCAFile })},
	{name: "presence-on", kind: "topics", scope: forServer,
		help: "topics and patterns whose subscribers are present there without asking, as room:*,board:**",
		read: patterns(func(s *settings) *[]pgcast.Pattern { return &s.Live.PresenceOn })},
	{name: "presence-key", kind: "name", scope: forServer,
		help: "member of a token's claims, or of what a client says of its user, that makes sessions one user; default sub, or id",
		read: text(func(s *settings) *string { return &s.Live.Identity.Key }, "give a name")},
	{name: "presence-fields", value: "id,name,avatar,color", kind: "names", scope: forServer,
		help: "members of a user that others see",
		read: names(func(s *settings) *[]string { return &s.Live.Identity.Fields })},
	{name: "presence-ttl", value: "90s", kind: "duration", scope: forServer,
		help: "how long the users of a server that died are still there",
		read: duration(func(s *settings) *time.Duration { return &s.Live.PresenceTTL }, time.Second, time.Hour)},
	{name: "presence-heartbeat", value: "30s", kind: "duration", scope: forServer,
		help: "how often a server tells Redis that it lives; at most half of presence-ttl",
		read: duration(func(s *settings) *time.Duration { return &s.Live.PresenceBeat }, 100*time.Millisecond, time.Hour)},
	{name: "presence-grace", value: "5s", kind: "duration", scope: forServer,
		help: "how long a user whose last session has ended is still there",
		read: duration(func(s *settings) *time.Duration { return &s.Live.PresenceGrace }, time.Millisecond, 10*time.Minute)},
	{name: "cursor-on", kind: "topics", scope: forServer,
		help: "topics and patterns whose subscribers are told of the cursors there without asking, as board:**",
		read: patterns(func(s *settings) *[]pgcast.Pattern { return &s.Live.CursorOn })},
	{name: "cursor-throttle", value: "50ms", kind: "duration", scope: forServer,
		help: "least time between two moves of a cursor that others are shown",
		read: duration(func(s *settings) *time.Duration { return &s.Live.CursorThrottle }, 10*time.Millisecond, 10*time.Second)},
	{name: "cursor-idle", value: "30s", kind: "duration", scope: forServer,
		help: "how long a cursor that does not move is shown",
		read: duration(func(s *settings) *time.Duration { return &s.Live.CursorIdle }, time.Second, time.Hour)},
	{name: "group-on", kind: "names", scope: forServer,
		help: "groups, also by pattern, whose topics' subscribers are members without asking, as lobby,game:*",
		read: patterns(func(s *settings) *[]pgcast.Pattern { return &s.Live.GroupOn })},
	{name: "rate-limits", kind: "rules", scope: forServer,
		help: "what may be done how often, as publish session 50/1s burst 100 block 10s,connect ip 20/10s",
		read: rateLimits(func(s *settings) *[]ratelimit.Rule { return &s.Live.RateLimits })},
	{name: "rate-limit-fallback", value: "local", kind: "mode", scope: forServer, choices: []string{"local", "open", "closed"},
		help: "while Redis does not answer: local, each server limits alone; open, nothing is limited; closed, what has a limit is denied",
		read: choice(func(s *settings) *ratelimit.Fallback { return &s.Live.RateLimitFallback }, "local", "open", "closed")},
	{name: "trusted-proxies", kind: "networks", scope: forServer,
		help: "proxies whose X-Forwarded-For says where a client comes from, as 10.0.0.0/8,2001:db8::/32",
		read: networks(func(s *settings) *[]netip.Prefix { return &s.Live.TrustedProxies })},
}

func redisURL(field func(*settings) *string) func(*settings, string) error {
	return func(s *settings, v string) error {
		if v != "" {
			if err := shared.CheckURL(v); err != nil {
				return &wrong{"is not a Redis URL", "write redis://user:password@host:6379/0, or rediss:// for TLS"}
			}
		}
		*field(s) = v
		return nil
	}
}

func rateLimits(field func(*settings) *[]ratelimit.Rule) func(*settings, string) error {
	return func(s *settings, v string) error {
		rules, err := ratelimit.ParseRules(v)
		if e := new(pgcast.Error); errors.As(err, &e) {
			return &wrong{"cannot be used: " + e.Message, e.Hint}
		}
		*field(s) = rules
		return nil
	}
}

// networks reads addresses and networks.
func networks(field func(*settings) *[]netip.Prefix) func(*settings, string) error {
	return func(s *settings, v string) error {
		*field(s) = nil
		for _, part := range split(v) {
			p, err := netip.ParsePrefix(part)
			if err != nil {
				var addr netip.Addr
				if addr, err = netip.ParseAddr(part); err == nil {
					p, err = addr.Prefix(addr.BitLen())
				}
			}
			if err != nil || p.Addr().Is4In6() {
				return &wrong{"has something in it that is neither an address nor a network", "write them with commas in between, as 10.0.0.0/8,192.0.2.1,2001:db8::/32"}
			}
			*field(s) = append(*field(s), p.Masked())
		}
		return nil
	}
}

func redisCAFile(field func(*settings) *string) func(*settings, string) error {
	return func(s *settings, v string) error {
		if v != "" {
			if err := shared.CheckCAFile(v); err != nil {
				return &wrong{"cannot be used: " + err.Error(), "give the path of a PEM file"}
			}
		}
		*field(s) = v
		return nil
	}
}
