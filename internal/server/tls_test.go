package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/certtest"
	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/redistest"
	"github.com/pgcast/pgcast/internal/wire"
	"github.com/pgcast/pgcast/presence/shared"
)

// journal is a log that a test reads while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// Both listeners speak TLS, 1.2 or newer, and sessions, streams and answers are the same
// over it. A new certificate counts from the next connection on; one that cannot be used
// leaves the one before.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir, soon := t.TempDir(), time.Now().Add(time.Hour)
	ca := certtest.New(t, dir)
	cert, key := ca.Issue(t, dir, "server", soon, "127.0.0.1")
	db, log := pgtest.New(t, nil), &journal{}
	r := start(t, db.URL, func(o *Options) {
		o.TLSCertFile, o.TLSKeyFile = cert, key
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
	})
	client := func(change func(*tls.Config)) *http.Client {
		c := &tls.Config{RootCAs: ca.Pool}
		if change != nil {
			change(c)
		}
		return &http.Client{Timeout: within, Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}}
	}
	serial := func() (string, error) {
		res, err := client(nil).Get("https://" + r.listen + "/readyz")
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		if got := res.Header.Get("Strict-Transport-Security"); got == "" {
			t.Error("no HSTS over TLS")
		}
		return res.TLS.PeerCertificates[0].SerialNumber.String(), nil
	}
	await(t, "it is ready", func() bool {
		res, err := client(nil).Get("https://" + r.admin + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	if _, err := client(func(c *tls.Config) { c.MaxVersion, c.MinVersion = tls.VersionTLS11, tls.VersionTLS10 }).Get("https://" + r.listen + "/healthz"); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	if status, text := get(t, "http://"+r.listen+"/healthz"); status != http.StatusBadRequest {
		t.Errorf("plain text gives %d %s", status, text)
	}

	ws, _, err := websocket.Dial(t.Context(), "wss://"+r.listen+"/ws", &websocket.DialOptions{HTTPClient: client(nil)})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(4 << 20)
	p := &peer{t, ws}
	p.send(`{"type":"subscribe","ref":1,"topic":"a"}`)
	p.want(wire.Subscribed)
	res, err := client(nil).Get("https://" + r.listen + "/topics/a/sse?after=0")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	// More than one record of TLS, and more than the kernel takes at once.
	const large, many = 300_000, 20
	pool := db.Pool(t)
	for range many {
		if _, err := pool.Exec(t.Context(), `select pgcast.publish('a', 'said', to_jsonb(repeat('x', $1)))`, large); err != nil {
			t.Fatal(err)
		}
	}
	for i := range many {
		if f := p.want(wire.Event); int(f.Events[0].Seq) != i+1 || len(f.Events[0].Data) != large+2 {
			t.Fatalf("event %d: seq %d with %d bytes", i+1, f.Events[0].Seq, len(f.Events[0].Data))
		}
	}
	if n, err := io.CopyN(io.Discard, res.Body, large*many); err != nil {
		t.Fatalf("the stream ends after %d bytes: %v", n, err)
	}

	was, err := serial()
	if err != nil {
		t.Fatal(err)
	}
	replaced := func(why string) string {
		t.Helper()
		var now string
		await(t, why, func() bool {
			if now, err = serial(); err != nil {
				t.Fatal(err)
			}
			return now != was
		})
		return now
	}
	ca.Issue(t, dir, "server", soon, "127.0.0.1")
	now := replaced("the new certificate is shown")
	said := func(what string) {
		t.Helper()
		await(t, "the log says "+what, func() bool {
			if got, err := serial(); err != nil || got != now {
				t.Fatalf("the certificate is %s (%v); want %s still", got, err, now)
			}
			return strings.Contains(log.String(), what)
		})
	}
	other, _ := ca.Issue(t, dir, "other", soon, "127.0.0.1")
	good, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ file, says string }{{other, "private key does not match"}, {dir + "/nosuch", "failed to find"}, {"", "it has expired"}} {
		switch text, err := os.ReadFile(c.file); {
		case c.file == "":
			ca.Issue(t, dir, "server", time.Now().Add(-time.Hour), "127.0.0.1")
		case err != nil:
			text = []byte("nonsense\n")
			fallthrough
		default:
			if err := os.WriteFile(cert, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		said(c.says)
	}
	if err := os.WriteFile(cert, good, 0o600); err != nil {
		t.Fatal(err)
	}
	ca.Issue(t, dir, "server", soon, "127.0.0.1")
	was = now
	replaced("the next good certificate is shown")
	p.send(`{"type":"publish","ref":2,"topic":"b","event":"said"}`)
	p.want(wire.Published) // the session has stayed
	if key, err := os.ReadFile(key); err != nil || strings.Contains(log.String(), strings.Split(string(key), "\n")[1]) {
		t.Errorf("the key is in the log (%v)", err)
	}
}

// S34: with sslmode=verify-full a Postgres is believed if its certificate is good, of the
// right host and vouched for; else nothing is sent to it. Likewise a Redis with rediss://.
func TestS34WhoOthersAre(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	ca, future := certtest.New(t, dir), time.Now().Add(time.Hour)
	type pair struct{ cert, key string }
	issue := func(a *certtest.Authority, name string, until time.Time, hosts ...string) pair {
		cert, key := a.Issue(t, dir, name, until, hosts...)
		return pair{cert, key}
	}
	cases := []struct {
		name string
		of   pair
		want string
	}{
		{"good", issue(ca, "good", future, "127.0.0.1"), ""},
		{"self-signed", issue(nil, "own", future, "127.0.0.1"), "unknown authority"},
		{"wrong host", issue(ca, "wrong", future, "db.example.com", "127.0.0.2"), "not 127.0.0.1"},
		{"expired", issue(ca, "old", time.Now().Add(-time.Hour), "127.0.0.1"), "expired"},
	}
	t.Run("Redis", func(t *testing.T) {
		for _, c := range cases {
			_, at := redistest.StartWith(t, ca.File, c.of.cert, c.of.key)
			_, err := shared.Look(t.Context(), &shared.Options{URL: at, CAFile: ca.File})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	})
	t.Run("Postgres", func(t *testing.T) {
		cluster := pgtest.Private(t, nil)
		admin, err := pgx.Connect(t.Context(), cluster.URL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer admin.Close(context.Background())
		give(t, admin, dir)
		at := func(mode string) string {
			u, err := url.Parse(cluster.URL("postgres"))
			if err != nil {
				t.Fatal(err)
			}
			q := u.Query()
			q.Set("sslmode", mode)
			q.Set("sslrootcert", ca.File)
			u.RawQuery = q.Encode()
			return u.String()
		}
		try := func(mode string) error {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			conn, err := pgx.Connect(ctx, at(mode))
			if err == nil {
				err = conn.Close(ctx)
			}
			return err
		}
		for _, c := range cases {
			for _, statement := range []string{"alter system set ssl = on", fmt.Sprintf("alter system set ssl_cert_file = '%s'", c.of.cert),
				fmt.Sprintf("alter system set ssl_key_file = '%s'", c.of.key), "select pg_reload_conf()"} {
				if _, err := admin.Exec(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			var got error
			await(t, c.name+" is as it should be", func() bool {
				got = try("verify-full")
				if c.want == "" {
					return got == nil
				}
				return got != nil && strings.Contains(got.Error(), c.want)
			})
			t.Logf("%s: %v", c.name, got)
			s, err := New(&Options{DatabaseURL: at("verify-full"), Logger: discard})
			if err != nil {
				t.Fatal(err)
			}
			// Nothing of pgcast is in there, which is what it says once it is let in.
			if _, err := s.log.Position(t.Context()); err == nil || c.want != "" && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: a server that reads says %v", c.name, err)
			}
			s.pool.Close()
		}
	})
}

// reachable is a directory that a Postgres of another user can enter.
func reachable(t *testing.T) string {
	t.Helper()
	base, err := devpg.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(base, "tls-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// give makes what is in a directory the property of who runs a Postgres: it reads no key
// that is another's.
func give(t *testing.T, conn *pgx.Conn, dir string) {
	t.Helper()
	var data string
	if err := conn.QueryRow(t.Context(), "show data_directory").Scan(&data); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Chown(filepath.Join(dir, f.Name()), int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}
