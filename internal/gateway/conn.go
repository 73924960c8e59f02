package gateway

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one WebSocket's TCP connection. The websocket library keeps the handshake,
// reading and the answers to control frames; all data frames go past it, framed once per
// event and many in one write, because one write per frame is what fan-out costs most.
// The library writes a control frame in one Write, so the mutex is all the two need to
// share the connection.
type conn struct {
	net.Conn
	timeout time.Duration // for which a peer may read nothing

	mu        sync.Mutex // one write at a time
	lastRead  atomic.Int64
	lastWrite atomic.Int64
	lastPing  atomic.Int64
}

// errStalled says that the peer has read nothing for the whole write timeout.
var errStalled = errors.New("the peer reads nothing")

// Read notes that the peer lives; a pong counts as well as data.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.lastRead.Store(time.Now().UnixNano())
	}
	return n, err
}

// Write sends all of p. The deadline is renewed as long as the peer takes anything: a
// slow reader is not cut off.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(p)
}

func (c *conn) write(p []byte) (sent int, err error) {
	for {
		if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
			return sent, err
		}
		n, err := c.Conn.Write(p[sent:])
		sent += n
		switch {
		case err == nil:
			c.lastWrite.Store(time.Now().UnixNano())
			return sent, nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return sent, err
		case n == 0:
			return sent, errStalled
		}
	}
}

// ping sends a ping unless a write is under way, whose own timeout then decides.
func (c *conn) ping() {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	c.lastPing.Store(time.Now().UnixNano())
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.Conn.Write([]byte{0x80 | opPing, 0}) // a peer that is gone shows by its silence
}

// closeFrame sends a close frame if the connection can take it at once.
func (c *conn) closeFrame(code int, reason string) {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	p := append([]byte{0x80 | opClose, byte(2 + len(reason)), byte(code >> 8), byte(code)}, reason...)
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.Conn.Write(p)
}

// Opcodes of RFC 6455, section 5.2.
const (
	opText  = 1
	opClose = 8
	opPing  = 9
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
