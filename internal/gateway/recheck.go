package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
)

const (
	recheckers     = 64 // sessions that are decided on anew at a time
	recheckAgain   = 250 * time.Millisecond
	recheckSeldom  = 4 * time.Second
	recheckPatient = askTimeout + time.Second // for a session that is busy
	decisionTTL    = 30 * time.Second
)

var (
	errLost      = closeError{wire.CloseForbidden, "this is not allowed any more"}
	errNotKnown  = closeError{wire.CloseUnauthenticated, "who you are is not known any more"}
	errUndecided = errors.New("what the session may do could not be decided for too long")
)

// Recheck has it decided anew what the sessions may do whose claims match, and ends what they
// may not do any more: at once, but without waiting for it here. What cannot be decided right
// now goes on and is tried again, no longer than DecisionTTL.
func (g *Gateway) Recheck(match func(*auth.Claims) bool) {
	g.mu.Lock()
	g.checks++
	all := make([]*rights, 0, len(g.rights))
	for r := range g.rights {
		all = append(all, r)
	}
	g.mu.Unlock()
	for _, r := range all {
		if claims := r.claims(); claims != nil && match(claims) {
			g.doubt(r)
		}
	}
}

// rechecks counts them.
func (g *Gateway) rechecks() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.checks
}

// doubt has a session's rights decided on anew.
func (g *Gateway) doubt(r *rights) {
	r.mu.Lock()
	queued := r.queued || r.gone
	r.queued = true
	r.mu.Unlock()
	if queued {
		return
	}
	g.mu.Lock()
	g.doubtful = append(g.doubtful, r)
	start := g.deciding < recheckers
	if start {
		g.deciding++
	}
	g.mu.Unlock()
	if start {
		go g.decide()
	}
}

func (g *Gateway) decide() {
	for {
		g.mu.Lock()
		if len(g.doubtful) == 0 {
			g.doubtful, g.deciding = nil, g.deciding-1
			g.mu.Unlock()
			return
		}
		r := g.doubtful[0]
		g.doubtful = g.doubtful[1:]
		g.mu.Unlock()
		r.renew()
	}
}

// renew decides on everything anew.
func (r *rights) renew() {
	r.mu.Lock()
	r.queued = false // who doubts from here on may know more than what is asked now
	gone := r.gone
	r.mu.Unlock()
	if gone {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	undecided := r.decide(ctx)
	if c := r.client; c != nil {
		if !c.state.TryLock() {
			r.wait()
		} else {
			undecided = c.decide(ctx) || undecided
			c.state.Unlock()
		}
	}
	r.settle(undecided)
}

// wait decides on a client's live state when it is through with the frame it is at. A client
// that does not take its answers, to keep what it has lost, is cut off, and may come back.
func (r *rights) wait() {
	r.mu.Lock()
	waiting := r.waiting
	r.waiting = true
	r.mu.Unlock()
	if waiting {
		return
	}
	go func() {
		late := time.AfterFunc(recheckPatient, func() { r.client.session.End(errStalled) })
		r.client.state.Lock()
		defer r.client.state.Unlock()
		late.Stop()
		r.mu.Lock()
		r.waiting = false
		r.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		defer cancel()
		if r.client.decide(ctx) {
			r.settle(true)
		}
	}()
}

// settle notes whether something could not be decided, and has that tried again.
func (r *rights) settle(undecided bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !undecided:
		r.since, r.tries = time.Time{}, 0
	case r.gone || r.timer != nil:
	default:
		if r.since.IsZero() {
			r.since = time.Now()
		}
		r.timer = time.AfterFunc(min(recheckAgain<<min(r.tries, 8), recheckSeldom), func() {
			r.mu.Lock()
			r.timer = nil
			r.mu.Unlock()
			r.g.doubt(r)
		})
		r.tries++
	}
}

// late tells whether it has gone on for too long that something could not be decided.
func (r *rights) late() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.since.IsZero() && time.Since(r.since) > r.g.opts.Access.DecisionTTL
}

// decide decides on the connection and the subscriptions, and ends those that are lost. It
// tells whether something could not be decided.
func (r *rights) decide(ctx context.Context) (undecided bool) {
	r.turn.Lock()
	defer r.turn.Unlock()
	for {
		claims := r.claims()
		if claims == nil || claims.Expired(time.Now()) {
			return false // that ends the session by itself
		}
		asks := []auth.Ask{{Verb: auth.Connect}}
		r.mu.Lock()
		r.rounds++
		for name, lost := range r.topics {
			if !lost {
				asks = append(asks, auth.Ask{Verb: auth.Subscribe, Topic: name})
			}
		}
		session := r.session
		r.mu.Unlock()
		asks = append(asks, pastOf(session)...)
		errs := r.g.allowEach(ctx, claims, asks)
		switch {
		case r.claims() != claims: // it is somebody else by now
		case claims.Expired(time.Now()):
			return false
		default:
			return r.lose(asks, errs)
		}
	}
}

// pastOf is what a session needs besides, for what it is still being sent of the past.
func pastOf(session *fanout.Session) (asks []auth.Ask) {
	if session == nil {
		return nil
	}
	for name, snapshot := range session.Past() {
		verb := auth.History
		if snapshot {
			verb = auth.Snapshot
		}
		asks = append(asks, auth.Ask{Verb: verb, Topic: name})
	}
	return asks
}

// lose ends what is lost of what was asked.
func (r *rights) lose(asks []auth.Ask, errs []error) (undecided bool) {
	late := r.late()
	var lost []string
	r.mu.Lock()
	session := r.session
	for i, err := range errs {
		switch {
		case err == nil:
			continue
		case !forbidden(err) && !late:
			undecided = true
			continue
		case asks[i].Verb == auth.Connect:
			r.all = true
			for name := range r.topics {
				r.topics[name] = true
			}
			if session != nil {
				defer r.shut(session, err)
			}
			continue
		}
		_, there := r.topics[asks[i].Topic]
		if there {
			r.topics[asks[i].Topic] = true
		}
		if there || asks[i].Verb != auth.Subscribe { // a replay needs no subscription
			lost = append(lost, asks[i].Topic)
		}
	}
	r.mu.Unlock()
	if session != nil {
		session.Forbid(lost...)
	}
	return undecided
}

// shut ends a session that may not even be there, for a reason.
func (r *rights) shut(session *fanout.Session, reason error) {
	switch denied := forbidden(reason); {
	case !denied && r.client != nil:
		session.End(fanout.ErrResume)
	case !denied:
		session.End(errUndecided)
	case r.client != nil && errors.Is(reason, pgcast.ErrUnauthenticated):
		r.g.end(connected{r.client, session}, errNotKnown)
	case r.client != nil:
		r.g.end(connected{r.client, session}, errLost)
	default:
		r.mu.Lock()
		lost := r.lost()
		r.mu.Unlock()
		session.Forbid(lost...)
	}
}

// recheck decides anew on all that the client is doing, as when it has become somebody else.
// The caller holds the client's state.
func (c *client) recheck(ctx context.Context) {
	if c.rights == nil {
		return
	}
	undecided := c.rights.decide(ctx)
	c.rights.settle(c.decide(ctx) || undecided)
}

// decide does what remains to be done for the subscriptions that are lost, and decides on
// live state. It tells whether something could not be decided. The caller holds the state.
func (c *client) decide(ctx context.Context) (undecided bool) {
	c.rights.mu.Lock()
	lost := c.rights.lost()
	c.rights.mu.Unlock()
	for _, topic := range lost {
		c.lose(topic)
		c.rights.drop(topic)
	}
	asks := c.doing()
	if len(asks) == 0 {
		return false
	}
	late := c.rights.late()
	for i, err := range c.g.allowEach(ctx, c.claims.Load(), asks) {
		switch {
		case err == nil:
		case !forbidden(err) && !late:
			undecided = true
		default:
			c.stop(asks[i])
		}
	}
	return undecided
}

// doing is what the client does beside its subscriptions.
func (c *client) doing() []auth.Ask {
	all := map[auth.Ask]struct{}{}
	for topic := range c.live.joined {
		all[auth.Ask{Verb: auth.Presence, Topic: topic}] = struct{}{}
	}
	for own := range c.live.views {
		_, verb, topic := ownTopic(own)
		all[auth.Ask{Verb: verb, Topic: topic}] = struct{}{}
	}
	if c.live.cursors != nil {
		for _, topic := range c.live.cursors.Topics() {
			all[auth.Ask{Verb: auth.Cursor, Topic: topic}] = struct{}{}
		}
	}
	for name := range c.live.seats {
		all[auth.Ask{Verb: auth.Group, Topic: pgcast.GroupTopic(name)}] = struct{}{}
	}
	asks := make([]auth.Ask, 0, len(all))
	for ask := range all {
		asks = append(asks, ask)
	}
	return asks
}

// lose does what comes with the end of a subscription that the session has lost.
func (c *client) lose(topic string) {
	delete(c.names, topic)
	delete(c.filters, topic)
	c.depart(topic)
	if c.hearsOwn(topic) {
		name, _ := groupOf(topic)
		c.live.seats[name].own = false
		c.session.Forbid(topic)
		c.tell(wire.GroupOf + name)
	}
	c.departGroup(topic)
}

// tell tells a client that it has lost a topic of the server's own. Nobody waits for one that
// does not take its answers: it may come back.
func (c *client) tell(own string) {
	if !c.session.Offer(wire.AppendDenied(nil, own, nil, wire.ReasonForbidden)) {
		c.session.End(errStalled)
	}
}

// stop ends what the session may not do any more.
func (c *client) stop(what auth.Ask) {
	own := ""
	switch what.Verb {
	case auth.Presence:
		own = wire.PresenceOf + what.Topic
		c.part(what.Topic, true)
	case auth.Cursor:
		own = wire.CursorOf + what.Topic
		if c.live.cursors != nil {
			c.live.cursors.Leave(what.Topic)
			delete(c.live.cursors.brought, what.Topic)
		}
	case auth.Group:
		name, _ := groupOf(what.Topic)
		own = wire.GroupOf + name
		if s := c.live.seats[name]; s != nil {
			if _, there := c.names[what.Topic]; s.own && !there {
				c.session.Forbid(what.Topic)
				c.rights.drop(what.Topic)
			}
			s.asked, s.topic, s.own = false, false, false
			c.vacate(name)
		}
		c.alias(what.Topic)
	}
	c.unwatch(own)
	c.tell(own)
}
