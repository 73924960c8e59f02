package doctor

import (
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/presence/shared"
)

var redisChecks = []string{"redis", "redis-version", "redis-role", "redis-encryption", "redis-memory", "redis-pubsub", "redis-rights"}

// lookAt examines a Redis; there is no database.
func lookAt(t *testing.T, url string, change func(*Doctor)) results {
	t.Helper()
	return examine(t, "postgres://"+nobody(t), func(d *Doctor) {
		d.opts.RedisURL = url
		if change != nil {
			change(d)
		}
	}, redisChecks...)
}

func TestRedis(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	rs := lookAt(t, r.URL, nil)
	for _, name := range redisChecks {
		rs.want(t, name, OK)
	}
	lookAt(t, r.URL, func(d *Doctor) { d.limits.liveTrip = 0 }).want(t, "redis", Note, "nearer")

	do := func(words ...string) {
		t.Helper()
		if got := r.Do(words...); got != "+OK" {
			t.Fatalf("%v: %s", words, got)
		}
	}
	do("CONFIG", "SET", "maxmemory", "100mb")
	do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	rs = lookAt(t, r.URL, func(d *Doctor) { d.limits.liveMemory = 0.0001 })
	rs.want(t, "redis-memory", Warn, "allkeys-lru", "config set maxmemory-policy noeviction")
	rs.want(t, "redis-memory", Warn, "of 100 MB", "config set maxmemory 200mb")
	do("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
	lookAt(t, r.URL, nil).want(t, "redis-memory", OK, "volatile-lru")

	do("ACL", "SETUSER", "poor", "on", ">secret", "~pgcast:*", "+@all", "-zadd", "-info")
	poor := strings.Replace(r.URL, "redis://", "redis://poor:secret@", 1)
	rs = lookAt(t, poor, nil)
	rs.want(t, "redis", OK, "as poor")
	rs.want(t, "redis-rights", Fail, "ZADD", "acl setuser poor")
	rs.want(t, "redis-pubsub", Fail, "NOPERM", "&pgcast:*")
	rs.want(t, "redis-version", Skip, "INFO")
	rs.want(t, "redis-role", Skip)
	rs.want(t, "redis-memory", Skip)
	// What is said to mend it does.
	for _, result := range rs {
		if result.Name == "redis-rights" {
			words := strings.Fields(strings.ReplaceAll(strings.TrimPrefix(result.Mend, "redis-cli "), "'", ""))
			do(words...)
			break
		}
	}
	rs = lookAt(t, poor, nil)
	for _, name := range redisChecks {
		rs.want(t, name, OK)
	}

	rs = lookAt(t, strings.Replace(poor, "secret", "guess", 1), nil)
	rs.want(t, "redis", Fail, "WRONGPASS", "password")
	rs.want(t, "redis-role", Skip, "no connection to Redis")
	for _, result := range rs {
		if strings.Contains(result.Found+result.Mend, "guess") {
			t.Errorf("the password is told: %+v", result)
		}
	}
}

// A replica, which takes no writes; and one that nobody reaches.
func TestRedisElsewhere(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t)
	host, port, _ := strings.Cut(primary.Addr, ":")
	replica := redistest.Start(t, "--replicaof", host, port)
	rs := lookAt(t, replica.URL, nil)
	rs.want(t, "redis-role", Fail, "replica", "primary's URL")
	rs.want(t, "redis-rights", OK)

	address := nobody(t)
	rs = lookAt(t, "rediss://"+address, nil)
	host, port, _ = strings.Cut(address, ":")
	rs.want(t, "redis", Fail, "refused", "redis-cli -h "+host+" -p "+port+" --tls ping")
	lookAt(t, "redis://u:secret@h:x", nil).want(t, "redis", Fail, "cannot be read")
	rs = lookAt(t, "", nil)
	rs.want(t, "redis", OK, "each server")
	if len(rs) != 2 {
		t.Errorf("without a Redis it tells of more than the connection, and that there is none: %+v", rs)
	}
}

func TestRedisTLS(t *testing.T) {
	t.Parallel()
	_, url, ca := redistest.StartTLS(t)
	rs := lookAt(t, url, func(d *Doctor) { d.opts.RedisCAFile = ca })
	rs.want(t, "redis", OK)
	rs.want(t, "redis-encryption", OK, "encrypted")
	lookAt(t, url, nil).want(t, "redis", Fail, "unknown authority", "redis-ca-file")
}

// What no Redis of a test can be.
func TestRedisFacts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		f     shared.Facts
		run   func(*exam) ([]finding, error)
		state State
	}{
		{shared.Facts{Version: "6.0.16"}, func(x *exam) ([]finding, error) { return checkRedisVersion(t.Context(), x) }, Fail},
		{shared.Facts{Version: "5.0.3"}, func(x *exam) ([]finding, error) { return checkRedisVersion(t.Context(), x) }, Fail},
		{shared.Facts{Version: "6.2.0"}, func(x *exam) ([]finding, error) { return checkRedisVersion(t.Context(), x) }, OK},
		{shared.Facts{Version: "10.0"}, func(x *exam) ([]finding, error) { return checkRedisVersion(t.Context(), x) }, OK},
		{shared.Facts{Mode: "sentinel"}, func(x *exam) ([]finding, error) { return checkRedisRole(t.Context(), x) }, Fail},
		{shared.Facts{Mode: "cluster", Role: "master"}, func(x *exam) ([]finding, error) { return checkRedisRole(t.Context(), x) }, Fail},
		{shared.Facts{Address: "10.0.0.7:6379"}, func(x *exam) ([]finding, error) { return checkRedisEncryption(t.Context(), x) }, Note},
	} {
		list, err := c.run(&exam{redis: &c.f, limits: usual})
		if err != nil || len(list) != 1 || list[0].state != c.state {
			t.Errorf("%+v: %+v, %v; want %s", c.f, list, err, c.state)
		}
	}
}
