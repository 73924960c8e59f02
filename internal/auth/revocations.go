package auth

import (
	"maps"
	"sync"
	"time"
)

// Revocation says that tokens, or a session, do not count any more.
type Revocation struct {
	Kind  RevokedBy
	Value string
	// At is when it was said. Of a sub, tokens that were issued later count.
	At, Until time.Time
}

// RevokedBy is what a [Revocation] names.
type RevokedBy string

// What can be revoked.
const (
	BySubject RevokedBy = "sub"
	ByTokenID RevokedBy = "jti"
	BySession RevokedBy = "session"
)

// Covers tells whether claims, shown in a session, or in none if that is empty, are revoked
// by it.
func (r Revocation) Covers(c *Claims, session string) bool {
	switch r.Kind {
	case BySubject:
		return c.Subject == r.Value && c.Subject != "" && (c.Issued.IsZero() || !c.Issued.After(r.At))
	case ByTokenID:
		return c.TokenID == r.Value && c.TokenID != ""
	case BySession:
		return session == r.Value && session != ""
	}
	return false
}

// Revocations are those that this server knows of. A nil one is empty. All methods are safe
// for concurrent use.
type Revocations struct {
	mu  sync.RWMutex
	all map[revoked]Revocation
}

type revoked struct {
	kind  RevokedBy
	value string
}

// Revoked tells whether claims, shown in a session, or in none if that is empty, do not
// count any more.
func (r *Revocations) Revoked(c *Claims, session string) bool {
	if r == nil {
		return false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.all) == 0 {
		return false
	}
	now := time.Now()
	for _, key := range []revoked{{BySubject, c.Subject}, {ByTokenID, c.TokenID}, {BySession, session}} {
		if v, ok := r.all[key]; ok && now.Before(v.Until) && v.Covers(c, session) {
			return true
		}
	}
	return false
}

// Add adds one, or has it hold longer.
func (r *Revocations) Add(v Revocation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[revoked]Revocation{}
	}
	key := revoked{v.Kind, v.Value}
	if old, ok := r.all[key]; ok {
		if old.At.After(v.At) {
			v.At = old.At
		}
		if old.Until.After(v.Until) {
			v.Until = old.Until
		}
	}
	r.all[key] = v
}

// Replace puts what the store has in the place of what is known.
func (r *Revocations) Replace(list []Revocation) {
	all := make(map[revoked]Revocation, len(list))
	for _, v := range list {
		all[revoked{v.Kind, v.Value}] = v
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = all
}

// Trim forgets those that have ended, and gives how many are left.
func (r *Revocations) Trim(now time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.all, func(_ revoked, v Revocation) bool { return !now.Before(v.Until) })
	return len(r.all)
}
