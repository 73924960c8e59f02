package gateway

import (
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
)

// crowd counts the sessions of each address and of each subject.
type crowd struct {
	each, subject int // at most

	// Guarded by the gateway's mu.
	addresses, subjects map[string]int // no count is 0
	of                  map[transport]counted
	numbers             uint64
}

// counted is what a session counts for, its number among all there were, and when it began.
type counted struct {
	address, subject string
	number           uint64
	since            int64 // in nanoseconds since 1970
}

func newCrowd(each, subject int) crowd {
	return crowd{each: each, subject: subject, addresses: map[string]int{}, subjects: map[string]int{}, of: map[transport]counted{}}
}

var (
	errAddressFull = &pgcast.Error{Code: pgcast.CodeRateLimited, Message: "too many sessions of one address", Hint: "end some"}
	errSubjectFull = &pgcast.Error{Code: pgcast.CodeRateLimited, Message: "too many sessions of one user", Hint: "end some"}
)

// enter counts a session for its address and, if it is known whose it is, its subject; the
// gateway's mu is held.
func (c *crowd) enter(t transport, address, subject string) error {
	switch {
	case c.addresses[address] >= c.each:
		return errAddressFull
	case subject != "" && c.subjects[subject] >= c.subject:
		return errSubjectFull
	}
	c.addresses[address]++
	c.count(subject)
	c.numbers++
	c.of[t] = counted{address, subject, c.numbers, time.Now().UnixNano()}
	return nil
}

// count counts one session more for a subject, if it has one.
func (c *crowd) count(subject string) {
	if subject != "" {
		c.subjects[subject]++
	}
}

// leave is for a session that has ended; the gateway's mu is held.
func (c *crowd) leave(t transport) {
	was, there := c.of[t]
	if !there {
		return
	}
	delete(c.of, t)
	drop(c.addresses, was.address)
	drop(c.subjects, was.subject)
}

func drop(counts map[string]int, key string) {
	if key == "" {
		return
	}
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}

// belong counts a session for who its claims say that it is, instead of who it was counted
// for before. With an error nothing has changed.
func (g *Gateway) belong(t transport, claims *auth.Claims) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, subject := &g.crowd, subjectOf(claims)
	was, there := c.of[t]
	switch {
	case !there || was.subject == subject:
		return nil
	case subject != "" && c.subjects[subject] >= c.subject:
		return errSubjectFull
	}
	drop(c.subjects, was.subject)
	c.count(subject)
	was.subject = subject
	c.of[t] = was
	return nil
}
