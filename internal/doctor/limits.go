package doctor

import "time"

// limits are the figures from which on something is wrong. They are not settings: what is
// wrong on one database is wrong on all. Tests use their own.
type limits struct {
	roundTrip   time.Duration // note: each step of the sequencer takes one
	clockSkew   time.Duration // warn
	queueWarn   float64       // of the NOTIFY queue; capture stops ringing at 0.5
	queueFail   float64
	transaction time.Duration // warn: open for so long
	prepared    time.Duration // warn: prepared for so long
	slotBytes   int64         // warn: WAL that a slot holds back
	lagWarn     time.Duration
	lagFail     time.Duration
	frozen      time.Duration // fail: the sequencing session says nothing while events wait
	overdueWarn time.Duration // beyond what retention allows, besides five passes
	overdueFail time.Duration
	overdueMany int64         // warn: so many events beyond what may be kept; some come between two passes
	topics      int           // how many to look at for retention
	keyAge      time.Duration // warn: the oldest idempotency key; they are kept for 24 h
	steps       int64         // warn: rows of pgcast.progress; all but 10 are deleted every 10 s
	deadRows    int64         // warn: when they are also more than the living
	bloat       float64       // warn: bytes on disk for each byte of events
	bloatFrom   int64         // bytes from which on bloat counts
	xidWarn     int64         // warn: age of the database's oldest transaction
	xidFail     int64
	diskWarn    float64 // free part of the disk
	diskFail    float64
	liveTrip    time.Duration // note: a round trip to Redis; each join waits for one
	liveMemory  float64       // warn: used part of the memory Redis may have
	files       uint64        // that are many, if nobody said how many clients there may be
	listed      int           // most findings of one kind to tell one by one
}

var usual = limits{
	roundTrip: 20 * time.Millisecond, clockSkew: 500 * time.Millisecond,
	queueWarn: 0.1, queueFail: 0.5,
	transaction: 5 * time.Minute, prepared: 5 * time.Minute, slotBytes: 1 << 30,
	lagWarn: 5 * time.Second, lagFail: 30 * time.Second, frozen: 5 * time.Second,
	overdueWarn: 10 * time.Minute, overdueFail: 24 * time.Hour, overdueMany: 1_000_000, topics: 20_000,
	keyAge: 26 * time.Hour, steps: 100_000,
	deadRows: 100_000, bloat: 5, bloatFrom: 256 << 20,
	xidWarn: 500_000_000, xidFail: 1_500_000_000,
	diskWarn: 0.15, diskFail: 0.05,
	liveTrip: 20 * time.Millisecond, liveMemory: 0.9,
	files: 10_000, listed: 20,
}
