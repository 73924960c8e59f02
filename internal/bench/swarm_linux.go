package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// swarm is many WebSocket clients in one goroutine, on one epoll: they take as little of
// the machine that they share with the server as clients can.
type swarm struct {
	epoll   int
	socks   []sock
	buf     []byte // of all reads
	events  []syscall.EpollEvent
	request []byte // the handshake's
	addr    syscall.SockaddrInet4
	began   time.Time

	opened    int // sockets
	ready     int // that are subscribed
	finished  int // that have all they want
	record    bool
	arrivals  []arrival    // while record is on
	delivered atomic.Int64 // events; also read by who publishes
	lost      int64
	doubled   int64
}

// arrival is an event at a client.
type arrival struct {
	seq int64
	at  time.Duration // since began
}

// sock is one client.
type sock struct {
	fd         int
	state      sockState
	topic      string
	after      int64 // the last seq seen; -1: not known yet
	id         pgcast.ID
	want       int64 // done when after is here; 0: never
	rest       []byte
	asked, had time.Duration // when it subscribed, and when it had what it wanted
}

type sockState byte

const (
	sockNew sockState = iota
	sockConnecting
	sockShaking
	sockSubscribing
	sockReady
)

const (
	opText = 1
	opPing = 9
	opPong = 10
)

func newSwarm(addr string) (*swarm, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	if !at.Addr().Is4() {
		return nil, fmt.Errorf("the load connects over IPv4, not to %s", addr)
	}
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	return &swarm{epoll: fd, began: time.Now(), buf: make([]byte, 256<<10), events: make([]syscall.EpollEvent, 256),
		addr: syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()},
		request: []byte("GET /ws HTTP/1.1\r\nHost: " + addr + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")}, nil
}

// close closes all connections; a nil swarm has none.
func (s *swarm) close() {
	if s == nil {
		return
	}
	for i := range s.socks {
		if s.socks[i].state != sockNew {
			_ = syscall.Close(s.socks[i].fd)
		}
	}
	_ = syscall.Close(s.epoll)
	s.socks = nil
}

func (s *swarm) now() time.Duration { return time.Since(s.began) }

// open begins a connection.
func (s *swarm) open(i int) error {
	k := &s.socks[i]
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket %d: %w", i, err)
	}
	k.fd, k.state = fd, sockConnecting
	s.opened++
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
		return err
	}
	if err := syscall.Connect(fd, &s.addr); err != nil && !errors.Is(err, syscall.EINPROGRESS) {
		return fmt.Errorf("connect client %d: %w", i, err)
	}
	return syscall.EpollCtl(s.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLOUT, Fd: int32(i)})
}

// until runs the clients until the condition holds, and complains when that takes too
// long.
func (s *swarm) until(ctx context.Context, limit time.Duration, is func() bool) error {
	end := time.Now().Add(limit)
	for !is() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d clients are subscribed, %d have all they want, %d events delivered: no more within %v",
				s.ready, len(s.socks), s.finished, s.delivered.Load(), limit)
		}
		if err := s.turn(10); err != nil {
			return err
		}
	}
	return nil
}

// during runs the clients while publish publishes, and then until done.
func (s *swarm) during(ctx context.Context, limit time.Duration, publish func(context.Context) error, done func() bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- publish(ctx) }()
	var failed error
	over := false
	err := s.until(ctx, limit, func() bool {
		select {
		case failed = <-result:
			over = true
		default:
		}
		return failed != nil || over && done()
	})
	if !over {
		cancel()
		<-result // it uses what the caller is about to close
	}
	return errors.Join(failed, err)
}

// turn handles what has come, waiting for something at most so many milliseconds.
func (s *swarm) turn(wait int) error {
	n, err := syscall.EpollWait(s.epoll, s.events, wait)
	if err != nil {
		if errors.Is(err, syscall.EINTR) {
			return nil
		}
		return fmt.Errorf("wait for events: %w", err)
	}
	for _, e := range s.events[:n] {
		k := &s.socks[e.Fd]
		if k.state == sockConnecting {
			err = s.connected(k, e.Fd)
		} else {
			err = s.readable(k)
		}
		if err != nil {
			return fmt.Errorf("client %d: %w", e.Fd, err)
		}
	}
	return nil
}

func (s *swarm) connected(k *sock, index int32) error {
	if code, err := syscall.GetsockoptInt(k.fd, syscall.SOL_SOCKET, syscall.SO_ERROR); err != nil || code != 0 {
		return fmt.Errorf("connect: %w", errors.Join(err, syscall.Errno(code)))
	}
	k.state = sockShaking
	if err := s.send(k, s.request); err != nil {
		return err
	}
	return syscall.EpollCtl(s.epoll, syscall.EPOLL_CTL_MOD, k.fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: index})
}

// send writes a few bytes, for which a socket has always room here.
func (s *swarm) send(k *sock, p []byte) error {
	n, err := syscall.Write(k.fd, p)
	if err == nil && n < len(p) {
		err = errors.New("short write")
	}
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

func (s *swarm) readable(k *sock) error {
	b := s.buf
	had := copy(b, k.rest)
	n, err := syscall.Read(k.fd, b[had:])
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("read: %w", err)
	case n == 0:
		return errors.New("the server has closed the connection")
	}
	b = b[:had+n]
	if k.state == sockShaking {
		end := bytes.Index(b, []byte("\r\n\r\n"))
		if end < 0 {
			k.rest = append(k.rest[:0], b...)
			return nil
		}
		if !bytes.HasPrefix(b, []byte("HTTP/1.1 101 ")) {
			return fmt.Errorf("handshake: %.100q", b)
		}
		b = b[end+4:]
		k.state, k.asked = sockSubscribing, s.now()
		if err := s.send(k, appendClientFrame(nil, opText, k.subscribe())); err != nil {
			return err
		}
	}
	at := s.now()
	for {
		op, payload, size := cutFrame(b)
		if size == 0 {
			break
		}
		b = b[size:]
		if err := s.frame(k, op, payload, at); err != nil {
			return err
		}
	}
	if k.rest = append(k.rest[:0], b...); len(k.rest) == 0 {
		k.rest = nil // an idle client keeps nothing
	}
	return nil
}

// subscribe is the text of its request.
func (k *sock) subscribe() []byte {
	f := &wire.Frame{Type: wire.Subscribe, Topic: k.topic, Ref: []byte("1"), ID: k.id}
	if k.after >= 0 {
		f.After = &k.after
	}
	return wire.AppendFrame(nil, f)
}

func (s *swarm) frame(k *sock, op byte, payload []byte, at time.Duration) error {
	switch op {
	case opText:
	case opPing:
		return s.send(k, appendClientFrame(nil, opPong, payload))
	default:
		return fmt.Errorf("frame with opcode %d: %.100q", op, payload)
	}
	if control, ok := controlOf(payload); ok {
		switch {
		case bytes.HasPrefix(control, welcomeIs), bytes.HasPrefix(control, hbIs):
		case bytes.HasPrefix(control, subscribedIs):
			seq, err := seqOf(payload)
			if err != nil {
				return err
			}
			if k.after >= 0 && seq != k.after {
				return fmt.Errorf("subscribed after %d, not after %d", seq, k.after)
			}
			k.after, k.state = seq, sockReady
			s.ready++
		default:
			return fmt.Errorf("told %.200q", payload)
		}
		return nil
	}
	seq, err := seqOf(payload)
	if err != nil {
		return err
	}
	switch {
	case seq <= k.after:
		s.doubled++
		return nil
	case seq > k.after+1:
		s.lost += seq - k.after - 1
	}
	k.after = seq
	s.delivered.Add(1)
	if s.record {
		s.arrivals = append(s.arrivals, arrival{seq, at})
	}
	if k.want > 0 && k.after >= k.want && k.had == 0 {
		k.had = at
		s.finished++
	}
	return nil
}

func (s *swarm) seen() seen { return seen{s.delivered.Load(), s.lost, s.doubled} }
