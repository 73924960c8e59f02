package ratelimit

import (
	"context"
	"time"
)

// Charge is what a call takes from one bucket.
type Charge struct {
	Bucket string // the bucket's name
	Rule   *Rule
	Cost   int // 1 to Rule.Burst
}

// Call is one call. It takes all of its charges or is denied and takes none.
type Call struct {
	Names   []string // of whom a ban would deny it
	Charges []Charge
}

// Outcome is what became of a call.
type Outcome string

// The outcomes.
const (
	Allowed Outcome = "allowed"
	Limited Outcome = "limited" // a bucket has too little
	Blocked Outcome = "blocked" // after an earlier denial
	Banned  Outcome = "banned"
)

// Verdict is what is decided on a call.
type Verdict struct {
	Outcome Outcome
	By      int           // which of the charges it was, or of the names
	Wait    time.Duration // how long to wait at least before the call can be allowed
}

// Op is what an order is to do.
type Op string

// The ops.
const (
	OpBan   Op = "ban"
	OpUnban Op = "unban"
	OpReset Op = "reset" // fill the buckets, and end blocks
)

// Order is what an operator wants, for all servers.
type Order struct {
	Op      Op
	Name    string
	For     time.Duration // of a ban
	Buckets []string      // of a reset
}

// Ban is one that is in force.
type Ban struct {
	Name string
	For  time.Duration // from now on
}

// Store is what servers share. Every method is one round trip, by the store's own clock,
// and an error means that nothing is known of what was done.
type Store interface {
	// Take decides on calls, in order, each as a whole.
	Take(ctx context.Context, calls []Call) ([]Verdict, error)
	// Do carries out an order, for all Takes that come after it, and tells all servers.
	Do(ctx context.Context, o Order) error
	// Bans gives all there are.
	Bans(ctx context.Context) ([]Ban, error)
}

// Relay tells of the orders that other servers were given.
type Relay interface {
	// Watch has them handed to f, from now on, and calls ready whenever it is certain that
	// from here on they arrive: at first, and after each time they may not have. Both are
	// called by one goroutine, which they must not hold up.
	Watch(f func(Order), ready func()) (stop func())
}
