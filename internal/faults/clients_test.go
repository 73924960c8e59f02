package faults

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/judge"
)

// One client reads a byte at a time; the others do not notice, and it has everything once it
// reads again.
func TestFault34SlowConsumer(t *testing.T) {
	later(t)
	r := begin(t, "34", "a client reads one byte a second, its topics busy")
	db := judge.Database(t, nil)
	s := stage(t, db.URL, 1)
	n := newNetwork(s.servers...)
	slow := everywhere(t, n, "slow", nil, "room:*")
	s.write(1)
	s.flow()
	before := probes(t, db.URL, s.topics[0], "room:0", 100)
	memory := s.servers[0].Memory()
	n.setSlow(time.Second)
	judge.Exec(t, db.URL, "insert into item (room, n, note) select g % 5, g, repeat('x', 2000) from generate_series(1, 3000) g")
	have := judge.Value[int](t, db.URL, "select count(*)::int from pgcast.event_log")
	judge.Await(t, "the others have it", time.Minute, func() bool { return s.topics[0].Events() >= have && s.pattern[0].Events() >= have })
	beside := probes(t, db.URL, s.topics[0], "room:0", 100)
	judge.Pause(t.Context(), time.Duration(trials(0, 5, 60))*time.Second)
	grown := s.servers[0].Memory() - memory
	n.setSlow(0)
	s.writers.Stop()
	r.judge(db.URL, append(s.readers(), slow)...)
	a, b := percentile(before, 0.99), percentile(beside, 0.99)
	r.figure("others' p99 from commit to client, without and beside it", fmt.Sprint(round(a), ", ", round(b)), "within 10 %", float64(b) <= 1.1*float64(a))
	r.most("memory grown, MiB", grown>>20, 32, 96)
}

// A client that has vanished without a word is let go, and resumes.
func TestFault35HalfOpenClient(t *testing.T) {
	later(t)
	r := begin(t, "35", "a client vanishes without a word (black hole)")
	flags := []string{"--ping-interval", "2s"}
	target := 10 * time.Second
	if full {
		flags, target = nil, 40*time.Second
	}
	db := judge.Database(t, nil)
	s := stage(t, db.URL, 1, flags...)
	n := newNetwork(s.servers...)
	gone := everywhere(t, n, "vanished", nil, "room:*")
	sessions := func() int { v, _ := s.servers[0].Metric("pgcast_sessions", ""); return int(v) }
	s.write(1)
	s.flow()
	judge.Await(t, "it is connected", 10*time.Second, func() bool { return sessions() == 3 })
	n.setHole(true)
	took := judge.Await(t, "its session has ended", 2*time.Minute, func() bool { return sessions() == 2 })
	n.setHole(false)
	n.cut()
	s.writers.Stop()
	r.judge(db.URL, append(s.readers(), gone)...)
	r.latency("until its session has ended", []time.Duration{took}, target)
}

// mayOpen makes sure that this process, and each that it starts, may have n files open.
func mayOpen(t *testing.T, n uint64) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur >= n { // Go has raised it as far as it goes
		return
	}
	limit.Cur, limit.Max = n, max(n, limit.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Skipf("needs the right to open %d files: %v", n, err)
	}
}

// All clients lose their connections at once while events are written.
func TestFault36ReconnectStorm(t *testing.T) {
	count := trials(50, 1000, 8000)
	mayOpen(t, uint64(count)+500)
	r := begin(t, "36", fmt.Sprint(count, " clients lose their connections at once, and miss events"))
	r.trials = trials(1, 3, 3)
	db := judge.Database(t, nil)
	s := stage(t, db.URL, 1)
	n := newNetwork(s.servers...)
	var clients []*judge.Reader
	for i := range count {
		o := n.options()
		o.MaxBackoff = 200 * time.Millisecond
		clients = append(clients, judge.NewReader(t, "http://"+s.servers[0].Listen, fmt.Sprint("client ", i),
			&judge.ReaderOptions{Client: o, NoFold: true}, judge.Rooms()[i%5]))
	}
	written := 0
	add := func(each int) {
		judge.Exec(t, db.URL, fmt.Sprintf("insert into item (room, n) select g %% 5, g from generate_series(1, %d) g", 5*each))
		written += each
	}
	caughtUp := func() time.Duration {
		return judge.Await(t, "all have everything", time.Minute, func() bool {
			for _, c := range clients {
				if c.Events() < written {
					return false
				}
			}
			return true
		})
	}
	add(20)
	caughtUp()
	reads := func() (sum float64) {
		for _, kind := range []string{"topic", "pattern", "place"} {
			sum += measured(t, s.servers[0], "pgcast_log_reads_total", `"`+kind+`"`)
		}
		return sum
	}
	most := 0.0
	var took []time.Duration
	for range r.trials {
		before := reads()
		began := time.Now()
		n.cut()
		add(300) // more than the ring has
		caughtUp()
		took = append(took, time.Since(began))
		most = max(most, reads()-before)
	}
	s.end(r)
	r.Add(judge.Against(t, judge.Log(t, db.URL), clients...))
	r.most("reads of the log, for 5 topics", int(most), max(120, count/5), max(240, count/2))
	r.latency("until all have everything", took, 5*time.Second)
}

// A client comes back to a topic of which what it missed is gone.
func TestFault37OlderThanRetention(t *testing.T) {
	r := begin(t, "37", "resuming after a place that retention has passed")
	r.trials = trials(5, 20, 100)
	db := judge.Database(t, nil)
	db.Exec(t, "select pgcast.retain('room:*', max_count => 10)")
	s := stage(t, db.URL, 1, "--retention-every", "1s")
	db.Exec(t, "insert into item (room, n) select g % 5, g from generate_series(1, 500) g")
	judge.Await(t, "trimmed", 30*time.Second, func() bool {
		return judge.Value[int](t, db.URL, "select count(*)::int from pgcast.replay") == 50
	})
	db.Exec(t, "select pgcast.retain('room:*')") // no more
	// What a server still has in memory it delivers, trimmed or not.
	s.servers[0].Kill()
	s.servers[0].Start()
	s.servers[0].WaitReady()
	var late []*judge.Reader
	for i := range r.trials {
		late = append(late, judge.NewReader(t, "http://"+s.servers[0].Listen, fmt.Sprint("late ", i),
			&judge.ReaderOptions{From: &client.From{After: int64(i*97%90 + 1)}, Gaps: true}, judge.Rooms()...))
	}
	db.Exec(t, "insert into item (room, n) select g % 5, g from generate_series(1, 5) g")
	judge.Sequenced(t, db.URL)
	log := judge.Log(t, db.URL)
	r.Add(judge.Against(t, log, late...))
	silent := 0
	for _, c := range late {
		silent += unannounced(c)
		if n := len(c.Gaps()); n < 5 {
			t.Errorf("%s was told %d gaps of 5 topics", c.Name, n)
		}
	}
	r.check()
	r.count("skips that no gap announced", silent, 0)
}

// unannounced counts the places in a reader's topics where events are missing and no gap says so.
func unannounced(c *judge.Reader) (n int) {
	gaps := map[string]map[int64]bool{} // topic and the seq after the gap
	for _, g := range c.Gaps() {
		if gaps[g.Topic] == nil {
			gaps[g.Topic] = map[int64]bool{}
		}
		gaps[g.Topic][g.Tail] = true
	}
	for _, topic := range judge.Rooms() {
		last := int64(-1)
		for _, f := range c.Facts(topic) {
			seq := int64(f.Seq)
			if last >= 0 && seq != last+1 && !gaps[topic][seq] {
				n++
			}
			last = seq
		}
	}
	return n
}

// Retention trims while clients read from the beginning; what they get is what one that was
// always there got, but for what they are told is gone.
func TestFault38RetentionAgainstReaders(t *testing.T) {
	later(t)
	r := begin(t, "38", "retention trims in a loop while clients read from the beginning")
	r.trials = trials(10, 100, 500)
	db := judge.Database(t, nil)
	db.Exec(t, "select pgcast.retain('room:*', max_count => 200)")
	s := stage(t, db.URL, 1, "--retention-every", "1s")
	s.write(3)
	s.flow()
	var late []*judge.Reader
	for i := range r.trials {
		late = append(late, judge.NewReader(t, "http://"+s.servers[0].Listen, fmt.Sprint("late ", i), &judge.ReaderOptions{Gaps: true}, judge.Rooms()...))
		judge.Pause(t.Context(), 100*time.Millisecond)
	}
	s.writers.Stop()
	judge.Await(t, "trimmed", 30*time.Second, func() bool {
		return judge.Value[int](t, db.URL, "select count(*)::int from pgcast.replay") <= 1000
	})
	end := judge.Value[int](t, db.URL, "select max(position)::int from pgcast.replay")
	witness := s.pattern[0]
	judge.Await(t, "the witness has everything", time.Minute, func() bool { return witness.Events() >= end })
	log := witness.Facts("room:*")
	r.Add(judge.CheckLog(log))
	r.Add(judge.Against(t, log, append(late, s.topics[0])...))
	silent := 0
	for _, c := range late {
		silent += unannounced(c)
	}
	r.check()
	r.count("holes that no gap announced", silent, 0)
}
