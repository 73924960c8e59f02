package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// mess is what the faults of a combination are provoked on.
type mess struct {
	t       *testing.T
	cluster *devpg.Cluster
	proxy   *pgtest.Proxy
	scene   *scene
	net     *network
}

// single faults, by their rows. Each is over when it returns.
var singles = []struct {
	row string
	do  func(m *mess, r *rand.Rand)
}{
	{"1", func(m *mess, r *rand.Rand) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := m.cluster.Restart(ctx, devpg.Fast); err != nil {
			m.t.Error(err)
		}
	}},
	{"8", func(m *mess, r *rand.Rand) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		line, err := pgx.Connect(ctx, m.cluster.URL("postgres"))
		if err != nil {
			return // the other fault has Postgres down
		}
		defer line.Close(context.Background())
		_, _ = line.Exec(ctx, `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgcast' and random() < 0.5`)
	}},
	{"9", func(m *mess, _ *rand.Rand) { m.proxy.Freeze() }},
	{"14", func(m *mess, r *rand.Rand) {
		s := m.scene.servers[r.IntN(2)]
		s.Signal(syscall.SIGSTOP)
		judge.Pause(m.t.Context(), time.Duration(200+r.IntN(5000))*time.Millisecond)
		s.Signal(syscall.SIGCONT)
	}},
	{"28", func(m *mess, r *rand.Rand) {
		s := m.scene.servers[r.IntN(2)]
		s.Signal(syscall.SIGTERM)
		_ = s.Wait()
		s.Start()
	}},
	{"36", func(m *mess, _ *rand.Rand) { m.net.cut() }},
}

// Two faults at once, at random moments, and again. What is in store follows from the seed.
func TestFault60Combinations(t *testing.T) {
	inModes(t, judge.Modes, func(t *testing.T, m judge.Mode) {
		r := beginIn(t, m, "60", "pairs of rows 1, 8, 9, 14, 28 and 36 at random moments")
		r.trials = trials(1, 20, 200)
		cluster, url := m.Cluster(t, nil)
		proxy := pgtest.NewProxy(t, url)
		s := stage(t, url, 0)
		for range 2 {
			s.serve(url, append(m.Flags(), "--direct-database-url", proxy.URL)...)
		}
		n := newNetwork(s.servers...)
		clients := s.readers()
		for i := range 10 {
			clients = append(clients, everywhere(t, n, fmt.Sprint("client ", i), nil, judge.Rooms()...))
		}
		all := &mess{t, cluster, proxy, s, n}
		s.write(3)
		random := random(t)
		for i := range r.trials {
			s.flow()
			a, b := random.IntN(len(singles)), random.IntN(len(singles)-1)
			if b >= a {
				b++
			}
			if ra, rb := singles[a].row, singles[b].row; ra == "14" && rb == "28" || ra == "28" && rb == "14" {
				b = 5 // one process cannot be told to stop while it is frozen
			}
			t.Logf("%d: rows %s and %s", i, singles[a].row, singles[b].row)
			one, two := rand.New(rand.NewPCG(random.Uint64(), 1)), rand.New(rand.NewPCG(random.Uint64(), 2))
			wait := time.Duration(random.IntN(300)) * time.Millisecond
			done := make(chan struct{})
			go func() { defer close(done); singles[a].do(all, one) }()
			judge.Pause(t.Context(), wait)
			singles[b].do(all, two)
			<-done
			for _, v := range s.servers {
				v.WaitReady()
			}
		}
		s.writers.Stop()
		r.judge(url, clients...)
		r.figure("events lost, doubled, reordered or invented", fmt.Sprint(r.Lost+r.Doubled+r.Reordered+r.Phantom), "0", r.Clean())
	})
}
