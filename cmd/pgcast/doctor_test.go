package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/doctor"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/redistest"
)

// figures are what differs from run to run and from machine to machine.
var figures = regexp.MustCompile(`t_[0-9a-f]+_[0-9]+_[a-z]+|127\.0\.0\.1:\d+|\d+(\.\d+)?(e-\d+)?(ns|µs|ms|s|m)\b|\d+ (kB|MB|GB|bytes)|PostgreSQL .*|\d[\d.e-]* %|\d+ (old|of \d+|files)|/\S*`)

func TestDoctorText(t *testing.T) {
	t.Parallel()
	s, _ := withDatabase(t, &pgtest.Options{Empty: true})
	r := s.run(t, "doctor", "--max-sessions", "1", "--retention-every", "1m")
	r.fails(t, 1, "pgcast: ", " failed\n", "told below it", " ok, ", " skip\n")
	if strings.Contains(r.out+r.err, "\x1b") {
		t.Errorf("colours for nobody:\n%s", r)
	}
	// Left out: what this machine, its load and other tests on the same cluster decide.
	elsewhere := []string{"connection", "tcp-timeouts", "clock", "notify-queue", "vacuum", "disk", "slots", "standbys", "max-connections"}
	var got strings.Builder
	left := false
	for line := range strings.Lines(figures.ReplaceAllString(r.out, "…")) {
		if fields := strings.Fields(line); !strings.HasPrefix(line, " ") {
			left = slices.Contains(elsewhere, fields[1])
		}
		if !left {
			got.WriteString(line)
		}
	}
	want, err := os.ReadFile(filepath.Join("testdata", "doctor.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("it is not as in testdata/doctor.txt:\n%s", &got)
	}

	r = s.run(t, "doctor", "--quiet")
	if strings.Contains(r.out, "\nok ") || strings.HasPrefix(r.out, "ok") || !strings.Contains(r.out, "fail  migrations") {
		t.Errorf("--quiet:\n%s", r)
	}
	if r := s.run(t, "doctor", "--verbose"); !strings.Contains(r.out, "UTF8\n      why:  events are JSON, and JSON is UTF-8\n") {
		t.Errorf("--verbose:\n%s", r)
	}
	s.run(t, "doctor", "--quiet", "--verbose").fails(t, 2, "--quiet and --verbose", "choose one")
	s.run(t, "doctor", "now").fails(t, 2, "see: pgcast doctor --help")
}

func TestDoctorJSON(t *testing.T) {
	t.Parallel()
	s, _ := withDatabase(t, nil)
	// The cluster of the tests runs with fsync off, which is a failure.
	r := s.run(t, "doctor", "--json")
	r.fails(t, 1, "failed")
	names := map[string]bool{}
	states := map[string]doctor.State{}
	for line := range strings.Lines(r.out) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for _, f := range []string{"name", "state", "found", "why", "mend", "mend_with"} {
			if _, is := fields[f].(string); !is {
				t.Errorf("no %s in %s", f, line)
			}
		}
		if len(fields) != 6 {
			t.Errorf("%d fields in %s", len(fields), line)
		}
		name := fields["name"].(string)
		names[name], states[name] = true, doctor.State(fields["state"].(string))
	}
	for _, name := range doctor.Names() {
		if !names[name] && !strings.HasPrefix(name, "redis-") { // there is no Redis
			t.Errorf("nothing of %s", name)
		}
	}
	if states["migrations"] != doctor.OK || states["durability"] != doctor.Fail || states["sequencer"] != doctor.Warn {
		t.Errorf("migrations %s, durability %s, sequencer %s", states["migrations"], states["durability"], states["sequencer"])
	}
}

func TestDoctorExitCode(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, nil)
	s := newShell(t, "PGCAST_DATABASE_URL="+c.URL("postgres"))
	s.run(t, "doctor").fails(t, 1, "failed", " fail, ")
	s.run(t, "migrate", "up").ok(t)
	// A database without a server is worth a warning.
	if r := s.run(t, "doctor", "--max-sessions", "1"); r.code != 0 && !strings.Contains(r.out, "fail  disk") || !strings.Contains(r.out, "warn  sequencer") {
		t.Errorf("with a warning:\n%s", r)
	}
	s.run(t, "doctor", "--strict", "--json").fails(t, 1, "pgcast: ", "hint: ")
}

func TestDoctorUnreachable(t *testing.T) {
	t.Parallel()
	r := newShell(t, "PGCAST_DATABASE_URL=postgres://u:secret@"+nobody(t)+"/x").run(t, "doctor")
	r.fails(t, 1, " failed\n")
	for _, text := range []string{"fail  connection", "refused", "run:  pg_isready -h 127.0.0.1", "skip  lag "} {
		if !strings.Contains(r.out, text) {
			t.Errorf("no %q:\n%s", text, r)
		}
	}
	if strings.Contains(r.out+r.err, "secret") {
		t.Errorf("the password is told:\n%s", r)
	}
}

// The settings of Redis are those of the servers.
func TestDoctorRedis(t *testing.T) {
	t.Parallel()
	_, url, ca := redistest.StartTLS(t)
	s := newShell(t, "PGCAST_DATABASE_URL=postgres://"+nobody(t)+"/x", "PGCAST_REDIS_URL="+url)
	if r := s.run(t, "doctor", "--redis-ca-file", ca); !strings.Contains(r.out, "ok    redis-rights ") || !strings.Contains(r.out, "ok    redis-encryption       encrypted") {
		t.Errorf("with the CA:\n%s", r)
	}
	s.run(t, "doctor", "--quiet").fails(t, 1, "failed")
	s.run(t, "doctor", "--redis-ca-file", "nowhere.pem").fails(t, 2, "no such file", "give the path of a PEM file")
}

// --fix says what it has done, and looks as ever.
func TestDoctorFix(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, &pgtest.Options{Kind: pgtest.Logical})
	slot := openSlot(t, db)
	r := s.run(t, "doctor", "--fix", "--json")
	r.fails(t, 1, "1 fixed, ") // fsync is off here
	first, rest, _ := strings.Cut(r.out, "\n")
	var got doctor.Result
	if err := json.Unmarshal([]byte(first), &got); err != nil {
		t.Fatalf("%v: %s", err, first)
	}
	if got.Name != "capture-slot" || got.State != doctor.Fixed || !strings.Contains(got.Found, "dropped slot "+slot) || got.Mend != "" {
		t.Errorf("it begins with %s", first)
	}
	if !strings.Contains(rest, `{"name":"capture-slot","state":"ok"`) {
		t.Errorf("it has not looked afterwards:\n%s", rest)
	}
	if n := slots(t, db); n != 0 {
		t.Errorf("%d slots are left", n)
	}
	r = s.run(t, "doctor", "--fix", "--quiet")
	r.fails(t, 1, "nothing to mend that --fix may\n")
	if strings.Contains(r.out, "fixed") {
		t.Errorf("a second time:\n%s", r)
	}
	newShell(t, "PGCAST_DATABASE_URL=postgres://u@"+nobody(t)+"/x").run(t, "doctor", "--fix").fails(t, 1, " failed\n")
}
