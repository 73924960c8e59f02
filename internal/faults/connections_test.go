package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// Others have taken all of Postgres's connections.
func TestFault54NoConnectionsLeft(t *testing.T) {
	later(t)
	r := begin(t, "54", "max_connections exhausted by others")
	_, url := judge.Cluster(t, &devpg.Options{Settings: map[string]string{"max_connections": "25"}})
	s := stage(t, url, 1, "--pool-size", "4")
	conn := judge.Connect(t, url)
	for range 10 {
		probe(t, conn, s.topics[0], "room:0")
	}
	var hogs []*pgconn.PgConn
	for {
		hog, err := pgconn.Connect(t.Context(), url)
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "53300" {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		hogs = append(hogs, hog)
	}
	var took []time.Duration
	for range trials(20, 200, 1000) {
		took = append(took, probe(t, conn, s.topics[0], "room:0"))
	}
	for _, hog := range hogs {
		_ = hog.Close(context.Background())
	}
	s.end(r)
	r.latency("from an event's commit to the client", took, 250*time.Millisecond)
}

// A pooler in transaction mode stands in between. LISTEN seems to work there, and nothing is heard.
func TestFault55Pooler(t *testing.T) {
	later(t)
	r := begin(t, "55", "a pooler swallows notifications")
	db := judge.Database(t, nil)
	proxy := pgtest.NewProxy(t, db.URL)
	proxy.Deafen(true)
	s := stage(t, db.URL, 0)
	s.serve(proxy.URL)
	named := awaitLog(t, s.servers[0], "the doorbell does not work on this connection", 30*time.Second)
	took := probes(t, db.URL, s.topics[0], "room:0", trials(5, 30, 100))
	s.write(2)
	s.flow()
	s.end(r)
	r.latency("from an event's commit to the client", took, 250*time.Millisecond)
	r.latency("until the log names it, after the server is ready", []time.Duration{named}, 3*time.Second)
}

// A line that has been heard on goes deaf.
func TestFault55GoneDeaf(t *testing.T) {
	later(t)
	r := begin(t, "55", "a line that worked hears nothing any more")
	r.trials = trials(1, 5, 30)
	db := judge.Database(t, nil)
	proxy := pgtest.NewProxy(t, db.URL)
	s := stage(t, db.URL, 0)
	s.serve(db.URL, "--direct-database-url", proxy.URL)
	conn := judge.Connect(t, db.URL)
	var first, named, then []time.Duration
	for n := range r.trials {
		// From polling it goes back to the bell within some ten seconds of hearing it again.
		judge.Await(t, "the sequencer sleeps", time.Minute, func() bool {
			return judge.Value[int](t, db.URL, `select count(*)::int from pg_locks where locktype = 'advisory' and classid = 1885823841 and objid = 1
				and database = (select oid from pg_database where datname = current_database())`) == 1
		})
		proxy.Deafen(true)
		began := time.Now()
		first = append(first, probe(t, conn, s.topics[0], "room:0"))
		judge.Await(t, "it is named", time.Minute, func() bool {
			return strings.Count(s.servers[0].Log(), "the doorbell does not work on this connection") > n
		})
		named = append(named, time.Since(began))
		then = append(then, probes(t, db.URL, s.topics[0], "room:0", 5)...)
		proxy.Deafen(false)
	}
	s.end(r)
	r.latency("from the commit of the first event to the client (found by the safety look, each 150 ms)", first, 250*time.Millisecond)
	r.latency("until the log names it, after that event", named, 3500*time.Millisecond)
	r.latency("from an event's commit to the client, from then on", then, 250*time.Millisecond)
}

// The pooler is PgBouncer itself, where it is installed: as the only way to the database, and
// with a direct one beside it.
func TestFault55PgBouncer(t *testing.T) {
	later(t)
	bin, err := exec.LookPath("pgbouncer")
	if err != nil {
		t.Skip("needs pgbouncer")
	}
	for _, direct := range []bool{false, true} {
		fault := "PgBouncer in transaction mode in between"
		if direct {
			fault += ", and --direct-database-url beside it"
		}
		t.Run(fmt.Sprint("direct=", direct), func(t *testing.T) {
			r := begin(t, "55", fault)
			db := judge.Database(t, nil)
			pooled := bouncer(t, bin, db)
			s := stage(t, db.URL, 0)
			const deaf = "the doorbell does not work on this connection"
			if direct {
				s.serve(pooled, "--direct-database-url", db.URL)
			} else {
				s.serve(pooled)
				awaitLog(t, s.servers[0], deaf, 30*time.Second)
			}
			took := probes(t, db.URL, s.topics[0], "room:0", trials(5, 30, 100))
			s.write(2)
			s.flow()
			s.end(r)
			r.latency("from an event's commit to the client", took, 250*time.Millisecond)
			if direct {
				r.count("times the doorbell was found not to work", strings.Count(s.servers[0].Log(), deaf), 0)
			}
		})
	}
}

// bouncer starts a PgBouncer in transaction mode before a database, and gives the URL through it.
func bouncer(t *testing.T, bin string, db *pgtest.DB) string {
	t.Helper()
	u := judge.Connect(t, db.URL).Config()
	address := pgtest.FreeAddress(t)
	_, port, _ := strings.Cut(address, ":")
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	conf := fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
auth_type = any
pool_mode = transaction
ignore_startup_parameters = extra_float_digits,application_name
unix_socket_dir =
`, u.Port, port)
	file := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{file}
	if os.Getuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...)
	}
	cmd := exec.Command(bin, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pooled := fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable&default_query_exec_mode=exec", address, db.Name)
	judge.Await(t, "PgBouncer answers", 30*time.Second, func() bool {
		conn, err := pgx.Connect(t.Context(), pooled)
		if err == nil {
			_ = conn.Close(t.Context())
		}
		return err == nil
	})
	return pooled
}

// The server is led to a standby by mistake.
func TestFault56Standby(t *testing.T) {
	later(t)
	r := begin(t, "56", "the database URL leads to a standby")
	a := primary(t)
	writeRooms(t, a.url(), 5, 0, 1)
	a.stop()
	b := a.copy()
	a.start()
	b.follow(a.url())
	s := judge.StartServer(t, b.url())
	awaitLog(t, s, "standby", 30*time.Second)
	began := len(strings.Split(s.Log(), "\n"))
	seconds := trials(3, 10, 60)
	judge.Pause(t.Context(), time.Duration(seconds)*time.Second)
	lines := len(strings.Split(s.Log(), "\n")) - began
	r.most(fmt.Sprintf("log lines in %d s", seconds), lines, seconds, 2*seconds)
	b.promote()
	reader := judge.StartReader(t, s, "after the promotion", "room:*")
	writeRooms(t, b.url(), 5, 2)
	r.judge(b.url(), reader)
	s.Kill()
}
