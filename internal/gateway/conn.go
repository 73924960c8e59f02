package gateway

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one WebSocket's TCP connection. The websocket library keeps the handshake and
// reading; all data frames go past it, framed once per event and many in one write,
// because one write per frame is what fan-out costs most. Every Write is of whole frames,
// so the mutex is all that those who write need to share the connection.
type conn struct {
	net.Conn
	timeout time.Duration // for which a peer may read nothing

	mu   sync.Mutex // one write at a time
	torn bool       // guarded by mu: a frame was cut off, nothing may follow
	offering

	pong      atomic.Pointer[[]byte] // owed to the peer, sent as soon as mu is free
	lastHeard atomic.Int64           // the peer lived
	lastWrite atomic.Int64
	lastPing  atomic.Int64
	rtt       atomic.Int64 // of the newest ping that was answered, in nanoseconds; 0: none was
	asked     atomic.Int64 // when measure last pinged

	allowance int // owned by the reader: bytes that may come yet, and one; 0: any
}

// errStalled says that the peer has read nothing for the whole write timeout.
var errStalled = errors.New("the peer reads nothing")

// blocked is how long a write takes at least that had to wait for the peer to make room.
const blocked = 10 * time.Millisecond

// heard notes that the peer lives.
func (c *conn) heard() { c.lastHeard.Store(time.Now().UnixNano()) }

// Read notes that the peer lives; a pong counts as well as data.
func (c *conn) Read(p []byte) (int, error) {
	if c.allowance == 1 {
		c.closeFrame(errUnknown.code, errUnknown.reason) // the library closes without one
		return 0, errFlood
	}
	if c.allowance > 1 && len(p) >= c.allowance {
		p = p[:c.allowance-1]
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard()
	}
	if c.allowance > 1 {
		c.allowance -= n
	}
	return n, err
}

// Write sends all of p. The deadline is renewed as long as the peer takes anything: a
// slow reader is not cut off.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	n, err := c.write(p)
	c.mu.Unlock()
	if err == nil {
		c.lastWrite.Store(time.Now().UnixNano())
	}
	c.settle()
	return n, err
}

// write is Write; mu is held. It first ends the frame that an offer has begun.
func (c *conn) write(p []byte) (sent int, err error) {
	if rest := c.rest; rest != nil {
		if _, err := c.push(rest); err != nil {
			c.torn = true
			return 0, err
		}
		c.rest = nil
	}
	if len(p) == 0 {
		return 0, nil
	}
	return c.push(p)
}

func (c *conn) push(p []byte) (sent int, err error) {
	if c.torn {
		return 0, errStalled
	}
	for {
		began := time.Now()
		if err := c.SetWriteDeadline(began.Add(c.timeout)); err != nil {
			return sent, err
		}
		n, err := c.Conn.Write(c.piece(p[sent:]))
		sent += n
		if n > 0 && time.Since(began) > blocked {
			c.heard() // it has made room; its pong may be far behind what it has not read yet
		}
		switch {
		case err == nil && sent < len(p):
			continue
		case err == nil:
			return sent, nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			c.torn = true
			return sent, err
		case n == 0:
			c.torn = sent > 0
			return sent, errStalled
		}
	}
}

// tlsPiece is what one record of TLS holds at most.
const tlsPiece = 16 << 10

// piece is how much of p is written at a time: of TLS one record, since a TLS connection on
// which a deadline has passed in the middle of a write can take nothing more.
func (c *conn) piece(p []byte) []byte {
	if _, secure := c.Conn.(*tls.Conn); secure && len(p) > tlsPiece {
		return p[:tlsPiece]
	}
	return p
}

// writing tells whether a write is under way, whose own timeout says how the peer is.
func (c *conn) writing() bool {
	if !c.mu.TryLock() {
		return true
	}
	within := c.rest != nil
	c.mu.Unlock()
	if c.pong.Load() != nil { // whoever owed it found mu taken
		go c.settle()
	}
	return within
}

// answer sends a pong, now or after the write that is under way. The library would wait
// for that with a timeout of its own, shorter than what a slow reader may take, and then
// close the connection.
func (c *conn) answer(payload []byte) {
	p := append([]byte{0x80 | opPong, byte(len(payload))}, payload...)
	c.pong.Store(&p) // only the newest ping need be answered
	c.settle()
}

func (c *conn) settle() {
	for c.pong.Load() != nil && c.mu.TryLock() {
		if c.rest != nil { // who sends that settles
			c.mu.Unlock()
			return
		}
		var err error
		if p := c.pong.Swap(nil); p != nil {
			_, err = c.write(*p)
		}
		c.mu.Unlock()
		if err != nil {
			_ = c.Conn.Close()
		}
	}
}

// nudge sends a frame unless a write is under way, which does as well.
func (c *conn) nudge(frame []byte) bool {
	if !c.mu.TryLock() {
		return false
	}
	ok := c.try(frame)
	c.mu.Unlock()
	c.settle()
	return ok
}

// ping sends a ping. Whether the peer has got it shows by what comes.
func (c *conn) ping() {
	if !c.writing() {
		c.lastPing.Store(time.Now().UnixNano())
		c.nudge([]byte{0x80 | opPing, 0})
	}
}

// beat sends what says that there is nothing to say.
func (c *conn) beat(frame []byte) {
	if c.nudge(frame) {
		c.lastWrite.Store(time.Now().UnixNano())
	}
}

// closeFrame sends a close frame if the connection can still take it.
func (c *conn) closeFrame(code int, reason string) {
	c.last(append([]byte{0x80 | opClose, byte(2 + len(reason)), byte(code >> 8), byte(code)}, reason...))
}

// last sends a short frame, if the connection can still take it, after which nothing follows.
func (c *conn) last(frame []byte) {
	_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // who else is writing gives up
	c.mu.Lock()
	defer c.mu.Unlock()
	c.try(frame)
	c.torn = true
}

// try writes a short frame if the peer makes room for it soon; mu is held.
func (c *conn) try(p []byte) bool {
	if c.torn || c.rest != nil {
		return false
	}
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	n, err := c.Conn.Write(p)
	c.torn = n > 0 && n < len(p)
	return err == nil
}

// Opcodes of RFC 6455, section 5.2.
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// appendHeader appends the header of an unmasked, final text frame of n bytes.
func appendHeader(dst []byte, n int) []byte {
	dst = append(dst, 0x80|opText)
	switch {
	case n < 126:
		return append(dst, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
}

// hijacker hands the websocket library our conn, and small buffers: the ones net/http
// comes with are 4 KiB each and would stay as long as the session.
type hijacker struct {
	http.ResponseWriter
	conn *conn
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	h.conn.Conn = c
	h.conn.ready()
	// What the client sent behind its handshake is already in the server's buffer.
	r := bufio.NewReaderSize(h.conn, 512)
	if early := rw.Reader.Buffered(); early > 0 {
		b, err := rw.Reader.Peek(early)
		if err != nil {
			return nil, nil, errors.Join(err, c.Close())
		}
		r = bufio.NewReaderSize(&prefixed{append([]byte(nil), b...), h.conn}, max(512, early))
		if _, err := r.Peek(early); err != nil { // the library asks the buffer what there is
			return nil, nil, errors.Join(err, c.Close())
		}
	}
	return h.conn, bufio.NewReadWriter(r, bufio.NewWriterSize(h.conn, 256)), nil
}

// prefixed reads some bytes first.
type prefixed struct {
	first []byte
	rest  *conn
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.first) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.rest.Read(b)
}
