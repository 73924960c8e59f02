package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/perimeter"
	"github.com/pgcast/pgcast/presence/shared"
)

// guardSettings are those of what stands around the server: TLS, tokens, caps.
var guardSettings = []setting{
	{name: "admin-token", kind: "secret", scope: forServer, secret: true,
		help: "what those show who ask admin-listen for anything but /healthz and /readyz: Authorization: Bearer",
		read: text(func(s *settings) *string { return &s.AdminToken }, "give 16 bytes or more")},
	{name: "tls-cert-file", kind: "file", scope: forServer,
		help: "certificate of listen and admin-listen, in PEM, before those of its authorities; may be replaced at any time",
		read: text(func(s *settings) *string { return &s.TLSCertFile }, "give a file")},
	{name: "tls-key-file", kind: "file", scope: forServer,
		help: "key of tls-cert-file, in PEM",
		read: text(func(s *settings) *string { return &s.TLSKeyFile }, "give a file")},
	{name: "insecure-database", value: "false", kind: "bool", scope: forDatabase,
		help: "connect to a Postgres on another machine without proof that it is the one meant (sslmode below verify-full)",
		read: boolean(func(s *settings) *bool { return &s.InsecureDatabase })},
	{name: "insecure-redis", value: "false", kind: "bool", scope: forServer,
		help: "connect to a Redis on another machine without TLS, or without proof that it is the one meant",
		read: boolean(func(s *settings) *bool { return &s.InsecureRedis })},
	{name: "max-sessions-per-address", value: "10000", kind: "number", scope: forServer,
		help: "most sessions of one address at a time (of IPv6, of one /64), and beside them as many connections that are none",
		read: number(func(s *settings) *int { return &s.MaxPerAddress }, 1, 10_000_000)},
	{name: "max-sessions-per-subject", value: "1000", kind: "number", scope: forServer,
		help: "most sessions at a time of all who show the same sub",
		read: number(func(s *settings) *int { return &s.MaxPerSubject }, 1, 10_000_000)},
	{name: "compression", value: "off", kind: "mode", scope: forServer, choices: []string{"off", "on"},
		help: "let clients of WebSockets send compressed frames; max-frame then bounds what they inflate to",
		read: choice(func(s *settings) *string { return &s.Compression }, "off", "on")},
}

// checkOpen refuses to be reachable for other machines unless somebody says who may do what,
// or it is asked for.
func (s *settings) checkOpen() error {
	if !perimeter.Loopback(s.Listen) && !s.InsecureOpen && !s.access().On {
		return usage(invalid("say how callers are known, as with jwks-url or jwt-secret; or listen on 127.0.0.1 behind a proxy that checks who connects; or add --insecure-open if only trusted machines can connect",
			"listen %s (%s) lets other machines connect, and there are no access rules", s.Listen, s.from["listen"]))
	}
	if !perimeter.Loopback(s.AdminListen) && s.AdminToken == "" {
		return usage(invalid("set admin-token, as PGCAST_ADMIN_TOKEN_FILE, to what openssl rand -hex 32 gives; or listen on 127.0.0.1",
			"admin-listen %s (%s) lets other machines connect, and there is no admin-token", s.AdminListen, s.from["admin-listen"]))
	}
	return nil
}

// checkDatabase refuses a Postgres on another machine that somebody in between could stand
// for.
func (s *settings) checkDatabase() error {
	if s.InsecureDatabase {
		return nil
	}
	for _, u := range []struct{ name, url string }{{"database-url", s.DatabaseURL}, {"direct-database-url", s.DirectDatabaseURL}} {
		host, err := unproved(u.url)
		if err != nil || host == "" {
			continue // what cannot be read is refused where it is read
		}
		return usage(invalid("add sslmode=verify-full to it, and sslrootcert=FILE if the authority is your own; or set insecure-database if nobody can come in between",
			"%s (%s) leads to %s, and does not make sure that it is the Postgres that is meant", u.name, s.from[u.name], host))
	}
	return nil
}

// checkRedis refuses a Redis on another machine that somebody in between could stand for.
func (s *settings) checkRedis() error {
	host := shared.Unproved(s.Live.RedisURL)
	if s.InsecureRedis || host == "" {
		return nil
	}
	return usage(invalid("write rediss://, and give redis-ca-file if the authority is your own; or set insecure-redis if nobody can come in between",
		"redis-url (%s) leads to %s, and does not make sure that it is the Redis that is meant", s.from["redis-url"], host))
}

// unproved gives the first host of a database URL that is on another machine and would not
// have to prove who it is, as sslmode=verify-full has it; empty if there is none.
func unproved(databaseURL string) (host string, err error) {
	if databaseURL == "" {
		return "", nil
	}
	c, err := pgconn.ParseConfig(databaseURL)
	if err != nil {
		return "", err
	}
	proved := func(host string, c *pgconn.FallbackConfig) bool {
		if strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || perimeter.Loopback(net.JoinHostPort(host, "0")) {
			return true
		}
		return c.TLSConfig != nil && !c.TLSConfig.InsecureSkipVerify && c.TLSConfig.ServerName != ""
	}
	all := append([]*pgconn.FallbackConfig{{Host: c.Host, TLSConfig: c.TLSConfig}}, c.Fallbacks...)
	for _, f := range all {
		if !proved(f.Host, f) {
			return f.Host, nil
		}
	}
	return "", nil
}

const (
	fileSuffix = "_FILE"
	mostSecret = 64 << 10 // bytes of a secret's file
)

// secretOf gives the secret setting whose file an environment variable names, or nil.
func secretOf(env string) *setting {
	base, ok := strings.CutSuffix(env, fileSuffix)
	if !ok {
		return nil
	}
	s := findSetting(settingName(base))
	if s == nil || !s.secret || envName(s.name) != base {
		return nil
	}
	return s
}

// readSecret reads the file that a variable names. Nothing of it is in the error.
func readSecret(env, path string) (string, error) {
	fail := func(what string) (string, error) {
		return "", invalid("give the path of a file that this user can read, with nothing in it but the value", "%s: the file %s %s", env, path, what)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fail("cannot be read: " + errors.Unwrap(err).Error())
	case info.IsDir():
		return fail("is a directory")
	case info.Size() > mostSecret:
		return fail(fmt.Sprintf("is longer than %d bytes", mostSecret))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fail("cannot be read: " + errors.Unwrap(err).Error())
	}
	value := strings.TrimRight(string(text), "\r\n")
	if value == "" {
		return fail("is empty")
	}
	return value, nil
}
