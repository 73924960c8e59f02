package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/auth/authtest"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// What docs/access-quickstart.md says, done as it says it: from a server that is open on
// loopback to tokens of an identity provider, and rooms that their members see.
func TestAccessQuickStart(t *testing.T) {
	readme := readmeSteps(t)
	step := stepsOf(t, "../../docs/access-quickstart.md", "access", "members", "migrate", "rule", "serve", "try", "page", "leave")
	key := authtest.New(t, "RS256").Named("k1")
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(authtest.JWKS(t, key))
	}))
	t.Cleanup(provider.Close)
	token := func(claims map[string]any) string {
		claims["iss"], claims["aud"] = "https://idp.example.com/", "app"
		claims["exp"] = time.Now().Add(time.Hour).Unix()
		return key.Token(t, claims)
	}
	ann, carl, root := token(map[string]any{"sub": "ann"}), token(map[string]any{"sub": "carl"}), token(map[string]any{"sub": "root", "role": "admin"})

	db := pgtest.New(t, nil)
	listen := pgtest.FreeAddress(t)
	sh := newShell(t, "PGCAST_LISTEN="+listen, "PGCAST_ADMIN_LISTEN="+pgtest.FreeAddress(t), "PGCAST_DATABASE_URL="+db.URL, "ANN="+ann, "CARL="+carl)
	if err := os.Symlink(binary, filepath.Join(sh.dir, "pgcast")); err != nil {
		t.Fatal(err)
	}
	sh.script(t, readme["attach"])
	if err := os.WriteFile(filepath.Join(sh.dir, "members.sql"), []byte(step["members"]), 0o600); err != nil {
		t.Fatal(err)
	}
	sh.script(t, step["migrate"])
	sh.script(t, step["rule"])

	quoted := fmt.Sprintf("%q", ann)
	text := strings.ReplaceAll(strings.Replace(step["page"], `localStorage.getItem("token")`, quoted, 1), "127.0.0.1:8080", listen)
	if !strings.Contains(text, quoted) {
		t.Fatal("the page takes its token from somewhere else")
	}
	page := servePage(t, text)
	host := strings.Replace(strings.TrimPrefix(page.server.URL, "http://"), "127.0.0.1", "localhost", 1)
	serve := strings.ReplaceAll(strings.ReplaceAll(step["serve"], "https://idp.example.com/.well-known/jwks.json", provider.URL), "localhost:8000", host)
	if !strings.Contains(serve, provider.URL+" ") || !strings.Contains(serve, host) {
		t.Fatalf("serve names other things than the page says:\n%s", serve)
	}
	sh.background(t, serve)
	eventually(t, "the server", func() bool {
		r, err := http.Get("http://" + listen + "/readyz")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		return r.StatusCode == 200
	})

	try := exec.Command("sh", "-eu", "-c", strings.ReplaceAll(step["try"], "127.0.0.1:8080", listen))
	try.Dir, try.Env = sh.dir, sh.env
	out, err := try.CombinedOutput()
	if err != nil || string(out) != "401\n403\n200\n403\n" {
		t.Errorf("tried, it answers %q, %v", out, err)
	}
	// The admin's rule is for the pattern, the members' is not.
	for who, want := range map[string]int{root: 200, ann: 403} {
		r, err := http.NewRequest("GET", "http://"+listen+"/topics/room:*/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+who)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("room:* is answered with %d, want %d", answer.StatusCode, want)
		}
	}

	shown, ended := page.shown, "room:1: FORBIDDEN"
	if !openBrowser(t, "http://"+host+"/") {
		t.Log("no Chromium here: the page itself is not tried, only what it would be sent")
		sh.env = append(sh.env, "PGCAST_TOKEN="+ann)
		shown, ended = sh.tail(t, "room:1"), "not allowed"
	}
	eventually(t, "the subscription", func() bool { return strings.Contains(metricsOf(sh), "\npgcast_subscriptions 2\n") })
	sh.script(t, readme["write"])
	eventually(t, "the row on the page", func() bool { return strings.Contains(shown(), "hello") })
	sh.script(t, step["leave"])
	eventually(t, "the page is told that it is over", func() bool { return strings.Contains(shown(), ended) })
	sh.script(t, strings.Replace(readme["write"], "hello", "after she left", 1))
	conn := db.Conn(t)
	eventually(t, "the event is sequenced", func() bool {
		var n int
		err := conn.QueryRow(t.Context(), "select count(*) from pgcast.history where topic = 'room:1'").Scan(&n)
		return err == nil && n == 2
	})
	if strings.Contains(shown(), "after she left") {
		t.Errorf("who has left the room still sees it:\n%s", shown())
	}
}

// tail collects what pgcast tail shows, which may end by itself.
func (s *shell) tail(t *testing.T, topic string) (shown func() string) {
	t.Helper()
	cmd := exec.Command("./pgcast", "tail", topic, "--json")
	cmd.Dir, cmd.Env = s.dir, s.env
	out, err := os.Create(filepath.Join(s.dir, "tail.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close() // the command has its own
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // how it ends is not what is tested
	})
	return func() string {
		text, err := os.ReadFile(filepath.Join(s.dir, "tail.txt"))
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
}
