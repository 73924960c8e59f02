package perimeter

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

// Crowd bounds the connections of an HTTP server that are no sessions: those that have not
// asked for anything yet, and those that have and stay open. Sessions, which have taken
// their connection over, are somebody else's to count. Its State is the server's ConnState.
type Crowd struct {
	each, all int
	key       func(remote net.Addr) string // empty: not counted by address
	refused   func(address string)

	mu    sync.Mutex
	conns map[net.Conn]string // guarded by mu
	by    map[string]int      // guarded by mu
}

// NewCrowd bounds the connections of one address to each, and all to all. Key names the
// address that a connection counts for, refused is told of what was refused.
func NewCrowd(each, all int, key func(net.Addr) string, refused func(address string)) *Crowd {
	return &Crowd{each: each, all: all, key: key, refused: refused, conns: map[net.Conn]string{}, by: map[string]int{}}
}

// State notes what becomes of a connection, and ends it if there are too many.
func (c *Crowd) State(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if key, ok := c.enter(conn); !ok {
			c.refused(key)
			turnAway(conn)
		}
	case http.StateHijacked, http.StateClosed:
		c.leave(conn)
	}
}

func (c *Crowd) enter(conn net.Conn) (key string, ok bool) {
	key = c.key(conn.RemoteAddr())
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.conns) >= c.all || key != "" && c.by[key] >= c.each {
		return key, false
	}
	c.conns[conn] = key
	if key != "" {
		c.by[key]++
	}
	return key, true
}

func (c *Crowd) leave(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key, there := c.conns[conn]
	if !there {
		return
	}
	delete(c.conns, conn)
	if key == "" {
		return
	}
	if c.by[key]--; c.by[key] == 0 {
		delete(c.by, key)
	}
}

// Open counts the connections.
func (c *Crowd) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.conns)
}

const tooMany = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Type: text/plain; charset=utf-8\r\n" +
	"Content-Length: 21\r\nConnection: close\r\n\r\ntoo many connections\n"

// turnAway answers a connection that has asked for nothing yet, and ends it. The server
// that accepts waits for it, so nothing here waits for the peer: a new connection has room
// for the answer, and one that is to be TLS would need a handshake first.
func turnAway(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		_ = secure.NetConn().Close()
		return
	}
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write([]byte(tooMany))
	_ = conn.Close()
}
