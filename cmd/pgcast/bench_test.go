package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/pgcast/pgcast/internal/bench"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// Every measurement runs and gives its figures, with next to no load; what the figures are
// does not matter here, but no delivery may be lost or doubled.
func TestBench(t *testing.T) {
	if testing.Short() || runtime.GOOS != "linux" {
		t.Skip("starts a server for each measurement; Linux only")
	}
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	s := newShell(t, "PGCAST_LISTEN=127.0.0.1:1") // settings are not for the server under test
	report := readReport(t, s.run(t, "bench", "--tiny", "--rounds", "1", "--duration", "150ms", "--json", "-", "--profile", "profiles", "--database-url", db.URL))
	seen := map[string]int{}
	for _, r := range report.Rows {
		seen[r.Measure]++
		if r.Case == "" || r.What == "" || len(r.Rounds) != 1 || math.IsNaN(r.Figure) || (r.Target == nil) != (r.Met == nil) {
			t.Errorf("row %+v", r)
		}
	}
	for _, m := range bench.Names() {
		if seen[m[0]] == 0 {
			t.Errorf("%s has no row", m[0])
		}
	}
	if report.Deliveries == 0 || report.Lost != 0 || report.Doubled != 0 {
		t.Errorf("%d deliveries, %d lost, %d doubled", report.Deliveries, report.Lost, report.Doubled)
	}
	if m := report.Machine; m.CPU == "" || m.Cores == 0 || m.Postgres == "" || m.Memory == 0 || m.Settings["fsync"] == "" {
		t.Errorf("machine %+v", m)
	}
	// Tests' clusters do not flush, and that must be said.
	if !strings.Contains(strings.Join(report.Notes, "\n"), "fsync is off") {
		t.Errorf("notes: %q", report.Notes)
	}
	for _, name := range []string{"deliveries-4-sessions-flat-out", "memory-heap"} {
		if info, err := os.Stat(s.dir + "/profiles/" + name + ".pprof"); err != nil || info.Size() == 0 {
			t.Errorf("profile %s: %v", name, err)
		}
	}
	if n := leftDatabases(t, db); n != 0 {
		t.Errorf("%d databases are left", n)
	}
}

func readReport(t *testing.T, r *result) (report bench.Report) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.ok(t)), &report); err != nil {
		t.Fatalf("%v\n%s", err, r)
	}
	return report
}

func leftDatabases(t *testing.T, db *pgtest.DB) int {
	return pgtest.Value[int](t, db, "select count(*)::int from pg_database where datname ~ '^pgcast_bench_'")
}

// Without a URL it runs a Postgres of its own, whose commits are durable, and prints a
// table. Settings from elsewhere do not lead it to another database.
func TestBenchAlone(t *testing.T) {
	if testing.Short() || runtime.GOOS != "linux" {
		t.Skip("starts a cluster; Linux only")
	}
	t.Parallel()
	s := newShell(t, "PGCAST_DATABASE_URL=postgres://nobody@127.0.0.1:1/none")
	r := s.run(t, "bench", "latency", "--tiny", "--rounds", "1", "--duration", "100ms", "--json", "report.json")
	out := r.ok(t)
	for _, want := range []string{"commit to client, p50", "commit to LISTEN, p99", "(fsync on)", "0 lost, 0 doubled"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	text, err := os.ReadFile(s.dir + "/report.json")
	if err != nil {
		t.Fatal(err)
	}
	var report bench.Report
	if err := json.Unmarshal(text, &report); err != nil || len(report.Rows) == 0 {
		t.Errorf("%v in %s", err, text)
	}
}

// Ctrl-C in the middle leaves no process and no database.
func TestBenchInterrupted(t *testing.T) {
	if testing.Short() || runtime.GOOS != "linux" {
		t.Skip("Linux only")
	}
	t.Parallel()
	db := pgtest.New(t, nil)
	s := newShell(t)
	p := s.start(t, "bench", "idle", "--tiny", "--duration", "1h", "--database-url", db.URL)
	own := fmt.Sprintf("select count(*)::int from pg_stat_activity where datname ~ '^pgcast_bench_%d_' and application_name = 'pgcast'", p.cmd.Process.Pid)
	eventually(t, "the server under test is connected", func() bool { return pgtest.Value[int](t, db, own) > 0 })
	if code := p.stop(syscall.SIGINT); code == 0 {
		t.Error("an interrupted bench ends as if it had measured everything")
	}
	eventually(t, "its databases are gone", func() bool {
		return pgtest.Value[int](t, db, fmt.Sprintf("select count(*)::int from pg_database where datname ~ '^pgcast_bench_%d_'", p.cmd.Process.Pid)) == 0
	})
	if strings.Contains(p.printed(), "goroutine ") {
		t.Error("it panicked")
	}
}

func TestBenchArguments(t *testing.T) {
	t.Parallel()
	s := newShell(t)
	s.run(t, "bench", "latenzy").fails(t, 1, `there is no measurement "latenzy"`, "they are writers, latency")
	s.run(t, "bench", "--rounds", "0").fails(t, 2, "these turns cannot be measured", "--rounds is 1 to 25")
}
