package doctor

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/pgcast/pgcast/presence/shared"
)

// checkRedis connects for the other checks of Redis, and learns all that they tell.
func checkRedis(ctx context.Context, x *exam) ([]finding, error) {
	if x.opts.RedisURL == "" {
		return one(ok("there is no redis-url: each server keeps live state for itself"))
	}
	facts, err := shared.Look(ctx, &shared.Options{URL: x.opts.RedisURL, Prefix: x.opts.RedisPrefix, CAFile: x.opts.RedisCAFile})
	if err != nil {
		return one(fail(mendRedis(err, x.opts.RedisURL), "%s; meanwhile each server keeps live state for itself", oneLine(err)))
	}
	x.redis = facts
	if facts.RoundTrip > x.limits.liveTrip {
		return one(note(inWords("run Redis nearer to the servers"), "%s as %s, %s a round trip", facts.Address, facts.User, round(facts.RoundTrip)))
	}
	return one(ok("%s as %s, %s a round trip", facts.Address, facts.User, round(facts.RoundTrip)))
}

// mendRedis says what to do about an error of connecting.
func mendRedis(err error, redisURL string) mend {
	switch shared.Explain(err) {
	case shared.BadSettings:
		return inWords("write redis://user:password@host:6379/0, or rediss:// for TLS; redis-ca-file goes with rediss:// only")
	case shared.BadLogin:
		return inWords("correct user and password in redis-url, or make the user: see redis-rights in docs/operations.md")
	case shared.BadTLS:
		return inWords("give the authority that signed its certificate with redis-ca-file, and the name that stands in it in redis-url")
	case shared.Starting:
		return inWords("wait until it has loaded its data")
	}
	u, perr := url.Parse(redisURL)
	if perr != nil || u.Host == "" {
		return inWords("see whether Redis runs, and its log for why it does not")
	}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	secure := ""
	if u.Scheme == "rediss" {
		secure = " --tls"
	}
	return inShell("redis-cli -h %s -p %s%s ping", u.Hostname(), port, secure)
}

func checkRedisVersion(_ context.Context, x *exam) ([]finding, error) {
	v := x.redis.Version
	if v == "" {
		return one(skip("not looked at: user %s may not run INFO", x.redis.User))
	}
	major, rest, _ := strings.Cut(v, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if err1 != nil || err2 != nil {
		return one(skip("not looked at: version %q", v))
	}
	if a < 6 || a == 6 && b < 2 {
		return one(fail(inWords("upgrade to Redis 6.2 or newer"), "Redis %s", v))
	}
	return one(ok("Redis %s", v))
}

func checkRedisRole(_ context.Context, x *exam) ([]finding, error) {
	switch f := x.redis; {
	case f.Mode == "sentinel":
		return one(fail(inWords("give the URL of the Redis it watches, not of the sentinel"), "this is a sentinel"))
	case f.Role == "slave":
		return one(fail(inWords("give the primary's URL, or a name that follows it"), "this is a replica"))
	case f.Mode == "cluster":
		return one(fail(inWords("give the URL of a Redis that is no cluster"), "this is one node of a cluster, which has some of the keys only"))
	case f.Role == "":
		return one(skip("not looked at: user %s may not run INFO", f.User))
	}
	return one(ok("a primary"))
}

func checkRedisEncryption(_ context.Context, x *exam) ([]finding, error) {
	switch f := x.redis; {
	case f.Encrypted:
		return one(ok("encrypted"))
	case f.Loopback:
		return one(ok("not encrypted, and does not leave this machine"))
	}
	return one(note(inWords("write rediss:// in redis-url, with redis-ca-file if the authority is your own"), "not encrypted, to %s", x.redis.Address))
}

func checkRedisMemory(_ context.Context, x *exam) ([]finding, error) {
	f := x.redis
	if f.Policy == "" {
		return one(skip("not looked at: user %s may not run INFO", f.User))
	}
	used := fmt.Sprintf("%d MB used of %d MB, %s", f.Used>>20, f.Max>>20, f.Policy)
	if f.Max == 0 {
		used = fmt.Sprintf("%d MB used, without a limit, %s", f.Used>>20, f.Policy)
	}
	var list []finding
	if strings.HasPrefix(f.Policy, "allkeys-") {
		list = append(list, warn(inShell("redis-cli config set maxmemory-policy noeviction"), "%s: it evicts whatever it likes when memory is short", used))
	}
	if f.Max > 0 && float64(f.Used) > x.limits.liveMemory*float64(f.Max) {
		list = append(list, warn(inShell("redis-cli config set maxmemory %dmb", 2*f.Max>>20), "%s: it will soon refuse what is written, or evict", used))
	}
	if list == nil {
		list = append(list, ok("%s", used))
	}
	return list, nil
}

func checkRedisPubSub(_ context.Context, x *exam) ([]finding, error) {
	if err := x.redis.Deaf; err != nil {
		return one(fail(inWords("let the user subscribe and publish to its channels: acl setuser %s +@pubsub '&%s:*'", x.redis.User, x.prefix()), "%s", oneLine(err)))
	}
	return one(ok("what is published is heard"))
}

func checkRedisRights(_ context.Context, x *exam) ([]finding, error) {
	f := x.redis
	if len(f.Denied) == 0 {
		return one(ok("user %s may do all that servers do", f.User))
	}
	m := inShell("redis-cli acl setuser %s '~%s:*' '&%s:*' +@read +@write +@pubsub +@scripting +@connection +time +info", f.User, x.prefix(), x.prefix())
	var list []finding
	for _, d := range f.Denied {
		list = append(list, fail(m, "%s", d))
	}
	return cut(list, x.limits.listed), nil
}

func (x *exam) prefix() string {
	if x.opts.RedisPrefix == "" {
		return "pgcast"
	}
	return x.opts.RedisPrefix
}
