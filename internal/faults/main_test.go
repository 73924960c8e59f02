package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/judge"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(attackerEnv); address != "" {
		attacker(address)
		return
	}
	judge.Main(m)
}

// The environment chooses how much runs: by default a short selection.
var (
	rows = os.Getenv("PGCAST_FAULTS_ROWS") == "all" // every row, a trial or few of each
	all  = os.Getenv("PGCAST_TEST_LONG") == "1"     // every row, several trials of each
	full = os.Getenv("PGCAST_FAULTS_FULL") == "1"   // as often as the catalogue says
	out  = os.Getenv("PGCAST_FAULTS_OUT")           // file for the figures
	seed = func() uint64 {
		n, err := strconv.ParseUint(os.Getenv("PGCAST_FAULTS_SEED"), 10, 64)
		if err != nil {
			return 1
		}
		return n
	}()
)

// later leaves a test to the longer runs.
func later(t *testing.T) {
	t.Helper()
	if !rows && !all && !full {
		t.Skip("a longer run has it: PGCAST_FAULTS_ROWS=all, or go run ./internal/faults/run")
	}
}

// trials chooses by how much is to run.
func trials(quick, long, whole int) int {
	switch {
	case full:
		return whole
	case all:
		return long
	}
	return quick
}

// random gives the same numbers for the same seed and test.
func random(t *testing.T) *rand.Rand {
	h := uint64(14695981039346656037)
	for _, b := range []byte(t.Name()) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, h))
}

// row is what a test finds out about one row of the catalogue, or about several at once.
type row struct {
	t      *testing.T
	number string
	fault  string
	trials int
	judge.Verdict
	figures []Result
}

// begin begins a row; when the test ends, its figures are reported with the whole verdict.
func begin(t *testing.T, number, fault string) *row {
	r := &row{t: t, number: number, fault: fault, trials: 1}
	t.Cleanup(r.report)
	return r
}

func (r *row) report() {
	if out == "" {
		return
	}
	for _, f := range r.figures {
		f.Row, f.Fault, f.Events, f.Trials = r.number, r.fault, r.Events, r.trials
		f.Lost, f.Doubled, f.Reordered, f.Phantom, f.Changed, f.Missed = r.Lost, r.Doubled, r.Reordered, r.Phantom, r.Changed, r.Missed
		if err := f.Append(out); err != nil {
			r.t.Error(err)
		}
	}
}

// judge judges readers, and adds what is found to the row.
func (r *row) judge(url string, readers ...*judge.Reader) {
	r.t.Helper()
	r.Add(judge.Judge(r.t, url, readers...))
}

// figure reports a figure. A figure that must not be missed fails the test by itself.
func (r *row) figure(name, value, target string, met bool) {
	r.t.Helper()
	said := "met"
	if !met {
		said = "NOT met"
	}
	r.t.Logf("row %s, %d trials: %s: %s (target %s: %s)", r.number, r.trials, name, value, target, said)
	r.figures = append(r.figures, Result{Figure: name, Value: value, Target: target, Met: met})
}

// measured asks a server for a metric until it answers: one that is too busy to must not count
// as having done nothing.
func measured(t *testing.T, s *judge.Server, name, label string) (n float64) {
	t.Helper()
	judge.Await(t, "the server tells "+name, time.Minute, func() (ok bool) { n, ok = s.Metric(name, label); return ok })
	return n
}

// because tells why the figure reported last may miss its target.
func (r *row) because(why string) { r.figures[len(r.figures)-1].Why = why }

// count reports a number that must be target.
func (r *row) count(name string, n, target int) {
	r.t.Helper()
	if n != target {
		r.t.Errorf("%s: %d, must be %d", name, n, target)
	}
	r.figure(name, strconv.Itoa(n), strconv.Itoa(target), n == target)
}

// most reports a number with an upper bound; hard is the bound that fails the test.
func (r *row) most(name string, n, target, hard int) {
	r.t.Helper()
	if n > hard {
		r.t.Errorf("%s: %d, should be at most %d", name, n, target)
	}
	r.figure(name, strconv.Itoa(n), fmt.Sprint("≤ ", target), n <= target)
}

// latency reports the 99th percentile of what it took, or the longest of fewer than 100. The
// machine may be busy: the test itself fails only far above the target.
func (r *row) latency(name string, took []time.Duration, target time.Duration) {
	r.t.Helper()
	r.latencyAt(name, took, 0.99, target)
}

func (r *row) latencyAt(name string, took []time.Duration, q float64, target time.Duration) {
	r.t.Helper()
	p := percentile(took, q)
	if p > 5*target+2*time.Second {
		r.t.Errorf("%s: p%g is %v, should be at most %v", name, 100*q, p, target)
	}
	r.figure(fmt.Sprintf("%s: p50, p%g, max", name, 100*q), fmt.Sprintf("%v, %v, %v", round(percentile(took, 0.5)), round(p), round(slices.Max(took))),
		fmt.Sprintf("p%g ≤ %v", 100*q, target), p <= target)
}

func percentile(took []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(took))
	i := min(int(q*float64(len(sorted))), len(sorted)-1)
	return sorted[i]
}

func round(d time.Duration) time.Duration {
	if d > 100*time.Millisecond {
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}

// scene is one database with servers, the clients of each, and writers.
type scene struct {
	t       *testing.T
	url     string
	servers []*judge.Server
	topics  []*judge.Reader // of each server, of the topics
	pattern []*judge.Reader // of each server, of a pattern
	writers *judge.Writers
}

// stage starts servers on a database that the judge knows, and clients of each.
func stage(t *testing.T, url string, servers int, flags ...string) *scene {
	t.Helper()
	s := &scene{t: t, url: url}
	for range servers {
		s.serve(url, flags...)
	}
	return s
}

// serve adds a server, which may reach the database by a URL of its own.
func (s *scene) serve(url string, flags ...string) *judge.Server {
	s.t.Helper()
	return s.join(judge.StartServer(s.t, url, flags...))
}

// join waits for a server that was started and lets clients connect to it.
func (s *scene) join(server *judge.Server) *judge.Server {
	s.t.Helper()
	n := len(s.servers)
	server.WaitReady()
	s.servers = append(s.servers, server)
	s.topics = append(s.topics, judge.NewReader(s.t, "http://"+server.Listen, fmt.Sprint("topics ", n), &judge.ReaderOptions{Arrival: true}, judge.Rooms()...))
	s.pattern = append(s.pattern, judge.StartReader(s.t, server, fmt.Sprint("pattern ", n), "room:*"))
	return server
}

func (s *scene) write(n int) {
	s.writers = judge.StartWriters(s.t, s.url, n, seed)
}

func (s *scene) readers() []*judge.Reader { return slices.Concat(s.topics, s.pattern) }

// flow waits until the clients of all servers have got events since it was called.
func (s *scene) flow() {
	s.t.Helper()
	var before []int
	for _, r := range s.readers() {
		before = append(before, r.Events())
	}
	judge.Await(s.t, "events flow", time.Minute, func() bool {
		for i, r := range s.readers() {
			if r.Events() < before[i]+5 {
				return false
			}
		}
		return true
	})
}

// end stops the writers and judges all clients.
func (s *scene) end(r *row) {
	s.t.Helper()
	if s.writers != nil {
		s.writers.Stop()
	}
	r.judge(s.url, s.readers()...)
}

// probe writes an event and tells how long after its commit it came to a reader with Arrival.
func probe(t *testing.T, conn *pgx.Conn, r *judge.Reader, topic string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var id pgcast.ID
	if err := conn.QueryRow(ctx, "select pgcast.publish($1, 'note', '1')", topic).Scan(&id); err != nil {
		t.Fatalf("write an event: %v", err)
	}
	committed := time.Now()
	var at time.Time
	judge.Await(t, "the event comes", time.Minute, func() (ok bool) { at, ok = r.Arrived(id); return ok })
	return max(at.Sub(committed), 0)
}

// probes are n of them.
func probes(t *testing.T, url string, r *judge.Reader, topic string, n int) (took []time.Duration) {
	t.Helper()
	conn := judge.Connect(t, url)
	for range n {
		took = append(took, probe(t, conn, r, topic))
	}
	return took
}

// check fails the test if anything was found that judge has not failed it for.
func (r *row) check() {
	r.t.Helper()
	if !r.Clean() {
		r.t.Errorf("%s: %q", r.String(), r.Notes)
	}
}
