package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// The README's five minutes, and those of the documentation, run as they stand there: their
// commands in a shell, and their page in a browser where there is one.
func TestQuickStart(t *testing.T) {
	for _, at := range []struct{ path, mark string }{{"../../README.md", "quickstart"}, {"../../docs/quickstart.md", "start"}} {
		t.Run(filepath.Base(at.path), func(t *testing.T) {
			quickStart(t, stepsOf(t, at.path, at.mark, "setup", "attach", "serve", "page", "write"))
		})
	}
}

func quickStart(t *testing.T, step map[string]string) {
	db := pgtest.New(t, &pgtest.Options{Empty: true})
	listen := pgtest.FreeAddress(t)
	sh := newShell(t, "PGCAST_LISTEN="+listen, "PGCAST_ADMIN_LISTEN="+pgtest.FreeAddress(t))
	if err := os.Symlink(binary, filepath.Join(sh.dir, "pgcast")); err != nil {
		t.Fatal(err)
	}
	page := servePage(t, strings.ReplaceAll(step["page"], "127.0.0.1:8080", listen))
	host := strings.Replace(strings.TrimPrefix(page.server.URL, "http://"), "127.0.0.1", "localhost", 1)

	setup := strings.Replace(step["setup"], "go build -o pgcast ./cmd/pgcast\n", "", 1)
	export := regexp.MustCompile(`(?m)^export PGCAST_DATABASE_URL=.*$`)
	if setup == step["setup"] || !export.MatchString(setup) {
		t.Fatalf("the setup neither builds nor names a database:\n%s", setup)
	}
	sh.env = append(sh.env, "PGCAST_DATABASE_URL="+db.URL)
	sh.script(t, export.ReplaceAllString(setup, ""))
	sh.script(t, step["attach"])
	serve := strings.ReplaceAll(step["serve"], "localhost:8000", host)
	if serve == step["serve"] {
		t.Fatalf("serve does not allow the page's origin:\n%s", serve)
	}
	stop := sh.background(t, serve)

	// What a browser shows, or, where there is none, what the Go client is given.
	var shown func() string
	url := "http://" + host + "/"
	if !openBrowser(t, url) {
		t.Log("no Chromium here: the page itself is not tried, only what it would be sent")
		shown = watch(t, listen, "room:1")
	} else {
		shown = page.shown
	}
	eventually(t, "the server and the subscription", func() bool { return strings.Contains(metricsOf(sh), "\npgcast_subscriptions 1\n") })
	sh.script(t, step["write"])
	eventually(t, "the row on the page", func() bool { return strings.Contains(shown(), "hello") })

	stop()
	sh.script(t, strings.Replace(step["write"], "hello", "while the server was away", 1))
	sh.background(t, serve)
	eventually(t, "the page catches up", func() bool { return strings.Contains(shown(), "while the server was away") })
	if lines := strings.Split(strings.TrimSpace(shown()), "\n"); len(lines) != 2 || !strings.Contains(lines[0], "hello") {
		t.Errorf("not each row once:\n%s", shown())
	}
}

// readmeSteps gives the README's marked blocks by name.
func readmeSteps(t *testing.T) map[string]string {
	t.Helper()
	return stepsOf(t, "../../README.md", "quickstart", "setup", "attach", "serve", "page", "write")
}

// stepsOf gives the marked blocks of a page, which must have those named.
func stepsOf(t *testing.T, path, mark string, names ...string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	steps := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)<!-- "+mark+": (\\w+) -->\n```\\w+\n(.*?)```").FindAllSubmatch(text, -1) {
		steps[string(m[1])] = string(m[2])
	}
	for _, name := range names {
		if steps[name] == "" {
			t.Fatalf("%s has no step %q", path, name)
		}
	}
	return steps
}

func (s *shell) script(t *testing.T, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-eu", "-c", script)
	cmd.Dir, cmd.Env = s.dir, s.env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out)
	}
}

// background runs a script that does not end by itself.
func (s *shell) background(t *testing.T, script string) (stop func()) {
	t.Helper()
	cmd := exec.Command("sh", "-eu", "-c", "exec "+script)
	cmd.Dir, cmd.Env = s.dir, s.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out.String())
		}
	})
	t.Cleanup(stop)
	return stop
}

func metricsOf(s *shell) string {
	for _, v := range s.env {
		if addr, ok := strings.CutPrefix(v, "PGCAST_ADMIN_LISTEN="); ok {
			r, err := http.Get("http://" + addr + "/metrics")
			if err != nil {
				return ""
			}
			defer r.Body.Close()
			b, _ := io.ReadAll(r.Body)
			return string(b)
		}
	}
	return ""
}

// pageServer serves the README's page, which reports to it what it shows.
type pageServer struct {
	server *httptest.Server
	mu     sync.Mutex
	text   string
}

const reporter = `<script>
new MutationObserver(() => fetch("/shown", {method: "POST", body: log.innerText})).observe(log, {childList: true});
</script>`

func servePage(t *testing.T, page string) *pageServer {
	p := &pageServer{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, strings.Replace(page, "</ul>", "</ul>"+reporter, 1))
	})
	mux.HandleFunc("POST /shown", func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.text = string(b)
	})
	p.server = httptest.NewServer(mux)
	t.Cleanup(p.server.Close)
	return p
}

func (p *pageServer) shown() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text
}

// openBrowser opens a page in headless Chromium, if there is one.
func openBrowser(t *testing.T, url string) bool {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		return false
	}
	cmd := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
		"--user-data-dir="+t.TempDir(), url)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	return true
}

// watch collects what a page would show.
func watch(t *testing.T, listen, topic string) (shown func() string) {
	c := client.New("http://"+listen, nil)
	if err := c.Subscribe(topic, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var text strings.Builder
	wg.Go(func() { _ = c.Run(ctx) })
	wg.Go(func() {
		for item, err := range c.Items(ctx) {
			if e, ok := item.(client.Event); ok && err == nil {
				mu.Lock()
				fmt.Fprintf(&text, "#%d %s %s\n", e.Seq, e.Name, e.Data)
				mu.Unlock()
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func() string { mu.Lock(); defer mu.Unlock(); return text.String() }
}
