package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
)

// rights are what a live session is subscribed to, or is about to be, to be decided on again
// when something has changed. A topic is noted before it is decided on: so whoever decides
// anew, while that goes on, knows of it. Nil where there is no access control.
type rights struct {
	g      *Gateway
	claims func() *auth.Claims // nil while nobody knows who it is
	client *client             // nil: of a stream or a poll

	turn sync.Mutex // held while they are decided on anew

	mu      sync.Mutex
	session *fanout.Session // nil: it is still to be opened
	topics  map[string]bool // and patterns; true: the right was lost
	all     bool            // connect was lost
	queued  bool
	waiting bool        // somebody waits for the client's state
	timer   *time.Timer // to decide once more; nil: not set
	since   time.Time   // when what could not be decided was first asked for; zero: everything is
	tries   int
	rounds  int // how often they were decided on anew
	gone    bool
}

// watchOver begins to look after a session's rights. It was let in when there had been so many
// rechecks. close must follow.
func (g *Gateway) watchOver(claims func() *auth.Claims, session *fanout.Session, c *client, checks int64) *rights {
	if g.opts.Access == nil {
		return nil
	}
	r := &rights{g: g, claims: claims, session: session, client: c, topics: map[string]bool{}}
	if c != nil {
		c.rights = r // before anybody can have it decided on anew
	}
	g.mu.Lock()
	g.rights[r] = struct{}{}
	missed := g.checks != checks
	g.mu.Unlock()
	if missed {
		g.doubt(r)
	}
	return r
}

// close ends it with the session.
func (r *rights) close() {
	if r == nil {
		return
	}
	r.g.mu.Lock()
	delete(r.g.rights, r)
	r.g.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = true
	if r.timer != nil {
		r.timer.Stop()
	}
}

// hold notes topics or patterns that are about to be decided on.
func (r *rights) hold(names ...string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		r.topics[name] = r.all
	}
}

// drop forgets a topic or pattern.
func (r *rights) drop(name string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.topics, name)
}

// kept is called when a subscription that was held is open: the right may have been lost
// meanwhile, or, since so many rounds, the one to what it begins with.
func (r *rights) kept(name string, rounds int) {
	if r == nil {
		return
	}
	r.mu.Lock()
	lost, session, missed := r.topics[name], r.session, r.rounds != rounds
	r.mu.Unlock()
	if lost {
		session.Forbid(name)
	} else if missed {
		r.g.doubt(r)
	}
}

// round tells how often they were decided on anew.
func (r *rights) round() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rounds
}

// opened gives them the session that was still to be opened, whose subscriptions are.
func (r *rights) opened(session *fanout.Session) {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.session = session
	lost, missed := r.lost(), r.rounds > 0
	r.mu.Unlock()
	session.Forbid(lost...)
	if missed {
		r.g.doubt(r)
	}
}

// lost are the topics and patterns whose right was lost; mu is held.
func (r *rights) lost() (names []string) {
	for name, lost := range r.topics {
		if lost {
			names = append(names, name)
		}
	}
	return names
}

// verdict is what was decided on a subscription.
type verdict struct {
	no     error // why there is none
	lost   bool  // nor is there to be the one there may be
	barred bool  // it gets nothing that is past
	// What may come with it.
	present, pointed, member bool
}

// verdicts are those on the places of a frame; nil where there is no access control.
type verdicts []verdict

func (v verdicts) of(i int) verdict {
	if v == nil {
		return verdict{present: true, pointed: true, member: true}
	}
	return v[i]
}

// errUnjudged is the verdict on what is not even asked for: names that are none, and more of
// them than a session may have.
var errUnjudged = &pgcast.Error{Code: pgcast.CodeTooMany, Message: "this session has too many subscriptions"}

// judge decides on subscriptions, all at once. Those with an error in denied are no more to
// be decided on.
func (c *client) judge(ctx context.Context, places []wire.Place, denied []error) verdicts {
	if c.rights == nil {
		return nil
	}
	c.judged = c.rights.round()
	list := make(verdicts, len(places))
	var asks []auth.Ask
	var tell []func(no error) // what each is for
	judged := 0
	for i, p := range places {
		v := &list[i]
		v.no = errUnjudged
		if judged >= c.g.opts.MaxSubscriptions || denied != nil && denied[i] != nil {
			continue
		}
		needs := func(verb auth.Verb, topic string, no func(error)) {
			asks, tell = append(asks, auth.Ask{Verb: verb, Topic: topic}), append(tell, no)
		}
		if c.needs(p, v, needs) {
			v.no = nil
			judged++
		}
	}
	for k, err := range c.g.allowEach(ctx, c.claims.Load(), asks) {
		if err != nil {
			tell[k](err)
		}
	}
	return list
}

// needs tells what has to be asked about a place, and false where its name is none.
func (c *client) needs(p wire.Place, v *verdict, ask func(verb auth.Verb, topic string, no func(error))) bool {
	must := func(err error) {
		if v.no == nil || forbidden(err) {
			v.no = err
		}
	}
	if own, verb, topic := ownTopic(p.Topic); own {
		if verb == "" || !c.attends(p.Topic) {
			return verb == ""
		}
		ask(verb, topic, must)
		if verb == auth.Group { // its events come with it
			c.rights.hold(topic)
			ask(auth.Subscribe, topic, must)
		}
		return true
	}
	if _, err := pgcast.ParsePattern(p.Topic); err != nil {
		return false
	}
	c.rights.hold(p.Topic)
	ask(auth.Subscribe, p.Topic, func(err error) {
		must(err)
		v.lost = v.lost || forbidden(err)
	})
	_, seen := c.seen[p.Topic]
	switch {
	case p.Snapshot && !pgcast.IsPattern(p.Topic):
		ask(auth.Snapshot, p.Topic, must)
	case p.After != nil || seen && !p.Snapshot:
		ask(auth.History, p.Topic, func(err error) {
			if v.barred = forbidden(err); !v.barred { // what it may still have is not to become a gap
				must(err)
			}
		})
	}
	if pgcast.IsPattern(p.Topic) {
		return true
	}
	l := c.g.opts.Live
	if v.present = l.Presence != nil && selects(l.JoinOn, p.Topic); v.present {
		ask(auth.Presence, p.Topic, func(error) { v.present = false })
	}
	if v.pointed = l.Cursors != nil && selects(l.CursorOn, p.Topic); v.pointed {
		ask(auth.Cursor, p.Topic, func(error) { v.pointed = false })
	}
	if _, v.member = c.brings(p.Topic); v.member {
		ask(auth.Group, p.Topic, func(error) { v.member = false })
	}
	return true
}

// ownTopic tells what is needed for a topic of the server's own that clients subscribe to: a
// verb on another one, or nothing.
func ownTopic(name string) (own bool, verb auth.Verb, topic string) {
	if name == wire.System {
		return true, "", ""
	}
	if rest, ok := strings.CutPrefix(name, wire.PresenceOf); ok {
		return true, auth.Presence, rest
	}
	if rest, ok := strings.CutPrefix(name, wire.CursorOf); ok {
		return true, auth.Cursor, rest
	}
	if rest, ok := strings.CutPrefix(name, wire.GroupOf); ok {
		return true, auth.Group, pgcast.GroupTopic(rest)
	}
	return false, "", ""
}

func forbidden(err error) bool { return err != nil && !errors.Is(err, pgcast.ErrUnavailable) }

// deny answers a subscription that is not allowed: the same whether or not there is such a
// topic.
func (c *client) deny(topic string, ref json.RawMessage, v verdict) {
	c.refuse(0)
	c.session.Deny(topic, ref, denialOf(v.no))
	if _, there := c.names[topic]; there && v.lost {
		c.session.Forbid(topic)
		c.lose(topic)
	}
	if own, verb, group := ownTopic(topic); own && verb == auth.Group {
		topic = group
	}
	c.release(topic)
}

// denialOf is how a subscription is denied that was decided against.
func denialOf(err error) string {
	switch {
	case err == errUnjudged:
		return wire.ReasonTooMany
	case forbidden(err):
		return wire.ReasonForbidden
	}
	return wire.ReasonInternal
}

// release forgets a topic or pattern that the session has no subscription to.
func (c *client) release(name string) {
	if _, there := c.names[name]; c.rights != nil && !there && !c.hearsOwn(name) {
		c.rights.drop(name)
	}
}

// may tells why a caller may not do all of that with a topic, or returns nil.
func (g *Gateway) may(ctx context.Context, claims *auth.Claims, topic string, verbs ...auth.Verb) error {
	if g.opts.Access == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	asks := make([]auth.Ask, len(verbs))
	for i, verb := range verbs {
		asks[i] = auth.Ask{Verb: verb, Topic: topic}
	}
	return worst(g.allowEach(ctx, claims, asks))
}

// remains gives what tells why a caller may not go on with something that takes long, or returns
// nil. What cannot be decided goes on, no longer than DecisionTTL.
func (g *Gateway) remains(ctx context.Context, claims *auth.Claims, verb auth.Verb, topic string) func() error {
	asks, since := []auth.Ask{{Verb: auth.Connect}, {Verb: verb, Topic: topic}}, time.Time{}
	return func() error {
		err := worst(g.allowEach(ctx, claims, asks))
		switch {
		case err == nil:
			since = time.Time{}
		case forbidden(err):
		case since.IsZero():
			since, err = time.Now(), nil
		case time.Since(since) < g.opts.Access.DecisionTTL:
			err = nil
		}
		return err
	}
}

// worst gives an error that says no for good, if there is one, else another, else nil.
func worst(errs []error) error {
	if i := slices.IndexFunc(errs, forbidden); i >= 0 {
		return errs[i]
	}
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return errs[i]
	}
	return nil
}
