package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Off loopback a server needs somebody who says who may do what, and the admin listener a
// token, whatever else is open.
func TestListeningOffLoopback(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	const secret = "0123456789abcdef0123456789abcdef"
	for _, c := range []struct {
		args []string
		want string // of what is wrong; empty: nothing
	}{
		{[]string{"--listen", ":8080"}, "there are no access rules"},
		{[]string{"--listen", ":8080", "--access", "rules"}, ""},
		{[]string{"--listen", ":8080", "--jwt-secret", secret}, ""},
		{[]string{"--listen", ":8080", "--anonymous", `{"role":"anonymous"}`}, ""},
		{[]string{"--listen", ":8080", "--jwt-secret", secret, "--access", "open"}, "there are no access rules"},
		{[]string{"--listen", ":8080", "--insecure-open"}, ""},
		{[]string{"--admin-listen", ":9187"}, "there is no admin-token"},
		{[]string{"--admin-listen", ":9187", "--insecure-open"}, "there is no admin-token"},
		{[]string{"--admin-listen", ":9187", "--jwt-secret", secret}, "there is no admin-token"},
		{[]string{"--admin-listen", ":9187", "--admin-token", secret}, ""},
	} {
		// config checks the settings, and connects to nothing; it has every flag.
		r := s.run(t, append([]string{"config"}, c.args...)...)
		if c.want == "" {
			r.ok(t)
		} else {
			r.fails(t, 2, c.want)
		}
		if strings.Contains(r.out+r.err, secret) {
			t.Errorf("%v shows the secret:\n%s", c.args, r)
		}
	}
}

// S34: on another machine it must be shown to be the Postgres, or the Redis, that is meant;
// less must be asked for.
func TestS34DowngradesAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url  string
		fine bool
	}{
		{"postgres://u:canary@127.0.0.1/x", true},
		{"postgres://u:canary@localhost/x?sslmode=disable", true},
		{"postgres://u:canary@[::1]/x", true},
		{"postgres:///x?host=/var/run/postgresql&password=canary", true},
		{"host=/tmp password=canary dbname=x", true},
		{"postgres://u:canary@db.internal/x", false},
		{"postgres://u:canary@db.internal/x?sslmode=disable", false},
		{"postgres://u:canary@db.internal/x?sslmode=allow", false},
		{"postgres://u:canary@db.internal/x?sslmode=prefer", false},
		{"postgres://u:canary@db.internal/x?sslmode=require", false},
		{"postgres://u:canary@db.internal/x?sslmode=verify-ca", false},
		{"postgres://u:canary@db.internal/x?sslmode=verify-full", true},
		{"postgres://u:canary@10.0.0.1/x?sslmode=verify-full", true},
		{"host=db.internal password=canary dbname=x", false},
		{"host=db.internal password=canary dbname=x sslmode=verify-full", true},
		{"postgres://u:canary@127.0.0.1,db.internal/x?sslmode=prefer", false},
		{"postgres://u:canary@127.0.0.1.evil.example/x", false},
	} {
		for _, name := range []string{"database-url", "direct-database-url"} {
			s := newShell(t)
			r := s.run(t, "config", "--"+name, c.url)
			if c.fine {
				r.ok(t)
			} else {
				r.fails(t, 2, name+" (--"+name+") leads to", "sslmode=verify-full", "insecure-database")
				s.run(t, "config", "--"+name, c.url, "--insecure-database").ok(t)
			}
			if strings.Contains(r.err+r.out, "canary") {
				t.Errorf("the password is shown:\n%s", r)
			}
		}
	}
	s := newShell(t)
	for url, fine := range map[string]bool{
		"redis://u:canary@127.0.0.1:6379": true, "unix:///run/redis.sock": true, "rediss://u:canary@redis.internal:6379": true,
		"redis://u:canary@redis.internal:6379": false, "redis://redis.internal": false,
		"rediss://u:canary@redis.internal:6379?skip_verify=true": false,
	} {
		r := s.run(t, "config", "--redis-url", url)
		if fine {
			r.ok(t)
		} else {
			r.fails(t, 2, "redis-url (--redis-url) leads to redis.internal", "rediss://", "insecure-redis")
			s.run(t, "config", "--redis-url", url, "--insecure-redis").ok(t)
		}
		if strings.Contains(r.err+r.out, "canary") {
			t.Errorf("the password is shown:\n%s", r)
		}
	}
	// Every command that connects refuses, before it does.
	for _, args := range [][]string{{"serve"}, {"migrate", "up"}, {"attach", "t"}, {"sql", "select 1"}, {"doctor"}, {"uninstall"}, {"publish", "a", "b"}} {
		s.run(t, append(args, "--database-url", "postgres://u:canary@192.0.2.1/x?sslmode=require")...).fails(t, 2, "leads to 192.0.2.1")
	}
}

// Secrets come from files as well, and from one place only; neither they nor what is in a
// file that should not have been one is shown.
func TestSecretFiles(t *testing.T) {
	t.Parallel()
	const canary = "canary-0123456789abcdef-canary-xyz"
	s := newShell(t)
	s.write(t, "secret", canary+"\n")
	s.write(t, "url", "postgres://u:"+canary+"@127.0.0.1:1/x\r\n")
	s.write(t, "empty", "\n")
	s.write(t, "long", strings.Repeat("x", mostSecret+1))
	if err := os.Mkdir(filepath.Join(s.dir, "directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	base := s.env
	with := func(env ...string) *result {
		s.env = append(append([]string(nil), base...), env...)
		r := s.run(t, "config", "--json")
		if strings.Contains(r.out+r.err, canary) {
			t.Errorf("%v: the secret is shown:\n%s", env, r)
		}
		return r
	}
	n := 0
	for _, setting := range allSettings {
		if !setting.secret {
			if secretOf(envName(setting.name)+"_FILE") != nil {
				t.Errorf("%s counts as a secret", setting.name)
			}
			continue
		}
		n++
		file := "secret"
		switch setting.name {
		case "database-url", "direct-database-url":
			file = "url"
		case "redis-url":
			s.write(t, "redis", "redis://:"+canary+"@127.0.0.1:1\n")
			file = "redis"
		}
		env := envName(setting.name)
		if value, from := inForce(t, with(env+"_FILE="+filepath.Join(s.dir, file)), setting.name); from != env+"_FILE" || value == "" {
			t.Errorf("%s is %q from %q", setting.name, value, from)
		}
		with(env+"="+canary, env+"_FILE="+filepath.Join(s.dir, file)).fails(t, 2, "both "+env+" and "+env+"_FILE are set", "keep one")
		with(env+"_FILE="+filepath.Join(s.dir, "nosuch")).fails(t, 2, env+"_FILE", "nosuch cannot be read: no such file")
		with(env+"_FILE="+filepath.Join(s.dir, "empty")).fails(t, 2, "empty is empty")
		with(env+"_FILE="+filepath.Join(s.dir, "long")).fails(t, 2, "is longer than")
		with(env+"_FILE="+filepath.Join(s.dir, "directory")).fails(t, 2, "is a directory")
		with(env + "_FILE=").ok(t)
	}
	if n < 5 {
		t.Errorf("only %d settings are secrets", n)
	}
	// What looks like a URL is none the less a secret.
	for _, secret := range []string{"a:/" + canary, "https://" + canary, "host=" + canary, "a=b://" + canary} {
		with("PGCAST_JWT_SECRET="+secret, "PGCAST_ADMIN_TOKEN="+secret).ok(t)
	}
}

// S26: a site whose name was rebound to 127.0.0.1 gets nothing from either listener of a
// server that anybody may ask; a proxy on this machine is named by the hosts it answers to.
func TestS26RebindingIsRefused(t *testing.T) {
	t.Parallel()
	s, _ := withDatabase(t, nil)
	for _, c := range []struct {
		args           []string
		rebound, named int // answers to other names, by the public listener
		admin          int
	}{
		{nil, 403, 403, 403},
		{[]string{"--allowed-origins", "https://app.example.com"}, 403, 200, 403},
		{[]string{"--insecure-open"}, 200, 200, 403},
		{[]string{"--admin-token", "0123456789abcdef"}, 403, 403, 401},
	} {
		p := startServe(t, s, c.args...)
		for _, a := range []struct {
			addr, host, path string
			want             int
		}{
			{p.listen, p.listen, "/readyz", 200}, {p.listen, "rebound.example:1", "/readyz", c.rebound},
			{p.listen, "app.example.com", "/readyz", c.named}, {p.listen, "10.0.0.1", "/readyz", c.rebound},
			{p.listen, "127.0.0.1.rebound.example", "/topics/a/events", c.rebound},
			{p.admin, "rebound.example", "/metrics", c.admin},
		} {
			if got := ask(t, a.addr, a.host, a.path); got != a.want {
				t.Errorf("%v: %s of %s at %s gives %d; want %d", c.args, a.path, a.host, a.addr, got, a.want)
			}
		}
		p.stop(syscall.SIGTERM)
	}
}
