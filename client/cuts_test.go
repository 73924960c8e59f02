package client_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// cutter is a network that cuts each connection at a step of the protocol that it draws:
// before, in the middle of or after a frame of some type, either way; by a reset, or so that
// nothing arrives any more and nobody is told.
type cutter struct {
	mu    sync.Mutex
	rand  *rand.Rand
	left  int            // cuts
	steps map[string]int // cuts by step
	seen  map[string]int // frames that have passed, by direction and type
	conns map[*cutConn]bool
}

// steps of the protocol; what the client sends begins with >, what it is sent with <.
var cutSteps = []string{"handshake", ">hello", ">subscribe-batch", ">subscribe", ">unsubscribe", ">publish", ">history", ">presence",
	"<welcome", "<subscribed", "<snapshot", "<event", "<event", "<batch", "<batch", "<published", "<history", "<presence"}

// often are the steps that one connection sees more than once.
var often = []string{">subscribe", ">unsubscribe", ">publish", ">history", "<event", "<batch", "<published", "<history"}

func newCutter(cuts int, seed uint64) *cutter {
	return &cutter{rand: rand.New(rand.NewPCG(seed, seed)), left: cuts, steps: map[string]int{}, seen: map[string]int{}, conns: map[*cutConn]bool{}}
}

func (n *cutter) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return n.through(c), nil
	}}}
}

func (n *cutter) remaining() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.left
}

func (n *cutter) through(c net.Conn) *cutConn {
	n.mu.Lock()
	defer n.mu.Unlock()
	cut := &cutConn{Conn: c, net: n, closed: make(chan struct{}), where: n.rand.IntN(3), half: n.rand.IntN(12) == 0}
	if n.left > 0 {
		cut.step = cutSteps[n.rand.IntN(len(cutSteps))]
	}
	if slices.Contains(often, cut.step) {
		cut.skip = n.rand.IntN(3)
	}
	cut.in, cut.out = &frames{conn: cut, sign: "<"}, &frames{conn: cut, sign: ">"}
	n.conns[cut] = true
	return cut
}

// cutConn is one connection.
type cutConn struct {
	net.Conn
	net     *cutter
	in, out *frames
	closed  chan struct{}
	once    sync.Once

	step  string // at which it is cut; empty: never
	where int    // before, in, after
	half  bool   // so that nobody is told
	skip  int    // frames of that type that pass first

	// Guarded by net.mu.
	cut  bool
	late bool
}

// frames finds the beginnings of WebSocket messages in what passes one way.
type frames struct {
	conn   *cutConn
	sign   string
	buf    []byte // of what has not been told yet
	opened bool   // the handshake is over
}

// pass looks at bytes that are to pass, and gives how many may; fewer than all if the
// connection is cut there.
func (f *frames) pass(p []byte) int {
	c := f.conn
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.cut {
		return 0
	}
	before := len(f.buf) // bytes that have passed already
	f.buf = append(f.buf, p...)
	gone := 0
	for {
		size, name := f.first()
		if size == 0 {
			return len(p)
		}
		if (name == c.step || f.sign+name == c.step) && c.net.left > 0 {
			if c.skip--; c.skip < 0 {
				at := gone + []int{0, size / 2, size}[c.where] - before
				c.cut = true
				c.net.left--
				c.net.steps[c.step]++
				return max(0, min(at, len(p)))
			}
		}
		c.net.seen[f.sign+name]++
		f.buf = f.buf[size:]
		gone += size
	}
}

// first gives the length and the type of the first message, 0 if it is not complete.
func (f *frames) first() (int, string) {
	b := f.buf
	if !f.opened {
		for i := range len(b) - 3 {
			if string(b[i:i+4]) == "\r\n\r\n" {
				f.opened = true
				return i + 4, "handshake"
			}
		}
		return 0, ""
	}
	if len(b) < 2 {
		return 0, ""
	}
	size, head := int(b[1]&0x7f), 2
	switch {
	case size == 126 && len(b) >= 4:
		size, head = int(binary.BigEndian.Uint16(b[2:])), 4
	case size == 127 && len(b) >= 10:
		size, head = int(binary.BigEndian.Uint64(b[2:])), 10
	case size >= 126:
		return 0, ""
	}
	var mask []byte
	if b[1]&0x80 != 0 {
		if len(b) < head+4 {
			return 0, ""
		}
		mask = b[head : head+4]
		head += 4
	}
	if len(b) < head+size {
		return 0, ""
	}
	text := make([]byte, size)
	copy(text, b[head:head+size])
	for i := range text {
		if mask != nil {
			text[i] ^= mask[i%4]
		}
	}
	var said struct{ Type string }
	if b[0]&0x0f != 1 || json.Unmarshal(text, &said) != nil {
		return head + size, "control"
	}
	if said.Type == "" {
		said.Type = "event"
	}
	return head + size, said.Type
}

func (c *cutConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.net.mu.Lock()
		delete(c.net.conns, c)
		c.net.mu.Unlock()
	})
	return c.Conn.Close()
}

// end is what becomes of a connection that is cut.
func (c *cutConn) end() error {
	if c.half {
		<-c.closed
	}
	_ = c.Close()
	return net.ErrClosed
}

func (c *cutConn) isCut() bool {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	return c.cut
}

func (c *cutConn) Read(p []byte) (int, error) {
	if c.isCut() {
		return 0, c.end()
	}
	k, err := c.Conn.Read(p)
	if k > 0 {
		if k = c.in.pass(p[:k]); k == 0 {
			return 0, c.end()
		}
	}
	return k, err
}

func (c *cutConn) Write(p []byte) (int, error) {
	if c.isCut() {
		if c.half {
			return len(p), nil
		}
		return 0, c.end()
	}
	n := c.out.pass(p)
	if k, err := c.Conn.Write(p[:n]); err != nil {
		return k, err
	}
	if n < len(p) || c.isCut() {
		if c.half {
			return len(p), nil
		}
		return n, c.end()
	}
	return n, nil
}

// hurry has connections that have not come to their step for a while be cut at one that comes
// often, so that the test does not wait for a step that does not come.
func (n *cutter) hurry(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n.mu.Lock()
		for c := range n.conns {
			if c.late && !c.cut {
				c.step, c.skip = []string{"<event", "<event", "<published", "<history", ">publish"}[n.rand.IntN(5)], 0
			}
			c.late = true
		}
		n.mu.Unlock()
	}
}
