package pgtest

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy stands between a client and Postgres and makes their connection fail in the ways
// that no error tells of.
type Proxy struct {
	URL string // leads through the proxy

	done chan struct{} // closed when the proxy ends

	mu     sync.Mutex
	change *sync.Cond // of what follows; uses mu
	target string
	conns  map[net.Conn]bool
	frozen map[net.Conn]bool
	deaf   bool
	hold   bool
	closed bool
	delay  time.Duration
	rate   int
	refuse string
	answer []byte
}

// NewProxy makes a proxy to the server of a URL; it ends with the test.
func NewProxy(t testing.TB, databaseURL string) *Proxy {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatalf("pgtest: proxy: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("pgtest: proxy: %v", err)
	}
	p := &Proxy{target: u.Host, conns: map[net.Conn]bool{}, frozen: map[net.Conn]bool{}, done: make(chan struct{})}
	p.change = sync.NewCond(&p.mu)
	u.Host = l.Addr().String()
	p.URL = u.String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(p.done)
		p.mu.Lock()
		p.closed = true
		for c := range p.conns {
			c.Close()
		}
		p.change.Broadcast()
		p.mu.Unlock()
		serving.Wait()
	})
	return p
}

// Deafen decides whether notifications are swallowed from now on, as by a pooler.
func (p *Proxy) Deafen(deaf bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = deaf
}

// Freeze stops all traffic of the present connections, both ways and for good, while both
// ends believe in them. New connections are not affected.
func (p *Proxy) Freeze() { p.freeze(func(net.Conn) bool { return true }) }

// FreezeAnswers is Freeze for one direction: Postgres hears what it is asked, and what it
// answers does not arrive.
func (p *Proxy) FreezeAnswers() {
	p.freeze(func(c net.Conn) bool { return c.LocalAddr().String() != p.address() })
}

// address is where clients connect to; the proxy's ends towards Postgres have another.
func (p *Proxy) address() string {
	u, err := url.Parse(p.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

// Hold decides whether connections that are made from now on are frozen from the start.
func (p *Proxy) Hold(hold bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = hold
}

// Held waits until there is a frozen connection.
func (p *Proxy) Held(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; <-time.After(time.Millisecond) {
		p.mu.Lock()
		n := len(p.frozen)
		p.mu.Unlock()
		if n > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("pgtest: proxy: nobody connects")
		}
	}
}

func (p *Proxy) freeze(which func(net.Conn) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if which(c) {
			p.frozen[c] = true
		}
	}
}

// Slow delays what Postgres answers, and lets at most rate bytes a second through on each
// connection; 0 for no limit.
func (p *Proxy) Slow(delay time.Duration, rate int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay, p.rate = delay, rate
}

// Refuse answers simple queries that begin with a text (in lower case) with an error of
// that SQLSTATE, as a server would; an empty text ends it.
func (p *Proxy) Refuse(text, code, message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	body := "SERROR\x00VERROR\x00C" + code + "\x00M" + message + "\x00\x00"
	p.refuse = text
	p.answer = append(binary.BigEndian.AppendUint32([]byte{'E'}, uint32(4+len(body))), body...)
	p.answer = append(p.answer, 'Z', 0, 0, 0, 5, 'I')
}

// Lead sends new connections to the server of another URL, as after a failover.
func (p *Proxy) Lead(t testing.TB, databaseURL string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatalf("pgtest: proxy: %v", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = u.Host
}

// Cut ends the present connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) serve(client net.Conn) {
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil {
		client.Close()
		return
	}
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	if p.hold {
		p.frozen[client], p.frozen[server] = true, true
	}
	if p.closed {
		client.Close()
		server.Close()
	}
	p.mu.Unlock()
	var copying sync.WaitGroup
	var answers sync.Mutex // a whole message is written to the client at a time
	copying.Go(func() {
		p.upstream(client, server, &answers)
		server.Close()
	})
	p.downstream(client, server, &answers)
	client.Close()
	copying.Wait()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
}

// pass waits while the connection is frozen; false: the proxy has ended.
func (p *Proxy) pass(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.frozen[conn] && !p.closed {
		p.change.Wait()
	}
	return !p.closed
}

func (p *Proxy) upstream(client, server net.Conn, answers *sync.Mutex) {
	buf := make([]byte, 32<<10)
	for {
		n, err := client.Read(buf)
		if !p.pass(client) || err != nil {
			return
		}
		if answer := p.refused(buf[:n]); answer != nil {
			answers.Lock()
			_, err = client.Write(answer)
			answers.Unlock()
		} else {
			_, err = server.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// refused gives the answer to a simple query that is to be refused. Whoever sends one
// waits for the answer, so it comes alone.
func (p *Proxy) refused(text []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse == "" || len(text) < 5 || text[0] != 'Q' || !bytes.HasPrefix(bytes.ToLower(text[5:]), []byte(strings.ToLower(p.refuse))) {
		return nil
	}
	return p.answer
}

// downstream passes on message by message: a type and a length that counts itself.
func (p *Proxy) downstream(client, server net.Conn, answers *sync.Mutex) {
	head := make([]byte, 5)
	for {
		_, err := io.ReadFull(server, head)
		var body []byte
		if err == nil {
			body = make([]byte, binary.BigEndian.Uint32(head[1:])-4)
			_, err = io.ReadFull(server, body)
		}
		if !p.pass(server) || err != nil {
			return
		}
		p.mu.Lock()
		swallow := p.deaf && head[0] == 'A'
		p.mu.Unlock()
		if swallow {
			continue
		}
		if !p.slowly(len(body), head[0] == 'Z') {
			return
		}
		answers.Lock()
		_, err = client.Write(append(head[:5:5], body...))
		answers.Unlock()
		if err != nil {
			return
		}
	}
}

// slowly takes the time that n bytes need; the delay is taken once an answer, at its end.
func (p *Proxy) slowly(n int, end bool) bool {
	p.mu.Lock()
	var d time.Duration
	if end {
		d = p.delay
	}
	if p.rate > 0 {
		d += time.Duration(n) * time.Second / time.Duration(p.rate)
	}
	p.mu.Unlock()
	if d == 0 {
		return true
	}
	select {
	case <-p.done:
		return false
	case <-time.After(d):
		return true
	}
}
