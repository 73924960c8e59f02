package gateway

import (
	"net"
	"syscall"
	"time"
)

// offering is what a conn needs to write without waiting for its peer.
type offering struct {
	raw syscall.RawConn // nil where that is not possible
	now func(fd uintptr)

	// Guarded by conn.mu.
	bytes []byte // to be written now, then what of them is left
	err   error
	rest  []byte // behind what has been sent of a frame: nothing else may come before it

	held []byte // owned by the session's goroutine: to be written first, nothing of it has been
}

// ready prepares c for offers.
func (c *conn) ready() {
	sc, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	c.raw, c.now = raw, func(fd uintptr) { c.bytes, c.err = writeNow(fd, c.bytes) }
}

// offer sends what the peer's connection has room for and keeps a copy of the rest, which
// the next Write sends behind finish. It waits for nothing: also a pong that is owed by now,
// and may find no room, is left to that Write.
func (c *conn) offer(p []byte) (done bool, err error) {
	if c.raw == nil || len(c.held) > 0 || !c.mu.TryLock() {
		c.held = append(c.held, p...)
		return false, nil
	}
	switch {
	case c.torn:
		err = errStalled
	case c.rest != nil:
		c.held = append(c.held, p...)
	default:
		c.bytes, c.err = p, nil
		// Not raw.Write, which minds the deadline of a write long ago.
		if err = c.raw.Control(c.now); err == nil {
			err = c.err
		}
		switch left := c.bytes; {
		case err != nil:
			c.torn = true
		case len(left) == 0:
			done = true
		case len(left) == len(p):
			c.held = append(c.held, p...)
		default:
			c.rest = append([]byte(nil), left...)
		}
		c.bytes = nil
	}
	c.mu.Unlock()
	if done {
		c.lastWrite.Store(time.Now().UnixNano())
	}
	return done && c.pong.Load() == nil, err
}

// finish gives what is to be written before anything else and is not begun, for the next Write.
func (c *conn) finish() []byte {
	p := c.held
	c.held = nil
	return p
}
