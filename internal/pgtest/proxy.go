package pgtest

import (
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Proxy stands between a client and Postgres and makes their connection fail in the ways
// that no error tells of.
type Proxy struct {
	URL string // leads through the proxy

	target string

	mu     sync.Mutex
	change *sync.Cond // of what follows; uses mu
	conns  map[net.Conn]bool
	frozen map[net.Conn]bool
	deaf   bool
	closed bool
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
	p := &Proxy{target: u.Host, conns: map[net.Conn]bool{}, frozen: map[net.Conn]bool{}}
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
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		p.frozen[c] = true
	}
}

func (p *Proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	if p.closed {
		client.Close()
		server.Close()
	}
	p.mu.Unlock()
	var copying sync.WaitGroup
	copying.Go(func() {
		p.upstream(client, server)
		server.Close()
	})
	p.downstream(client, server)
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

func (p *Proxy) upstream(client, server net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := client.Read(buf)
		if !p.pass(client) || err != nil {
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// downstream passes on message by message: a type and a length that counts itself.
func (p *Proxy) downstream(client, server net.Conn) {
	head := make([]byte, 5)
	for {
		_, err := io.ReadFull(server, head)
		var body []byte
		if err == nil {
			body = make([]byte, binary.BigEndian.Uint32(head[1:])-4)
			_, err = io.ReadFull(server, body)
		}
		if !p.pass(client) || err != nil {
			return
		}
		p.mu.Lock()
		swallow := p.deaf && head[0] == 'A'
		p.mu.Unlock()
		if swallow {
			continue
		}
		if _, err := client.Write(append(head[:5:5], body...)); err != nil {
			return
		}
	}
}
