package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// served is a running pgcast serve.
type served struct {
	*process
	listen, admin string
}

// startServe runs a server and waits until it is ready.
func startServe(t *testing.T, s *shell, args ...string) *served {
	t.Helper()
	p := &served{process: s.start(t, append(append([]string{"serve", "--log-format", "json"}, freePorts...), args...)...)}
	p.says(`"msg":"serving"`)
	for line := range strings.SplitSeq(p.printed(), "\n") {
		var entry struct{ Msg, Listen, Admin string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "serving" {
			p.listen, p.admin = entry.Listen, entry.Admin
		}
	}
	eventually(t, "the server is ready", func() bool { return status(p.listen, "/readyz") == http.StatusOK })
	return p
}

func status(addr, path string) int {
	resp, err := http.Get("http://" + addr + path)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestServe(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Empty: true})
	// The cluster trusts everybody, with a password or without.
	s := newShell(t, "PGCAST_DATABASE_URL="+strings.Replace(db.URL, "postgres@", "postgres:CANARY@", 1))
	if !strings.Contains(s.env[len(s.env)-1], "CANARY") {
		t.Fatalf("no place for a password in %s", db.URL)
	}
	p := startServe(t, s, "--migrate", "--log-level", "debug")
	if !strings.Contains(p.printed(), "ran 00001_log.sql") {
		t.Errorf("--migrate has run nothing")
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 404, "/": 404} {
		if got := status(p.listen, path); got != want {
			t.Errorf("%s of the public listener gives %d, want %d", path, got, want)
		}
	}
	resp, err := http.Get("http://" + p.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !strings.Contains(string(metrics), "pgcast_") {
		t.Errorf("metrics: %v\n%s", err, metrics)
	}
	s.run(t, "serve", "--listen", p.listen, "--admin-listen", "127.0.0.1:0").fails(t, 1, "address already in use", "give another --listen")
	if code := p.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("SIGTERM gave exit code %d", code)
	}
	if strings.Contains(p.printed(), "CANARY") {
		t.Error("the password is in the log")
	}
	for line := range strings.SplitSeq(strings.TrimSpace(p.printed()), "\n") {
		if !strings.HasPrefix(line, "ran ") && !json.Valid([]byte(line)) {
			t.Errorf("with --log-format json it logs %s", line)
		}
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	s, _ := withDatabase(t, nil)
	server := startServe(t, s)
	url := "ws://" + server.listen
	publish := func(topic string, n int) { s.run(t, "publish", topic, "n", fmt.Sprint(n)).ok(t) }

	p := s.start(t, "tail", "room:*", "--url", url)
	p.says("subscribed to room:* after 0")
	publish("room:1", 1)
	publish("other", 2)
	publish("room:2", 3)
	p.until("two events", func() bool { return len(p.lines()) >= 2 })
	want := regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{3}  room:1 #1  n  1\n\d\d:\d\d:\d\d\.\d{3}  room:2 #1  n  3$`)
	if got := strings.Join(p.lines(), "\n"); !want.MatchString(got) {
		t.Errorf("it printed:\n%s", got)
	}
	if code := p.stop(syscall.SIGINT); code != 0 {
		t.Errorf("Ctrl-C gave exit code %d", code)
	}

	// What it says on leaving leads back to the same place.
	m := regexp.MustCompile(`to go on from here: \S+ (tail 'room:\*' --after 3 --id \S+ --url \S+)\n`).FindStringSubmatch(p.printed())
	if m == nil {
		t.Fatalf("it does not say how to resume:\n%s", p.printed())
	}
	publish("room:1", 4)
	args := append(strings.Fields(strings.ReplaceAll(m[1], "'", "")), "--json")
	p = s.start(t, args...)
	p.until("an event", func() bool { return len(p.lines()) >= 1 })
	var e struct {
		Topic, Event  string
		Data          json.RawMessage
		Seq, Position int
		ID            pgcast.ID
	}
	if err := json.Unmarshal([]byte(p.lines()[0]), &e); err != nil {
		t.Fatal(err)
	}
	if e.Topic != "room:1" || e.Event != "n" || string(e.Data) != "4" || e.Seq != 2 || e.Position != 4 || e.ID == "" {
		t.Errorf("--json prints %s", p.lines()[0])
	}
	p.stop(syscall.SIGTERM)

	// So it does where other flags than --url led to the server.
	s.write(t, "quiet file.yaml", "log-level: error\n")
	p = s.start(t, "tail", "room:1", "--after", "1", "--listen", server.listen, "--config", "quiet file.yaml")
	p.until("an event", func() bool { return len(p.lines()) >= 1 })
	p.stop(syscall.SIGINT)
	if want := " --config 'quiet file.yaml' --listen " + server.listen + "\n"; !strings.Contains(p.printed(), want) {
		t.Errorf("the command to resume lacks %q:\n%s", want, p.printed())
	}

	// An id of another history is noticed.
	p = s.start(t, "tail", "room:1", "--after", "2", "--id", "1-1", "--url", url)
	p.says("reset: the history of room:1 is not the one seen before; going on after 2")
	p.stop(syscall.SIGINT)
}

// TestTailThroughRestarts kills the server again and again, and counts.
func TestTailThroughRestarts(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, nil)
	server := startServe(t, s, "--listen", pgtest.FreeAddress(t))
	p := s.start(t, "tail", "n", "--json", "--after", "0", "--url", "ws://"+server.listen)
	p.says("subscribed to n after 0")
	const rounds, each = 5, 20
	for range rounds {
		db.Exec(t, fmt.Sprintf(`do $$ begin for i in 1..%d loop perform pgcast.publish('n', 'n'); commit; end loop; end $$`, each/2))
		server.stop(syscall.SIGKILL)
		db.Exec(t, fmt.Sprintf(`do $$ begin for i in 1..%d loop perform pgcast.publish('n', 'n'); commit; end loop; end $$`, each/2))
		server = startServe(t, s, "--listen", server.listen)
	}
	p.until("all events", func() bool { return len(p.lines()) >= rounds*each })
	var seqs []int
	for _, line := range p.lines() {
		var e struct{ Seq int }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, e.Seq)
	}
	want := make([]int, rounds*each)
	for i := range want {
		want[i] = i + 1
	}
	if !slices.Equal(seqs, want) {
		t.Errorf("it printed seqs %v", seqs)
	}
	p.stop(syscall.SIGINT)
}

func TestTailErrors(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.run(t, "tail", "a:**:b").fails(t, 2, "must be the last segment")
	s.run(t, "tail", "--id", "1-1").fails(t, 2, "--id goes with it")
	s.run(t, "tail", "--after", "-1").fails(t, 2, "must be a place")
	s.run(t, "tail", "--url", "nonsense").fails(t, 2, "--url is not an address")
	s.run(t, "tail", "--url", "ws://u:CANARY@127.0.0.1:1").fails(t, 1, "no server at ws://u:xxxxx@127.0.0.1:1", "start one with pgcast serve")
	s.env = append(s.env, "PGCAST_LISTEN=127.0.0.1:2")
	s.run(t, "tail").fails(t, 1, "no server at ws://127.0.0.1:2/ws")
}

// TestTailFindsDev needs no address where a pgcast dev runs.
func TestTailFindsDev(t *testing.T) {
	t.Parallel()
	s, _ := withDatabase(t, nil)
	dev := startDev(t, s)
	p := s.start(t, "tail")
	p.until("events of the demo", func() bool { return len(p.lines()) >= 3 })
	p.stop(syscall.SIGINT)
	dev.stop(syscall.SIGTERM)
}

func TestChanged(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ old, data, want string }{
		{`{"id":1}`, `{"id":1,"a":2}`, ""},
		{`{"id":1,"a":3,"b":null}`, `{"id":1,"a":2,"b":null}`, `{"a":3}`},
		{`{"id":1}`, `{"id":2}`, `{"id":1}`},
		{"", `{"id":2}`, ""}, {`{"id":1}`, "", ""}, {`[1]`, `[2]`, ""},
	} {
		if got := changed(pgcast.Event{Old: []byte(tt.old), Data: []byte(tt.data)}); got != tt.want {
			t.Errorf("from %s to %s: %s, want %s", tt.old, tt.data, got, tt.want)
		}
	}
}
