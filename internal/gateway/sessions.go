package gateway

import (
	"cmp"
	"encoding/binary"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgcast/pgcast/fanout"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/presence/ratelimit"
)

// SessionInfo is one session of this server, as whoever runs it is shown it.
type SessionInfo struct {
	ID        string // among this process's sessions; never given twice
	Subject   string // of its token; empty where nobody knows
	User      string // what presence shows of it, JSON; empty where nothing
	Transport string // websocket, sse or poll
	Address   string
	Operator  bool // it came in by Operators
	Since     time.Time
	RTT       time.Duration // of its newest ping that was answered; 0: none was
	Expires   time.Time     // of its token; zero: never
	fanout.Standing
}

const (
	shownTopics  = 20               // of a session, in a list
	searchTopics = 1000             // of each session that are searched, and that the shown ones are the first of
	measureEvery = 10 * time.Second // how often a session that is shown is pinged
)

// Sessions lists the newest sessions, at most limit, in which a text is found: in the id, the
// subject, the user, the address, the transport or a topic, whatever the case. total counts
// all that have it. Sessions that are listed are pinged if it is not known how far away they
// are. It waits for none of them, and for no database.
func (g *Gateway) Sessions(search string, limit int) (list []SessionInfo, total int) {
	type numbered struct {
		connected
		counted
	}
	g.mu.Lock()
	all := make([]numbered, 0, len(g.clients))
	for t, session := range g.clients {
		if session != nil {
			all = append(all, numbered{connected{t, session}, g.crowd.of[t]})
		}
	}
	g.mu.Unlock()
	slices.SortFunc(all, func(a, b numbered) int { return cmp.Compare(b.number, a.number) })
	search = strings.ToLower(search)
	for _, n := range all {
		if search == "" && total >= limit {
			total = len(all)
			break
		}
		s := n.info(n.counted)
		if !s.has(search, n.session) {
			continue
		}
		if total++; total > limit {
			continue
		}
		s.Standing = n.session.Standing(searchTopics)
		slices.Sort(s.Topics)
		s.Topics = s.Topics[:min(len(s.Topics), shownTopics)]
		if c, ok := n.transport.(*client); ok {
			c.measure()
		}
		list = append(list, s)
	}
	return list, total
}

// info is a session without its standing.
func (c connected) info(at counted) SessionInfo {
	claims, _ := c.whose()
	s := SessionInfo{ID: strconv.FormatUint(at.number, 10), Address: at.address, Subject: subjectOf(claims), Since: time.Unix(0, at.since)}
	if claims != nil {
		s.Expires, s.Operator = claims.Expires, claims == auth.Operators
	}
	var conn *conn
	switch t := c.transport.(type) {
	case *client:
		s.Transport, conn = "websocket", t.conn
		if shown := t.shown.Load(); shown != nil && string(*shown) != "{}" {
			s.User = string(*shown)
		}
		s.RTT = time.Duration(t.conn.rtt.Load())
	case *stream:
		s.Transport, conn = "sse", t.conn
	default:
		s.Transport = "poll"
	}
	// Without a proxy in between its own address says more than the one it is counted for.
	if conn != nil && ratelimit.AddressKey(ratelimit.Address(conn.RemoteAddr().String(), nil, nil)) == at.address {
		s.Address = hostOf(conn.RemoteAddr())
	}
	return s
}

func hostOf(addr net.Addr) string {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}

// has tells whether a text, in lower case, is in what is shown of a session, or in one of its
// topics.
func (s *SessionInfo) has(text string, session *fanout.Session) bool {
	in := func(value string) bool { return strings.Contains(strings.ToLower(value), text) }
	return text == "" || in(s.ID) || in(s.Subject) || in(s.User) || in(s.Address) || in(s.Transport) || session.Follows(searchTopics, in)
}

// Disconnect ends the session of an id in a way that lets its client come back and resume; a
// WebSocket is closed with 4408. It tells whether there was one.
func (g *Gateway) Disconnect(id string) bool {
	number, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return false
	}
	g.mu.Lock()
	var found *connected
	for t, at := range g.crowd.of {
		if session := g.clients[t]; at.number == number && session != nil {
			found = &connected{t, session}
		}
	}
	g.mu.Unlock()
	if found == nil {
		return false
	}
	g.end(*found, fanout.ErrResume)
	return true
}

// Count is how many sessions there are, with those that are being opened. The server's own, with
// which it follows its log, are not among them.
func (g *Gateway) Count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.clients)
}

// Degraded are the backends that are degraded now, in the order of their names.
func (g *Gateway) Degraded() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	names := make([]string, 0, len(g.degraded))
	for name := range g.degraded {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// measure has a client pinged to learn how far away it is, unless that was done a moment ago.
// Whether it lives is not decided by it.
func (c *client) measure() {
	now := time.Now().UnixNano()
	if last := c.conn.asked.Load(); now-last < int64(measureEvery) || !c.conn.asked.CompareAndSwap(last, now) {
		return
	}
	go func() { // the connection may have to make room
		frame := binary.BigEndian.AppendUint64([]byte{0x80 | opPing, 8}, uint64(time.Now().UnixNano()))
		if !c.conn.writing() {
			c.conn.nudge(frame)
		}
	}()
}

// ponged notes how long a ping took: one of measure, which says when it was sent, or the
// newest of those that ask whether the peer lives.
func (c *conn) ponged(payload []byte) {
	sent := c.lastPing.Load()
	if len(payload) == 8 {
		sent = int64(binary.BigEndian.Uint64(payload))
	}
	// A peer may answer what it was never asked.
	if took := time.Now().UnixNano() - sent; sent > 0 && took > 0 && took < int64(time.Minute) {
		c.rtt.Store(took)
	}
}
