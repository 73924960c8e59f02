package presence

import (
	"context"
	"encoding/json"
	"sync"
	"time"
)

// User is who a session is to others.
type User struct {
	Key  string          // the same for all of a user's sessions
	Data json.RawMessage // public; never nil
}

// Users is who is on which topic. A user with several sessions, here and elsewhere, is
// there once, and leaves when the last of them has ended and has not come back for a while.
type Users struct {
	*Rosters
	grace time.Duration

	mu    sync.Mutex
	stays map[place]*stay
}

// stay is one user's on one topic of this server.
type stay struct {
	sessions int
	sure     bool        // the rosters have it, or will
	until    time.Time   // for which a session that broke off may come back
	leaving  *time.Timer // when the last session has gone
}

// DefaultGrace is for how long a user whose last session has ended is still here.
const DefaultGrace = 5 * time.Second

// NewUsers makes users of rosters. A grace below 0 stands for none, 0 for DefaultGrace.
func NewUsers(rosters *Rosters, grace time.Duration) *Users {
	if grace == 0 {
		grace = DefaultGrace
	}
	return &Users{Rosters: rosters, grace: max(grace, 0), stays: map[place]*stay{}}
}

// Join adds a session of a user to a topic, and waits until that is so everywhere. After an
// error it is nowhere. Leave must follow, once, unless there was an error. Errors like
// those of Put.
func (u *Users) Join(ctx context.Context, topic string, user User) error {
	s, there := u.enter(topic, user)
	if there {
		u.Post(topic, user.Key, user.Data) // it may have changed
		return nil
	}
	err := u.Put(ctx, topic, user.Key, user.Data, 0)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil {
		s.sure = true
		return nil
	}
	if s.sessions--; s.sessions == 0 && u.stays[place{topic, user.Key}] == s {
		delete(u.stays, place{topic, user.Key})
		if s.sure { // another was let in meanwhile, and has left
			u.Drop(topic, user.Key)
		}
	}
	return err
}

// Enter is Join for those who do not wait: where others cannot be told they are told later.
func (u *Users) Enter(topic string, user User) {
	s, _ := u.enter(topic, user)
	u.mu.Lock()
	s.sure = true
	u.mu.Unlock()
	u.Post(topic, user.Key, user.Data)
}

// enter counts a session in, and tells whether its user was there already.
func (u *Users) enter(topic string, user User) (s *stay, there bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s = u.stays[place{topic, user.Key}]
	if s == nil {
		s = &stay{}
		u.stays[place{topic, user.Key}] = s
	}
	if s.leaving != nil {
		s.leaving.Stop()
		s.leaving = nil
	}
	s.sessions++
	return s, s.sure
}

// Leave takes a session of a user from a topic. If it was the last one, the user is gone
// at once when all have meant to go, and after the grace period otherwise.
func (u *Users) Leave(topic, key string, meant bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	at := place{topic, key}
	s := u.stays[at]
	if s == nil {
		return
	}
	if !meant {
		s.until = time.Now().Add(u.grace)
	}
	if s.sessions--; s.sessions > 0 {
		return
	}
	wait := time.Until(s.until)
	if wait <= 0 {
		delete(u.stays, at)
		u.Drop(topic, key)
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if s.leaving == timer && u.stays[at] == s {
			delete(u.stays, at)
			u.Drop(topic, key)
		}
	})
	s.leaving = timer
}

// Depart is that of the rosters, with the grace period of the users.
func (u *Users) Depart(ctx context.Context) error {
	return u.Rosters.Depart(ctx, max(u.grace, time.Second))
}
