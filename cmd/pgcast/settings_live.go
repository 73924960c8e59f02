package main

import (
	"time"

	"github.com/pgcast/pgcast"
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
