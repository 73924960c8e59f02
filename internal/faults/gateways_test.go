package faults

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/judge"
)

// A frozen server, sequencing or following, holds up no writer and no other server, and
// its clients miss nothing when it thaws.
func TestFault14Frozen(t *testing.T) {
	later(t)
	inModes(t, sources, func(t *testing.T, m judge.Mode) {
		r := beginIn(t, m, "14", "a server frozen (SIGSTOP) and thawed: the sequencing one, another, the only one")
		r.trials = trials(1, 3, 3)
		db := m.Database(t)
		s := stage(t, db.URL, 2, m.Flags()...)
		s.write(3)
		s.flow()
		frozen := time.Duration(trials(2, 6, 30)) * time.Second
		freeze := func(servers ...*judge.Server) {
			for _, v := range servers {
				v.Signal(syscall.SIGSTOP)
			}
			began := s.writers.Committed.Load()
			judge.Pause(t.Context(), frozen)
			if s.writers.Committed.Load() == began {
				t.Error("no writer committed while a server was frozen")
			}
			for _, v := range servers {
				v.Signal(syscall.SIGCONT)
			}
			s.flow()
		}
		leader := judge.Leading(t, s.servers...)
		freeze(s.servers[leader])
		leader = judge.Leading(t, s.servers...)
		freeze(s.servers[1-leader])
		freeze(s.servers...) // nobody is left to put the frozen one aside
		usage := judge.Value[float64](t, db.URL, "select pg_notification_queue_usage()")
		s.end(r)
		r.count("failures of writers", int(s.writers.Failed.Load()), 0)
		r.figure("NOTIFY queue in use afterwards", fmt.Sprintf("%.4f", usage), "≤ 0.01", usage <= 0.01)
	})
}

// Clients hop between two servers; a place got from one is good at the other.
func TestFault27TwoServers(t *testing.T) {
	r := begin(t, "27", "clients hop between two servers every 100 ms")
	r.trials = trials(10, 100, 600)
	db := judge.Database(t, nil)
	s := stage(t, db.URL, 2)
	n := newNetwork(s.servers...)
	hoppers := []*judge.Reader{everywhere(t, n, "hops, topics", nil, judge.Rooms()...), everywhere(t, n, "hops, pattern", nil, "room:*")}
	s.write(3)
	s.flow()
	for range r.trials {
		n.cut()
		judge.Pause(t.Context(), 100*time.Millisecond)
	}
	s.writers.Stop()
	r.judge(db.URL, append(hoppers, s.readers()...)...)
	connects := 0
	for _, h := range hoppers {
		connects += int(h.Client.Stats().Connects)
	}
	r.figure("connections of the two hopping clients", fmt.Sprint(connects), fmt.Sprint("≥ ", r.trials), connects >= r.trials)
}

// Servers are replaced one after the other, as a deployment does.
func TestFault28RollingDeploy(t *testing.T) {
	inModes(t, judge.Modes, func(t *testing.T, m judge.Mode) {
		r := beginIn(t, m, "28", "rolling deploy: each of two servers gets SIGTERM and starts again")
		r.trials = trials(1, 3, 5)
		db := m.Database(t)
		s := stage(t, db.URL, 2, m.Flags()...)
		n := newNetwork(s.servers...)
		var told []*ends
		var clients []*judge.Reader
		for i := range trials(5, 20, 100) {
			e := &ends{}
			told = append(told, e)
			clients = append(clients, everywhere(t, n, fmt.Sprint("client ", i), e, judge.Rooms()[i%5]))
		}
		stop := watchConnects(clients, told)
		defer stop()
		s.write(2)
		s.flow()
		var left []time.Duration
		for range r.trials {
			for _, v := range s.servers {
				began := time.Now()
				v.Signal(syscall.SIGTERM)
				if err := v.Wait(); err != nil {
					t.Errorf("after SIGTERM: %v", err)
				}
				left = append(left, time.Since(began))
				v.Start()
				v.WaitReady()
				s.flow()
			}
		}
		s.writers.Stop()
		stop()
		r.judge(db.URL, append(clients, s.readers()...)...)
		var took []time.Duration
		abnormal, goingAway := 0, 0
		for _, e := range told {
			took = append(took, e.took...)
			abnormal += len(e.abnormal)
			goingAway += e.told
			for _, text := range e.abnormal {
				t.Errorf("a connection ended without a word: %s", text)
			}
		}
		t.Logf("%d connections were told to come back", goingAway)
		r.count("connections ended without a close frame (1006)", abnormal, 0)
		r.latency("from SIGTERM to the exit", left, 10*time.Second)
		r.latency("client without a connection, hint included", took, time.Second)
	})
}

// watchConnects notes when clients are connected again, until stop.
func watchConnects(clients []*judge.Reader, told []*ends) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			for i, c := range clients {
				if c.Client.Stats().Connected {
					told[i].back()
				}
			}
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

// Servers are killed in turn; their clients go to the other.
func TestFault30ServerKilled(t *testing.T) {
	inModes(t, judge.Modes, func(t *testing.T, m judge.Mode) {
		r := beginIn(t, m, "30", "servers killed (SIGKILL) in turn, clients resume at the other")
		r.trials = trials(3, 20, 100)
		db := m.Database(t)
		s := stage(t, db.URL, 2, m.Flags()...)
		n := newNetwork(s.servers...)
		clients := []*judge.Reader{everywhere(t, n, "elsewhere, topics", nil, judge.Rooms()...), everywhere(t, n, "elsewhere, pattern", nil, "room:*")}
		s.write(3)
		memory := 0
		for i := range r.trials {
			s.flow()
			v := s.servers[i%2]
			memory = max(memory, v.Memory())
			v.Kill()
			v.Start()
			v.WaitReady()
		}
		s.writers.Stop()
		r.judge(db.URL, append(clients, s.readers()...)...)
		r.most("resident memory of a server, MiB", memory>>20, 128, 256)
	})
}
