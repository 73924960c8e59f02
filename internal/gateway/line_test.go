package gateway

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"
)

// line is a client made by hand: it can send what no library would, and read nothing.
type line struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

const handshake = "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// line connects, sends the handshake with early data behind it in the same write, and
// takes the answer. window is the receive buffer's size; 0 leaves it as it is.
func (w *world) line(t testing.TB, window int, early ...byte) *line {
	t.Helper()
	l := w.connect(t, window)
	l.write(append(fmt.Appendf(nil, handshake, w.address()), early...))
	l.patience(within)
	res, err := http.ReadResponse(l.r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %v, %v", res, err)
	}
	return l
}

// connect connects, and says nothing yet.
func (w *world) connect(t testing.TB, window int) *line {
	t.Helper()
	dialer := net.Dialer{Timeout: within}
	if window > 0 {
		// Before it connects: what the kernel has offered it does not take back.
		dialer.Control = func(_, _ string, c syscall.RawConn) error {
			var set error
			err := c.Control(func(fd uintptr) {
				set = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, window)
			})
			return errors.Join(err, set)
		}
	}
	conn, err := dialer.Dial("tcp", w.address())
	if err != nil {
		t.Fatal(err)
	}
	l := &line{t, conn, bufio.NewReader(conn)}
	t.Cleanup(func() { _ = conn.Close() })
	return l
}

func (l *line) write(p []byte) {
	l.t.Helper()
	if _, err := l.Write(p); err != nil {
		l.t.Fatal(err)
	}
}

// patience is how long the line's reads wait from now on.
func (l *line) patience(d time.Duration) {
	if err := l.SetReadDeadline(time.Now().Add(d)); err != nil {
		l.t.Fatal(err)
	}
}

// masked makes a frame as clients have to send it.
func masked(opcode byte, payload []byte) []byte {
	p := []byte{0x80 | opcode}
	switch n := len(payload); {
	case n < 126:
		p = append(p, 0x80|byte(n))
	case n < 1<<16:
		p = binary.BigEndian.AppendUint16(append(p, 0x80|126), uint16(n))
	default:
		p = binary.BigEndian.AppendUint64(append(p, 0x80|127), uint64(n))
	}
	mask := [4]byte{1, 2, 3, 4}
	p = append(p, mask[:]...)
	for i, b := range payload {
		p = append(p, b^mask[i%4])
	}
	return p
}

// frame reads a frame; the error is that of the connection.
func (l *line) frame() (opcode byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	var more [8]byte
	switch n {
	case 126:
		if _, err := io.ReadFull(l.r, more[:2]); err != nil {
			return 0, nil, err
		}
		n = uint64(binary.BigEndian.Uint16(more[:2]))
	case 127:
		if _, err := io.ReadFull(l.r, more[:]); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(more[:])
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(l.r, payload)
	return head[0] & 0x0f, payload, err
}

// ended reads until the connection ends, and gives the code of the close frame, if one
// came before that.
func (l *line) ended() (code int) {
	l.t.Helper()
	for {
		l.patience(within)
		opcode, payload, err := l.frame()
		switch {
		case err != nil:
			if e, ok := err.(net.Error); ok && e.Timeout() {
				l.t.Fatal("the connection is still open")
			}
			return code
		case opcode == opClose && len(payload) >= 2:
			code = int(binary.BigEndian.Uint16(payload))
		}
	}
}
