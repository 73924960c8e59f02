package bench

import "time"

// sizes is how much of everything a run uses.
type sizes struct {
	writers        []int // side by side
	topics         int   // that they write to
	rate           int   // writes a second of the latency measurement
	sessions       int
	manySessions   int
	slowRate       int // events a second of the last kind of deliveries
	resumeSessions int
	resumeTopics   int
	resumeParallel int // handshakes under way, where not all come in one moment
	missed         int // events of each who resumes
	copyRows       int
	walWriters     []int // side by side
	walRows        int   // decoded at once
	logs           []int // events
	logTopics      int
	steps          int // timed per log and round
	pages          int
	trims          int
	idle           time.Duration
	settle         time.Duration // for memory to come to rest
	fsyncs         int
}

func sizesOf(o *Options) sizes {
	s := sizes{
		writers: []int{1, 8, 32}, topics: 1000, rate: 50,
		sessions: 1000, manySessions: 5000, slowRate: 20,
		resumeSessions: 1000, resumeTopics: 10, resumeParallel: 64, missed: 100,
		copyRows: 1_000_000, walWriters: []int{1, 8}, walRows: 100_000,
		logs: []int{100_000, 1_000_000}, logTopics: 50, steps: 200, pages: 100, trims: 5,
		idle: o.Duration, settle: max(o.Duration, 15*time.Second), fsyncs: 200,
	}
	if o.Full {
		s.logs = append(s.logs, 10_000_000)
		s.idle = 10 * time.Minute
		s.settle = 150 * time.Second // Go collects garbage at least every two minutes
	}
	if o.Tiny {
		s.writers, s.topics = []int{1, 2}, 5
		s.sessions, s.manySessions = 4, 6
		s.resumeSessions, s.resumeTopics, s.resumeParallel, s.missed = 6, 2, 2, 5
		s.copyRows, s.walWriters, s.walRows = 2000, []int{2}, 500
		s.logs, s.logTopics, s.steps, s.pages, s.trims = []int{4000, 8000}, 2, 3, 3, 1
		s.fsyncs, s.settle = 5, o.Duration
	}
	return s
}
