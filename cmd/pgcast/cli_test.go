package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.run(t, "sevre").fails(t, 2, `unknown command "sevre" for "pgcast"`, "did you mean serve?")
	s.run(t, "xyzzy").fails(t, 2, `unknown command "xyzzy" for "pgcast"`, "see: pgcast --help")
	s.run(t, "serve", "now").fails(t, 2, "see: pgcast serve --help")
	s.run(t, "sql", "--jsno").fails(t, 2, `unknown flag --jsno for "pgcast sql"`, "did you mean --json?")
	s.run(t, "sql", "--database-url").fails(t, 2, "flag needs an argument", "see: pgcast sql --help")
}

func TestHelp(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	if r := s.run(t); !strings.Contains(r.ok(t), "pgcast dev") || r.err != "" {
		t.Errorf("without arguments:\n%s", r)
	}
	for _, args := range []string{
		"serve", "dev", "example", "migrate", "migrate up", "migrate down", "migrate status", "attach", "detach",
		"attached", "tail", "publish", "sql", "doctor", "config", "version", "rules", "rules delete", "allow", "revoke", "keys", "keys create", "keys list", "keys revoke",
	} {
		out := s.run(t, append(strings.Fields(args), "--help")...).ok(t)
		if !strings.Contains(out, "Usage:") {
			t.Errorf("pgcast %s --help:\n%s", args, out)
		}
		if len(strings.Fields(args)) == 1 && args != "version" && !strings.Contains(out, "Examples:\n  pgcast "+args) {
			t.Errorf("pgcast %s --help shows no example:\n%s", args, out)
		}
	}
	// Help must work where the settings do not.
	s.write(t, "pgcast.yaml", "nonsense: 1\n")
	s.run(t, "help", "serve").ok(t)
	s.run(t, "serve", "--help").ok(t)
	s.run(t, "completion", "bash").ok(t)
	s.run(t, "version").ok(t)
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	for _, sh := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := s.run(t, "completion", sh).ok(t); !strings.Contains(out, "pgcast") {
			t.Errorf("completion for %s:\n%s", sh, out)
		}
	}
	if out := s.run(t, "__complete", "serve", "--wake", "").ok(t); !strings.HasPrefix(out, "auto\nnotify\nwal\npoll\n") {
		t.Errorf("the values of --wake complete to:\n%s", out)
	}
	for _, command := range []string{"tail", "sql", "publish"} {
		if out := s.run(t, "__complete", command, "").ok(t); out != ":4" {
			t.Errorf("the arguments of %s complete to:\n%s", command, out)
		}
	}
	if out := s.run(t, "__complete", "mig").ok(t); !strings.HasPrefix(out, "migrate\t") {
		t.Errorf("mig completes to:\n%s", out)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	out := s.run(t, "version").ok(t)
	if !regexp.MustCompile(`^pgcast \S+.* go1\.\S+ \w+/\w+$`).MatchString(out) {
		t.Errorf("version: %q", out)
	}
	// S39: everything that is in the binary, pinned.
	modules := s.run(t, "version", "--modules").ok(t)
	for _, want := range []string{`(?m)^go\s+go1\.`, `(?m)^github\.com/pgcast/pgcast\s`, `(?m)^github\.com/jackc/pgx/v5\s+v5\.\S+\s+h1:\S+=$`, `(?m)^github\.com/coder/websocket\s+v\S+\s+h1:\S+=$`} {
		if !regexp.MustCompile(want).MatchString(modules) {
			t.Errorf("version --modules lacks %s:\n%s", want, modules)
		}
	}
	if flag := s.run(t, "--version").ok(t); flag != out {
		t.Errorf("--version says %q, version %q", flag, out)
	}
}

func TestPointAt(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 100) + "X" + strings.Repeat("b", 100)
	tests := []struct {
		statement string
		n         int
		want      string
	}{
		{"select x", 8, "LINE 1: select x\n               ^"},
		{"ä\nö ü x", 7, "LINE 2: ö ü x\n            ^"},
		{"select", 7, "LINE 1: select\n              ^"},
		{"", 0, "LINE 1: \n        ^"},
		{"select", 99, "LINE 1: select\n              ^"},
		{long, 101, "LINE 1: …" + strings.Repeat("a", 60) + "X" + strings.Repeat("b", 59) + "…\n" + strings.Repeat(" ", 69) + "^"},
	}
	for _, tt := range tests {
		if got := pointAt(tt.statement, tt.n); got != tt.want {
			t.Errorf("pointAt(%.20q, %d):\n%s\nwant:\n%s", tt.statement, tt.n, got, tt.want)
		}
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain":              "plain",
		"ünï ☃ 👩\u200d👧":     "ünï ☃ 👩\u200d👧",
		"a\x1b[31mb\r\n\t":   `a\u001b[31mb\r\n\t`,
		"right\u202eto left": `right\u202eto left`,
		"bell\a":             `bell\u0007`,
	} {
		if got := plain(text); got != want {
			t.Errorf("plain(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"room:1": "room:1", "room:*": "'room:*'", "it's": `'it'\''s'`, "ws://h:1/ws?a=1&b": "'ws://h:1/ws?a=1&b'", "$x": "'$x'",
	} {
		if got := quote(text); got != want {
			t.Errorf("quote(%s) = %s, want %s", text, got, want)
		}
	}
}

func TestLogDurations(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a := &app{err: f, set: &settings{LogFormat: "json", LogLevel: "info"}}
	a.logger(slog.LevelInfo).Info("trying again", "after", 1500*time.Millisecond)
	text, err := os.ReadFile(f.Name())
	if err != nil || !strings.Contains(string(text), `"after":"1.5s"`) {
		t.Errorf("it logs %s %v", text, err)
	}
}
