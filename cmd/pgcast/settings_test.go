package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// inForce gives what config says about one setting.
func inForce(t *testing.T, r *result, name string) (value, from string) {
	t.Helper()
	var lines []struct{ Name, Value, From string }
	if err := json.Unmarshal([]byte(r.ok(t)), &lines); err != nil {
		t.Fatalf("%v\n%s", err, r)
	}
	for _, l := range lines {
		if l.Name == name {
			return l.Value, l.From
		}
	}
	t.Fatalf("config does not list %s:\n%s", name, r)
	return "", ""
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	type step struct{ value, from string }
	check := func(s *shell, want step, args ...string) {
		t.Helper()
		value, from := inForce(t, s.run(t, append([]string{"config", "--json"}, args...)...), "max-frame")
		if got := (step{value, from}); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	s := newShell(t)
	check(s, step{"256KiB", "default"})
	s.write(t, "pgcast.yaml", "max-frame: 2KiB\nallowed-origins: [\"https://a.example\", \"https://b.example\"]\n")
	check(s, step{"2KiB", "pgcast.yaml"})
	s.write(t, "other.yaml", "max-frame: 3072\n")
	check(s, step{"3072", "other.yaml"}, "--config", "other.yaml")
	s.env = append(s.env, "PGCAST_CONFIG=other.yaml")
	check(s, step{"3072", "other.yaml"})
	check(s, step{"2KiB", "pgcast.yaml"}, "--config", "pgcast.yaml")
	s.env = append(s.env, "PGCAST_MAX_FRAME=")
	check(s, step{"3072", "other.yaml"})
	s.env = append(s.env, "PGCAST_MAX_FRAME=4KiB")
	check(s, step{"4KiB", "PGCAST_MAX_FRAME"})
	check(s, step{"5KiB", "--max-frame"}, "--max-frame", "5KiB")
	// A flag counts even when it says what the default says.
	check(s, step{"256KiB", "--max-frame"}, "--max-frame=256KiB")

	value, _ := inForce(t, s.run(t, "config", "--json", "--config", "pgcast.yaml"), "allowed-origins")
	if value != "https://a.example,https://b.example" {
		t.Errorf("the list in the file came out as %q", value)
	}
}

// TestUnusableSettings sees them refused before anything is tried.
func TestUnusableSettings(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, file string
		env, args  []string
		says       []string
	}{
		{name: "unknown key in the file", file: "max_fram: 1", says: []string{`pgcast.yaml has "max_fram", which is not a setting`, "did you mean max-frame?"}},
		{name: "nested key", file: "server:\n  listen: 127.0.0.1:1", says: []string{`"server", which is not a setting`}},
		{name: "value that is a map", file: "listen:\n  host: x", says: []string{"listen in pgcast.yaml is not a single value", "listen: value"}},
		{name: "no value", file: "listen:", says: []string{"listen in pgcast.yaml has no value"}},
		{name: "no YAML", file: "a: [", says: []string{"read settings from pgcast.yaml", "it must be YAML"}},
		{name: "a setting twice", file: "listen: 127.0.0.1:1\nlisten: 127.0.0.1:2", says: []string{"already defined"}},
		{name: "file not there", args: []string{"--config", "nosuch.yaml"}, says: []string{"nosuch.yaml", "give another file with --config"}},
		{name: "duration without unit", args: []string{"--write-timeout", "30"}, says: []string{`write-timeout "30" (--write-timeout) is not a duration`, "as 30s"}},
		{name: "duration out of range", args: []string{"--ping-interval", "1h"}, says: []string{"ping-interval", "write one from 1s to 1m0s"}},
		{name: "size", env: []string{"PGCAST_MAX_FRAME=lots"}, says: []string{`max-frame "lots" (PGCAST_MAX_FRAME)`, "256KiB"}},
		{name: "size too large", args: []string{"--max-event", "2MB"}, says: []string{"max-event", "from 1024 to 1000000"}},
		{name: "number", args: []string{"--pool-size", "0"}, says: []string{"pool-size", "from 2 to 10000"}},
		{name: "choice", args: []string{"--wake", "ring"}, says: []string{"wake", "auto, notify, wal, poll"}},
		{name: "switch", env: []string{"PGCAST_MIGRATE=perhaps"}, says: []string{"migrate", "write true or false"}},
		{name: "address", args: []string{"--listen", "8080"}, says: []string{"listen", "127.0.0.1:8080"}},
		{name: "origin", args: []string{"--allowed-origins", "https://a.example,b.example/x"}, says: []string{"allowed-origins", "https://app.example.com"}},
		{name: "every origin", args: []string{"--allowed-origins", "*"}, says: []string{"allowed-origins"}},
		{name: "slow heartbeat", args: []string{"--presence-ttl", "10s", "--presence-heartbeat", "6s"}, says: []string{"presence-heartbeat 6s (--presence-heartbeat)", "half of presence-ttl 10s", "a third"}},
		{name: "open to others", args: []string{"--listen", ":8080"}, says: []string{"lets other machines connect", "--insecure-open"}},
		{name: "metrics open to others", args: []string{"--admin-listen", "0.0.0.0:9187"}, says: []string{"admin-listen 0.0.0.0:9187 (--admin-listen) lets other machines connect"}},
		{name: "rate limit", args: []string{"--rate-limits", "connect ip 20/10s, publish sessions 5/1s"}, says: []string{"rate-limits", `"sessions" is nothing to count by`, "write one of ip, session"}},
		{name: "fallback", env: []string{"PGCAST_RATE_LIMIT_FALLBACK=none"}, says: []string{"rate-limit-fallback", "local, open, closed"}},
		{name: "proxies", file: "trusted-proxies: [10.0.0.0/8, localhost]", says: []string{"trusted-proxies", "neither an address nor a network", "10.0.0.0/8,192.0.2.1"}},
		{name: "several at once", args: []string{"--pool-size", "x", "--wake", "y"}, says: []string{"pool-size", "wake"}},
		{name: "unknown flag", args: []string{"--max-fram", "1"}, says: []string{"unknown flag --max-fram", "did you mean --max-frame?"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newShell(t, tt.env...)
			if tt.file != "" {
				s.write(t, "pgcast.yaml", tt.file+"\n")
			}
			args := append([]string{"serve", "--database-url", "postgres://u:canary@127.0.0.1:1/x"}, tt.args...)
			r := s.run(t, args...)
			r.fails(t, 2)
			for _, say := range tt.says {
				if !strings.Contains(r.err, say) {
					t.Errorf("standard error lacks %q:\n%s", say, r)
				}
			}
		})
	}
}

func TestUnknownEnvironment(t *testing.T) {
	t.Parallel()
	s := newShell(t, "PGCAST_MAX_FRAMES=1", "PGCAST_ZZZZZZ=1", "PGCAST_WAKE=poll")
	r := s.run(t, "config", "--json")
	if value, from := inForce(t, r, "wake"); value != "poll" || from != "PGCAST_WAKE" {
		t.Errorf("wake is %q from %q", value, from)
	}
	want := "pgcast: ignoring PGCAST_MAX_FRAMES: it is not a setting; did you mean PGCAST_MAX_FRAME?\n" +
		"pgcast: ignoring PGCAST_ZZZZZZ: it is not a setting\n"
	if r.err != want {
		t.Errorf("got %q, want %q", r.err, want)
	}
}

// A database named on the command line is the one that is used, whatever direct-database-url
// was set for another.
func TestDatabaseOfTheCommandLine(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, nil)
	other := pgtest.New(t, nil)
	s.env = append(s.env, "PGCAST_DIRECT_DATABASE_URL="+db.URL)
	if got := s.run(t, "sql", "select current_database() as name").ok(t); got != "name\n"+db.Name {
		t.Errorf("without the flag: %s", got)
	}
	r := s.run(t, "sql", "select current_database() as name", "--database-url", other.URL)
	if r.ok(t) != "name\n"+other.Name || !strings.Contains(r.err, "ignoring direct-database-url of PGCAST_DIRECT_DATABASE_URL") {
		t.Errorf("with the flag:\n%s", r)
	}
	r = s.run(t, "config", "--json", "--database-url", other.URL)
	if value, from := inForce(t, r, "direct-database-url"); value != "" || from != "default" {
		t.Errorf("config shows direct-database-url %q from %q", value, from)
	}
	r = s.run(t, "config", "--json", "--database-url", other.URL, "--direct-database-url", other.URL)
	if value, _ := inForce(t, r, "direct-database-url"); value != other.URL {
		t.Errorf("config shows direct-database-url %q although it was a flag", value)
	}
}

// TestRedaction looks for a password wherever a command may have put it.
func TestRedaction(t *testing.T) {
	t.Parallel()
	const canary = "CANARY"
	urls := []string{
		"postgres://u:CANARY@127.0.0.1:1/x",
		"postgres://u:CANARY%20CANARY@127.0.0.1:1/x?sslmode=disable",
		"postgres://u@127.0.0.1:1/x?password=CANARY",
		"postgres://u@127.0.0.1:1/x?sslpassword=CANARY",
		"host=127.0.0.1 port=1 user=u password=CANARY",
		"host=127.0.0.1 port=1 user=u password='CAN ARY CANARY'",
		// None of these can be used, and each confuses a parser in its own way.
		"postgres://u:CANARY@127.0.0.1:CANARY/x",
		"postgres://u:CANARY/CANARY@127.0.0.1:1/x",
		"postgres://u:CANARY%zzCANARY@127.0.0.1:1/x",
		"postgres://u:CANARY@127.0.0.1:1/x?sslmode=CANARY",
		"postgres://u:CANARY#CANARY@127.0.0.1:1/x",
		"mysql://u:CANARY@127.0.0.1/x",
		"host=127.0.0.1 password=CANARY port=CANARY",
		"CANARY",
	}
	for _, url := range urls {
		for _, args := range [][]string{
			{"config"}, {"sql", "select 1"}, {"serve", "--log-level", "debug"}, {"migrate", "up"}, {"publish", "a", "b"},
		} {
			for _, s := range []*shell{newShell(t, "PGCAST_DATABASE_URL="+url), newShell(t, "PGCAST_DATABASE_URL=postgres://127.0.0.1:1/x", "PGCAST_DIRECT_DATABASE_URL="+url)} {
				r := s.run(t, args...)
				if strings.Contains(r.out+r.err, canary) {
					t.Errorf("the password of %s is shown:\n%s", url, r)
				}
				if args[0] != "config" && r.code == 0 {
					t.Errorf("that worked?\n%s", r)
				}
			}
		}
	}
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	var s settings
	read := origins(func(s *settings) *[]string { return &s.AllowedOrigins })
	if err := read(&s, " https://App.example.com/ , localhost:5173,, *.example.org,http://[::1]:3000"); err != nil {
		t.Fatal(err)
	}
	want := []string{"https://app.example.com", "localhost:5173", "*.example.org", "http://[::1]:3000"}
	if !slices.Equal(s.AllowedOrigins, want) {
		t.Errorf("got %q, want %q", s.AllowedOrigins, want)
	}
	for _, bad := range []string{"*", "https://*", "ftp://a", "a/b", "https://u:p@a", "a?b", "https://", "a b"} {
		if err := read(&s, bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestReference keeps the list of settings complete and its defaults usable.
func TestReference(t *testing.T) {
	t.Parallel()
	set, warnings, err := load(pflag.NewFlagSet("", pflag.ContinueOnError), nil)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("the defaults are refused: %v %v", err, warnings)
	}
	if err := set.checkOpen(); err != nil {
		t.Fatal(err)
	}
	out := newShell(t).run(t, "config", "--reference").ok(t)
	for _, s := range allSettings {
		if !strings.Contains(out, "| `"+s.name+"` | `"+envName(s.name)+"` |") {
			t.Errorf("the reference lacks %s", s.name)
		}
		if s.help == "" || s.kind == "" || s.scope == 0 || s.read == nil {
			t.Errorf("setting %s is incomplete", s.name)
		}
		if settingName(envName(s.name)) != s.name {
			t.Errorf("%s does not come back from %s", s.name, envName(s.name))
		}
	}
	names := func(i int) string { return allSettings[i].name }
	for i := range allSettings {
		if slices.ContainsFunc(allSettings[i+1:], func(s setting) bool { return s.name == names(i) }) {
			t.Errorf("%s is there twice", names(i))
		}
	}
}

// TestClosedDirectory is about root's checkout in a directory only root can enter.
func TestClosedDirectory(t *testing.T) {
	t.Parallel()
	if !openToAll(os.TempDir()) {
		t.Skipf("%s is not open to all, so nothing in it is", os.TempDir())
	}
	dir, err := os.MkdirTemp("", "pgcast-open-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if !openToAll(dir) {
		t.Errorf("%s should be open to all", dir)
	}
	closed := filepath.Join(dir, "closed", "inner")
	if err := os.MkdirAll(closed, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(closed), 0o700); err != nil {
		t.Fatal(err)
	}
	if openToAll(closed) {
		t.Error("a directory in a closed one is not open to all")
	}
	home, err := clusterHome(closed)
	if err != nil {
		t.Fatal(err)
	}
	if inside := strings.HasPrefix(home, closed); inside != (os.Geteuid() != 0) {
		t.Errorf("the cluster would live in %s", home)
	}
}

func TestBrowsable(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"127.0.0.1:80": "127.0.0.1:80", "[::]:80": "127.0.0.1:80", "0.0.0.0:80": "127.0.0.1:80", "[::1]:80": "[::1]:80", "10.0.0.1:80": "10.0.0.1:80",
	} {
		if got := browsable(addr); got != want {
			t.Errorf("browsable(%s) = %s, want %s", addr, got, want)
		}
	}
}
