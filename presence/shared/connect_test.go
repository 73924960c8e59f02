package shared_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/breaker"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/shared"
)

func ping(ctx context.Context, c *redis.Client) error { return c.Ping(ctx).Err() }

// A Redis behind TLS is believed if the CA that is given vouches for it, and no other.
func TestTLS(t *testing.T) {
	t.Parallel()
	_, url, ca := redistest.StartTLS(t)
	r, err := shared.Open(&shared.Options{URL: url, CAFile: ca})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Do(t.Context(), ping); err != nil {
		t.Errorf("with its CA: %v", err)
	}
	for name, other := range map[string]string{"another CA": redistest.NewCA(t, t.TempDir()), "the machine's": ""} {
		var log bytes.Buffer
		r, err := shared.Open(&shared.Options{URL: url, CAFile: other, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			err = r.Do(t.Context(), ping)
			if !errors.Is(err, pgcast.ErrUnavailable) || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if r.State() != breaker.Broken || !strings.Contains(log.String(), "certificate signed by unknown authority") {
			t.Errorf("%s: %s, and the log has %s", name, r.State(), &log)
		}
		if _, err := shared.Look(t.Context(), &shared.Options{URL: url, CAFile: other}); shared.Explain(err) != shared.BadTLS {
			t.Errorf("%s: the look gives %v", name, err)
		}
	}
}

// Calls whose callers have gone before them say nothing of Redis: neither that it is away
// nor, while it is, that it is back.
func TestCallersWhoAreGone(t *testing.T) {
	t.Parallel()
	r, err := shared.Open(&shared.Options{URL: "redis://127.0.0.1:1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	store := r.Store("presence", "s", time.Minute)
	gone := func(want breaker.State) {
		t.Helper()
		if err := r.Do(canceled, ping); !errors.Is(err, context.Canceled) && want == breaker.Healthy {
			t.Fatal(err)
		}
		if a := store.Apply(canceled, []presence.Batch{{Topic: "a"}}); !errors.Is(a[0].Err, context.Canceled) && want == breaker.Healthy {
			t.Fatal(a)
		}
		if err := r.Do(late, ping); !errors.Is(err, pgcast.ErrUnavailable) {
			t.Fatal(err)
		}
		if got := r.State(); got != want {
			t.Fatalf("it is %s; want %s", got, want)
		}
	}
	for range 5 {
		gone(breaker.Healthy)
	}
	for range 3 {
		_ = r.Do(t.Context(), ping)
	}
	gone(breaker.Broken)
	for began := time.Now(); r.State() == breaker.Broken; {
		if time.Since(began) > 10*time.Second {
			t.Fatal("it is not looked at again")
		}
		_ = r.Do(canceled, ping)
	}
	gone(breaker.Probing)
	_ = r.Do(t.Context(), ping)
	gone(breaker.Broken)
}

// What cannot be used is refused before anything is connected to, without the password.
func TestSettings(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    shared.Options
		want string
	}{
		{shared.Options{URL: "redis://u:secret@h:x"}, "cannot be read"},
		{shared.Options{URL: "http://u:secret@h"}, "cannot be read"},
		{shared.Options{URL: "redis://u:secret@h", CAFile: empty}, "no TLS"},
		{shared.Options{URL: "rediss://u:secret@h", CAFile: empty}, "no certificate"},
		{shared.Options{URL: "rediss://u:secret@h", CAFile: empty + "x"}, "no such file"},
		{shared.Options{URL: "redis://u:secret@h", Prefix: "a{b}"}, "brace"},
	} {
		_, err := shared.Open(&c.o)
		var e *pgcast.Error
		if !errors.As(err, &e) || e.Code != pgcast.CodeInvalid || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v; want something with %q", c.o, err, c.want)
		}
	}
}

// The look tells what a Redis is and what its user may not do, leaves nothing in it, and
// tries all that the scripts do.
func TestLook(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl")
	f, err := shared.Look(t.Context(), &shared.Options{URL: r.URL})
	if err != nil {
		t.Fatal(err)
	}
	if !f.Loopback || f.Encrypted || f.Address != r.Addr || f.RoundTrip <= 0 || f.RoundTrip > time.Second || !strings.Contains(f.Version, ".") ||
		f.Mode != "standalone" || f.Role != "master" || f.Policy != "volatile-ttl" || f.Max != 100<<20 || f.Used <= 0 || f.User != "default" ||
		f.Denied != nil || f.Deaf != nil {
		t.Errorf("%+v", f)
	}
	if got := r.Do("DBSIZE"); got != ":0" {
		t.Errorf("it leaves %s keys", got)
	}

	if got := r.Do("ACL", "SETUSER", "poor", "on", ">secret", "~pgcast:*", "&pgcast:*", "+@all", "-zadd", "-info"); got != "+OK" {
		t.Fatal(got)
	}
	poor := strings.Replace(r.URL, "redis://", "redis://poor:secret@", 1)
	f, err = shared.Look(t.Context(), &shared.Options{URL: poor})
	if err != nil || f.Version != "" || f.User != "poor" || len(f.Denied) != 1 || !strings.HasPrefix(f.Denied[0], "ZADD: ") || f.Deaf != nil {
		t.Errorf("with a user who may not all: %+v, %v", f, err)
	}
	f, err = shared.Look(t.Context(), &shared.Options{URL: poor, Prefix: "other"})
	if err != nil || len(f.Denied) == 0 || f.Deaf == nil {
		t.Errorf("with a user whose keys these are not: %+v, %v", f, err)
	}
	for url, want := range map[string]shared.Trouble{
		strings.Replace(poor, "secret", "guess", 1): shared.BadLogin,
		"redis://127.0.0.1:1":                       shared.Unreachable,
		"nonsense":                                  shared.BadSettings,
	} {
		if _, err := shared.Look(t.Context(), &shared.Options{URL: url}); err == nil || shared.Explain(err) != want || strings.Contains(err.Error(), "guess") {
			t.Errorf("%s: trouble %d, %v", url, shared.Explain(err), err)
		}
	}
}

func TestLookTriesEverything(t *testing.T) {
	files, err := filepath.Glob("*.lua")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	tried, err := os.ReadFile("try.lua")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`redis\.p?call\('(\w+)'`).FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(string(tried), "try('"+strings.ToUpper(m[1])+"'") {
				t.Errorf("%s runs %s, which pgcast doctor does not try", file, m[1])
			}
		}
	}
}
